"""Bi-level routing attention (BRA): each region of a map reads the regions that matter most to it.

    from palyno.kernels import bilevel_routing_attention

    out = bilevel_routing_attention(q, k, v, regions=(20, 20), topk=4, heads=4)

Two steps, each of its own use: the choice of regions (`route`; also a map of what every region looked at) and attention
over a given choice. Back ends: `triton` (NVIDIA GPUs; no copies of keys and values, forward and backward), `gather`
(indexing and PyTorch's fused attention; anywhere, also in exported graphs) and `reference` (dense attention under a
mask). `auto` takes `triton` where it can and `gather` elsewhere.

Source: BiFormer, Zhu et al., CVPR 2023 (arXiv 2303.08810).
"""

from __future__ import annotations

import torch

from ....errors import UsageError
from ...backends import asked_backend, exporting, triton_runs
from . import gather, reference
from .regions import Regions
from .routes import nearest

__all__ = ["BACKENDS", "Regions", "bilevel_routing_attention", "route"]

BACKENDS = ("triton", "gather", "reference")

# What the kernels were written for: more channels a head do not fit their registers, and positions within an image are
# 32-bit numbers.
DTYPES = (torch.float16, torch.bfloat16, torch.float32)
LARGEST_HEAD = 128
# A row of affinities has to fit a program, and routes are taken one by one; beyond, they are sorted.
MOST_REGIONS, MOST_ROUTES = 2048, 64
NAME = "bilevel_routing_attention"


def bilevel_routing_attention(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    regions: int | tuple[int, int],
    topk: int,
    *,
    heads: int = 1,
    scale: float | None = None,
    routes: torch.Tensor | None = None,
    return_routes: bool = False,
    backend: str = "auto",
) -> torch.Tensor | tuple[torch.Tensor, torch.Tensor]:
    """Softmax attention of every token over the tokens of the topk regions that its region chose.

    Maps are (B, heads * d, H, W), of any strides: channels first or last, or the parts of one projection
    (`qkv.chunk(3, dim=1)`), which are read where they lie. Channels last is the fastest. Where regions reach over the
    map, what is beyond has no weight and no part in the means.

    Args:
        q: Queries, floating point.
        k: Keys, like `q`.
        v: Values, like `q`.
        regions: Regions a side (one number) or (rows, columns); a region is ceil(H / rows) x ceil(W / columns) tokens.
        topk: Regions that each region reads; all of them if there are fewer, which is plain attention.
        heads: Heads; all read the same regions.
        scale: What scores are multiplied by; d^-0.5 unless given (the authors' networks have (heads * d)^-0.5).
        routes: A choice made before: (B, regions, topk) numbers of regions, different ones in each row, int64.
        return_routes: Whether to return the choice as well.
        backend: `auto`, `triton`, `gather` or `reference`.

    Returns:
        (B, heads * d, H, W) in the dtype of `q`; with `return_routes` also the routes, (B, regions, topk) in int64:
        for each region, row by row of the grid `Regions.of(H, W, regions)`, the regions read, best first.

    Raises:
        UsageError: Shapes, dtypes or devices that do not fit together, more regions than tokens, topk below 1, or a
            back end that cannot take the input.
    """
    if torch.is_autocast_enabled(q.device.type) and q.dtype != torch.float64:
        dtype = torch.get_autocast_dtype(q.device.type)
        q, k, v = (x.to(dtype) if x.is_floating_point() else x for x in (q, k, v))
    tracing = torch.jit.is_tracing()
    if not tracing:
        _check(q, k, v, heads)
    grid = Regions.of(int(q.shape[2]), int(q.shape[3]), regions)
    topk = _clipped(topk, grid)
    backend = asked_backend("routing", backend, BACKENDS)
    if backend == "triton" and (why := _refusal(q, k, v, heads)):
        raise UsageError(f"{NAME}: backend 'triton' expected {why}; use 'gather' or 'auto'")
    if backend == "auto":
        backend = "triton" if q.is_cuda and not exporting() and not _refusal(q, k, v, heads) else "gather"
    scale = (int(q.shape[1]) // heads) ** -0.5 if scale is None else float(scale)
    with torch.autocast(q.device.type, enabled=False):
        if routes is None:
            routes = _route(q, k, grid, topk, backend)
        elif not tracing:
            _check_routes(routes, q, grid)
        if backend == "triton":
            from .operators import routed_attention

            region = (grid.rows, grid.columns, grid.height, grid.width)
            out = routed_attention(q, k, v, routes, region, heads, scale)[0]
        else:
            attend = gather.attend if backend == "gather" else reference.masked
            out = attend(q, k, v, routes, grid, heads, scale)
    return (out, routes) if return_routes else out


def route(
    q: torch.Tensor, k: torch.Tensor, regions: int | tuple[int, int], topk: int, *, backend: str = "auto"
) -> torch.Tensor:
    """The regions that each region reads: the topk with the largest product of region means, (B, regions, topk), int64.

    Means are over the tokens on the map and all channels, in float32 at least, and have no gradient; of equals the
    lower number comes first. Arguments and errors as in `bilevel_routing_attention`.
    """
    _check(q, k, k, 1)
    grid = Regions.of(int(q.shape[2]), int(q.shape[3]), regions)
    backend = asked_backend("routing", backend, BACKENDS)
    if backend == "triton" and (why := _refusal(q, k, k, 0)):
        raise UsageError(f"route: backend 'triton' expected {why}; use 'gather' or 'auto'")
    if backend == "auto":
        backend = "triton" if q.is_cuda and not exporting() and not _refusal(q, k, k, 0) else "gather"
    with torch.autocast(q.device.type, enabled=False):
        return _route(q, k, grid, _clipped(topk, grid), backend)


def _route(q: torch.Tensor, k: torch.Tensor, grid: Regions, topk: int, backend: str) -> torch.Tensor:
    if topk == grid.count:  # Nothing to choose; in order, whoever computes it.
        every = torch.arange(grid.count, device=q.device)
        return every.expand(int(q.shape[0]), grid.count, grid.count).contiguous()
    if backend == "triton" and grid.count <= MOST_REGIONS and topk <= MOST_ROUTES:
        from .operators import region_routes

        return region_routes(q.detach(), k.detach(), (grid.rows, grid.columns, grid.height, grid.width), topk)
    return nearest(q, k, grid, topk)


def _clipped(topk: int, grid: Regions) -> int:
    if not isinstance(topk, int) or topk < 1:
        raise UsageError(f"topk: expected a whole number of at least 1, got {topk!r}")
    return min(topk, grid.count)


def _refusal(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, heads: int) -> str | None:
    """What the kernels expected and these are not; heads is 0 where only routes are asked for."""
    if not triton_runs(q, k, v):
        return "Triton and tensors on an NVIDIA GPU of compute capability 8.0 or later"
    if q.dtype not in DTYPES:
        return "float16, bfloat16 or float32"
    if heads and q.shape[1] // heads > LARGEST_HEAD:
        return f"at most {LARGEST_HEAD} channels a head"
    for x in (q, k, v):
        if sum((n - 1) * step for n, step in zip(x.shape[1:], x.stride()[1:], strict=True)) >= 2**31:
            return "images of less than 2^31 elements"
    return None


def _check(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, heads: int) -> None:
    if q.ndim != 4 or min(q.shape) < 1:
        raise UsageError(f"q: expected a non-empty (B, heads * d, H, W), got {tuple(q.shape)}")
    if not q.is_floating_point():
        raise UsageError(f"q: expected floating point, got {q.dtype}; convert it with q.float()")
    for name, x in (("k", k), ("v", v)):
        if x.shape != q.shape:
            raise UsageError(f"{name}: expected {tuple(q.shape)} like q, got {tuple(x.shape)}")
        if x.dtype != q.dtype:
            raise UsageError(f"{name}: expected {q.dtype} like q, got {x.dtype}; convert one of them")
        if x.device != q.device:
            raise UsageError(f"{name}: expected on {q.device} like q, got {x.device}; move it there")
    if not isinstance(heads, int) or heads < 1 or q.shape[1] % heads:
        raise UsageError(f"heads: expected a divisor of the {q.shape[1]} channels, got {heads!r}")


def _check_routes(routes: torch.Tensor, q: torch.Tensor, grid: Regions) -> None:
    expected = (q.shape[0], grid.count)
    if routes.ndim != 3 or routes.shape[:2] != expected or not 1 <= routes.shape[2] <= grid.count:
        raise UsageError(f"routes: expected {expected} + (between 1 and {grid.count},), got {tuple(routes.shape)}")
    if routes.dtype != torch.int64 or routes.device != q.device:
        raise UsageError(f"routes: expected int64 on {q.device}, got {routes.dtype} on {routes.device}")
    known = ((routes >= 0) & (routes < grid.count)).all()
    if torch.compiler.is_compiling() or routes.is_cuda:
        torch._assert_async(known, f"routes: expected numbers from 0 to {grid.count - 1}")
    elif not known:
        raise UsageError(
            f"routes: expected numbers from 0 to {grid.count - 1}, got {int(routes.min())} to {int(routes.max())}"
        )
