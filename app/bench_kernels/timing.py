"""How long a call takes: medians with their spread, on inputs in turn, by device events or the wall clock.

On a GPU everything runs on one side stream. Calls of a few milliseconds are captured in a CUDA graph and replayed, so
that the gaps between launches, which depend on the CPU, stay out; longer ones are timed one by one. On a CPU the
contenders of a case take turns, so that whatever else the machine does falls on all of them.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

__all__ = ["Budget", "Spread", "peak_mib", "time_on_gpu", "time_turns"]

Call = Callable[[Any], Any]

# Shorter calls are replayed from a graph, as many as make about so many milliseconds.
SHORT_MS, GRAPH_MS = 5.0, 3.0


@dataclass(frozen=True)
class Budget:
    """How much is measured of a contender.

    Args:
        seconds: Time from which on `least` samples are enough.
        least: Fewest samples, unless they take longer than `patience`.
        most: Most samples.
        patience: Seconds after which there are no more samples, however few there are.
    """

    seconds: float = 0.25
    least: int = 9
    most: int = 60
    patience: float = 2.0

    def enough(self, samples: Sequence[float]) -> bool:
        """Whether these milliseconds are enough."""
        spent = sum(samples) / 1e3
        return (
            len(samples) >= self.most
            or (len(samples) >= self.least and spent >= self.seconds)
            or (len(samples) > 0 and spent >= self.patience)
        )


@dataclass(frozen=True)
class Spread:
    """Milliseconds a call in each sample.

    Args:
        samples: One number a sample.
        calls: How many calls a sample is the mean of.
        clock: `graph` (device events around the replay of a graph), `events` or `wall`.
    """

    samples: tuple[float, ...]
    calls: int
    clock: str

    def document(self) -> dict[str, Any]:
        """Median, least and quartiles."""
        low = high = self.samples[0]
        if len(self.samples) > 1:
            low, _, high = statistics.quantiles(self.samples, n=4, method="inclusive")
        return {
            "median_ms": statistics.median(self.samples),
            "min_ms": min(self.samples),
            "q1_ms": low,
            "q3_ms": high,
            "samples": len(self.samples),
            "calls_a_sample": self.calls,
            "clock": self.clock,
        }


def time_on_gpu(call: Call, sets: Sequence[Any], budget: Budget, *, eager: bool = False) -> Spread:
    """Times a call over sets of inputs in turn, on the current stream, which must not be the default one.

    Args:
        call: The call.
        sets: Its inputs.
        budget: How much is measured.
        eager: Launch by launch, however short.
    """
    for _ in range(2):
        for inputs in sets:
            call(inputs)
    once = min(_elapsed(lambda: call(sets[0])) for _ in range(3))
    if eager or once >= SHORT_MS:
        return Spread(tuple(_samples([partial(call, inputs) for inputs in sets], budget)), 1, "events")
    rounds = max(1, round(GRAPH_MS / (max(once, 2e-3) * len(sets))))

    def every() -> None:
        for _ in range(rounds):
            for inputs in sets:
                call(inputs)

    graph = _captured(every)
    calls = rounds * len(sets)
    # Without a graph still in one go: the GPU works on one call while the CPU prepares the next.
    samples = _samples([graph.replay if graph else every], budget)
    return Spread(tuple(ms / calls for ms in samples), calls, "graph" if graph else "events")


def time_turns(calls: Sequence[Call], sets: Sequence[Sequence[Any]], budget: Budget) -> list[Spread]:
    """Times calls by the wall clock, one after the other and again, each on its own sets of inputs in turn."""
    samples: list[list[float]] = [[] for _ in calls]
    for call, own in zip(calls, sets, strict=True):
        call(own[0])
    while not all(budget.enough(own) for own in samples):
        for call, inputs, own in zip(calls, sets, samples, strict=True):
            if not budget.enough(own):
                start = time.perf_counter()
                call(inputs[len(own) % len(inputs)])
                own.append((time.perf_counter() - start) * 1e3)
    return [Spread(tuple(own), 1, "wall") for own in samples]


def peak_mib(call: Call, inputs: Any) -> float:
    """Most GPU memory that PyTorch held during a call, beyond what it held before; MiB."""
    call(inputs)
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    result = call(inputs)
    torch.cuda.synchronize()
    del result
    return (torch.cuda.max_memory_allocated() - before) / 2**20


def _samples(calls: Sequence[Callable[[], Any]], budget: Budget) -> list[float]:
    samples: list[float] = []
    while not budget.enough(samples):
        samples.append(_elapsed(calls[len(samples) % len(calls)]))
    return samples


def _elapsed(call: Callable[[], Any]) -> float:
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    call()
    end.record()
    end.synchronize()
    return start.elapsed_time(end)


def _captured(call: Callable[[], None]) -> torch.cuda.CUDAGraph | None:
    """The graph of a call, or None where something in it cannot be captured."""
    graph = torch.cuda.CUDAGraph()
    try:
        with torch.cuda.graph(graph, stream=torch.cuda.current_stream()):
            call()
    except RuntimeError:
        torch.cuda.synchronize()
        return None
    graph.replay()
    return graph
