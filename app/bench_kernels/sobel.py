"""Cases of `sobel_magnitude`: against the block that it replaced and against PyTorch's compiler."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.nn.functional as F

from ...kernels import sobel_magnitude
from ...kernels.edge.reference import SOBEL
from ...kernels.edge.reference import sobel_magnitude as reference
from .case import Case, Contender

__all__ = ["cases"]

LEVELS, EPS = 3, 1e-6
ROWS = torch.contiguous_format
# Images and channels whose result is compared with float64.
IMAGES, CHANNELS = 2, 3
Inputs = tuple[torch.Tensor, tuple[torch.Tensor, ...]]  # map, gradients of the levels


def cases(device: str, *, quick: bool = False) -> Iterator[Case]:
    """Forward, and forward and backward, on the map that HEM reads from an image of 640 px."""
    if quick:
        shapes, dtype = [(2, 3, 24, 32)], "float32" if device == "cpu" else "float16"
    elif device == "cuda":
        shapes, dtype = [(16, 64, 160, 160), (16, 128, 160, 160)], "float16"
    else:
        shapes, dtype = [(1, 64, 160, 160)], "float32"
    for shape in shapes:
        yield _case(device, shape, dtype, "forward")
    yield _case(device, shapes[0], dtype, "forward and backward")


def _case(device: str, shape: tuple[int, int, int, int], dtype: str, what: str) -> Case:
    kind = getattr(torch, dtype)
    backward = what != "forward"

    def make() -> Inputs:
        x = torch.randn(shape, device=device, dtype=kind)
        sizes = [[-(-side // 2**i) for side in shape[2:]] for i in range(1, LEVELS + 1)]
        return x, tuple(torch.randn(*shape[:2], *size, device=device, dtype=kind) for size in sizes)

    def part(result: Any) -> Any:
        return [level[:IMAGES, :CHANNELS] for level in result]

    def exact(inputs: Inputs) -> Any:
        x, gradients = inputs
        with torch.inference_mode(False):
            x = x[:IMAGES, :CHANNELS].double().clone()
            gradients = tuple(g[:IMAGES, :CHANNELS].double().clone() for g in gradients)
            return _timed(plain, backward)(_leaf(x, gradients, backward))

    def contender(name: str, function: Callable[..., Any], role: str, order: Any = ROWS) -> Contender:
        def prepare(inputs: Inputs) -> Any:
            x, gradients = inputs
            gradients = tuple(g.contiguous(memory_format=order) for g in gradients)
            return _leaf(x.contiguous(memory_format=order), gradients, backward)

        return Contender(name, _timed(function, backward), prepare, role)

    last = torch.channels_last
    pair = SOBEL.to(kind).to(device).repeat(shape[1], 1, 1, 1)

    def block(x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """HEM as it was before: one convolution of twice the channels, the root of every pixel, then the maxima."""
        g = F.conv2d(F.pad(x, (1, 1, 1, 1), mode="replicate"), pair, groups=shape[1])
        edges = (g[:, 0::2].square() + g[:, 1::2].square() + EPS).sqrt()
        maps = []
        for _ in range(LEVELS):
            edges = F.max_pool2d(edges, 2, 2, ceil_mode=True)
            maps.append(edges)
        return tuple(maps)

    contenders = [
        contender("palyno", sobel_magnitude, "ours"),
        contender("palyno channels_last", sobel_magnitude, "other", last),
        contender("plain NCHW", block, "peer"),
        contender("plain channels_last", block, "peer", last),
        contender("slices", plain, "peer"),
    ]
    if device == "cuda":
        contenders.append(contender("slices, torch.compile", torch.compile(plain, dynamic=False), "peer"))
    pixels = shape[0] * shape[1] * shape[2] * shape[3]
    pooled = sum(4.0**-i for i in range(1, LEVELS + 1))
    return Case(
        operator="sobel",
        name=what,
        shape=shape,
        dtype=dtype,
        make=make,
        contenders=contenders,
        exact=exact,
        part=part,
        # Backward: the map and the gradients are read, the map's gradient is written.
        bytes_=pixels * kind.itemsize * (1 + pooled + (2 + pooled if backward else 0)),
        operations=0,
        grad=backward,
    )


def plain(x: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """The definition."""
    return reference(x, LEVELS, EPS)


def _leaf(x: torch.Tensor, gradients: tuple[torch.Tensor, ...], backward: bool) -> Any:
    return x.detach().requires_grad_() if backward else x, gradients


def _timed(function: Callable[..., Any], backward: bool) -> Callable[[Any], Any]:
    def run(state: Any) -> Any:
        x, gradients = state
        maps = function(x)
        return torch.autograd.grad(maps, x, gradients) if backward else maps

    return run
