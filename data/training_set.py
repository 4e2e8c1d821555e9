"""A data set that detectors train on: read and checked, or made of labelled pictures and the lists that divide them."""

from __future__ import annotations

import math
import shutil
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import InputError, UsageError
from .annotations import LabelledImage
from .annotations.reading import read_text
from .annotations.yolo import (
    find_root,
    find_splits,
    label_lines,
    labels_of,
    read_classes,
    read_yolo,
    write_config,
)

__all__ = ["TrainingSet", "read_split_lists", "read_training_set", "training_document", "write_training_set"]

SPLITS = ("train", "val", "test")


@dataclass(frozen=True)
class TrainingSet:
    """A YOLO data set that can be trained on: every label was read, every picture is there.

    Attributes:
        classes: Its classes in the order of their numbers.
        train: The images to train on, with their boxes.
        val: Those to choose the best weights with.
    """

    classes: tuple[str, ...]
    train: tuple[LabelledImage, ...]
    val: tuple[LabelledImage, ...]

    def largest_grain(self, side: int) -> int:
        """The longer side that nine in ten training boxes do not exceed, where an image's own longer side is `side`.

        Tiles overlap by this much at first; a slide with larger grains is read again with more.
        """
        sides = np.concatenate(
            [(i.boxes[:, 2:] - i.boxes[:, :2]).max(1) * (side / max(i.width, i.height)) for i in self.train if len(i)]
        )
        return math.ceil(np.sort(sides)[int(0.9 * (len(sides) - 1))])

    def scaling(self, side: int) -> str | None:
        """What to say where training at `side` shows grains at another size than slides do, which are not scaled."""
        longest = int(np.median([max(image.width, image.height) for image in self.train]))
        if 0.8 <= longest / side <= 1.25:
            return None
        fitting = max(32, math.ceil(longest / 32) * 32)
        return (
            f"pictures of {longest} px are scaled to {side} px to train on, but slides are read as they are: grains "
            f"are {longest / side:.2g} times as large there, and may be missed. Train with --imgsz {fitting}, or on "
            f"pictures cut to {side} px; or give palyno val and detect --tile {longest} --imgsz {side}"
        )


def read_training_set(data: Path) -> TrainingSet:
    """Reads all of a data set, so that no training is lost to what is wrong with it.

    Args:
        data: Its `data.yaml`. Where the `path` in it is not there, as on another machine, its own folder stands for it.

    Raises:
        InputError: There is no such file; a split, a picture or all labels are missing; a picture is broken, or a label
            file does not say what it should. The message names the file and the line.
    """
    if not data.is_file():
        raise InputError(f"{data}: expected the data.yaml of a YOLO data set; there is no such file")
    classes, places = read_classes(data), find_splits(data)
    if not classes or not {"train", "val"} <= places.keys():
        raise InputError(f"{data}: expected the keys names, train and val of a YOLO data set")
    if twice := sorted({name for name in classes if classes.count(name) > 1}):
        raise InputError(f"{data}: names: expected different classes, got {twice[0]!r} twice")
    images = {}
    for split in ("train", "val"):
        images[split] = tuple(read_yolo(data, split=split))
        where = ", ".join(map(str, places[split]))
        if not images[split]:
            raise InputError(f"{data}: {split}: expected pictures in {where}, found none")
        if not any(len(image) for image in images[split]):
            labels = labels_of(find_root(data) / images[split][0].image)
            raise InputError(
                f"{data}: {split}: expected boxes of grains in {where}, found none; labels are looked for in files "
                f"such as {labels}"
            )
        if predicted := [image for image in images[split] if image.confidence is not None and len(image)]:
            labels = labels_of(find_root(data) / predicted[0].image)
            raise InputError(
                f"{labels}: expected five numbers a line, got the confidence of predictions as a sixth; where they are "
                "right, write labels without it, as palyno convert --to yolo does"
            )
    root = find_root(data)
    files = [root / image.image for split in images.values() for image in split]
    with ThreadPoolExecutor(8) as pool:
        for file, whole in zip(files, pool.map(_decodes, files), strict=True):
            if not whole:
                raise InputError(f"{file}: expected a picture, but it cannot be decoded; mend or remove it")
    return TrainingSet(tuple(classes), images["train"], images["val"])


def _decodes(file: Path) -> bool:
    """Whether the trainer can read a picture's pixels; those that are compressed in blocks are not put together."""
    import cv2

    try:
        return cv2.imdecode(np.fromfile(file, np.uint8), cv2.IMREAD_REDUCED_COLOR_8) is not None
    except (OSError, cv2.error):
        return False


def training_document(data: Path) -> dict[str, Any]:
    """A data.yaml as ultralytics' trainer takes it, with its pictures where they are found now.

    `download` is not in it, which ultralytics would run as a program.
    """
    classes, places = read_classes(data), find_splits(data)
    # Links are not followed: labels lie beside the link, not where it leads.
    folders = {split: [str(place.absolute()) for place in places[split]] for split in ("train", "val")}
    root = str(find_root(data).absolute())
    return {"path": root, **folders, "names": dict(enumerate(classes)), "nc": len(classes), "channels": 3}


def read_split_lists(folder: Path) -> dict[str, list[str]]:
    """`train.txt`, `val.txt` and, if it is there, `test.txt`: a picture's name or stem a line, as Pascal VOC has them.

    Raises:
        InputError: Lists are missing.
    """
    lists = {
        split: [line.strip() for line in read_text(folder / f"{split}.txt").splitlines() if line.strip()]
        for split in SPLITS
        if (folder / f"{split}.txt").is_file()
    }
    if missing := [f"{split}.txt" for split in SPLITS[:2] if not lists.get(split)]:
        raise InputError(f"{folder}: expected lists of pictures for training and validation; {missing[0]} is missing")
    return lists


def write_training_set(
    images: Sequence[LabelledImage],
    pictures: Path,
    splits: Mapping[str, Sequence[str]],
    out: Path,
) -> dict[str, int]:
    """Writes `images/SPLIT`, `labels/SPLIT` and `data.yaml` in YOLO's layout; pictures are copied.

    Args:
        images: The labelled images; those that no list names are left out.
        pictures: Folder of the pictures.
        splits: Names or stems of the images of each split.
        out: New or empty folder.

    Returns:
        Images in each split.

    Raises:
        UsageError: `out` holds files.
        InputError: A list names an image without labels, a picture is missing, listed twice, or has labels twice.
    """
    if out.exists() and any(out.iterdir()):
        raise UsageError(f"{out}: expected a new or empty folder; it holds files")
    labelled: dict[str, LabelledImage] = {}
    for image in images:
        # By its stem, too, which may have a dot itself.
        for name in {_name(image.image), Path(_name(image.image)).stem}:
            if labelled.setdefault(name, image) is not image:
                raise InputError(
                    f"expected pictures of different names, got {labelled[name].image} and {image.image}; rename one"
                )
    classes = sorted({label for image in images for label in image.labels})
    copies: dict[str, tuple[str, Path, LabelledImage]] = {}
    for split, names in splits.items():
        for name in names:
            found = labelled.get(_name(name))
            if found is None:
                raise InputError(f"{split}: expected labels for each picture in the list, {name} has none")
            source = pictures / _name(found.image)
            if not source.is_file():
                raise InputError(f"{source}: there are labels for this picture, but no picture")
            if found.image in copies:
                raise InputError(f"{split}: expected every picture in one list once, {name} is listed twice")
            copies[found.image] = split, source, found
    for split in splits:
        for kind in ("images", "labels"):
            (out / kind / split).mkdir(parents=True)
    for split, source, image in copies.values():
        shutil.copyfile(source, out / "images" / split / source.name)
        (out / "labels" / split / f"{source.stem}.txt").write_text(label_lines(image, classes), encoding="utf-8")
    write_config(out, splits, classes)
    return {split: len(names) for split, names in splits.items()}


def _name(path: str) -> str:
    """The last part of a path of any system."""
    return path.replace("\\", "/").rsplit("/", 1)[-1]
