"""Cases of hieraedge-n exported: large kernels as products of matrices against plain Conv nodes, in onnxruntime."""

from __future__ import annotations

import io
import tempfile
import warnings
from collections.abc import Iterator
from copy import deepcopy
from functools import cache
from pathlib import Path
from typing import Any

import torch

from .case import Case, Contender, Unsupported
from .network import MODEL, shipped_network
from .timing import Budget

__all__ = ["cases"]

TARGET = 1.2
# A call takes a tenth of a second, and what else the machine does would hide a tenth of that.
BUDGET = Budget(seconds=4.0, least=25, most=60, patience=30.0)


def cases(device: str, *, quick: bool = False) -> Iterator[Case]:
    """One image of 640 px in float32, on a CPU.

    The graph with plain Conv nodes is the peer: ours in everything but the large kernels. For information, the network
    as `torch.onnx.export` writes it when nothing is rewritten, and palyno in PyTorch.
    """
    if device != "cpu":
        raise Unsupported("graphs are measured in onnxruntime on a CPU; use --device cpu")
    # Tiny, but with a map on which matrices pay.
    shape = (1, 3, 160, 160) if quick else (1, 3, 640, 640)

    def in_onnxruntime(name: str, role: str, graph: str) -> Contender:
        def prepare(images: torch.Tensor) -> Any:
            return _session(graph, shape[2], torch.get_num_threads()), images.numpy()

        def run(state: Any) -> torch.Tensor:
            session, images = state
            return torch.from_numpy(session.run(None, {"images": images})[0])

        return Contender(name, run, prepare, role)

    yield Case(
        operator="onnx",
        name=f"{MODEL} exported, inference",
        shape=shape,
        dtype="float32",
        make=lambda: torch.rand(shape),
        # In turns, so that PyTorch's threads, which go on turning for a while, meet the one that is compared with none.
        contenders=[
            in_onnxruntime("nothing rewritten, onnxruntime", "other", "plain"),
            in_onnxruntime("palyno, onnxruntime", "ours", "auto"),
            in_onnxruntime("plain Conv, onnxruntime", "peer", "conv"),
            Contender("palyno, PyTorch", lambda images: shipped_network("cpu", torch.float32)(images)[0]),
        ],
        exact=lambda images: shipped_network("cpu", torch.float64)(images.double())[0],
        part=lambda result: result,
        bytes_=shape[2] * shape[3] * 3 * 4,
        operations=0,
        limited=False,
        target=None if quick else TARGET,
        budget=None if quick else BUDGET,
    )


@cache
def _session(graph: str, side: int, threads: int) -> Any:
    """Runs the graph one node after the other, and leaves the processor alone between calls.

    Args:
        graph: What `export_onnx` takes as `large_kernels`, or `plain`.
        side: Of the images.
        threads: Of a node.
    """
    try:
        import onnx  # noqa: F401
        import onnxruntime
    except ImportError as error:
        raise Unsupported(f"it needs onnx and onnxruntime: {error}; run `uv sync --extra export`") from error
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    with torch.inference_mode(False):
        data = _plain(side) if graph == "plain" else _exported(graph, side)
    return onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])


def _exported(large_kernels: str, side: int) -> bytes:
    from ...vision.export import export_onnx

    with tempfile.TemporaryDirectory() as folder:
        network, file = shipped_network("cpu", torch.float32), Path(folder) / "network.onnx"
        return export_onnx(network, file, imgsz=side, large_kernels=large_kernels).read_bytes()


def _plain(side: int) -> bytes:
    """The network as ultralytics hands it to the exporter."""
    from ...vision.runtimes.graph import OPSET

    network, file = deepcopy(shipped_network("cpu", torch.float32)), io.BytesIO()
    network.model[-1].export, network.model[-1].format = True, "onnx"
    images = torch.zeros(1, 3, side, side)
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        # The head makes its anchors in the first call: traced, they are constants.
        network(images)
        torch.onnx.export(network, (images,), file, dynamo=False, opset_version=OPSET, input_names=["images"])  # type: ignore[arg-type]
    return file.getvalue()
