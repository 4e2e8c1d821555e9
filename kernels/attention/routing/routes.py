"""Which regions each region reads: the first level of bi-level routing attention, in plain PyTorch.

    route(i) = the topk regions j with the largest  mean(q in region i) . mean(k in region j)

over all channels, so that all heads read the same regions. The choice has no gradient. Of equal affinities the region
with the lower number wins, here and in the kernel, so that a map always takes the same routes.

Source: BiFormer, Zhu et al., CVPR 2023 (arXiv 2303.08810), equations 3 to 5.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F

from ...backends import exporting
from .regions import Regions

__all__ = ["affinities", "descriptors", "nearest"]


def descriptors(x: torch.Tensor, regions: Regions) -> torch.Tensor:
    """Means over the tokens of each region that lie on the map: (B, C, H, W) -> (B, regions, C), at least float32."""
    size = (regions.height, regions.width)
    x = x.detach().to(torch.promote_types(x.dtype, torch.float32))
    return F.avg_pool2d(x, size, size, ceil_mode=True, count_include_pad=False).flatten(2).transpose(1, 2)


def affinities(q: torch.Tensor, k: torch.Tensor, regions: Regions) -> torch.Tensor:
    """How much each region has to ask of each other: (B, regions asking, regions asked)."""
    return descriptors(q, regions) @ descriptors(k, regions).transpose(1, 2)


def nearest(q: torch.Tensor, k: torch.Tensor, regions: Regions, topk: int) -> torch.Tensor:
    """Numbers of the topk regions that each region reads, best first: (B, regions, topk), int64."""
    scores = affinities(q, k, regions)
    if exporting():  # The operator TopK of ONNX takes the lower number of equals; PyTorch's own does not promise it.
        return scores.topk(topk, dim=-1).indices
    return scores.sort(dim=-1, descending=True, stable=True).indices[..., :topk].contiguous()
