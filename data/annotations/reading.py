"""Reading label files that other people's tools wrote: every fault names the file and the place in it."""

from __future__ import annotations

import json
import math
import reprlib
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ...errors import AnnotationError, PalynoError
from . import LabelledImage

__all__ = ["Box", "Row", "box", "expecting", "labelled", "left_out", "read_json", "read_text", "size"]

Box = tuple[float, float, float, float]


class Row(NamedTuple):
    """One labelled box as a file gives it."""

    box: Box
    label: str
    confidence: float | None = None
    id: str | None = None


# No slide is this many pixels wide; a larger number is a mistake and would not survive float32 anyway.
_FARTHEST = 1e9

# Quotes the start of an entry; a file may nest or repeat itself far beyond what a message, or the memory, can hold.
_QUOTE = reprlib.Repr()
_QUOTE.maxstring, _QUOTE.maxdict, _QUOTE.maxlevel = 120, 8, 3


def read_text(path: str | Path) -> str:
    """The text of a UTF-8 file, with or without a byte order mark.

    Raises:
        AnnotationError: The file cannot be read or is not UTF-8.
    """
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise AnnotationError(f"{path}: cannot be read: {error.strerror or error}") from error
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise AnnotationError(f"{path}:{line}: expected UTF-8 text, got other bytes; save the file as UTF-8") from error


def read_json(path: str | Path) -> Any:
    """The content of a JSON file.

    Raises:
        AnnotationError: The file cannot be read or is not JSON.
    """
    text = read_text(path)
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise AnnotationError(
            f"{path}:{error.lineno}: expected JSON, got {error.msg} at column {error.colno}"
        ) from error
    except (ValueError, RecursionError) as error:
        raise AnnotationError(f"{path}:1: expected JSON that can be a label file, got {error}") from error


@contextmanager
def expecting(place: str, what: str, got: Any) -> Iterator[None]:
    """Turns the faults of taking an entry apart into an `AnnotationError`.

    Args:
        place: File and line, or file and entry, such as `a.txt:3` or `a.json: annotations[2]`.
        what: What is expected there.
        got: The entry, quoted in the message.
    """
    try:
        yield
    except PalynoError:
        raise
    except (KeyError, IndexError, TypeError, ValueError, AttributeError, OverflowError, OSError) as error:
        missing = f" ({error} is missing)" if isinstance(error, KeyError) else ""
        raise AnnotationError(f"{place}: expected {what}, got {_QUOTE.repr(got)}{missing}") from error


def box(x1: Any, y1: Any, x2: Any, y2: Any) -> Box:
    """Four numbers as a box.

    Raises:
        ValueError: They are not finite, or are in the wrong order.
    """
    x1, y1, x2, y2 = float(x1), float(y1), float(x2), float(y2)
    if not all(math.isfinite(v) and abs(v) < _FARTHEST for v in (x1, y1, x2, y2)) or x2 < x1 or y2 < y1:
        raise ValueError("not a box")
    return x1, y1, x2, y2


def size(value: Any) -> int:
    """A width or height in pixels.

    Raises:
        ValueError: It is not a positive whole number.
    """
    number = int(value)
    if number < 1 or number != float(value):
        raise ValueError("not a size")
    return number


def left_out(path: str | Path, count: int, what: str) -> None:
    """Says what a reader did not take over: nothing is skipped in silence."""
    if count:
        warnings.warn(f"{path}: left out {count} {what}", stacklevel=3)


def labelled(path: str | Path, name: str, width: int, height: int, rows: Sequence[Row]) -> LabelledImage:
    """The rows of one image put together; boxes that stick out of it are cut at its border.

    Raises:
        AnnotationError: A box lies outside of the image, only some of the boxes have a confidence, or one is outside
            [0, 1].
    """
    for x1, y1, x2, y2 in (row.box for row in rows):
        if x1 > width or y1 > height or x2 < 0 or y2 < 0:
            raise AnnotationError(
                f"{path}: {name}: expected boxes on its {width} x {height} pixels, got one from {x1:g}, {y1:g} to "
                f"{x2:g}, {y2:g}; is it the size of another picture, or of this one turned?"
            )
    scores = [row.confidence for row in rows if row.confidence is not None]
    if scores and len(scores) < len(rows):
        raise AnnotationError(
            f"{path}: {name}: expected a confidence for every box or for none, got {len(scores)} for {len(rows)} boxes"
        )
    if not all(0 <= score <= 1 for score in scores):
        raise AnnotationError(f"{path}: {name}: expected confidences from 0 to 1, got {min(scores)} to {max(scores)}")
    ids = tuple(row.id for row in rows if row.id is not None)
    return LabelledImage(
        image=name,
        width=width,
        height=height,
        boxes=np.array([row.box for row in rows], np.float32).reshape(-1, 4).clip(0, [width, height, width, height]),
        labels=tuple(row.label for row in rows),
        confidence=np.array(scores, np.float32) if scores else None,
        ids=ids if ids and len(ids) == len(rows) else None,
    )
