"""TIFF in all its dialects through tifffile: OME-TIFF, ImageJ, BigTIFF, tiles and strips, focus stacks, any depth.

The picture is the largest page and those like it; thumbnails, labels and pyramid levels are left. Of a focus stack one
plane is read, the sharpest, for a detector sees one plane at a time. Separate red, green and blue planes are put
together; other channels cannot be shown as one picture, and the first is read.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from tifffile import TiffFile, TiffPage

from ...errors import SlideError
from .ifd import check_chain
from .limits import check_claim
from .orientation import shown_size, stored_region, turn
from .pixel_size import OmeImage, from_imagej, from_resolution, read_ome
from .pixel_size import agreed as agreed_scale
from .plane import Plane
from .tones import EIGHT_BITS, Tones, fit_tones, sample_windows, to_rgb

__all__ = ["TiffSlide"]

# tifffile logs every oddity of a damaged file; what matters is raised.
logging.getLogger("tifffile").addHandler(logging.NullHandler())

_WHITE_IS_ZERO, _BLACK_IS_ZERO, _RGB, _PALETTE, _CMYK, _YCBCR = 0, 1, 2, 3, 5, 6
_COLOURS = {_WHITE_IS_ZERO: 1, _BLACK_IS_ZERO: 1, _RGB: 3, _PALETTE: 1, _CMYK: 4, _YCBCR: 3}
_ALPHA = {1: "premultiplied", 2: "straight"}

# Planes of a stack that are compared, and the pixels of a tile up to which comparing is cheap.
_COMPARED_PLANES = 64
_CHEAP_SEGMENT = 2**24


class TiffSlide:
    """`Pixels` of a TIFF file."""

    def __init__(self, path: Path) -> None:
        """Reads the directories, and of a stack a few tiles a plane.

        Raises:
            SlideError: A chain of directories that does not end, sizes that cannot be true, or what is not a picture.
            Exception: Whatever tifffile raises at a damaged file.
        """
        nbytes = path.stat().st_size
        check_chain(path)
        self._file = TiffFile(path)
        try:
            self._open(nbytes)
        except BaseException:
            self._file.close()
            raise

    def _open(self, nbytes: int) -> None:
        pages = _full_resolution(self._file.pages)
        page = pages[0]
        check_claim(page.imagewidth, page.imagelength, nbytes, at_once=False)
        ome = read_ome(page.parent.pages.first.description, page.imagewidth, page.imagelength)
        plain = "BigTIFF" if self._file.is_bigtiff else "TIFF"
        self.format = "OME-TIFF" if ome else "ImageJ TIFF" if self._file.is_imagej else plain
        self.um_per_px, self.notes = _scale(self._file, page, ome)
        self._planes = [Plane(p, nbytes) for p in self._choose(pages, ome, nbytes)]
        self._page = page = self._planes[0].page
        self._photometric = int(page.photometric)
        if self._photometric not in _COLOURS:
            raise SlideError(f"expected grey, RGB, CMYK or palette colour, got {page.photometric!r}; export it as RGB")
        orientation = page.tags.valueof(274, 1)
        self._orientation = orientation if orientation in range(1, 9) else 1
        self.width, self.height = shown_size(self._orientation, page.imagewidth, page.imagelength)
        extra = [int(e) for e in page.extrasamples]
        channels = self._planes[0].channels
        colours = _COLOURS[self._photometric]
        if colours == 1 and channels - len(extra) >= 3:
            colours, self._photometric = 3, _RGB
        if len(self._planes) == 3:
            channels, colours, self._photometric, extra = 3, 3, _RGB, []
        if channels < colours:
            raise SlideError(f"expected {colours} samples a pixel, got {channels}; the TIFF is damaged")
        self._colours = colours
        self._alpha_at = next((channels - len(extra) + i for i, e in enumerate(extra) if e in _ALPHA), None)
        if self._alpha_at is not None and not colours <= self._alpha_at < channels:
            self._alpha_at = None
        self._alpha = None if self._alpha_at is None else _ALPHA[extra[self._alpha_at - channels + len(extra)]]
        bits = page.bitspersample if isinstance(page.bitspersample, int) else None
        declared = ome.bits if ome and ome.bits and bits and ome.bits < bits else bits
        self._bits = None if declared in (16, 32, 64) or bits is None else declared
        self._tones: Tones | None = None

    def _choose(self, pages: list[TiffPage], ome: OmeImage | None, nbytes: int) -> list[TiffPage]:
        """The page that is read, or the three that make its colours."""
        sizes, order = {"Z": len(pages), "C": 1, "T": 1}, "ZCT"
        if ome:
            # It counts all directories of the file, thumbnails and labels too.
            sizes, order = ome.planes, ome.order
            pages = [p for p in pages if p.index >= ome.first] or pages
            if ome.of > 1:
                self.notes += (f"the file describes {ome.of} images: the first of the largest is read",)
        elif self._file.is_imagej:
            meta = self._file.imagej_metadata or {}
            names = {"C": "channels", "Z": "slices", "T": "frames"}
            sizes = {axis: max(1, int(meta.get(name, 1))) for axis, name in names.items()}
            order = "CZT"
            if sizes["C"] * sizes["Z"] * sizes["T"] == 1:  # `images` alone says how many, not along which axis.
                sizes["Z"] = len(pages)
        samples = pages[0].samplesperpixel
        if sizes["C"] == samples and sizes["C"] * sizes["Z"] * sizes["T"] == samples * len(pages):
            sizes = sizes | {"C": 1}  # Colours of one plane, that some writers count as channels.
        described = sizes["C"] * sizes["Z"] * sizes["T"]
        if described > len(pages):  # The rest lies in other files, or without directories: ImageJ above 4 GB.
            self.notes += (
                f"{described} planes are described and {len(pages)} can be found: only these are looked at; export the "
                "whole stack as one OME-TIFF",
            )
        if sorted(order) != ["C", "T", "Z"] or described > len(pages):
            sizes, order = {"Z": len(pages), "C": 1, "T": 1}, "ZCT"
        step, steps = 1, {}
        for axis in order:
            steps[axis] = step
            step *= sizes[axis]
        if sizes["T"] > 1:
            self.notes += (f"{sizes['T']} times: the first is read",)
        channels = [0, 1, 2] if sizes["C"] == 3 and pages[0].samplesperpixel == 1 else [0]
        if sizes["C"] > 1:
            shown = "shown as red, green and blue" if len(channels) == 3 else "the first is read"
            self.notes += (f"{sizes['C']} channels in planes of their own: {shown}",)
        depth = sizes["Z"]
        z = 0
        if depth > 1:
            z, how = self._sharpest([pages[steps["Z"] * i] for i in range(depth)], nbytes)
            self.notes += (f"plane {z + 1} of {depth} is read, the {how}",)
        return [pages[steps["Z"] * z + steps["C"] * c] for c in channels]

    def _sharpest(self, stack: list[TiffPage], nbytes: int) -> tuple[int, str]:
        """Index of the plane in best focus by Brenner's gradient, and the word for it; the middle one if that is dear.

        Source: Brenner et al. 1976, An automated microscope for cytologic research, J Histochem Cytochem 24:100-111.
        """
        middle = (len(stack) - 1) / 2
        planes = [(i, Plane(stack[i], nbytes)) for i in range(0, len(stack), -(-len(stack) // _COMPARED_PLANES))]
        if planes[0][1].segment_pixels > _CHEAP_SEGMENT:
            return int(middle), "middle one"
        scores = []
        for index, plane in planes:
            gradients = [0.0]
            for patch in _undamaged(plane.samples, sample_windows(plane.width, plane.height, 256, 3)):
                if patch.shape[1] > 2:
                    across = patch[:, 2:].astype(np.float32) - patch[:, :-2]
                    gradients.append(float(np.nan_to_num(across**2).mean()))
            plane.close()
            scores.append((sum(gradients) / len(gradients), -abs(index - middle), -index))
        return -max(scores)[2], "sharpest"

    def read(self, x: int, y: int, width: int, height: int) -> np.ndarray:
        """The region as uint8 RGB, shape (height, width, 3)."""
        if self._tones is None:
            self._tones = self._fit()
        region = stored_region(self._orientation, (x, y, width, height), self._page.imagewidth, self._page.imagelength)
        samples = self._samples(*region)
        if self._photometric == _PALETTE:
            table = self._colour_table()
            rgb = table[np.minimum(samples[..., 0], len(table) - 1)]
        elif self._photometric == _CMYK:
            ink = self._tones.apply(samples[..., :4]).astype(np.uint16)
            rgb = ((255 - ink[..., :3]) * (255 - ink[..., 3:]) / 255 + 0.5).astype(np.uint8)
        else:
            colour = samples[..., : self._colours]
            if self._alpha_at is not None:
                colour = np.concatenate([colour, samples[..., self._alpha_at, None]], axis=-1)
            white_is_zero = self._photometric == _WHITE_IS_ZERO
            rgb = to_rgb(colour, self._tones, alpha=self._alpha, inverted=white_is_zero)
            if self._photometric == _YCBCR and self._page.compression != 7:  # The JPEG codec gives RGB.
                from PIL import Image

                rgb = np.array(Image.fromarray(rgb, "YCbCr").convert("RGB"))
        return np.ascontiguousarray(turn(self._orientation, rgb))

    def _samples(self, x: int, y: int, width: int, height: int, blank: int | None = None) -> np.ndarray:
        parts = [plane.samples(x, y, width, height, blank) for plane in self._planes]
        return parts[0] if len(parts) == 1 else np.concatenate([p[..., :1] for p in parts], axis=-1)

    def _fit(self) -> Tones:
        """One black and white for the whole slide."""
        if self._photometric == _PALETTE or (self._page.dtype == np.uint8 and self._bits == 8):
            return EIGHT_BITS
        size = self._page.imagewidth, self._page.imagelength

        if self._photometric == _CMYK:
            return Tones(0, float(np.iinfo(self._page.dtype).max))
        # Were tiles that hold nothing the type's largest number here, 12 bits in 16 would be all but black.
        patches = _undamaged(partial(self._samples, blank=0), sample_windows(*size))
        tones = fit_tones((p[..., : self._colours] for p in patches), self._bits)
        if tones != EIGHT_BITS:
            shown = f"{self._page.dtype} samples shown from {tones.black:g} (black) to {tones.white:g} (white)"
            self.notes += (shown,)
        return tones

    def _colour_table(self) -> np.ndarray:
        """Shape (N, 3), uint8; some writers fill only the low bytes of its 16-bit entries."""
        table = np.asarray(self._page.colormap).T
        return (table >> 8 if table.max() > 255 else table).astype(np.uint8)

    def close(self) -> None:
        """Closes the file."""
        for plane in self._planes:
            plane.close()
        self._file.close()


def _undamaged(
    samples: Callable[[int, int, int, int], np.ndarray], windows: Iterable[tuple[int, int, int, int]]
) -> Iterator[np.ndarray]:
    """Patches of a picture without those that cannot be decoded: one bad tile must not take the slide with it.

    Raises:
        Exception: What the codec raised, where no patch can be decoded.
    """
    fault: Exception | None = None
    read = False
    for window in windows:
        try:
            patch = samples(*window)
        except Exception as error:
            fault = error
            continue
        read = True
        yield patch
    if fault and not read:
        raise fault


def _full_resolution(pages: Iterable[Any]) -> list[TiffPage]:
    """The largest page and those like it, in the file's order.

    Raises:
        SlideError: No page holds a picture.
    """
    held = [p for p in pages if p.imagewidth and p.imagelength and p.dtype is not None]
    if not held:
        raise SlideError("expected a picture, got a TIFF whose pages have no size or no known number type")
    full = [p for p in held if not p.is_reduced] or held
    base = max(full, key=lambda p: p.imagewidth * p.imagelength)

    def kind(p: TiffPage) -> tuple:
        return p.shape, p.dtype, p.photometric, p.samplesperpixel

    return [p for p in full if kind(p) == kind(base)]


def _scale(file: TiffFile, page: TiffPage, ome: OmeImage | None) -> tuple[float | None, tuple[str, ...]]:
    """Micrometres a pixel from the most explicit source there is, and notes."""
    if ome and (ome.x or ome.y):
        return agreed_scale(ome.x, ome.y, "OME-XML")
    x, y = (_ratio(page.tags.valueof(code)) for code in (282, 283))
    if file.is_imagej:
        unit = (file.imagej_metadata or {}).get("unit")
        if unit is not None:
            return from_imagej(unit, x, y)
    return from_resolution(x, y, int(page.tags.valueof(296, 2)))


def _ratio(value: object) -> float:
    """A TIFF rational as a number; 0 where there is none."""
    return value[0] / value[1] if isinstance(value, tuple) and len(value) == 2 and value[1] else 0.0
