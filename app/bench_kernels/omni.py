"""Cases of `omni`: the block of inference, fused, against the same steps one by one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch

from ...kernels import omni
from ...kernels.omni_kernel import Gate
from .case import Case, Contender

__all__ = ["cases"]

KERNEL, IMAGES = 31, 2
Pair = tuple[torch.Tensor, torch.Tensor]


def cases(device: str, *, quick: bool = False) -> Iterator[Case]:
    """The block of hieraedge-n for images of 640 px, without the gate's transform and with it."""
    shape = (16, 80, 80, 80) if device == "cuda" else (1, 80, 80, 80)
    if quick:
        shape = (2, 4, 24, 24)
    for transform in (False, True):
        yield _case(device, shape, "float16" if device == "cuda" else "float32", transform)


def _case(device: str, shape: tuple[int, int, int, int], dtype: str, transform: bool) -> Case:
    kind = getattr(torch, dtype)
    batch, channels, height, width = shape

    def pair(fan: int, *sides: int) -> Pair:
        weight = torch.randn(channels, *sides, device=device, dtype=kind) / fan**0.5
        return weight, torch.randn(channels, device=device, dtype=kind)

    large = pair(KERNEL**2, 1, KERNEL, KERNEL)
    enter, leave, spectral, spatial, p, q = (pair(channels, channels, 1, 1) for _ in range(6))
    alpha, beta = (torch.randn(channels, 1, 1, device=device, dtype=kind) for _ in range(2))
    gate = Gate(spectral, spatial, beta, p, q, alpha if transform else None)

    def call(backend: str) -> Callable[[torch.Tensor], torch.Tensor]:
        return lambda x: omni(x, enter, large, leave, gate, backend=backend)

    def exact(x: torch.Tensor) -> torch.Tensor:
        wide = Gate(*(_double(part) for part in gate))
        return omni(x[:IMAGES].double(), _double(enter), _double(large), _double(leave), wide, backend="reference")

    def prepare(order: Any) -> Callable[[torch.Tensor], torch.Tensor]:
        return lambda x: x.contiguous(memory_format=order)

    last = prepare(torch.channels_last)
    pixels = batch * channels * height * width
    return Case(
        operator="omni",
        name=f"{KERNEL}x{KERNEL} block, gate {'with' if transform else 'without'} its transform",
        shape=shape,
        dtype=dtype,
        make=lambda: torch.randn(shape, device=device, dtype=kind),
        contenders=[
            Contender("palyno", call("auto"), role="ours"),
            Contender("palyno channels_last", call("auto"), last, role="ours"),
            Contender("step by step NCHW", call("reference"), role="peer"),
            Contender("step by step channels_last", call("reference"), last, role="peer"),
        ],
        exact=exact,
        part=lambda result: result[:IMAGES],
        bytes_=2 * pixels * kind.itemsize,
        operations=pixels * (2 * KERNEL**2 + (8 if transform else 4) * channels),
    )


def _double(part: Any) -> Any:
    """A tensor, a pair of them or None, in float64."""
    if part is None or isinstance(part, torch.Tensor):
        return None if part is None else part.double()
    return tuple(_double(tensor) for tensor in part)
