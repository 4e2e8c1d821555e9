"""The fast paths as operators of PyTorch: shapes for compilers and exporters, gradients, one name in profiles.

`palyno::depthwise_conv2d` is differentiable once; `palyno::depthwise_fused` adds an epilogue and is for inference. The
back end is an argument, chosen before by `palyno.kernels.depthwise.choose`, so that a recorded graph says which it was.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

import torch

from ..registration import operator

__all__ = ["depthwise", "fused"]

# Back ends that write every output pixel: a stride leaves some of them out again.
DENSE = ("hopper", "toeplitz")


@operator("depthwise_conv2d")
def depthwise(
    x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, stride: int, backend: str, gradient: str
) -> torch.Tensor:
    """Depthwise convolution by a back end of `BACKENDS` other than the reference.

    Args:
        x: (B, C, H, W).
        weight: (C, 1, kh, kw), odd, dtype of `x`.
        bias: (C,) or None, dtype of `x`.
        stride: Step of the output grid.
        backend: Of the convolution and of the input's gradient.
        gradient: Back end of the weights' gradient.

    Returns:
        (B, C, ceil(H / stride), ceil(W / stride)), contiguous, dtype of `x`.
    """
    module = _module(backend)
    with torch.autocast(x.device.type, enabled=False):
        if backend in DENSE:
            y = module.forward(x, weight, bias)
            return y if stride == 1 else y[..., ::stride, ::stride].contiguous()
        return module.forward(x, weight, bias, stride).contiguous()


@operator("depthwise_conv2d_backward")
def _backward(
    grad: torch.Tensor,
    x: torch.Tensor,
    weight: torch.Tensor,
    stride: int,
    backend: str,
    gradient: str,
    needed: list[bool],
) -> tuple[torch.Tensor, torch.Tensor]:
    with torch.autocast(x.device.type, enabled=False):
        dense = grad
        if stride > 1 and {backend, gradient} & set(DENSE):
            dense = grad.new_zeros(x.shape)
            dense[..., ::stride, ::stride] = grad
        for_input = _for_input(grad, dense, x, weight, stride, backend) if needed[0] else x.new_empty(0)
        for_weight = _for_weight(grad, dense, x, weight, stride, gradient) if needed[1] else x.new_empty(0)
    return for_input.to(x.dtype).contiguous(), for_weight.to(weight.dtype).contiguous()


def _for_input(
    grad: torch.Tensor, dense: torch.Tensor, x: torch.Tensor, weight: torch.Tensor, stride: int, backend: str
) -> torch.Tensor:
    module = _module(backend)
    if backend in DENSE:
        return module.forward(dense, weight, turned=True)
    return module.input_gradient(grad, weight, (x.shape[2], x.shape[3]), stride)


def _for_weight(
    grad: torch.Tensor, dense: torch.Tensor, x: torch.Tensor, weight: torch.Tensor, stride: int, backend: str
) -> torch.Tensor:
    kernel = (weight.shape[2], weight.shape[3])
    if backend in DENSE:
        return _module(backend).weight_gradient(dense, x, kernel)
    return _module(backend).weight_gradient(grad, x, kernel, stride)


@operator("depthwise_fused")
def fused(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    residual: torch.Tensor | None,
    gate: torch.Tensor | None,
    activation: str | None,
    backend: str,
) -> torch.Tensor:
    """`activation(conv(x) + bias + residual + gate |x|)` in one pass; no gradient.

    Args:
        x: (B, C, H, W).
        weight: (C, 1, kh, kw), odd, dtype of `x`.
        bias: (C,) or None, dtype of `x`.
        residual: Shape and dtype of `x`, or None.
        gate: (B, C) float32, or None; `hopper` alone takes one.
        activation: None, `relu` or `gelu`.
        backend: `hopper` or `toeplitz`.

    Returns:
        Shape and dtype of `x`, contiguous.
    """
    more: dict[str, Any] = {} if gate is None else {"gate": gate}
    return _module(backend).forward(x, weight, bias, residual=residual, activation=activation, **more)


def _module(backend: str) -> Any:
    return import_module(f".{backend}", __package__)


@depthwise.register_fake
def _(
    x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, stride: int, backend: str, gradient: str
) -> torch.Tensor:
    batch, channels, height, width = x.shape
    return x.new_empty((batch, channels, (height + stride - 1) // stride, (width + stride - 1) // stride))


@_backward.register_fake
def _(
    grad: torch.Tensor,
    x: torch.Tensor,
    weight: torch.Tensor,
    stride: int,
    backend: str,
    gradient: str,
    needed: list[bool],
) -> tuple[torch.Tensor, torch.Tensor]:
    return (
        x.new_empty(x.shape if needed[0] else (0,)),
        weight.new_empty(weight.shape if needed[1] else (0,)),
    )


@fused.register_fake
def _(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    residual: torch.Tensor | None,
    gate: torch.Tensor | None,
    activation: str | None,
    backend: str,
) -> torch.Tensor:
    return x.new_empty(x.shape)


def _keep(ctx: Any, inputs: tuple[Any, ...], output: torch.Tensor) -> None:
    x, weight, _, ctx.stride, ctx.backend, ctx.gradient = inputs
    ctx.save_for_backward(x, weight)


def _differentiate(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
    x, weight = ctx.saved_tensors
    needed = list(ctx.needs_input_grad[:2])
    for_bias = grad.sum((0, 2, 3)) if ctx.needs_input_grad[2] else None
    for_input, for_weight = (
        _backward(grad, x, weight, ctx.stride, ctx.backend, ctx.gradient, needed) if any(needed) else (None, None)
    )
    return for_input if needed[0] else None, for_weight if needed[1] else None, for_bias, None, None, None


depthwise.register_autograd(_differentiate, setup_context=_keep)
