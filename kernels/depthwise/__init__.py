"""Depthwise convolution with kernels of any odd size: `depthwise_conv2d`.

Two back ends give the same numbers: `reference` (PyTorch's convolution) and `fft`. `auto` takes the faster one by the
measured rule in `choose`; the argument `backend` or the environment variable `PALYNO_DEPTHWISE` decide otherwise.
"""

from __future__ import annotations

import os
from collections.abc import Callable

import torch

from ...errors import UsageError
from . import fft, reference

__all__ = ["BACKENDS", "choose", "depthwise_conv2d"]

BACKENDS: dict[str, Callable[[torch.Tensor, torch.Tensor, torch.Tensor | None, int], torch.Tensor]] = {
    "reference": reference.depthwise,
    "fft": fft.depthwise,
}

# Device: (smallest kernel side, smallest map side) from which the transform is faster, measured with two threads of an
# AMD EPYC and on an NVIDIA H200. For 31 x 31 on 80 x 80 it is 6 and 7 times faster; forward and backward, 30 and 18.
FFT_FROM = {"cpu": (17, 20), "cuda": (13, 20)}


def depthwise_conv2d(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None = None,
    *,
    stride: int = 1,
    padding: str = "same",
    backend: str = "auto",
) -> torch.Tensor:
    """Convolves each channel with its own kernel (as networks do: correlation), zeros outside the map.

    Args:
        x: Maps, (B, C, H, W), floating point.
        weight: Kernels, (C, 1, kh, kw), both sides odd.
        bias: (C,) or None.
        stride: Step of the output grid.
        padding: Only `same`: k // 2 zeros on each side.
        backend: `auto`, `reference` or `fft`.

    Returns:
        (B, C, ceil(H / stride), ceil(W / stride)), dtype of `x`.

    Raises:
        UsageError: Shapes, dtypes or devices that do not fit together, or an unknown option.
    """
    if not torch.jit.is_tracing():
        _check(x, weight, bias, stride, padding)
    if backend == "auto":
        backend = os.environ.get("PALYNO_DEPTHWISE", "auto")
    if backend == "auto":
        backend = choose(x, weight)
    if backend not in BACKENDS:
        raise UsageError(f"backend: expected auto, {', '.join(BACKENDS)}; got {backend!r}")
    with torch.autocast(x.device.type, enabled=False):
        return BACKENDS[backend](x, weight, bias, stride)


def choose(x: torch.Tensor, weight: torch.Tensor) -> str:
    """The back end that `auto` takes for these tensors."""
    # Exported graphs need a plain convolution: runtimes have no transform, or a slow one.
    if torch.jit.is_tracing() or torch.compiler.is_compiling() or torch.onnx.is_in_onnx_export():
        return "reference"
    if x.device.type not in FFT_FROM:
        return "reference"
    kernel, side = FFT_FROM[x.device.type]
    return "fft" if min(weight.shape[-2:]) >= kernel and min(x.shape[-2:]) >= side else "reference"


def _check(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, stride: int, padding: str) -> None:
    if x.ndim != 4 or min(x.shape) < 1:
        raise UsageError(f"x: expected a non-empty (B, C, H, W), got {tuple(x.shape)}")
    channels = x.shape[1]
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
    if not x.is_floating_point():
        raise UsageError(f"x: expected floating point, got {x.dtype}; convert it with x.float()")
    mixed = torch.is_autocast_enabled(x.device.type)
    for name, tensor in (("weight", weight), ("bias", bias)):
        if tensor is None:
            continue
        if tensor.device != x.device:
            raise UsageError(f"{name}: expected on {x.device} like x, got {tensor.device}; move it there")
        if tensor.dtype != x.dtype and not (mixed and tensor.is_floating_point()):
            raise UsageError(f"{name}: expected {x.dtype} like x, got {tensor.dtype}; convert one of them")
