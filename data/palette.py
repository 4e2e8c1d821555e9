"""Colours of taxa: a name has one colour in a run and prefers it in others, and no two taxa of a run share one."""

from __future__ import annotations

import math
from collections.abc import Iterable
from hashlib import sha256
from itertools import repeat

from .taxa import counted_as

__all__ = ["RGB", "colours"]

RGB = tuple[int, int, int]

# Told apart with the common forms of colour blindness (they differ in lightness where they do not in hue), and dark
# enough for the light ground of bright field. After Okabe and Ito (2008) and Tol (2021).
_FIRST: tuple[RGB, ...] = (
    (0, 114, 178),
    (213, 94, 0),
    (0, 150, 105),
    (196, 40, 140),
    (230, 159, 0),
    (60, 170, 230),
    (110, 50, 160),
    (150, 20, 45),
)
# Each as far as possible from those before it and from the greys, to common and to red- and green-blind eyes.
_SECOND: tuple[RGB, ...] = (
    (170, 170, 90),
    (90, 30, 70),
    (90, 130, 250),
    (160, 100, 50),
    (30, 60, 20),
    (150, 130, 180),
    (240, 110, 120),
    (20, 50, 110),
    (240, 120, 230),
    (90, 80, 0),
    (0, 80, 110),
    (50, 110, 80),
)
# Taxa that say what is not known stay in the background.
_GREY: dict[str, RGB] = {"unknown": (105, 105, 110), "indeterminable": (160, 160, 165)}


def colours(found: Iterable[tuple[Iterable[str], Iterable[float] | None]]) -> dict[str, RGB]:
    """A colour for each taxon of a slide or a run.

    Taxa choose in the order of their surest grain. A higher threshold takes away the last of them and leaves the others
    their colours: what is read once with a low threshold and filtered looks as if it were read with a higher one.

    Args:
        found: Of each slide the names of its grains, and how sure each is, or None where nothing tells; in any order.

    Returns:
        Red, green, blue in 0 to 255 by name, and by the name under which it is counted: names that are counted as one
        have one colour. The first eight taxa take the place that their name's hash asks for, or the next free one;
        further ones follow in order, from the twenty-first on by the golden angle round the hues.
    """
    surest: dict[str, float] = {}
    for taxa, confidence in found:
        for name, sure in zip(taxa, repeat(0.0) if confidence is None else confidence, strict=confidence is not None):
            surest[name] = max(sure, surest.get(name, sure))
    counted: dict[str, float] = {}
    for name, sure in surest.items():
        counted[counted_as(name)] = max(sure, counted.get(counted_as(name), sure))
    chosen = _chosen(sorted(counted, key=lambda name: (-counted[name], name)))
    return chosen | {name: chosen[counted_as(name)] for name in sorted(surest)}


def _chosen(taxa: Iterable[str]) -> dict[str, RGB]:
    chosen: dict[str, RGB] = {}
    free, further = dict(enumerate(_FIRST)), 0
    for name in taxa:
        if name in _GREY:
            chosen[name] = _GREY[name]
        elif free:
            place = int.from_bytes(sha256(name.encode("utf-8", "surrogatepass")).digest()[:4], "big") % len(_FIRST)
            while place not in free:
                place = (place + 3) % len(_FIRST)
            chosen[name] = free.pop(place)
        else:
            chosen[name] = _SECOND[further] if further < len(_SECOND) else _golden(further)
            further += 1
    return chosen


def _golden(number: int) -> RGB:
    """Golden-angle hues at three lightnesses, in OKLCH (Ottosson 2020)."""
    lightness, hue = (0.46, 0.60, 0.72)[number % 3], math.radians(20 + 137.508 * number)
    a, b = 0.13 * math.cos(hue), 0.13 * math.sin(hue)
    long = (lightness + 0.3963377774 * a + 0.2158037573 * b) ** 3
    middle = (lightness - 0.1055613458 * a - 0.0638541728 * b) ** 3
    short = (lightness - 0.0894841775 * a - 1.2914855480 * b) ** 3
    return (
        _srgb(4.0767416621 * long - 3.3077115913 * middle + 0.2309699292 * short),
        _srgb(-1.2684380046 * long + 2.6097574011 * middle - 0.3413193965 * short),
        _srgb(-0.0041960863 * long - 0.7034186147 * middle + 1.7076147010 * short),
    )


def _srgb(linear: float) -> int:
    linear = min(max(linear, 0.0), 1.0)
    return round(255 * (12.92 * linear if linear <= 0.0031308 else 1.055 * linear ** (1 / 2.4) - 0.055))
