"""Edges of a map at several scales: `sobel_magnitude`.

Three back ends give the same numbers: `reference` (slices), `convolution` (for CPUs and exported graphs) and `triton`
(one pass, NVIDIA GPUs). `auto` takes the faster one, see `choose`; the argument `backend` or the environment variable
`PALYNO_SOBEL` decide otherwise.
"""

from __future__ import annotations

import math

import torch

from ...errors import UsageError
from ..backends import asked_backend, exporting, triton_runs
from . import convolution, reference

__all__ = ["BACKENDS", "choose", "sobel_magnitude"]

BACKENDS = ("reference", "convolution", "triton")
TRITON_DTYPES = (torch.float16, torch.bfloat16, torch.float32)
TRITON_LEVELS = 3


def sobel_magnitude(
    x: torch.Tensor, *, levels: int = 3, eps: float = 1e-6, backend: str = "auto"
) -> tuple[torch.Tensor, ...]:
    """Maxima of the gradient magnitude over 2 x 2, 4 x 4 and 8 x 8 pixels.

    E = sqrt(gx^2 + gy^2 + eps) of every channel, with the Sobel pair / 8 and replicated borders; E1 = maxpool(E),
    E2 = maxpool(E1), E3 = maxpool(E2). E itself, four times as large as E1, is not returned.

    Args:
        x: Maps, (B, C, H, W), floating point, in any order of memory.
        levels: How many maps, at least one.
        eps: Keeps the slope finite where the map is flat, above zero.
        backend: `auto`, `reference`, `convolution` or `triton`.

    Returns:
        Level i of (B, C, ceil(H / 2^i), ceil(W / 2^i)), dtype of `x`. Of equal pixels the first of a cell, row by
        row, gets the gradient.

    Raises:
        UsageError: Not a map, an unknown option, or a back end that cannot take the map.
    """
    if not torch.jit.is_tracing():
        _check(x, levels, eps)
    backend = asked_backend("sobel", backend, BACKENDS)
    if backend == "auto":
        backend = choose(x, levels)
    elif backend == "triton" and not _triton_takes(x, levels):
        raise UsageError(
            f"backend: triton takes float16, bfloat16 and float32 maps on an NVIDIA GPU from Ampere on, and up to "
            f"{TRITON_LEVELS} levels; got {x.dtype} on {x.device}, {levels} levels. Let `auto` choose"
        )
    with torch.autocast(x.device.type, enabled=False):
        if backend == "triton":
            from . import operator

            return operator.sobel_magnitude(x, levels, eps)
        plain = convolution if backend == "convolution" else reference
        return plain.sobel_magnitude(x, levels, eps)


def choose(x: torch.Tensor, levels: int) -> str:
    """The back end that `auto` takes for this map."""
    if exporting():
        return "convolution"
    if x.device.type == "cuda" and _triton_takes(x, levels):
        return "triton"
    # Half precision on a CPU is as fast in float32, and exact.
    return "convolution" if x.device.type == "cpu" and x.element_size() > 2 else "reference"


def _triton_takes(x: torch.Tensor, levels: int) -> bool:
    return triton_runs(x) and x.dtype in TRITON_DTYPES and levels <= TRITON_LEVELS and x.numel() < 2**31


def _check(x: torch.Tensor, levels: int, eps: float) -> None:
    if x.ndim != 4 or min(x.shape) < 1:
        raise UsageError(f"x: expected a non-empty (B, C, H, W), got {tuple(x.shape)}")
    if not x.is_floating_point():
        raise UsageError(f"x: expected floating point, got {x.dtype}; convert it with x.float()")
    if not isinstance(levels, int) or levels < 1:
        raise UsageError(f"levels: expected a whole number of at least 1, got {levels!r}")
    if not 0 < eps < math.inf:
        raise UsageError(f"eps: expected a positive number, got {eps!r}")
