"""The picture of a slide with its grains outlined by taxon, and a legend beside it."""

from __future__ import annotations

import io
from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from ..data.palette import RGB, colours
from ..data.slides import Slide, slide_from
from ..data.taxa import counted_as
from ..errors import SlideError
from ..vision.results import SlideResult
from .legend import MOST_WITH_PICTURES, Legend, font

__all__ = ["draw", "jpeg"]

# Source pixels of a side that are in memory at once.
_WINDOW = 4096
# Up to so many grains are named on the picture, where there is room.
_MOST_NAMED = 60


def draw(
    result: SlideResult,
    source: str | Path | np.ndarray | Image.Image | Slide,
    max_side: int = 2560,
    *,
    palette: Mapping[str, RGB] | None = None,
) -> Image.Image:
    """The slide with its grains outlined, and a legend with counts and intervals beside it.

    Large slides are read and reduced window by window, so memory does not grow with them.

    Args:
        result: What was found.
        source: The slide it was found on: a path, an array (H, W, 3), a Pillow image, or an open slide.
        max_side: Longest side of the picture, legend excluded, in pixels; smaller slides keep their size.
        palette: Colour of each taxon, to keep colours over several slides; made from the result's taxa if None.

    Returns:
        RGB image, wider than the slide's picture by the legend.

    Raises:
        SlideError: The slide cannot be opened.
    """
    palette = palette or colours([(result.taxa, result.confidence)])
    with nullcontext(source) if isinstance(source, Slide) else slide_from(source, name=result.slide) as slide:
        scale = min(1.0, max_side / max(slide.width, slide.height))
        picture = _reduced(slide, scale)
        pictures = _examples(result, slide) if len(set(map(counted_as, result.taxa))) <= MOST_WITH_PICTURES else {}
    em = min(max(round(max(picture.size) / 84), 13), 30)
    _shade_unread(picture, result, scale)
    picture = _outlined(picture, result, scale, palette)
    if len(result) <= _MOST_NAMED:
        _name_grains(picture, result, scale, palette, max(11, round(0.8 * em)))
    panel = Legend(result, palette, em, picture.height, scale, pictures).draw()
    canvas = Image.new("RGB", (picture.width + panel.width, panel.height), "white")
    canvas.paste(picture, (0, 0))
    canvas.paste(panel, (picture.width, 0))
    return canvas


def jpeg(picture: Image.Image) -> bytes:
    """The picture as JPEG; equal pictures give equal bytes."""
    buffer = io.BytesIO()
    try:
        picture.save(buffer, "JPEG", quality=90, subsampling=0, optimize=True)
    except OSError:
        # Pillow keeps a byte a pixel for a picture that it optimizes, and a noisy one takes more.
        buffer = io.BytesIO()
        picture.save(buffer, "JPEG", quality=90, subsampling=0)
    return buffer.getvalue()


def _reduced(slide: Slide, scale: float) -> Image.Image:
    """The whole slide at a scale of at most 1; windows that cannot be read stay grey."""
    width, height = max(1, round(slide.width * scale)), max(1, round(slide.height * scale))
    picture = Image.new("RGB", (width, height), (205, 205, 205))
    side = max(1, int(_WINDOW * scale))
    for y in range(0, height, side):
        for x in range(0, width, side):
            w, h = min(side, width - x), min(side, height - y)
            # The window's exact borders fall between source pixels: read outwards, average inwards.
            box = np.array([x, y, x + w, y + h]) * np.tile([slide.width / width, slide.height / height], 2)
            x0, y0 = (int(v) for v in np.floor(box[:2]))
            x1, y1 = min(int(np.ceil(box[2])), slide.width), min(int(np.ceil(box[3])), slide.height)
            try:
                window = Image.fromarray(slide.read(x0, y0, x1 - x0, y1 - y0))
            except SlideError:
                continue
            inner = (box[0] - x0, box[1] - y0, min(box[2] - x0, x1 - x0), min(box[3] - y0, y1 - y0))
            method = Image.Resampling.LANCZOS if (side >= max(width, height)) else Image.Resampling.BOX
            picture.paste(window if scale == 1 else window.resize((w, h), method, inner), (x, y))
    return picture


def _examples(result: SlideResult, slide: Slide) -> dict[str, Image.Image]:
    """The most confident grain of each taxon that is counted, cut out square."""
    found: dict[str, Image.Image] = {}
    inside = [i for i in range(len(result)) if "edge" not in result.grain_flags[i]]
    rest = [i for i in range(len(result)) if "edge" in result.grain_flags[i]]
    for i in sorted(inside, key=lambda i: -result.confidence[i]) + rest:
        taxon = counted_as(result.taxa[i])
        if taxon in found:
            continue
        x1, y1, x2, y2 = (float(v) for v in result.boxes[i])
        side = min(int(1.2 * max(x2 - x1, y2 - y1)) + 2, slide.width, slide.height)
        x = min(max(int((x1 + x2 - side) / 2), 0), slide.width - side)
        y = min(max(int((y1 + y2 - side) / 2), 0), slide.height - side)
        try:
            found[taxon] = Image.fromarray(slide.read(x, y, side, side)).resize((256, 256))
        except SlideError:
            continue
    return found


def _shade_unread(picture: Image.Image, result: SlideResult, scale: float) -> None:
    """Hatches what could not be read, so that empty is not taken for free of grains."""
    pen = ImageDraw.Draw(picture)
    for region in result.unread:
        x1, y1, x2, y2 = (round(v * scale) for v in region)
        patch = Image.new("RGB", (max(1, x2 - x1), max(1, y2 - y1)), (205, 205, 205))
        lines = ImageDraw.Draw(patch)
        for offset in range(-patch.height, patch.width, 14):
            lines.line((offset, patch.height, offset + patch.height, 0), (170, 170, 170), 2)
        picture.paste(patch, (x1, y1))
        pen.rectangle((x1, y1, x2, y2), outline=(140, 140, 140))


def _outlined(picture: Image.Image, result: SlideResult, scale: float, palette: Mapping[str, RGB]) -> Image.Image:
    """The picture with a rounded outline round every grain, smooth by drawing at twice the size."""
    layer = Image.new("RGBA", (2 * picture.width, 2 * picture.height), (255, 255, 255, 0))
    pen = ImageDraw.Draw(layer)
    stroke = min(max(max(picture.size) / 760, 1.3), 3.6)
    boxes = result.boxes * scale * 2
    # All halos lie below all outlines, so that in a clump no grain's halo cuts its neighbour's outline.
    for halo in (True, False):
        for box, taxon in zip(boxes, result.taxa, strict=True):
            x1, y1, x2, y2 = (float(v) for v in box)
            side = min(x2 - x1, y2 - y1)
            width = 2 * min(stroke, max(1.0, side / 16))
            out, line = (width + 1.4, width + 2.8) if halo else (width, width)
            radius = 0.3 * side + out
            ink = (255, 255, 255, 130) if halo else (*palette[taxon], 255)
            pen.rounded_rectangle((x1 - out, y1 - out, x2 + out, y2 + out), radius, None, ink, max(2, round(line)))
    return Image.alpha_composite(picture.convert("RGBA"), layer.reduce(2)).convert("RGB")


def _name_grains(
    picture: Image.Image, result: SlideResult, scale: float, palette: Mapping[str, RGB], size: int
) -> None:
    """Puts a name above or below each grain, where it covers neither a grain nor another name."""
    pen, face = ImageDraw.Draw(picture), font(size)
    boxes = [tuple(float(v) * scale for v in box) for box in result.boxes]
    names: list[tuple[float, float, float, float]] = []
    for i, (x1, y1, x2, y2) in enumerate(boxes):
        text = f"{result.taxa[i]} {result.confidence[i]:.2f}"
        width, height = face.getlength(text) + 0.7 * size, 1.5 * size
        x = min(max((x1 + x2 - width) / 2, 0), picture.width - width)
        for y in (y1 - height - 4, y2 + 4):
            place = (x, y, x + width, y + height)
            if x < 0 or y < 0 or place[3] > picture.height or any(_meet(place, b) for b in (*boxes, *names)):
                continue
            colour = palette[result.taxa[i]]
            light = 0.299 * colour[0] + 0.587 * colour[1] + 0.114 * colour[2] > 150
            pen.rounded_rectangle(place, 0.35 * size, colour)
            pen.text((x + width / 2, y + height / 2), text, (20, 20, 20) if light else "white", face, anchor="mm")
            names.append(place)
            break


def _meet(a: tuple[float, ...], b: tuple[float, ...]) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]
