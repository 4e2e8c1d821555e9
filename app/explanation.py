"""One grain explained, as a picture: the crop, heat maps over it, the edge path's answers, and the likeliest names."""

from __future__ import annotations

import io
from collections.abc import Iterable, Mapping, Sequence
from functools import cache

import cv2
import numpy as np
from PIL import Image, ImageDraw

from ..data.palette import RGB, colours
from ..vision.explain import Attribution, Explanation
from .legend import _fit, _scale_bar, _style, font, wrapped

__all__ = ["draw", "heat", "png"]

_INK, _GREY, _FAINT = (28, 30, 34), (105, 110, 118), (228, 230, 234)
_EM = 20
_TILE = 300
_GAP = 18
_PAD = 36
_FOOT = 0.72

_MEANING = {
    "gradcam": "Grad-CAM: where the layer speaks for the class.",
    "eigencam": "EigenCAM: what stands out to the layer, whatever the class.",
    "ig": "Integrated gradients: pixels against an empty field.",
    "edges": "Edges: what the edge path answers.",
}

# Perceptually uniform: equal steps of the value are equal steps of lightness, also to the colour-blind and in grey.
_MAP = "inferno"


def draw(explanation: Explanation, found: Iterable[tuple[Iterable[str], Iterable[float] | None]] = ()) -> Image.Image:
    """The panel of one grain.

    Args:
        explanation: What it shows.
        found: The run that the grain is of, as `colours` takes it: its taxa keep their colours here.
    """
    told = {explanation.taxon: 1.0, **dict(explanation.candidates)}
    # Names that the run has not found choose after those that it has.
    palette = colours([*found, (told, [probability - 1 for probability in told.values()])])
    heats = [one for one in explanation.maps if one.method != "edges"]
    edges = [one for one in explanation.maps if one.method == "edges"]
    columns = max(3, 1 + len(heats), len(edges))
    rows = 1 + bool(edges)
    width = 2 * _PAD + columns * _TILE + (columns - 1) * _GAP
    head, caption, names = round(4.6 * _EM), round(2.9 * _EM), round(1.9 * _EM) * max(len(explanation.candidates), 1)
    tiles = rows * (_TILE + caption + _GAP)
    foot = _foot_lines(explanation, width - 2 * _PAD)
    height = _PAD + head + tiles + max(names, round(2.6 * _EM)) + round(1.25 * _EM * len(foot) + 0.4 * _EM) + _PAD
    canvas = Image.new("RGB", (width, height), "white")
    pen = ImageDraw.Draw(canvas)
    _draw_head(pen, explanation, width)
    y = _PAD + head
    crop = _fitted(Image.fromarray(explanation.picture))
    _place(
        canvas, pen, _marked(crop, explanation, palette[explanation.taxon]), 0, y, ("The grain", _extent(explanation))
    )
    for column, one in enumerate(heats, 1):
        _place(canvas, pen, _fitted(Image.fromarray(heat(explanation.picture, one))), column, y, _caption(one))
    if edges:
        y += _TILE + caption + _GAP
        for column, one in enumerate(edges):
            _place(canvas, pen, _fitted(Image.fromarray(_painted(_scaled(one)))), column, y, _caption(one))
    y = _PAD + head + tiles
    _draw_names(canvas, pen, explanation, y, palette)
    _draw_key(canvas, pen, y, width)
    _draw_foot(pen, foot, height)
    return canvas


def png(picture: Image.Image) -> bytes:
    """The picture as PNG; equal pictures give equal bytes."""
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def heat(picture: np.ndarray, attribution: Attribution) -> np.ndarray:
    """A crop in grey with an attribution over it, the more opaque the more there is, uint8 (H, W, 3)."""
    value = _scaled(attribution)
    grey = cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY).astype(np.float32)[..., None]
    opacity = np.clip(0.08 + 0.82 * np.sqrt(value), 0, 0.9)[..., None]
    return np.clip((1 - opacity) * grey + opacity * _painted(value) + 0.5, 0, 255).astype(np.uint8)


def _scaled(attribution: Attribution) -> np.ndarray:
    """Values from 0 to 1, which is the map's own highest."""
    values = attribution.amount
    # Of pixels, what a few of them hold together; of cells, the kinks of the interpolation between them.
    reach = 0.008 * max(values.shape) if attribution.stride == 1 else 0.35 * attribution.stride
    values = cv2.GaussianBlur(values, (0, 0), max(0.8, reach))
    top = float(np.quantile(values, 0.998))
    return np.clip(values / top, 0, 1) if top > 0 else np.zeros_like(values)


def _painted(value: np.ndarray) -> np.ndarray:
    return _colours()[np.round(255 * value).astype(int)]


@cache
def _colours() -> np.ndarray:
    """The colour map, uint8 (256, 3)."""
    from matplotlib import colormaps

    return (np.array(colormaps[_MAP](np.arange(256)))[:, :3] * 255 + 0.5).astype(np.uint8)


def _fitted(picture: Image.Image) -> Image.Image:
    """A crop in the middle of a square tile, enlarged or reduced to it."""
    scale = _TILE / max(picture.size)
    size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
    tile = Image.new("RGB", (_TILE, _TILE), _FAINT)
    resized = picture.resize(size, Image.Resampling.BICUBIC if scale > 1 else Image.Resampling.LANCZOS)
    tile.paste(resized, ((_TILE - size[0]) // 2, (_TILE - size[1]) // 2))
    return tile


def _marked(tile: Image.Image, explanation: Explanation, colour: RGB) -> Image.Image:
    """The crop with the grain's outline and, where the pixel size is known, a scale bar."""
    x1, y1, x2, y2 = explanation.crop
    scale = _TILE / max(x2 - x1, y2 - y1)
    left, top = (_TILE - (x2 - x1) * scale) / 2 - x1 * scale, (_TILE - (y2 - y1) * scale) / 2 - y1 * scale
    layer = Image.new("RGBA", (2 * _TILE, 2 * _TILE), (255, 255, 255, 0))
    pen = ImageDraw.Draw(layer)
    ax, ay, bx, by = (2 * v for v in _moved(explanation.box, scale, left, top))
    radius = 0.3 * min(bx - ax, by - ay)
    pen.rounded_rectangle((ax - 2, ay - 2, bx + 2, by + 2), radius, None, (255, 255, 255, 150), 10)
    pen.rounded_rectangle((ax, ay, bx, by), radius, None, (*colour, 255), 5)
    if explanation.um_per_px:
        um, length = _scale_bar(explanation.um_per_px / scale, 0.4 * _TILE)
        x, y, face = 28, 2 * _TILE - 34, font(30, "Bold")
        text = f"{um:g} µm"
        for shift in ((-2, 0), (2, 0), (0, -2), (0, 2)):
            pen.text((x + length + shift[0], y - 14 + shift[1]), text, (255, 255, 255, 220), face, anchor="mb")
        pen.text((x + length, y - 14), text, (*_INK, 255), face, anchor="mb")
        pen.rectangle((x - 3, y - 3, x + 2 * length + 3, y + 11), (255, 255, 255, 220))
        pen.rectangle((x, y, x + 2 * length, y + 8), (*_INK, 255))
    return Image.alpha_composite(tile.convert("RGBA"), layer.reduce(2)).convert("RGB")


def _moved(box: Sequence[float], scale: float, left: float, top: float) -> tuple[float, float, float, float]:
    x1, y1, x2, y2 = box
    return x1 * scale + left, y1 * scale + top, x2 * scale + left, y2 * scale + top


def _place(
    canvas: Image.Image, pen: ImageDraw.ImageDraw, tile: Image.Image, column: int, y: int, lines: tuple[str, str]
) -> None:
    """A tile with rounded corners and two lines below it."""
    x = _PAD + column * (_TILE + _GAP)
    mask = Image.new("L", (4 * _TILE, 4 * _TILE), 0)
    ImageDraw.Draw(mask).rounded_rectangle((0, 0, 4 * _TILE - 1, 4 * _TILE - 1), 40, 255)
    canvas.paste(tile, (x, y), mask.reduce(4))
    # A field as white as the page has no border of its own.
    pen.rounded_rectangle((x, y, x + _TILE - 1, y + _TILE - 1), 10, None, _FAINT)
    bold, small = font(round(0.86 * _EM), "Bold"), font(round(0.74 * _EM))
    pen.text((x, y + _TILE + 0.4 * _EM), _fit(lines[0], bold, _TILE), _INK, bold)
    pen.text((x, y + _TILE + 1.6 * _EM), _fit(lines[1], small, _TILE), _GREY, small)


def _caption(one: Attribution) -> tuple[str, str]:
    if one.method == "edges":
        return f"Edges, stride {one.stride}", "magnitude, over all channels"
    title = {"gradcam": "Grad-CAM", "eigencam": "EigenCAM", "ig": "Integrated gradients"}[one.method]
    if one.method == "ig":
        return title, f"pixels; sum {one.figures['sum']:.2f} of {one.figures['difference']:.2f} in the logit"
    return title, f"layer {one.layer}, stride {one.stride}"


def _extent(explanation: Explanation) -> str:
    x1, y1, x2, y2 = explanation.box
    um = explanation.um_per_px
    if um:
        return f"{(x2 - x1) * um:.1f} × {(y2 - y1) * um:.1f} µm"
    return f"{x2 - x1:.0f} × {y2 - y1:.0f} px"


def _draw_head(pen: ImageDraw.ImageDraw, explanation: Explanation, width: int) -> None:
    """The name, how sure it is, and which grain of which slide."""
    style = _style(explanation.taxon)
    face = font(round(1.7 * _EM), f"Bold{style}")
    room = width - 2 * _PAD - 12 * _EM
    name = _fit(explanation.taxon, face, room)
    pen.text((_PAD, _PAD - 6), name, _INK, face)
    told = f"confidence {explanation.confidence:.2f}"
    pen.text((_PAD + face.getlength(name) + _EM, _PAD + 0.32 * _EM), told, _GREY, font(_EM))
    grain = f"grain {explanation.grain_id}, " if explanation.grain_id else ""
    box = ", ".join(f"{v:.0f}" for v in explanation.box)
    line = f"{explanation.slide}: {grain}box {box}"
    small = font(round(0.82 * _EM))
    pen.text((_PAD, _PAD + 2.25 * _EM), _fit(line, small, width - 2 * _PAD), _GREY, small)


def _bar(probability: float, length: int, colour: RGB) -> Image.Image:
    """A bar of a probability with round ends, smooth by drawing at four times the size."""
    picture = Image.new("RGB", (4 * length, 40), "white")
    pen = ImageDraw.Draw(picture)
    pen.rounded_rectangle((0, 0, 4 * length - 1, 39), 20, _FAINT)
    if probability * length > 2:
        pen.rounded_rectangle((0, 0, max(39, round(4 * length * min(probability, 1)) - 1), 39), 20, colour)
    return picture.reduce(4)


def _draw_names(
    canvas: Image.Image, pen: ImageDraw.ImageDraw, explanation: Explanation, y: int, palette: Mapping[str, RGB]
) -> None:
    """The likeliest names, each with a bar of its probability."""
    rows = explanation.candidates or ((explanation.taxon, explanation.probability),)
    step, small = round(1.9 * _EM), font(round(0.86 * _EM))
    label, bar = 13 * _EM, 8 * _EM
    for number, (name, probability) in enumerate(rows):
        top = y + number * step
        face = font(round(0.86 * _EM), _style(name))
        pen.text((_PAD, top), _fit(name, face, label - _EM), _INK, face)
        x = _PAD + label
        canvas.paste(_bar(probability, bar, palette[name]), (x, round(top + 0.55 * _EM) - 5))
        pen.text((x + bar + 0.6 * _EM, top), f"{probability:.2f}", _INK, small)
        if name == explanation.explained:
            pen.text((x + bar + 3.2 * _EM, top), "explained here", _GREY, small)


def _draw_key(canvas: Image.Image, pen: ImageDraw.ImageDraw, y: int, width: int) -> None:
    """What the colours mean."""
    length, thick = 13 * _EM, round(0.62 * _EM)
    x = width - _PAD - length
    ramp = np.broadcast_to(_colours()[np.linspace(0, 255, length).astype(int)], (thick, length, 3))
    canvas.paste(Image.fromarray(np.ascontiguousarray(ramp)), (x, round(y + 0.2 * _EM)))
    small = font(round(0.74 * _EM))
    pen.text((x, y + 1.15 * _EM), "none", _GREY, small)
    pen.text((x + length, y + 1.15 * _EM), "most of this map", _GREY, small, anchor="ra")


def _foot_lines(explanation: Explanation, width: int) -> list[str]:
    """What was explained, what the maps mean, and by which model, in lines that fit."""
    made, (x1, y1, x2, y2) = explanation.provenance, explanation.sight
    told = [
        f"Explained: the logit {explanation.logit:.2f}, a probability of {explanation.probability:.2f}, of "
        f"{explanation.explained}, at stride {explanation.stride}, where the network is shown {x2 - x1} × {y2 - y1} px "
        "around the grain.",
        " ".join(line for method, line in _MEANING.items() if any(one.method == method for one in explanation.maps)),
        *(f"Left out: {method}, {reason}." for method, reason in explanation.left_out),
        ", ".join(filter(None, (f"{made.model} {made.sha256[:8]}", made.ran, f"palyno {made.version}"))),
    ]
    return wrapped(told, font(round(_FOOT * _EM)), width)


def _draw_foot(pen: ImageDraw.ImageDraw, lines: Sequence[str], height: int) -> None:
    y = height - _PAD + 8 - 1.25 * _EM * len(lines)
    for number, line in enumerate(lines):
        pen.text((_PAD, y + 1.25 * _EM * number), line, _GREY, font(round(_FOOT * _EM)))
