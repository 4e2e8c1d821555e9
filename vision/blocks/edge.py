"""Hierarchical Edge Module (HEM): edges of an early map, offered at three scales.

Source: HieraEdgeNet, arXiv 2506.07637.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from ...errors import UsageError
from ...kernels.edge import sobel_magnitude
from ...kernels.edge.reference import SOBEL, pyramid, replicated, squared_gradient
from .conv import ConvNormAct

EDGES = ("magnitude", "scharr", "log", "learned", "reference", "none")


class SobelMagnitude(nn.Module):
    """Gradient magnitude sqrt(gx^2 + gy^2 + eps) of every channel, by the fixed Sobel pair.

    It answers an edge of any orientation. The plain sum gx + gy does not: it is one directional derivative, blind to
    edges along its own direction. The pair is a constant, so trainers that switch frozen parameters back on, weight
    decay and weight averaging leave it alone. Its entries are k / 8: the gradient stays within the map's range.

    Args:
        eps: Keeps the slope finite where the map is flat.
    """

    kernel = SOBEL

    def __init__(self, eps: float = 1e-6):
        super().__init__()
        self.eps = eps

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, C, H, W) -> (B, C, H, W), change a pixel; borders are replicated, so the picture's end is no edge."""
        return (squared_gradient(x) + self.eps).sqrt().to(x.dtype)

    def pyramid(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """E1 = maxpool(E), E2 = maxpool(E1), E3 = maxpool(E2) of E = `forward(x)`, which is not kept."""
        return sobel_magnitude(x, eps=self.eps)


class FilterMagnitude(nn.Module):
    """Root of the summed squares of a channel's answers to a few filters: other edges than the Sobel pair's.

    Args:
        channels: Channels of the map.
        kind: `scharr`, the pair [3 10 3]^T [-1 0 1] / 32, nearer to the same answer in every direction; `log`, the
            Laplacian of a Gaussian of one pixel, which is nought along straight slopes and strong beside edges; or
            `learned`, a pair for each channel that starts as Sobel's and is trained.
        eps: Keeps the slope finite where the map is flat.
    """

    filters: torch.Tensor

    def __init__(self, channels: int, kind: str, eps: float = 1e-6):
        super().__init__()
        self.eps = eps
        if kind == "learned":
            self.filters = nn.Parameter(SOBEL[:, 0].repeat(channels, 1, 1)[:, None])
        else:
            filters = _scharr() if kind == "scharr" else _laplacian_of_gaussian()
            self.register_buffer("filters", filters.repeat(channels, 1, 1)[:, None], persistent=False)
        self.each = len(self.filters) // channels

    def squares(self, x: torch.Tensor) -> torch.Tensor:
        """Summed squares of the answers, (B, C, H, W), at least float32; borders are replicated."""
        x = x.to(torch.promote_types(x.dtype, torch.float32))
        margin = self.filters.shape[-1] // 2
        with torch.autocast(x.device.type, enabled=False):
            answers = F.conv2d(replicated(x, margin), self.filters.to(x.dtype), groups=x.shape[1])
        return answers.square().unflatten(1, (x.shape[1], self.each)).sum(2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, C, H, W) -> (B, C, H, W)."""
        return (self.squares(x) + self.eps).sqrt().to(x.dtype)

    def pyramid(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Its maxima over 2 x 2, 4 x 4 and 8 x 8 pixels."""
        return tuple(level.to(x.dtype) for level in pyramid(self.squares(x), 3, self.eps))


def _scharr() -> torch.Tensor:
    across = torch.tensor([[-3.0, 0.0, 3.0], [-10.0, 0.0, 10.0], [-3.0, 0.0, 3.0]]) / 32
    return torch.stack((across, across.T))


def _laplacian_of_gaussian(sigma: float = 1.0, reach: int = 3) -> torch.Tensor:
    """(1, 7, 7), summing to nought: a slope without an edge is not answered."""
    at = torch.arange(-reach, reach + 1, dtype=torch.float32)
    r2 = (at[:, None].square() + at.square()) / sigma**2
    filter_ = (r2 - 2) * torch.exp(-r2 / 2) / (2 * torch.pi * sigma**4)
    return (filter_ - filter_.mean())[None]


class SobelReference(nn.Module):
    """The edge map that the published implementation computes: zero, whatever the input.

    There the Sobel pair is a Conv3d with padding 1 and a kernel one slice deep, on maps of one slice. The padding pads
    depth too, so three slices come out, and the first, the one used, has seen nothing but padding. Its gradient is
    zero as well. Kept for comparison: a network with this map has the layers of the edge path but no edges.
    """

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, C, H, W) -> zeros of (B, C, H, W)."""
        return torch.zeros_like(x)

    def pyramid(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Its maxima over 2 x 2, 4 x 4 and 8 x 8 pixels: zeros."""
        return _zeros(x, (x.shape[1],) * 3)


class HEM(nn.Module):
    """Edges of a map at half, a quarter and an eighth of its resolution, each through its own 1x1 convolution.

    E1 = maxpool(E(x)), E2 = maxpool(E1), E3 = maxpool(E2); output i = SiLU(BN(W_i E_i)). From a stride-4 map the
    outputs have strides 8, 16 and 32. Odd sizes round up, as stride-2 convolutions do.

    Args:
        c_in: Channels of the input.
        widths: Channels of the three outputs.
        edge: `magnitude` (the Sobel magnitude), `scharr`, `log` or `learned` (see `FilterMagnitude`), `reference` (the
            published zero map; constants come out) or `none` (zeros come out and there is nothing to learn: the same
            function as a network without the edge path).
        mixtures: Edges are those of so many learned mixtures W x of the channels, as E(W x); None, as published, for
            those of every channel. A gradient is linear: what few mixtures lose is little, and they cost as few.

    Raises:
        UsageError: Unknown `edge`, or not three widths.
    """

    def __init__(self, c_in: int, widths: Sequence[int], edge: str = "magnitude", mixtures: int | None = None):
        super().__init__()
        if edge not in EDGES:
            raise UsageError(f"edge: expected one of {', '.join(EDGES)}; got {edge!r}")
        if len(widths) != 3:
            raise UsageError(f"widths: expected three, one a scale; got {list(widths)}")
        self.widths = tuple(widths)
        self.edge = edge
        if edge != "none":
            self.mix = None if mixtures is None else nn.Conv2d(c_in, mixtures, 1, bias=False)
            channels = c_in if mixtures is None else mixtures
            self.sobel = _edges(channels, edge)
            self.project = nn.ModuleList(ConvNormAct(channels, width) for width in widths)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """(B, c_in, H, W) -> three maps (B, widths[i], ceil(H / 2^(i+1)), ceil(W / 2^(i+1)))."""
        if self.edge == "none":
            return _zeros(x, self.widths)
        if self.mix is not None:
            x = self.mix(x)
        return tuple(project(e) for project, e in zip(self.project, self.sobel.pyramid(x), strict=True))


def _edges(channels: int, edge: str) -> Any:
    if edge in ("magnitude", "reference"):
        return SobelMagnitude() if edge == "magnitude" else SobelReference()
    return FilterMagnitude(channels, edge)


def _zeros(x: torch.Tensor, widths: Sequence[int]) -> tuple[torch.Tensor, ...]:
    steps = [-(-x.shape[2] // 2**i) for i in (1, 2, 3)], [-(-x.shape[3] // 2**i) for i in (1, 2, 3)]
    return tuple(x.new_zeros(x.shape[0], c, h, w) for c, h, w in zip(widths, *steps, strict=True))
