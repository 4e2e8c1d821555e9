"""Depthwise convolution on a CPU by vector code of our own, `native/depthwise.c`, compiled at the first call.

The arithmetic is that of `fft`, with channels in the lanes of vectors. This file plans (sizes of transforms, tiles),
keeps kernels' spectra and hands over addresses. Where no compiler is found, `supports` says so and `fft` does the work.
"""

from __future__ import annotations

import ctypes
import math
from ctypes import byref
from functools import cache, lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import torch

from ..compiler import library
from .fft import kept_spectrum, spread

__all__ = ["forward", "input_gradient", "lanes", "supports", "weight_gradient"]

TYPES = (torch.float32, torch.float16, torch.bfloat16)
# Longest transform: beyond it the half spectra of one group of channels crowd the third-level cache.
LONGEST = 384
# Cost of a step of the transform for each vector, by radix, from timing lengths 60 to 128; and of load and store.
STEP = {8: 3.4, 5: 3.0, 4: 2.6, 3: 2.4, 2: 2.0}
MOVE = 4.0


class _Axis(ctypes.Structure):
    _fields_ = [
        ("n", ctypes.c_int64),
        ("steps", ctypes.c_int64),
        ("radix", ctypes.c_int64 * 12),
        ("twiddles", ctypes.c_void_p),
        ("place", ctypes.c_void_p),
    ]


class _Maps(ctypes.Structure):
    _fields_ = [
        ("data", ctypes.c_void_p),
        *(
            (name, ctypes.c_int64)
            for name in ("planes", "channels", "batch", "channel", "row", "column", "height", "width")
        ),
    ]


class _Side(ctypes.Structure):
    _fields_ = [("axis", _Axis), *((name, ctypes.c_int64) for name in ("tiles", "tile", "before", "reach", "cut"))]


class _Plan(ctypes.Structure):
    _fields_ = [("y", _Side), ("x", _Side), *((name, ctypes.c_int64) for name in ("stride", "patterns", "threads"))]


class Cut(NamedTuple):
    """How one axis is cut: `tiles` of `tile` outputs, transforms of length `n`."""

    tiles: int
    tile: int
    n: int


def lanes() -> int:
    """Channels that go side by side; 0 where there is no compiler."""
    code = _code()
    return 0 if code is None else int(code.lanes())


# `torch.compiler.assume_constant_result`, without the seconds that it takes to import torch's compiler.
lanes._dynamo_marked_constant = True  # type: ignore[attr-defined]


def supports(x: torch.Tensor, weight: torch.Tensor) -> str | None:
    """Why these tensors cannot be taken, or None."""
    if x.device.type != "cpu":
        return f"it runs on the CPU, and x is on {x.device}"
    if x.dtype not in TYPES:
        return f"it computes in float32, too coarse for {x.dtype}"
    if max(weight.shape[-2:]) > LONGEST // 2:
        return f"it takes kernels up to {LONGEST // 2} pixels, not {tuple(weight.shape[-2:])}"
    if lanes() == 0:
        return "it needs gcc on Linux to be compiled; install one (Debian: apt install gcc)"
    return None


def forward(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None, stride: int = 1) -> torch.Tensor:
    """Same as `fft.forward`; the same bits whatever the number of threads."""
    return _convolve(x, weight, bias, stride, turned=True)


def input_gradient(grad: torch.Tensor, weight: torch.Tensor, shape: tuple[int, int], stride: int = 1) -> torch.Tensor:
    """Same as `fft.input_gradient`."""
    return _convolve(spread(grad, shape, stride), weight, None, 1, turned=False)


def weight_gradient(grad: torch.Tensor, x: torch.Tensor, kernel: tuple[int, int], stride: int = 1) -> torch.Tensor:
    """Same as `fft.weight_gradient`."""
    dtype = grad.dtype
    channels, height, width = x.shape[1:]
    grad, x = _plain(spread(grad, (height, width), stride)), _plain(x)
    cuts = plan((height, width), kernel)
    sides = [_side(cut, k // 2, 0 if cut.tiles > 1 else k // 2) for cut, k in zip(cuts, kernel, strict=True)]
    # As many planes as all patterns have lanes, a multiple of the channels; those without maps stay zero.
    sums = x.new_zeros((math.lcm(channels, lanes()) // channels, channels, *kernel))
    whole = _Plan(*sides, 1, _patterns(x), torch.get_num_threads())
    scale = 0.25 / (cuts[0].n * cuts[1].n)
    _call("correlate", byref(whole), *(byref(_maps(t)) for t in (x, grad, sums)), ctypes.c_float(scale))
    return sums.sum(0)[:, None].to(dtype)


def _convolve(
    x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, stride: int, *, turned: bool
) -> torch.Tensor:
    dtype = x.dtype
    kernel = (weight.shape[-2], weight.shape[-1])
    x, bias = _plain(x), None if bias is None else bias.detach().float().contiguous()
    size = (x.shape[-2], x.shape[-1])
    patterns = _patterns(x)
    cuts, whole = _forward(size, kernel, stride, patterns, torch.get_num_threads())
    key = (cuts, patterns, turned)
    spectra = kept_spectrum(weight, key, lambda: _spectra(weight.detach(), *key))
    y = x.new_empty((*x.shape[:2], *(-(-side // stride) for side in size)))
    address = None if bias is None else ctypes.c_void_p(bias.data_ptr())
    _call("convolve", byref(whole), byref(_maps(x)), byref(_maps(y)), ctypes.c_void_p(spectra.data_ptr()), address)
    return y.to(dtype)


@lru_cache(maxsize=1024)
def _forward(
    size: tuple[int, int], kernel: tuple[int, int], stride: int, patterns: int, threads: int
) -> tuple[tuple[Cut, Cut], _Plan]:
    cuts = plan(size, kernel)
    sides = [_side(cut, k // 2, k // 2 * (2 if cut.tiles > 1 else 1)) for cut, k in zip(cuts, kernel, strict=True)]
    return cuts, _Plan(*sides, stride, patterns, threads)


def _spectra(weight: torch.Tensor, cuts: tuple[Cut, Cut], patterns: int, turned: bool) -> torch.Tensor:
    """Of the first patterns of channels in the lanes, float32, in the order and scale that `convolve` needs."""
    channels, _, height, width = weight.shape
    kernels = (weight[:, 0].flip((-2, -1)) if turned else weight[:, 0]).float().contiguous()
    rows, columns = (cut.n for cut in cuts)
    spectra = kernels.new_empty(patterns * rows * (columns // 2 + 1) * 2 * lanes())
    sides = [_side(Cut(1, k, cut.n), 0, 0) for cut, k in zip(cuts, (height, width), strict=True)]
    # Stride 0 from one "map" to the next repeats the channels until the patterns are full.
    maps = _Maps(kernels.data_ptr(), patterns * lanes(), channels, 0, height * width, width, 1, height, width)
    # A half for each of two rows in one, on the way there and again for the product; and 1 / n of the inverse.
    scale = 0.25 / (rows * columns)
    whole = _Plan(*sides, 1, patterns, torch.get_num_threads())
    _call("kernel_spectra", byref(whole), byref(maps), ctypes.c_void_p(spectra.data_ptr()), ctypes.c_float(scale))
    return spectra


def _call(name: str, *arguments: Any) -> None:
    if getattr(_code(), name)(*arguments):
        raise MemoryError(f"{name}: no memory for the transforms")


@cache
def _code() -> Any:
    return library(Path(__file__).parent / "native" / "depthwise.c")


def _plain(x: torch.Tensor) -> torch.Tensor:
    """Float32, and laid out so that whole vectors can be read: rows of pixels or, in full groups, of channels."""
    x = x.detach().float()
    by_channels = x.stride(1) == 1 and x.shape[1] % lanes() == 0
    return x if x.stride(3) == 1 or by_channels else x.contiguous()


def _maps(x: torch.Tensor) -> _Maps:
    batch, channels, height, width = x.shape
    return _Maps(x.data_ptr(), batch * channels, channels, *x.stride(), height, width)


def _patterns(x: torch.Tensor) -> int:
    """Groups of lanes until the maps end or channels start again at the first lane."""
    batch, channels = x.shape[:2]
    return min(math.lcm(channels, lanes()), -(-batch * channels // lanes()) * lanes()) // lanes()


def _side(cut: Cut, margin: int, first: int) -> _Side:
    """Whole maps need zeros on one side only; tiles overlap on both."""
    before = margin if cut.tiles > 1 else 0
    return _Side(_axis(cut.n)[0], cut.tiles, cut.tile, before, cut.tile + 2 * before, first)


@lru_cache(maxsize=1024)
def plan(size: tuple[int, int], kernel: tuple[int, int]) -> tuple[Cut, Cut]:
    """How maps of (H, W) are cut for kernels of (kh, kw).

    Each axis whole while its transform stays within `LONGEST`, else in as few tiles as do; the length is the cheapest
    one that holds a tile and its margin.
    """
    rows, columns = (_cut(side, k) for side, k in zip(size, kernel, strict=True))
    return rows, columns


def _cut(side: int, k: int) -> Cut:
    tiles = 1
    while True:
        tile = -(-side // tiles)
        least = max(k, tile + k // 2 * (1 if tiles == 1 else 2))
        if least <= LONGEST:
            fit = [n for n in range(least, least + least // 4 + 2) if _factors(n) is not None]
            if fit:
                return Cut(tiles, tile, min(fit, key=_cost))
        tiles += 1


def _cost(n: int) -> float:
    return n * (MOVE + sum(STEP.get(radix, 0) for radix in _factors(n) or ()))


@cache
def _factors(n: int) -> tuple[int, ...] | None:
    """Radices of the steps of a transform of length n, or None where it has other primes than 2, 3 and 5."""
    odd, twos = [], 0
    for prime in (5, 3):
        while n % prime == 0:
            odd.append(prime)
            n //= prime
    while n % 2 == 0:
        twos += 1
        n //= 2
    if n != 1:
        return None
    even = {0: [], 1: [2], 2: [4], 4: [4, 4]}.get(twos)
    if even is None:
        even = [8] * (twos // 3) if twos % 3 == 0 else [8] * (twos // 3 - (twos % 3 == 1)) + [4] * (2 - twos % 3 // 2)
    return tuple(even + odd) or (1,)


@cache
def _axis(n: int) -> tuple[_Axis, tuple[torch.Tensor, ...]]:
    """Tables of one length, and the tensors that hold them, which must live as long."""
    radices = _factors(n) or (1,)
    # Whatever the caller's default type and device are.
    with torch.device("cpu"):
        twiddles, places, left, digits = [], torch.zeros(n, dtype=torch.int32), n, torch.arange(n)
        for radix in radices:
            left //= radix
            turns = torch.arange(left, dtype=torch.float64)[:, None] * torch.arange(1, radix) / (left * radix)
            angles = -2 * math.pi * turns
            twiddles.append(torch.stack((angles.cos(), angles.sin()), -1).flatten().float())
            places += (digits % radix * left).int()
            digits = digits // radix
        # The last step has none; an empty table would have no address.
        table = torch.cat([*twiddles[:-1], torch.zeros(2, dtype=torch.float32)])
    axis = _Axis(n, len(radices), (ctypes.c_int64 * 12)(*radices), table.data_ptr(), places.data_ptr())
    return axis, (table, places)
