"""What a collection keeps of a grain or a text, and what a search returns: `Record`, `Hit`, `Pair`."""

from __future__ import annotations

import json
import math
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal

from ...errors import UsageError
from ..hybrid import Part

__all__ = ["KINDS", "NUMBERS", "TEXTS", "Box", "Hit", "Kind", "Pair", "Part", "Record", "extra_text", "nfc"]

Box = tuple[float, float, float, float]
Kind = Literal["grain", "text"]
KINDS: tuple[Kind, ...] = ("grain", "text")

# The columns that filters may name, by what they hold.
TEXTS = ("kind", "key", "taxon", "slide", "reviewer", "time", "text")
NUMBERS = ("x1", "y1", "x2", "y2", "width_um", "height_um", "confidence")

_LONGEST_EXTRA = 1 << 20


def nfc(text: str) -> str:
    """Unicode's composed form: u with two dots as one character, however it was typed."""
    return unicodedata.normalize("NFC", text)


def extra_text(extra: Mapping[str, Any]) -> str:
    """Further columns as JSON.

    Raises:
        UsageError: They hold what JSON cannot, or more than 1 MiB.
    """
    try:
        text = json.dumps(dict(extra), ensure_ascii=False, allow_nan=False, sort_keys=True)
        size = len(text.encode("utf-8"))
    except (TypeError, ValueError, RecursionError) as error:
        raise UsageError(f"extra: expected names with values that JSON can hold, got {error}") from error
    if size > _LONGEST_EXTRA:
        raise UsageError(
            f"extra: expected at most {_LONGEST_EXTRA:,} bytes of JSON, got {size:,}; keep files beside it"
        )
    return text


@dataclass(frozen=True, kw_only=True)
class Record:
    """One grain or text of a collection. Names are kept in Unicode's composed form (NFC), which filters use too.

    Attributes:
        kind: `grain` or `text`.
        taxon: Name, such as `Betula`; None where it has none.
        slide: Name of the slide or document that it comes from.
        box: `xyxy`, pixels of the slide's full-resolution level.
        width_um: Width in micrometres, where known.
        height_um: Height in micrometres, where known.
        confidence: Probability in [0, 1] that there is a grain.
        reviewer: Who named or checked it.
        time: When, ISO 8601.
        text: What it says: a passage, a description, a remark.
        key: What it is called where it comes from; no two records of a collection share one.
        extra: Further columns, anything that JSON can hold.
    """

    kind: Kind
    taxon: str | None = None
    slide: str | None = None
    box: Box | None = None
    width_um: float | None = None
    height_um: float | None = None
    confidence: float | None = None
    reviewer: str | None = None
    time: str | None = None
    text: str | None = None
    key: str | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise UsageError(f"kind: expected grain or text, got {self.kind!r}")
        for name in TEXTS:
            object.__setattr__(self, name, _string(name, getattr(self, name)))
        if self.box is not None:
            box = tuple(_number("box", side) for side in self.box)
            if len(box) != 4 or box[2] < box[0] or box[3] < box[1]:
                raise UsageError(f"box: expected x1 <= x2 and y1 <= y2, got {self.box}")
            object.__setattr__(self, "box", box)
        for name in ("width_um", "height_um", "confidence"):
            if (value := getattr(self, name)) is not None:
                object.__setattr__(self, name, _number(name, value))
        for name in ("width_um", "height_um"):
            if (getattr(self, name) or 0) < 0:
                raise UsageError(f"{name}: expected micrometres from 0 on, got {getattr(self, name)}")
        if self.confidence is not None and not 0 <= self.confidence <= 1:
            raise UsageError(f"confidence: expected a probability from 0 to 1, got {self.confidence}")
        if self.time is not None:
            try:
                datetime.fromisoformat(self.time)
            except ValueError as error:
                raise UsageError(f"time: expected ISO 8601 such as 2026-05-01T10:30, got {self.time!r}") from error
        if not isinstance(self.extra, Mapping) or not all(isinstance(name, str) for name in self.extra):
            raise UsageError(f"extra: expected names with values, got {type(self.extra).__name__}")
        object.__setattr__(self, "extra", json.loads(extra_text(self.extra)))


def _string(name: str, value: Any) -> str | None:
    if value is None:
        return None
    if not isinstance(value, str):
        raise UsageError(f"{name}: expected text, got {type(value).__name__}")
    try:
        value.encode("utf-8")
    except UnicodeEncodeError as error:
        raise UsageError(f"{name}: expected Unicode text, got {value!r}; escape its undecodable bytes") from error
    if "\0" in value:
        raise UsageError(f"{name}: expected text without NUL characters, got {value!r}")
    return nfc(value)


def _number(name: str, value: Any) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError) as error:
        raise UsageError(f"{name}: expected a number, got {value!r}") from error
    if not math.isfinite(number):
        raise UsageError(f"{name}: expected a finite number, got {value!r}")
    return number


@dataclass(frozen=True)
class Hit:
    """One answer of a search.

    Attributes:
        id: Number of the record; never given to another one.
        score: What the answers are ordered by. Cosine to the query, in [-1, 1]; BM25 of texts found by words alone; of
            texts found by both the fused score, 1 for one that is first in both.
        record: What it is.
        encoder_id: The space that was searched, None where only words were compared: scores of two spaces do not
            compare.
        reasons: Why it is here, in words; how it was searched for comes last.
        words: The place by words that a text has among those that pass.
        vectors: The place by meaning that a text has among those that pass.
        guessed: Whether what the reasons say of looks is a guess, by the taxa that the encoder was trained on.
    """

    id: int
    score: float
    record: Record
    encoder_id: str | None
    reasons: tuple[str, ...] = ()
    words: Part | None = None
    vectors: Part | None = None
    guessed: bool = False

    @property
    def kind(self) -> Kind:
        """`grain` or `text`."""
        return self.record.kind


@dataclass(frozen=True)
class Pair:
    """Two records that are nearly the same.

    Attributes:
        first: Number of the older record.
        second: Number of the younger one.
        score: Their cosine.
        same_slide: Whether they lie on the same slide, as two pictures of one grain would.
    """

    first: int
    second: int
    score: float
    same_slide: bool
