"""TensorRT engines, for NVIDIA GPUs: `build_engine`, `open_engine`.

An engine is made on the kind of GPU and with the version of TensorRT that will run it, and no other runs it. The file
is one line of ours, what the engine says about itself as JSON, and the engine.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from ...errors import PalynoError, RejectedModelError, UsageError
from ..network import choose_device
from ..tiles import STRIDE
from .exported import About, Exported, Runner

if TYPE_CHECKING:
    from ..weights import Metadata

__all__ = ["build_engine", "open_engine", "pack", "run_engine"]

MAGIC = b"palyno-engine-1\n"

# Memory that TensorRT may try layers with.
WORKSPACE = 2 * 2**30

# Of an engine for any size: most images at once, and how much larger than `imgsz` a side may be.
MOST_IMAGES, LARGEST = 16, 2


def build_engine(graph: bytes, about: Mapping[str, Any]) -> bytes:
    """The engine of an ONNX graph of ours, for the GPU that is chosen.

    Args:
        graph: The ONNX file.
        about: What it says: `imgsz`, `dynamic`, and `half` to let layers compute in half precision.

    Raises:
        PalynoError: TensorRT is not installed, or refuses the graph.
        UsageError: There is no NVIDIA GPU.
    """
    choose_device("cuda")
    trt = _tensorrt()
    logger = trt.Logger(trt.Logger.ERROR)
    builder = trt.Builder(logger)
    network = builder.create_network(0)
    parser = trt.OnnxParser(network, logger)
    if not parser.parse(graph):
        raise PalynoError(f"tensorrt {trt.__version__}: expected to take the graph, got: {parser.get_error(0)}")
    config = builder.create_builder_config()
    config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, WORKSPACE)
    if about["half"]:
        if not hasattr(trt.BuilderFlag, "FP16"):
            raise UsageError(f"half: tensorrt {trt.__version__} takes types from the graph alone; leave it out")
        config.set_flag(trt.BuilderFlag.FP16)
    elif hasattr(trt.BuilderFlag, "TF32"):
        # 10 bits of a number are not enough for the boxes to stay where they are.
        config.clear_flag(trt.BuilderFlag.TF32)
    if about["dynamic"]:
        profile, side = builder.create_optimization_profile(), about["imgsz"]
        shapes = [(1, 3, STRIDE, STRIDE), (1, 3, side, side), (MOST_IMAGES, 3, LARGEST * side, LARGEST * side)]
        profile.set_shape("images", *shapes)
        config.add_optimization_profile(profile)
    engine = builder.build_serialized_network(network, config)
    if engine is None:
        raise PalynoError(f"tensorrt {trt.__version__}: expected an engine, it made none; see its messages above")
    return bytes(engine)


def pack(engine: bytes, about: Mapping[str, Any]) -> bytes:
    """The file of an engine."""
    trt = _tensorrt()
    said = {**about, "tensorrt": trt.__version__, "engine_sha256": hashlib.sha256(engine).hexdigest()}
    header = json.dumps(said, sort_keys=True, ensure_ascii=False).encode()
    return MAGIC + len(header).to_bytes(4, "little") + header + engine


def open_engine(path: Path, device: str = "auto") -> tuple[Exported, Metadata]:
    """See `open_exported`."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise RejectedModelError(f"{path}: expected an engine, got {error.strerror or error}") from error
    text = None
    start = len(MAGIC) + 4
    end = start + int.from_bytes(data[len(MAGIC) : start], "little")
    said: dict[str, Any] = {}
    if data.startswith(MAGIC):
        try:
            said = json.loads(data[start:end])
            version, digest = said.pop("tensorrt"), said.pop("engine_sha256")
            text = json.dumps(said)
        except (ValueError, KeyError, AttributeError) as error:
            raise RejectedModelError(f"{path}: expected an engine of palyno, got {error}; export it again") from error
    about = About.read(path, text, "a TensorRT engine")
    if hashlib.sha256(data[end:]).hexdigest() != digest:
        raise RejectedModelError(f"{path}: expected the engine that was exported, got another or a part; copy it again")
    place = choose_device("cuda" if device == "auto" else device)
    if place.type != "cuda":
        raise UsageError(f"device: expected cuda for an engine, got {device}; use the safetensors weights")
    trt = _tensorrt()
    if trt.__version__ != version:
        raise RejectedModelError(
            f"{path}: expected an engine of the installed tensorrt {trt.__version__}, got one of {version}; export the "
            "weights again"
        )
    runner = run_engine(data[end:], place)
    # Other runtimes only store in half precision; an engine computes in it, and its numbers depend on that.
    runtime = f"tensorrt {trt.__version__}" + (", half precision" if about.half else "")
    exported = Exported(about, lambda threads: runner, str(place), MOST_IMAGES, runtime)
    return exported, about.metadata(hashlib.sha256(data).hexdigest())


def run_engine(engine: bytes, device: torch.device) -> Runner:
    """A runner of the engine in these bytes on a GPU."""
    trt = _tensorrt()
    with torch.cuda.device(device):
        made = trt.Runtime(trt.Logger(trt.Logger.ERROR)).deserialize_cuda_engine(engine)
        context = made.create_execution_context() if made is not None else None
    if context is None:
        raise RejectedModelError("engine: expected one that this GPU and this tensorrt run; export the weights again")

    def run(images: torch.Tensor) -> torch.Tensor:
        with torch.cuda.device(device):
            if not context.set_input_shape("images", tuple(images.shape)):
                raise UsageError(f"tile: expected images that the engine was made for, got {tuple(images.shape)}")
            output = torch.empty(tuple(context.get_tensor_shape("output0")), device=device)
            context.set_tensor_address("images", images.data_ptr())
            context.set_tensor_address("output0", output.data_ptr())
            stream = torch.cuda.current_stream(device)
            if not context.execute_async_v3(stream.cuda_stream):
                raise PalynoError(f"tensorrt: expected boxes, the engine failed on {tuple(images.shape)}")
            # `images` may be freed by who gave it; PyTorch does not see what runs outside of it.
            stream.synchronize()
        return output

    return run


def _tensorrt() -> Any:
    try:
        import tensorrt
    except ImportError as error:
        raise PalynoError(
            "tensorrt: expected to be installed, as engines are made and run by it, on the machine with the NVIDIA GPU "
            "that will use them; run `pip install tensorrt`, or export to onnx"
        ) from error
    return tensorrt
