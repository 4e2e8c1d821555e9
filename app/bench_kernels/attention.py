"""Cases of both attentions: routed regions against published gathering, sigmoid against softmax of the same size."""

from __future__ import annotations

from collections.abc import Callable, Iterator
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
    """`bilevel_routing_attention`, forward, and forward and backward; the first case has the targets."""
    if quick:
        dtype = "float16" if device == "cuda" else "float32"
        for trained in (False, True):
            yield _routed(device, (2, 16, 16, 16), 2, 4, 3, dtype, False, trained)
    elif device == "cuda":
        for number, case in enumerate(ROUTED):
            yield _routed(device, *case, "float16", number == 0, False)
        for case in ROUTED[1:]:
            yield _routed(device, *case, "float16", False, True)


def sigmoid_cases(device: str, *, quick: bool = False) -> Iterator[Case]:
    """`sigmoid_attention`: forward, causal, and forward and backward."""
    if quick:
        shapes, dtype, target = [(1, 2, 64, 32)], "bfloat16" if device == "cuda" else "float32", None
    elif device == "cuda":
        shapes, dtype, target = SIGMOID, "bfloat16", SIGMOID_TARGET
    else:
        return
    for shape in shapes:
        yield _sigmoid(device, shape, dtype, target)
    for shape in shapes:
        yield _sigmoid(device, shape, dtype, None, causal=True)
    for shape in shapes:
        yield _sigmoid(device, shape, dtype, None, trained=True)


def _routed(
    device: str, shape: tuple[int, ...], heads: int, regions: int, topk: int, dtype: str, asked: bool, trained: bool
) -> Case:
    from ...kernels.attention.routing import Regions, bilevel_routing_attention, reference

    kind = getattr(torch, dtype)
    batch, channels, height, width = shape
    grid = Regions.of(height, width, regions)
    scale = (channels // heads) ** -0.5

    def make() -> Inputs:
        # As a network has them: parts of one projection, channels last.
        qkv = torch.randn(batch, 3 * channels, height, width, device=device, dtype=kind)
        maps = qkv.contiguous(memory_format=torch.channels_last).chunk(3, 1)
        return (*maps, torch.randn_like(maps[0])) if trained else maps

    def routes(q: torch.Tensor, k: torch.Tensor) -> torch.Tensor:
        q, k = (grid.cut(x).mean(2) for x in (q, k))
        return (q @ k.transpose(1, 2)).topk(topk).indices

    def gathered(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            read = routes(q, k)
        return reference.gathered(q, k, v, read, grid, heads, scale)

    published = _timed(gathered, trained)

    def call(backend: str) -> Callable[[Inputs], Any]:
        def run(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> Any:
            return bilevel_routing_attention(q, k, v, regions, topk, heads=heads, backend=backend)

        return _timed(run, trained)

    def exact(inputs: Inputs) -> Any:
        with torch.inference_mode(False):
            return published(tuple(x[:1].double().clone() for x in inputs))

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
        name=f"{heads} heads, {regions} x {regions} regions, {topk} read, {_what(trained)}",
        shape=shape,
        dtype=dtype,
        make=make,
        contenders=contenders,
        exact=exact,
        part=lambda result: _part(result, lambda x: x[:1]),
        bytes_=(12 if trained else 4) * tokens * channels * kind.itemsize,
        operations=(14 if trained else 4) * tokens * topk * grid.tokens * channels,
        target=ROUTED_TARGET if asked else None,
        memory_target=ROUTED_MEMORY if asked else None,
        grad=trained,
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


def _sigmoid(
    device: str,
    shape: tuple[int, ...],
    dtype: str,
    target: float | None,
    *,
    causal: bool = False,
    trained: bool = False,
) -> Case:
    from ...kernels import sigmoid_attention

    kind = getattr(torch, dtype)
    batch, heads, tokens, width = shape

    def make() -> Inputs:
        return tuple(torch.randn(shape, device=device, dtype=kind) for _ in range(4 if trained else 3))

    def call(backend: str) -> Callable[[Inputs], Any]:
        def run(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
            return sigmoid_attention(q, k, v, causal=causal, backend=backend)

        return _timed(run, trained)

    def exact(inputs: Inputs) -> Any:
        with torch.inference_mode(False):
            return call("reference")(tuple(x[:1, :1].double().clone() for x in inputs))

    contenders = [Contender("palyno", call("auto"), role="ours")]
    # With gradients the reference's matrices of weights do not fit.
    if not trained:
        contenders.append(Contender("sigmoid reference", call("reference")))
    for name, role in (("flash", "peer"), ("cuDNN", "other"), ("efficient", "other"), ("math", "other")):
        if not (trained and name == "math"):
            contenders.append(Contender(f"softmax, {name}", _softmax(name, causal, trained), role=role, same=False))
    # Half of the weights where queries see no later key; two products forward and five backward.
    products = (7 if trained else 2) * (0.5 if causal else 1.0)
    return Case(
        operator="sigmoid",
        name="causal, forward" if causal else _what(trained),
        shape=shape,
        dtype=dtype,
        make=make,
        contenders=contenders,
        exact=exact,
        part=lambda result: _part(result, lambda x: x[:1, :1]),
        # Backward: all inputs and the output's gradient are read, three gradients written.
        bytes_=(11 if trained else 4) * batch * heads * tokens * width * kind.itemsize,
        operations=products * 2 * batch * heads * tokens * tokens * width,
        target=target,
        grad=trained,
    )


def _softmax(name: str, causal: bool, trained: bool) -> Callable[[Inputs], Any]:
    """A back end of PyTorch's own attention."""

    def attend(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        from torch.nn.attention import SDPBackend, sdpa_kernel

        kinds = {
            "flash": SDPBackend.FLASH_ATTENTION,
            "cuDNN": SDPBackend.CUDNN_ATTENTION,
            "efficient": SDPBackend.EFFICIENT_ATTENTION,
            "math": SDPBackend.MATH,
        }
        with sdpa_kernel(kinds[name]):
            return F.scaled_dot_product_attention(q, k, v, is_causal=causal)

    return _timed(attend, trained)


def _what(trained: bool) -> str:
    return "forward and backward" if trained else "forward"


def _timed(attend: Callable[..., torch.Tensor], trained: bool) -> Callable[[Inputs], Any]:
    """The call that is timed: the output, or the gradients of q, k and v for that of the output."""

    def run(inputs: Inputs) -> Any:
        if not trained:
            return attend(*inputs)
        *leaves, gradient = inputs
        leaves = [x.detach().requires_grad_() for x in leaves]
        return torch.autograd.grad(attend(*leaves), leaves, gradient)

    return run


def _part(result: Any, cut: Callable[[torch.Tensor], torch.Tensor]) -> Any:
    return cut(result) if isinstance(result, torch.Tensor) else [cut(x) for x in result]
