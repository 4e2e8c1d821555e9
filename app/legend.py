"""The panel beside an overlay: taxa with counts and intervals, scale bar, where the picture comes from."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from ..data.counts import Tally
from ..data.palette import RGB
from ..vision.results import SlideResult

__all__ = ["Legend", "font", "wrapped"]

_INK, _GREY, _FAINT, _AMBER = (28, 30, 34), (105, 110, 118), (228, 230, 234), (176, 96, 0)
# With more taxa than this no row has a picture.
MOST_WITH_PICTURES = 12
# Of a column of rows, the size of the foot's letters, and from one of its lines to the next; in em.
_NARROWEST, _FOOT, _FOOT_LINE = 17, 0.72, 1.25

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont


@lru_cache(maxsize=64)
def font(size: int, style: str = "") -> Font:
    """DejaVu Sans as it ships with matplotlib, which knows accents, Greek and Cyrillic; else Pillow's own.

    Args:
        size: Pixels.
        style: ``, `Bold` or `Oblique`.
    """
    spec = find_spec("matplotlib")
    if spec is not None and spec.submodule_search_locations:
        folder = Path(next(iter(spec.submodule_search_locations))) / "mpl-data" / "fonts" / "ttf"
        file = folder / f"DejaVuSans{'-' + style if style else ''}.ttf"
        if file.is_file():
            return ImageFont.truetype(str(file), size, layout_engine=ImageFont.Layout.BASIC)
    return ImageFont.load_default(size)


@dataclass(frozen=True)
class Legend:
    """What the panel says, and how large it says it.

    Attributes:
        result: The slide's grains.
        colours: Colour of each taxon.
        em: Font size in pixels, the unit of every length.
        height: Pixels that the panel has at least.
        scale: Pixels of the picture a pixel of the slide.
        pictures: A grain of each taxon, or none where there are many.
    """

    result: SlideResult
    colours: Mapping[str, RGB]
    em: int
    height: int
    scale: float
    pictures: Mapping[str, Image.Image]

    def draw(self) -> Image.Image:
        """The panel as a picture."""
        em, rows = self.em, self.result.counts()
        head, foot = self._head_lines(rows), self._foot_lines()
        top = round((1.2 + 1.45 * len(head[0]) + 3.6 + 1.3 * len(head[1])) * em)
        bottom = round((1.6 + _FOOT_LINE * len(foot) + (3.2 if self.result.um_per_px else 0)) * em)
        # Rows with pictures stand in one column; where they do not fit, or there are many taxa, a row is one line.
        large = len(rows) <= MOST_WITH_PICTURES and len(rows) * 3.5 * em <= max(self.height - top - bottom, 14 * em)
        row_height = round((3.5 if large else 1.75) * em)
        column = self._column_width(rows, large)
        height = max(self.height, top + bottom + row_height * min(len(rows), 8))
        per_column = max(1, (height - top - bottom) // row_height)
        columns = max(1, math.ceil(len(rows) / per_column))
        panel = Image.new("RGB", (column * columns + round((2.6 + 1.6 * (columns - 1)) * em), height), "white")
        pen = ImageDraw.Draw(panel)
        left = round(1.3 * em)
        self._draw_head(pen, left, head, panel.width - 2 * left)
        for number, row in enumerate(rows):
            place, line = divmod(number, per_column)
            x, y = left + place * round(column + 1.6 * em), top + line * row_height
            (self._draw_large if large else self._draw_small)(panel, pen, row, x, y, column)
        self._draw_foot(pen, left, height - bottom, foot, panel.width - 2 * left)
        return panel

    def _head_lines(self, rows: list[Tally]) -> tuple[list[str], list[str]]:
        """The slide's name in lines, and the lines below the count."""
        em, width = self.em, _NARROWEST * self.em
        name, lines = self.result.slide, list[str]()
        while name and len(lines) < 3:
            n = len(name)
            while n > 1 and _width(name[:n], font(em, "Bold")) > width:
                n -= 1
            cut = max((name.rfind(c, 1, n) for c in "/ _-"), default=-1) + 1 if n < len(name) else n
            n = cut if cut > n // 2 else n
            lines.append(name[:n])
            name = name[n:]
        if name:
            lines[-1] = lines[-1][:-1] + "…"
        below = [f"{len(rows)} {'taxon' if len(rows) == 1 else 'taxa'}, shares with 95 % limits"] if rows else []
        if self.result.fraction_read < 1:
            below.append(f"{100 * self.result.fraction_read:.1f} % of the slide was read")
        if self.result.flags:
            below.append(", ".join(self.result.flags))
        return lines, below + wrapped(self.result.notes, font(round(0.82 * em)), width)

    def _foot_lines(self) -> list[str]:
        """By what and how the grains were found, as in `run.json`, in lines that fit the narrowest panel."""
        made = self.result.provenance
        views = made.arguments.get("views", 1)
        told = [
            f"{made.model} {made.sha256[:8]}, confidence ≥ {self.result.conf:g}" + f", {views} views" * (views > 1),
            made.ran,
            f"{self.result.width} × {self.result.height} px, palyno {made.version}",
        ]
        return wrapped(told, font(round(_FOOT * self.em)), _NARROWEST * self.em)

    def _column_width(self, rows: list[Tally], large: bool) -> int:
        em = self.em
        names = max((_width(row.taxon, font(em, _style(row.taxon))) for row in rows), default=0)
        if large:
            return round(min(max(names + 7.5 * em, _NARROWEST * em), 26 * em))
        return round(min(max(names + 5.6 * em + self._shares_width(), _NARROWEST * em), 34 * em))

    def _shares_width(self) -> float:
        return _width("88.8 %  (88.8 – 100.0)", font(round(0.82 * self.em)))

    def _draw_head(self, pen: ImageDraw.ImageDraw, x: int, head: tuple[list[str], list[str]], width: int) -> None:
        em, y = self.em, 1.2 * self.em
        for line in head[0]:
            pen.text((x, y), line, _GREY, font(em, "Bold"))
            y += 1.45 * em
        number, word = str(len(self.result)), "grain" if len(self.result) == 1 else "grains"
        big = font(round(2.4 * em), "Bold")
        pen.text((x, y - 0.1 * em), number, _INK, big)
        pen.text((x + _width(number, big) + 0.5 * em, y + 1.02 * em), word, _INK, font(round(1.25 * em)))
        y += 3.05 * em
        for number_of_line, line in enumerate(head[1]):
            ink = _GREY if number_of_line == 0 else _AMBER
            pen.text((x, y), _fit(line, font(round(0.82 * em)), width), ink, font(round(0.82 * em)))
            y += 1.3 * em

    def _draw_large(self, panel: Image.Image, pen: ImageDraw.ImageDraw, row: Tally, x: int, y: int, width: int) -> None:
        """Picture, name and count, share with limits, and a bar of it."""
        em, colour = self.em, self.colours[row.taxon]
        side, indent = round(2.7 * em), round(3.5 * em)
        panel.paste(_tile(self.pictures.get(row.taxon), side, colour), (x, y))
        n = str(row.n)
        room = width - indent - _width(n, font(em, "Bold")) - 0.6 * em
        slant = font(em, _style(row.taxon))
        pen.text((x + indent, y - 0.1 * em), _fit(row.taxon, slant, room), _INK, slant)
        pen.text((x + width, y - 0.1 * em), n, _INK, font(em, "Bold"), anchor="ra")
        small = font(round(0.82 * em))
        pen.text((x + indent, y + 1.15 * em), _share(row), _GREY, small)
        start, end, middle = x + indent, x + width, y + 2.52 * em
        at = [start + (end - start) * share / 100 for share in (row.low, row.percent, row.high)]
        half = max(1.5, 0.13 * em)
        pen.rounded_rectangle((start, middle - half, end, middle + half), half, _FAINT)
        if at[1] > start + 1:
            pen.rounded_rectangle((start, middle - half, at[1], middle + half), half, colour)
        stroke = max(1, round(em / 14))
        pen.line((at[0], middle, at[2], middle), _INK, stroke)
        for limit in (at[0], at[2]):
            pen.line((limit, middle - 2 * half, limit, middle + 2 * half), _INK, stroke)

    def _draw_small(self, panel: Image.Image, pen: ImageDraw.ImageDraw, row: Tally, x: int, y: int, width: int) -> None:
        """Name, count and share in one line."""
        em, small = self.em, font(round(0.82 * self.em))
        panel.paste(_tile(None, round(1.05 * em), self.colours[row.taxon]), (x, round(y + 0.1 * em)))
        counts = x + width - self._shares_width() - 0.9 * em
        slant = font(em, _style(row.taxon))
        room = counts - _width(str(row.n), font(em, "Bold")) - 0.5 * em - (x + 1.7 * em)
        pen.text((x + 1.7 * em, y), _fit(row.taxon, slant, room), _INK, slant)
        pen.text((counts, y), str(row.n), _INK, font(em, "Bold"), anchor="ra")
        pen.text((x + width, y + 0.16 * em), _share(row), _GREY, small, anchor="ra")

    def _draw_foot(self, pen: ImageDraw.ImageDraw, x: int, y: int, lines: list[str], width: int) -> None:
        em, small = self.em, font(round(_FOOT * self.em))
        if self.result.um_per_px:
            um, length = _scale_bar(self.result.um_per_px / self.scale, min(width, 14 * em))
            thick = max(2, round(0.22 * em))
            pen.text((x, y + 0.1 * em), f"{um:g} µm" if um < 1000 else f"{um / 1000:g} mm", _INK, font(em))
            pen.rectangle((x, y + 1.6 * em, x + length, y + 1.6 * em + thick), _INK)
            y += round(3.2 * em)
        for number, line in enumerate(lines):
            pen.text((x, y + _FOOT_LINE * em * number), line, _GREY, small)


def wrapped(texts: Iterable[str], face: Font, width: float) -> list[str]:
    """Texts in lines that are not wider than `width` pixels, each text from a new line; none is cut.

    Lines are broken between words, and within a word that has no room on a line of its own.
    """
    lines: list[str] = []
    for text in filter(None, texts):
        line = ""
        for word in text.split(" "):
            longer = f"{line} {word}" if line else word
            if line and _width(longer, face) > width:
                lines.append(line)
                longer = word
            while len(longer) > 1 and _width(longer, face) > width:
                n = next(n for n in range(len(longer) - 1, 0, -1) if n == 1 or _width(longer[:n], face) <= width)
                lines.append(longer[:n])
                longer = longer[n:]
            line = longer
        lines.append(line)
    return lines


def _style(taxon: str) -> str:
    """Names of genera and species are set in italics."""
    return "" if taxon in ("unknown", "indeterminable") or taxon.endswith("eae") else "Oblique"


def _share(row: Tally) -> str:
    return f"{row.percent:.1f} %  ({row.low:.1f} – {row.high:.1f})"


def _width(text: str, face: Font) -> float:
    return face.getlength(text)


def _fit(text: str, face: Font, width: float) -> str:
    """The text, cut with an ellipsis where it is too wide."""
    if _width(text, face) <= width:
        return text
    while text and _width(text + "…", face) > width:
        text = text[:-1]
    return text + "…"


def _tile(picture: Image.Image | None, side: int, colour: RGB) -> Image.Image:
    """A grain in a rounded frame of its taxon's colour, or the frame filled; smooth by drawing at four times."""
    big = Image.new("RGB", (4 * side, 4 * side), "white")
    frame = (0, 0, 4 * side - 1, 4 * side - 1)
    radius = round(0.8 * side)
    if picture is not None:
        mask = Image.new("L", big.size)
        ImageDraw.Draw(mask).rounded_rectangle(frame, radius, 255)
        big.paste(picture.convert("RGB").resize(big.size, Image.Resampling.BICUBIC), (0, 0), mask)
        fill = None
    else:
        fill = (*(round(255 - 0.45 * (255 - c)) for c in colour),)
    ImageDraw.Draw(big).rounded_rectangle(frame, radius, fill, colour, max(6, round(0.32 * side)))
    return big.resize((side, side), Image.Resampling.BOX)


def _scale_bar(um_per_px: float, width: float) -> tuple[float, float]:
    """The longest round length that fits: micrometres and pixels."""
    most = um_per_px * width
    power = 10.0 ** math.floor(math.log10(most))
    um = next(step * power for step in (5, 2, 1) if step * power <= most * (1 + 1e-9))
    return um, um / um_per_px
