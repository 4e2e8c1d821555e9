"""The gradient of a depthwise convolution's weights as products of matrices, in Triton; the idea is that of `toeplitz`.

With patches, windows and T as there, the gradient of T is a product too: E[n, k] = sum over m of G[m, n] X[m, k],
where G[m] is the output's gradient in patch m and X[m] the window of the input under it. Contracting over all patches
of all images is what tensor cores do best. A weight stands in T once for each pixel of the patch, so its gradient is
the sum of a diagonal: dW[ky, kx] = sum over (oy, ox) of E[(oy, ox), (oy + ky, ox + kx)]. A program makes TAPS columns
of E, over one of SPLITS parts of the patches, leaving out rows of patches whose windows lie outside the map there; a
second kernel sums diagonals and parts. Nothing is added atomically: the same input gives the same bits.

Work: that of the convolution, 2 COLUMNS (KH + PH - 1) operations an output pixel. Device memory: x and grad once, E
twice, 4 SPLITS PH PW COLUMNS (KH + PH - 1) bytes a channel, which mostly stays in the second-level cache. Summing
diagonals before E leaves the program, by gathers in shared memory, took longer than that. For float32 small patches
are best: Hopper's own products read tf32 in one order only, of which this contraction needs the other.
"""

# Programs are written in Triton's language, whose values have no types that mypy knows.
# mypy: ignore-errors

from __future__ import annotations

import math

import torch
import triton
import triton.language as tl

from .toeplitz_plan import WeightPlan, Window, aligned, launching, limits, plan_weights, precision

__all__ = ["weight_gradient"]


def weight_gradient(
    grad: torch.Tensor,
    x: torch.Tensor,
    kernel: tuple[int, int],
    *,
    allow_tf32: bool | None = None,
    plan: WeightPlan | None = None,
) -> torch.Tensor:
    """The gradient of the weights, summed in float32 in a fixed order.

    Args:
        grad: Gradient of the output, (B, C, H, W), float16, bfloat16 or float32.
        x: The input, shape and dtype of `grad`.
        kernel: Sides of the kernel, odd.
        allow_tf32: As for `toeplitz.forward`.
        plan: How the work is cut; None chooses.

    Returns:
        (C, 1, kh, kw), float32.
    """
    batch, channels, height, width = x.shape
    window = Window.of(kernel, width, x.element_size())
    plan = plan or plan_weights(*x.shape, kernel, x.element_size(), *limits(x.device))
    (ph, pw), (left, columns) = plan.patch, window.columns(plan.patch)
    x, grad = aligned(x, window.vector), aligned(grad, window.vector)
    pitch = x.shape[3]
    unit = math.gcd(pitch, window.vector)
    tiles = -(-window.rows(plan.patch) * columns // plan.taps)
    parts = x.new_empty((plan.splits, channels, ph * pw, tiles * plan.taps), dtype=torch.float32)
    sums = x.new_empty((channels, 1, *kernel), dtype=torch.float32)
    with launching(x.device):
        _correlate[(tiles * plan.splits, channels)](
            *(grad, x, parts, batch, channels, height, width, pitch // unit, tiles, plan.splits),
            *(kernel[0], left, columns, unit, ph, pw, plan.taps, plan.patches),
            *(precision(x.dtype, allow_tf32), plan.stages),
            num_warps=plan.warps,
        )
        _sum_diagonals[(kernel[0], channels)](
            *(parts, sums, channels, tiles * plan.taps, plan.splits),
            *(*kernel, left - kernel[1] // 2, columns, ph, pw, triton.next_power_of_2(kernel[1])),
        )
    return sums


@triton.jit(do_not_specialize=["batch", "channels", "height", "width", "wide", "tiles", "splits"])
def _correlate(
    grad,
    x,
    parts,
    batch,
    channels,
    height,
    width,
    wide,
    tiles,
    splits,
    KH: tl.constexpr,
    LEFT: tl.constexpr,
    COLUMNS: tl.constexpr,
    UNIT: tl.constexpr,
    PH: tl.constexpr,
    PW: tl.constexpr,
    TAPS: tl.constexpr,
    PATCHES: tl.constexpr,
    PRECISION: tl.constexpr,
    STAGES: tl.constexpr,
):
    """parts[split, c, n, k] for TAPS values of k: sums over PATCHES patches at a step."""
    pitch = wide * UNIT
    across = tl.cdiv(width, PW)
    line = batch * across
    c = tl.program_id(1)
    tile = tl.program_id(0) % tiles
    split = tl.program_id(0) // tiles

    # Rows of patches of which a window row of this tile is inside the map, and this split's share of their patches.
    above = KH // 2 - tile * TAPS // COLUMNS
    low = tl.maximum(0, tl.cdiv(KH // 2 - (tile * TAPS + TAPS - 1) // COLUMNS, PH))
    high = tl.maximum(low, tl.minimum(tl.cdiv(height, PH), tl.cdiv(tl.maximum(0, height + above), PH)))
    share = tl.cdiv(tl.cdiv((high - low) * line, splits), PATCHES) * PATCHES
    first = low * line + split * share
    last = tl.minimum(high * line, first + share)

    k = tile * TAPS + tl.arange(0, TAPS)
    n = tl.arange(0, PH * PW)
    dy = k // COLUMNS - KH // 2
    dx = k % COLUMNS - LEFT
    oy = n // PW
    ox = n % PW
    plane = (height * pitch).to(tl.int64)
    g_at = grad + c * plane + (oy * pitch + ox)
    x_at = x + c * plane + (dy * pitch + dx)

    # The patch of each row of the product; the next step's are found by carrying, as divisions are slow.
    m = first + tl.arange(0, PATCHES)
    image = m % line // across
    y0 = m // line * PH
    x0 = m % across * PW
    at = image * (channels * plane) + (y0 * pitch + x0)
    step_y, step_image, step_x = PATCHES // line * PH, PATCHES % line // across, PATCHES % across * PW
    step_at = step_image * (channels * plane) + (step_y * pitch + step_x)
    next_image = channels * plane - across * PW
    next_row = PH * pitch - batch * (channels * plane)

    sums = tl.zeros((PH * PW, TAPS), tl.float32)
    for _ in tl.range(0, tl.cdiv(tl.maximum(0, last - first), PATCHES), num_stages=STAGES):
        inside = ((y0[:, None] + oy[None, :]) < height) & ((x0[:, None] + ox[None, :]) < pitch) & (m < last)[:, None]
        g = tl.load(g_at[None, :] + at[:, None], mask=inside, other=0)
        inside = (y0[:, None] + dy[None, :]).to(tl.uint32) < height
        inside &= (x0[:, None] + dx[None, :]).to(tl.uint32) < pitch
        v = tl.load(x_at[None, :] + at[:, None], mask=inside, other=0)
        sums = tl.dot(tl.trans(g), v, sums, input_precision=PRECISION)
        m += PATCHES
        x0 += step_x
        carry = x0 >= across * PW
        x0 = tl.where(carry, x0 - across * PW, x0)
        at += step_at + tl.where(carry, next_image, 0)
        image += step_image + carry.to(tl.int32)
        carry = image >= batch
        image = tl.where(carry, image - batch, image)
        at += tl.where(carry, next_row, 0)
        y0 += step_y + tl.where(carry, PH, 0)

    total = tiles * TAPS
    parts_at = parts + (split * channels + c).to(tl.int64) * (PH * PW * total)
    tl.store(parts_at + n[:, None] * total + k[None, :], sums)


@triton.jit(do_not_specialize=["channels", "splits"])
def _sum_diagonals(
    parts,
    sums,
    channels,
    total,
    splits,
    KH: tl.constexpr,
    KW: tl.constexpr,
    SHIFT: tl.constexpr,
    COLUMNS: tl.constexpr,
    PH: tl.constexpr,
    PW: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """One row of one channel's kernel."""
    ky = tl.program_id(0)
    c = tl.program_id(1)
    kx = tl.arange(0, BLOCK)
    n = tl.arange(0, PH * PW)
    dx = (n % PW + SHIFT)[:, None] + kx[None, :]
    at = n[:, None] * total + ((n // PW + ky) * COLUMNS)[:, None] + dx
    inside = (kx < KW)[None, :] & (dx >= 0) & (dx < COLUMNS)
    row = tl.zeros((BLOCK,), tl.float32)
    for split in range(splits):
        plane = parts + (split * channels + c).to(tl.int64) * (PH * PW * total)
        row += tl.sum(tl.load(plane + at, mask=inside, other=0), 0)
    tl.store(sums + (c * KH + ky) * KW + kx, row, mask=kx < KW)
