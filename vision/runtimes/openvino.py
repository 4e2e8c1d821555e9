"""OpenVINO models, a pair of NAME.xml and NAME.bin: `write_openvino`, `open_openvino`."""

from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from ...data.atomic import replacing
from ...errors import PalynoError, RejectedModelError, UsageError
from .exported import About, Exported, Runner

if TYPE_CHECKING:
    from ..weights import Metadata

__all__ = ["Pair", "convert_onnx", "open_openvino", "run_openvino", "write_openvino"]

# The text of NAME.xml and the numbers of NAME.bin.
Pair = tuple[bytes, bytes]

# In the runtime information of the model, beside what ultralytics reads under `model_info`.
_ENTRY = "palyno"


def convert_onnx(data: bytes, about: dict[str, Any], folder: Path) -> Pair:
    """The model of an ONNX graph of ours; the same graph gives the same bytes.

    Args:
        data: The ONNX file.
        about: What it says, to be said here, too.
        folder: An empty folder to work in.
    """
    openvino = _openvino()
    # Not `convert_model`: it reports its use.
    model = openvino.Core().read_model(data)
    numbers = folder / "model.bin"
    openvino.save_model(model, folder / "model.xml", compress_to_fp16=False)
    about = about | {"bin_sha256": hashlib.sha256(numbers.read_bytes()).hexdigest()}
    model.set_rt_info(json.dumps(about, sort_keys=True, ensure_ascii=True), [_ENTRY])
    side = about["imgsz"]
    for name, value in {
        "task": "detect",
        "names": repr(dict(enumerate(about["classes"]))),
        "imgsz": repr([side, side]),
        "stride": "32",
        "batch": str(about["batch"]),
    }.items():
        model.set_rt_info(value, ["model_info", name])
    openvino.save_model(model, folder / "model.xml", compress_to_fp16=False)
    return (folder / "model.xml").read_bytes(), numbers.read_bytes()


def write_openvino(pair: Pair, folder: Path, name: str) -> Path:
    """Writes NAME.bin, then NAME.xml, which without the right .bin is refused; returns the .xml."""
    for suffix, content in ((".bin", pair[1]), (".xml", pair[0])):
        with replacing(folder / f"{name}{suffix}", "wb") as file:
            file.write(content)
    return folder / f"{name}.xml"


def open_openvino(path: Path, device: str = "auto") -> tuple[Exported, Metadata]:
    """See `open_exported`; `path` is the .xml."""
    openvino = _openvino()
    if device not in ("auto", "cpu"):
        raise UsageError(f"device: expected cpu for an OpenVINO model, got {device}; use the safetensors weights")
    try:
        pair = path.read_bytes(), path.with_suffix(".bin").read_bytes()
    except OSError as error:
        raise RejectedModelError(
            f"{path}: expected an OpenVINO model, the .xml with its .bin beside it, got {error.strerror or error}"
        ) from error
    try:
        model = _read(pair)
        text = model.get_rt_info([_ENTRY]).astype(str) if model.has_rt_info([_ENTRY]) else None
    except Exception as error:
        raise RejectedModelError(
            f"{path}: expected an OpenVINO model that `palyno export` wrote, got one that OpenVINO refuses: "
            f"{str(error).strip().splitlines()[-1]}"
        ) from error
    expected = None
    if text:
        said = json.loads(text) if text.startswith("{") else {}
        expected, text = said.pop("bin_sha256", None), json.dumps(said)
    about = About.read(path, text, "an OpenVINO model")
    if expected != hashlib.sha256(pair[1]).hexdigest():
        raise RejectedModelError(
            f"{path.with_suffix('.bin')}: expected the file that was written with {path.name}, got another; export the "
            "weights again, or copy both"
        )
    # The .xml holds the hash of the .bin: its own stands for both.
    # Of a release such as 2026.4.1-21000-abc the first part.
    runtime = f"openvino {openvino.__version__.partition('-')[0]}"
    exported = Exported(about, lambda threads: run_openvino(pair, threads), runtime=runtime)
    return exported, about.metadata(hashlib.sha256(pair[0]).hexdigest())


def run_openvino(pair: Pair, threads: int) -> Runner:
    """A runner of the model in these bytes, in float32 whatever the processor could do faster."""
    openvino = _openvino()
    settings = {
        "INFERENCE_NUM_THREADS": threads,
        "INFERENCE_PRECISION_HINT": "f32",
        "PERFORMANCE_HINT": "LATENCY",
        "NUM_STREAMS": 1,
        "ENABLE_CPU_PINNING": False,
    }
    request = openvino.Core().compile_model(_read(pair), "CPU", settings).create_infer_request()

    def run(images: torch.Tensor) -> torch.Tensor:
        request.infer({"images": images.cpu().numpy()})
        # A copy: the request writes the next result into the same memory.
        return torch.from_numpy(request.get_output_tensor(0).data.copy())

    return run


def _read(pair: Pair) -> Any:
    import numpy as np

    openvino = _openvino()
    numbers = openvino.Tensor(np.frombuffer(pair[1], np.uint8).copy())
    return openvino.Core().read_model(pair[0].decode(), numbers)


def _openvino() -> Any:
    # It reports conversions; this package is all that does.
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
    try:
        import openvino
    except ImportError as error:
        raise PalynoError(
            "openvino: expected to be installed, as OpenVINO models are made and run by it; run "
            "`uv sync --extra export`, or `pip install openvino`"
        ) from error
    return openvino
