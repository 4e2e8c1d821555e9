"""WIP"""

from __future__ import annotations

import torch
import triton
import triton.language as tl


@triton.jit(do_not_specialize=["batch", "channels", "height", "width", "wide", "tiles", "splits"])
def _correlate(
    grad, x, parts, batch, channels, height, width, wide, tiles, splits,
    KH: tl.constexpr, KW: tl.constexpr, LEFT: tl.constexpr, SPAN: tl.constexpr, UNIT: tl.constexpr,
    PH: tl.constexpr, PW: tl.constexpr, TAPS: tl.constexpr, PATCHES: tl.constexpr,
    PRECISION: tl.constexpr, STAGES: tl.constexpr,
):
    PIXELS: tl.constexpr = PH * PW
    pitch = wide * UNIT
    down = tl.cdiv(height, PH)
    across = tl.cdiv(width, PW)
    c = tl.program_id(1)
    tile = tl.program_id(0) % tiles
    split = tl.program_id(0) // tiles
    line = batch * across

    # Window rows of this tile, and the patch rows that have one of them inside the map.
    dy_a = tile * TAPS // SPAN
    dy_b = (tile * TAPS + TAPS - 1) // SPAN
    py_a = tl.maximum(0, tl.cdiv(tl.maximum(0, KH // 2 - dy_b), PH))
    py_b = tl.maximum(py_a, tl.minimum(down, tl.cdiv(tl.maximum(0, height + KH // 2 - dy_a), PH)))
    each = tl.cdiv(tl.cdiv((py_b - py_a) * line, splits), PATCHES) * PATCHES
    first = py_a * line + split * each
    last = tl.minimum(py_b * line, first + each)

    k = tile * TAPS + tl.arange(0, TAPS)
    n = tl.arange(0, PIXELS)
    dy = k // SPAN
    dx = k % SPAN
    oy = n // PW
    ox = n % PW
    x_off = (dy - KH // 2) * pitch + dx - LEFT
    g_off = oy * pitch + ox

    m = first + tl.arange(0, PATCHES)
    py = m // line
    image = m % line // across
    px = m % across
    step_py = PATCHES // line
    step_image = PATCHES % line // across
    step_px = PATCHES % across
    size = height * pitch

    sums = tl.zeros((PIXELS, TAPS), tl.float32)
    for _ in tl.range(0, tl.cdiv(tl.maximum(0, last - first), PATCHES), num_stages=STAGES):
        y0 = tl.where(m < last, py * PH, 1 << 20)
        x0 = px * PW
        plane = (image.to(tl.int64) * channels + c) * size + (py * PH * pitch + x0)
        in_g = ((y0[:, None] + oy[None, :]) < height) & ((x0[:, None] + ox[None, :]) < pitch)
        in_x = ((y0[:, None] + (dy - KH // 2)[None, :]).to(tl.uint32) < height) & (
            (x0[:, None] + (dx - LEFT)[None, :]).to(tl.uint32) < pitch
        )
        g = tl.load(grad + plane[:, None] + g_off[None, :], mask=in_g, other=0)
        v = tl.load(x + plane[:, None] + x_off[None, :], mask=in_x, other=0)
        sums = tl.dot(tl.trans(g), v, sums, input_precision=PRECISION)
        m += PATCHES
        px += step_px
        image += step_image
        py += step_py
        carry = px >= across
        px = tl.where(carry, px - across, px)
        image = tl.where(carry, image + 1, image)
        carry = image >= batch
        image = tl.where(carry, image - batch, image)
        py = tl.where(carry, py + 1, py)

    total = tiles * TAPS
    at = parts + (split * channels + c).to(tl.int64) * (PIXELS * total)
    tl.store(at + n[:, None] * total + k[None, :], sums)


@triton.jit(do_not_specialize=["channels", "splits"])
def _fold(parts, out, channels, total, splits, KH: tl.constexpr, KW: tl.constexpr, SHIFT: tl.constexpr,
          SPAN: tl.constexpr, PH: tl.constexpr, PW: tl.constexpr, BLOCK: tl.constexpr):
    PIXELS: tl.constexpr = PH * PW
    ky = tl.program_id(0)
    c = tl.program_id(1)
    kx = tl.arange(0, BLOCK)
    n = tl.arange(0, PIXELS)
    k = ((n // PW + ky) * SPAN + n % PW + SHIFT)[:, None] + kx[None, :]
    at = n[:, None] * total + k
    inside = (kx < KW)[None, :] & (n >= 0)[:, None]
    sums = tl.zeros((BLOCK,), tl.float32)
    for s in range(splits):
        plane = parts + (s * channels + c).to(tl.int64) * (PIXELS * total)
        sums += tl.sum(tl.load(plane + at, mask=inside, other=0), 0)
    tl.store(out + (c * KH + ky) * KW + kx, sums, mask=kx < KW)


def run(grad, x, kernel, precision, patch, taps, patches, warps, stages, splits, least=8):
    import math
    import torch.nn.functional as F
    batch, channels, height, width = x.shape
    kh, kw = kernel
    vector = 16 // x.element_size()
    grad, x = grad.contiguous(), x.contiguous()
    unit = math.gcd(width, vector)
    if unit * x.element_size() < least:
        x = F.pad(x, (0, -width % vector))
        grad = F.pad(grad, (0, -width % vector))
    pitch = x.shape[-1]
    unit = math.gcd(pitch, vector)
    ph, pw = patch
    left = -(-(kw // 2) // vector) * vector
    span = -(-(left + pw + kw // 2) // vector) * vector
    tiles = triton.cdiv((kh + ph - 1) * span, taps)
    parts = torch.empty((splits, channels, ph * pw, tiles * taps), dtype=torch.float32, device=x.device)
    _correlate[(tiles * splits, channels)](
        grad, x, parts, batch, channels, height, width, pitch // unit, tiles, splits,
        kh, kw, left, span, unit, ph, pw, taps, patches, precision, stages, num_warps=warps)
    out = torch.empty((channels, 1, kh, kw), dtype=torch.float32, device=x.device)
    _fold[(kh, channels)](parts, out, channels, tiles * taps, splits, kh, kw, left - kw // 2, span, ph, pw,
                          triton.next_power_of_2(kw), num_warps=4)
    return out
