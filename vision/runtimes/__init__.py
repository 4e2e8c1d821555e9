"""Other runtimes than PyTorch for a detector's network: for each, how its file is written, checked and run.

    runtime, metadata = open_exported("hieraedge-n.onnx")

A file holds the network and, as `palyno`, what `Detector` has to know. One that does not say so is refused: without it
nobody knows what its outputs mean. No file is a pickle, and ONNX and OpenVINO files hold no code. An engine of TensorRT
is a program for a GPU: run those that you made.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from ...errors import UnknownModelError, UsageError

if TYPE_CHECKING:
    from ..weights import Metadata
    from .exported import Exported

__all__ = ["FORMATS", "RUNTIMES", "asked_runtime", "is_exported", "open_exported"]

FORMATS = ("onnx", "openvino", "engine")

# What can run weights.
RUNTIMES = ("auto", "torch", "onnxruntime")

_SUFFIXES = {".onnx": "onnx", ".xml": "openvino", ".bin": "openvino", ".engine": "engine"}


def asked_runtime(runtime: str) -> str:
    """What was asked to run weights; `PALYNO_RUNTIME` in the environment decides where that is `auto`.

    Raises:
        UsageError: No such runtime.
    """
    said = "runtime"
    if runtime == "auto":
        said, runtime = "PALYNO_RUNTIME", os.environ.get("PALYNO_RUNTIME") or "auto"
    if runtime not in RUNTIMES:
        raise UsageError(f"{said}: expected one of {', '.join(RUNTIMES)}; got {runtime!r}")
    return runtime


def is_exported(path: str | Path) -> bool:
    """Whether this is the name of an exported file, or of a folder that holds one; not whether it is a good one."""
    path = Path(path)
    return path.suffix.lower() in _SUFFIXES or (path.is_dir() and any(path.glob("*.xml")))


def open_exported(path: str | Path, device: str = "auto") -> tuple[Exported, Metadata]:
    """An exported network, ready to run.

    Args:
        path: A file that `palyno export` wrote, or the folder of an OpenVINO model.
        device: `auto`, `cpu`, or for an engine, and where onnxruntime can use one, `cuda` or `cuda:N`.

    Returns:
        The network, which `Network` takes; and what the file says, with the hash of the file itself.

    Raises:
        UnknownModelError: There is no such file.
        RejectedModelError: It was not written by `palyno export`, or is damaged.
        UsageError: The device cannot run it.
        PalynoError: Its runtime is not installed.
    """
    path = Path(path)
    if path.is_dir():
        found = sorted(path.glob("*.xml"))
        if len(found) != 1:
            raise UsageError(f"{path}: expected a folder with one .xml of OpenVINO, it holds {len(found)}")
        path = found[0]
    if path.suffix.lower() == ".bin":
        path = path.with_suffix(".xml")
    if not path.is_file():
        raise UnknownModelError(f"{path}: expected a file that `palyno export` wrote, there is none")
    kind = _SUFFIXES[path.suffix.lower()]
    if kind == "onnx":
        from .onnx import open_onnx as opener
    elif kind == "openvino":
        from .openvino import open_openvino as opener
    else:
        from .tensorrt import open_engine as opener
    return opener(path, device)
