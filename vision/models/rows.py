"""The blocks a layer table can name: for each, how its arguments and its sources' channels make a module.

A maker takes the scale and the channels of its sources, then the row's arguments by keyword; it returns the module and
the channels of its output, or one number a name where it has several outputs.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from torch import nn

from ... import offline
from ..blocks import CSPOKM, HEM, SEF, Concat, SPDConv
from .pyramid import pyramid

offline.switch_off()
from ultralytics.nn.modules import C2PSA, SPPF, A2C2f, C3k2, Conv  # noqa: E402

__all__ = ["ROWS", "Scale"]

Made = tuple[nn.Module, int | dict[str, int]]


class Scale(NamedTuple):
    """How one layer table becomes networks of several sizes.

    Attributes:
        depth: Factor on repeats.
        width: Factor on channels.
        max_channels: Channels are cut to this before the factor.
        c3k: Whether every C3k2 is made of C3k, as in the larger networks of YOLO11 and YOLO12.
        residual: Whether A2C2f has a residual around it, and narrower perceptrons, as in the larger ones of YOLO12.
    """

    depth: float
    width: float
    max_channels: int
    c3k: bool = False
    residual: bool = False

    def channels(self, n: int) -> int:
        """Channels at this scale: the next multiple of 8."""
        return math.ceil(min(n, self.max_channels) * self.width / 8) * 8

    def repeats(self, n: int) -> int:
        """Repeats at this scale, at least one."""
        return max(round(n * self.depth), 1)


def _conv(scale: Scale, c_in: int, /, *, out: int, kernel: int = 1, stride: int = 1) -> Made:
    c_out = scale.channels(out)
    return Conv(c_in, c_out, kernel, stride), c_out


def _c3k2(scale: Scale, c_in: int, /, *, out: int, repeats: int = 1, c3k: bool = False, ratio: float = 0.5) -> Made:
    c_out = scale.channels(out)
    return C3k2(c_in, c_out, scale.repeats(repeats), c3k or scale.c3k, ratio), c_out


def _a2c2f(scale: Scale, c_in: int, /, *, out: int, repeats: int = 1, attention: bool = True, area: int = 1) -> Made:
    c_out = scale.channels(out)
    ratio = 1.2 if scale.residual else 2.0
    return A2C2f(c_in, c_out, scale.repeats(repeats), attention, area, scale.residual, ratio), c_out


def _c2psa(scale: Scale, c_in: int, /, *, repeats: int = 1) -> Made:
    return C2PSA(c_in, c_in, scale.repeats(repeats)), c_in


def _sppf(scale: Scale, c_in: int, /, *, out: int, kernel: int = 5) -> Made:
    c_out = scale.channels(out)
    return SPPF(c_in, c_out, kernel), c_out


def _backbone(scale: Scale, c_in: int, /, *, name: str | None, strides: Sequence[int], pixels: str = "plain") -> Made:
    module, channels = pyramid(name, strides, c_in, pixels)
    return module, {f"p{stride.bit_length() - 1}": c for stride, c in zip(strides, channels, strict=True)}


def _hem(
    scale: Scale, c_in: int, /, *, widths: Sequence[int], edge: str = "magnitude", mixtures: int | None = None
) -> Made:
    scaled = [scale.channels(width) for width in widths]
    return HEM(c_in, scaled, edge, mixtures and scale.channels(mixtures)), dict(
        zip(("p3", "p4", "p5"), scaled, strict=True)
    )


def _sef(scale: Scale, c_edge: int, c_semantic: int, /, *, out: int) -> Made:
    c_out = scale.channels(out)
    return SEF(c_edge, c_semantic, c_out), c_out


def _spdconv(scale: Scale, c_in: int, /, *, out: int, kernel: int = 3) -> Made:
    c_out = scale.channels(out)
    return SPDConv(c_in, c_out, kernel), c_out


def _cspokm(
    scale: Scale,
    c_in: int,
    /,
    *,
    ratio: float = 0.25,
    kernel: int = 31,
    gate: str = "published",
    out: int | None = None,
) -> Made:
    c_out = c_in if out is None else scale.channels(out)
    return CSPOKM(c_in, ratio, kernel, gate, c_out), c_out


def _upsample(scale: Scale, c_in: int, /, *, factor: int = 2) -> Made:
    return nn.Upsample(scale_factor=factor, mode="nearest"), c_in


def _concat(scale: Scale, /, *c_in: int) -> Made:
    return Concat(), sum(c_in)


ROWS: dict[str, Callable[..., Any]] = {
    "A2C2f": _a2c2f,
    "Backbone": _backbone,
    "C2PSA": _c2psa,
    "C3k2": _c3k2,
    "CSPOKM": _cspokm,
    "Concat": _concat,
    "Conv": _conv,
    "HEM": _hem,
    "SEF": _sef,
    "SPDConv": _spdconv,
    "SPPF": _sppf,
    "Upsample": _upsample,
}
