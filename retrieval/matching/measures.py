"""What a cut grain shows without any model: outline, stain, and size where the pixel size is known."""

from __future__ import annotations

import colorsys
from dataclasses import dataclass

import numpy as np

from ...data.grains import CutGrain
from ...errors import UsageError

__all__ = ["COLOURS", "OUTLINES", "SIZES", "Measures", "measure"]

OUTLINES = ("round", "elongated", "triangular", "lobed")
COLOURS = ("colourless", "grey", "yellow", "brown", "red", "pink", "purple", "blue", "green")
SIZES = ("very small", "small", "medium", "large", "very large")
# Upper bounds of the size classes but the last, micrometres; see `palyno.data.traits.TERMS`.
_SIZE_LIMITS = (10.0, 25.0, 50.0, 100.0)
_BEARINGS = 72
# Upper bounds of the hues, shares of the circle.
_HUES = ((0.05, "red"), (0.19, "yellow"), (0.5, "green"), (0.7, "blue"), (0.87, "purple"), (1.0, "pink"))


@dataclass(frozen=True)
class Measures:
    """Measures of one grain.

    Attributes:
        length_px: Longest diameter through the middle, pixels.
        width_px: Shortest.
        harmonics: Amplitudes of the outline's second to sixth Fourier harmonic, shares of the mean radius: the second
            is large for ellipses, the third for triangles.
        density: Mean optical density in red, green and blue.
        length_um: Longest diameter in micrometres; None without a pixel size.
    """

    length_px: float
    width_px: float
    harmonics: tuple[float, ...]
    density: tuple[float, float, float]
    length_um: float | None = None

    @property
    def outline(self) -> str:
        """One of `OUTLINES`."""
        second, third, *higher = self.harmonics
        if max(self.harmonics) < 0.045:
            return "round"
        if second >= max(third, *higher):
            return "elongated" if self.length_px > 1.2 * self.width_px else "round"
        return "triangular" if third >= max(higher) else "lobed"

    @property
    def colour(self) -> str:
        """One of `COLOURS`: what the light that comes through looks like."""
        hue, saturation, value = colorsys.rgb_to_hsv(*np.exp(-np.maximum(self.density, 0)).tolist())
        if saturation < 0.12:
            return "colourless" if value > 0.8 else "grey"
        name = next(name for limit, name in _HUES if hue <= limit)
        if name == "yellow" and value < 0.65:
            return "brown"
        return "red" if name == "pink" and hue > 0.94 and value < 0.75 else name

    @property
    def size(self) -> str | None:
        """One of `SIZES`, None without a pixel size."""
        if self.length_um is None:
            return None
        return SIZES[int(np.searchsorted(_SIZE_LIMITS, self.length_um))]

    def vector(self) -> np.ndarray:
        """The measures as numbers of similar spread, float32, (9,); of the size if it is known, and its logarithm."""
        known = self.length_um is not None
        size = np.log(self.length_um / 30.0) if self.length_um else 0.0
        elongation = np.log(self.length_px / max(self.width_px, 1.0))
        outline = [*(10 * h for h in self.harmonics[:3]), 4 * elongation]
        return np.array([*outline, *(2 * d for d in self._chroma()), float(known), size], np.float32)

    def _chroma(self) -> tuple[float, float, float]:
        red, green, blue = self.density
        return (red - green, green - blue, (red + green + blue) / 3)


def measure(grain: CutGrain, um_per_px: float | None = None) -> Measures:
    """Measures a cut grain.

    Args:
        grain: The grain.
        um_per_px: Pixel size of its picture; never guessed.

    Raises:
        UsageError: The grain has no area, or the pixel size is not above 0.
    """
    if um_per_px is not None and not um_per_px > 0:
        raise UsageError(f"um_per_px: expected micrometres above 0, got {um_per_px!r}")
    inside = grain.mask > 0.5
    y, x = np.nonzero(inside)
    if not len(y):
        raise UsageError("expected a grain with a mask, got an empty one")
    y, x = y - y.mean(), x - x.mean()
    bearing = ((np.arctan2(y, x) / (2 * np.pi)) * _BEARINGS).astype(int) % _BEARINGS
    radius = np.zeros(_BEARINGS)
    np.maximum.at(radius, bearing, np.hypot(x, y) + 0.5)
    radius = np.where(radius > 0, radius, radius.mean())
    waves = np.abs(np.fft.rfft(radius)) / _BEARINGS
    harmonics = tuple(float(2 * w / waves[0]) for w in waves[2:7])
    across = radius + np.roll(radius, _BEARINGS // 2)
    length = float(across.max())
    density = -np.log(np.clip(grain.transmission[inside], 0.02, 1.5)).mean(0)
    red, green, blue = (float(d) for d in density)
    size = None if um_per_px is None else length * um_per_px
    return Measures(length, float(across.min()), harmonics, (red, green, blue), size)
