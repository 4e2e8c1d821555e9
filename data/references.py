"""The pictures that scenes are composed from: single-grain references, labelled fields, and which taxa stay unknown."""

from __future__ import annotations

import csv
import hashlib
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from ..errors import InputError, UsageError
from .annotations.yolo import read_boxes
from .backgrounds import Field

__all__ = [
    "Reference",
    "choose_unknown",
    "find_fields",
    "find_references",
    "isolated_grains",
    "read_field",
    "read_fields",
    "read_picture",
    "split_references",
]

SPLITS = ("train", "val", "test")
_SUFFIXES = {".jpg", ".jpeg", ".png", ".tif", ".tiff", ".bmp", ".webp"}


@dataclass(frozen=True)
class Reference:
    """One picture of a single grain.

    Attributes:
        path: The picture, or the field that the grain is cut from.
        taxon: Name of its folder.
        window: `x1, y1, x2, y2` in the picture, None for all of it.
        native_px: Longer side at the microscope's scale, where the picture was shrunk since; keeps large taxa large.
    """

    path: Path
    taxon: str
    window: tuple[int, int, int, int] | None = None
    native_px: int | None = None

    @property
    def name(self) -> str:
        """Short name for manifests: taxon, file, window."""
        place = "" if self.window is None else "@" + ",".join(map(str, self.window))
        return f"{self.taxon}/{self.path.name}{place}"


def read_picture(path: Path) -> np.ndarray:
    """A picture as uint8 RGB, shape (H, W, 3).

    Raises:
        SlideError: It cannot be read.
    """
    from .slides import open_slide

    with open_slide(path) as slide:
        return slide.read(0, 0, slide.width, slide.height)


def find_references(folder: Path) -> list[Reference]:
    """The pictures of a folder with one folder a taxon, sorted.

    A `manifest.csv` in the folder or above it (columns `file, original_width, original_height`, files ending in
    `TAXON/NAME`) gives the original sizes of pictures that were shrunk.

    Raises:
        InputError: The folder is missing or holds no pictures in taxon folders.
    """
    if not folder.is_dir():
        raise InputError(f"{folder}: expected a folder with one folder of pictures a taxon; it does not exist")
    sizes = _original_sizes(folder)
    found = [
        Reference(path, taxon.name, native_px=sizes.get(f"{folder.name}/{taxon.name}/{path.name}"))
        for taxon in sorted(folder.iterdir())
        if taxon.is_dir()
        for path in sorted(taxon.iterdir())
        if path.suffix.lower() in _SUFFIXES
    ]
    if not found:
        raise InputError(f"{folder}: expected pictures in one folder a taxon ({folder.name}/TAXON/*.jpg), found none")
    return found


def split_references(
    references: Sequence[Reference], val_share: float, seed: int
) -> tuple[list[Reference], list[Reference]]:
    """Divides references into training and validation, taxon by taxon, by a hash of the file's name."""
    train, val = [], []
    for taxon in sorted({r.taxon for r in references}):
        own = sorted((r for r in references if r.taxon == taxon), key=lambda r: _order(seed, r.name))
        held = max(1, round(val_share * len(own))) if len(own) > 1 else 0
        val += own[:held]
        train += own[held:]
    return train, val


def choose_unknown(taxa: Sequence[str], seed: int, share: float = 0.12) -> dict[str, tuple[str, ...]]:
    """Taxa that are kept out of the classes and labelled `unknown`, another set for each split.

    A taxon is eligible when no other taxon shares its genus, as a congener among the classes would make `unknown` a
    wrong answer. Half of the taxa are shown in training, a quarter each in validation and test only, so that the
    recall of `unknown` is measured on taxa that were never seen.
    """
    genus = [t.split("_")[0].split(" ")[0].lower() for t in taxa]
    eligible = sorted(
        (t for t, g in zip(taxa, genus, strict=True) if genus.count(g) == 1), key=lambda t: _order(seed, t)
    )
    count = min(len(eligible) // 2, max(3, round(share * len(taxa)))) if len(taxa) >= 6 else 0
    chosen = eligible[:count]
    half, quarter = count - 2 * (count // 4), count // 4
    parts = chosen[:half], chosen[half : half + quarter], chosen[half + quarter :]
    return {split: tuple(sorted(part)) for split, part in zip(SPLITS, parts, strict=True)}


def find_fields(folder: Path) -> list[Path]:
    """The pictures of a folder of fields (`images/*.jpg` with `labels/*.txt`, or pictures alone), sorted.

    Raises:
        InputError: The folder is missing or holds no pictures.
    """
    images = folder / "images" if (folder / "images").is_dir() else folder
    if not images.is_dir():
        raise InputError(f"{folder}: expected a folder of fields; it does not exist")
    found = sorted(p for p in images.iterdir() if p.suffix.lower() in _SUFFIXES)
    if not found:
        raise InputError(f"{images}: expected pictures of fields, found none")
    stems: dict[str, Path] = {}
    for path in found:
        other = stems.setdefault(path.stem, path)
        if other != path and (folder / "labels" / f"{path.stem}.txt").is_file():
            raise InputError(f"{folder}: labels/{path.stem}.txt is of both {other.name} and {path.name}; rename one")
    return found


def read_field(path: Path, folder: Path, *, all_marked: bool) -> Field:
    """One field of a folder with its YOLO boxes, where it has any.

    Raises:
        SlideError: The picture cannot be read.
    """
    picture = read_picture(path)
    label = folder / "labels" / f"{path.stem}.txt"
    boxes = np.empty((0, 4), np.float32)
    if label.is_file():
        boxes = read_boxes(label, image=path.name, width=picture.shape[1], height=picture.shape[0])
    return Field(path.name, picture, boxes, all_marked)


def read_fields(folder: Path, *, all_marked: bool) -> list[Field]:
    """The fields of a folder; see `find_fields` and `read_field`."""
    return [read_field(path, folder, all_marked=all_marked) for path in find_fields(folder)]


def read_field_splits(path: Path) -> dict[str, str]:
    """Which field belongs to which split, from a CSV with the columns `file, split`."""
    rows = {row["file"]: row["split"] for row in _rows(path, "file", "split")}
    wrong = sorted(set(rows.values()) - {*SPLITS, "background"})
    if wrong:
        raise UsageError(f"{path}: split must be train, val, test or background, got {', '.join(wrong)}")
    return rows


def isolated_grains(field: Field, path: Path, taxon: str, limit: int, seed: int) -> list[Reference]:
    """Windows of a labelled field that hold one whole grain and no part of another."""
    height, width = field.picture.shape[:2]
    found = []
    for i, (x1, y1, x2, y2) in enumerate(field.grains):
        margin = 0.18 * max(x2 - x1, y2 - y1)
        window = np.array([x1 - margin, y1 - margin, x2 + margin, y2 + margin])
        others = np.delete(field.grains, i, axis=0)
        touches = ((others[:, :2] < window[2:]) & (others[:, 2:] > window[:2])).all(1).any()
        inside = (window[:2] >= 0).all() and window[2] <= width and window[3] <= height
        if inside and not touches and max(x2 - x1, y2 - y1) >= 30:
            left, top, right, bottom = (round(float(v)) for v in window)
            found.append(Reference(path, taxon, (left, top, right, bottom)))
    return sorted(found, key=lambda r: _order(seed, r.name))[:limit]


def shrink(picture: np.ndarray, longest: int) -> np.ndarray:
    """A picture whose longer side is at most `longest` pixels."""
    scale = longest / max(picture.shape[:2])
    if scale >= 1:
        return picture
    return cv2.resize(picture, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)


def _original_sizes(folder: Path) -> dict[str, int]:
    for manifest in (folder / "manifest.csv", folder.parent / "manifest.csv"):
        if manifest.is_file():
            sides = ("original_width", "original_height")
            try:
                return {row["file"]: max(int(row[side]) for side in sides) for row in _rows(manifest, "file", *sides)}
            except ValueError as error:
                raise InputError(f"{manifest}: expected pixels in whole numbers, got {error}") from error
    return {}


def _rows(path: Path, *columns: str) -> list[dict[str, str]]:
    """The rows of a CSV file, each with these columns."""
    try:
        rows = list(csv.DictReader(io.StringIO(path.read_text(encoding="utf-8-sig"), newline="")))
    except (OSError, ValueError, csv.Error) as error:
        raise InputError(f"{path}: expected a CSV file in UTF-8, got {error}") from error
    for number, row in enumerate(rows, 1):
        if missing := [column for column in columns if row.get(column) is None]:
            raise InputError(
                f"{path}: row {number}: expected the columns {', '.join(columns)}; missing: {', '.join(missing)}"
            )
    return rows


def _order(seed: int, name: str) -> str:
    return hashlib.sha256(f"{seed}:{name}".encode()).hexdigest()
