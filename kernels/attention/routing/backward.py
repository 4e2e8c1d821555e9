"""Gradients of attention over routed regions in Triton, again without copies of keys and values.

With P = exp(scale q k^T - lse), as the forward pass left lse, and delta = sum(out * d_out) for each query:

    dV = P^T dO,   dS = P (dO V^T - delta),   dQ = scale dS K,   dK = scale dS^T Q.

dQ walks over the keys that a region reads, as the forward pass does. dK and dV walk over the readers of a region
(`inverse`): one program sums a piece of at most `length` readers; regions of several pieces keep their sums in float32,
and a last kernel adds them in order. No atomic additions: the gradients of two runs are equal bit by bit. Where the
gather formulation scatters topk gradients for every key into its copy, here each is written once.

For n tokens, m keys a query and C channels: 14 n m C operations (five products, S and dP twice), 2 n m heads
exponentials. Memory: q, k, v, d_out about twice, and the three gradients; the sums of regions of several pieces take at
most as much again as the keys and values (pieces are of 4 topk readers, four times the mean, and mostly none is kept).
"""

# Programs are written in Triton's language, whose values have no types that mypy knows.
# mypy: ignore-errors

from __future__ import annotations

import torch
import triton
import triton.language as tl

from .forward import LOG2_E, origin, within
from .inverse import Readers, invert
from .regions import Regions
from .tiles import Tiles, like, precision

__all__ = ["backward"]

# Readers of a piece, as a multiple of their mean number.
PIECE = 4


@triton.jit
def _queries(
    q, k, v, out, lse, routes, d_out, d_q, delta,
    q_b, q_c, q_y, q_x, k_b, k_c, k_y, k_x, v_b, v_c, v_y, v_x,
    o_b, o_c, o_y, o_x, g_b, g_c, g_y, g_x, dq_b, dq_c, dq_y, dq_x,
    heads, height, width, columns, regions, topk, scale, log_scale,
    D: tl.constexpr, BLOCK_D: tl.constexpr, HEIGHT: tl.constexpr, WIDTH: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, FITS: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    TOKENS: tl.constexpr = HEIGHT * WIDTH
    BLOCKS: tl.constexpr = (TOKENS + BLOCK_M - 1) // BLOCK_M
    STEPS: tl.constexpr = (TOKENS + BLOCK_N - 1) // BLOCK_N
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
    g_at = d_out + batch * g_b + top * g_y + left * g_x + (y * g_y + x * g_x)[:, None] + (channel * g_c)[None, :]
    o_at = out + batch * o_b + top * o_y + left * o_x + (y * o_y + x * o_x)[:, None] + (channel * o_c)[None, :]
    at = ((batch * heads + head) * height + top + y) * width + left + x
    if FITS:
        queries = tl.load(q_at)
        grads = tl.load(g_at)
        outs = tl.load(o_at)
        logs = tl.load(lse + at)
    else:
        queries = tl.load(q_at, mask=here_d, other=0.0)
        grads = tl.load(g_at, mask=here_d, other=0.0)
        outs = tl.load(o_at, mask=here_d, other=0.0)
        logs = tl.load(lse + at, mask=here, other=0.0)
    drop = tl.sum(outs.to(tl.float32) * grads.to(tl.float32), 1)
    tl.store(delta + at, drop, mask=here)
    summed = tl.zeros([BLOCK_M, BLOCK_D], tl.float32)
    for step in range(topk * STEPS):
        read = tl.load(routes + step // STEPS).to(tl.int32)
        top_n, left_n = origin(read, columns, HEIGHT, WIDTH)
        n = step % STEPS * BLOCK_N + tl.arange(0, BLOCK_N)
        y_n, x_n = within(n, HEIGHT, WIDTH, BLOCK_N, FITS)
        k_at = k + (top_n * k_y + left_n * k_x) + (y_n * k_y + x_n * k_x)[:, None] + (channel * k_c)[None, :]
        v_at = v + (top_n * v_y + left_n * v_x) + (y_n * v_y + x_n * v_x)[:, None] + (channel * v_c)[None, :]
        if FITS:
            keys = tl.load(k_at)
            values = tl.load(v_at)
        else:
            there = (n < TOKENS) & (top_n + y_n < height) & (left_n + x_n < width)
            there_d = there[:, None] & (d < D)[None, :]
            keys = tl.load(k_at, mask=there_d, other=0.0)
            values = tl.load(v_at, mask=there_d, other=0.0)
        logits = tl.dot(queries, tl.trans(keys), input_precision=PRECISION) * log_scale - logs[:, None]
        # No weight is above one: of large logits, rounding may say so.
        weights = tl.exp2(tl.minimum(logits, 0.0))
        if not FITS:
            weights = tl.where(there[None, :], weights, 0.0)
        elif TOKENS % BLOCK_N != 0:
            weights = tl.where((n < TOKENS)[None, :], weights, 0.0)
        change = weights * (tl.dot(grads, tl.trans(values), input_precision=PRECISION) - drop[:, None])
        summed = tl.dot(change.to(keys.dtype), keys, summed, input_precision=PRECISION)
    to = d_q + batch * dq_b + top * dq_y + left * dq_x + (y * dq_y + x * dq_x)[:, None] + (channel * dq_c)[None, :]
    tl.store(to, (summed * scale).to(d_q.dtype.element_ty), mask=here_d)


@triton.jit
def _keys(
    q, k, v, lse, d_out, delta, d_k, d_v, sums, reader, first, piece, owner, store,
    q_b, q_c, q_y, q_x, k_b, k_c, k_y, k_x, v_b, v_c, v_y, v_x,
    g_b, g_c, g_y, g_x, dk_b, dk_c, dk_y, dk_x, dv_b, dv_c, dv_y, dv_x,
    heads, height, width, columns, regions, edges, pieces, stores, length, scale, log_scale,
    D: tl.constexpr, BLOCK_D: tl.constexpr, HEIGHT: tl.constexpr, WIDTH: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, FITS: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    TOKENS: tl.constexpr = HEIGHT * WIDTH
    BLOCKS: tl.constexpr = (TOKENS + BLOCK_N - 1) // BLOCK_N
    STEPS: tl.constexpr = (TOKENS + BLOCK_M - 1) // BLOCK_M
    program = tl.program_id(0)
    head = program % heads
    program = program // heads
    block = program % BLOCKS
    this = program // BLOCKS % pieces
    batch = (program // BLOCKS // pieces).to(tl.int64)
    region = tl.load(owner + batch * pieces + this)
    if region >= regions:
        return
    piece += batch * (regions + 1) + region
    from_piece = tl.load(piece)
    several = tl.load(piece + 1) - from_piece > 1
    first += batch * (regions + 1) + region
    begin = tl.load(first) + (this - from_piece) * length
    end = tl.minimum(begin + length, tl.load(first + 1))
    d = tl.arange(0, BLOCK_D)
    channel = head * D + d
    token = block * BLOCK_N + tl.arange(0, BLOCK_N)
    y, x = within(token, HEIGHT, WIDTH, BLOCK_N, FITS)
    top, left = origin(region, columns, HEIGHT, WIDTH)
    here = (token < TOKENS) & (top + y < height) & (left + x < width)
    here_d = here[:, None] & (d < D)[None, :]
    k_at = k + batch * k_b + top * k_y + left * k_x + (y * k_y + x * k_x)[:, None] + (channel * k_c)[None, :]
    v_at = v + batch * v_b + top * v_y + left * v_x + (y * v_y + x * v_x)[:, None] + (channel * v_c)[None, :]
    keys = tl.load(k_at) if FITS else tl.load(k_at, mask=here_d, other=0.0)
    values = tl.load(v_at) if FITS else tl.load(v_at, mask=here_d, other=0.0)
    q += batch * q_b
    d_out += batch * g_b
    lse += (batch * heads + head) * height * width
    delta += (batch * heads + head) * height * width
    reader += batch * edges
    of_keys = tl.zeros([BLOCK_N, BLOCK_D], tl.float32)
    of_values = tl.zeros([BLOCK_N, BLOCK_D], tl.float32)
    for step in range(begin * STEPS, end * STEPS):
        reads = tl.load(reader + step // STEPS)
        top_m, left_m = origin(reads, columns, HEIGHT, WIDTH)
        m = step % STEPS * BLOCK_M + tl.arange(0, BLOCK_M)
        y_m, x_m = within(m, HEIGHT, WIDTH, BLOCK_M, FITS)
        q_at = q + (top_m * q_y + left_m * q_x) + (y_m * q_y + x_m * q_x)[:, None] + (channel * q_c)[None, :]
        g_at = d_out + (top_m * g_y + left_m * g_x) + (y_m * g_y + x_m * g_x)[:, None] + (channel * g_c)[None, :]
        at = (top_m * width + left_m) + (y_m * width + x_m)
        if FITS:
            queries = tl.load(q_at)
            grads = tl.load(g_at)
            logs = tl.load(lse + at)
            drop = tl.load(delta + at)
            # Queries beyond the region weigh nothing: exp(-inf).
            if TOKENS % BLOCK_M != 0:
                logs = tl.where(m < TOKENS, logs, float("inf"))
        else:
            there = (m < TOKENS) & (top_m + y_m < height) & (left_m + x_m < width)
            there_d = there[:, None] & (d < D)[None, :]
            queries = tl.load(q_at, mask=there_d, other=0.0)
            grads = tl.load(g_at, mask=there_d, other=0.0)
            logs = tl.load(lse + at, mask=there, other=float("inf"))
            drop = tl.load(delta + at, mask=there, other=0.0)
        logits = tl.dot(keys, tl.trans(queries), input_precision=PRECISION) * log_scale - logs[None, :]
        # No weight is above one: of large logits, rounding may say so.
        weights = tl.exp2(tl.minimum(logits, 0.0))
        of_values = tl.dot(weights.to(grads.dtype), grads, of_values, input_precision=PRECISION)
        change = weights * (tl.dot(values, tl.trans(grads), input_precision=PRECISION) - drop[None, :])
        of_keys = tl.dot(change.to(queries.dtype), queries, of_keys, input_precision=PRECISION)
    of_keys = of_keys * scale
    if several:
        at = tl.load(store + batch * regions + region) + this - from_piece
        to = sums + (((batch * stores + at) * heads + head) * TOKENS + token)[:, None] * (2 * D) + d[None, :]
        tl.store(to, of_keys, mask=here_d)
        tl.store(to + D, of_values, mask=here_d)
    else:
        to_k = (
            d_k + batch * dk_b + top * dk_y + left * dk_x + (y * dk_y + x * dk_x)[:, None] + (channel * dk_c)[None, :]
        )
        to_v = (
            d_v + batch * dv_b + top * dv_y + left * dv_x + (y * dv_y + x * dv_x)[:, None] + (channel * dv_c)[None, :]
        )
        tl.store(to_k, of_keys.to(d_k.dtype.element_ty), mask=here_d)
        tl.store(to_v, of_values.to(d_v.dtype.element_ty), mask=here_d)


@triton.jit
def _add(
    d_k, d_v, sums, piece, store,
    dk_b, dk_c, dk_y, dk_x, dv_b, dv_c, dv_y, dv_x, heads, height, width, columns, regions, stores,
    D: tl.constexpr, BLOCK_D: tl.constexpr, HEIGHT: tl.constexpr, WIDTH: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    TOKENS: tl.constexpr = HEIGHT * WIDTH
    BLOCKS: tl.constexpr = (TOKENS + BLOCK_N - 1) // BLOCK_N
    program = tl.program_id(0)
    region = program % regions
    batch = (program // regions).to(tl.int64)
    piece += batch * (regions + 1) + region
    count = tl.load(piece + 1) - tl.load(piece)
    if count <= 1:
        return
    at = (batch * stores + tl.load(store + batch * regions + region)) * heads
    d = tl.arange(0, BLOCK_D)
    for unit in range(heads * BLOCKS):
        head = unit // BLOCKS
        token = unit % BLOCKS * BLOCK_N + tl.arange(0, BLOCK_N)
        y, x = within(token, HEIGHT, WIDTH, BLOCK_N, False)
        top, left = origin(region, columns, HEIGHT, WIDTH)
        y, x = top + y, left + x
        here = (token < TOKENS) & (y < height) & (x < width)
        here_d = here[:, None] & (d < D)[None, :]
        of_keys = tl.zeros([BLOCK_N, BLOCK_D], tl.float32)
        of_values = tl.zeros([BLOCK_N, BLOCK_D], tl.float32)
        for i in range(count):
            part = sums + ((at + i * heads + head) * TOKENS + token)[:, None] * (2 * D) + d[None, :]
            of_keys += tl.load(part, mask=here_d, other=0.0)
            of_values += tl.load(part + D, mask=here_d, other=0.0)
        channel = head * D + d
        to_k = d_k + batch * dk_b + (y * dk_y + x * dk_x)[:, None] + (channel * dk_c)[None, :]
        to_v = d_v + batch * dv_b + (y * dv_y + x * dv_x)[:, None] + (channel * dv_c)[None, :]
        tl.store(to_k, of_keys.to(d_k.dtype.element_ty), mask=here_d)
        tl.store(to_v, of_values.to(d_v.dtype.element_ty), mask=here_d)


def backward(
    d_out: torch.Tensor,
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    routes: torch.Tensor,
    out: torch.Tensor,
    lse: torch.Tensor,
    regions: Regions,
    heads: int,
    scale: float,
    tiles: tuple[Tiles, Tiles],
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Gradients of q, k and v, laid out as each of them is."""
    batch, channels, height, width = q.shape
    count, topk, d = regions.count, routes.shape[2], channels // heads
    routes = routes.contiguous()
    d_q, d_k, d_v = like(q), like(k), like(v)
    delta = torch.empty_like(lse)
    fits = height % regions.height == 0 and width % regions.width == 0 and d == Tiles.depth(d)
    sizes = (d, Tiles.depth(d), regions.height, regions.width)

    walk = tiles[0]
    _queries[(batch * count * -(-regions.tokens // walk.queries) * heads,)](
        q, k, v, out, lse, routes, d_out, d_q, delta,
        *q.stride(), *k.stride(), *v.stride(), *out.stride(), *d_out.stride(), *d_q.stride(),
        heads, height, width, regions.columns, count, topk, scale, scale * LOG2_E,
        *sizes, walk.queries, walk.keys, fits, precision(q.dtype),
        num_warps=walk.warps, num_stages=walk.stages,
    )  # fmt: skip

    walk = tiles[1]
    readers: Readers = invert(routes, PIECE * topk)
    pieces = readers.owner.shape[1]
    sums = torch.empty((batch, readers.stores, heads, regions.tokens, 2 * d), device=q.device, dtype=torch.float32)
    _keys[(batch * pieces * -(-regions.tokens // walk.keys) * heads,)](
        q, k, v, lse, d_out, delta, d_k, d_v, sums, *readers[:5],
        *q.stride(), *k.stride(), *v.stride(), *d_out.stride(), *d_k.stride(), *d_v.stride(),
        heads, height, width, regions.columns, count, count * topk, pieces, readers.stores, readers.length,
        scale, scale * LOG2_E,
        *sizes, walk.queries, walk.keys, fits, precision(q.dtype),
        num_warps=walk.warps, num_stages=walk.stages,
    )  # fmt: skip
    if readers.stores:
        _add[(batch * count,)](
            d_k, d_v, sums, readers.piece, readers.store, *d_k.stride(), *d_v.stride(),
            heads, height, width, regions.columns, count, readers.stores, *sizes, walk.keys,
        )  # fmt: skip
    return d_q, d_k, d_v
