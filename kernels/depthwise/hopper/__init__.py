"""Depthwise convolution and its gradients on the tensor cores of Hopper (compute capability 9.0).

CUDA C++, compiled at run time for the sides of the kernel and the number type: `pictures.cu` tells how pictures lie in
shared memory, `convolve.cu` how they are convolved, `weigh.cu` how the weights' gradient is summed, `plan.py` how a
batch is shared out.
"""

from __future__ import annotations

import ctypes
from functools import cache
from pathlib import Path

import torch

from ...nvrtc import Kernel, compile_kernel
from .plan import SHARED, Plan, plan_convolution, plan_weights, rows_each

__all__ = ["forward", "supports", "supports_weights", "weight_gradient"]

TYPES = {torch.float16: 0, torch.bfloat16: 1, torch.float32: 2}
NUMBERS = (("f16", 16), ("bf16", 16), ("tf32", 8))
ACTIVATIONS = {None: 0, "relu": 1, "gelu": 2}


class _Geometry(ctypes.Structure):
    _fields_ = [
        (name, ctypes.c_int)
        for name in (
            *("batch", "channels", "height", "width", "tile_w", "tile_h", "tiles_x", "tiles_y", "pitch_unit", "units"),
            *("groups", "passes", "room", "aligned", "activation"),
        )
    ]

    @classmethod
    def of(cls, plan: Plan, x: torch.Tensor, others: tuple[torch.Tensor | None, ...], activation: int = 0) -> _Geometry:
        batch, channels, height, width = x.shape
        pointers = [t.data_ptr() for t in (x, *others) if t is not None]
        aligned = width * x.element_size() % 16 == 0 and all(pointer % 16 == 0 for pointer in pointers)
        cut = (plan.tile_w, plan.tile_h, plan.tiles_x, plan.tiles_y, plan.pitch_unit, plan.units, plan.groups)
        return cls(batch, channels, height, width, *cut, plan.passes, plan.room, int(aligned), activation)


def supports(x: torch.Tensor, weight: torch.Tensor) -> str | None:
    """Why the convolution of these cannot be taken, or None."""
    if x.dtype not in TYPES:
        return f"it takes float16, bfloat16 and float32 as tf32, not {x.dtype}"
    most = 61 if x.element_size() == 2 else 41
    if max(weight.shape[-2:]) > most:
        return f"it takes kernels up to {most} pixels of {x.dtype}, not {tuple(weight.shape[-2:])}"
    if x.shape[1] > 65535 or x.numel() >= 2**31:
        return "it takes up to 65535 channels and 2^31 elements"
    return None


def supports_weights(x: torch.Tensor, weight: torch.Tensor) -> str | None:
    """Why the weights' gradient cannot be taken, or None."""
    if x.dtype == torch.float32:
        return "the tensor cores do not read float32 transposed"
    return supports(x, weight)


def forward(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None = None,
    *,
    residual: torch.Tensor | None = None,
    gate: torch.Tensor | None = None,
    activation: str | None = None,
    turned: bool = False,
) -> torch.Tensor:
    """`activation(conv(x) + bias + residual + gate |x|)`, stride 1, zeros outside the map.

    Args:
        x: (B, C, H, W), float16, bfloat16 or float32 (products then in tf32, rounded to nearest).
        weight: (C, 1, kh, kw), odd, dtype of `x`.
        bias: (C,) or None, dtype of `x`.
        residual: Shape and dtype of `x`, or None.
        gate: (B, C) float32, or None.
        activation: None, `relu` or `gelu`.
        turned: Whether the kernel is turned by 180 degrees, as the gradient of the input needs it.

    Returns:
        (B, C, H, W), contiguous, dtype of `x`.
    """
    x, weight = x.contiguous(), weight.contiguous()
    bias = None if bias is None else bias.contiguous()
    residual = None if residual is None else residual.contiguous()
    gate = None if gate is None else gate.to(torch.float32).contiguous()
    y = torch.empty_like(x)
    kernel = (weight.shape[2], weight.shape[3])
    with torch.cuda.device(x.device):
        plan = plan_convolution(*x.shape, kernel, x.element_size(), _multiprocessors(x.device.index))
        code = _convolution(kernel, TYPES[x.dtype], plan.patches, plan.warpgroups, turned, x.device.index)
        code(
            (plan.blocks, x.shape[1], 1),
            128 * plan.warpgroups,
            plan.shared,
            torch.cuda.current_stream().cuda_stream,
            *(0 if tensor is None else tensor.data_ptr() for tensor in (x, weight, bias, residual, gate, y)),
            _Geometry.of(plan, x, (y, residual), ACTIVATIONS[activation]),
        )
    return y


def weight_gradient(grad: torch.Tensor, x: torch.Tensor, kernel: tuple[int, int]) -> torch.Tensor:
    """The gradient of the weights, summed in float32 in a fixed order.

    Args:
        grad: Gradient of the output, (B, C, H, W), float16 or bfloat16.
        x: The input, shape and dtype of `grad`.
        kernel: Sides of the kernel, odd.

    Returns:
        (C, 1, kh, kw), float32.
    """
    x, grad = x.contiguous(), grad.contiguous()
    channels = x.shape[1]
    with torch.cuda.device(x.device):
        plan, row_parts = plan_weights(*x.shape, kernel, _multiprocessors(x.device.index))
        code = _weights(kernel, TYPES[x.dtype], x.device.index)
        parts = x.new_empty((plan.blocks * row_parts * 2, channels, 1, *kernel), dtype=torch.float32)
        code(
            (plan.blocks, channels, row_parts),
            256,
            plan.shared,
            torch.cuda.current_stream().cuda_stream,
            *(tensor.data_ptr() for tensor in (x, grad, parts)),
            _Geometry.of(plan, x, (grad,)),
        )
    return parts.sum(0)


@cache
def _multiprocessors(index: int) -> int:
    return torch.cuda.get_device_properties(index).multi_processor_count


# A module belongs to the device that was current when it was loaded.
@cache
def _convolution(
    kernel: tuple[int, int], kind: int, patches: int, warpgroups: int, turned: bool, device: int
) -> Kernel:
    return Kernel(convolution_binary(kernel, kind, patches, warpgroups, turned), "depthwise", SHARED)


@cache
def _weights(kernel: tuple[int, int], kind: int, device: int) -> Kernel:
    return Kernel(weights_binary(kernel, kind), "weigh", SHARED)


def convolution_binary(kernel: tuple[int, int], kind: int, patches: int, warpgroups: int, turned: bool) -> bytes:
    """Machine code of `convolve.cu` for one kernel size, number type (`TYPES`), patches of a pass and direction."""
    definitions = {"TYPE": kind, "N": patches, "GROUPS": warpgroups, "FLIP": int(turned)}
    return _binary("convolve.cu", kernel, definitions, _product(kind, patches, ", 0, 0" if kind < 2 else ""))


def weights_binary(kernel: tuple[int, int], kind: int) -> bytes:
    """Machine code of `weigh.cu` for one kernel size and number type (`TYPES`)."""
    chunks = 2 * -(-(kernel[1] // 2) // 8) + 1
    definitions = {"TYPE": kind, "GROUPS": 2, "ROWS_EACH": rows_each(kernel)}
    return _binary("weigh.cu", kernel, definitions, _product(kind, 8 * chunks, ", 1, 1"))


def _binary(name: str, kernel: tuple[int, int], definitions: dict[str, int], product: str) -> bytes:
    folder = Path(__file__).parent
    source = "\n".join((folder / part).read_text(encoding="utf-8") for part in ("pictures.cu", name))
    return compile_kernel(source.replace("WGMMA", product), {"KH": kernel[0], "KW": kernel[1], **definitions}, "sm_90a")


def _product(kind: int, columns: int, transposed: str) -> str:
    """One `wgmma` of 64 x `columns` with half as many accumulators a thread, as inline assembly."""
    number, depth = NUMBERS[kind]
    registers = columns // 2
    listed = ", ".join(f"%{i}" for i in range(registers))
    outputs = ", ".join(f'"+f"(d[{i}])' for i in range(registers))
    return (
        f'asm volatile("{{.reg .pred p; setp.ne.b32 p, %{registers + 2}, 0; '
        f"wgmma.mma_async.sync.aligned.m64n{columns}k{depth}.f32.{number}.{number} {{{listed}}}, "
        f'%{registers}, %{registers + 1}, p, 1, 1{transposed};}}" : {outputs} : "l"(a), "l"(b), "r"(accumulate));'
    )
