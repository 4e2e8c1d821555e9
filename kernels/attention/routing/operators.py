"""The Triton kernels as PyTorch operators: torch.compile and torch.export keep them whole, autograd knows them.

    palyno::region_routes(q, k, ...) -> routes
    palyno::routed_attention(q, k, v, routes, ...) -> out, lse
    palyno::routed_attention_backward(d_out, q, k, v, routes, out, lse, ...) -> d_q, d_k, d_v

`region` is (rows, columns, height, width) of `Regions`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from ...registration import operator
from .regions import Regions
from .tiles import backward_tiles, forward_tiles, like

__all__ = ["region_routes", "routed_attention"]


@operator("region_routes")
def region_routes(q: torch.Tensor, k: torch.Tensor, region: Sequence[int], topk: int) -> torch.Tensor:
    """Numbers of the topk regions that each region reads, (B, regions, topk)."""
    from .fused_routes import nearest

    with torch.cuda.device_of(q):
        return nearest(q, k, Regions(*region), topk)


@region_routes.register_fake
def _(q: torch.Tensor, k: torch.Tensor, region: Sequence[int], topk: int) -> torch.Tensor:
    return q.new_empty((q.shape[0], region[0] * region[1], topk), dtype=torch.int64)


@operator("routed_attention")
def routed_attention(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    routes: torch.Tensor,
    region: Sequence[int],
    heads: int,
    scale: float,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Output like q, and the binary logarithm of each softmax's sum, (B, heads, H, W)."""
    from .forward import forward

    regions = Regions(*region)
    tiles = forward_tiles(regions.tokens, routes.shape[2], q.shape[1] // heads, q.element_size())
    with torch.cuda.device_of(q):
        return forward(q, k, v, routes, regions, heads, scale, tiles)


@routed_attention.register_fake
def _(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    routes: torch.Tensor,
    region: Sequence[int],
    heads: int,
    scale: float,
) -> tuple[torch.Tensor, torch.Tensor]:
    return like(q), q.new_empty((q.shape[0], heads, q.shape[2], q.shape[3]), dtype=torch.float32)


@operator("routed_attention_backward")
def routed_attention_backward(
    d_out: torch.Tensor,
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    routes: torch.Tensor,
    out: torch.Tensor,
    lse: torch.Tensor,
    region: Sequence[int],
    heads: int,
    scale: float,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Gradients like q, k and v."""
    from .backward import backward

    regions = Regions(*region)
    tiles = backward_tiles(regions.tokens, routes.shape[2], q.shape[1] // heads, q.element_size())
    with torch.cuda.device_of(q):
        return backward(d_out, q, k, v, routes, out, lse, regions, heads, scale, tiles)


@routed_attention_backward.register_fake
def _(
    d_out: torch.Tensor,
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    routes: torch.Tensor,
    out: torch.Tensor,
    lse: torch.Tensor,
    region: Sequence[int],
    heads: int,
    scale: float,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    return like(q), like(k), like(v)


def _keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[torch.Tensor, torch.Tensor]) -> None:
    q, k, v, routes, ctx.region, ctx.heads, ctx.scale = inputs
    ctx.save_for_backward(q, k, v, routes, *output)


def _gradients(ctx: Any, d_out: torch.Tensor, _: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
    # The sums are there for this gradient alone: none comes back through them.
    grads = routed_attention_backward(d_out, *ctx.saved_tensors, ctx.region, ctx.heads, ctx.scale)
    return *grads, None, None, None, None


routed_attention.register_autograd(_gradients, setup_context=_keep)
