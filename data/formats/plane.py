"""Regions of one plane of a TIFF file, decoding only the tiles or strips that they touch."""

from __future__ import annotations

from collections import OrderedDict
from math import prod

import numpy as np
from tifffile import TiffPage

from ...errors import SlideError
from .limits import DECODED_PIXELS, check_stream

__all__ = ["Plane"]

# A band of tiles across a wide slide is used by every region along it.
_KEPT_BYTES = 2**28

# Spectral cameras give some hundred. A region takes memory for all of them.
_CHANNELS = 512

# What microscopes and converters write. Left out: fax, raw camera and experimental codecs, and old-style JPEG.
_COMPRESSIONS = {1, 5, 7, 8, 32773, 32946, 33003, 33004, 33005, 34712, 34925, 50000, 50001}
# Photometric interpretations in which zero is white: white is zero, and inks.
_NONE_IS_WHITE = {0, 5}
_STREAMS = {7, 33003, 33004, 33005, 34712}


class Plane:
    """One page, by regions.

    Attributes:
        page: tifffile's page.
        width: Stored pixels.
        height: Stored pixels.
        channels: Samples a pixel.
        segment_pixels: Pixels of one tile or strip, which is what the smallest read decodes.
    """

    def __init__(self, page: TiffPage, nbytes: int) -> None:
        """Takes a page of a file.

        Args:
            page: tifffile's page; its file stays open.
            nbytes: Size of the file.

        Raises:
            SlideError: A layout or compression that is not read, or tiles that are missing or lie outside the file.
        """
        separate, depth, self.height, self.width, contiguous = page.shaped
        if page.dtype is None or depth != 1 or min(self.height, self.width) < 1:
            raise SlideError(f"expected a flat picture of numbers, got shape {page.shape}; export it as 8 or 16 bit")
        if page.compression not in _COMPRESSIONS:
            raise SlideError(
                f"expected a compression in common use, got {_name(page.compression)}; export the slide with LZW, "
                "Deflate or JPEG compression, or none"
            )
        self.page = page
        self.channels = separate * contiguous
        if self.channels > _CHANNELS:
            raise SlideError(f"expected at most {_CHANNELS} samples a pixel, got {self.channels}; the TIFF is damaged")
        self._separate = separate
        self._grid = (page.tilelength, page.tilewidth) if page.is_tiled else (page.rowsperstrip, self.width)
        self._memory: np.ndarray | None = None
        self._mapped = page.is_memmappable
        self._kept: OrderedDict[int, np.ndarray | None] = OrderedDict()
        self._held = 0
        rows, columns = (min(step, side) for step, side in zip(self._grid, (self.height, self.width), strict=True))
        self.segment_pixels = 1 if self._mapped else rows * columns
        self._check_layout(nbytes)

    def _check_layout(self, nbytes: int) -> None:
        """Every tile must be there: a file that was cut short is refused as a whole, not piece by piece."""
        page = self.page
        if min(self._grid) < 1 or prod(self._grid) > 4 * max(self.width * self.height, 2**20):
            raise SlideError(f"expected tiles no larger than the picture, got {self._grid[1]} x {self._grid[0]} pixels")
        if self.segment_pixels * self.channels > 4 * DECODED_PIXELS or self.segment_pixels > DECODED_PIXELS:
            raise SlideError(
                f"expected tiles or strips that can be decoded one by one, got {self._grid[1]} x {self._grid[0]} "
                "pixels; save the slide as a tiled TIFF"
            )
        offsets = np.asarray(page.dataoffsets, np.float64)
        counts = np.asarray(page.databytecounts, np.float64)
        expected = prod(page.chunked)
        if self._mapped:
            outside = int(page.dataoffsets[0] + page.nbytes > nbytes)
        elif len(offsets) < expected or len(counts) < expected:
            raise SlideError(
                f"expected {expected} tiles or strips, got {min(len(offsets), len(counts))}; it is damaged"
            )
        else:
            outside = int((offsets + counts > nbytes).sum())
        if outside:
            raise SlideError(
                f"expected a whole TIFF, got one with {outside} of {expected} tiles or strips beyond its end; "
                "it was cut short, copy it again"
            )

    def samples(self, x: int, y: int, width: int, height: int, blank: int | None = None) -> np.ndarray:
        """Stored samples of a region inside the plane, shape (height, width, C), in the machine's byte order.

        Args:
            x: Left edge, pixels.
            y: Upper edge, pixels.
            width: Pixels.
            height: Pixels.
            blank: What tiles that a scanner left out hold; None for white, as glass is.

        Raises:
            SlideError: A tile that decodes to something else.
            Exception: Whatever the codec raises at damaged data.
        """
        if self._mapped:
            if self._memory is None:
                self._memory = self.page.asarray(out="memmap", squeeze=False)
            stored = self._memory[:, 0, y : y + height, x : x + width]
            merged = np.moveaxis(stored, 0, 2).reshape(height, width, self.channels)
            return merged.astype(merged.dtype.newbyteorder("="))
        rows, columns = self._grid
        across, down = -(-self.width // columns), -(-self.height // rows)
        dtype = np.dtype(self.page.dtype).newbyteorder("=")
        if blank is None:
            ink = int(self.page.photometric) in _NONE_IS_WHITE
            blank = 0 if ink else 1 if dtype.kind in "bf" else int(np.iinfo(dtype).max)
        out = np.full((height, width, self.channels), blank, dtype)
        per_segment = self.channels // self._separate
        for plane in range(self._separate):
            for row in range(y // rows, -(-(y + height) // rows)):
                for column in range(x // columns, -(-(x + width) // columns)):
                    tile = self._segment((plane * down + row) * across + column)
                    if tile is None:
                        continue
                    top, left = row * rows, column * columns
                    y0, y1 = max(y, top), min(y + height, top + tile.shape[0])
                    x0, x1 = max(x, left), min(x + width, left + tile.shape[1])
                    channels = slice(plane * per_segment, (plane + 1) * per_segment)
                    out[y0 - y : y1 - y, x0 - x : x1 - x, channels] = tile[y0 - top : y1 - top, x0 - left : x1 - left]
        return out

    def _segment(self, index: int) -> np.ndarray | None:
        """One decoded tile or strip, shape (H, W, C); None where the file holds none."""
        if index in self._kept:
            self._kept.move_to_end(index)
            return self._kept[index]
        page = self.page
        offset, count = page.dataoffsets[index], page.databytecounts[index]
        tile = None
        if offset and count:
            file = page.parent.filehandle
            file.seek(offset)
            data = file.read(count)
            if page.compression in _STREAMS:
                check_stream(data, self._grid[1], self._grid[0])
            tables = {"jpegtables": page.jpegtables, "jpegheader": page.jpegheader} if page.compression == 7 else {}
            decoded, _, _ = page.decode(data, index, **tables)
            tile = np.asarray(decoded)[0]
        self._kept[index] = tile
        self._held += _cost(tile)
        while self._held > _KEPT_BYTES and len(self._kept) > 1:
            self._held -= _cost(self._kept.popitem(last=False)[1])
        return tile

    def close(self) -> None:
        """Forgets what was decoded."""
        self._kept.clear()
        self._held = 0
        self._memory = None


def _cost(tile: np.ndarray | None) -> int:
    """Bytes a kept tile takes, with those of Python's own about it."""
    return 500 + (0 if tile is None else tile.nbytes)


def _name(code: object) -> str:
    return str(getattr(code, "name", code))
