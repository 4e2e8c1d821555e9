"""Attention over routed regions, twice: as a mask on dense attention, and as it was published.

Both are plain PyTorch. `masked` says what is computed; its (H W)^2 scores keep it to small maps. `gathered` is the
formulation of the paper's code: it copies the keys and values of the routed regions for every region that reads them,
topk times the map, and is what the other back ends are measured against.

Source: BiFormer, Zhu et al., CVPR 2023 (arXiv 2303.08810), equations 6 and 7.
"""

from __future__ import annotations

import torch

from .regions import Regions

__all__ = ["gathered", "masked"]


def masked(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    routes: torch.Tensor,
    regions: Regions,
    heads: int,
    scale: float,
    padding: str = "mask",
) -> torch.Tensor:
    """Softmax attention in which a token sees the tokens of the regions that its own region reads.

    Args:
        q: Queries, (B, heads * d, H, W).
        k: Keys, like `q`.
        v: Values, like `q`.
        routes: (B, regions, topk) numbers of regions.
        regions: The grid of the map.
        heads: Heads.
        scale: What the scores are multiplied by.
        padding: `mask`: where a region reaches over the map there is nothing. `official`: there are keys and values
            of zero, which take a share of the softmax, as in the authors' code (where it is marked as to be mended);
            for comparing with networks trained so. Their `scale` is (heads * d)^-0.5, not d^-0.5.

    Returns:
        (B, heads * d, H, W).
    """
    if padding == "official":
        height, width = q.shape[2:]
        q, k, v = (regions.padded(x) for x in (q, k, v))
        return masked(q, k, v, routes, regions, heads, scale)[:, :, :height, :width]
    batch, channels, height, width = q.shape
    rows = torch.arange(height, device=q.device) // regions.height * regions.columns
    region = (rows[:, None] + torch.arange(width, device=q.device) // regions.width).flatten()
    reads = torch.zeros(batch, regions.count, regions.count, dtype=torch.bool, device=q.device)
    mask = reads.scatter(2, routes, True)[:, region][:, None, :, region]
    q, k, v = (x.reshape(batch, heads, channels // heads, height * width).transpose(2, 3) for x in (q, k, v))
    weights = (q @ k.transpose(2, 3) * scale).masked_fill(~mask, -torch.inf).softmax(dim=-1)
    return (weights @ v).transpose(2, 3).reshape(batch, channels, height, width)


def gathered(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    routes: torch.Tensor,
    regions: Regions,
    heads: int,
    scale: float,
) -> torch.Tensor:
    """The published formulation (arguments as in `masked`): gather, multiply, softmax, multiply.

    It does not mask padding, so the regions have to tile the map.
    """
    height, width = q.shape[2:]
    q, k, v = (regions.cut(x) for x in (q, k, v))
    batch, count, tokens, channels = q.shape
    topk = routes.shape[2]
    index = routes[..., None, None].expand(-1, -1, -1, tokens, channels)

    def read(x: torch.Tensor) -> torch.Tensor:
        every = x[:, None].expand(-1, count, -1, -1, -1)
        chosen = torch.gather(every, 2, index).reshape(batch * count, topk * tokens, heads, channels // heads)
        return chosen.transpose(1, 2)

    queries = q.reshape(batch * count, tokens, heads, channels // heads).transpose(1, 2)
    weights = (queries * scale @ read(k).transpose(2, 3)).softmax(dim=-1)
    out = (weights @ read(v)).transpose(1, 2).reshape(batch, count, tokens, channels)
    return regions.joined(out, height, width)
