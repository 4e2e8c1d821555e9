"""Sigmoid attention in Triton, forward and backward, without the matrix of weights in memory (FlashSigmoid).

    y = sigma(scale q k^T + b) v

A sigmoid needs no row maximum, no row sum and no rescaling: blocks of keys are added up as they come. Queries stay on
the chip, keys and values stream past. The backward pass recomputes the weights p from q, k and b (nothing else is
kept) in two kernels without atomics, so that runs agree bit by bit: one walks over the queries for each block of keys
(dv = p^T dy, dk = scale ds^T q, db = sum ds), one over the keys for each block of queries (dq = scale ds k), with
ds = p (1 - p) (dy v^T).

For N queries, M keys and d channels a head: 4 N M d operations forward, 14 N M d backward; memory moved is q, k, v, y
once each. What limits it is the special function unit, 16 results a clock: 1 / (1 + exp(-x)) is two of them a weight.
`weight` makes it 1.5: two weights share one reciprocal, 1/a = b (1/ab). To keep that exact over the whole range of
the exponent, p 2^C = 1 / (2^-C + 2^(-x log2(e) - C)) is computed and the sums are scaled back once. Rows of zeros past
the end need no mask: their weight meets v = 0.
"""

# Programs are written in Triton's language, whose values have no types that mypy knows.
# mypy: ignore-errors

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl

from ...backends import interpreting

__all__ = ["backward_keys", "backward_queries", "forward"]

LOG2_E = 1.4426950408889634


@triton.jit
def weight(u, WIDE: tl.constexpr, PLAIN: tl.constexpr):
    """2^C sigma(x) of u = -x log2(e) - C. WIDE: C is 60, else 15, so that weights fit into float16."""
    C: tl.constexpr = 60 if WIDE else 15
    # Without this bound the product of two overflows.
    u = tl.minimum(u, 60.0, propagate_nan=tl.PropagateNan.ALL)
    if PLAIN:
        return 1.0 / (2.0**-C + tl.exp2(u))
    elif WIDE:
        return tl.inline_asm_elementwise(
            """{ .reg .f32 a, b, r;
            ex2.approx.ftz.f32 a, $2; ex2.approx.ftz.f32 b, $3;
            add.ftz.f32 a, a, 0f21800000; add.ftz.f32 b, b, 0f21800000;
            mul.ftz.f32 r, a, b; rcp.approx.ftz.f32 r, r; mul.ftz.f32 $0, r, b; mul.ftz.f32 $1, r, a; }""",
            "=&f,=&f,f,f", [u], dtype=tl.float32, is_pure=True, pack=2,
        )  # fmt: skip
    else:
        return tl.inline_asm_elementwise(
            """{ .reg .f32 a, b, r;
            ex2.approx.ftz.f32 a, $2; ex2.approx.ftz.f32 b, $3;
            add.ftz.f32 a, a, 0f38000000; add.ftz.f32 b, b, 0f38000000;
            mul.ftz.f32 r, a, b; rcp.approx.ftz.f32 r, r; mul.ftz.f32 $0, r, b; mul.ftz.f32 $1, r, a; }""",
            "=&f,=&f,f,f", [u], dtype=tl.float32, is_pure=True, pack=2,
        )  # fmt: skip


@triton.jit
def rows(base, start, count, stride, LENGTH: tl.constexpr, D: tl.constexpr, EVEN: tl.constexpr):
    """Rows start .. start + LENGTH of a (count, D) matrix, zeros past its end."""
    row = tl.arange(0, LENGTH)
    at = base + (tl.full((), 0, tl.int64) + start) * stride + row[:, None] * stride + tl.arange(0, D)[None, :]
    if EVEN:
        return tl.load(at)
    return tl.load(at, mask=row[:, None] < count - start, other=0.0)


@triton.jit
def keep(base, x, start, count, stride, LENGTH: tl.constexpr, D: tl.constexpr):
    """Writes what `rows` reads."""
    row = tl.arange(0, LENGTH)
    at = base + (tl.full((), 0, tl.int64) + start) * stride + row[:, None] * stride + tl.arange(0, D)[None, :]
    tl.store(at, x.to(base.dtype.element_ty), mask=row[:, None] < count - start)


@triton.jit
def head_of(x, b, h, x_b, x_h):
    """Where head h of image b begins."""
    return x + b.to(tl.int64) * x_b + h.to(tl.int64) * x_h


@triton.jit(do_not_specialize=["heads", "n", "m"])
def forward_kernel(
    q, k, v, y, bias, shift, scale, heads, n, m,
    q_b, q_h, q_n, k_b, k_h, k_n, v_b, v_h, v_n, y_b, y_h, y_n,
    D: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, CAUSAL: tl.constexpr, BIASED: tl.constexpr,
    EVEN: tl.constexpr, WIDE: tl.constexpr, PLAIN: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    C: tl.constexpr = 60 if WIDE else 15
    block = tl.program_id(0)
    if CAUSAL:  # Longest first.
        block = tl.num_programs(0) - 1 - block
    b, h = tl.program_id(1) // heads, tl.program_id(1) % heads
    if BIASED:
        shift = -1.4426950408889634 * tl.load(bias + h)
    shift -= C
    k = head_of(k, b, h, k_b, k_h)
    v = head_of(v, b, h, v_b, v_h)
    first = block * BLOCK_M
    queries = rows(head_of(q, b, h, q_b, q_h), first, n, q_n, BLOCK_M, D, EVEN)
    row = first + tl.arange(0, BLOCK_M)[:, None]
    column = tl.arange(0, BLOCK_N)[None, :]
    total = tl.zeros((BLOCK_M, D), tl.float32)
    end = m
    if CAUSAL:
        end = tl.minimum(m, first + BLOCK_M)
    for j in tl.range(0, end, BLOCK_N):
        keys = rows(k, j, m, k_n, BLOCK_N, D, EVEN)
        values = rows(v, j, m, v_n, BLOCK_N, D, EVEN)
        u = tl.dot(queries, keys.T, input_precision=PRECISION) * scale + shift
        p = weight(u, WIDE, PLAIN)
        if CAUSAL:  # noqa: SIM102 - the first is known when it is compiled
            if j + BLOCK_N > first:
                p = tl.where(row >= j + column, p, 0.0)
        total = tl.dot(p.to(values.dtype), values, total, input_precision=PRECISION)
    keep(head_of(y, b, h, y_b, y_h), total * 2.0**-C, first, n, y_n, BLOCK_M, D)


@triton.jit(do_not_specialize=["heads", "n", "m"])
def keys_kernel(
    q, k, v, dy, dk, dv, db, bias, shift, scale, slope, heads, n, m,
    q_b, q_h, q_n, k_b, k_h, k_n, v_b, v_h, v_n, g_b, g_h, g_n,
    D: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, CAUSAL: tl.constexpr, BIASED: tl.constexpr,
    SUMMED: tl.constexpr, EVEN: tl.constexpr,
    WIDE: tl.constexpr, PLAIN: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    C: tl.constexpr = 60 if WIDE else 15
    block = tl.program_id(0)
    b, h = tl.program_id(1) // heads, tl.program_id(1) % heads
    if BIASED:
        shift = -1.4426950408889634 * tl.load(bias + h)
    shift -= C
    q = head_of(q, b, h, q_b, q_h)
    dy = head_of(dy, b, h, g_b, g_h)
    first = block * BLOCK_N
    keys = rows(head_of(k, b, h, k_b, k_h), first, m, k_n, BLOCK_N, D, EVEN)
    values = rows(head_of(v, b, h, v_b, v_h), first, m, v_n, BLOCK_N, D, EVEN)
    row = first + tl.arange(0, BLOCK_N)[:, None]
    column = tl.arange(0, BLOCK_M)[None, :]
    d_keys = tl.zeros((BLOCK_N, D), tl.float32)
    d_values = tl.zeros((BLOCK_N, D), tl.float32)
    d_bias = tl.zeros((BLOCK_N, BLOCK_M), tl.float32)
    start = 0
    if CAUSAL:
        start = first // BLOCK_M * BLOCK_M
    for i in tl.range(start, n, BLOCK_M):
        queries = rows(q, i, n, q_n, BLOCK_M, D, EVEN)
        slopes = rows(dy, i, n, g_n, BLOCK_M, D, EVEN)
        u = tl.dot(keys, queries.T, input_precision=PRECISION) * scale + shift
        dp = tl.dot(values, slopes.T, input_precision=PRECISION)
        p = weight(u, WIDE, PLAIN)
        if CAUSAL:  # noqa: SIM102 - the first is known when it is compiled
            if i < first + BLOCK_N:
                p = tl.where(row <= i + column, p, 0.0)
        d_values = tl.dot(p.to(slopes.dtype), slopes, d_values, input_precision=PRECISION)
        w = p * 2.0**-C
        ds = dp * (w - w * w)
        if SUMMED:
            d_bias += ds
        d_keys = tl.dot(ds.to(queries.dtype), queries, d_keys, input_precision=PRECISION)
    # Gradients of keys and values are contiguous.
    head = tl.program_id(1).to(tl.int64)
    keep(dv + head * m * D, d_values * 2.0**-C, first, m, D, BLOCK_N, D)
    keep(dk + head * m * D, d_keys * slope, first, m, D, BLOCK_N, D)
    if SUMMED:
        tl.store(db + head * tl.num_programs(0) + block, tl.sum(d_bias))


@triton.jit(do_not_specialize=["heads", "n", "m"])
def queries_kernel(
    q, k, v, dy, dq, bias, shift, scale, slope, heads, n, m,
    q_b, q_h, q_n, k_b, k_h, k_n, v_b, v_h, v_n, g_b, g_h, g_n,
    D: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, CAUSAL: tl.constexpr, BIASED: tl.constexpr,
    EVEN: tl.constexpr, WIDE: tl.constexpr, PLAIN: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    C: tl.constexpr = 60 if WIDE else 15
    block = tl.program_id(0)
    if CAUSAL:
        block = tl.num_programs(0) - 1 - block
    b, h = tl.program_id(1) // heads, tl.program_id(1) % heads
    if BIASED:
        shift = -1.4426950408889634 * tl.load(bias + h)
    shift -= C
    k = head_of(k, b, h, k_b, k_h)
    v = head_of(v, b, h, v_b, v_h)
    first = block * BLOCK_M
    queries = rows(head_of(q, b, h, q_b, q_h), first, n, q_n, BLOCK_M, D, EVEN)
    slopes = rows(head_of(dy, b, h, g_b, g_h), first, n, g_n, BLOCK_M, D, EVEN)
    row = first + tl.arange(0, BLOCK_M)[:, None]
    column = tl.arange(0, BLOCK_N)[None, :]
    d_queries = tl.zeros((BLOCK_M, D), tl.float32)
    end = m
    if CAUSAL:
        end = tl.minimum(m, first + BLOCK_M)
    for j in tl.range(0, end, BLOCK_N):
        keys = rows(k, j, m, k_n, BLOCK_N, D, EVEN)
        values = rows(v, j, m, v_n, BLOCK_N, D, EVEN)
        u = tl.dot(queries, keys.T, input_precision=PRECISION) * scale + shift
        dp = tl.dot(slopes, values.T, input_precision=PRECISION)
        p = weight(u, WIDE, PLAIN)
        w = p * 2.0**-C
        ds = dp * (w - w * w)
        if CAUSAL:  # noqa: SIM102 - the first is known when it is compiled
            if j + BLOCK_N > first:
                ds = tl.where(row >= j + column, ds, 0.0)
        d_queries = tl.dot(ds.to(keys.dtype), keys, d_queries, input_precision=PRECISION)
    head = tl.program_id(1).to(tl.int64)
    keep(dq + head * n * D, d_queries * slope, first, n, D, BLOCK_M, D)


class Tiles(NamedTuple):
    """How a kernel is cut up: queries and keys of a block, warps of a program, blocks in flight."""

    m: int
    n: int
    warps: int
    stages: int


def forward(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    bias: torch.Tensor | None,
    shift: float,
    causal: bool,
    tiles: Tiles | None = None,
) -> torch.Tensor:
    """The output, like q and contiguous; `bias` of a head, (H,) float32, takes the place of `shift`."""
    y = torch.empty(q.shape, dtype=q.dtype, device=q.device)
    tiles = tiles or tiles_of("forward", q)
    options = _options(q, k, tiles, tiles.m, tiles.n)
    forward_kernel[_grid(q, tiles.m)](
        q, k, v, y, *_scalars(q, bias, shift), q.shape[1], q.shape[2], k.shape[2],
        *_strides(q, k, v, y), CAUSAL=causal, BIASED=bias is not None, **options,
    )  # fmt: skip
    return y


def backward_keys(
    dy: torch.Tensor,
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    bias: torch.Tensor | None,
    shift: float,
    causal: bool,
    tiles: Tiles | None = None,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Gradients of keys, values and the bias, the last (H,) float32 and empty where there is no `bias`."""
    dk, dv = (torch.empty(x.shape, dtype=x.dtype, device=x.device) for x in (k, v))
    tiles = tiles or tiles_of("keys", q)
    grid = _grid(k, tiles.n)
    summed = bias is not None
    db = torch.empty((*k.shape[:2], grid[0]) if summed else 0, dtype=torch.float32, device=q.device)
    keys_kernel[grid](
        q, k, v, dy, dk, dv, db, *_scalars(q, bias, shift), q.shape[3] ** -0.5, q.shape[1], q.shape[2], k.shape[2],
        *_strides(q, k, v, dy), CAUSAL=causal, BIASED=summed, SUMMED=summed, **_options(q, k, tiles, tiles.m, tiles.n),
    )  # fmt: skip
    return dk, dv, db.sum((0, 2)) if summed else db


def backward_queries(
    dy: torch.Tensor,
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    bias: torch.Tensor | None,
    shift: float,
    causal: bool,
    tiles: Tiles | None = None,
) -> torch.Tensor:
    """The gradient of the queries."""
    dq = torch.empty(q.shape, dtype=q.dtype, device=q.device)
    tiles = tiles or tiles_of("queries", q)
    queries_kernel[_grid(q, tiles.m)](
        q, k, v, dy, dq, *_scalars(q, bias, shift), q.shape[3] ** -0.5, q.shape[1], q.shape[2], k.shape[2],
        *_strides(q, k, v, dy), CAUSAL=causal, BIASED=bias is not None, **_options(q, k, tiles, tiles.m, tiles.n),
    )  # fmt: skip
    return dq


# Of each kernel and size of an element, for each size of head; chosen by measurement on an NVIDIA H200.
TILES = {
    ("forward", 2): {32: Tiles(64, 64, 4, 2), 64: Tiles(64, 64, 4, 3), 128: Tiles(64, 32, 4, 3)},
    ("keys", 2): {32: Tiles(64, 64, 4, 3), 64: Tiles(64, 64, 4, 3), 128: Tiles(64, 64, 4, 2)},
    ("queries", 2): {32: Tiles(64, 64, 4, 3), 64: Tiles(64, 64, 4, 3), 128: Tiles(128, 64, 8, 3)},
    ("forward", 4): {32: Tiles(128, 32, 8, 2), 64: Tiles(128, 32, 8, 2), 128: Tiles(128, 32, 8, 2)},
    ("keys", 4): {32: Tiles(32, 128, 8, 2), 64: Tiles(32, 128, 8, 2), 128: Tiles(32, 32, 4, 2)},
    ("queries", 4): {32: Tiles(128, 32, 8, 2), 64: Tiles(128, 32, 8, 2), 128: Tiles(64, 32, 4, 1)},
}


def tiles_of(kernel: str, q: torch.Tensor) -> Tiles:
    """The entry of `TILES`."""
    return TILES[kernel, q.element_size()][q.shape[3]]


def _grid(x: torch.Tensor, block: int) -> tuple[int, int]:
    return triton.cdiv(x.shape[2], block), x.shape[0] * x.shape[1]


def _scalars(q: torch.Tensor, bias: torch.Tensor | None, shift: float) -> tuple[torch.Tensor, float, float]:
    """Bias, and the shift and scale that turn q k^T into the power of two of exp(-x)."""
    return q if bias is None else bias, -LOG2_E * shift, -LOG2_E * q.shape[3] ** -0.5


def _strides(*tensors: torch.Tensor) -> list[int]:
    return [step for x in tensors for step in x.stride()[:3]]


def _options(q: torch.Tensor, k: torch.Tensor, tiles: Tiles, m: int, n: int) -> dict[str, Any]:
    return {
        "D": q.shape[3],
        "BLOCK_M": m,
        "BLOCK_N": n,
        "EVEN": q.shape[2] % m == 0 and k.shape[2] % n == 0,
        "WIDE": q.dtype != torch.float16,
        "PLAIN": interpreting(),
        "PRECISION": "tf32" if torch.backends.cuda.matmul.allow_tf32 else "tf32x3",
        "num_warps": tiles.warps,
        "num_stages": tiles.stages,
    }
