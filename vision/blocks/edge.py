"""Hierarchical Edge Module (HEM): edges of an early map, offered at three scales.

Source: HieraEdgeNet, arXiv 2506.07637.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from ...errors import UsageError
from ...kernels.edge import sobel_magnitude
from ...kernels.edge.reference import SOBEL, squared_gradient
from .conv import ConvNormAct

EDGES = ("magnitude", "reference", "none")


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
        edge: `magnitude` (the Sobel magnitude), `reference` (the published zero map; constants come out) or `none`
            (zeros come out and there is nothing to learn: the same function as a network without the edge path).

    Raises:
        UsageError: Unknown `edge`, or not three widths.
    """

    def __init__(self, c_in: int, widths: Sequence[int], edge: str = "magnitude"):
        super().__init__()
        if edge not in EDGES:
            raise UsageError(f"edge: expected one of {', '.join(EDGES)}; got {edge!r}")
        if len(widths) != 3:
            raise UsageError(f"widths: expected three, one a scale; got {list(widths)}")
        self.widths = tuple(widths)
        self.edge = edge
        if edge != "none":
            self.sobel = SobelMagnitude() if edge == "magnitude" else SobelReference()
            self.project = nn.ModuleList(ConvNormAct(c_in, width) for width in widths)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """(B, c_in, H, W) -> three maps (B, widths[i], ceil(H / 2^(i+1)), ceil(W / 2^(i+1)))."""
        if self.edge == "none":
            return _zeros(x, self.widths)
        return tuple(project(e) for project, e in zip(self.project, self.sobel.pyramid(x), strict=True))


def _zeros(x: torch.Tensor, widths: Sequence[int]) -> tuple[torch.Tensor, ...]:
    steps = [-(-x.shape[2] // 2**i) for i in (1, 2, 3)], [-(-x.shape[3] // 2**i) for i in (1, 2, 3)]
    return tuple(x.new_zeros(x.shape[0], c, h, w) for c, h, w in zip(widths, *steps, strict=True))
