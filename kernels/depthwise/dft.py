"""Depthwise convolution and the spectral gate as products of constant real matrices, for graphs of other runtimes.

Runtimes have no Fourier transform, or a slow one, but all multiply matrices well. Taken at half-integer frequencies
(k + 1/2) 2 pi / N a period ends with a change of sign, which meets zeros only, and both the cosines and the sines are
N / 2 in number, so nothing is special about frequency 0. With x_cc, x_cs, x_sc, x_ss the map's sums against cosines
and sines of either axis, and conj(K+), conj(K-) the kernel's spectra at (f, g) and (f, -g), folded with all scales:

    X+ = (x_cc - x_ss) - i (x_sc + x_cs)        y_cc = Re(Y+ + Y-)    y_ss =  Re(Y- - Y+)
    X- = (x_cc + x_ss) - i (x_sc - x_cs)        y_sc = -Im(Y+ + Y-)   y_cs = -Im(Y+ - Y-)    with Y = X conj(K)

H W M + H N M multiply-adds a plane for each direction, N = H + kh // 2 and M = W + kw // 2 rounded up to 8; and 20
passes over quarter planes. Directly as many as taps meet the map, at most H W kh kw. At 80 x 80 with 31 x 31: 0.54 of
the multiply-adds, in products that run near the processor's peak.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import nn

__all__ = ["DepthwiseDFT", "GateDFT", "OpenDepthwiseDFT", "OpenGateDFT", "multiply_adds"]

# Periods are multiples of this, an even number. Longer steps would fill the strips of 16 columns in which onnxruntime
# multiplies, but the work that they add costs more.
STEP = 8


class DepthwiseDFT(nn.Module):
    """`depthwise_conv2d(x, weight, bias)` for maps of one size; exports to plain MatMul, Mul and Add.

    Args:
        weight: (C, 1, kh, kw), odd.
        bias: (C,) or None.
        size: (H, W) of the maps.
    """

    rows_cos: torch.Tensor
    rows_sin: torch.Tensor
    columns: torch.Tensor
    plus_re: torch.Tensor
    plus_im: torch.Tensor
    minus_re: torch.Tensor
    minus_im: torch.Tensor
    columns_back: torch.Tensor
    rows_back_cos: torch.Tensor
    rows_back_sin: torch.Tensor
    bias: torch.Tensor | None

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None, size: tuple[int, int]):
        super().__init__()
        kernels = weight.detach()[:, 0].double()
        periods = [period(side, k) for side, k in zip(size, kernels.shape[1:], strict=True)]
        reaches = [_reach(side, k) for side, k in zip(size, kernels.shape[1:], strict=True)]
        # Taps that reach beyond the map from everywhere meet nothing, and in so short a period would meet the map.
        for axis, reach in enumerate(reaches, start=1):
            kernels = kernels.narrow(axis, kernels.shape[axis] // 2 - reach, 2 * reach + 1)
        (cy, sy), (cx, sx) = (_basis(n, range(side)) for n, side in zip(periods, size, strict=True))
        (ky, ly), (kx, lx) = (_basis(n, range(-r, r + 1)) for n, r in zip(periods, reaches, strict=True))
        cc, ss, sc, cs = ky @ kernels @ kx.T, ly @ kernels @ lx.T, ly @ kernels @ kx.T, ky @ kernels @ lx.T
        scale = 2 / (periods[0] * periods[1])
        constants = {
            "rows_cos": cx.T,
            "rows_sin": sx.T,
            "columns": torch.cat((cy, sy)),
            "plus_re": (cc - ss) * scale,
            "plus_im": (sc + cs) * scale,
            "minus_re": (cc + ss) * scale,
            "minus_im": (sc - cs) * scale,
            "columns_back": torch.cat((cy, sy)).T,
            "rows_back_cos": cx,
            "rows_back_sin": sx,
        }
        for name, value in constants.items():
            self.register_buffer(name, value.to(weight.dtype).contiguous())
        self.register_buffer("bias", None if bias is None else bias.detach()[:, None, None])
        self.frequencies = periods[0] // 2

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, C, H, W) -> (B, C, H, W), of the size it was made for."""
        xcc, xsc = (self.columns @ (x @ self.rows_cos)).split(self.frequencies, -2)
        xcs, xss = (self.columns @ (x @ self.rows_sin)).split(self.frequencies, -2)
        (above, below), (left, right) = _weigh(
            (xcc, xsc, xcs, xss), (self.plus_re, self.plus_im, self.minus_re, self.minus_im)
        )
        cos, sin = self.columns_back @ torch.cat((above, below), -2), self.columns_back @ torch.cat((left, right), -2)
        y = cos @ self.rows_back_cos + sin @ self.rows_back_sin
        return y if self.bias is None else y + self.bias


class OpenDepthwiseDFT(nn.Module):
    """`DepthwiseDFT` for maps of any size: the matrices are made in the graph, from the size that a map has.

    Making them costs about a hundredth of the products. The period always leaves room for the whole kernel.

    Args:
        weight: (C, 1, kh, kw), odd.
        bias: (C,) or None.
    """

    kernels: torch.Tensor
    bias: torch.Tensor | None

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None):
        super().__init__()
        self.register_buffer("kernels", weight.detach()[:, 0][None].clone())
        self.register_buffer("bias", None if bias is None else bias.detach()[:, None, None].clone())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, C, H, W) -> (B, C, H, W)."""
        (cy, sy, ky, ly), (cx, sx, kx, lx) = (
            self._tables(x.shape[axis], self.kernels.shape[axis] // 2, x.dtype) for axis in (-2, -1)
        )
        # 2 / (N M), with N / 2 and M / 2 frequencies.
        scale = 1 / (2 * cy.shape[-2] * cx.shape[-2])
        cc, ss, sc, cs = (a @ self.kernels @ _t(b) for a, b in ((ky, kx), (ly, lx), (ly, kx), (ky, lx)))
        spectra = ((cc - ss) * scale, (sc + cs) * scale, (cc + ss) * scale, (sc - cs) * scale)
        x_cos, x_sin = x @ _t(cx), x @ _t(sx)
        (above, below), (left, right) = _weigh((cy @ x_cos, sy @ x_cos, cy @ x_sin, sy @ x_sin), spectra)
        y = (_t(cy) @ above + _t(sy) @ below) @ cx + (_t(cy) @ left + _t(sy) @ right) @ sx
        return y if self.bias is None else y + self.bias

    def _tables(self, side: Any, reach: int, dtype: torch.dtype) -> tuple[torch.Tensor, ...]:
        """Cosines and sines of the frequencies at the map's places and at the taps, (1, 1, frequencies, places)."""
        # A tensor while the graph is traced: what is computed from it stays open.
        half = (side + reach + STEP - 1) // STEP * (STEP // 2)
        frequencies = 2 * torch.arange(half)[:, None] + 1
        tables: list[torch.Tensor] = []
        for places in (torch.arange(side), torch.arange(2 * reach + 1) - reach):
            # (k + 1/2) 2 pi y / N is (2k + 1) y pi / (2 half); whole turns, 4 half, are taken out while it is exact.
            turns = (frequencies * places).remainder(4 * half).to(dtype) * (math.pi / 2) / half
            # Four dimensions like the maps: runtimes refuse products of matrices of other ranks where sizes are open.
            tables += [turns.cos()[None, None], turns.sin()[None, None]]
        return tuple(tables)


class GateDFT(nn.Module):
    """|F^-1(p . F(q))| for maps of one size, the spectral gate of the omni-kernel.

    Args:
        size: (H, W) of the maps.
    """

    y_cos: torch.Tensor
    y_sin: torch.Tensor
    x_cos: torch.Tensor
    x_sin: torch.Tensor

    def __init__(self, size: tuple[int, int]):
        super().__init__()
        for name, n in zip(("y", "x"), size, strict=True):
            angles = torch.arange(n, dtype=torch.float64).outer(torch.arange(n, dtype=torch.float64)) * (
                2 * math.pi / n
            )
            self.register_buffer(f"{name}_cos", angles.cos().float())
            self.register_buffer(f"{name}_sin", angles.sin().float())
        self.scale = 1 / (size[0] * size[1])

    def forward(self, p: torch.Tensor, q: torch.Tensor) -> torch.Tensor:
        """(B, C, H, W) twice -> (B, C, H, W)."""
        return _gate(p, q, (self.y_cos, self.y_sin), (self.x_cos, self.x_sin)) * self.scale


class OpenGateDFT(nn.Module):
    """`GateDFT` for maps of any size."""

    def forward(self, p: torch.Tensor, q: torch.Tensor) -> torch.Tensor:
        """(B, C, H, W) twice -> (B, C, H, W)."""
        height, width = p.shape[-2], p.shape[-1]
        (y_cos, y_sin), (x_cos, x_sin) = (self._tables(side, p.dtype) for side in (height, width))
        return _gate(p, q, (y_cos, y_sin), (x_cos, x_sin)) / (height * width)

    def _tables(self, side: Any, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
        places = torch.arange(side)
        turns = (places[:, None] * places).remainder(side).to(dtype) * (2 * math.pi) / side
        return turns.cos()[None, None], turns.sin()[None, None]


def _t(matrix: torch.Tensor) -> torch.Tensor:
    return matrix.transpose(-2, -1)


Pair = tuple[torch.Tensor, torch.Tensor]
Four = tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]


def _weigh(sums: Four, spectra: Four) -> tuple[Pair, Pair]:
    """The map's sums (cc, sc, cs, ss) by the kernel's spectra: y_cc and y_sc, then y_cs and y_ss."""
    (xcc, xsc, xcs, xss), (p_re, p_im, m_re, m_im) = sums, spectra
    re, im = xcc - xss, xsc + xcs
    plus_re, plus_im = re * p_re + im * p_im, im * p_re - re * p_im
    re, im = xcc + xss, xsc - xcs
    minus_re, minus_im = re * m_re + im * m_im, im * m_re - re * m_im
    return (plus_re + minus_re, plus_im + minus_im), (plus_im - minus_im, minus_re - plus_re)


def _gate(p: torch.Tensor, q: torch.Tensor, y: Pair, x: Pair) -> torch.Tensor:
    """|F^-1(p . F(q))| times the points of a map, with F by cosines and sines of either axis."""
    (y_cos, y_sin), (x_cos, x_sin) = y, x
    # F(q) = Y (q X), X = cos - i sin, and the same for Y; the matrices are symmetric.
    cos, sin = q @ x_cos, q @ x_sin
    re = (y_cos @ cos - y_sin @ sin) * p
    im = (y_sin @ cos + y_cos @ sin) * -p
    re, im = y_cos @ re - y_sin @ im, y_sin @ re + y_cos @ im
    re, im = re @ x_cos - im @ x_sin, re @ x_sin + im @ x_cos
    return (re * re + im * im).sqrt()


def period(side: int, kernel: int) -> int:
    """Period in which a map meets zeros only when its kernel comes around."""
    return -(-(side + _reach(side, kernel)) // STEP) * STEP


def multiply_adds(size: tuple[int, int], kernel: tuple[int, int]) -> tuple[int, int]:
    """Of one plane by matrices, and directly, where runtimes skip what lies outside the map.

    Args:
        size: (H, W) of the map.
        kernel: (kh, kw), odd.
    """
    (height, width), (n, m) = size, (period(side, k) for side, k in zip(size, kernel, strict=True))
    return 2 * height * m * (width + n), math.prod(_met(side, k) for side, k in zip(size, kernel, strict=True))


def _reach(side: int, kernel: int) -> int:
    """How far from its centre a kernel's taps can still meet the map on one axis."""
    return min(kernel // 2, side - 1)


def _met(side: int, kernel: int) -> int:
    """Pairs of places on one axis that a tap joins."""
    reach = _reach(side, kernel)
    return side * (2 * reach + 1) - reach * (reach + 1)


def _basis(n: int, places: range) -> tuple[torch.Tensor, torch.Tensor]:
    """Cosines and sines of the half-integer frequencies at these places, (n / 2, places) each."""
    frequencies = (torch.arange(n // 2, dtype=torch.float64) + 0.5) * (2 * math.pi / n)
    angles = frequencies[:, None] * torch.tensor(list(places), dtype=torch.float64)
    return angles.cos(), angles.sin()
