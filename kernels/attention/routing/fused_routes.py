"""The choice of routes in two Triton kernels: region means, then affinities and the best of each row.

The first reads q and k once and writes a mean for each region (in float32, tokens on the map only). The second takes a
block of asking regions: their affinities to all others come from one product and stay on the chip, and the best topk
are taken one after the other: the largest, among equals the lowest number, then that one struck out. For n tokens,
R regions and C channels: 2 n C elements read; 2 R^2 C operations; no R x R matrix in memory and no sort, which costs a
GPU as much as the attention does.
"""

# Programs are written in Triton's language, whose values have no types that mypy knows.
# mypy: ignore-errors

from __future__ import annotations

import torch
import triton
import triton.language as tl

from .forward import place
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
    of_q = tl.zeros([BLOCK_C], tl.float32)
    of_k = tl.zeros([BLOCK_C], tl.float32)
    for start in tl.static_range(0, HEIGHT * WIDTH, BLOCK_T):
        y, x, here = place(region, start + t, columns, height, width, HEIGHT, WIDTH)
        mask = known[None, :] if FITS else here[:, None] & known[None, :]
        q_at = q + batch * q_b + (y * q_y + x * q_x)[:, None] + (channel * q_c)[None, :]
        k_at = k + batch * k_b + (y * k_y + x * k_x)[:, None] + (channel * k_c)[None, :]
        of_q += tl.sum(tl.load(q_at, mask=mask, other=0.0).to(tl.float32), 0)
        of_k += tl.sum(tl.load(k_at, mask=mask, other=0.0).to(tl.float32), 0)
    tall = tl.minimum(height - region // columns * HEIGHT, HEIGHT)
    wide = tl.minimum(width - region % columns * WIDTH, WIDTH)
    share = 1.0 / (tall * wide).to(tl.float32)
    to = means + (batch * regions + region) * channels + channel
    tl.store(to, of_q * share, mask=known)
    tl.store(to + step, of_k * share, mask=known)


@triton.jit
def _best(
    means, routes, channels, regions, step, topk,
    BLOCK_R: tl.constexpr, ALL: tl.constexpr, BLOCK_C: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    blocks = tl.cdiv(regions, BLOCK_R)
    row = tl.program_id(0) % blocks * BLOCK_R + tl.arange(0, BLOCK_R)
    batch = (tl.program_id(0) // blocks).to(tl.int64)
    column = tl.arange(0, ALL)
    asking = means + batch * regions * channels
    asked = asking + step
    scores = tl.zeros([BLOCK_R, ALL], tl.float32)
    for start in range(0, channels, BLOCK_C):
        c = start + tl.arange(0, BLOCK_C)
        left = tl.load(
            asking + row[:, None] * channels + c[None, :],
            mask=(row < regions)[:, None] & (c < channels)[None, :],
            other=0.0,
        )
        right = tl.load(
            asked + column[:, None] * channels + c[None, :],
            mask=(column < regions)[:, None] & (c < channels)[None, :],
            other=0.0,
        )
        scores = tl.dot(left, tl.trans(right), scores, input_precision=PRECISION)
    # What is no number or below all numbers is still a region, and comes before those struck out.
    scores = tl.where(scores > -3.4028234663852886e38, scores, -3.4028234663852886e38)
    scores = tl.where((column < regions)[None, :], scores, float("-inf"))
    for i in range(topk):
        best = tl.max(scores, 1)
        number = tl.min(tl.where(scores == best[:, None], column[None, :], ALL), 1)
        tl.store(routes + (batch * regions + row) * topk + i, number.to(tl.int64), mask=row < regions)
        scores = tl.where(column[None, :] == number[:, None], float("-inf"), scores)


@triton.jit
def _select(scores, routes, rows, regions, topk, BLOCK_R: tl.constexpr, ALL: tl.constexpr):
    row = tl.program_id(0) * BLOCK_R + tl.arange(0, BLOCK_R)
    column = tl.arange(0, ALL)
    mask = (row < rows)[:, None] & (column < regions)[None, :]
    row = row.to(tl.int64)
    left = tl.load(scores + row[:, None] * regions + column[None, :], mask=mask, other=float("-inf"))
    # What is no number or below all numbers is still a region, and comes before those struck out.
    left = tl.where(left > -3.4028234663852886e38, left, -3.4028234663852886e38)
    left = tl.where((column < regions)[None, :], left, float("-inf"))
    for i in range(topk):
        best = tl.max(left, 1)
        number = tl.min(tl.where(left == best[:, None], column[None, :], ALL), 1)
        tl.store(routes + row * topk + i, number.to(tl.int64), mask=row < rows)
        left = tl.where(column[None, :] == number[:, None], float("-inf"), left)


def select(scores: torch.Tensor, topk: int, block: int = 4, warps: int = 4) -> torch.Tensor:
    batch, count, _ = scores.shape
    routes = torch.empty((batch, count, topk), device=scores.device, dtype=torch.int64)
    every = max(16, 1 << (count - 1).bit_length())
    _select[(-(-batch * count // block),)](scores, routes, batch * count, count, topk, block, every, num_warps=warps)
    return routes


def means(q: torch.Tensor, k: torch.Tensor, regions: Regions) -> torch.Tensor:
    batch, channels, height, width = q.shape
    count = regions.count
    means = torch.empty((2, batch, count, channels), device=q.device, dtype=torch.float32)
    block_c = min(64, 1 << (channels - 1).bit_length())
    block_t = min(64, 1 << (regions.tokens - 1).bit_length())
    fits = height % regions.height == 0 and width % regions.width == 0 and regions.tokens % block_t == 0
    _means[(batch * count * -(-channels // block_c),)](
        q, k, means, *q.stride(), *k.stride(), channels, height, width, regions.columns, count, means.stride(0),
        regions.height, regions.width, block_t, block_c, fits,
    )  # fmt: skip
    return means


def nearest(q: torch.Tensor, k: torch.Tensor, regions: Regions, topk: int) -> torch.Tensor:
    """As `routes.nearest`."""
    batch, channels, height, width = q.shape
    count = regions.count
    means = torch.empty((2, batch, count, channels), device=q.device, dtype=torch.float32)
    block_c = min(64, 1 << (channels - 1).bit_length())
    block_t = min(64, 1 << (regions.tokens - 1).bit_length())
    fits = height % regions.height == 0 and width % regions.width == 0 and regions.tokens % block_t == 0
    _means[(batch * count * -(-channels // block_c),)](
        q, k, means, *q.stride(), *k.stride(), channels, height, width, regions.columns, count, means.stride(0),
        regions.height, regions.width, block_t, block_c, fits,
    )  # fmt: skip
    routes = torch.empty((batch, count, topk), device=q.device, dtype=torch.int64)
    every = max(16, 1 << (count - 1).bit_length())
    _best[(batch * -(-count // 16),)](
        means, routes, channels, count, means.stride(0), topk, 16, every, 16, "ieee", num_warps=8 if every > 512 else 4
    )
    return routes
