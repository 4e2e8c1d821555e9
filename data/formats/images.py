"""Ordinary images: PNG, JPEG, BMP, WebP, GIF and JPEG 2000, by their first bytes and never by their name.

Pillow's plugins are called directly, so that only these formats are ever tried, its global limits stay as they are, and
ours apply before anything is decoded. The resolution that such files state is that of a printer or a screen, not of a
microscope, and is never taken as a scale.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import BmpImagePlugin, GifImagePlugin, Image, JpegImagePlugin, PngImagePlugin, WebPImagePlugin
from PIL.Jpeg2KImagePlugin import Jpeg2KImageFile

from ...errors import PalynoError, SlideError
from .limits import check_claim, stream_size
from .raster import Raster

__all__ = ["image_format", "open_image", "raster_from_pillow"]

_PLUGINS = {
    "PNG": PngImagePlugin.PngImageFile,
    "JPEG": JpegImagePlugin.JpegImageFile,
    "BMP": BmpImagePlugin.BmpImageFile,
    "WebP": WebPImagePlugin.WebPImageFile,
    "GIF": GifImagePlugin.GifImageFile,
    "JPEG 2000": Jpeg2KImageFile,
}
_FIRST_BYTES = {
    b"\x89PNG\r\n\x1a\n": "PNG",
    b"\xff\xd8\xff": "JPEG",
    b"BM": "BMP",
    b"GIF87a": "GIF",
    b"GIF89a": "GIF",
    b"\x00\x00\x00\x0cjP  \r\n\x87\n": "JPEG 2000",
    b"\xff\x4f\xff\x51": "JPEG 2000",
}
# Nothing is last in the other formats, or what is stands in their header.
_LAST_BYTES = {"JPEG": b"\xff\xd9", "GIF": b";"}
_ORIENTATION = 0x0112
# Pillow modes that are arrays of samples as they stand; the others are converted.
_SAMPLES = {"L", "LA", "RGB", "RGBA", "I", "F", "I;16", "I;16L", "I;16B", "I;16N"}


def image_format(head: bytes) -> str | None:
    """The format whose signature the first 16 bytes hold, or None."""
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "WebP"
    return next((name for first, name in _FIRST_BYTES.items() if head.startswith(first)), None)


def open_image(path: Path, kind: str) -> Raster:
    """An image file as `Pixels`; reads the header only.

    Args:
        path: The file.
        kind: What `image_format` said.

    Raises:
        SlideError: A size that cannot be true, or a PNG, JPEG or GIF that was cut short.
        Exception: Whatever Pillow raises at a damaged header.
    """
    nbytes = path.stat().st_size
    deep = False
    exif = b""
    if kind == "PNG":
        with path.open("rb") as file:
            for name, data in _png_chunks(file, nbytes):
                if name == b"IHDR":
                    deep = len(data) > 8 and data[8] == 16
                elif name == b"eXIf":
                    exif = data
    elif kind == "JPEG 2000":
        with path.open("rb") as file:
            claim = stream_size(file.read(2**16))
        deep = claim is not None and claim[2] > 8
    with _whole(path, kind), _PLUGINS[kind](path) as image:
        check_claim(*image.size, nbytes, at_once=True)
        tags = image.getexif() if kind != "PNG" else Image.Exif()
        if exif:
            tags.load(exif)
        orientation = tags.get(_ORIENTATION, 1)
        animated = getattr(image, "is_animated", False)
        size = image.size

    def decode() -> tuple[np.ndarray, bool]:
        # Pillow halves the depth of colour with 16 bits a channel; imagecodecs keeps it.
        if deep:
            import imagecodecs

            codec = imagecodecs.png_decode if kind == "PNG" else imagecodecs.jpeg2k_decode
            samples = codec(path.read_bytes())
            samples = samples[..., None] if samples.ndim == 2 else samples
            return samples, samples.shape[2] in (2, 4)
        with _whole(path, kind), _PLUGINS[kind](path) as image:
            check_claim(*image.size, nbytes, at_once=True)
            return _samples(image)

    notes = ("an animation: its first frame is read",) if animated else ()
    turned = orientation if orientation in range(1, 9) else 1
    return Raster(decode, size, format=kind, orientation=turned, notes=notes)


@contextmanager
def _whole(path: Path, kind: str) -> Iterator[None]:
    """Says of a file that cannot be decoded and lacks its format's last bytes that it was cut short.

    Not before it is decoded: many readable files lack them, or go on behind them.
    """
    try:
        yield
    except PalynoError:
        raise
    except Exception as error:
        last, nbytes = _LAST_BYTES.get(kind, b""), path.stat().st_size
        with path.open("rb") as file:
            file.seek(max(0, nbytes - len(last)))
            if file.read() == last:
                raise
        raise SlideError(
            f"expected a whole {kind}, got one that breaks off after {nbytes:,} bytes, before its end; copy or export "
            "it again"
        ) from error


def raster_from_pillow(image: Image.Image) -> Raster:
    """A Pillow image as `Pixels`; its EXIF orientation is honoured.

    Raises:
        SlideError: It has no pixels.
    """
    check_claim(*image.size, image.width * image.height, at_once=True)
    orientation = image.getexif().get(_ORIENTATION, 1)
    turned = orientation if orientation in range(1, 9) else 1
    return Raster(lambda: _samples(image), image.size, format=image.format or "array", orientation=turned)


def _samples(image: Image.Image) -> tuple[np.ndarray, bool]:
    """The samples of an image, shape (H, W, C), and whether the last channel is alpha."""
    mode = image.mode
    if mode in ("PA", "La", "RGBa") or "transparency" in image.info:
        mode = "RGBA"
    elif mode == "1":
        mode = "L"
    elif mode not in _SAMPLES:
        mode = "RGB"
    # In bands, for Pillow copies a picture twice on its way to an array.
    rows = max(1, 2**24 // image.width)
    samples = None
    for top in range(0, image.height, rows):
        bottom = min(top + rows, image.height)
        band = image.crop((0, top, image.width, bottom))
        band.info = image.info  # The transparent colour of a palette or an RGB image.
        array = np.asarray(band if band.mode == mode else band.convert(mode))
        array = array[..., None] if array.ndim == 2 else array
        if samples is None:
            samples = np.empty((image.height, *array.shape[1:]), array.dtype.newbyteorder("="))
        samples[top:bottom] = array
    assert samples is not None
    return samples, mode in ("LA", "RGBA")


def _png_chunks(file: BinaryIO, nbytes: int) -> Iterator[tuple[bytes, bytes]]:
    """Names of a PNG's chunks, with the data of the short ones; pixels are skipped.

    Raises:
        SlideError: The file ends before its end chunk.
    """
    at, name = 8, b""
    while name != b"IEND":
        file.seek(at)
        head = file.read(8)
        length, name = int.from_bytes(head[:4]), head[4:8]
        if at + 12 + length > nbytes:
            raise SlideError("expected a whole PNG, got one that ends before its end; copy or export it again")
        yield name, file.read(length) if name in (b"IHDR", b"eXIf") else b""
        at += 12 + length
