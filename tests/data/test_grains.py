"""Cutting a grain out of its picture, against grains whose outline and transmission are known."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from palyno.data.grains import corner_background, cut_grain, trace_mask
from palyno.errors import InputError

PICTURES = Path(__file__).parent / "pictures" / "pollen73s"


def drawn_grain(axes=(70, 50), density=0.6, rim=0.5, lamp=(225, 230, 240), vignette=0.15, angle=30.0):
    """A grain on uneven light: picture, true mask, true transmission, true background."""
    height, width = 200, 240
    y, x = np.mgrid[:height, :width].astype(np.float32)
    light = 1 - vignette * (((x - 120) / 240) + ((y - 100) / 200)) / 2
    background = light[..., None] * np.array(lamp, np.float32)
    mask = np.zeros((height, width), np.uint8)
    cv2.ellipse(mask, (120, 100), axes, angle, 0, 360, 1, -1)
    depth = cv2.distanceTransform(mask, cv2.DIST_L2, 5)
    thickness = (density * (mask > 0) + rim * ((depth > 0) & (depth < 5)))[..., None] * np.array([0.5, 1.0, 0.8])
    transmission = np.exp(-cv2.GaussianBlur(thickness.astype(np.float32), (0, 0), 0.8))
    noise = np.random.default_rng(0).normal(0, 1.5, background.shape)
    return np.clip(background * transmission + noise, 0, 255).astype(np.uint8), mask > 0, transmission, background


def iou(a, b):
    return (a & b).sum() / (a | b).sum()


@pytest.mark.parametrize(
    ("density", "rim"),
    [(0.6, 0.5), (1.8, 0.0), (0.08, 0.5), (0.0, 0.8)],  # stained, dark, pale, as bright inside as outside
)
def test_outline_is_found_to_a_few_pixels(density, rim):
    picture, mask, _, _ = drawn_grain(density=density, rim=rim)
    light = picture.astype(np.float32) + 1
    assert iou(trace_mask(light / corner_background(light)), mask) > 0.93


def test_background_is_recovered_under_the_grain():
    picture, _, _, background = drawn_grain(lamp=(180, 185, 190), vignette=0.2)
    found = corner_background(picture.astype(np.float32))
    assert np.abs(found - background).max() / background.max() < 0.03


def test_transmission_is_recovered_and_is_one_outside():
    picture, mask, transmission, _ = drawn_grain()
    cut = cut_grain(picture)
    x1, y1, x2, y2 = cut.extent
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    true = transmission[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    got = cv2.resize(cut.transmission[y1:y2, x1:x2], true.shape[1::-1])
    assert np.abs(got - true).mean() < 0.03
    edge = cut.transmission
    border = np.concatenate([edge[0], edge[-1], edge[:, 0], edge[:, -1]])
    np.testing.assert_allclose(border, 1.0, atol=1e-6)


def test_debris_in_one_corner_does_not_tilt_the_background():
    picture, _, _, background = drawn_grain(vignette=0.0)
    picture[:30, :30] = 60
    found = corner_background(picture.astype(np.float32))
    assert np.abs(found - background).max() / background.max() < 0.05


def test_the_whole_grain_is_kept_when_the_lamp_is_blue_or_yellow():
    for lamp in ((150, 170, 255), (255, 230, 150)):
        picture, mask, _, _ = drawn_grain(lamp=lamp)
        cut = cut_grain(picture)
        assert abs((cut.mask > 0.5).sum() / mask.sum() - 1) < 0.08


def test_an_empty_picture_is_refused():
    empty = np.full((120, 120, 3), 220, np.uint8) + np.random.default_rng(1).integers(0, 3, (120, 120, 3), np.uint8)
    with pytest.raises(InputError, match="no grain stands out"):
        cut_grain(empty)


def test_every_real_reference_is_cut_whole():
    paths = sorted(PICTURES.glob("train/*/*.jpg"))
    assert len(paths) == 40
    for path in paths:
        picture = cv2.imread(str(path))[..., ::-1]
        cut = cut_grain(picture)
        share = (cut.mask > 0.5).sum() / (picture.shape[0] * picture.shape[1])
        assert 0.2 < share < 0.95, path
        assert cut.mask[cut.mask.shape[0] // 2, cut.mask.shape[1] // 2] > 0.5 or "serjania" in str(path), path
