"""Attention over routed regions by indexing: the back end for CPUs, older GPUs and exported graphs.

The keys and values of the routed regions are picked whole, region by region, and PyTorch's fused attention does the
rest. Compared with the published torch.gather (an index for every element) the copies are runs of memory: 3.5 times
faster on a CPU for an 80 x 80 map of 128 channels. Memory is still topk times the keys and values, but never the
attention weights. The graph is Pad, Reshape, Transpose, Gather, MatMul and Softmax, which every runtime has.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F

from .regions import Regions

__all__ = ["attend"]


def attend(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    routes: torch.Tensor,
    regions: Regions,
    heads: int,
    scale: float,
) -> torch.Tensor:
    """Arguments and result as in `reference.masked`."""
    batch, channels, height, width = q.shape
    count, tokens, topk = regions.count, regions.tokens, routes.shape[2]
    first = torch.arange(batch, device=q.device)[:, None, None] * count
    picked = (routes + first).flatten()

    def split(x: torch.Tensor, length: int) -> torch.Tensor:
        return x.reshape(batch * count, length, heads, channels // heads).transpose(1, 2)

    def read(x: torch.Tensor) -> torch.Tensor:
        # index_select and not x[picked]: its gradient is a sum of runs as well.
        return split(regions.cut(x).reshape(batch * count, tokens * channels).index_select(0, picked), topk * tokens)

    mask = None
    if (regions.rows * regions.height, regions.columns * regions.width) != (height, width):
        on_map = regions.cut(torch.ones_like(q[:1, :1], dtype=torch.bool)).reshape(count, tokens)
        mask = on_map[routes].reshape(batch * count, 1, 1, topk * tokens)
    out = F.scaled_dot_product_attention(split(regions.cut(q), tokens), read(k), read(v), mask, scale=scale)
    return regions.joined(out.transpose(1, 2).reshape(batch, count, tokens, channels), height, width)
