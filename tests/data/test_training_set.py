"""A data set is read before training starts, so that what is wrong with it is told then, and not when it ends."""

from __future__ import annotations

import re
import shutil

import numpy as np
import pytest
import yaml
from palyno.data.annotations import LabelledImage
from palyno.data.annotations.yolo import find_splits
from palyno.data.training_set import read_split_lists, read_training_set, training_document, write_training_set
from palyno.errors import InputError
from PIL import Image

LABELS = {"train/a": "0 0.5 0.5 0.2 0.1\n1 0.25 0.25 0.1 0.1\n", "train/b": "", "val/c": "1 0.5 0.5 0.5 0.5\n"}


def write(folder, *, change=None, **config):
    """Three pictures of 200 x 100 px in two splits; `change` replaces labels, None leaves their file out."""
    for name, text in {**LABELS, **(change or {})}.items():
        picture, labels = folder / "images" / f"{name}.png", folder / "labels" / f"{name}.txt"
        for path in (picture, labels):
            path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (200, 100)).save(picture)
        if text is not None:
            labels.write_text(text)
    content = {"train": "images/train", "val": "images/val", "names": ["Alnus", "Betula"], **config}
    (folder / "data.yaml").write_text(yaml.safe_dump({k: v for k, v in content.items() if v is not None}))
    return folder / "data.yaml"


def test_a_data_set_is_read_whole(tmp_path):
    found = read_training_set(write(tmp_path))
    assert found.classes == ("Alnus", "Betula")
    assert [len(image) for image in found.train] == [2, 0] and [len(image) for image in found.val] == [1]


@pytest.mark.parametrize("path", ["/home/someone/scenes", "."])
def test_a_data_set_that_was_moved_is_found_beside_its_data_yaml(path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.move(str(write(tmp_path / "here", path=path).parent), tmp_path / "there")
    data = tmp_path / "there" / "data.yaml"
    assert len(read_training_set(data).train) == 2
    assert training_document(data)["train"] == [str((tmp_path / "there/images/train").resolve())]


def test_the_largest_grain_is_of_pixels_and_not_of_shares(tmp_path):
    # The first is 40 x 10 px on a picture 200 px wide, in the fourth of it that the network sees at 50 px.
    assert read_training_set(write(tmp_path, change={"train/a": LABELS["train/a"][:18]})).largest_grain(50) == 10
    tall = write(tmp_path / "tall", change={"train/a": "0 0.5 0.5 0.1 0.8\n"})
    assert read_training_set(tall).largest_grain(200) == 80


def test_pictures_that_training_scales_are_told_with_what_shows_grains_at_their_size_again(tmp_path):
    data = read_training_set(write(tmp_path))  # pictures 200 px wide
    assert data.scaling(200) is None and data.scaling(224) is None
    shrunk, enlarged = data.scaling(64), data.scaling(640)
    assert "3.1 times as large" in shrunk and "0.31 times as large" in enlarged
    for side, told in ((64, shrunk), (640, enlarged)):
        imgsz, tile = (int(re.search(f"{word} ([0-9]+)", told)[1]) for word in ("--imgsz", "--tile"))
        assert imgsz % 32 == 0 and data.scaling(imgsz) is None
        # Detection scales a tile to imgsz: then by as much as training did.
        assert tile == 200 and f"--tile 200 --imgsz {side}" in told


def test_an_outline_and_an_empty_line_are_no_fault(tmp_path):
    found = read_training_set(write(tmp_path, change={"train/a": "\n0 0.1 0.2 0.3 0.2 0.2 0.4\n\n"}))
    assert found.train[0].boxes.tolist() == [[20, 20, 60, 40]] and found.largest_grain(100) == 20


def test_ultralytics_takes_the_document_and_is_given_nothing_to_run(tmp_path):
    from ultralytics.data.utils import check_det_dataset

    data = write(tmp_path, download="import os; os.mkdir('run-by-data-yaml')")
    document = training_document(data)
    theirs = check_det_dataset(str(data), autodownload=False)
    assert "download" in theirs and "download" not in document
    assert document["names"] == theirs["names"] and document["nc"] == theirs["nc"]
    assert document["train"] == [theirs["train"]] and document["channels"] == theirs["channels"]


@pytest.mark.parametrize(
    ("change", "config", "says"),
    [
        ({"train/a": "7 0.5 0.5 0.2 0.1\n"}, {}, r"labels/train/a\.txt:1: expected a class below 2.*'7 0\.5"),
        ({"val/c": "1 0.5 0.5 0.5\n"}, {}, r"labels/val/c\.txt:1: expected"),
        ({"train/a": "1 0.5 0.5 0.2 0.1 0.9\n"}, {}, r"labels/train/a\.txt: expected five numbers.*--to yolo"),
        ({"train/a": None, "train/b": None}, {}, r"train: expected boxes.*found none; labels.*labels/train/a\.txt"),
        ({"val/c": ""}, {}, r"val: expected boxes.*found none"),
        ({}, {"val": None}, "expected the keys names, train and val"),
        ({}, {"names": []}, "expected the keys names, train and val"),
        ({}, {"names": ["Alnus", "Alnus"]}, "names: expected different classes, got 'Alnus' twice"),
        ({}, {"val": "images/test"}, r"val: expected a folder.*images/test, which is not there"),
    ],
)
def test_what_training_would_stumble_over_is_told_with_its_place(change, config, says, tmp_path):
    with pytest.raises(InputError, match=says):
        read_training_set(write(tmp_path, change=change, **config))


def test_broken_and_missing_files_are_named(tmp_path):
    data = write(tmp_path)
    with pytest.raises(InputError, match="there is no such file"):
        read_training_set(tmp_path / "other.yaml")
    picture = tmp_path / "images/train/a.png"
    picture.write_bytes(picture.read_bytes()[:60])
    with pytest.raises(InputError, match=r"images/train/a\.png"):
        read_training_set(data)
    # Header and end are whole, but not the pixels.
    Image.effect_noise((64, 64), 50).save(picture)
    data_of_it = bytearray(picture.read_bytes())
    data_of_it[len(data_of_it) // 2] ^= 255
    picture.write_bytes(data_of_it)
    with pytest.raises(InputError, match=r"images/train/a\.png: expected a picture, but it cannot be decoded"):
        read_training_set(data)
    for picture in (tmp_path / "images" / "train").iterdir():
        picture.unlink()
    with pytest.raises(InputError, match=r"train: expected pictures in .*images/train, found none"):
        read_training_set(data)
    data.write_text("names: [a\n")
    with pytest.raises(InputError, match=r"data\.yaml:2: expected YAML"):
        read_training_set(data)


def test_splits_can_be_several_folders_and_lists(tmp_path):
    data = write(tmp_path, train=["images/train", "more.txt"])
    (tmp_path / "more.txt").write_text("./images/val/c.png\n")
    assert find_splits(data)["train"] == [tmp_path / "images/train", tmp_path / "more.txt"]
    assert [image.image for image in read_training_set(data).train] == [
        "images/train/a.png",
        "images/train/b.png",
        "images/val/c.png",
    ]


def labelled(name, x):
    return LabelledImage(name, 200, 100, np.array([[x, 10, x + 20, 30]], np.float32), ("Alnus",))


def listed(folder, train, val):
    folder.mkdir()
    (folder / "train.txt").write_text(train)
    (folder / "val.txt").write_text(val)
    return read_split_lists(folder)


def test_lists_name_pictures_with_spaces_and_dots_by_name_or_stem(tmp_path):
    names = ("slide 1.jpg", "12.03.jpg", "12.04.jpg")
    for i, name in enumerate(names):
        (tmp_path / name).write_bytes(bytes([i]))
    lists = listed(tmp_path / "lists", "slide 1\n12.03\n", "fields/12.04.jpg\r\n\n")
    images = [labelled(f"fields/{name}", 10 * i) for i, name in enumerate(names)]
    assert write_training_set(images, tmp_path, lists, tmp_path / "out") == {"train": 2, "val": 1}
    for i, (split, name) in enumerate(zip(("train", "train", "val"), names, strict=True)):
        assert (tmp_path / "out/images" / split / name).read_bytes() == bytes([i])
        text = (tmp_path / "out/labels" / split / f"{name.removesuffix('.jpg')}.txt").read_text()
        assert float(text.split()[1]) == (10 * i + 10) / 200


@pytest.mark.parametrize(
    ("names", "val", "says"),
    [
        (("monday/a.jpg", "tuesday/a.jpg", "b.jpg"), "b", "got monday/a.jpg and tuesday/a.jpg"),
        (("a.jpg", "b.jpg"), "a.jpg", "val: expected every picture in one list once, a.jpg is listed twice"),
        (("a.jpg", "b.jpg"), "c", "val: expected labels for each picture in the list, c has none"),
        (("a.jpg", "c.jpg"), "c", "c.jpg: there are labels for this picture, but no picture"),
    ],
)
def test_a_picture_gets_no_labels_of_another_and_is_in_one_split(names, val, says, tmp_path):
    for name in ("a.jpg", "b.jpg"):
        (tmp_path / name).touch()
    lists = listed(tmp_path / "lists", "a\n", val)
    with pytest.raises(InputError, match=says):
        write_training_set([labelled(name, 0) for name in names], tmp_path, lists, tmp_path / "out")
    assert not (tmp_path / "out").exists()
