"""Slides: any picture of a microscope, read by regions of its full-resolution level.

    with open_slide("slide.svs") as slide:
        region = slide.read(1000, 2000, 640, 640)    # uint8 RGB

A file is opened by what it is, not by what it is called. Whatever is wrong with it is a `SlideError` that names it.
"""

from __future__ import annotations

import math
import stat
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from operator import index
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import PalynoError, SlideError, UsageError
from .folders import SCANNER_SUFFIXES, Skipped, find_slides
from .formats import Pixels
from .formats.limits import DECODED_PIXELS

if TYPE_CHECKING:
    from PIL import Image

__all__ = ["Skipped", "Slide", "find_slides", "open_slide", "slide_from"]


class Slide:
    """One slide, open for reading; a context manager.

    Reading takes turns: several threads may share a slide, several processes open one each.

    Attributes:
        name: File name, or the name given with an array.
        path: The file; None for an array.
        width: Pixels of the full-resolution level.
        height: Pixels of the full-resolution level.
        um_per_px: Micrometres a pixel; None where not known.
        um_source: `metadata`, `caller`, or None.
        format: Name of the container.
    """

    def __init__(self, name: str, path: Path | None, pixels: Pixels, um_per_px: float | None = None) -> None:
        """Use `open_slide` or `slide_from`.

        Args:
            name: Name of the slide.
            path: Its file, if it has one.
            pixels: Its container.
            um_per_px: What the caller says; goes before the metadata.

        Raises:
            UsageError: `um_per_px` is not a positive number.
        """
        self.name, self.path = name, path
        self.width, self.height, self.format = pixels.width, pixels.height, pixels.format
        self.um_per_px = pixels.um_per_px if um_per_px is None else float(um_per_px)
        self.um_source = None if self.um_per_px is None else "metadata" if um_per_px is None else "caller"
        self._pixels: Pixels | None = pixels
        self._notes: tuple[str, ...] = ()
        self._lock = threading.Lock()
        stated = pixels.um_per_px
        if um_per_px is not None and stated and not 0.95 < stated / um_per_px < 1.05:
            self._notes = (f"the caller's {um_per_px:g} um a pixel is used; the file states {stated:.4g}",)

    @property
    def notes(self) -> tuple[str, ...]:
        """What was decided in reading it and the user should know; may grow with the first read."""
        return self._notes if self._pixels is None else self._notes + self._pixels.notes

    def read(self, x: int, y: int, width: int, height: int) -> np.ndarray:
        """A region of the full-resolution level.

        Args:
            x: Left edge, pixels.
            y: Upper edge, pixels.
            width: Pixels.
            height: Pixels.

        Returns:
            uint8 RGB, shape (height, width, 3); the caller's to change.

        Raises:
            UsageError: The region is empty or leaves the slide.
            SlideError: The region is damaged, or the slide is closed; other regions can still be read.
        """
        x, y, width, height = index(x), index(y), index(width), index(height)
        if min(x, y) < 0 or min(width, height) < 1 or x + width > self.width or y + height > self.height:
            raise UsageError(
                f"{self.name}: expected a region inside {self.width} x {self.height} pixels, got {width} x {height} "
                f"at ({x}, {y}); clip it to the slide"
            )
        if width * height > DECODED_PIXELS:
            raise UsageError(
                f"{self.name}: expected a region of at most {DECODED_PIXELS:,} pixels, got {width} x {height}; "
                "read it in tiles"
            )
        with self._lock:
            if self._pixels is None:
                raise SlideError(f"{self.name}: expected an open slide, got a closed one; open it again")
            with _named(self.name, f"region {width} x {height} at ({x}, {y}) of this {self.format}"):
                return self._pixels.read(x, y, width, height)

    def close(self) -> None:
        """Closes the file; a second time does nothing."""
        with self._lock:
            if self._pixels is not None:
                self._notes = self.notes
                self._pixels.close()
                self._pixels = None

    def __enter__(self) -> Slide:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"Slide({self.name!r}, {self.width} x {self.height}, {self.format})"


@contextmanager
def _named(name: str, what: str) -> Iterator[None]:
    """Turns whatever a decoder raises into a `SlideError` that names the slide.

    Decoders of damaged files raise errors of nearly every class, so none is left out.
    """
    try:
        yield
    except PalynoError as error:
        raise type(error)(f"{name}: {error}") from error
    except Exception as error:
        reason = " ".join(str(error).split())[:300] or "no reason given"
        raise SlideError(
            f"{name}: expected a readable {what}, got {type(error).__name__}: {reason}; the file is damaged or cut "
            "short, copy it again or export it anew"
        ) from error


def open_slide(path: str | Path, *, um_per_px: float | None = None) -> Slide:
    """Opens a slide file of any supported format.

    Args:
        path: An image, a TIFF of any dialect, or a scanner's whole-slide file.
        um_per_px: Micrometres a pixel, where the caller knows better than the file.

    Returns:
        The slide, open.

    Raises:
        UsageError: `um_per_px` is not a positive number.
        SlideError: The file is missing, not an image, damaged, or claims a size that cannot be.
    """
    _check_scale(um_per_px)
    path = Path(path)
    with _named(path.name, "slide"):
        return Slide(path.name, path, _open(path), um_per_px)


def slide_from(
    image: str | Path | np.ndarray | Image.Image, *, name: str = "image", um_per_px: float | None = None
) -> Slide:
    """A slide from whatever holds a picture.

    Args:
        image: A path, an array, or a Pillow image. Arrays have shape (H, W), (H, W, 3) in RGB order, or (H, W, 4) with
            alpha; uint8 is taken as it is, other types are stretched as `palyno.data.formats.tones` says.
        name: Name of a slide that has no file.
        um_per_px: Micrometres a pixel, where known.

    Raises:
        UsageError: Something else than these, or `um_per_px` is not a positive number.
        SlideError: As `open_slide`; an array of another shape or type.
    """
    if isinstance(image, str | Path):
        return open_slide(image, um_per_px=um_per_px)
    _check_scale(um_per_px)
    from PIL import Image

    from .formats.images import raster_from_pillow
    from .formats.raster import raster_from_array

    with _named(name, "picture"):
        if isinstance(image, Image.Image):
            return Slide(name, None, raster_from_pillow(image), um_per_px)
        if isinstance(image, np.ndarray):
            return Slide(name, None, raster_from_array(image), um_per_px)
    raise UsageError(f"expected a path, a numpy array or a PIL image, got {type(image).__name__}; convert it to one")


def _check_scale(um_per_px: Any) -> None:
    if um_per_px is not None and not (
        isinstance(um_per_px, int | float | np.number) and math.isfinite(um_per_px) and um_per_px > 0
    ):
        raise UsageError(f"expected micrometres a pixel above 0, got {um_per_px!r}; leave it out where it is not known")


def _open(path: Path) -> Pixels:
    try:
        status = path.stat()
    except (OSError, ValueError) as error:
        raise SlideError(f"expected a file at {path}, got {type(error).__name__}; check the path") from error
    if stat.S_ISDIR(status.st_mode):
        raise SlideError("expected a file, got a folder; find_slides lists the slides in it")
    # A pipe or a device would block for ever.
    if not stat.S_ISREG(status.st_mode):
        raise SlideError("expected a regular file, got a pipe, socket or device; save the slide to disk first")
    if status.st_size == 0:
        raise SlideError("expected an image, got an empty file of 0 bytes; copy it again")
    with path.open("rb") as file:
        head = file.read(16)
    from .formats.ifd import check_chain, is_tiff
    from .formats.images import image_format, open_image

    scanner = path.suffix.lower() in SCANNER_SUFFIXES
    if is_tiff(head) or scanner:
        from .formats.scanner import ScannerSlide, scanner_format

        if is_tiff(head):
            check_chain(path)
        vendor = scanner_format(path)
        # Plain pyramids are read by tifffile, which knows their depth and their stacks.
        if vendor not in (None, "generic-tiff"):
            return ScannerSlide(path, vendor)
        if is_tiff(head):
            from .formats.tiff import TiffSlide

            return TiffSlide(path)
        raise SlideError(
            f"expected a whole-slide scan, got a {path.suffix} file that OpenSlide does not know; copy it together "
            "with the folder that belongs to it"
        )
    kind = image_format(head)
    if kind is None:
        raise SlideError(
            f"expected PNG, JPEG, TIFF, BMP, WebP, GIF, JPEG 2000 or a whole-slide scan, got a file that begins with "
            f"{head[:8]!r}; it is no image of these, whatever its name, export it as one"
        )
    return open_image(path, kind)
