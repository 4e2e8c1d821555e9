"""Times every CPU back end against PyTorch's convolution over a grid of shapes; `table.json` rests on it.

All candidates of a shape take turns, so that whatever else the machine does hits them alike; the least time of each is
what the code takes when it is left alone, the median what it took on this day.
"""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Callable, Iterable
from itertools import product
from typing import Any

import torch
import torch.nn.functional as F

from . import choose, depthwise_conv2d, native

__all__ = ["shapes", "sweep"]

Shape = tuple[int, int, int, int, int, int]

# Largest convolution for which PyTorch's planar layout, up to forty times slower, is timed too; multiply-adds.
PLANAR = 4e8

# Squares, strips and bands.
KERNELS = (
    *((side, side) for side in (3, 5, 7, 9, 11, 13, 15, 21, 31, 45, 61)),
    *((1, 31), (31, 1), (5, 31), (31, 5)),
)


def shapes(
    sides: Iterable[int] = (10, 14, 20, 28, 40, 56, 80, 113, 160, 224, 320),
    channels: Iterable[int] = (16, 24, 64, 128),
    kernels: Iterable[tuple[int, int]] = KERNELS,
    batches: Iterable[int] = (1, 4),
    most: float = 8e9,
) -> list[Shape]:
    """(batch, channels, height, width, kh, kw) of a grid, those of at most so many multiply-adds."""
    grid = [(b, c, s, s, *k) for b, c, s, k in product(batches, channels, sides, kernels)]
    return [shape for shape in grid if _work(shape) <= most]


def sweep(
    over: Iterable[Shape] | None = None,
    *,
    training: bool = False,
    seconds: float = 0.1,
    say: Callable[[dict[str, Any]], None] | None = None,
) -> list[dict[str, Any]]:
    """Times of every candidate for each shape.

    Args:
        over: Shapes; None for all of `shapes()`.
        training: Forward and backward, to maps and kernels; else forward with kernels that are not trained.
        seconds: To spend on each shape; every candidate runs at least three times.
        say: Called with each row as it is measured.

    Returns:
        Rows: `shape`, `training`, `choice` (what `auto` takes), and `times`: candidate to [median, least] in
        milliseconds. `planar` and `last` are PyTorch's convolution of maps that are in that layout already;
        `auto`, `native`, `fft` and `reference` are ours for planar maps, `auto_last` for channels last.
    """
    rows = []
    for shape in shapes() if over is None else over:
        rows.append(_row(shape, training, seconds))
        if say:
            say(rows[-1])
    return rows


def _row(shape: Shape, training: bool, seconds: float) -> dict[str, Any]:
    batch, channels, height, width, kh, kw = shape
    generator = torch.Generator().manual_seed(0)
    x = torch.randn((batch, channels, height, width), generator=generator)
    weight = torch.randn((channels, 1, kh, kw), generator=generator) / (kh * kw) ** 0.5
    grad = torch.randn_like(x)
    last, grad_last = (t.contiguous(memory_format=torch.channels_last) for t in (x, grad))
    for t in (x, last, weight):
        t.requires_grad_(training)

    def torch_convolution(maps: torch.Tensor) -> torch.Tensor:
        return F.conv2d(maps, weight, None, 1, (kh // 2, kw // 2), groups=channels)

    def ours(backend: str, maps: torch.Tensor) -> Callable[[], Any]:
        return _step(lambda m: depthwise_conv2d(m, weight, backend=backend), maps, weight, grad, training)

    candidates = {"last": _step(torch_convolution, last, weight, grad_last, training), "auto": ours("auto", x)}
    candidates["auto_last"] = ours("auto", last)
    if _work(shape) <= PLANAR / (3 if training else 1):
        candidates["planar"] = _step(torch_convolution, x, weight, grad, training)
    if not training or _work(shape) <= PLANAR:
        candidates["reference"] = ours("reference", x)
    candidates["fft"] = ours("fft", x)
    if native.lanes():
        candidates["native"] = ours("native", x)
    times = _take_turns(candidates, seconds)
    told = {
        name: [float(f"{statistics.median(t) * 1e3:.4g}"), float(f"{min(t) * 1e3:.4g}")] for name, t in times.items()
    }
    return {"shape": list(shape), "training": training, "choice": choose(x, weight), "times": told}


def _step(
    call: Callable[[torch.Tensor], torch.Tensor],
    maps: torch.Tensor,
    weight: torch.Tensor,
    grad: torch.Tensor,
    training: bool,
) -> Callable[[], Any]:
    if training:
        return lambda: torch.autograd.grad(call(maps), (maps, weight), grad)
    return lambda: call(maps)


def _take_turns(candidates: dict[str, Callable[[], Any]], seconds: float) -> dict[str, list[float]]:
    times: dict[str, list[float]] = {name: [] for name in candidates}
    for run in candidates.values():
        run()
    # In turns that change: what ran before leaves the caches in its own state.
    order, turns = list(candidates.items()), random.Random(0)
    begin = time.perf_counter()
    while time.perf_counter() - begin < seconds or len(times["last"]) < 3:
        turns.shuffle(order)
        for name, run in order:
            start = time.perf_counter()
            run()
            times[name].append(time.perf_counter() - start)
    return times


def _work(shape: Shape) -> float:
    batch, channels, height, width, kh, kw = shape
    return float(batch) * channels * height * width * kh * kw
