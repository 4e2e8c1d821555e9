"""Fields that are decoded once: the pixels and windows of reading them anew, one file a picture."""

from __future__ import annotations

import shutil

import cv2
import numpy as np
import pytest
from palyno.data.backgrounds import clean_windows
from palyno.data.compose import Recipe
from palyno.data.compose.crew import Crew
from palyno.data.compose.fields import background, keep_fields
from palyno.data.references import read_fields
from palyno.errors import InputError


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Four fields: two with a marked disc, one whose disc nobody marked, one empty."""
    folder = tmp_path_factory.mktemp("fields")
    (folder / "images").mkdir()
    (folder / "labels").mkdir()
    rng = np.random.default_rng(1)
    for name, disc, marked in (("a", 1, 1), ("b", 1, 1), ("c", 1, 0), ("d", 0, 0)):
        picture = rng.integers(228, 233, (420, 640, 3), np.uint8)
        if disc:
            cv2.circle(picture, (200, 150), 40, (70, 90, 140), -1)
        cv2.imwrite(str(folder / "images" / f"{name}.png"), picture)
        (folder / "labels" / f"{name}.txt").write_text(f"0 {200 / 640} {150 / 420} 0.126 0.19\n" * marked)
    (folder / "splits.csv").write_text("file,split\na.png,train\nb.png,test\nd.png,background\n")
    return folder


@pytest.fixture
def kept(folder, tmp_path):
    made = Recipe(folder, fields=(folder,), labelled_fields=folder, field_splits=folder / "splits.csv")
    with Crew(1, tmp_path) as crew:
        return keep_fields(made, tmp_path / "kept", crew)


def test_pixels_and_windows_are_those_of_a_field_read_anew(folder, kept):
    lending, _ = kept
    anew = {one.name: one for one in read_fields(folder, all_marked=False)}
    assert [one.name for one in lending] == ["a.png", "c.png", "d.png"]  # Test fields lend no background.
    for one in lending:
        opened = one.open()
        np.testing.assert_array_equal(opened.picture, anew[one.name].picture)
        assert not opened.picture.flags.owndata and not opened.picture.flags.writeable
        expected = {side: clean_windows(anew[one.name], side, side // 4) for side in (96, 160, 320, 640)}
        assert [side for side, _ in one.windows] == [side for side, corners in expected.items() if len(corners)]
        for side, corners in one.windows:
            np.testing.assert_array_equal(corners, expected[side])
    assert 0 < len(lending[1].windows[0][1]) < len(lending[2].windows[0][1])


@pytest.mark.parametrize(
    ("name", "text", "says"),
    [
        ("splits.csv", "file,split\nb,test\n", "expected files of .*, got b, which is none of them"),
        ("splits.csv", "file;split\nb.png;test\n", "row 1: expected the columns file, split; missing: file, split"),
        ("splits.csv", "file,split\nb.png\n", "row 1: .*missing: split"),
        ("images/b.jpg", "", "labels/b.txt is of both b.jpg and b.png"),
    ],
)
def test_a_field_does_not_come_into_another_split_than_was_meant_for_it(name, text, says, folder, tmp_path):
    mine = shutil.copytree(folder, tmp_path / "mine")
    (mine / name).write_text(text)
    made = Recipe(mine, fields=(mine,), labelled_fields=mine, field_splits=mine / "splits.csv")
    with Crew(1, tmp_path) as crew, pytest.raises(InputError, match=says):
        keep_fields(made, tmp_path / "kept", crew)


def test_a_picture_that_lends_and_is_labelled_is_kept_once(kept, tmp_path):
    lending, labelled = kept
    assert {split: [one.name for one in own] for split, own in labelled.items()} == {
        "train": ["a.png"],
        "test": ["b.png"],
    }
    assert labelled["train"][0].stored == lending[0].stored
    assert len(list((tmp_path / "kept").iterdir())) == 4


def test_a_real_background_is_the_window_that_its_name_tells(kept):
    lending, _ = kept
    pictures = {one.name: one.open().picture for one in lending}
    for seed in range(20):
        light, told = background(np.random.default_rng(seed), lending, 96)
        if light is None:
            assert told == "synthetic"
            continue
        name, place = told.split("@")
        x, y, side = map(int, place.split(","))
        assert light.shape == (96, 96, 3)
        if side == 96:
            np.testing.assert_array_equal(light, pictures[name][y : y + 96, x : x + 96])
