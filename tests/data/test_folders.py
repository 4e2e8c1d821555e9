"""Every file in a folder is a slide or has a reason."""

import os
from pathlib import Path

import numpy as np
import pytest
from palyno.data.slides import Skipped, find_slides
from palyno.errors import SlideError
from PIL import Image


def touch(folder, *names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"x")


def names(paths, folder):
    return [str(p.relative_to(folder)) for p in paths]


def test_folders_are_walked_in_order_whatever_the_case_of_the_suffix(tmp_path):
    touch(tmp_path, "b.TIF", "a.png", "z/c.Svs", "m/deep/d.JPEG", "m/a.webp", "m/e.ome.tiff")
    slides, skipped = find_slides([tmp_path])
    assert names(slides, tmp_path) == ["a.png", "b.TIF", "m/a.webp", "m/e.ome.tiff", "m/deep/d.JPEG", "z/c.Svs"]
    assert skipped == []
    slides, skipped = find_slides(tmp_path, recursive=False)
    assert names(slides, tmp_path) == ["a.png", "b.TIF"]
    assert [s.path.name for s in skipped] == ["m", "z"] and all("recursion is off" in s.reason for s in skipped)


def test_every_file_is_a_slide_or_is_named_with_its_reason(tmp_path):
    touch(tmp_path, "a.png", "scan.czi", "film.mov", "noext", ".hidden.png", "._a.png", "l.txt", "m.json", "n.CSV")
    (tmp_path / "dangling.png").symlink_to(tmp_path / "nothing")
    os.mkfifo(tmp_path / "pipe.png")
    slides, skipped = find_slides([tmp_path])
    assert names(slides, tmp_path) == ["a.png"]
    reasons = {s.path.name: s.reason for s in skipped}
    assert "OME-TIFF" in reasons["scan.czi"] and ".mov" in reasons["film.mov"] and "none" in reasons["noext"]
    assert reasons[".hidden.png"] == reasons["._a.png"] == "a hidden file"
    assert reasons["dangling.png"] == "a link to nothing" and reasons["pipe.png"] == "not a regular file"
    assert reasons[tmp_path.name] == "3 files beside the slides that are no images (.csv, .json, .txt)"
    assert len(reasons) == len(skipped) == 8


def test_the_order_of_the_paths_is_kept_and_duplicates_are_not(tmp_path):
    touch(tmp_path, "a.png", "b.png", "s/c.png")
    (tmp_path / "alias.png").symlink_to(tmp_path / "a.png")
    (tmp_path / "s" / "loop").symlink_to(tmp_path)
    given = [tmp_path / "b.png", str(tmp_path), tmp_path / "s" / ".." / "a.png"]
    slides, skipped = find_slides(given)
    assert names(slides, tmp_path) == ["b.png", "a.png", "s/c.png"]
    assert skipped == [Skipped(tmp_path / "s" / "loop", "a link to a folder; name it itself to read it")]


def test_a_file_that_is_named_counts_by_what_it_is(tmp_path):
    Image.fromarray(np.zeros((4, 4, 3), np.uint8)).save(tmp_path / "picture", "PNG")
    touch(tmp_path, "text.dat", "notes.txt", "broken.jpg")
    slides, skipped = find_slides([tmp_path / n for n in ("picture", "text.dat", "notes.txt", "broken.jpg")])
    assert names(slides, tmp_path) == ["picture", "broken.jpg"]
    assert [s.path.name for s in skipped] == ["text.dat", "notes.txt"]


def test_the_pieces_of_a_slide_in_several_files_are_no_slides(tmp_path):
    touch(tmp_path, "x.mrxs", "x/Data0001.dat", "x/Slidedat.ini", "y/a.png", "v_map.jpg", "v(0,1).jpg", "other.jpg")
    (tmp_path / "v.vms").write_text("[Virtual Microscope Specimen]\nMapFile=v_map.jpg\nImageFile=v(0,1).jpg\r\n")
    slides, skipped = find_slides(tmp_path)
    assert names(slides, tmp_path) == ["other.jpg", "v.vms", "x.mrxs", "y/a.png"]
    belongs = {s.path.name: s.reason for s in skipped}
    assert belongs == {
        "v(0,1).jpg": "belongs to v.vms",
        "v_map.jpg": "belongs to v.vms",
        "x": "belongs to x.mrxs",
    }


def test_nothing_is_found_in_an_empty_folder_and_a_missing_path_is_an_error(tmp_path):
    assert find_slides([tmp_path]) == ([], [])
    assert find_slides([]) == ([], [])
    for missing in (tmp_path / "no", Path("no\0pe.png")):
        with pytest.raises(SlideError, match="does not exist"):
            find_slides([tmp_path, missing])
