"""Sigmoid self-attention: `sigmoid_attention`, after Ramapuram et al., ICLR 2025 (arXiv 2409.04431).

Back ends give the same function: `reference` (PyTorch, any device, the matrix of weights in memory), `triton` (`flash`,
NVIDIA GPUs from Ampere on) and `hopper` (the tensor cores of the H100 and H200). `auto`
takes `hopper` where it can, else `triton` on a GPU where that can; the argument `backend` or the environment variable
`PALYNO_SIGMOID` decide otherwise.
"""

from __future__ import annotations

import math

import torch

from ....errors import UsageError
from ...backends import asked_backend, exporting, hopper_runs, interpreting, triton_runs
from . import hopper, reference

__all__ = ["BACKENDS", "choose", "sigmoid_attention"]

BACKENDS = ("reference", "triton", "hopper")
HEADS = (32, 64, 128)
DTYPES = (torch.float16, torch.bfloat16, torch.float32)
NAME = "sigmoid_attention"

# A matrix of weights of so many elements, 1 GiB, may lie in memory.
MOST_WEIGHTS = 2**28


def sigmoid_attention(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    bias: float | torch.Tensor | None = None,
    causal: bool = False,
    *,
    backend: str = "auto",
) -> torch.Tensor:
    """`sigmoid(q k^T / sqrt(d) + bias) v`: attention whose weights do not compete, as no row is normalised.

    The bias keeps outputs from growing with the number of keys M: with the default -log M, a row of logits that are
    all zero sums to M / (M + 1). A trap follows: the default depends on M. A network trained at one length and run
    at another (images of another size) needs the bias of its training, `bias=-math.log(length_in_training)`, or its
    outputs change scale; a trained bias tensor is safe.

    Under autocast everything is cast to its type first. Products are summed in float32; float32 tensors are multiplied
    as three products of tf32 each, or as one where `torch.backends.cuda.matmul.allow_tf32`. Differentiable once by the
    kernels. The same input gives the same bits, gradients included.

    Args:
        q: Queries, (B, H, N, d), floating point.
        k: Keys, (B, H, M, d).
        v: Values, (B, H, M, d).
        bias: Added to the logits, in nats: a number, a tensor of no dimension or one number a head, (H,), floating
            point and differentiable; None for -log M.
        causal: Whether query i sees the keys 0 to i only; N is M then.
        backend: `auto` or one of `BACKENDS`. `triton` takes d of 32, 64 and 128 in float16, bfloat16 and float32,
            `hopper` d of 64 and 128 in the first two; `auto` sends the rest to the reference.

    Returns:
        (B, H, N, d), dtype of `q`.

    Raises:
        UsageError: Shapes, dtypes or devices that do not fit together, an empty tensor, or a back end that cannot take
            these tensors.
    """
    kind = q.device.type
    if torch.is_autocast_enabled(kind) and q.dtype != torch.float64:
        dtype = torch.get_autocast_dtype(kind)
        q, k, v = (x.to(dtype) if x.is_floating_point() else x for x in (q, k, v))
    if not torch.jit.is_tracing():
        _check(q, k, v, bias, causal)
    backend = asked_backend("sigmoid", backend, BACKENDS)
    if backend == "auto":
        backend = choose(q, k, v)
    elif backend != "reference" and (why := _refusal(backend, q, k, v)):
        raise UsageError(f"{NAME}: backend {backend!r} expected {why}; use 'reference' or 'auto'")
    with torch.autocast(kind, enabled=False):
        if backend == "reference":
            return reference.attend(q, k, v, bias, causal)
        from .operator import sigmoid_attention as flash

        shift = None if bias is None or isinstance(bias, torch.Tensor) else float(bias)
        if isinstance(bias, torch.Tensor):
            bias = bias.to(q.device, torch.float32).expand(q.shape[1]).contiguous()
        else:
            bias = None
        return flash(q, k, v, bias, shift, causal, backend == "hopper")


def choose(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> str:
    """The back end that `auto` takes for these tensors."""
    # Exported graphs need plain operators: other runtimes have none of ours.
    if not q.is_cuda or exporting():
        return "reference"
    # Gradients of float32 by 128 channels take twice the reference's time, which has the memory for moderate lengths.
    wanted = torch.is_grad_enabled() and any(x.requires_grad for x in (q, k, v))
    if wanted and q.dtype == torch.float32 and q.shape[3] == 128 and q[..., 0].numel() * k.shape[2] <= MOST_WEIGHTS:
        return "reference"
    fits = [name for name in ("hopper", "triton") if not _refusal(name, q, k, v)]
    return fits[0] if fits else "reference"


def _refusal(backend: str, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> str | None:
    """What these kernels expected and the tensors are not."""
    if not triton_runs(q, k, v):
        return "Triton and tensors on an NVIDIA GPU of compute capability 8.0 or later"
    if q.dtype not in DTYPES or (interpreting() and q.dtype == torch.bfloat16):
        return "float16, bfloat16 (not in Triton's interpreter) or float32"
    if q.shape[3] not in HEADS:
        return f"{', '.join(map(str, HEADS))} channels a head"
    if q.shape[0] * q.shape[1] > 65535:
        return "at most 65535 heads in a batch"
    if backend == "hopper":
        return hopper.supports(q) if hopper_runs(q, k, v) else "a GPU of compute capability 9.0 (H100, H200)"
    return None


def _check(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, bias: float | torch.Tensor | None, causal: bool) -> None:
    if q.ndim != 4 or min(q.shape) < 1:
        raise UsageError(f"q: expected a non-empty (B, H, N, d), got {tuple(q.shape)}")
    if not q.is_floating_point():
        raise UsageError(f"q: expected floating point, got {q.dtype}; convert it with q.float()")
    batch, heads, queries, channels = q.shape
    if k.ndim != 4 or (*k.shape[:2], k.shape[3]) != (batch, heads, channels) or k.shape[2] < 1:
        raise UsageError(f"k: expected ({batch}, {heads}, M, {channels}) with M of at least 1, got {tuple(k.shape)}")
    if v.shape != k.shape:
        raise UsageError(f"v: expected {tuple(k.shape)} like k, got {tuple(v.shape)}")
    for name, x in (("k", k), ("v", v)):
        if x.dtype != q.dtype:
            raise UsageError(f"{name}: expected {q.dtype} like q, got {x.dtype}; convert one of them")
        if x.device != q.device:
            raise UsageError(f"{name}: expected on {q.device} like q, got {x.device}; move it there")
    if causal and k.shape[2] != queries:
        raise UsageError(f"causal: expected as many keys as queries, got {k.shape[2]} and {queries}")
    if isinstance(bias, torch.Tensor):
        if bias.ndim > 1 or (bias.ndim and bias.shape[0] != heads) or not bias.is_floating_point():
            got = f"{bias.dtype} {tuple(bias.shape)}"
            raise UsageError(f"bias: expected floating point, () or ({heads},) for {heads} heads, got {got}")
        if bias.device != q.device and bias.ndim:
            raise UsageError(f"bias: expected on {q.device} like q, got {bias.device}; move it there")
    elif bias is not None and (isinstance(bias, bool) or not isinstance(bias, int | float) or not math.isfinite(bias)):
        raise UsageError(f"bias: expected a finite number, a tensor or None for -log M, got {bias!r}")
