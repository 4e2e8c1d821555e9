"""A data set that detectors train on, from labelled pictures and the lists that divide them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

from ..errors import InputError, UsageError
from .annotations import LabelledImage
from .annotations.yolo import label_lines
from .atomic import write_text

__all__ = ["read_split_lists", "write_training_set"]

SPLITS = ("train", "val", "test")


def read_split_lists(folder: Path) -> dict[str, list[str]]:
    """`train.txt`, `val.txt` and, if it is there, `test.txt`: a picture's name or stem a line, as Pascal VOC has them.

    Raises:
        InputError: Lists are missing, or a picture is in two of them.
    """
    lists = {
        split: (folder / f"{split}.txt").read_text(encoding="utf-8").split()
        for split in SPLITS
        if (folder / f"{split}.txt").is_file()
    }
    if missing := [f"{split}.txt" for split in SPLITS[:2] if not lists.get(split)]:
        raise InputError(f"{folder}: expected lists of pictures for training and validation; {missing[0]} is missing")
    stems = [Path(name).stem for names in lists.values() for name in names]
    if twice := sorted({stem for stem in stems if stems.count(stem) > 1}):
        raise InputError(f"{folder}: expected every picture in one list, {twice[0]} is listed twice")
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
        InputError: A list names an image without labels, or a picture is missing.
    """
    if out.exists() and any(out.iterdir()):
        raise UsageError(f"{out}: expected a new or empty folder; it holds files")
    labelled = {Path(image.image).stem: image for image in images}
    classes = sorted({label for image in images for label in image.labels})
    for split, names in splits.items():
        for kind in ("images", "labels"):
            (out / kind / split).mkdir(parents=True)
        for name in names:
            stem = Path(name).stem
            if stem not in labelled:
                raise InputError(f"{split}: expected labels for each picture in the list, {name} has none")
            source = pictures / Path(labelled[stem].image).name
            if not source.is_file():
                raise InputError(f"{source}: there are labels for this picture, but no picture")
            shutil.copyfile(source, out / "images" / split / source.name)
            (out / "labels" / split / f"{stem}.txt").write_text(label_lines(labelled[stem], classes), encoding="utf-8")
    lines = [f"path: {out.resolve()}", *(f"{split}: images/{split}" for split in splits), "names:"]
    lines += [f"  {i}: {json.dumps(name, ensure_ascii=False)}" for i, name in enumerate(classes)]
    write_text(out / "data.yaml", "\n".join(lines) + "\n")
    return {split: len(names) for split, names in splits.items()}
