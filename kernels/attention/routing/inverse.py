"""Who reads a region: the routes the other way round, cut into pieces of even work.

A region may be read by none or by all, and the gradient of its keys and values sums over its readers. The routes are
sorted by the region read (stably, so that the sum has one order and the gradient is the same in every run), and the
readers of each region are cut into pieces of at most `length`. A piece is the work of one program: a region that all
read does not keep one program busy while the others wait. Sizes depend on the shapes alone, so that nothing waits for
the GPU to count.
"""

from __future__ import annotations

from typing import NamedTuple

import torch

__all__ = ["Readers", "invert"]


class Readers(NamedTuple):
    """The readers of every region, for each image of a batch; all int32.

    Attributes:
        reader: (B, regions * topk) regions that read, sorted by what they read.
        first: (B, regions + 1) where in `reader` those of a region begin.
        piece: (B, regions + 1) where in the list of pieces those of a region begin; at least one piece each.
        owner: (B, pieces) the region of a piece; `regions` beyond the last piece.
        store: (B, regions) where the sums of a region of several pieces are kept until they are added up.
        length: Readers in a piece, at most.
        stores: How many such sums there can be.
    """

    reader: torch.Tensor
    first: torch.Tensor
    piece: torch.Tensor
    owner: torch.Tensor
    store: torch.Tensor
    length: int
    stores: int


def invert(routes: torch.Tensor, length: int) -> Readers:
    """Turns routes, (B, regions, topk), round."""
    batch, regions, topk = routes.shape
    edges = regions * topk
    read, order = routes.reshape(batch, edges).sort(dim=1, stable=True)
    numbers = torch.arange(regions + edges // length + 1, device=routes.device).expand(batch, -1)
    first = torch.searchsorted(read, numbers[:, : regions + 1].contiguous(), out_int32=True)
    pieces = ((first.diff(dim=1) + (length - 1)) // length).clamp(min=1)
    end = pieces.cumsum(1, dtype=torch.int32)
    owner = torch.searchsorted(end, numbers[:, :-1].to(torch.int32), right=True, out_int32=True)
    several = pieces * (pieces > 1)
    return Readers(
        reader=(order // topk).to(torch.int32),
        first=first,
        piece=torch.nn.functional.pad(end, (1, 0)),
        owner=owner,
        store=several.cumsum(1, dtype=torch.int32) - several,
        length=length,
        # A region of p > 1 pieces has more than (p - 1) * length >= p * length / 2 readers.
        stores=2 * edges // length,
    )
