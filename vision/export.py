"""A detector's network as an ONNX file for other runtimes: `export_onnx`.

    export_onnx(palyno.load("hieraedge-n"), "hieraedge-n.onnx")

The graph takes float images in [0, 1] of one size, (B, 3, imgsz, imgsz), and returns what the network returns: for each
anchor a box (centre x, centre y, width, height, pixels), then a probability a class. Three parts are written in another
way that gives the same numbers, because runtimes do not have them or are slow at them: large depthwise kernels and the
spectral gate as products of constant matrices (`kernels.depthwise.dft`), and the head's expected distances without a
softmax across the rows of memory. The file is compared with the network in onnxruntime before it takes its name.
"""

from __future__ import annotations

import copy
import io
import json
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from .. import __version__
from ..data.atomic import refuse_existing, replacing
from ..errors import PalynoError, UsageError
from ..kernels.depthwise.dft import DepthwiseDFT, GateDFT, multiply_adds
from ..kernels.depthwise.table import RULES
from .blocks.omni import OmniKernel
from .tiles import STRIDE
from .weights import Metadata, shipped_models

if TYPE_CHECKING:
    from .detector import Detector
    from .models.detection import PollenModel

__all__ = ["LARGE_KERNELS", "export_onnx"]

LARGE_KERNELS = ("auto", "conv", "dft")
OPSET = 17

# How far a runtime may be from the network: pixels of a box, and probability.
BOX_ERROR = 0.5
SCORE_ERROR = 1e-3


def export_onnx(
    model: Detector | PollenModel,
    path: str | Path,
    *,
    imgsz: int = 640,
    batch: int = 1,
    large_kernels: str = "auto",
    overwrite: bool = True,
) -> Path:
    """Writes the network of a detector, normalisation folded in, as ONNX.

    Args:
        model: What `palyno.load` gives, or a network that `build` or training gave; it is not changed.
        path: The file.
        imgsz: Side of the images in pixels, a multiple of 32.
        batch: Images at once.
        large_kernels: `conv` writes large depthwise convolutions as Conv, `dft` as products of matrices, `auto` as
            what onnxruntime was measured to do faster on a CPU.
        overwrite: Replace a file that is there.

    Returns:
        The file. Its metadata hold what ultralytics reads (names, stride, imgsz, batch, task), and `palyno`: name,
        classes, imgsz, thresholds, sha256 of the weights, licence, version, as JSON.

    Raises:
        UsageError: An option that cannot be meant.
        PalynoError: onnx or onnxruntime is not installed, or the file does not give the network's numbers.
    """
    for name, value, step in (("imgsz", imgsz, STRIDE), ("batch", batch, 1)):
        if not isinstance(value, int) or isinstance(value, bool) or value < 1 or value % step:
            kind = "a whole number" if step == 1 else f"a multiple of {step}"
            raise UsageError(f"{name}: expected {kind} above zero, got {value!r}")
    if large_kernels not in LARGE_KERNELS:
        raise UsageError(f"large_kernels: expected one of {', '.join(LARGE_KERNELS)}; got {large_kernels!r}")
    refuse_existing(path, overwrite=overwrite)
    onnx, onnxruntime = _runtime()
    network, about = _network(model)
    images = torch.rand((batch, 3, imgsz, imgsz), generator=torch.Generator().manual_seed(0))
    sizes, expected = _trial(network, images)
    data = _graph(onnx, _rewritten(network, sizes, large_kernels), images, about | {"imgsz": imgsz, "batch": batch})
    _verify(onnxruntime, data, images, expected)
    with replacing(path, "wb", overwrite=overwrite) as file:
        file.write(data)
    return Path(path)


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
    """`OmniKernel` in evaluation mode, for maps of one size, without what runtimes lack."""

    def __init__(self, block: OmniKernel, size: tuple[int, int], matrices: bool):
        super().__init__()
        self.enter, self.leave, self.gate = block.enter, block.leave, block.gate
        weight, bias = block.large.merged()
        self.large = DepthwiseDFT(weight, bias, size) if matrices else _convolution(weight, bias)
        self.transform = None if self.gate is None or self.gate.still else GateDFT(size)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        u = self.enter(x)
        y = x + self.large(u)
        if (gate := self.gate) is not None:
            f = (gate.spectral(u.mean((2, 3), keepdim=True)) * u).abs()
            s = gate.spatial(f.mean((2, 3), keepdim=True)) * f
            y = y + gate.beta * s
            if self.transform is not None:
                y = y + gate.alpha * self.transform(gate.p(s), gate.q(s))
        return self.leave(y.relu())


def _convolution(weight: torch.Tensor, bias: torch.Tensor) -> nn.Conv2d:
    """A plain depthwise convolution, whatever back end our own operator would take."""
    channels, _, rows, columns = weight.shape
    padding = (rows // 2, columns // 2)
    layer = nn.Conv2d(channels, channels, (rows, columns), padding=padding, groups=channels, device="meta")
    layer.weight, layer.bias = (nn.Parameter(t.detach(), requires_grad=False) for t in (weight, bias))
    return layer


def _runtime() -> tuple[Any, Any]:
    try:
        import onnx
        import onnxruntime
    except ImportError as error:
        raise PalynoError(
            f"{error.name}: expected to be installed, as exporting needs it; run `uv sync --extra export`, or "
            "`pip install onnx onnxruntime`"
        ) from error
    return onnx, onnxruntime


def _network(model: Detector | PollenModel) -> tuple[Any, dict[str, Any]]:
    """The network alone, float32, fused, on the CPU, and what is known about it."""
    metadata: Metadata | None = getattr(model, "metadata", None)
    network: Any = model if metadata is None else model.network.model  # type: ignore[union-attr]
    network = copy.deepcopy(network).cpu().float().eval().fuse()
    about: dict[str, Any] = {"name": "palyno", "classes": list(network.names.values()), "sha256": None, "licence": None}
    if metadata is not None:
        about |= {name: getattr(metadata, name) for name in ("name", "sha256", "naming_threshold", "max_grain_px")}
        licences = [entry.licence for entry in shipped_models().values() if entry.sha256 == metadata.sha256]
        about["licence"] = licences[0] if licences else None
    return network, about


@torch.no_grad()
def _trial(network: Any, images: torch.Tensor) -> tuple[dict[str, tuple[int, int]], torch.Tensor]:
    """Sizes of the maps that omni-kernels see, by name, and the output."""
    sizes: dict[str, tuple[int, int]] = {}
    hooks = [
        module.register_forward_pre_hook(lambda _, inputs, name=name: sizes.update({name: tuple(inputs[0].shape[-2:])}))
        for name, module in network.named_modules()
        if isinstance(module, OmniKernel)
    ]
    output = network(images)
    for hook in hooks:
        hook.remove()
    return sizes, output if isinstance(output, torch.Tensor) else output[0]


def _rewritten(network: Any, sizes: dict[str, tuple[int, int]], large_kernels: str) -> Any:
    """The network with the parts that runtimes lack or are slow at in another form."""
    for name, size in sizes.items():
        parent, _, own = name.rpartition(".")
        block = network.get_submodule(name)
        matrices = large_kernels == "dft" or (large_kernels == "auto" and _pays(size, block.large.kernel))
        setattr(network.get_submodule(parent), own, _Omni(block, size, matrices))
    head = network.model[-1]
    # The head then returns its output alone, and keeps the anchors of this size as constants.
    head.export, head.format = True, "onnx"
    if head.reg_max > 1:
        head.dfl = Distances(head.reg_max)
    return network


def _pays(size: tuple[int, int], kernel: int) -> bool:
    matrices, direct = multiply_adds(size, (kernel, kernel))
    return direct >= RULES["onnx"]["direct_over_matrices"] * matrices


def _graph(onnx: Any, network: Any, images: torch.Tensor, about: dict[str, Any]) -> bytes:
    file = io.BytesIO()
    with warnings.catch_warnings(), torch.no_grad():
        # Of constants that shapes become in a trace: sizes are fixed, as is meant.
        warnings.simplefilter("ignore")
        torch.onnx.export(
            network,
            (images,),
            file,  # type: ignore[arg-type]
            dynamo=False,
            opset_version=OPSET,
            input_names=["images"],
            output_names=["output0"],
        )
    graph = onnx.load_from_string(file.getvalue())
    graph.producer_name, graph.producer_version = "palyno", __version__
    side = about["imgsz"]
    texts = {
        "palyno": json.dumps(about | {"version": __version__}, sort_keys=True, ensure_ascii=False),
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


def _verify(onnxruntime: Any, data: bytes, images: torch.Tensor, expected: torch.Tensor) -> None:
    options = onnxruntime.SessionOptions()
    # Its threads would go on turning after the run and slow the next operator of PyTorch.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    output = torch.from_numpy(session.run(None, {"images": images.numpy()})[0])
    if output.shape != expected.shape:
        raise PalynoError(f"expected an output of {tuple(expected.shape)} from onnxruntime, got {tuple(output.shape)}")
    errors = (output - expected).abs()
    box, score = float(errors[:, :4].max()), float(errors[:, 4:].max())
    # Written so that NaN is refused.
    if not (box <= BOX_ERROR and score <= SCORE_ERROR):
        raise PalynoError(
            f"expected onnxruntime to give the network's boxes to {BOX_ERROR} px and probabilities to {SCORE_ERROR}, "
            f"got differences of {box:.3g} px and {score:.3g}; no file was written. Use another version of "
            'onnxruntime, or large_kernels="conv"'
        )
