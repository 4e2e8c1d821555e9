"""The grid of regions that a map is cut into."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F

from ....errors import UsageError

__all__ = ["Regions"]


@dataclass(frozen=True)
class Regions:
    """Regions of equal size that cover a map; those at the lower and right border may reach over it.

    Regions and the tokens in a region are numbered row by row. No region is empty: where `rows` regions of
    ceil(H / rows) tokens would leave some wholly outside the map, there are fewer.

    Args:
        rows: Regions from top to bottom.
        columns: Regions from left to right.
        height: Rows of tokens in a region.
        width: Columns of tokens in a region.
    """

    rows: int
    columns: int
    height: int
    width: int

    @classmethod
    def of(cls, height: int, width: int, regions: Any) -> Regions:
        """The grid of a map of `height` x `width` tokens cut into `regions` (rows, columns), or one number for both.

        Raises:
            UsageError: Not one or two whole numbers, below 1, or more regions than tokens.
        """
        pair = (regions, regions) if isinstance(regions, int) else regions
        if not isinstance(pair, tuple | list) or len(pair) != 2 or not all(isinstance(n, int) for n in pair):
            raise UsageError(f"regions: expected a whole number or a pair (rows, columns), got {regions!r}")
        rows, columns = pair
        if min(rows, columns) < 1 or rows > height or columns > width:
            raise UsageError(
                f"regions: expected between 1 and the map's {height} x {width} tokens, got {rows} x {columns}; "
                "a region needs a token: ask for fewer regions or a larger map"
            )
        h, w = -(-height // rows), -(-width // columns)
        return cls(-(-height // h), -(-width // w), h, w)

    @property
    def count(self) -> int:
        """Regions in the grid."""
        return self.rows * self.columns

    @property
    def tokens(self) -> int:
        """Tokens in a region."""
        return self.height * self.width

    def padded(self, x: torch.Tensor) -> torch.Tensor:
        """(B, C, H, W) with zeros below and to the right, up to whole regions."""
        bottom, right = self.rows * self.height - x.shape[2], self.columns * self.width - x.shape[3]
        return F.pad(x, (0, right, 0, bottom)) if bottom or right else x

    def cut(self, x: torch.Tensor) -> torch.Tensor:
        """(B, C, H, W) -> (B, regions, tokens, C), zeros where a region reaches over the map."""
        batch, channels = x.shape[:2]
        x = self.padded(x).reshape(batch, channels, self.rows, self.height, self.columns, self.width)
        return x.permute(0, 2, 4, 3, 5, 1).reshape(batch, self.count, self.tokens, channels)

    def joined(self, x: torch.Tensor, height: int, width: int) -> torch.Tensor:
        """(B, regions, tokens, C) -> (B, C, height, width): the inverse of `cut`."""
        batch, channels = x.shape[0], x.shape[3]
        x = x.reshape(batch, self.rows, self.columns, self.height, self.width, channels)
        x = x.permute(0, 5, 1, 3, 2, 4).reshape(batch, channels, self.rows * self.height, self.columns * self.width)
        return x[:, :, :height, :width]
