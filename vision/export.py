"""A detector's network for other runtimes: `export`, to ONNX, OpenVINO or a TensorRT engine.

    export("hieraedge-n", "hieraedge-n.onnx", dynamic=True)
    palyno.load("hieraedge-n.onnx")

The network takes float images in [0, 1], (B, 3, H, W), and returns what it returns in PyTorch: for each anchor a box
(centre x, centre y, width, height, pixels), then a probability a class. A file takes its name only once its runtime has
given PyTorch's boxes with it, on tiles of the slides that come with palyno.
"""

from __future__ import annotations

import copy
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import torch

from .. import __version__
from ..data.atomic import refuse_existing, replacing
from ..errors import UsageError
from .blocks.routing import RoutingAttention
from .runtimes import FORMATS
from .runtimes.exported import About, Exported, plain
from .runtimes.graph import onnx_graph, packages
from .runtimes.parity import Parity, compare, tiles
from .tiles import STRIDE
from .weights import Metadata, find_model, load_weights, shipped_models

if TYPE_CHECKING:
    from .detector import Detector
    from .models.detection import PollenModel

__all__ = ["LARGE_KERNELS", "Export", "export", "export_onnx"]

LARGE_KERNELS = ("auto", "conv", "dft")


@dataclass(frozen=True)
class Export:
    """What was written.

    Attributes:
        path: The file; of an OpenVINO model its .xml.
        about: What it says about itself.
        parity: How far it is from PyTorch.
        bytes: Its size; of an OpenVINO model of both files.
    """

    path: Path
    about: About
    parity: Parity
    bytes: int

    def document(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        about = {k: v for k, v in plain(self.about).items() if k not in ("classes", "format")}
        return {"out": str(self.path), "bytes": self.bytes, **about, "parity": asdict(self.parity)}


def export(
    model: str | Path | Detector | PollenModel,
    path: str | Path,
    *,
    format: str = "onnx",
    imgsz: int = 640,
    batch: int = 1,
    dynamic: bool = False,
    half: bool = False,
    large_kernels: str = "auto",
    overwrite: bool = True,
) -> Export:
    """Writes the network of a detector in another runtime's format.

    Args:
        model: A name from `palyno models list` or a weights file; or what `palyno.load` gives, or a network that
            `build` or training gave, which is not changed.
        path: The file; for `openvino` the folder, in which NAME.xml and NAME.bin are written.
        format: `onnx`, `openvino`, or `engine` for TensorRT, which needs the GPU that will use it.
        imgsz: Side of the images in pixels, a multiple of 32.
        batch: Images at once.
        dynamic: Takes any number of images of any sides that are multiples of 32, in place of `imgsz` and `batch`; an
            engine up to 16 images with sides up to twice `imgsz`. Not for BiFormer.
        half: Half the size: numbers that half precision holds exactly are stored in it, with the same results. For
            this give a name or a file: in a detector normalisation is folded into the weights, which are not such
            numbers any more. An engine also computes in half precision, which can be too far away to be written.
        large_kernels: `conv` writes large depthwise convolutions as Conv, `dft` as products of matrices, `auto` as
            what onnxruntime was measured to do faster on a CPU.
        overwrite: Replace what is there.

    Returns:
        The file and how it compares. Its metadata hold what ultralytics reads (names, stride, imgsz, batch, task), and
        as `palyno` what `About` lists.

    Raises:
        UsageError: An option that cannot be meant.
        PalynoError: What the format needs is not installed, or the file does not give the network's boxes.
    """
    _check(format, imgsz, batch, dynamic, half, large_kernels, model)
    path = Path(path)
    if format == "openvino":
        path = _openvino_file(path, overwrite=overwrite)
    else:
        refuse_existing(path, overwrite=overwrite)
    if format == "engine":
        from .runtimes.tensorrt import _tensorrt

        _tensorrt()
    packages("onnx", "onnxruntime", *(["openvino"] if format == "openvino" else []))
    network, known = _network(model, fused=not half)
    if dynamic and any(isinstance(part, RoutingAttention) for part in network.modules()):
        raise UsageError(
            f"dynamic: {known['name']} has routing attention, whose regions are laid out for one size of map; leave "
            "it out, and give imgsz"
        )
    about = About(**known, imgsz=imgsz, batch=batch, dynamic=dynamic, half=half, version=__version__)
    reference = copy.deepcopy(network).fuse()
    channels = network.yaml.get("channels", 3)
    images = torch.rand((batch, channels, imgsz, imgsz), generator=torch.Generator().manual_seed(0))
    # Half precision of an engine is its arithmetic's; its graph stays whole.
    stored = plain(about) | {"half": half and format != "engine"}
    graph = onnx_graph(network, images, stored, large_kernels)
    parity, size = _written(
        format,
        path,
        graph,
        about,
        lambda exported: compare(_boxes(reference), exported, tiles(imgsz, dynamic, channels)),
    )
    return Export(path, about, parity, size)


def export_onnx(model: Detector | PollenModel | str, path: str | Path, **options: Any) -> Path:
    """`export` to ONNX, for the file alone."""
    return export(model, path, format="onnx", **options).path


def _check(format: str, imgsz: int, batch: int, dynamic: bool, half: bool, large_kernels: str, model: Any) -> None:
    for name, value, step in (("imgsz", imgsz, STRIDE), ("batch", batch, 1)):
        if not isinstance(value, int) or isinstance(value, bool) or value < 1 or value % step:
            kind = "a whole number" if step == 1 else f"a multiple of {step}"
            raise UsageError(f"{name}: expected {kind} above zero, got {value!r}")
    for name, choice, known in (("format", format, FORMATS), ("large_kernels", large_kernels, LARGE_KERNELS)):
        if choice not in known:
            raise UsageError(f"{name}: expected one of {', '.join(known)}; got {choice!r}")
    if dynamic and batch != 1:
        raise UsageError(f"batch: expected none with dynamic, which takes any number of images; got {batch}")
    if half and hasattr(model, "metadata") and format != "engine":
        raise UsageError(
            "half: expected the name of a model or a weights file, got a detector, whose weights are folded and not "
            "exact in half precision any more"
        )


def _network(model: Any, fused: bool) -> tuple[Any, dict[str, Any]]:
    """The network alone, float32, on the CPU, in evaluation mode, and what is known about it."""
    metadata: Metadata | None = getattr(model, "metadata", None)
    if isinstance(model, str | Path):
        file, shipped = find_model(model)
        network, metadata = load_weights(file, shipped=shipped)
    else:
        network = model if metadata is None else model.network.module
        if isinstance(network, Exported):
            raise UsageError(f"model: expected safetensors weights, got {metadata and metadata.name}, exported already")
        network = copy.deepcopy(network)
    network = network.cpu().float().eval()
    if fused:
        network = network.fuse()
    known: dict[str, Any] = {
        "name": "palyno",
        "classes": tuple(network.names.values()),
        "trained_px": 640,
        "naming_threshold": 0.5,
        "naming_temperature": 1.0,
        "max_grain_px": 160,
        "sha256": None,
        "licence": None,
        "duplicates": getattr(network, "duplicates", True),
        "max_objects": getattr(network, "max_objects", None),
    }
    if metadata is not None:
        same = ("name", "sha256", "naming_threshold", "naming_temperature", "max_grain_px")
        known |= {name: getattr(metadata, name) for name in same}
        known["trained_px"] = metadata.imgsz
        licences = [entry.licence for entry in shipped_models().values() if entry.sha256 == metadata.sha256]
        known["licence"] = licences[0] if licences else None
    return network, known


def _boxes(network: Any) -> Any:
    def boxes(images: torch.Tensor) -> torch.Tensor:
        output = network(images)
        return output if isinstance(output, torch.Tensor) else output[0]

    return boxes


def _openvino_file(folder: Path, *, overwrite: bool) -> Path:
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"{folder}: expected a folder for an OpenVINO model, there is a file")
    path = folder / f"{folder.name.removesuffix('_openvino_model')}.xml"
    others = [file for file in folder.glob("*.xml") if file != path] if folder.is_dir() else []
    if others:
        raise UsageError(f"{folder}: expected a folder of its own for an OpenVINO model, it holds {others[0].name}")
    for file in (path, path.with_suffix(".bin")):
        refuse_existing(file, overwrite=overwrite)
    return path


def _written(format: str, path: Path, graph: bytes, about: About, check: Any) -> tuple[Parity, int]:
    """Converts, checks, and only then writes."""
    if format == "openvino":
        from .runtimes.openvino import convert_onnx, run_openvino, write_openvino

        with TemporaryDirectory(prefix="palyno-") as folder:
            pair = convert_onnx(graph, plain(about), Path(folder))
        parity = check(Exported(about, lambda threads: run_openvino(pair, threads)))
        write_openvino(pair, path.parent, path.stem)
        return parity, sum(map(len, pair))
    if format == "engine":
        from .network import choose_device
        from .runtimes.tensorrt import build_engine, pack, run_engine

        engine = build_engine(graph, plain(about))
        place = choose_device("cuda")
        runner = run_engine(engine, place)
        parity = check(Exported(about, lambda threads: runner, str(place)))
        data = pack(engine, plain(about))
    else:
        from .runtimes.onnx import run_onnx

        parity = check(Exported(about, lambda threads: run_onnx(graph, threads)))
        data = graph
    with replacing(path, "wb") as file:
        file.write(data)
    return parity, len(data)
