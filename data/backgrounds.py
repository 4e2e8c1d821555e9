"""Fields without grains: the light that a composed scene is multiplied into.

Patches come from real fields where no grain lies, or are synthesised from the colour statistics of such fields.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

__all__ = ["Field", "clean_windows", "standing_out", "synthetic_background", "window_of"]


@dataclass(frozen=True)
class Field:
    """A real field and the grains marked in it.

    Attributes:
        name: File name.
        picture: uint8, RGB, shape (H, W, 3).
        grains: `xyxy` boxes of its grains, float32, shape (N, 4), pixels.
        all_marked: Every grain is marked, so that all else in the field (debris, diatoms, fibres) is background.
    """

    name: str
    picture: np.ndarray
    grains: np.ndarray
    all_marked: bool = False


def clean_windows(field: Field, side: int, step: int | None = None, *, marks: np.ndarray | None = None) -> np.ndarray:
    """Top left corners of the square windows of a field that hold no grain.

    Where not every grain is marked, a window must also be empty to the eye: nothing in it may be darker or stronger in
    colour than the camera noise and the illumination explain.

    Args:
        field: The field.
        side: Side of a window in pixels.
        step: Distance between windows; half a side if None.
        marks: What `standing_out` found in the field's picture, where windows of several sides are looked for.

    Returns:
        int, shape (K, 2), `x, y`.
    """
    height, width = field.picture.shape[:2]
    if side > min(height, width):
        return np.empty((0, 2), int)
    step = step or max(1, side // 2)
    x, y = (np.append(np.arange(0, size - side, step), size - side) for size in (width, height))
    corners = np.stack(np.meshgrid(x, y), -1).reshape(-1, 2)
    free = ~_touches(corners, side, field.grains, margin=6)
    if not field.all_marked:
        free &= ~_touches_mask(corners, side, standing_out(field.picture) if marks is None else marks)
    return corners[free]


def window_of(field: Field, corner: Sequence[int] | np.ndarray, side: int, size: int) -> np.ndarray:
    """One window as light, float32, shape (size, size, 3), in [0, 255], resized to `size` pixels."""
    x, y = (int(v) for v in corner)
    window = field.picture[y : y + side, x : x + side].astype(np.float32)
    if side == size:
        return window
    return cv2.resize(window, (size, size), interpolation=cv2.INTER_AREA if side > size else cv2.INTER_CUBIC)


def synthetic_background(rng: np.random.Generator, size: int) -> np.ndarray:
    """An empty field: colour of the lamp, uneven illumination, mounting medium.

    Colours span what real bright fields show, from overexposed white through warm and blue lamps to dim grey.

    Returns:
        float32, shape (size, size, 3), in [0, 255].
    """
    level = rng.choice([rng.uniform(110, 190), rng.uniform(190, 250), 255.0], p=[0.35, 0.5, 0.15])
    tint = np.exp(rng.normal(0, [0.10, 0.05, 0.12])).astype(np.float32)
    tint /= tint.max()
    light = np.ones((size, size, 3), np.float32) * (level * tint)
    light *= illumination(rng, size)
    # Unevenness of the mounting medium: soft mottling over a few scales.
    for scale in (0.02, 0.06, 0.2):
        coarse = rng.normal(0, 1, (max(2, int(1 / scale)),) * 2 + (1,)).astype(np.float32)
        mottle = cv2.resize(coarse, (size, size), interpolation=cv2.INTER_CUBIC)
        light *= np.exp(rng.uniform(0, 0.012) * mottle)[..., None]
    return light


def illumination(rng: np.random.Generator, size: int) -> np.ndarray:
    """Uneven lamp light: a tilt and a vignette, float32, shape (size, size, 1), at most 1."""
    axis = np.linspace(-1, 1, size, dtype=np.float32)
    x, y = axis[None, :] - rng.uniform(-0.5, 0.5), axis[:, None] - rng.uniform(-0.5, 0.5)
    field = 1 + rng.uniform(-0.08, 0.08) * x + rng.uniform(-0.08, 0.08) * y - rng.uniform(0, 0.12) * (x * x + y * y)
    return (field / field.max())[..., None].astype(np.float32)


def standing_out(picture: np.ndarray) -> np.ndarray:
    """uint8 mask, shape (H, W), 1 where a pixel differs from its wide surroundings by more than noise and shading."""
    shrink = 4
    small = cv2.resize(picture, None, fx=1 / shrink, fy=1 / shrink, interpolation=cv2.INTER_AREA).astype(np.float32)
    lamp = np.median(small.reshape(-1, 3), axis=0) if picture.size else 255.0
    bright = np.percentile(small.reshape(-1, 3), 80, axis=0)
    reference = np.maximum(lamp, bright)
    density = np.abs(np.log((small + 1) / (reference + 1))).max(axis=2)
    wide = cv2.GaussianBlur(density, (0, 0), max(8.0, 0.05 * max(small.shape)))
    odd = (density > 0.35) | (np.abs(density - wide) > 0.06)
    odd = cv2.dilate(odd.astype(np.uint8), np.ones((3, 3), np.uint8))
    return cv2.resize(odd, picture.shape[1::-1], interpolation=cv2.INTER_NEAREST)


def _touches(corners: np.ndarray, side: int, boxes: np.ndarray, margin: int) -> np.ndarray:
    if not len(boxes):
        return np.zeros(len(corners), bool)
    x, y = corners.T[..., None]
    x1, y1, x2, y2 = boxes.T[:, None, :]
    far = side + margin
    meets = (x1 < x + far) & (x2 > x - margin) & (y1 < y + far) & (y2 > y - margin)
    return meets.any(axis=1)


def _touches_mask(corners: np.ndarray, side: int, mask: np.ndarray) -> np.ndarray:
    total = cv2.integral(mask)
    x, y = corners.T
    inside = total[y + side, x + side] - total[y, x + side] - total[y + side, x] + total[y, x]
    return inside > 0.002 * side * side
