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


def pool_regions(
    maps: Sequence[torch.Tensor], regions: torch.Tensor, of: torch.Tensor, size: tuple[int, int]
) -> torch.Tensor:
    """What feature maps hold in regions: torchvision's `roi_align(aligned=True, sampling_ratio=2)`, but at the borders.

    Args:
        maps: (B, C_i, H_i, W_i) each, all of the same windows.
        regions: `xyxy`, (N, 4), pixels of the windows.
        of: Which window each region is in, int64, (N,), ascending.
        size: Height and width of the windows in pixels, which each map covers from edge to edge.

    Returns:
        (N, sum C_i, CELLS, CELLS): the mean of four points a cell; beyond the window there is 0.
    """
    points = CELLS * _POINTS
    steps = (torch.arange(points, device=regions.device) + 0.5) / points
    span = regions[:, 2:] - regions[:, :2]
    x, y = (
        (regions[:, i, None] + span[:, i, None] * steps) * 2 / side - 1 for i, side in enumerate((size[1], size[0]))
    )
    grid = torch.stack([x[:, None].expand(-1, points, -1), y[:, :, None].expand(-1, -1, points)], 3).float()
    # The regions of a window are one tall picture, so its map is not copied; windows with as many go together.
    counts = torch.bincount(of, minlength=len(maps[0])).tolist()
    together = [len(counts)] if len(set(counts)) == 1 else [1] * len(counts)
    pooled = []
    for level in maps:
        sampled, first, window = [], 0, 0
        for windows in together:
            last = first + windows * counts[window]
            part = grid[first:last].reshape(windows, -1, points, 2)
            found = functional.grid_sample(level[window : window + windows].float(), part, align_corners=False)
            sampled.append(found.unflatten(2, (-1, points)).transpose(1, 2).flatten(0, 1))
            first, window = last, window + windows
        cells = torch.cat(sampled).unflatten(3, (CELLS, _POINTS)).unflatten(2, (CELLS, _POINTS))
        pooled.append(cells.mean((3, 5)))
    return torch.cat(pooled, 1)


class RegionHead(nn.Module):
    """Pooled features (N, channels, CELLS, CELLS) -> unit vectors (N, dim).

    Args:
        channels: Of all maps together.
        dim: Length of the vectors.
        width: Channels inside.
    """

    def __init__(self, channels: int, dim: int = 192, width: int = 256):
        super().__init__()
        self.dim, self.width = dim, width
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
