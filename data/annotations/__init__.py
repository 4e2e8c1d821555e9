"""Boxes with names on images, and one file format per module to read and write them.

Every reader returns and every writer takes `LabelledImage`, so any two formats convert through it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from ...errors import AnnotationError

__all__ = ["LabelledImage"]


@dataclass(frozen=True)
class LabelledImage:
    """The labelled boxes of one image.

    Attributes:
        image: File name or path as the user knows it.
        width: Pixels of the full-resolution level.
        height: Pixels of the full-resolution level.
        boxes: `xyxy`, float32, shape (N, 4), pixels, origin top left.
        labels: N names.
        confidence: Probabilities, float32, shape (N,); None for boxes drawn by a person.
        ids: N identifiers that stay with a grain from file to file; made from the position when None.
        measurements: Further numbers, one array of N each, for the formats that can carry them.
    """

    image: str
    width: int
    height: int
    boxes: np.ndarray
    labels: tuple[str, ...]
    confidence: np.ndarray | None = None
    ids: tuple[str, ...] | None = None
    measurements: Mapping[str, np.ndarray] = field(default_factory=dict)

    def __post_init__(self) -> None:
        boxes = np.asarray(self.boxes, dtype=np.float32).reshape(-1, 4)
        object.__setattr__(self, "boxes", boxes)
        object.__setattr__(self, "labels", tuple(self.labels))
        if self.width < 1 or self.height < 1:
            raise AnnotationError(f"{self.image}: expected a size in pixels, got {self.width} x {self.height}")
        n = len(boxes)
        columns = {"labels": self.labels, "confidence": self.confidence, "ids": self.ids, **self.measurements}
        for name, column in columns.items():
            if column is not None and len(column) != n:
                raise AnnotationError(f"{self.image}: expected {n} {name}, one a box, got {len(column)}")
        if not np.isfinite(boxes).all():
            raise AnnotationError(f"{self.image}: boxes must be finite numbers")
        if n and (boxes[:, 2:] < boxes[:, :2]).any():
            raise AnnotationError(f"{self.image}: boxes must be x1, y1, x2, y2 with x1 <= x2 and y1 <= y2")

    def __len__(self) -> int:
        return len(self.boxes)
