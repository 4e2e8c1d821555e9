"""How long a network takes for an image of 640 px, peers in the same run."""

from __future__ import annotations

import datetime
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from ... import __version__
from . import SCHEMA

__all__ = ["MODELS", "measure_latency"]

MODELS = (
    "hieraedge-n",
    "hieraedge-s",
    "hieraedge-published-n",
    "published-without-gate",
    "hieraedge-n-reference",
    "biformer-nano-yolo",
    "yolo11n",
    "yolo12n",
    "yolo26n",
    "yolov8n",
    "rtdetr-l",
)
SIDE = 640
# Batches: one image as it comes, and what keeps a GPU busy.
BATCHES = {"cpu": (1,), "cuda": (1, 16)}
# Orders of memory; each network is given the better one.
ORDERS = ("contiguous_format", "channels_last")


def measure_latency(
    models: Sequence[str] = MODELS, *, device: str = "cpu", classes: int = 66, threads: int = 2, seconds: float = 4.0
) -> dict[str, Any]:
    """Times the networks, fused as for inference, without what comes before and after.

    On a CPU in float32, on a GPU in float16 and replayed from a CUDA graph, as launching small kernels one by one
    depends on the processor; RT-DETR, which copies from main memory at every call, cannot be and is launched. All take
    turns, each in its faster order of memory. Weights are fresh: they do not change the time, but that frequency gates,
    which begin shut and make no transform then, are opened.

    Args:
        models: Names of `VARIANTS` or of `palyno models list`.
        device: `cpu` or `cuda`.
        classes: Of the networks.
        threads: Of PyTorch, on a CPU.
        seconds: Measured for each network and batch.

    Returns:
        A document with `models`, by name the median and quartiles in milliseconds of each batch.
    """
    import torch

    from ..bench_kernels import device_facts, thread_count
    from ..bench_kernels.timing import Budget, time_turns

    budget = Budget(seconds=seconds, least=9, most=400, patience=3 * seconds)
    ways = [(name, order) for name in models for order in ORDERS]
    with torch.inference_mode(), thread_count(threads if device == "cpu" else None):
        document: dict[str, Any] = {
            "schema": SCHEMA,
            "palyno": __version__,
            "when": datetime.datetime.now(datetime.UTC).date().isoformat(),
            # Told from within: of the threads that the networks run on.
            "device": device_facts(device),
            "side": SIDE,
            "torch": torch.__version__,
            "models": {name: {} for name in models},
        }
        for batch in BATCHES[device]:
            calls = [_call(name, classes, device, batch, getattr(torch, order)) for name, order in ways]
            spreads = time_turns(calls, [[None]] * len(calls), budget)
            for (name, order), spread in zip(ways, spreads, strict=True):
                told, best = spread.document(), document["models"][name].get(str(batch))
                if best is None or told["median_ms"] < best["median_ms"]:
                    document["models"][name][str(batch)] = {"order": order, **told}
    return document


def _call(name: str, classes: int, device: str, batch: int, order: Any) -> Any:
    import torch

    from ...vision.blocks.omni import GlobalGate
    from ...vision.models.detection import build
    from .variants import network_of

    model, options = network_of(name)
    network = build(model, classes=classes, **options)
    for part in network.modules():
        if isinstance(part, GlobalGate):
            torch.nn.init.ones_(part.alpha)
    network = network.fuse(verbose=False).eval().requires_grad_(False)
    images = torch.rand(batch, 3, SIDE, SIDE)
    if device == "cpu":
        return partial(_plain, network.to(memory_format=order), images.to(memory_format=order))
    network = network.half().to(device).to(memory_format=order)
    images = images.half().to(device).to(memory_format=order)
    if not _can_be_captured(network):
        return partial(_synchronized, partial(network, images), None)
    stream, graph = torch.cuda.Stream(), torch.cuda.CUDAGraph()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            network(images)
        with torch.cuda.graph(graph, stream=stream):
            kept = network(images)
    # The graph holds addresses alone: of the weights, the images and what comes out.
    return partial(_synchronized, graph.replay, (network, images, kept))


def _can_be_captured(network: Any) -> bool:
    from ultralytics.nn.modules import RTDETRDecoder

    return not isinstance(network.model[-1], RTDETRDecoder)


def _plain(network: Any, images: Any, _: Any) -> None:
    network(images)


def _synchronized(call: Callable[[], Any], kept: Any, _: Any) -> None:
    import torch

    call()
    torch.cuda.synchronize()
