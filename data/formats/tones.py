"""Samples of any depth to the 8-bit RGB that detectors see.

8-bit samples stay as they are. Deeper ones have no agreed white: cameras put 10, 12 or 14 bits into 16. The white of a
slide is therefore the full scale of the fewest bits that hold it (or of those that the file declares), so that the same
picture saved with 8, 12 or 16 bits reads the same. Where a slide uses less than 80 % of that scale it is stretched
from its darkest to its brightest value instead, as ImageJ shows it: at least 200 grey levels are left. Both are read
off once per slide, for all channels together, so that tiles agree and colours keep their balance. A single hot or dead
pixel moves neither end: only values that all four pixels of a 2 x 2 square reach count.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from math import ceil

import numpy as np

__all__ = ["EIGHT_BITS", "Tones", "fit_tones", "sample_windows", "to_rgb"]

_FILLED = 0.8


@dataclass(frozen=True)
class Tones:
    """The sample values shown as black and as white."""

    black: float
    white: float

    def apply(self, samples: np.ndarray) -> np.ndarray:
        """Samples of any shape and number type as uint8, linear between black and white, clipped outside."""
        if samples.dtype == np.uint8 and self == EIGHT_BITS:
            return samples
        if samples.dtype in (np.uint8, np.uint16):
            return self._scaled(np.arange(np.iinfo(samples.dtype).max + 1))[samples]
        return self._scaled(samples)

    def _scaled(self, values: np.ndarray) -> np.ndarray:
        share = (np.asarray(values, np.float64) - self.black) / (self.white - self.black)
        return (np.nan_to_num(np.clip(share, 0, 1)) * 255 + 0.5).astype(np.uint8)


EIGHT_BITS = Tones(0, 255)


def sample_windows(width: int, height: int, side: int = 512, per_axis: int = 5) -> Iterator[tuple[int, int, int, int]]:
    """Windows `x, y, width, height` that stand for a picture: all of it up to 16 Mpx, else an even grid of squares."""
    if width * height <= 2**24:
        across, down = (min(4, max(1, length // 64)) for length in (width, height))
        for row in range(down):
            for column in range(across):
                x, y = width * column // across, height * row // down
                yield x, y, width * (column + 1) // across - x, height * (row + 1) // down - y
        return
    for row in range(per_axis):
        for column in range(per_axis):
            w, h = min(side, width), min(side, height)
            yield (width - w) * column // (per_axis - 1), (height - h) * row // (per_axis - 1), w, h


def _steady_range(samples: np.ndarray) -> tuple[float, float]:
    """Darkest and brightest value that a 2 x 2 square of samples, shape (H, W, C), holds throughout."""
    if samples.dtype.kind == "f":
        finite = np.isfinite(samples)
        samples = np.where(finite, samples, samples[finite].mean() if finite.any() else 0)
    low = high = samples
    if len(samples) > 1:
        low, high = np.maximum(low[1:], low[:-1]), np.minimum(high[1:], high[:-1])
    if samples.shape[1] > 1:
        low, high = np.maximum(low[:, 1:], low[:, :-1]), np.minimum(high[:, 1:], high[:, :-1])
    return float(low.min()), float(high.max())


def fit_tones(patches: Iterable[np.ndarray], bits: int | None = None) -> Tones:
    """Black and white of a slide from patches of it.

    Args:
        patches: Colour samples of one number type, shape (H, W, C) each; at least one.
        bits: Significant bits, where the file declares them.
    """
    ranges, kind = [], ""
    for patch in patches:
        if patch.dtype == np.uint8 and bits in (None, 8):
            return EIGHT_BITS
        kind = patch.dtype.kind
        if kind == "b":
            return Tones(0, 1)
        ranges.append(_steady_range(patch))
    low, high = min(r[0] for r in ranges), max(r[1] for r in ranges)
    if low > high:  # Nothing but single specks: a picture of noise, or of one pixel a side.
        low, high = high, low
    if low < 0:
        return Tones(low, high if high > low else low + 1)
    if bits is not None and bits <= 8:
        return Tones(0, 2**bits - 1)
    white = 1 if kind == "f" and high <= 1 else 2 ** max(8, bits or 0, ceil(high).bit_length()) - 1
    return Tones(low, high) if low < high and high - low < _FILLED * white else Tones(0, white)


def to_rgb(samples: np.ndarray, tones: Tones, *, alpha: str | None = None, inverted: bool = False) -> np.ndarray:
    """Grey or RGB samples, with or without alpha, as uint8 RGB on white.

    Args:
        samples: Shape (H, W, C): one or three channels of colour, then alpha if there is any.
        tones: Black and white of the colour channels; alpha is full at the largest value of its type.
        alpha: None, `straight`, or `premultiplied` where the colour holds alpha already.
        inverted: Whether zero is white.

    Returns:
        uint8, shape (H, W, 3), a new array.
    """
    colour = tones.apply(samples[..., :-1] if alpha else samples)
    if inverted:
        colour = 255 - colour
    rgb = np.array(np.broadcast_to(colour, (*colour.shape[:2], 3)), order="C")
    if alpha:
        full = np.iinfo(samples.dtype).max if samples.dtype.kind in "iu" else 1
        share = np.clip(samples[..., -1:].astype(np.float32) / full, 0, 1)
        shown = rgb.astype(np.float32) * (share if alpha == "straight" else 1) + 255 * (1 - share)
        rgb = np.clip(shown + 0.5, 0, 255).astype(np.uint8)
    return rgb
