"""The two tables of every run as CSV: `grains.csv`, a row a grain, and `counts.csv`, a row a taxon on a slide.

UTF-8, decimal points, fixed decimals, so that equal results are equal bytes. A slide or taxon whose name begins with `=
+ - @`, a tab or a line end would be run as a formula by spreadsheets; it is written with an apostrophe in front, which
the readers here take off again.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...errors import AnnotationError
from ..atomic import replacing
from ..counts import Tally, tally
from ..taxa import counted_as
from . import LabelledImage
from .reading import Row, box, expecting, labelled, read_text

if TYPE_CHECKING:
    from ...vision.results import SlideResult

__all__ = [
    "COUNT_COLUMNS",
    "GRAIN_COLUMNS",
    "NO_TAXON",
    "NUMBER_COLUMNS",
    "boxes_of",
    "count_rows",
    "grain_rows",
    "open_counts",
    "open_grains",
    "read_counts",
    "read_grains",
    "write_counts",
    "write_grains",
    "write_label_counts",
]

GRAIN_COLUMNS = (
    "slide",
    "grain_id",
    "x1",
    "y1",
    "x2",
    "y2",
    "taxon",
    "confidence",
    "width_um",
    "height_um",
    "flags",
    "rank",
    "candidates",
)
NUMBER_COLUMNS = ("x1", "y1", "x2", "y2", "confidence", "width_um", "height_um")
COUNT_COLUMNS = ("slide", "taxon", "n", "sum", "percent", "low", "high", "level", "method")

# A slide that was read and holds no grain has one row of counts, so that it is not taken for one that was never read.
NO_TAXON = "(none)"

_DECIMALS = {"x1": 2, "y1": 2, "x2": 2, "y2": 2, "confidence": 4, "width_um": 2, "height_um": 2}
_DECIMALS |= {"percent": 4, "low": 4, "high": 4}
_FORMULA = re.compile(r"'*[=+\-@\t\r\n]")
_GUARDED = re.compile(r"'+[=+\-@\t\r\n]")


def grain_rows(result: SlideResult) -> list[dict[str, Any]]:
    """The grains of a slide as rows of `GRAIN_COLUMNS`.

    Args:
        result: What was found on the slide.

    Returns:
        One row a grain: numbers as numbers, None where a size is not known, `flags` joined by `;`, `candidates` such as
        `Serjania erecta:0.41;Serjania sp.:0.22`.
    """
    boxes = result.boxes.tolist()
    return [
        {
            "slide": result.slide,
            "grain_id": grain_id,
            **dict(zip(("x1", "y1", "x2", "y2"), boxes[i], strict=True)),
            "taxon": result.taxa[i],
            "confidence": float(result.confidence[i]),
            "width_um": result.um_per_px and (boxes[i][2] - boxes[i][0]) * result.um_per_px,
            "height_um": result.um_per_px and (boxes[i][3] - boxes[i][1]) * result.um_per_px,
            "flags": ";".join(result.grain_flags[i]),
            "rank": result.ranks[i],
            "candidates": ";".join(f"{taxon}:{share:.2f}" for taxon, share in result.candidates[i]),
        }
        for i, grain_id in enumerate(result.grain_ids)
    ]


def count_rows(slide: str, tallies: Sequence[Tally], *, level: float = 0.95) -> list[dict[str, Any]]:
    """The counts of a slide as rows of `COUNT_COLUMNS`.

    Args:
        slide: The slide's name.
        tallies: Its counts; none for a slide without grains, which gets one row `(none)` with a sum of 0 and no
            percentages.
        level: Confidence level that such a row names.
    """
    if not tallies:
        row = dict.fromkeys(COUNT_COLUMNS)
        return [{**row, "slide": slide, "taxon": NO_TAXON, "n": 0, "sum": 0, "level": level, "method": "wilson"}]
    return [{"slide": slide, **{column: getattr(row, column) for column in COUNT_COLUMNS[1:]}} for row in tallies]


@contextmanager
def open_grains(path: str | Path, *, overwrite: bool = False) -> Iterator[Callable[[SlideResult], None]]:
    """Opens a grain table that is written slide by slide, and is there when the block ends well.

    Args:
        path: The file.
        overwrite: Replace a file that is there.

    Yields:
        A function that adds the grains of a slide.

    Raises:
        UsageError: The file is there.
    """
    with _table(path, GRAIN_COLUMNS, overwrite) as add:
        yield lambda result: add(grain_rows(result))


@contextmanager
def open_counts(
    path: str | Path, *, level: float = 0.95, overwrite: bool = False
) -> Iterator[Callable[[SlideResult], None]]:
    """Opens a table of counts that is written slide by slide; see `open_grains`.

    Args:
        path: The file.
        level: Confidence level of the limits.
        overwrite: Replace a file that is there.

    Yields:
        A function that adds the counts of a slide.
    """
    with _table(path, COUNT_COLUMNS, overwrite) as add:
        yield lambda result: add(count_rows(result.slide, result.counts(level=level), level=level))


def write_grains(results: Iterable[SlideResult], path: str | Path, *, overwrite: bool = False) -> Path:
    """Writes the grains of all slides, in the order given; see `open_grains`."""
    with open_grains(path, overwrite=overwrite) as add:
        for result in results:
            add(result)
    return Path(path)


def write_counts(
    results: Iterable[SlideResult], path: str | Path, *, level: float = 0.95, overwrite: bool = False
) -> Path:
    """Writes the counts of all slides, in the order given; see `open_counts`."""
    with open_counts(path, level=level, overwrite=overwrite) as add:
        for result in results:
            add(result)
    return Path(path)


def write_label_counts(
    images: Iterable[LabelledImage], path: str | Path, *, level: float = 0.95, overwrite: bool = False
) -> Path:
    """Writes the counts of images whose boxes a person corrected or drew, in the order given; see `open_counts`."""
    with _table(path, COUNT_COLUMNS, overwrite) as add:
        for image in images:
            add(count_rows(image.image, tally(map(counted_as, image.labels), level), level=level))
    return Path(path)


def read_grains(path: str | Path) -> list[dict[str, Any]]:
    """Reads a grain table.

    Args:
        path: A file with at least the columns up to `confidence`; columns may stand in any order, and further ones are
            kept.

    Returns:
        Rows as `grain_rows` makes them; None for an empty number.

    Raises:
        AnnotationError: A column is missing or a cell does not hold what it should; the message names the line.
    """
    rows = []
    for line, row in _read_table(path, GRAIN_COLUMNS[:8]):
        with expecting(f"{path}:{line}", "a grain with the corners x1 <= x2, y1 <= y2 and a confidence", row):
            corners = box(row["x1"], row["y1"], row["x2"], row["y2"])
            sizes = {column: _number(row[column]) for column in ("width_um", "height_um") if column in row}
            numbers = dict(zip(("x1", "y1", "x2", "y2"), corners, strict=True)) | sizes
            rows.append({**row, **numbers, "confidence": _number(row["confidence"])})
    return rows


def boxes_of(rows: Iterable[Mapping[str, Any]], sizes: Mapping[str, tuple[int, int]]) -> list[LabelledImage]:
    """Rows of a grain table as labelled images.

    Args:
        rows: What `read_grains` returned.
        sizes: Width and height of every slide in pixels, which the table does not hold; a slide without rows has no
            grains.

    Raises:
        AnnotationError: A slide of the table has no size.
    """
    found: dict[str, list[Row]] = {slide: [] for slide in sizes}
    for row in rows:
        if row["slide"] not in found:
            raise AnnotationError(
                f"slide {row['slide']!r}: expected its width and height, got none; add it to the sizes"
            )
        corners = (row["x1"], row["y1"], row["x2"], row["y2"])
        found[row["slide"]].append(Row(corners, row["taxon"], row["confidence"], row["grain_id"]))
    return [labelled("grain table", slide, *sizes[slide], grains) for slide, grains in found.items()]


def read_counts(path: str | Path) -> dict[str, list[Tally]]:
    """Reads a table of counts.

    Args:
        path: The file.

    Returns:
        The counts of each slide in the file's order; an empty list for a slide without grains.

    Raises:
        AnnotationError: A column is missing or a cell does not hold what it should; the message names the line.
    """
    counts: dict[str, list[Tally]] = {}
    for line, row in _read_table(path, COUNT_COLUMNS):
        with expecting(f"{path}:{line}", "a taxon with n, sum, percent, low, high and level", row):
            rows = counts.setdefault(row["slide"], [])
            if row["taxon"] == NO_TAXON and int(row["n"]) == 0:
                continue
            percent, low, high, level = (float(row[column]) for column in ("percent", "low", "high", "level"))
            n, total = int(row["n"]), int(row["sum"])
            rows.append(Tally(row["taxon"], n, total, percent, low, high, level, row["method"]))
    return counts


@contextmanager
def _table(
    path: str | Path, columns: Sequence[str], overwrite: bool
) -> Iterator[Callable[[Iterable[Mapping[str, Any]]], None]]:
    with replacing(path, overwrite=overwrite) as file:
        writer = csv.DictWriter(file, columns, lineterminator="\n")
        writer.writeheader()
        yield lambda rows: writer.writerows({c: _cell(c, value) for c, value in row.items()} for row in rows)


def _cell(column: str, value: Any) -> str:
    if value is None:
        return ""
    if column in _DECIMALS:
        # Adding 0 turns the -0.0 that rounding makes into 0.0.
        return f"{round(value, _DECIMALS[column]) + 0.0:.{_DECIMALS[column]}f}"
    text = str(value)
    return f"'{text}" if isinstance(value, str) and _FORMULA.match(text) else text


def _read_table(path: str | Path, required: Sequence[str]) -> Iterator[tuple[int, dict[str, str]]]:
    """The rows of a CSV file with the line that each ends on."""
    reader = csv.reader(io.StringIO(read_text(path), newline=""), strict=True)
    try:
        header = next(reader, [])
        missing = [column for column in required if column not in header]
        if missing:
            raise AnnotationError(
                f"{path}:1: expected the columns {', '.join(required)}; missing: {', '.join(missing)}"
            )
        for cells in reader:
            if not cells:
                continue
            if len(cells) != len(header):
                raise AnnotationError(f"{path}:{reader.line_num}: expected {len(header)} cells, got {len(cells)}")
            row = {c: cell[1:] if _GUARDED.match(cell) else cell for c, cell in zip(header, cells, strict=True)}
            yield reader.line_num, row
    except csv.Error as error:
        raise AnnotationError(f"{path}:{reader.line_num}: expected CSV, got {error}") from error


def _number(cell: str) -> float | None:
    return float(cell) if cell else None
