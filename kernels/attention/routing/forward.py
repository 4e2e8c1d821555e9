"""Attention over routed regions in Triton, forward, straight from the maps.

One program takes a block of the queries of one region in one head. It walks over the keys of the regions that its
region reads: the number of a region gives the address of its tokens in the map, whatever the strides (channels first
or last, parts of a fused projection), so that no key is ever copied. The softmax is kept online (a running maximum and
sum), scores never leave the chip, and keys beyond the border of the map are masked.

For n tokens, m = topk * tokens of a region, and C channels: 4 n m C operations and n m heads exponentials; memory
moved is q, k, v and the output once each where the keys of an image stay in the second-level cache (4 n C elements;
from there they are read topk times). Kept for the gradient: one float a token and head. The gather formulation writes
and reads 2 n topk C elements of copies and n m heads of weights, several times.
"""

# Programs are written in Triton's language, whose values have no types that mypy knows.
# mypy: ignore-errors

from __future__ import annotations

import torch
import triton
import triton.language as tl

from .regions import Regions
from .tiles import Tiles, like, precision

__all__ = ["forward", "origin", "within"]

LOG2_E = 1.4426950408889634


@triton.jit
def origin(region, columns, HEIGHT: tl.constexpr, WIDTH: tl.constexpr):
    """Row and column of a region's first token on the map."""
    return region // columns * HEIGHT, region % columns * WIDTH


@triton.jit
def within(token, HEIGHT: tl.constexpr, WIDTH: tl.constexpr, BLOCK: tl.constexpr, FITS: tl.constexpr):
    """Row and column of tokens in their region. Where regions tile the map, the last stands in for those beyond it.

    So loads need no mask there, and are wide.
    """
    if FITS and HEIGHT * WIDTH % BLOCK != 0:
        token = tl.minimum(token, HEIGHT * WIDTH - 1)
    return token // WIDTH, token % WIDTH


@triton.jit
def _forward(
    q, k, v, out, lse, routes,
    q_b, q_c, q_y, q_x, k_b, k_c, k_y, k_x, v_b, v_c, v_y, v_x, o_b, o_c, o_y, o_x,
    heads, height, width, columns, regions, topk, scale,
    D: tl.constexpr, BLOCK_D: tl.constexpr, HEIGHT: tl.constexpr, WIDTH: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, FITS: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    TOKENS: tl.constexpr = HEIGHT * WIDTH
    BLOCKS: tl.constexpr = (TOKENS + BLOCK_M - 1) // BLOCK_M
    STEPS: tl.constexpr = (TOKENS + BLOCK_N - 1) // BLOCK_N
    # Heads are the fastest: neighbours on the chip read the same rows of memory.
    program = tl.program_id(0)
    head = program % heads
    program = program // heads
    block = program % BLOCKS
    region = program // BLOCKS % regions
    batch = (program // BLOCKS // regions).to(tl.int64)
    d = tl.arange(0, BLOCK_D)
    channel = head * D + d
    k += batch * k_b
    v += batch * v_b
    routes += (batch * regions + region) * topk
    token = block * BLOCK_M + tl.arange(0, BLOCK_M)
    y, x = within(token, HEIGHT, WIDTH, BLOCK_M, FITS)
    top, left = origin(region, columns, HEIGHT, WIDTH)
    here = (token < TOKENS) & (top + y < height) & (left + x < width)
    here_d = here[:, None] & (d < D)[None, :]
    q_at = q + batch * q_b + top * q_y + left * q_x + (y * q_y + x * q_x)[:, None] + (channel * q_c)[None, :]
    queries = tl.load(q_at) if FITS else tl.load(q_at, mask=here_d, other=0.0)
    # The lowest finite number and not -inf: a block of nothing but masked keys must not give inf - inf.
    highest = tl.full([BLOCK_M], -3.4028234663852886e38, tl.float32)
    total = tl.zeros([BLOCK_M], tl.float32)
    mixed = tl.zeros([BLOCK_M, BLOCK_D], tl.float32)
    for step in range(topk * STEPS):
        read = tl.load(routes + step // STEPS).to(tl.int32)
        top_n, left_n = origin(read, columns, HEIGHT, WIDTH)
        n = step % STEPS * BLOCK_N + tl.arange(0, BLOCK_N)
        y_n, x_n = within(n, HEIGHT, WIDTH, BLOCK_N, FITS)
        k_at = k + (top_n * k_y + left_n * k_x) + (y_n * k_y + x_n * k_x)[:, None] + (channel * k_c)[None, :]
        v_at = v + (top_n * v_y + left_n * v_x) + (y_n * v_y + x_n * v_x)[:, None] + (channel * v_c)[None, :]
        there = (n < TOKENS) & (top_n + y_n < height) & (left_n + x_n < width)
        there_d = there[:, None] & (d < D)[None, :]
        keys = tl.load(k_at) if FITS else tl.load(k_at, mask=there_d, other=0.0)
        values = tl.load(v_at) if FITS else tl.load(v_at, mask=there_d, other=0.0)
        scores = tl.dot(queries, tl.trans(keys), input_precision=PRECISION)
        if not FITS:
            scores = tl.where(there[None, :], scores, float("-inf"))
        elif TOKENS % BLOCK_N != 0:
            scores = tl.where((n < TOKENS)[None, :], scores, float("-inf"))
        higher = tl.maximum(highest, tl.max(scores, 1))
        # The difference before the scale: of products as large as 2^30 their difference has no digits left.
        weights = tl.exp2((scores - higher[:, None]) * scale)
        shrink = tl.exp2((highest - higher) * scale)
        total = total * shrink + tl.sum(weights, 1)
        mixed = tl.dot(weights.to(values.dtype), values, mixed * shrink[:, None], input_precision=PRECISION)
        highest = higher
    mixed = mixed / total[:, None]
    o_at = out + batch * o_b + top * o_y + left * o_x + (y * o_y + x * o_x)[:, None] + (channel * o_c)[None, :]
    tl.store(o_at, mixed.to(out.dtype.element_ty), mask=here_d)
    at = ((batch * heads + head) * height + top + y) * width + left + x
    tl.store(lse + at, highest * scale + tl.log2(total), mask=here)


def forward(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    routes: torch.Tensor,
    regions: Regions,
    heads: int,
    scale: float,
    tiles: Tiles,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Output, laid out as `q` is, and the binary logarithm of each softmax's sum, (B, heads, H, W) in float32."""
    batch, channels, height, width = q.shape
    routes = routes.contiguous()
    out = like(q)
    lse = torch.empty((batch, heads, height, width), device=q.device, dtype=torch.float32)
    d = channels // heads
    fits = height % regions.height == 0 and width % regions.width == 0 and d == tiles.depth(d)
    grid = (batch * regions.count * -(-regions.tokens // tiles.queries) * heads,)
    _forward[grid](
        q, k, v, out, lse, routes,
        *q.stride(), *k.stride(), *v.stride(), *out.stride(),
        heads, height, width, regions.columns, regions.count, routes.shape[2], scale * LOG2_E,
        d, tiles.depth(d), regions.height, regions.width,
        tiles.queries, tiles.keys, fits, precision(q.dtype),
        num_warps=tiles.warps, num_stages=tiles.stages,
    )  # fmt: skip
    return out, lse
