"""Containers of slides, one per file: ordinary images, TIFF, and the scanners' own formats.

Each opens to `Pixels`, which knows one full-resolution level and reads regions of it. `palyno.data.slides` picks the
container, checks the region and names the slide in every error.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np

__all__ = ["Pixels"]


class Pixels(Protocol):
    """The full-resolution level of one slide.

    Attributes:
        format: Name of the container, as in `JPEG`, `OME-TIFF` or `aperio`.
        width: Pixels.
        height: Pixels.
        um_per_px: Micrometres a pixel by the file's own metadata, or None.
        notes: What was decided in reading it and the user should know.
    """

    format: str
    width: int
    height: int
    um_per_px: float | None
    notes: tuple[str, ...]

    def read(self, x: int, y: int, width: int, height: int) -> np.ndarray:
        """The region as uint8 RGB, shape (height, width, 3); the region lies inside the level."""

    def close(self) -> None:
        """Lets go of files and memory."""
