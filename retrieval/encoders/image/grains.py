"""Grains cut from their pictures, all on canvases of one size, in one file: what an encoder is trained on."""

from __future__ import annotations

import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ....data.atomic import replacing
from ....errors import InputError, UsageError

if TYPE_CHECKING:
    from ....data.grains import CutGrain

__all__ = ["CANVAS", "CLEAR", "FILL", "GrainSet", "canvases", "place"]

CANVAS = 160
# Share of the canvas that the grain's longer side takes: room to turn it and to show what is around it.
FILL = 0.85
# The transmission 1, nothing in the way of the light, as a byte: a lens makes rims up to half as bright again.
CLEAR = 170


def place(grain: CutGrain, canvas: int = CANVAS) -> np.ndarray:
    """A cut grain in the middle of a clear canvas, its longer side `FILL` of it.

    Args:
        grain: The grain.
        canvas: Side in pixels.

    Returns:
        Transmission, float32, shape (canvas, canvas, 3).
    """
    import cv2

    x1, y1, x2, y2 = grain.extent
    scale = FILL * canvas / max(x2 - x1, y2 - y1, 1)
    # Averaging first, as a warp alone would skip pixels of large pictures.
    height, width = (max(1, round(side * scale)) for side in grain.mask.shape)
    small = cv2.resize(
        grain.transmission, (width, height), interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    )
    fx, fy = width / grain.mask.shape[1], height / grain.mask.shape[0]
    shift = canvas / 2 - fx * (x1 + x2) / 2, canvas / 2 - fy * (y1 + y2) / 2
    move = np.array([[1, 0, shift[0]], [0, 1, shift[1]]], np.float32)
    return cv2.warpAffine(small, move, (canvas, canvas), flags=cv2.INTER_LINEAR, borderValue=(1, 1, 1))


def canvases(grains: Sequence[CutGrain], canvas: int = CANVAS) -> np.ndarray:
    """Cut grains as a `GrainSet` keeps them, uint8 (n, canvas, canvas, 3)."""
    placed = [np.uint8(np.clip(np.rint(place(grain, canvas) * CLEAR), 0, 255)) for grain in grains]
    return np.array(placed, np.uint8).reshape(len(placed), canvas, canvas, 3)


@dataclass(frozen=True)
class GrainSet:
    """Cut grains with their taxa.

    Attributes:
        pixels: uint8, shape (N, side, side, 3): transmission times `CLEAR`.
        taxa: Label of each.
        names: File of each.
    """

    pixels: np.ndarray
    taxa: tuple[str, ...]
    names: tuple[str, ...]

    def __post_init__(self) -> None:
        shape = np.shape(self.pixels)
        if len(shape) != 4 or shape[1] != shape[2] or shape[3] != 3 or self.pixels.dtype != np.uint8:
            raise UsageError(f"pixels: expected uint8 (N, side, side, 3), got {self.pixels.dtype} {shape}")
        for field, values in (("taxa", self.taxa), ("names", self.names)):
            if len(values) != shape[0]:
                raise UsageError(f"{field}: expected one a grain, {shape[0]}, got {len(values)}")

    def __len__(self) -> int:
        return len(self.taxa)

    def select(self, kept: Sequence[bool] | np.ndarray) -> GrainSet:
        """The grains for which `kept`, Boolean (N,), is true."""
        at = np.flatnonzero(np.asarray(kept, bool))
        return GrainSet(self.pixels[at], tuple(self.taxa[i] for i in at), tuple(self.names[i] for i in at))

    @classmethod
    def collect(cls, grains: Iterable[tuple[CutGrain, str, str]], canvas: int = CANVAS) -> GrainSet:
        """From cut grains, each with its taxon and the name of its file.

        Raises:
            InputError: There is none.
        """
        placed = [(np.uint8(np.clip(np.rint(place(g, canvas) * CLEAR), 0, 255)), t, n) for g, t, n in grains]
        if not placed:
            raise InputError("expected grains to train on, found none")
        pixels, taxa, names = zip(*placed, strict=True)
        return cls(np.stack(pixels), taxa, names)

    def save(self, path: str | Path, quality: int = 92) -> Path:
        """Writes one `.npz` of WebP pictures, a few kilobytes a grain."""
        from PIL import Image

        pictures = []
        for picture in self.pixels:
            file = io.BytesIO()
            Image.fromarray(picture).save(file, "WEBP", quality=quality, method=6)
            pictures.append(file.getvalue())
        with replacing(path, "wb") as out:
            np.savez(
                out,
                pictures=np.frombuffer(b"".join(pictures), np.uint8),
                ends=np.cumsum([len(p) for p in pictures]),
                taxa=np.array(self.taxa),
                names=np.array(self.names),
            )
        return Path(path)

    @classmethod
    def load(cls, path: str | Path) -> GrainSet:
        """Reads what `save` wrote.

        Raises:
            InputError: It is another kind of file.
        """
        from PIL import Image

        try:
            with np.load(path, allow_pickle=False) as file:
                data, ends = file["pictures"].tobytes(), file["ends"].tolist()
                starts = [0, *ends[:-1]]
                pixels = [
                    np.asarray(Image.open(io.BytesIO(data[a:b]), formats=["WEBP"]).convert("RGB"))
                    for a, b in zip(starts, ends, strict=True)
                ]
                return cls(np.stack(pixels), tuple(file["taxa"].tolist()), tuple(file["names"].tolist()))
        except (OSError, KeyError, ValueError) as error:
            raise InputError(f"{path}: expected a set of cut grains (.npz), got {error}") from error
