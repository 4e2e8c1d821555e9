"""Depthwise convolution by banded Toeplitz matrices, in Triton: tensor cores of every NVIDIA GPU from Ampere on.

A *patch* is PH x PW output pixels of one channel, its *window* the KH + PH - 1 rows of input pixels that it sees. The
patch is its window, read as one long row, times a matrix of the kernel's weights shifted: with k = (dy, dx) a pixel of
the window and n = (oy, ox) one of the patch, T[k, n] = weight[dy - oy, dx - ox], zero outside the kernel. All patches
of a channel, in all images, share T, so each is a row m of one product of matrices, Y[m, n] = sum over k of X[m, k]
T[k, n].

Neither operand is ever built. X[m, k] is loaded from the map where patch m has its window, pixels outside the map
masked: no padded copy. T repeats itself: the columns of output row oy are those of row 0, oy window rows later. A
first small kernel writes one patch row of it, KH + 2 PH - 2 window rows, and the product reads that table with a
stride of minus one row for oy. Windows begin on 16 bytes, so that all loads are of 16 bytes.

Work: 2 COLUMNS (KH + PH - 1) operations an output pixel, 2 KH KW of which count: 1.9 times for 31 x 31 by 8 x 16
patches. Patches are taken row by row of patches, through all images, so that window rows outside the map are left out
(12% at 80 x 80), for patches of one column also window columns (half of the work at 32 x 32). Device memory: x and y
once, the table, C PW COLUMNS (KH + 2 PH - 2) elements, twice. Second-level cache: (PATCHES + PH PW) elements for
PATCHES PH PW products. Sums are float32 in a fixed order: the same input gives the same bits. As zeros of T multiply
pixels outside the kernel, an infinity in the input spreads over its whole patch as NaN.
"""

# Programs are written in Triton's language, whose values have no types that mypy knows.
# mypy: ignore-errors

from __future__ import annotations

import math

import torch
import triton
import triton.language as tl

from .toeplitz_plan import Plan, Window, aligned, launching, limits, plan_convolution, precision
from .toeplitz_weight import weight_gradient

__all__ = ["forward", "supports", "weight_gradient"]

ACTIVATIONS = {None: 0, "relu": 1, "gelu": 2}
LARGEST = 61


def supports(x: torch.Tensor, weight: torch.Tensor) -> str | None:
    """Why the convolution of these, and its gradients, cannot be taken, or None."""
    if x.dtype not in (torch.float16, torch.bfloat16, torch.float32):
        return f"it takes float16, bfloat16 and float32, not {x.dtype}"
    if x.dtype == torch.bfloat16 and x.device.type == "cpu":
        return "Triton's interpreter does not multiply bfloat16"
    if max(weight.shape[-2:]) > LARGEST:
        return f"it takes kernels up to {LARGEST} pixels, not {tuple(weight.shape[-2:])}"
    if x.shape[1] > 65535:
        return f"it takes up to 65535 channels, not {x.shape[1]}"
    return None


def forward(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None = None,
    *,
    residual: torch.Tensor | None = None,
    activation: str | None = None,
    turned: bool = False,
    allow_tf32: bool | None = None,
    plan: Plan | None = None,
) -> torch.Tensor:
    """`activation(conv(x) + bias + residual)`, stride 1, zeros outside the map, sums in float32.

    Args:
        x: (B, C, H, W), float16, bfloat16 or float32; copied first where it is not contiguous.
        weight: (C, 1, kh, kw), odd sides up to 61, dtype of `x`.
        bias: (C,) or None, dtype of `x`.
        residual: Shape and dtype of `x`, or None.
        activation: None, `relu` or `gelu` (exact).
        turned: Whether the kernel is turned by 180 degrees, as the gradient of the input needs it.
        allow_tf32: Whether float32 is multiplied as tf32, relative error 3e-4, and not as three of them, 1e-6; None is
            what PyTorch allows its own convolutions.
        plan: How the work is cut; None chooses.

    Returns:
        (B, C, H, W), contiguous, dtype of `x`.
    """
    batch, channels, height, width = x.shape
    kernel = (weight.shape[2], weight.shape[3])
    y = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    window = Window.of(kernel, width, x.element_size())
    plan = plan or plan_convolution(width, x.element_size(), limits(x.device)[1])
    (ph, pw), (left, columns) = plan.patch, window.columns(plan.patch)
    x, weight = aligned(x, window.vector), weight.contiguous()
    pitch = x.shape[3]
    unit, unit_y = math.gcd(pitch, window.vector), math.gcd(width, window.vector)
    rows = window.table_rows(plan)
    table = x.new_empty(channels * pw * rows * columns)
    block = 1024
    with launching(x.device):
        _table[(triton.cdiv(pw * rows * columns, block), channels)](
            weight, table, *kernel, turned, ph, pw, left - kernel[1] // 2, rows, columns, block
        )
        patches = batch * -(-height // ph) * -(-width // pw)
        _convolve[(triton.cdiv(patches, plan.patches), channels)](
            *(x, table, bias, None if residual is None else residual.contiguous(), y),
            *(batch, channels, height, pitch // unit, width // unit_y),
            *(kernel[0], left, rows, columns, unit, unit_y, ph, pw, plan.patches, plan.step),
            *(bias is not None, residual is not None, ACTIVATIONS[activation]),
            *(precision(x.dtype, allow_tf32), plan.stages),
            num_warps=plan.warps,
        )
    return y


@triton.jit
def _table(
    weight,
    table,
    KH: tl.constexpr,
    KW: tl.constexpr,
    TURNED: tl.constexpr,
    PH: tl.constexpr,
    PW: tl.constexpr,
    SHIFT: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """table[c, ox, row, dx] = weight[c, row - (PH - 1), dx - ox - SHIFT], zero outside the kernel."""
    c = tl.program_id(1).to(tl.int64)
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    ox = i // (ROWS * COLUMNS)
    ky = i // COLUMNS % ROWS - (PH - 1)
    kx = i % COLUMNS - ox - SHIFT
    at = ky * KW + kx
    if TURNED:
        at = KH * KW - 1 - at
    inside = (ky >= 0) & (ky < KH) & (kx >= 0) & (kx < KW) & (ox < PW)
    tap = tl.load(weight + c * (KH * KW) + at, mask=inside, other=0)
    tl.store(table + c * (PW * ROWS * COLUMNS) + i, tap, mask=ox < PW)


@triton.jit(do_not_specialize=["batch", "channels", "height", "wide", "narrow"])
def _convolve(
    x,
    table,
    bias,
    residual,
    y,
    batch,
    channels,
    height,
    wide,
    narrow,
    KH: tl.constexpr,
    LEFT: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    UNIT: tl.constexpr,
    UNIT_Y: tl.constexpr,
    PH: tl.constexpr,
    PW: tl.constexpr,
    PATCHES: tl.constexpr,
    STEP: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    HAS_RESIDUAL: tl.constexpr,
    ACTIVATION: tl.constexpr,
    PRECISION: tl.constexpr,
    STAGES: tl.constexpr,
):
    """PATCHES patches of one channel: rows m = (row of patches, image, patch of the row) of the product."""
    # Widths come in units, so that the compiler knows how many elements it may load at once.
    pitch = wide * UNIT
    width = narrow * UNIT_Y
    across = tl.cdiv(width, PW)
    line = batch * across
    total = tl.cdiv(height, PH) * line
    c = tl.program_id(1)
    first = tl.program_id(0) * PATCHES
    last = tl.minimum(first + PATCHES, total) - 1
    m = first + tl.arange(0, PATCHES)
    plane = (m % line // across).to(tl.int64) * channels + c
    # Rows past the last patch lie far below the map, where every mask is false.
    y0 = tl.where(m < total, m // line * PH, 1 << 20)
    x0 = m % across * PW

    # Window rows that some patch of this program has inside the map.
    lo = tl.maximum(0, KH // 2 - last // line * PH)
    hi = tl.minimum(KH + PH - 1, height + KH // 2 - first // line * PH)

    n = tl.arange(0, PH * PW)
    oy = n // PW
    ox = n % PW
    top = y0 + (lo - KH // 2)
    side = x0 - LEFT
    x_at = x + plane * (height * pitch) + (top * pitch + side)
    table_at = table + c.to(tl.int64) * (PW * ROWS * COLUMNS) + (ox * ROWS + (PH - 1 + lo) - oy) * COLUMNS
    sums = tl.zeros((PATCHES, PH * PW), tl.float32)
    for step in tl.range(0, tl.cdiv((hi - lo) * COLUMNS, STEP), num_stages=STAGES):
        k = step * STEP + tl.arange(0, STEP)
        dy = k // COLUMNS
        dx = k % COLUMNS
        inside = (top[:, None] + dy[None, :]).to(tl.uint32) < height
        inside &= (side[:, None] + dx[None, :]).to(tl.uint32) < pitch
        a = tl.load(x_at[:, None] + (dy * pitch + dx)[None, :], mask=inside, other=0)
        b = tl.load(table_at[:, None] + k[None, :])
        sums = tl.dot(a, tl.trans(b), sums, input_precision=PRECISION)

    at = (plane * (height * width))[:, None] + ((y0[:, None] + oy[None, :]) * width + (x0[:, None] + ox[None, :]))
    inside = ((y0[:, None] + oy[None, :]) < height) & ((x0[:, None] + ox[None, :]) < width)
    if HAS_BIAS:
        sums += tl.load(bias + c).to(tl.float32)
    if HAS_RESIDUAL:
        sums += tl.load(residual + at, mask=inside, other=0).to(tl.float32)
    if ACTIVATION == 1:
        # Not a maximum, which would hide NaN.
        sums = tl.where(sums < 0, 0.0, sums)
    if ACTIVATION == 2:
        sums = 0.5 * sums * (1 + tl.erf(sums * 0.7071067811865476))
    tl.store(y + at, sums.to(y.dtype.element_ty), mask=inside)
