"""A detector's network as an ONNX graph: `onnx_graph`. Every exported format begins with it.

Three parts are written in another way that gives the same numbers, because runtimes do not have them or are slow at
them: large depthwise kernels and the spectral gate as products of matrices (`kernels.depthwise.dft`), and the head's
expected distances without a softmax across the rows of memory.
"""

from __future__ import annotations

import io
import json
import warnings
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from ... import __version__
from ...errors import PalynoError, first_line
from ...kernels.depthwise.dft import DepthwiseDFT, GateDFT, OpenDepthwiseDFT, OpenGateDFT, multiply_adds
from ...kernels.depthwise.table import RULES
from ..blocks.omni import GlobalGate, OmniKernel
from ..tiles import STRIDE

__all__ = ["OPSET", "Distances", "onnx_graph", "packages"]

OPSET = 17


def onnx_graph(network: Any, images: torch.Tensor, about: Mapping[str, Any], large_kernels: str) -> bytes:
    """The network as an ONNX file.

    Args:
        network: A copy of its own, on the CPU, in evaluation mode; it is rewritten in place.
        images: As the graph will take them, (B, 3, imgsz, imgsz).
        about: What goes into the metadata as `palyno`; of it `dynamic` leaves the batch and both sides open, and `half`
            stores what half precision holds exactly in half precision.
        large_kernels: `auto`, `conv` or `dft`, see `palyno.vision.export`.

    Raises:
        PalynoError: ONNX has no words for a part of it, or a package is not installed.
    """
    (onnx,) = packages("onnx")
    _rewrite(network, _sizes(network, images), large_kernels, about["dynamic"])
    file = io.BytesIO()
    axes = {"images": {0: "batch", 2: "height", 3: "width"}, "output0": {0: "batch", 2: "anchors"}}
    with warnings.catch_warnings(), torch.no_grad():
        # Of constants that shapes become in a trace: where sizes are fixed that is meant, else the check finds it out.
        warnings.simplefilter("ignore")
        try:
            torch.onnx.export(
                network,
                (images,),
                file,  # type: ignore[arg-type]
                dynamo=False,
                opset_version=OPSET,
                # Else normalisation is folded into weights, which half precision then does not hold; runtimes do it.
                training=torch.onnx.TrainingMode.PRESERVE,
                input_names=["images"],
                output_names=["output0"],
                dynamic_axes=axes if about["dynamic"] else None,
            )
        except (torch.onnx.OnnxExporterError, RuntimeError) as error:
            raise PalynoError(
                f"{about['name']}: expected a network that ONNX {OPSET} can say, got {first_line(error)}; take "
                "another backbone, or run the weights themselves"
            ) from error
    graph = onnx.load_from_string(file.getvalue())
    graph.producer_name, graph.producer_version = "palyno", __version__
    if about["half"]:
        _store_halves(onnx, graph)
    side = about["imgsz"]
    texts = {
        "palyno": json.dumps(dict(about), sort_keys=True, ensure_ascii=False),
        "task": "detect",
        "names": repr(dict(enumerate(about["classes"]))),
        "imgsz": repr([side, side]),
        "stride": str(STRIDE),
        "batch": str(about["batch"]),
        "license": about["licence"] or "",
    }
    onnx.helper.set_model_props(graph, texts)
    onnx.checker.check_model(graph)
    data: bytes = graph.SerializeToString(deterministic=True)
    return data


def packages(*names: str) -> tuple[Any, ...]:
    """Packages that exporting needs, imported.

    Raises:
        PalynoError: One is not installed.
    """
    from importlib import import_module

    try:
        return tuple(import_module(name) for name in names)
    except ImportError as error:
        raise PalynoError(
            f"{error.name}: expected to be installed, as exporting needs it; run `uv sync --extra export`, or "
            f"`pip install {' '.join(names)}`"
        ) from error


class Distances(nn.Module):
    """The head's expected distance of each side: sum over i of i softmax(x)_i, without moving the anchors.

    Args:
        bins: Distances that a side can have, 0 to bins - 1.
    """

    sums: torch.Tensor

    def __init__(self, bins: int):
        super().__init__()
        self.bins = bins
        self.register_buffer("sums", torch.stack((torch.arange(bins).float(), torch.ones(bins))))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, 4 * bins, A) -> (B, 4, A)."""
        sides = x.view(x.shape[0], 4, self.bins, x.shape[2])
        weighted, total = (self.sums @ (sides - sides.amax(2, keepdim=True)).exp()).split(1, 2)
        return (weighted / total).squeeze(2)


class _Omni(nn.Module):
    """`OmniKernel` in evaluation mode without what runtimes lack.

    Args:
        block: The block.
        size: (H, W) of its maps; None leaves it open.
        matrices: Whether the large kernel is a product of matrices, else a plain convolution.
    """

    def __init__(self, block: OmniKernel, size: tuple[int, int] | None, matrices: bool):
        super().__init__()
        self.enter, self.leave, self.gate = block.enter, block.leave, block.gate
        weight, bias = block.large.merged()
        self.large: nn.Module = _convolution(weight, bias)
        if matrices:
            self.large = DepthwiseDFT(weight, bias, size) if size else OpenDepthwiseDFT(weight, bias)
        self.transform: nn.Module | None = None
        if isinstance(self.gate, GlobalGate) and not self.gate.still:
            self.transform = GateDFT(size) if size else OpenGateDFT()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        u = self.enter(x)
        y = x + self.large(u)
        if (gate := self.gate) is not None:
            s = gate.attended(u)
            y = y + gate.beta * s
            if self.transform is not None and isinstance(gate, GlobalGate):
                y = y + gate.alpha * self.transform(gate.p(s), gate.q(s))
        return self.leave(y.relu())


def _convolution(weight: torch.Tensor, bias: torch.Tensor) -> nn.Conv2d:
    """A plain depthwise convolution, whatever back end our own operator would take."""
    channels, _, rows, columns = weight.shape
    padding = (rows // 2, columns // 2)
    layer = nn.Conv2d(channels, channels, (rows, columns), padding=padding, groups=channels, device="meta")
    layer.weight, layer.bias = (nn.Parameter(t.detach(), requires_grad=False) for t in (weight, bias))
    return layer


@torch.no_grad()
def _sizes(network: Any, images: torch.Tensor) -> dict[str, tuple[int, int]]:
    """Sizes of the maps that omni-kernels see, by name. The head also makes its anchors: traced, they are constants."""
    sizes: dict[str, tuple[int, int]] = {}
    hooks = [
        module.register_forward_pre_hook(lambda _, inputs, name=name: sizes.update({name: tuple(inputs[0].shape[-2:])}))
        for name, module in network.named_modules()
        if isinstance(module, OmniKernel)
    ]
    network(images)
    for hook in hooks:
        hook.remove()
    return sizes


def _rewrite(network: Any, sizes: Mapping[str, tuple[int, int]], large_kernels: str, dynamic: bool) -> None:
    """Puts the parts that runtimes lack or are slow at in another form."""
    for name, size in sizes.items():
        parent, _, own = name.rpartition(".")
        block = network.get_submodule(name)
        matrices = large_kernels == "dft" or (large_kernels == "auto" and _pays(size, block.large.kernel))
        setattr(network.get_submodule(parent), own, _Omni(block, None if dynamic else size, matrices))
    head = network.model[-1]
    # The head then returns its output alone, and makes anchors for the size at hand or keeps those of this one.
    head.export, head.format, head.dynamic = True, "onnx", dynamic
    if getattr(head, "reg_max", 1) > 1:
        head.dfl = Distances(head.reg_max)


def _pays(size: tuple[int, int], kernel: int) -> bool:
    matrices, direct = multiply_adds(size, (kernel, kernel))
    return direct >= RULES["onnx"]["direct_over_matrices"] * matrices


def _store_halves(onnx: Any, graph: Any) -> None:
    """Stores constants in half precision where that loses nothing; they are cast back before they are used."""
    import numpy as np

    casts = []
    for constant in graph.graph.initializer:
        if constant.data_type != onnx.TensorProto.FLOAT:
            continue
        value = onnx.numpy_helper.to_array(constant)
        with np.errstate(over="ignore"):
            half = value.astype(np.float16)
        if value.size < 64 or not np.array_equal(half.astype(np.float32), value):
            continue
        name = constant.name
        constant.CopyFrom(onnx.numpy_helper.from_array(half, f"{name}.half"))
        casts.append(onnx.helper.make_node("Cast", [f"{name}.half"], [name], to=onnx.TensorProto.FLOAT))
    # A node comes after those whose results it takes.
    nodes = [*casts, *graph.graph.node]
    del graph.graph.node[:]
    graph.graph.node.extend(nodes)
