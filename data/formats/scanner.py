"""Whole-slide formats of scanners (SVS, NDPI, MRXS, SCN, BIF, VMS, DICOM ...) through OpenSlide."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from openslide import OpenSlide, OpenSlideError

from .pixel_size import agreed
from .tones import EIGHT_BITS, to_rgb

__all__ = ["ScannerSlide", "scanner_format"]


def scanner_format(path: Path) -> str | None:
    """OpenSlide's name of the vendor, or None where it does not know the file."""
    return OpenSlide.detect_format(path)


class ScannerSlide:
    """`Pixels` of level 0 of a whole-slide scan."""

    def __init__(self, path: Path, vendor: str) -> None:
        """Opens the scan; reads no pixels.

        Args:
            path: The file.
            vendor: What `scanner_format` said.

        Raises:
            OpenSlideError: A damaged scan.
        """
        self._path = path
        self._slide = OpenSlide(path)
        self.format = vendor
        self.width, self.height = self._slide.dimensions
        x, y = (_number(self._slide.properties.get(f"openslide.mpp-{axis}")) for axis in "xy")
        self.um_per_px, self.notes = agreed(x, y, vendor)

    def read(self, x: int, y: int, width: int, height: int) -> np.ndarray:
        """The region as uint8 RGB on white, shape (height, width, 3).

        Raises:
            OpenSlideError: The region is damaged; others can still be read.
        """
        try:
            region = self._slide.read_region((x, y), 0, (width, height))
        except OpenSlideError:
            # OpenSlide answers every later call with its first error, so the scan is opened anew.
            self._slide.close()
            self._slide = OpenSlide(self._path)
            raise
        return to_rgb(np.asarray(region), EIGHT_BITS, alpha="straight")

    def close(self) -> None:
        """Closes the scan."""
        self._slide.close()


def _number(text: str | None) -> float | None:
    try:
        return float(text) if text else None
    except ValueError:
        return None
