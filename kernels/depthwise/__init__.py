"""Depthwise convolution with kernels of any odd size: `depthwise_conv2d`.

Back ends give the same function: `reference` (PyTorch's convolution), `fft` (any device), `native` (CPUs, where there
is gcc), `toeplitz` (Triton, NVIDIA GPUs from Ampere on), `hopper` (the tensor cores of the H100 and H200). `auto` takes
the fastest by the measured rules in `choose`; the argument `backend` or the environment variable `PALYNO_DEPTHWISE`
decide otherwise.
"""

from __future__ import annotations

from importlib import import_module

import torch
import torch.nn.functional as F

from ...errors import UsageError
from ..backends import asked_backend, exporting, hopper_runs, tf32_convolutions, triton_runs
from . import operator, reference, table

__all__ = ["BACKENDS", "choose", "depthwise_conv2d"]

BACKENDS = ("reference", "fft", "native", "toeplitz", "hopper")
ACTIVATIONS = (None, "relu", "gelu")

# Device: (smallest kernel side, smallest map side) from which the transform is faster than PyTorch's convolution,
# measured on an NVIDIA H200. For CPUs see `table`.
FFT_FROM = {"cuda": (13, 20)}

# Up to this side and from so many maps on, `toeplitz` takes less time than `hopper` in 16 bits, as it lays small maps
# side by side: 1.3 to 4.2 times faster for kernels of 7 to 31, 0.8 times at worst. Its weights' gradient is faster up
# to the other side only.
SMALL_MAPS, MANY_MAPS, SMALL_MAPS_OF_WEIGHTS = 32, 2048, 16


def depthwise_conv2d(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None = None,
    *,
    stride: int = 1,
    padding: str = "same",
    residual: torch.Tensor | None = None,
    gate: torch.Tensor | None = None,
    activation: str | None = None,
    backend: str = "auto",
) -> torch.Tensor:
    """`activation(conv(x) + bias + residual + gate |x|)`: each channel with its own kernel, zeros outside the map.

    As in networks, the kernel is not turned (correlation). Under autocast everything is cast to its type first. Float32
    maps on a GPU are multiplied as tf32 where `torch.backends.cudnn` allows convolutions that, as it does by default.
    Differentiable once. The same input gives the same bits, gradients included, except where PyTorch's own
    convolution, the reference, does not.

    Args:
        x: Maps, (B, C, H, W), floating point.
        weight: Kernels, (C, 1, kh, kw), both sides odd.
        bias: (C,) or None.
        stride: Step of the output grid.
        padding: Only `same`: k // 2 zeros on each side.
        residual: Added to the output, of its shape, or None.
        gate: Factor of |x| for each map, (B, C), or None; with stride 1 only.
        activation: None, `relu` or `gelu` (exact), last of all.
        backend: `auto` or one of `BACKENDS`.

    Returns:
        (B, C, ceil(H / stride), ceil(W / stride)), dtype of `x`.

    Raises:
        UsageError: Shapes, dtypes or devices that do not fit together, an unknown option, or a back end that cannot
            take these tensors.
    """
    kind = x.device.type
    if kind != "meta" and torch.is_autocast_enabled(kind) and x.is_floating_point():
        dtype = torch.get_autocast_dtype(kind)
        x = x.to(dtype)
        weight = weight.to(dtype)
        bias, residual = (None if t is None else t.to(dtype) for t in (bias, residual))
    if not torch.jit.is_tracing():
        _check(x, weight, bias, stride, padding, residual, gate, activation)
    asked = asked_backend("depthwise", backend, BACKENDS)
    backend = asked
    if asked == "auto":
        backend = choose(x, weight, gated=gate is not None)
    else:
        _refuse(backend, x, weight)
    if stride == 1 and (residual is not None or gate is not None or activation is not None):
        tensors = (x, weight, bias, residual, gate)
        trained = torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in tensors)
        if not trained and (backend == "hopper" or (backend == "toeplitz" and gate is None)):
            return operator.fused(x, weight, bias, residual, gate, activation, backend)
    if backend == "reference":
        y = reference.depthwise(x, weight, bias, stride)
    else:
        y = operator.depthwise(x, weight, bias, stride, backend, _for_weights(backend, x, weight, asked))
    if residual is not None:
        y = y + residual
    if gate is not None:
        y = y + gate[..., None, None].to(y.dtype) * x.abs()
    return F.relu(y) if activation == "relu" else F.gelu(y) if activation == "gelu" else y


def choose(x: torch.Tensor, weight: torch.Tensor, *, gated: bool = False) -> str:
    """The back end that `auto` takes for these tensors, with or without a gate."""
    # Exported graphs need a plain convolution: other runtimes have no transform, or a slow one.
    if exporting() or x.dtype not in (torch.float16, torch.bfloat16, torch.float32, torch.float64):
        return "reference"
    if x.device.type == "cuda" and (x.dtype in (torch.float16, torch.bfloat16) or tf32_convolutions()):
        toeplitz = triton_runs(x, weight) and _supports("toeplitz", x, weight) is None and min(weight.shape[-2:]) >= 7
        if hopper_runs(x, weight) and _supports("hopper", x, weight) is None:
            return "toeplitz" if toeplitz and not gated and _many_small(x, SMALL_MAPS) else "hopper"
        if toeplitz:
            return "toeplitz"
    if x.device.type == "cpu":
        return table.choose(x, weight)
    if x.device.type not in FFT_FROM:
        return "reference"
    kernel, side = FFT_FROM[x.device.type]
    return "fft" if min(weight.shape[-2:]) >= kernel and min(x.shape[-2:]) >= side else "reference"


def _for_weights(backend: str, x: torch.Tensor, weight: torch.Tensor, asked: str) -> str:
    """The back end of the weights' gradient where `backend` computes the rest and the caller asked for `asked`."""
    if backend not in ("hopper", "toeplitz"):
        return backend
    free = asked == "auto" and hopper_runs(x, weight)
    if backend == "toeplitz" and (not free or _many_small(x, SMALL_MAPS_OF_WEIGHTS)):
        return backend
    if import_module(".hopper", __package__).supports_weights(x, weight) is None:
        return "hopper"
    return "fft" if backend == "hopper" else backend


def _many_small(x: torch.Tensor, side: int) -> bool:
    return x.element_size() == 2 and max(x.shape[-2:]) <= side and x.shape[0] * x.shape[1] >= MANY_MAPS


def _supports(backend: str, x: torch.Tensor, weight: torch.Tensor) -> str | None:
    why: str | None = import_module(f".{backend}", __package__).supports(x, weight)
    return why


def _refuse(backend: str, x: torch.Tensor, weight: torch.Tensor) -> None:
    why = None
    if backend == "hopper" and not hopper_runs(x, weight):
        why = f"it needs a GPU of compute capability 9.0 (H100, H200), and x is on {x.device}"
    elif backend == "toeplitz" and not triton_runs(x, weight):
        why = f"it needs Triton and an NVIDIA GPU from Ampere on, and x is on {x.device}"
    elif backend in (*operator.DENSE, "native"):
        why = _supports(backend, x, weight)
    if why:
        raise UsageError(f"backend: {backend!r} cannot take these tensors: {why}; use backend='auto'")


def _check(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    stride: int,
    padding: str,
    residual: torch.Tensor | None,
    gate: torch.Tensor | None,
    activation: str | None,
) -> None:
    if x.ndim != 4 or min(x.shape) < 1:
        raise UsageError(f"x: expected a non-empty (B, C, H, W), got {tuple(x.shape)}")
    batch, channels, height, width = x.shape
    if weight.ndim != 4 or tuple(weight.shape[:2]) != (channels, 1):
        raise UsageError(f"weight: expected ({channels}, 1, kh, kw) for {channels} channels, got {tuple(weight.shape)}")
    if weight.shape[2] % 2 == 0 or weight.shape[3] % 2 == 0:
        raise UsageError(
            f"weight: expected odd sides, as an even kernel has no centre; got {tuple(weight.shape[2:])}. "
            "Pad it with a row or column of zeros"
        )
    if bias is not None and tuple(bias.shape) != (channels,):
        raise UsageError(f"bias: expected ({channels},), got {tuple(bias.shape)}")
    if not isinstance(stride, int) or stride < 1:
        raise UsageError(f"stride: expected a whole number of at least 1, got {stride!r}")
    if padding != "same":
        raise UsageError(f"padding: expected 'same', got {padding!r}")
    if activation not in ACTIVATIONS:
        raise UsageError(f"activation: expected None, 'relu' or 'gelu', got {activation!r}")
    out = (batch, channels, -(-height // stride), -(-width // stride))
    if residual is not None and tuple(residual.shape) != out:
        raise UsageError(f"residual: expected the output's {out}, got {tuple(residual.shape)}")
    if gate is not None and (stride != 1 or tuple(gate.shape) != (batch, channels)):
        raise UsageError(f"gate: expected ({batch}, {channels}) and stride 1, got {tuple(gate.shape)}, {stride}")
    if not x.is_floating_point():
        raise UsageError(f"x: expected floating point, got {x.dtype}; convert it with x.float()")
    for name, tensor in (("weight", weight), ("bias", bias), ("residual", residual), ("gate", gate)):
        if tensor is None:
            continue
        if tensor.device != x.device:
            raise UsageError(f"{name}: expected on {x.device} like x, got {tensor.device}; move it there")
        if name != "gate" and tensor.dtype != x.dtype:
            raise UsageError(f"{name}: expected {x.dtype} like x, got {tensor.dtype}; convert one of them")
