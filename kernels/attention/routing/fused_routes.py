"""The choice of routes in two Triton kernels around one matrix product: region means, affinities, the best of each row.

The first kernel reads q and k once and writes a mean for each region (in float32, tokens on the map only). The last
takes a row of affinities and picks topk, one after the other: the largest, among equals the lowest number, then that
one struck out. For n tokens, R regions and C channels: 2 n C elements read, 2 R^2 C operations, R^2 floats in between.
Plain PyTorch takes four times as long for the means of half precision maps, and sorting rows takes ten times as long
as picking.
"""

# Programs are written in Triton's language, whose values have no types that mypy knows.
# mypy: ignore-errors

from __future__ import annotations

import torch
import triton
import triton.language as tl

from .forward import origin, within
from .regions import Regions

__all__ = ["nearest"]


@triton.jit
def _means(
    q, k, means, q_b, q_c, q_y, q_x, k_b, k_c, k_y, k_x,
    channels, height, width, columns, regions, step,
    HEIGHT: tl.constexpr, WIDTH: tl.constexpr, BLOCK_T: tl.constexpr, BLOCK_C: tl.constexpr, FITS: tl.constexpr,
):  # fmt: skip
    program = tl.program_id(0)
    blocks = tl.cdiv(channels, BLOCK_C)
    channel = program % blocks * BLOCK_C + tl.arange(0, BLOCK_C)
    region = program // blocks % regions
    batch = (program // blocks // regions).to(tl.int64)
    known = channel < channels
    t = tl.arange(0, BLOCK_T)
    top, left = origin(region, columns, HEIGHT, WIDTH)
    of_q = tl.zeros([BLOCK_C], tl.float32)
    of_k = tl.zeros([BLOCK_C], tl.float32)
    for start in tl.static_range(0, HEIGHT * WIDTH, BLOCK_T):
        y, x = within(start + t, HEIGHT, WIDTH, BLOCK_T, False)
        y, x = top + y, left + x
        here = (start + t < HEIGHT * WIDTH) & (y < height) & (x < width)
        mask = known[None, :] if FITS else here[:, None] & known[None, :]
        q_at = q + batch * q_b + (y * q_y + x * q_x)[:, None] + (channel * q_c)[None, :]
        k_at = k + batch * k_b + (y * k_y + x * k_x)[:, None] + (channel * k_c)[None, :]
        of_q += tl.sum(tl.load(q_at, mask=mask, other=0.0).to(tl.float32), 0)
        of_k += tl.sum(tl.load(k_at, mask=mask, other=0.0).to(tl.float32), 0)
    tall = tl.minimum(height - top, HEIGHT)
    wide = tl.minimum(width - left, WIDTH)
    share = 1.0 / (tall * wide).to(tl.float32)
    to = means + (batch * regions + region) * channels + channel
    tl.store(to, of_q * share, mask=known)
    tl.store(to + step, of_k * share, mask=known)


@triton.jit
def _select(scores, routes, regions, topk, ALL: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    column = tl.arange(0, ALL)
    left = tl.load(scores + row * regions + column, mask=column < regions, other=0.0)
    # What is no number or below all numbers is still a region, and comes before those struck out.
    left = tl.where(left > -3.4028234663852886e38, left, -3.4028234663852886e38)
    left = tl.where(column < regions, left, float("-inf"))
    for i in range(topk):
        number = tl.min(tl.where(left == tl.max(left, 0), column, ALL), 0)
        tl.store(routes + row * topk + i, number.to(tl.int64))
        left = tl.where(column == number, float("-inf"), left)


def means(
    q: torch.Tensor, k: torch.Tensor, regions: Regions, block_c: int = 128, warps: int = 4, block_t: int = 64
) -> torch.Tensor:
    """Descriptors of q and of k: (2, B, regions, C) in float32."""
    batch, channels, height, width = q.shape
    count = regions.count
    both = torch.empty((2, batch, count, channels), device=q.device, dtype=torch.float32)
    block_c = min(block_c, _power_of_two(channels))
    block_t = min(block_t, _power_of_two(regions.tokens))
    fits = height % regions.height == 0 and width % regions.width == 0 and regions.tokens % block_t == 0
    _means[(batch * count * -(-channels // block_c),)](
        q, k, both, *q.stride(), *k.stride(), channels, height, width, regions.columns, count, both.stride(0),
        regions.height, regions.width, block_t, block_c, fits, num_warps=warps,
    )  # fmt: skip
    return both


def select(scores: torch.Tensor, topk: int) -> torch.Tensor:
    """Numbers of the topk largest of each row, largest first, of equals the lower number first."""
    batch, count, _ = scores.shape
    routes = torch.empty((batch, count, topk), device=scores.device, dtype=torch.int64)
    every = _power_of_two(count)
    _select[(batch * count,)](scores, routes, count, topk, every, num_warps=max(1, every // 1024))
    return routes


def nearest(q: torch.Tensor, k: torch.Tensor, regions: Regions, topk: int) -> torch.Tensor:
    """As `routes.nearest`."""
    of_q, of_k = means(q, k, regions)
    return select(torch.bmm(of_q, of_k.transpose(1, 2)), topk)


def _power_of_two(n: int) -> int:
    return 1 << (n - 1).bit_length()
