"""Cases of `depthwise_conv2d`: against PyTorch's convolution in both orders of memory, and cuDNN's called by name."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.nn.functional as F

from ...kernels import depthwise_conv2d
from .case import Case, Contender, Unsupported
from .timing import Budget

__all__ = ["cases", "sweep"]

# The 31 x 31 kernels of the table: what the map is, and how many times faster than the peer ours has to be.
FORWARD = [((16, 64, 80, 80), 24.0), ((16, 64, 160, 160), 24.0), ((64, 384, 32, 32), 16.0), ((1, 16, 80, 80), 3.0)]
GRADIENT, TF32 = 10.0, 8.0
OTHER_KERNELS = [(1, 31), (31, 1), (7, 7), (13, 13), (21, 21), (51, 51)]
ON_CPU = [((1, 64, 80, 80), 7.0), ((1, 64, 160, 160), 5.0)]
TRAINED_ON_CPU = 30.0
SWEEP_SIDES = (10, 14, 20, 28, 40, 56, 80, 112, 160, 224, 320)
SWEEP_KERNELS = (3, 5, 7, 9, 13, 17, 21, 31, 41, 51, 61)
SWEEP_CHANNELS = 16

# Images and channels whose result is compared with float64.
IMAGES, CHANNELS = 2, 3

Shape = tuple[int, int, int, int]
Inputs = tuple[torch.Tensor, torch.Tensor, torch.Tensor]  # map, kernels, gradient of the output


def cases(device: str, *, quick: bool = False) -> Iterator[Case]:
    """The cases of a device; tiny maps with `quick`."""
    if device == "cuda":
        yield from _on_gpu(quick)
    else:
        for shape, target in [((1, 3, 24, 24), None)] if quick else ON_CPU:
            yield _case(device, shape, (31, 31), "float32", "forward", target)
            trained = None if quick else TRAINED_ON_CPU
            budget = Budget(seconds=1.0, least=7, patience=20.0)
            yield _case(device, shape, (31, 31), "float32", "forward and backward", trained, None if quick else budget)


def sweep(device: str, *, quick: bool = False) -> Iterator[Case]:
    """Square maps and kernels of many sizes: `auto` against the better order of memory of PyTorch's convolution."""
    budget = Budget(seconds=0.1, least=5, most=100, patience=1.0)
    for side in (10, 20) if quick else SWEEP_SIDES:
        for kernel in (3, 31) if quick else SWEEP_KERNELS:
            shape = (1, 2 if quick else SWEEP_CHANNELS, side, side)
            yield _case(device, shape, (kernel, kernel), "float32", "forward", 1.0, budget, few=True)


def _on_gpu(quick: bool) -> Iterator[Case]:
    shapes = [((2, 3, 24, 24), None)] if quick else FORWARD
    for shape, target in shapes:
        yield _case("cuda", shape, (31, 31), "float16", "forward", target)
    for shape, _ in shapes[:3]:
        for what in ("input gradient", "weight gradient"):
            yield _case("cuda", shape, (31, 31), "float16", what, None if quick else GRADIENT)
    shape = shapes[0][0]
    yield _case("cuda", shape, (31, 31), "tf32", "forward", None if quick else TF32)
    yield _case("cuda", shape, (31, 31), "float32", "forward", None)
    yield _case("cuda", shape, (31, 31), "bfloat16", "forward", None)
    for kernel in OTHER_KERNELS[:1] if quick else OTHER_KERNELS:
        yield _case("cuda", shape, kernel, "float16", "forward", None)


def _case(
    device: str,
    shape: Shape,
    kernel: tuple[int, int],
    dtype: str,
    what: str,
    target: float | None,
    budget: Budget | None = None,
    few: bool = False,
) -> Case:
    """One case; `few` leaves out all but ours and the peers."""
    kind = torch.float32 if dtype == "tf32" else getattr(torch, dtype)
    channels = shape[1]
    weight = torch.randn(channels, 1, *kernel, device=device, dtype=kind) / (kernel[0] * kernel[1]) ** 0.5

    def make() -> Inputs:
        x, gradient = (torch.randn(shape, device=device, dtype=kind) for _ in range(2))
        return x, weight, gradient

    images, part_channels = min(IMAGES, shape[0]), min(CHANNELS, channels)

    def exact(inputs: Inputs) -> Any:
        x, w, gradient = (t.double() for t in inputs)
        # A weight's gradient needs every image.
        kept = shape[0] if what in ("weight gradient", "forward and backward") else images
        x, w, gradient = x[:kept, :part_channels], w[:part_channels], gradient[:kept, :part_channels]
        with torch.inference_mode(False):
            return _timed(what, _convolution)(_recorded(what, _convolution)((x.clone(), w.clone(), gradient.clone())))

    def part(result: Any) -> Any:
        if what == "weight gradient":
            return result[:part_channels]
        if what == "forward and backward":
            return (result[0][:, :part_channels], result[1][:part_channels])
        return result[:images, :part_channels]

    terms = 3 if what == "forward and backward" else 1
    maps = 2 * terms * shape[0] * channels * shape[2] * shape[3]
    return Case(
        operator="depthwise-sweep" if few else "depthwise",
        name=f"{kernel[0]}x{kernel[1]} {what}",
        shape=shape,
        dtype=dtype,
        make=make,
        contenders=_contenders(device, what, kernel, few),
        exact=exact,
        part=part,
        bytes_=(maps + terms * weight.numel()) * weight.element_size(),
        operations=terms * 2 * shape[0] * shape[2] * shape[3] * weight.numel(),
        target=target,
        grad=what != "forward" and not few,
        budget=budget,
    )


def _contenders(device: str, what: str, kernel: tuple[int, int], few: bool) -> list[Contender]:
    def contender(name: str, function: Callable[..., torch.Tensor], role: str, **options: Any) -> Contender:
        order = options.pop("order", torch.contiguous_format)

        def prepare(inputs: Inputs) -> Any:
            x, weight, gradient = inputs
            # Kernels that have the order of the map are copied here; ours are given as a network has them.
            weight = weight if role == "ours" else weight.contiguous(memory_format=order)
            x, gradient = (t.contiguous(memory_format=order) for t in (x, gradient))
            return _recorded(what, function)((x, weight, gradient))

        return Contender(name, _timed(what, function), prepare, role, **options)

    last = torch.channels_last
    found = [
        contender("palyno", depthwise_conv2d, "ours"),
        contender("palyno channels_last", depthwise_conv2d, "ours" if device == "cpu" else "other", order=last),
        contender("conv2d NCHW", _convolution, "peer", note=_library(what)),
        contender("conv2d channels_last", _convolution, "peer", note=_library(what), order=last),
    ]
    if few:
        return found
    if device == "cuda" and what == "forward":
        found += [
            contender("cuDNN NCHW", _cudnn, "peer"),
            contender("cuDNN channels_last", _cudnn, "peer", order=last),
        ]
    if device == "cuda" and what == "forward" and kernel == (31, 31):
        found.append(contender("palyno toeplitz", _backend("toeplitz"), "other"))
    return [*found, contender("palyno fft", _backend("fft"), "other")]


def _backend(name: str) -> Callable[..., torch.Tensor]:
    return lambda x, weight: depthwise_conv2d(x, weight, backend=name)


def _convolution(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    padding = (weight.shape[2] // 2, weight.shape[3] // 2)
    return F.conv2d(x, weight, padding=padding, groups=x.shape[1])


def _cudnn(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """The library itself with its fastest algorithm, also where PyTorch would not call it."""
    cudnn = torch.backends.cudnn
    if not cudnn.is_available():
        raise Unsupported("no cuDNN here")
    padding = (weight.shape[2] // 2, weight.shape[3] // 2)
    return torch.cudnn_convolution(x, weight, padding, (1, 1), (1, 1), x.shape[1], True, False, cudnn.allow_tf32)


def _recorded(what: str, function: Callable[..., torch.Tensor]) -> Callable[[Inputs], Any]:
    """What is done before the clock runs: for a gradient, the forward pass."""

    def prepare(inputs: Inputs) -> Any:
        x, weight, gradient = inputs
        if what.endswith("gradient"):
            x, weight = (t.detach().requires_grad_(what.startswith(k)) for t, k in ((x, "input"), (weight, "weight")))
            leaf = x if what == "input gradient" else weight
            return function(x, weight), leaf, gradient
        if what == "forward and backward":
            return *(t.detach().requires_grad_() for t in (x, weight)), gradient
        return inputs

    return prepare


def _timed(what: str, function: Callable[..., torch.Tensor]) -> Callable[[Any], Any]:
    def run(state: Any) -> Any:
        if what.endswith("gradient"):
            y, leaf, gradient = state
            return torch.autograd.grad(y, leaf, gradient, retain_graph=True)[0]
        x, weight, gradient = state
        if what == "forward and backward":
            return torch.autograd.grad(function(x, weight), (x, weight), gradient)
        return function(x, weight)

    return run


def _library(what: str) -> Callable[[Any], str] | None:
    """Names the library that PyTorch takes for a convolution."""
    if what.endswith("gradient"):
        return None

    def note(state: Any) -> str:
        x, weight = state[:2]
        padding = (weight.shape[2] // 2, weight.shape[3] // 2)
        chosen = torch._C._select_conv_backend(x, weight, None, (1, 1), padding, (1, 1), False, (0, 0), x.shape[1])
        return str(chosen).rpartition(".")[2]

    return note
