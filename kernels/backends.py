"""What runs where: the questions that every operator asks before it takes a fast path."""

from __future__ import annotations

import os
from collections.abc import Iterable
from functools import cache

import torch

from ..errors import UsageError

__all__ = ["asked_backend", "exporting", "hopper_runs", "interpreting", "tf32_convolutions", "triton_runs"]


def asked_backend(operator: str, backend: str, known: Iterable[str]) -> str:
    """The back end that was asked for, or `auto`.

    Args:
        operator: Name of the operator; `PALYNO_<OPERATOR>` in the environment decides where `backend` is `auto`.
        backend: What the caller said.
        known: Back ends that there are, `auto` aside.

    Raises:
        UsageError: No such back end.
    """
    variable = f"PALYNO_{operator.upper()}"
    said = "backend" if backend != "auto" else variable
    if backend == "auto":
        backend = os.environ.get(variable, "auto")
    known = list(known)
    if backend != "auto" and backend not in known:
        raise UsageError(f"{said}: expected auto, {', '.join(known)}; got {backend!r}")
    return backend


def exporting() -> bool:
    """Whether a graph is being recorded for another runtime, which has none of our kernels."""
    return torch.jit.is_tracing() or torch.onnx.is_in_onnx_export()


def interpreting() -> bool:
    """Whether Triton's interpreter stands in for a GPU (TRITON_INTERPRET=1), on tensors of the CPU."""
    return os.environ.get("TRITON_INTERPRET") == "1"


def triton_runs(*tensors: torch.Tensor) -> bool:
    """Whether Triton's kernels can run on these: all on one NVIDIA GPU from Ampere on, or in Triton's interpreter."""
    device = tensors[0].device
    if any(tensor.device != device for tensor in tensors) or not _has_triton():
        return False
    if device.type == "cuda":
        return torch.version.hip is None and _capability(device.index or 0) >= (8, 0)
    return device.type == "cpu" and interpreting()


def hopper_runs(*tensors: torch.Tensor) -> bool:
    """Whether code for the tensor cores of Hopper (compute capability 9.0 alone) can run on these."""
    device = tensors[0].device
    if device.type != "cuda" or any(tensor.device != device for tensor in tensors):
        return False
    return torch.version.hip is None and _capability(device.index or 0) == (9, 0)


def tf32_convolutions() -> bool:
    """Whether PyTorch lets convolutions of float32 on a GPU run as tf32."""
    convolutions = getattr(torch.backends.cudnn, "conv", None)
    if convolutions is None:
        return bool(torch.backends.cudnn.allow_tf32)
    return bool(convolutions.fp32_precision == "tf32")


@cache
def _capability(index: int) -> tuple[int, int]:
    return torch.cuda.get_device_capability(index)


@cache
def _has_triton() -> bool:
    try:
        import triton  # noqa: F401
    except ImportError:
        return False
    return True
