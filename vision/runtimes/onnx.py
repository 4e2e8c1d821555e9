"""ONNX files in onnxruntime: `open_onnx`; for those that are not on disk `read_onnx`, and `run_onnx` alone."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from ...errors import PalynoError, RejectedModelError, UsageError, first_line
from .exported import About, Exported, Runner

if TYPE_CHECKING:
    from ..weights import Metadata

__all__ = ["open_onnx", "read_onnx", "run_onnx"]


def open_onnx(path: Path, device: str = "auto") -> tuple[Exported, Metadata]:
    """See `open_exported`."""
    _onnxruntime()
    try:
        data = path.read_bytes()
    except OSError as error:
        raise RejectedModelError(f"{path}: expected an ONNX file, got {error.strerror or error}") from error
    return read_onnx(data, path, device)


def read_onnx(data: bytes, path: str | Path, device: str = "auto") -> tuple[Exported, Metadata]:
    """As `open_onnx`, of a file that was read already; `path` is for messages."""
    runtime = _onnxruntime()
    try:
        # From memory: a graph that keeps its weights in other files, which may lie anywhere, is refused.
        session = _session(runtime, data, 1, "CPUExecutionProvider", light=True)
    except Exception as error:
        raise RejectedModelError(
            f"{path}: expected an ONNX file that `palyno export` wrote, got one that onnxruntime refuses: "
            f"{first_line(error)}"
        ) from error
    about = About.read(Path(path), session.get_modelmeta().custom_metadata_map.get("palyno"), "an ONNX file")
    del session
    place, provider = _place(runtime, device)
    exported = Exported(
        about, lambda threads: run_onnx(data, threads, provider), place, runtime=f"onnxruntime {runtime.__version__}"
    )
    return exported, about.metadata(hashlib.sha256(data).hexdigest())


def run_onnx(data: bytes, threads: int, provider: Any = "CPUExecutionProvider") -> Runner:
    """A runner of the graph in these bytes."""
    session = _session(_onnxruntime(), data, threads, provider)

    def run(images: torch.Tensor) -> torch.Tensor:
        (output,) = session.run(["output0"], {"images": images.cpu().numpy()})
        return torch.from_numpy(output)

    return run


def _session(runtime: Any, data: bytes, threads: int, provider: Any, light: bool = False) -> Any:
    options = runtime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.execution_mode = runtime.ExecutionMode.ORT_SEQUENTIAL
    options.log_severity_level = 3
    # Its threads would go on turning after a run and slow what PyTorch does next.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    if light:
        options.graph_optimization_level = runtime.GraphOptimizationLevel.ORT_DISABLE_ALL
    return runtime.InferenceSession(data, options, providers=[provider])


def _place(runtime: Any, device: str) -> tuple[str, Any]:
    if device in ("auto", "cpu"):
        return "cpu", "CPUExecutionProvider"
    from ..network import choose_device

    place = choose_device(device)
    if place.type == "cuda" and "CUDAExecutionProvider" in runtime.get_available_providers():
        return str(place), ("CUDAExecutionProvider", {"device_id": place.index or 0})
    raise UsageError(
        f"device: expected cpu for an ONNX file, as this onnxruntime has no way to {place.type}, got {device}; use the "
        "safetensors weights, or an engine (`palyno export --format engine`)"
    )


def _onnxruntime() -> Any:
    try:
        import onnxruntime
    except ImportError as error:
        raise PalynoError(
            "onnxruntime: expected to be installed, as ONNX files run in it; run `pip install onnxruntime`"
        ) from error
    return onnxruntime
