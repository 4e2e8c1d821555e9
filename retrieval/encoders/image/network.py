"""`GrainNet`: a small residual network from one picture of a grain to one unit vector.

Residual blocks after He et al. 2016 (arXiv 1512.03385), with shortcuts that average instead of skipping pixels (He et
al. 2019, arXiv 1812.01187, "ResNet-D"), pooled by the generalised mean of Radenovic et al. 2019 (arXiv 1711.02512, eq.
3).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn
from torch.nn import functional

from ....errors import UsageError

__all__ = ["GrainNet"]


class _Block(nn.Module):
    """Two 3x3 convolutions and a shortcut: (B, C, H, W) -> (B, C', H / stride, W / stride)."""

    def __init__(self, inner: int, outer: int, stride: int):
        super().__init__()
        self.first = nn.Conv2d(inner, outer, 3, stride, 1, bias=False)
        self.first_norm = nn.BatchNorm2d(outer)
        self.second = nn.Conv2d(outer, outer, 3, 1, 1, bias=False)
        self.second_norm = nn.BatchNorm2d(outer)
        # A block that starts as the identity trains sooner.
        nn.init.zeros_(self.second_norm.weight)
        self.shortcut = nn.Sequential()
        if stride > 1 or inner != outer:
            self.shortcut = nn.Sequential(
                nn.AvgPool2d(stride, ceil_mode=True), nn.Conv2d(inner, outer, 1, bias=False), nn.BatchNorm2d(outer)
            )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        inside = functional.relu(self.first_norm(self.first(x)))
        return functional.relu(self.second_norm(self.second(inside)) + self.shortcut(x))


class _GeneralisedMean(nn.Module):
    """(B, C, H, W) -> (B, C): the mean of `x ** p`, to the power `1 / p`; p is learned, 1 is the mean."""

    def __init__(self) -> None:
        super().__init__()
        self.p = nn.Parameter(torch.tensor(3.0))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        p = self.p.float().clamp(1, 8)
        return x.float().clamp(min=1e-5).pow(p).mean((2, 3)).pow(1 / p)


class GrainNet(nn.Module):
    """Grey pictures to unit vectors.

    Args:
        dim: Length of the vector.
        widths: Channels of the stages; each but the first halves the map.
        depth: Blocks of a stage.
    """

    def __init__(self, dim: int = 192, widths: Sequence[int] = (32, 64, 128, 256), depth: int = 2):
        super().__init__()
        if not widths or min(*widths, depth, dim) < 1:
            raise UsageError(f"dim, widths, depth: expected 1 or more, got {dim}, {tuple(widths)}, {depth}")
        self.dim = dim
        narrow = max(8, widths[0] // 2)
        self.stem = nn.Sequential(
            nn.Conv2d(1, narrow, 3, 2, 1, bias=False),
            nn.BatchNorm2d(narrow),
            nn.ReLU(),
            nn.Conv2d(narrow, widths[0], 3, 1, 1, bias=False),
            nn.BatchNorm2d(widths[0]),
            nn.ReLU(),
        )
        blocks, inner = [], widths[0]
        for stage, width in enumerate(widths):
            for i in range(depth):
                blocks.append(_Block(inner, width, 2 if stage and not i else 1))
                inner = width
        self.blocks = nn.Sequential(*blocks)
        self.pool = _GeneralisedMean()
        self.norm = nn.BatchNorm1d(inner)
        self.out = nn.Linear(inner, dim)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, 1, S, S) standardised density -> (B, dim), unit length."""
        pooled = self.norm(self.pool(self.blocks(self.stem(x))))
        return functional.normalize(self.out(pooled).float(), dim=1)
