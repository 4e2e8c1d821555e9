"""Cases of the whole network hieraedge-n: our operators against the same weights with PyTorch's plain ones."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from functools import cache
from typing import Any

import torch

from .case import Case, Contender, Unsupported

__all__ = ["MODEL", "cases", "shipped_network"]

MODEL = "hieraedge-n"
TARGET = 1.5
# What the environment says where a network is to run on PyTorch's own operators.
PLAIN = {"PALYNO_DEPTHWISE": "reference", "PALYNO_OMNI": "reference", "PALYNO_SOBEL": "convolution"}


def cases(device: str, *, quick: bool = False) -> Iterator[Case]:
    """Inference on images of 640 px: 16 in float16 on a GPU, replayed from a CUDA graph; one in float32 on a CPU."""
    shape = (16, 3, 640, 640) if device == "cuda" else (1, 3, 640, 640)
    if quick:
        shape = (1, 3, 64, 96)
    dtype = "float16" if device == "cuda" else "float32"
    kind = getattr(torch, dtype)

    def contender(name: str, role: str, order: Any, plain: bool, replayed: bool) -> Contender:
        def prepare(images: torch.Tensor) -> Any:
            network, images = shipped_network(device, kind, order), images.contiguous(memory_format=order)
            with _operators(plain):
                return _captured(network, images) if replayed else (network, images)

        def run(state: Any) -> torch.Tensor:
            network, images = state
            with _operators(plain):
                return network(images)[0]

        def replay(state: Any) -> torch.Tensor:
            graph, _, result = state
            graph.replay()
            return result

        note = (lambda state: "replayed from a CUDA graph") if replayed else None
        return Contender(name, replay if replayed else run, prepare, role, note=note, eager=True)

    def exact(images: torch.Tensor) -> torch.Tensor:
        with _operators(True):
            return shipped_network(device, torch.float64, torch.contiguous_format)(images[:1].double())[0]

    orders = (("NCHW", torch.contiguous_format), ("channels_last", torch.channels_last))
    # On a GPU launching the network's hundreds of kernels one by one takes the CPU longer than the GPU needs for them.
    ways = [("", True), (", eager", False)] if device == "cuda" else [("", False)]
    contenders = [
        contender(f"{who} {name}{way}", role if way == "" else "other", order, role == "peer", replayed)
        for who, role in (("palyno", "ours"), ("plain", "peer"))
        for name, order in orders
        for way, replayed in ways
    ]
    yield Case(
        operator="network",
        name=f"{MODEL}, inference",
        shape=shape,
        dtype=dtype,
        make=lambda: torch.rand(shape, device=device, dtype=kind),
        contenders=contenders,
        exact=exact,
        part=lambda result: result[:1],
        bytes_=shape[0] * shape[1] * shape[2] * shape[3] * kind.itemsize,
        operations=0,
        limited=False,
        target=TARGET if device == "cuda" and not quick else None,
    )


@cache
def shipped_network(device: str, dtype: torch.dtype, order: Any = torch.contiguous_format) -> Any:
    """The network of `MODEL`, for inference, kept for all cases that ask for the same.

    Raises:
        Unsupported: ultralytics is not installed.
    """
    try:
        import ultralytics  # noqa: F401
    except ImportError as error:
        raise Unsupported(f"the network needs ultralytics: {error}") from error
    from ...vision.weights import find_model, load_weights

    with torch.inference_mode(False):
        path, shipped = find_model(MODEL)
        model, _ = load_weights(path, shipped=shipped)
        return model.fuse().eval().requires_grad_(False).to(device, dtype).to(memory_format=order)


def _captured(network: Any, images: torch.Tensor) -> Any:
    """A graph of the network, the images that it reads and its result: launches, which depend on the CPU, stay out."""
    for _ in range(3):
        network(images)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=torch.cuda.current_stream()):
        result = network(images)[0]
    return graph, images, result


@contextlib.contextmanager
def _operators(plain: bool) -> Iterator[None]:
    """Lets our operators choose, or run plainly."""
    before = {name: os.environ.pop(name, None) for name in PLAIN}
    os.environ.update(PLAIN if plain else {})
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value
