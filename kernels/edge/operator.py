"""`sobel_magnitude` by the kernels of `fused` as an operator of PyTorch: launches, shapes without data, gradient.

Compiled and exported graphs hold it as `palyno::sobel_pyramid`. Both passes write every element once, in the order of
memory that the map has, so runs agree bit by bit.
"""

from __future__ import annotations

from typing import Any

import torch
import triton

from ..registration import operator
from . import fused
from .reference import order

# Threads a program, one block of 8 x 8 pixels each, of the forward and of the backward pass.
FORWARD_BLOCKS = 128
BACKWARD_BLOCKS = 128
LEVELS = 3
# Blocks that a thread of the backward pass walks down: what it reads beyond its own rows counts less in a long strip.
STRIP = 4


def sobel_magnitude(x: torch.Tensor, levels: int, eps: float) -> tuple[torch.Tensor, ...]:
    """Same as `reference.sobel_magnitude` in one pass, for at most three levels."""
    words = torch.is_grad_enabled() and x.requires_grad
    return tuple(_pyramid(x, levels, eps, words)[:levels])


@operator("sobel_pyramid", "(Tensor x, int levels, float eps, bool words) -> Tensor[]")
def _pyramid(x: torch.Tensor, levels: int, eps: float, words: bool) -> list[torch.Tensor]:
    made = _made(x, levels, words)
    x = x.contiguous(memory_format=order(x))
    maps = made[:levels] + [x] * (LEVELS - levels)
    items, last = _blocks(x), order(x) == torch.channels_last
    with torch.cuda.device_of(x):
        fused.pyramid_kernel[(triton.cdiv(items, FORWARD_BLOCKS),)](
            x, *maps, made[-1], eps, items, *x.shape[1:], N=FORWARD_BLOCKS, LEVELS=levels, WORDS=words,
            WIDE=x.shape[3] % 8 == 0 and not last, FULL=x.shape[2] % 8 == 0, LAST=last,
            num_warps=FORWARD_BLOCKS // 32,
        )  # fmt: skip
    return made


@_pyramid.register_fake
def _(x: torch.Tensor, levels: int, eps: float, words: bool) -> list[torch.Tensor]:
    return _made(x, levels, words)


@operator("sobel_slope", "(Tensor x, Tensor words, Tensor[] gains, float eps) -> Tensor")
def _slope(x: torch.Tensor, words: torch.Tensor, gains: list[torch.Tensor], eps: float) -> torch.Tensor:
    kept, levels = order(x), len(gains)
    x = x.contiguous(memory_format=kept)
    slope = torch.empty_like(x)
    gains = [gain.contiguous(memory_format=kept) for gain in gains] + [x] * (LEVELS - levels)
    blocks, last = -(-x.shape[2] // 8), kept == torch.channels_last
    strip = min(STRIP, blocks)
    items = _blocks(x) // blocks * -(-blocks // strip)
    with torch.cuda.device_of(x):
        fused.slope_kernel[(triton.cdiv(items, BACKWARD_BLOCKS),)](
            x, words, *gains, slope, eps, items, *x.shape[1:], strip, N=BACKWARD_BLOCKS, LEVELS=levels,
            WIDE=x.shape[3] % 8 == 0 and not last, FULL=x.shape[2] % 8 == 0, LAST=last,
            num_warps=BACKWARD_BLOCKS // 32,
        )  # fmt: skip
    return slope


@_slope.register_fake
def _(x: torch.Tensor, words: torch.Tensor, gains: list[torch.Tensor], eps: float) -> torch.Tensor:
    return torch.empty_like(x, memory_format=order(x))


def _remember(ctx: Any, inputs: tuple[Any, ...], output: list[torch.Tensor]) -> None:
    x, ctx.levels, ctx.eps, words = inputs
    ctx.save_for_backward(x, *(output[-1:] if words else ()))


def _differentiate(ctx: Any, gains: list[torch.Tensor | None]) -> tuple[torch.Tensor, None, None, None]:
    x, *words = ctx.saved_tensors
    # Whoever calls the operator itself may not have asked for them.
    words = words or _pyramid(x, ctx.levels, ctx.eps, True)[-1:]
    zeros = _made(x, ctx.levels, False) if any(gain is None for gain in gains[: ctx.levels]) else []
    known = [zeros[i].zero_() if gain is None else gain for i, gain in enumerate(gains[: ctx.levels])]
    return _slope(x, words[0], known, ctx.eps), None, None, None


_pyramid.register_autograd(_differentiate, setup_context=_remember)


def _blocks(x: torch.Tensor) -> int:
    return x.shape[0] * x.shape[1] * -(-x.shape[2] // 8) * -(-x.shape[3] // 8)


def _made(x: torch.Tensor, levels: int, words: bool) -> list[torch.Tensor]:
    """The maps and, if asked, the words of their winners, not yet written."""
    sizes = [(*x.shape[:2], -(-x.shape[2] // 2**i), -(-x.shape[3] // 2**i)) for i in range(1, LEVELS + 1)]
    made = [torch.empty(size, dtype=x.dtype, device=x.device, memory_format=order(x)) for size in sizes[:levels]]
    return (
        [*made, torch.empty(sizes[-1], dtype=torch.int64, device=x.device, memory_format=order(x))] if words else made
    )
