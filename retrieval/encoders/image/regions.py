"""Vectors from the detector's own feature maps: one pass over a window gives the boxes, and what is in them.

Each map is sampled on a grid of points inside a box, between pixels, bilinearly (RoIAlign, He et al. 2017, arXiv
1703.06870), and a small head turns the three samples into a unit vector. The detector stays as it is.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn
from torch.nn import functional

__all__ = ["MARGIN", "RegionHead", "pool_regions", "squares"]

# A region is a square around the box and a little more, so that the rim of the grain is inside whatever way it lies.
MARGIN = 1.15
CELLS = 7
_POINTS = 2


def squares(boxes: torch.Tensor) -> torch.Tensor:
    """Boxes `xyxy` (N, 4) -> squares `xyxy` (N, 4) about the same middles, `MARGIN` times the longer side wide."""
    middle = (boxes[:, :2] + boxes[:, 2:]) / 2
    half = (boxes[:, 2:] - boxes[:, :2]).amax(1, keepdim=True) * MARGIN / 2
    return torch.cat([middle - half, middle + half], 1)


def pool_regions(maps: Sequence[torch.Tensor], regions: torch.Tensor, of: torch.Tensor, size: int) -> torch.Tensor:
    """What feature maps hold in regions.

    Args:
        maps: (B, C_i, H_i, W_i) each, of square windows.
        regions: `xyxy`, (N, 4), pixels of the windows.
        of: Which window each region is in, int64, (N,), ascending.
        size: Side of the windows in pixels.

    Returns:
        (N, sum C_i, CELLS, CELLS): the mean of four points a cell; beyond the window there is 0.
    """
    steps = (torch.arange(CELLS * _POINTS, device=regions.device) + 0.5) / (CELLS * _POINTS)
    span = regions[:, 2:] - regions[:, :2]
    x, y = (regions[:, i, None] + span[:, i, None] * steps for i in (0, 1))
    grid = torch.stack([x[:, None].expand(-1, len(steps), -1), y[:, :, None].expand(-1, -1, len(steps))], 3)
    grid = grid * 2 / size - 1
    pooled = []
    for level in maps:
        counts = torch.bincount(of, minlength=len(level)).tolist()
        if all(count == 1 for count in counts):
            sampled = functional.grid_sample(level.float(), grid.float(), align_corners=False)
        else:
            parts = [
                functional.grid_sample(
                    level[i : i + 1].float().expand(len(g), -1, -1, -1), g.float(), align_corners=False
                )
                for i, g in enumerate(grid.split(counts))
                if len(g)
            ]
            sampled = (
                torch.cat(parts) if parts else level.new_empty((0, level.shape[1], len(steps), len(steps))).float()
            )
        pooled.append(functional.avg_pool2d(sampled, _POINTS))
    return torch.cat(pooled, 1)


class RegionHead(nn.Module):
    """Pooled features (N, channels, CELLS, CELLS) -> unit vectors (N, dim).

    Args:
        channels: Of all maps together.
        dim: Length of the vectors.
        width: Channels inside.
    """

    def __init__(self, channels: int = 448, dim: int = 192, width: int = 256):
        super().__init__()
        self.dim = dim
        self.norm = nn.BatchNorm2d(channels)
        self.body = nn.Sequential(
            nn.Conv2d(channels, width, 1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(),
            nn.Conv2d(width, width, 3, padding=1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(),
        )
        self.out = nn.Linear(2 * width, dim)

    def forward(self, pooled: torch.Tensor) -> torch.Tensor:
        """See the class."""
        x = self.body(self.norm(pooled))
        return functional.normalize(self.out(torch.cat([x.mean((2, 3)), x.amax((2, 3))], 1)).float(), dim=1)
