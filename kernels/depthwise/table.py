"""The measured rule by which `auto` takes a back end on a CPU, as data: `table.json`.

A convolution by transforms costs its points, whatever the kernel; a direct one its multiply-adds. The table says, for
each width of vectors, from how many multiply-adds a point on the transform is faster, with and without gradients.
`palyno.kernels.depthwise.sweep` measures what it rests on; `override` replaces it at run time.
"""

from __future__ import annotations

import json
from copy import deepcopy
from functools import lru_cache
from math import ceil
from pathlib import Path
from typing import Any

import torch

from . import native
from .fft import period

__all__ = ["RULES", "choose", "override"]


def _read() -> dict[str, Any]:
    rules: dict[str, Any] = json.loads((Path(__file__).parent / "table.json").read_text(encoding="utf-8"))["cpu"]
    return rules


RULES: dict[str, Any] = _read()
INSTRUCTIONS = torch.backends.cpu.get_cpu_capability()


def override(rules: dict[str, Any] | None = None) -> None:
    """Puts other rules, in the form of `RULES`, in place of the measured ones; None brings those back."""
    fresh = _read() if rules is None else deepcopy(rules)
    # In place: other modules hold the same dictionary.
    RULES.clear()
    RULES.update(fresh)
    _choose.cache_clear()


def choose(x: torch.Tensor, weight: torch.Tensor) -> str:
    """`reference`, `fft` or `native` for tensors on a CPU."""
    training = torch.is_grad_enabled() and (x.requires_grad or weight.requires_grad)
    backend = "fft" if native.supports(x, weight) else "native"
    kernel = (weight.shape[-2], weight.shape[-1])
    if torch.compiler.is_compiling():
        # Sizes may be left open in a graph, and points would fix them: as for maps far larger than the kernel.
        rule = _rule(backend, training)
        return backend if kernel[0] * kernel[1] >= max(rule["taps"], rule["per_point"]) else "reference"
    return _choose(backend, training, tuple(x.shape), kernel)


@lru_cache(maxsize=4096)
def _choose(backend: str, training: bool, shape: tuple[int, ...], kernel: tuple[int, int]) -> str:
    rule = _rule(backend, training)
    batch, channels, height, width = shape
    taps = kernel[0] * kernel[1]
    work = batch * channels * height * width * taps
    points = _points(backend, batch * channels, (height, width), kernel)
    faster = taps >= rule["taps"] and work >= rule["multiply_adds"] and work >= rule["per_point"] * points
    return backend if faster else "reference"


def _rule(backend: str, training: bool) -> dict[str, float]:
    rules = RULES[backend]
    rule: dict[str, float] = rules.get(INSTRUCTIONS, rules["default"])["training" if training else "inference"]
    return rule


def _points(backend: str, planes: int, size: tuple[int, int], kernel: tuple[int, int]) -> int:
    """Points that are transformed, lanes without a channel included."""
    if backend == "fft":
        rows, columns = period(size, kernel)
        return planes * rows * columns
    y, x = native.plan(size, kernel)
    lanes = native.lanes()
    return ceil(planes / lanes) * lanes * y.tiles * y.n * x.tiles * x.n
