"""YOLO text labels: one file an image, one line a grain, coordinates as shares of the image.

A line is `class cx cy width height`, or `class x1 y1 x2 y2 x3 y3 ...` for an outline, which is read as its bounding
box; files mix the two. Other programs write the confidence of predictions as a sixth number. It is read, but not
written: ultralytics takes such labels for corrupt, and trains on none of them. `data.yaml` names the classes and says
where the images are. The labels of `images/a.jpg` are in `labels/a.txt`.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ...errors import AnnotationError, SlideError, UsageError
from ..atomic import refuse_existing, write_text
from . import LabelledImage
from .names import slide_stems
from .reading import Row, box, expecting, labelled, left_out, read_text

__all__ = [
    "find_root",
    "find_splits",
    "label_lines",
    "labels_of",
    "read_boxes",
    "read_classes",
    "read_label_file",
    "read_yolo",
    "write_config",
    "write_yolo",
]

# Shares may stick out of the image by this much, as they do when rounded or drawn by hand; more is not a share.
_SLACK = 0.01
_HOW_TO_TRAIN = """\
# Labels without pictures. To train on them, put each picture into images/ under the stem of its labels and add:
# train: images
# val: images
"""
_PLACE = "a folder of pictures, or a text file that lists them"
_PICTURES = (".bmp", ".jp2", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")


def write_yolo(
    images: Iterable[LabelledImage],
    folder: str | Path,
    *,
    categories: Sequence[str] | None = None,
    stems: Mapping[str, str] | None = None,
    provenance: Sequence[Mapping[str, Any]] = (),
    overwrite: bool = False,
) -> list[Path]:
    """Writes `labels/STEM.txt` for each image, and `data.yaml`.

    The pictures stay where they are. To train on them, put them into `images/` under the stem of their labels and say
    so in `data.yaml`, which names splits only where that folder is there already. Its `slides` say which image each
    stem stands for and its size, so that the labels can be read back without pictures.

    Args:
        images: The images.
        folder: Where the files go.
        categories: Names in the order of their numbers; None takes the names that occur, sorted.
        stems: File stem of each image; None takes those of `slide_stems`.
        provenance: Where detections come from, see `palyno.data.annotations.provenance`, for `data.yaml`.
        overwrite: Replace files that are there.

    Returns:
        The files, `data.yaml` last.

    Raises:
        UsageError: Two images have one name, a label is not in `categories`, or a file is there.
    """
    import yaml

    images, folder = list(images), Path(folder)
    if categories is None:
        categories = sorted({label for image in images for label in image.labels})
    stems = stems or slide_stems(image.image for image in images)
    paths = [folder / "labels" / f"{stems[image.image]}.txt" for image in images]
    paths.append(folder / "data.yaml")
    texts = [label_lines(image, categories) for image in images]
    slides = {stems[i.image]: {"image": i.image, "width": i.width, "height": i.height} for i in images}
    there = (folder / "images").is_dir()
    splits = {"train": "images", "val": "images"} if there else {}
    document = {**splits, "names": dict(enumerate(categories)), "slides": slides}
    if provenance:
        document["provenance"] = [dict(source) for source in provenance]
    text = yaml.safe_dump(document, allow_unicode=True, sort_keys=False, width=1000)
    texts.append(text if there else _HOW_TO_TRAIN + text)
    for path in paths:
        refuse_existing(path, overwrite=overwrite)
    for path, text in zip(paths, texts, strict=True):
        write_text(path, text, overwrite=overwrite)
    return paths


def label_lines(image: LabelledImage, categories: Sequence[str]) -> str:
    """The text of one label file, six decimals; confidences have no place in labels to train on.

    Raises:
        UsageError: A label is not in `categories`.
    """
    numbers = {name: i for i, name in enumerate(categories)}
    lines = []
    for i, (x1, y1, x2, y2) in enumerate(image.boxes.tolist()):
        if image.labels[i] not in numbers:
            raise UsageError(
                f"{image.image}: label {image.labels[i]!r} is not one of the classes: {', '.join(categories)}"
            )
        shares = [
            (x1 + x2) / 2 / image.width,
            (y1 + y2) / 2 / image.height,
            (x2 - x1) / image.width,
            (y2 - y1) / image.height,
        ]
        lines.append(f"{numbers[image.labels[i]]} " + " ".join(f"{share:.6f}" for share in shares) + "\n")
    return "".join(lines)


def read_yolo(
    source: str | Path, *, names: Sequence[str] | None = None, split: str | None = None
) -> list[LabelledImage]:
    """Reads a data set.

    Args:
        source: A `data.yaml`, a folder that holds one, or a folder of pictures with their labels.
        names: The classes, for a folder without `data.yaml`; where left out they are read from `classes.txt`,
            `obj.names` or `_darknet.labels` in it.
        split: `train`, `val` or `test` of `data.yaml`; None reads all of them.

    Returns:
        One entry an image, named by its path below the data set's folder. An image without a label file has no grains.

    Raises:
        UsageError: The data set has no such split.
        AnnotationError: A file does not say what it should; the message names the line.
    """
    source = Path(source)
    config = source / "data.yaml" if source.is_dir() else source
    if source.is_dir() and not config.exists():
        return _read_pictures(source, _find_pictures(source, source), names or _darknet_names(source))
    document = _read_config(config)
    listed = _names(document, config)
    root = _root(document, config)
    splits = _splits(document)
    if split is not None and split not in splits:
        known = f"expected one of {', '.join(splits)}" if splits else "it names none"
        raise UsageError(f"{config}: no split {split!r}: {known}")
    pictures: dict[Path, None] = {}
    for key in [split] if split else splits:
        for path in _entries(document, config, key):
            if path.exists():
                with expecting(f"{config}: {key}", _PLACE, str(path)):
                    pictures.update(dict.fromkeys(_find_pictures(path, root)))
            elif not document.get("slides"):
                raise AnnotationError(f"{config}: {key}: expected {_PLACE}, got {path}, which is not there")
    if not splits and not document.get("slides"):
        raise AnnotationError(f"{config}: expected folders of pictures under train, val or test, got none of them")
    if not pictures and document.get("slides"):
        return _read_slides(document["slides"], config, listed)
    return _read_pictures(root, list(pictures), listed)


def read_classes(config: str | Path) -> list[str]:
    """The classes of a `data.yaml` in the order of their numbers.

    Raises:
        AnnotationError: It does not say what it should.
    """
    return _names(_read_config(Path(config)), Path(config))


def find_root(config: str | Path) -> Path:
    """The folder that the pictures of a `data.yaml` are named from: its `path` where that is there, else its own.

    Raises:
        AnnotationError: It does not say what it should.
    """
    return _root(_read_config(Path(config)), Path(config))


def write_config(folder: Path, splits: Iterable[str], classes: Sequence[str]) -> Path:
    """Writes the `data.yaml` of a folder whose pictures lie in `images/SPLIT`; returns it."""
    root = json.dumps(str(folder.resolve()), ensure_ascii=False)
    lines = [f"path: {root}", *(f"{split}: images/{split}" for split in splits), "names:"]
    lines += [f"  {i}: {json.dumps(name, ensure_ascii=False)}" for i, name in enumerate(classes)]
    return write_text(folder / "data.yaml", "\n".join(lines) + "\n")


def find_splits(config: str | Path) -> dict[str, list[Path]]:
    """Where the pictures of each split of a `data.yaml` are: folders, or text files that list them.

    Raises:
        AnnotationError: It does not say what it should.
    """
    config = Path(config)
    document = _read_config(config)
    return {key: _entries(document, config, key) for key in _splits(document)}


def read_label_file(path: str | Path, names: Sequence[str], *, image: str, width: int, height: int) -> LabelledImage:
    """Reads the labels of one image; boxes are cut at its border, and lines that repeat another count once.

    Args:
        path: The label file.
        names: The classes in the order of their numbers.
        image: The image's name.
        width: Pixels.
        height: Pixels.

    Raises:
        AnnotationError: A line does not say what it should.
    """
    rows, seen, repeated = [], set(), 0
    for number, line in enumerate(read_text(path).splitlines(), 1):
        if fields := line.split():
            if tuple(fields) in seen:
                repeated += 1
                continue
            seen.add(tuple(fields))
            what = f"a class below {len(names)}, then 4 or 5 shares in 0..1 or an outline of 3 or more x y pairs"
            with expecting(f"{path}:{number}", what, line):
                rows.append(_row(fields, names, width, height))
    left_out(path, repeated, "lines that repeat another")
    return labelled(path, image, width, height, rows)


def read_boxes(path: str | Path, *, image: str, width: int, height: int) -> np.ndarray:
    """The boxes of a label file, `xyxy` in pixels, (N, 4), whatever its classes are called and however many there are.

    Raises:
        AnnotationError: A line does not say what it should.
    """
    names = [str(i) for i in range(10_000)]
    return read_label_file(path, names, image=image, width=width, height=height).boxes


def _row(fields: list[str], names: Sequence[str], width: int, height: int) -> Row:
    number, values = float(fields[0]), [float(field) for field in fields[1:]]
    if number != int(number) or number < 0:
        raise ValueError("not a class")
    label = names[int(number)]
    confidence = None
    if len(values) in (4, 5):
        cx, cy, w, h = values[:4]
        x1, y1, x2, y2 = cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2
        confidence = values[4] if len(values) == 5 else None
    elif len(values) >= 6 and len(values) % 2 == 0:
        x1, y1, x2, y2 = min(values[::2]), min(values[1::2]), max(values[::2]), max(values[1::2])
    else:
        raise ValueError("neither a box nor an outline")
    if not all(-_SLACK <= value <= 1 + _SLACK for value in (*values, x1, y1, x2, y2)):
        raise ValueError("not shares")
    x1, y1, x2, y2 = (min(max(v, 0.0), 1.0) for v in (x1, y1, x2, y2))
    return Row(box(x1 * width, y1 * height, x2 * width, y2 * height), label, confidence)


def _read_pictures(root: Path, pictures: Sequence[Path], names: Sequence[str]) -> list[LabelledImage]:
    sources: dict[Path, Path] = {}
    images = []
    for picture in pictures:
        labels = labels_of(picture)
        if labels in sources:
            raise AnnotationError(f"{labels}: is the label file of both {sources[labels]} and {picture}; rename one")
        sources[labels] = picture
        name = picture.relative_to(root).as_posix() if picture.is_relative_to(root) else str(picture)
        width, height = _picture_size(picture)
        if labels.exists():
            images.append(read_label_file(labels, names, image=name, width=width, height=height))
        else:
            images.append(labelled(picture, name, width, height, []))
    return images


def _read_slides(slides: Any, config: Path, names: Sequence[str]) -> list[LabelledImage]:
    images = []
    with expecting(f"{config}: slides", "a stem with image, width and height each", slides):
        for stem, slide in slides.items():
            path = config.parent / "labels" / f"{stem}.txt"
            size = {"width": int(slide["width"]), "height": int(slide["height"])}
            images.append(read_label_file(path, names, image=_text(slide["image"]), **size))
    return images


def labels_of(picture: Path) -> Path:
    """`labels` in place of the last `images` of the path, or else next to the picture."""
    parts = list(picture.with_suffix(".txt").parts)
    for i in range(len(parts) - 2, -1, -1):
        if parts[i] == "images":
            parts[i] = "labels"
            break
    return Path(*parts)


def _find_pictures(entry: Path, root: Path) -> list[Path]:
    """The pictures of a folder and those below it, or of a text file that lists them."""
    if entry.is_dir():
        return sorted(path for path in entry.rglob("*") if path.suffix.lower() in _PICTURES)
    if entry.suffix != ".txt":
        raise ValueError("neither a folder nor a list")
    lines = [line.strip() for line in read_text(entry).splitlines()]
    return [entry.parent / line if line.startswith("./") else root / line for line in lines if line]


def _picture_size(path: Path) -> tuple[int, int]:
    """Width and height as the picture is shown, which is what labels refer to; pixels are not decoded."""
    from ..slides import open_slide

    try:
        with open_slide(path) as picture:
            return picture.width, picture.height
    except SlideError as error:
        raise AnnotationError(f"{path}: the labels need the picture's size, and it cannot be read: {error}") from error


def _read_config(path: Path) -> dict[str, Any]:
    import yaml

    try:
        document = yaml.safe_load(read_text(path))
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        line, problem = mark.line + 1 if mark else 1, getattr(error, "problem", None) or error
        raise AnnotationError(f"{path}:{line}: expected YAML, got {problem}") from error
    if not isinstance(document, dict):
        raise AnnotationError(f"{path}:1: expected a data.yaml with names, got {type(document).__name__}")
    return document


def _names(document: Mapping[str, Any], path: Path) -> list[str]:
    """The classes in the order of their numbers, given as a list or as number: name."""
    names = document.get("names")
    with expecting(f"{path}: names", "a list of classes, or numbers from 0 with their names", names):
        if isinstance(names, dict):
            names = [names[i] for i in range(len(names))]
        if not isinstance(names, list) or document.get("nc", len(names)) != len(names):
            raise ValueError("names and nc differ")
        listed = [_text(name) for name in names]
    return listed


def _darknet_names(folder: Path) -> list[str]:
    for name in ("classes.txt", "obj.names", "_darknet.labels"):
        if (folder / name).is_file():
            return [line.strip() for line in read_text(folder / name).splitlines() if line.strip()]
    raise AnnotationError(f"{folder}: expected data.yaml, classes.txt, obj.names or _darknet.labels, got none of them")


def _root(document: Mapping[str, Any], config: Path) -> Path:
    """The folder that the splits are relative to: `path` where that is there, else that of `data.yaml`."""
    with expecting(f"{config}: path", "the folder of the data set", document.get("path")):
        root = config.parent / _text(document.get("path") or "")
        there = root.is_dir()
    return root if there else config.parent


def _splits(document: Mapping[str, Any]) -> list[str]:
    return [key for key in ("train", "val", "test") if document.get(key)]


def _entries(document: Mapping[str, Any], config: Path, split: str) -> list[Path]:
    """The folders and lists of a split."""
    entries = document[split] if isinstance(document[split], list) else [document[split]]
    with expecting(f"{config}: {split}", _PLACE, entries):
        return [_resolve(_root(document, config), _text(entry)) for entry in entries]


def _resolve(root: Path, entry: str) -> Path:
    """An entry of a split; `../` in front is what one common export writes for `./`."""
    path = root / entry
    return root / entry.removeprefix("../") if not path.exists() else path


def _text(value: Any) -> str:
    """A name or path. YAML also gives numbers, and lists that repeat themselves without bound, which are neither."""
    if not isinstance(value, str | int | float):
        raise TypeError("no text")
    return str(value)
