"""Composed scenes: boxes are the grains' visible extent, light multiplies, and no border gives a grain away."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import cv2
import numpy as np
import pytest
from palyno.data.backgrounds import Field, clean_windows, synthetic_background
from palyno.data.debris import draw_debris
from palyno.data.grains import cut_grain
from palyno.data.leak import ring_leak
from palyno.data.scene import SceneSettings, compose_scene

PICTURES = Path(__file__).parent / "pictures" / "pollen73s" / "train"
SMALL = SceneSettings(size=320, grain_px=(20, 140), largest_count=25)


@cache
def cuts():
    return [
        (path.name, path.parent.name, path.parent.name, cut_grain(cv2.imread(str(path))[..., ::-1]), 128.0)
        for path in sorted(PICTURES.glob("*/*.jpg"))
    ]


def pick(rng):
    return cuts()[int(rng.integers(len(cuts())))]


def scene(seed, *, settings=SMALL, **options):
    rng = np.random.default_rng(seed)
    return compose_scene(rng, pick, None, "synthetic", settings, keep_masks=True, **options)


def test_the_same_seed_gives_the_same_scene_and_another_seed_another():
    assert np.array_equal(scene(3).picture, scene(3).picture)
    assert not np.array_equal(scene(3).picture, scene(4).picture)


@pytest.mark.parametrize("seed", range(6))
def test_each_box_is_the_extent_of_where_its_grain_shows(seed):
    composed = scene(seed)
    for grain, mask in zip(composed.grains, composed.masks, strict=True):
        rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        assert grain.box == (columns[0], rows[0], columns[-1] + 1, rows[-1] + 1)
        assert 0 <= grain.box[0] < grain.box[2] <= 320
        assert 0.35 <= grain.visible <= 1.0001


@pytest.mark.parametrize("seed", range(6))
def test_grains_change_the_picture_where_they_show_and_nowhere_far_from_it(seed):
    composed, empty = scene(seed), scene(seed, without_grains=True)
    changed = np.abs(composed.picture.astype(int) - empty.picture.astype(int)).max(2)
    shown = np.zeros(changed.shape, np.uint8)
    for mask in composed.masks:
        shown |= mask.astype(np.uint8)
    if not composed.grains:
        pytest.skip("this seed drew no grain")
    assert changed[shown > 0].mean() > 3 * max(changed[shown == 0].mean(), 0.5)


def test_grains_that_touch_keep_their_own_boxes():
    dense = [scene(seed) for seed in range(12)]
    overlaps = sum(bool((a & b).any()) for s in dense for i, a in enumerate(s.masks) for b in s.masks[:i])
    assert overlaps > 3
    assert all(len(s.masks) == len(s.grains) for s in dense)


def test_debris_is_drawn_but_never_boxed():
    rng = np.random.default_rng(0)
    drawings = [draw_debris(rng, 64) for _ in range(60)]
    assert all(d.shape == (64, 64, 3) and np.isfinite(d).all() and (d > 0).all() for d in drawings)
    assert sum(d.min() < 0.9 for d in drawings) > 50
    none = compose_scene(np.random.default_rng(5), pick, None, "", SMALL, without_grains=True, keep_masks=True)
    assert none.picture.std() > 0


def test_light_is_within_what_a_camera_gives():
    for seed in range(5):
        light = synthetic_background(np.random.default_rng(seed), 128)
        assert light.shape == (128, 128, 3)
        assert 40 < light.mean() <= 256


def test_windows_for_backgrounds_avoid_marked_grains_and_whatever_stands_out():
    picture = np.full((400, 600, 3), 230, np.uint8)
    picture += np.random.default_rng(0).integers(0, 4, picture.shape, np.uint8)
    cv2.circle(picture, (450, 200), 40, (90, 60, 120), -1)
    marked = np.array([[50, 50, 150, 150]], np.float32)
    for all_marked, sees_the_circle in ((True, False), (False, True)):
        corners = clean_windows(Field("f", picture, marked, all_marked), 100, 20)
        assert len(corners)
        for x, y in corners:
            assert not (x < 150 and x + 100 > 50 and y < 150 and y + 100 > 50)
        hits = [(x < 490 and x + 100 > 410 and y < 240 and y + 100 > 160) for x, y in corners]
        assert any(hits) is not sees_the_circle


def test_the_ring_around_a_grain_does_not_give_it_away():
    settings = SceneSettings(size=320, grain_px=(30, 110), largest_count=10)
    pairs = [(scene(s, settings=settings), scene(s, settings=settings, without_grains=True)) for s in range(50)]
    leak = ring_leak(pairs, inner=4, width=8)
    assert leak.rings > 100
    assert leak.presence_auc < 0.6
    assert leak.taxon_accuracy < leak.taxon_chance + 0.08


@pytest.mark.slow
def test_the_ring_test_can_fail():
    def bordered(s):
        true = scene(s)
        picture = true.picture.copy()
        for mask in true.masks:
            edge = cv2.dilate(mask.astype(np.uint8), np.ones((15, 15))) - cv2.dilate(
                mask.astype(np.uint8), np.ones((9, 9))
            )
            picture[edge > 0] = np.clip(picture[edge > 0].astype(int) - 12, 0, 255)
        return type(true)(picture, true.grains, true.background, true.masks)

    pairs = [(bordered(s), scene(s, without_grains=True)) for s in range(25)]
    assert ring_leak(pairs).presence_auc > 0.8


def test_another_laboratorys_stain_is_two_dyes_and_its_boxes_are_the_scenes():
    """Beer's law with one dye keeps the hue of a grey grain the same at every density; two dyes do not."""
    from palyno.data.microscope import Counterstain

    rng = np.random.default_rng(0)
    ramp = np.exp(-np.linspace(0.05, 2, 200, dtype=np.float32))[None, :, None].repeat(3, 2)
    for _ in range(5):
        stain = Counterstain(rng)
        density = -np.log(stain(ramp))[0]
        hue = density / density.sum(1, keepdims=True)
        assert np.abs(hue[0] - hue[-1]).max() > 0.2
        assert (np.diff(density.sum(1)) > 0).all()


def test_another_microscope_changes_the_light_and_little_the_place():
    from palyno.data.microscope import other_optics

    rng = np.random.default_rng(0)
    light = np.full((240, 240, 3), 200.0)
    light[100:140, 100:140] = 60
    for _ in range(5):
        seen = other_optics(rng, light)
        assert seen.shape == light.shape
        assert np.isfinite(seen).all()
        dark = seen.mean(2) < 120
        rows, columns = np.flatnonzero(dark.any(1)), np.flatnonzero(dark.any(0))
        for found in (rows, columns):
            assert abs(found[0] - 100) <= 3
            assert abs(found[-1] - 139) <= 3
