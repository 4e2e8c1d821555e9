"""Depthwise convolution by banded Toeplitz matrices, in Triton: tensor cores of every NVIDIA GPU from Ampere on.

A *patch* is PH x PW output pixels of one channel, its *window* the KH + PH - 1 rows of input pixels that it sees. The
patch is its window, read as one long row, times a matrix of the kernel's weights shifted: with k = (dy, dx) a pixel of
the window and n = (oy, ox) one of the patch, T[k, n] = weight[dy - oy, dx - ox], zero outside the kernel. All patches of
a channel, in all images, share T, so each is a row m of one product of matrices, Y[m, n] = sum over k of X[m, k] T[k, n].

Neither operand is ever built. X[m, k] is loaded from the map where patch m has its window, pixels outside the map masked:
no padded copy. T repeats itself: the columns of output row oy are those of row 0, oy window rows later. A first small
kernel writes one patch row of it, KH + 2 PH - 2 window rows, and the product reads that table with a stride of minus one
row for oy. Windows begin on 16 bytes, so that all loads are of 16 bytes.

Work: 2 WINDOW (KH + PH - 1) operations an output pixel, 2 KH KW of which count: 1.9 times for 31 x 31 by 8 x 16 patches.
Patches are taken row by row of patches, through all images, so that window rows outside the map are left out (12% at
80 x 80), for patches of one column also window columns (half of the work at 32 x 32). Device memory: x and y once, the
table, C PW WINDOW (KH + 2 PH - 2) elements, twice. Second-level cache: (PATCHES + PH PW) elements for PATCHES PH PW
products. Sums are float32 in a fixed order: the same input gives the same bits. As zeros of T multiply pixels outside the
kernel, an infinity in the input spreads over its whole patch as NaN.
"""

from __future__ import annotations

import math
from contextlib import nullcontext
from typing import Any

import torch
import torch.nn.functional as F
import triton
import triton.language as tl

from .toeplitz_plan import Plan, Sizes, plan_convolution
from .toeplitz_weight import precision_of, weight_gradient

__all__ = ["forward", "supports", "weight_gradient"]

ACTIVATIONS = {None: 0, "relu": 1, "gelu": 2}
LARGEST = 61


def supports(x: torch.Tensor, weight: torch.Tensor) -> str | None:
    """Why the convolution of these, and its gradients, cannot be taken, or None."""
    if x.dtype not in (torch.float16, torch.bfloat16, torch.float32):
        return f"it takes float16, bfloat16 and float32, not {x.dtype}"
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
    x, weight = x.contiguous(), weight.contiguous()
    y = torch.empty_like(x)
    sizes = Sizes.of(kernel, x.element_size())
    plan = plan or plan_convolution(tuple(x.shape), kernel, x.element_size(), *limits(x.device))
    (ph, pw), (ry, rx) = plan.patch, plan.block
    x = aligned(x, sizes.vector)
    pitch = x.shape[3]
    unit, unit_y = math.gcd(pitch, sizes.vector), math.gcd(width, sizes.vector)
    window, rows = sizes.window(plan), sizes.table_rows(plan)
    table = x.new_empty(channels * rows * pw * window)
    block = 1024
    with on(x.device):
        _table[(triton.cdiv(rows * pw * window, block), channels)](
            weight, table, rows, *kernel, turned, ph, pw, sizes.left - kernel[1] // 2, window, block
        )
        patches = batch * -(-height // ph) * -(-width // pw)
        _convolve[(triton.cdiv(patches, plan.patches), channels)](
            *(x, table, bias, None if residual is None else residual.contiguous(), y),
            *(batch, channels, height, pitch // unit, width // unit_y, rows),
            *(kernel[0], sizes.left, sizes.span(pw), window, unit, unit_y, ph, pw, ry, rx, plan.patches),
            *(plan.by_column, bias is not None, residual is not None, ACTIVATIONS[activation]),
            *(precision_of(x.dtype, allow_tf32), plan.stages),
            num_warps=plan.warps,
        )
    return y


@triton.jit(do_not_specialize=["ROWS"])
def _table(
    weight,
    table,
    ROWS,
    KH: tl.constexpr,
    KW: tl.constexpr,
    TURNED: tl.constexpr,
    PH: tl.constexpr,
    PW: tl.constexpr,
    SHIFT: tl.constexpr,
    WINDOW: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """table[c, row, ox, dx] = weight[c, row - (PH - 1), dx - ox - SHIFT], zero outside the kernel."""
    c = tl.program_id(1).to(tl.int64)
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    row = i // (PW * WINDOW)
    ky = row - (PH - 1)
    kx = i % WINDOW - i // WINDOW % PW - SHIFT
    inside = (ky >= 0) & (ky < KH) & (kx >= 0) & (kx < KW)
    at = ky * KW + kx
    if TURNED:
        at = KH * KW - 1 - at
    tap = tl.load(weight + c * (KH * KW) + at, mask=inside, other=0)
    tl.store(table + c * (ROWS * PW * WINDOW) + i, tap, mask=row < ROWS)
