"""EXIF and TIFF orientation 1 to 8: which stored pixels a shown region is made of, and how they are turned."""

from __future__ import annotations

import numpy as np

__all__ = ["shown_size", "stored_region", "turn"]


def shown_size(orientation: int, width: int, height: int) -> tuple[int, int]:
    """Width and height as shown, from those as stored."""
    return (height, width) if orientation >= 5 else (width, height)


def stored_region(
    orientation: int, region: tuple[int, int, int, int], width: int, height: int
) -> tuple[int, int, int, int]:
    """The stored region `x, y, width, height` behind a shown one.

    Args:
        orientation: 1 to 8: row 0 and column 0 are top left, top right, bottom right, bottom left, left top, right top,
            right bottom, left bottom (TIFF 6.0, tag 274).
        region: Shown `x, y, width, height`.
        width: Stored pixels.
        height: Stored pixels.
    """
    x, y, w, h = region
    if orientation >= 5:
        x, y, w, h = y, x, h, w
    if orientation in (2, 3, 7, 8):
        x = width - x - w
    if orientation in (3, 4, 6, 7):
        y = height - y - h
    return x, y, w, h


def turn(orientation: int, stored: np.ndarray) -> np.ndarray:
    """A stored array, shape (H, W, C), as it is shown."""
    if orientation in (2, 3, 7, 8):
        stored = stored[:, ::-1]
    if orientation in (3, 4, 6, 7):
        stored = stored[::-1]
    return stored.swapaxes(0, 1) if orientation >= 5 else stored
