"""Cases of both attentions: routed regions against published gathering, sigmoid against softmax of the same size."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from importlib import import_module
from typing import Any

import torch
import torch.nn.functional as F

from .case import Case, Contender

__all__ = ["routing_cases", "sigmoid_cases"]

Inputs = tuple[torch.Tensor, ...]

# (maps, channels, height, width), heads, regions a side, regions read: a stride-8 map of 1280 px.
ROUTED = [((4, 128, 160, 160), 4, 20, 4), ((4, 128, 160, 160), 4, 16, 4), ((4, 256, 160, 160), 8, 20, 16)]
ROUTED_TARGET, ROUTED_MEMORY = 3.0, 1 / 3
# (B, heads, tokens, d)
SIGMOID = [(8, 16, 4096, 64), (4, 16, 8192, 128)]
SIGMOID_TARGET = 1.17


def routing_cases(device: str, *, quick: bool = False) -> Iterator[Case]:
    """`bilevel_routing_attention`, forward; the first case has the targets."""
    if quick:
        yield _routed(device, (2, 16, 16, 16), 2, 4, 3, "float16" if device == "cuda" else "float32", False)
    elif device == "cuda":
        for number, (shape, heads, regions, topk) in enumerate(ROUTED):
            yield _routed(device, shape, heads, regions, topk, "float16", number == 0)


def sigmoid_cases(device: str, *, quick: bool = False) -> Iterator[Case]:
    """`sigmoid_attention`, forward."""
    if quick:
        yield _sigmoid(device, (1, 2, 64, 32), "bfloat16" if device == "cuda" else "float32", None)
    elif device == "cuda":
        for shape in SIGMOID:
            yield _sigmoid(device, shape, "bfloat16", SIGMOID_TARGET)


def _routed(device: str, shape: tuple[int, ...], heads: int, regions: int, topk: int, dtype: str, asked: bool) -> Case:
    from ...kernels.attention.routing import Regions, bilevel_routing_attention, reference

    kind = getattr(torch, dtype)
    batch, channels, height, width = shape
    grid = Regions.of(height, width, regions)
    scale = (channels // heads) ** -0.5

    def make() -> Inputs:
        # As a network has them: parts of one projection, channels last.
        qkv = torch.randn(batch, 3 * channels, height, width, device=device, dtype=kind)
        return qkv.contiguous(memory_format=torch.channels_last).chunk(3, 1)

    def routes(q: torch.Tensor, k: torch.Tensor) -> torch.Tensor:
        q, k = (grid.cut(x).mean(2) for x in (q, k))
        return (q @ k.transpose(1, 2)).topk(topk).indices

    def published(inputs: Inputs) -> torch.Tensor:
        q, k, v = inputs
        return reference.gathered(q, k, v, routes(q, k), grid, heads, scale)

    def call(backend: str) -> Callable[[Inputs], Any]:
        def run(inputs: Inputs) -> Any:
            q, k, v = inputs
            return bilevel_routing_attention(q, k, v, regions, topk, heads=heads, backend=backend)

        return run

    def exact(inputs: Inputs) -> torch.Tensor:
        return published(tuple(x[:1].double() for x in inputs))

    contenders = [
        Contender("palyno", call("auto"), role="ours"),
        Contender("gathered, as published", published, role="peer"),
        Contender("gathered, NCHW", published, lambda inputs: tuple(x.contiguous() for x in inputs), role="peer"),
        Contender("palyno gather", call("gather")),
    ]
    # It takes long to compile.
    if device == "cuda" and asked:
        contenders.append(Contender("FlexAttention", _flex(grid, heads, topk, scale, routes)))
    tokens = batch * height * width
    return Case(
        operator="routing",
        name=f"{heads} heads, {regions} x {regions} regions, {topk} read, forward",
        shape=shape,
        dtype=dtype,
        make=make,
        contenders=contenders,
        exact=exact,
        part=lambda result: result[:1],
        bytes_=4 * tokens * channels * kind.itemsize,
        operations=4 * tokens * topk * grid.tokens * channels,
        target=ROUTED_TARGET if asked else None,
        memory_target=ROUTED_MEMORY if asked else None,
    )


def _flex(
    grid: Any, heads: int, topk: int, scale: float, routes: Callable[..., torch.Tensor]
) -> Callable[[Inputs], torch.Tensor]:
    """FlexAttention, compiled, with the chosen regions as blocks of its mask; tokens are put in order of regions."""
    compiled: list[Any] = []

    def run(inputs: Inputs) -> torch.Tensor:
        from torch.nn.attention.flex_attention import BlockMask, flex_attention

        if not compiled:
            compiled.append(torch.compile(flex_attention, dynamic=False))
        q, k, v = inputs
        batch, channels, height, width = q.shape
        read = torch.zeros(batch, 1, grid.count, grid.count, dtype=torch.int32, device=q.device)
        read[..., :topk] = routes(q, k)[:, None]
        many = torch.full((batch, 1, grid.count), topk, dtype=torch.int32, device=q.device)
        mask = BlockMask.from_kv_blocks(torch.zeros_like(many), read, many, read, BLOCK_SIZE=(grid.tokens, grid.tokens))
        q, k, v = (
            grid.cut(x).reshape(batch, grid.count * grid.tokens, heads, channels // heads).transpose(1, 2)
            for x in (q, k, v)
        )
        out = compiled[0](q, k, v, block_mask=mask, scale=scale)
        return grid.joined(out.transpose(1, 2).reshape(batch, grid.count, grid.tokens, channels), height, width)

    return run


def _sigmoid(device: str, shape: tuple[int, ...], dtype: str, target: float | None) -> Case:
    kind = getattr(torch, dtype)
    batch, heads, tokens, width = shape

    def make() -> Inputs:
        return tuple(torch.randn(shape, device=device, dtype=kind) for _ in range(3))

    def call(backend: str) -> Callable[[Inputs], Any]:
        def run(inputs: Inputs) -> Any:
            attention = import_module("palyno.kernels.attention.sigmoid").sigmoid_attention
            return attention(*inputs, backend=backend)

        return run

    def exact(inputs: Inputs) -> Any:
        return call("reference")(tuple(x[:1, :1].double() for x in inputs))

    contenders = [Contender("palyno", call("auto"), role="ours"), Contender("sigmoid reference", call("reference"))]
    for name, role in (("flash", "peer"), ("cuDNN", "other"), ("efficient", "other"), ("math", "other")):
        contenders.append(Contender(f"softmax, {name}", _softmax(name), role=role, same=False))
    return Case(
        operator="sigmoid",
        name="forward",
        shape=shape,
        dtype=dtype,
        make=make,
        contenders=contenders,
        exact=exact,
        part=lambda result: result[:1, :1],
        bytes_=4 * batch * heads * tokens * width * kind.itemsize,
        operations=4 * batch * heads * tokens * tokens * width,
        target=target,
    )


def _softmax(name: str) -> Callable[[Inputs], torch.Tensor]:
    """A back end of PyTorch's own attention."""

    def run(inputs: Inputs) -> torch.Tensor:
        from torch.nn.attention import SDPBackend, sdpa_kernel

        kinds = {
            "flash": SDPBackend.FLASH_ATTENTION,
            "cuDNN": SDPBackend.CUDNN_ATTENTION,
            "efficient": SDPBackend.EFFICIENT_ATTENTION,
            "math": SDPBackend.MATH,
        }
        with sdpa_kernel(kinds[name]):
            q, k, v = inputs
            return F.scaled_dot_product_attention(q, k, v)

    return run
