"""The kernels of `flash` and `hopper` as operators of PyTorch: launches, shapes without data, gradients.

    palyno::sigmoid_attention(q, k, v, bias, shift, causal, hopper) -> y
    palyno::sigmoid_attention_keys(dy, q, k, v, bias, shift, causal, hopper) -> dk, dv, db
    palyno::sigmoid_attention_queries(dy, q, k, v, bias, shift, causal, hopper) -> dq

`bias` is (H,) float32, or None for the one number `shift`; None there, too, is -log of the number of keys. Kept for the
gradient: the arguments alone.
"""

from __future__ import annotations

import math
from typing import Any

import torch

from ...registration import operator

__all__ = ["sigmoid_attention"]


@operator("sigmoid_attention")
def sigmoid_attention(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    bias: torch.Tensor | None,
    shift: float | None,
    causal: bool,
    hopper: bool,
) -> torch.Tensor:
    """The output, contiguous, by `hopper` or by `flash`."""
    if hopper:
        from .hopper import forward as attend
    else:
        from .flash import forward as attend  # type: ignore[assignment]
    with torch.cuda.device_of(q):
        return attend(_rowwise(q), _rowwise(k), _rowwise(v), bias, _shift(shift, k), causal)


@sigmoid_attention.register_fake
def _(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    bias: torch.Tensor | None,
    shift: float | None,
    causal: bool,
    hopper: bool,
) -> torch.Tensor:
    return torch.empty(q.shape, dtype=q.dtype, device=q.device)


@operator("sigmoid_attention_keys")
def _keys(
    dy: torch.Tensor,
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    bias: torch.Tensor | None,
    shift: float | None,
    causal: bool,
    hopper: bool,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    if hopper:
        from .hopper import backward_keys as differentiate
    else:
        from .flash import backward_keys as differentiate  # type: ignore[assignment]
    with torch.cuda.device_of(q):
        return differentiate(_rowwise(dy), _rowwise(q), _rowwise(k), _rowwise(v), bias, _shift(shift, k), causal)


@_keys.register_fake
def _(
    dy: torch.Tensor,
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    bias: torch.Tensor | None,
    shift: float | None,
    causal: bool,
    hopper: bool,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    dk, dv = (torch.empty(x.shape, dtype=x.dtype, device=x.device) for x in (k, v))
    return dk, dv, torch.empty(0 if bias is None else q.shape[1], dtype=torch.float32, device=q.device)


@operator("sigmoid_attention_queries")
def _queries(
    dy: torch.Tensor,
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    bias: torch.Tensor | None,
    shift: float | None,
    causal: bool,
    hopper: bool,
) -> torch.Tensor:
    if hopper:
        from .hopper import backward_queries as differentiate
    else:
        from .flash import backward_queries as differentiate  # type: ignore[assignment]
    with torch.cuda.device_of(q):
        return differentiate(_rowwise(dy), _rowwise(q), _rowwise(k), _rowwise(v), bias, _shift(shift, k), causal)


@_queries.register_fake
def _(
    dy: torch.Tensor,
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    bias: torch.Tensor | None,
    shift: float | None,
    causal: bool,
    hopper: bool,
) -> torch.Tensor:
    return torch.empty(q.shape, dtype=q.dtype, device=q.device)


def _remember(ctx: Any, inputs: tuple[Any, ...], output: torch.Tensor) -> None:
    *tensors, ctx.shift, ctx.causal, hopper = inputs
    ctx.hopper = hopper and tensors[0].shape[3] == 128  # with fewer channels Triton's kernels are as fast
    ctx.save_for_backward(*tensors)


def _differentiate(ctx: Any, dy: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
    arguments = (dy, *ctx.saved_tensors, ctx.shift, ctx.causal, ctx.hopper)
    wants = ctx.needs_input_grad
    dq = _queries(*arguments) if wants[0] else None
    dk, dv, db = _keys(*arguments) if any(wants[1:4]) else (None, None, None)
    return dq, dk, dv, db if wants[3] else None, None, None, None


sigmoid_attention.register_autograd(_differentiate, setup_context=_remember)


def _shift(shift: float | None, k: torch.Tensor) -> float:
    return -math.log(k.shape[2]) if shift is None else shift


def _rowwise(x: torch.Tensor) -> torch.Tensor:
    """With the channels of a row side by side and rows that begin at 16 bytes, as the kernels read them."""
    wide = 16 // x.element_size()
    fits = x.stride(3) == 1 and all(step > 0 and step % wide == 0 for step in x.stride()[:3])
    return x if fits and x.data_ptr() % 16 == 0 else x.clone(memory_format=torch.contiguous_format)
