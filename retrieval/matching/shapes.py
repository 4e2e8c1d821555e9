"""A grain in 148 numbers that no training has a part in: `describe`.

Vectors of `grain-encoder` were trained to tell taxa apart, and hold the traits of the taxa that they were trained on:
of others they hold no more than what these numbers say, which know of no taxon. They change little however the grain is
turned and stained:

- outline: harmonics of its radius, elongation, convexity (11);
- rings: mean and spread of the density in eight rings (16), and the waves along six of them, from one to many in a turn
  (54), as apertures stand at equal angles;
- grain of the surface: spread, skewness and kurtosis of five differences of Gaussian blurs, in the core and at the rim
  (30);
- direction: how parallel edges are, here and there and as a whole (5); skewness and kurtosis of the density (2);
- local binary patterns, those of up to two changes, at three scales (30; Ojala et al. 2002, IEEE TPAMI 24, 971).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ...errors import UsageError
from ..encoders.image.grains import CLEAR

__all__ = ["NUMBERS", "describe"]

NUMBERS = 148

_LUMA = np.array([0.299, 0.587, 0.114], np.float32)
_ANGLES = 256
_RINGS = 8
# Waves in a turn: one, two, three, four, then bands.
_WAVES = ((1, 2), (2, 3), (3, 4), (4, 5), (5, 7), (7, 11), (11, 21), (21, 41), (41, None))
_BLURS = (0.8, 1.6, 3.2, 6.4, 12.8)
_CORE_PX = 14


def describe(pixels: np.ndarray) -> np.ndarray:
    """The numbers of cut grains.

    Args:
        pixels: Canvases, uint8 (n, 160, 160, 3), see `GrainSet`.

    Returns:
        float32, (n, NUMBERS); zeros for an empty canvas.

    Raises:
        UsageError: Other arrays.
    """
    pixels = np.asarray(pixels)
    if pixels.dtype != np.uint8 or pixels.ndim != 4 or pixels.shape[3] != 3:
        raise UsageError(f"pixels: expected uint8 (n, side, side, 3), got {pixels.dtype} {pixels.shape}")
    return np.array([_describe(canvas) for canvas in pixels], np.float32).reshape(len(pixels), NUMBERS)


def _describe(canvas: np.ndarray) -> np.ndarray:
    import cv2

    light = canvas.astype(np.float32) / CLEAR
    found = _outline(np.abs(np.log(np.clip(light, 0.02, None))).max(2))
    if found is None:
        return np.zeros(NUMBERS, np.float32)
    inside, contour = found
    density = -np.log(np.clip(light @ _LUMA, 0.02, None))
    held = density[inside]
    z = ((density - held.mean()) / (held.std() + 1e-3)).astype(np.float32)
    core = cv2.erode(inside.astype(np.uint8), np.ones((3, 3), np.uint8), iterations=_CORE_PX) > 0
    y, x = np.nonzero(inside)
    middle = float(x.mean()), float(y.mean())
    radii = _radii(inside, middle)
    regions = core, inside & ~core
    moments = [float(np.clip((z[inside] ** 3).mean(), -4, 4)), float(np.log((z[inside] ** 4).mean() + 1e-3))]
    parts = (
        _outline_numbers(inside, contour, radii),
        _ring_numbers(z, middle, radii),
        _grain_numbers(z, regions),
        _direction_numbers(z, regions),
        moments,
        _pattern_numbers(z, inside),
    )
    return np.concatenate(parts).astype(np.float32)


def _outline(strength: np.ndarray) -> tuple[np.ndarray, np.ndarray] | None:
    """The largest region that absorbs or refracts, filled, Boolean (S, S), and its contour; None if there is none."""
    import cv2

    seen = (cv2.GaussianBlur(strength, (0, 0), 1.5) > 0.03).astype(np.uint8)
    closed = cv2.morphologyEx(seen, cv2.MORPH_CLOSE, np.ones((9, 9), np.uint8))
    contours, _ = cv2.findContours(closed, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    contour = max(contours, key=cv2.contourArea, default=None)
    # Of less than a dozen pixels nothing can be said, and ellipses of them may have no width.
    if contour is None or cv2.contourArea(contour) < 12:
        return None
    filled = np.zeros_like(closed)
    cv2.drawContours(filled, [contour], -1, 1, -1)
    return filled > 0, contour


def _radii(inside: np.ndarray, middle: tuple[float, float]) -> np.ndarray:
    """How far the outline is from the middle in `_ANGLES` directions, pixels."""
    import cv2

    reach = np.arange(0, 0.7 * len(inside), 0.5)
    along = cv2.remap(inside.astype(np.uint8), *_rays(middle, np.ones(_ANGLES), reach), cv2.INTER_NEAREST)
    # The outermost point that is inside: bays behind a lobe are not seen.
    last = reach[len(reach) - 1 - along[:, ::-1].argmax(1)]
    return np.where(along.any(1), np.maximum(last, 0.5), 1.0)


def _rays(middle: tuple[float, float], radii: np.ndarray, at: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Points (angles, len(at)) at shares `at` of the radii, for `cv2.remap`."""
    angle = (np.arange(_ANGLES) * 2 * np.pi / _ANGLES)[:, None]
    far = radii[:, None] * at
    return (middle[0] + np.cos(angle) * far).astype(np.float32), (middle[1] + np.sin(angle) * far).astype(np.float32)


def _outline_numbers(inside: np.ndarray, contour: np.ndarray, radii: np.ndarray) -> list[float]:
    import cv2

    waves = np.abs(np.fft.rfft(radii))
    waves = 2 * waves / waves[0]
    bands = [np.sqrt((waves[low:high] ** 2).sum()) + 1e-3 for low, high in ((7, 16), (16, 40), (40, 100))]
    area = float(inside.sum())
    hull = max(cv2.contourArea(cv2.convexHull(contour)), 1.0)
    spread = np.linalg.eigvalsh(np.cov(np.stack(np.nonzero(inside)[::-1])))
    compact = cv2.arcLength(contour, True) ** 2 / (4 * np.pi * area)
    elongation = 0.5 * np.log(spread[1] / max(spread[0], 1e-6))
    return [*np.log(waves[2:7] + 3e-3), *np.log(bands), elongation, np.log(area / hull), np.log(compact)]


def _ring_numbers(z: np.ndarray, middle: tuple[float, float], radii: np.ndarray) -> list[float]:
    import cv2

    polar = cv2.remap(z, *_rays(middle, radii, np.linspace(0.03, 1.0, 5 * _RINGS)), cv2.INTER_LINEAR)
    rings = np.split(polar, _RINGS, axis=1)
    numbers: list[float] = []
    for ring in rings:
        numbers += [ring.mean(), ring.mean(1).std()]
    # The two innermost rings are too small for waves.
    for ring in rings[2:]:
        power = (np.abs(np.fft.rfft(ring, axis=0)) ** 2 / _ANGLES**2).mean(1)
        numbers += [np.log(power[low:high].sum() + 1e-4) for low, high in _WAVES]
    return numbers


def _grain_numbers(z: np.ndarray, regions: Sequence[np.ndarray]) -> list[float]:
    import cv2

    numbers: list[float] = []
    finer = z
    for blur in _BLURS:
        coarser = cv2.GaussianBlur(z, (0, 0), blur)
        band, finer = finer - coarser, coarser
        for region in regions:
            held = band[region] if region.any() else np.zeros(1, np.float32)
            spread = held.std() + 1e-4
            away = (held - held.mean()) / spread
            skew, tails = np.clip((away**3).mean(), -4, 4), np.clip((away**4).mean(), 1, 30)
            numbers += [np.log(spread), skew, np.log(tails)]
    return numbers


def _direction_numbers(z: np.ndarray, regions: Sequence[np.ndarray]) -> list[float]:
    """Coherence of the structure tensor: 1 where all edges are parallel."""
    import cv2

    smooth = cv2.GaussianBlur(z, (0, 0), 1)
    x, y = cv2.Sobel(smooth, cv2.CV_32F, 1, 0), cv2.Sobel(smooth, cv2.CV_32F, 0, 1)
    products = x * x, y * y, x * y

    def coherence(xx: np.ndarray, yy: np.ndarray, xy: np.ndarray) -> np.ndarray:
        return np.sqrt((xx - yy) ** 2 + 4 * xy**2) / (xx + yy + 1e-3)

    numbers: list[float] = []
    for blur in (3, 8):
        near = coherence(*(cv2.GaussianBlur(product, (0, 0), blur) for product in products))
        numbers += [near[region].mean() if region.any() else 0.0 for region in regions]
    whole = coherence(*(np.asarray(product[regions[0]].sum()) for product in products))
    return [*numbers, float(whole)]


def _pattern_numbers(z: np.ndarray, inside: np.ndarray) -> list[float]:
    import cv2

    y, x = np.mgrid[: len(z), : len(z)].astype(np.float32)
    numbers: list[float] = []
    for blur, radius in ((0.8, 1.5), (1.5, 3), (3, 6)):
        smooth = cv2.GaussianBlur(z, (0, 0), blur)
        bearings = np.arange(8) * np.pi / 4
        points = [(np.float32(x + radius * np.cos(a)), np.float32(y + radius * np.sin(a))) for a in bearings]
        higher = np.stack([cv2.remap(smooth, *point, cv2.INTER_LINEAR) > smooth for point in points])
        changes = (higher != np.roll(higher, 1, axis=0)).sum(0)
        pattern = np.where(changes <= 2, higher.sum(0), 9)
        numbers += list(np.sqrt(np.bincount(pattern[inside], minlength=10) / inside.sum()))
    return numbers
