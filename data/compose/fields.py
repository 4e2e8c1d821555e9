"""Real fields of a data set in the making: decoded once, into files that every process maps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from ...errors import InputError
from ..backgrounds import Field, clean_windows, standing_out, window_of
from ..references import find_fields, read_field, read_field_splits
from .crew import Crew
from .recipe import Recipe

__all__ = ["KeptField", "background", "keep_fields"]

_DEBRIS_SIDES = (480, 640, 900)
_CLEAN_SIDES = (96, 160, 320, 640)


@dataclass(frozen=True)
class KeptField:
    """A field whose picture lies decoded in a file.

    Attributes:
        name: File name of the picture that it was read from.
        source: That picture.
        stored: The pixels, as NumPy stores them.
        grains: `xyxy` boxes, float32, shape (N, 4), pixels.
        all_marked: Every grain is marked.
        windows: Side and top left corners, int, shape (K, 2), of its clean windows; only sides that have any.
    """

    name: str
    source: Path
    stored: Path
    grains: np.ndarray
    all_marked: bool
    windows: tuple[tuple[int, np.ndarray], ...]

    def open(self) -> Field:
        """The field with its picture mapped: only what is looked at is read, and all processes share the memory."""
        return Field(self.name, np.asarray(np.load(self.stored, mmap_mode="r")), self.grains, self.all_marked)


@dataclass(frozen=True)
class _Source:
    folder: Path
    path: Path
    all_marked: bool
    sides: tuple[int, ...]


def keep_fields(recipe: Recipe, folder: Path, crew: Crew) -> tuple[list[KeptField], dict[str, list[KeptField]]]:
    """Decodes the fields of a recipe into a folder.

    Returns:
        Those that lend backgrounds, and the labelled ones of each split. Fields of the validation and test splits lend
        none, unless all their grains are marked.

    Raises:
        InputError: A folder is missing or holds no pictures, or one of them cannot be read.
    """
    splits = read_field_splits(recipe.field_splits) if recipe.field_splits else {}
    folders = [f for f in (*recipe.fields, *recipe.debris_fields, recipe.labelled_fields) if f]
    if stray := sorted(splits.keys() - {path.name for one in folders for path in find_fields(one)}):
        # A field that is not listed is trained on.
        raise InputError(
            f"{recipe.field_splits}: expected files of {', '.join(map(str, folders)) or 'fields'}, got {stray[0]}, "
            "which is none of them; mend the row or take it out"
        )
    lending = [
        _Source(source, path, all_marked, _DEBRIS_SIDES if all_marked else _CLEAN_SIDES)
        for source, all_marked in [*((f, False) for f in recipe.fields), *((f, True) for f in recipe.debris_fields)]
        for path in find_fields(source)
        if all_marked or splits.get(path.name) not in {"val", "test"}
    ]
    labelled = [
        _Source(source, path, False, ())
        for source in ([recipe.labelled_fields] if recipe.labelled_fields else ())
        for path in find_fields(source)
        if splits.get(path.name) != "background"
    ]
    # The same picture often lends its empty parts and is labelled: it is decoded once.
    wanted = {(s.folder, s.path, s.all_marked): s for s in [*labelled, *lending]}
    folder.mkdir()
    numbered = list(enumerate(wanted.values()))
    kept = dict(zip(wanted, crew.map(partial(_keep, folder=folder), numbered, chunk=1), strict=True))
    shared: dict[str, list[KeptField]] = {}
    for source in labelled:
        one = kept[source.folder, source.path, source.all_marked]
        if len(one.grains):
            shared.setdefault(splits.get(one.name, "train"), []).append(one)
    backgrounds = [kept[s.folder, s.path, s.all_marked] for s in lending]
    return [one for one in backgrounds if one.windows], shared


def background(rng: np.random.Generator, fields: Sequence[KeptField], size: int) -> tuple[np.ndarray | None, str]:
    """A real background, float32, (size, size, 3), and where it is from; None for a synthetic one."""
    if not fields or rng.random() < 0.45:
        return None, "synthetic"
    debris = [f for f in fields if f.all_marked]
    clean = [f for f in fields if not f.all_marked]
    pool = debris if debris and (not clean or rng.random() < 0.4) else clean
    one = pool[int(rng.integers(len(pool)))]
    side, corners = one.windows[int(rng.integers(len(one.windows)))]
    x, y = corners[int(rng.integers(len(corners)))]
    return window_of(one.open(), (x, y), side, size), f"{one.name}@{x},{y},{side}"


def _keep(numbered: tuple[int, _Source], folder: Path) -> KeptField:
    number, source = numbered
    field = read_field(source.path, source.folder, all_marked=source.all_marked)
    stored = folder / f"{number}.npy"
    np.save(stored, field.picture)
    marks = standing_out(field.picture) if source.sides and not source.all_marked else None
    found = [(side, clean_windows(field, side, side // 4, marks=marks)) for side in source.sides]
    windows = tuple((side, corners) for side, corners in found if len(corners))
    return KeptField(field.name, source.path, stored, field.grains, field.all_marked, windows)
