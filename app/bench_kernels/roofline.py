"""What the machine can do at most, measured: bytes copied and multiply-adds of a large matrix product a second.

A call that moves `bytes` at least and does `operations` at least cannot be faster than the larger of both over these
rates: its floor. Half of the memory traffic of a copy is reading, half writing. The products are PyTorch's, on random
data (zeros are faster).
"""

from __future__ import annotations

import contextlib
import statistics
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch

__all__ = ["arithmetic", "ceilings", "floor_ms"]


def ceilings(device: str, *, quick: bool = False) -> dict[str, Any]:
    """Rates of a device.

    Args:
        device: `cpu` or `cuda`.
        quick: Small arrays, for tests; the rates mean nothing.

    Returns:
        `copy_gb_s`, and `tflop_s` by arithmetic: float16, bfloat16, tf32 and float32 on a GPU, float32 on a CPU.
    """
    bytes_, side = (2**31, 8192) if device == "cuda" else (2**28, 2048)
    if quick:
        bytes_, side = 2**20, 128
    source = torch.empty(bytes_ // 4, device=device).normal_()
    target = torch.empty_like(source)
    copy = 2 * bytes_ / _seconds(partial(target.copy_, source), device)
    del source, target
    rates = {}
    for name in ("float16", "bfloat16", "tf32", "float32") if device == "cuda" else ("float32",):
        dtype = getattr(torch, name, torch.float32)
        a, b = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
        c = torch.empty_like(a)
        with arithmetic("tf32" if name == "tf32" else "float32"):
            rates[name] = 2 * side**3 / _seconds(partial(torch.mm, a, b, out=c), device) / 1e12
        del a, b, c
    return {"copy_gb_s": copy / 1e9, "tflop_s": rates}


def floor_ms(bytes_: float, operations: float, rate: str, rates: dict[str, Any]) -> float:
    """The least time that so many bytes and so many operations can take, milliseconds."""
    return 1e3 * max(bytes_ / (rates["copy_gb_s"] * 1e9), operations / (rates["tflop_s"][rate] * 1e12))


@contextlib.contextmanager
def arithmetic(name: str) -> Iterator[None]:
    """Lets float32 products and convolutions of a GPU run as `tf32`, or, under any other name, not."""
    # By the older switches: PyTorch refuses to answer those who read them after the newer ones were set.
    switches: tuple[Any, ...] = (torch.backends.cuda.matmul, torch.backends.cudnn)
    before = [switch.allow_tf32 for switch in switches]
    for switch in switches:
        switch.allow_tf32 = name == "tf32"
    try:
        yield
    finally:
        for switch, value in zip(switches, before, strict=True):
            switch.allow_tf32 = value


def _seconds(call: Callable[[], Any], device: str) -> float:
    samples = []
    for _ in range(3):
        call()
    for _ in range(10):
        if device == "cuda":
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            start.record()
            call()
            end.record()
            end.synchronize()
            samples.append(start.elapsed_time(end) / 1e3)
        else:
            begin = time.perf_counter()
            call()
            samples.append(time.perf_counter() - begin)
    return statistics.median(samples)
