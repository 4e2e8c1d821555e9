"""`Detector`: weights on a device, that find, name and count the grains of slides of any size.

    detector = palyno.load("hieraedge-n")
    result = detector.detect("slide.tif", conf=0.25)

A slide is read in tiles, as `palyno.vision.reading` says; nothing of it is scaled to fit the network. Whatever could
make the count wrong without notice is noticed and, where it can be, put right. Where it cannot, `SlideResult.flags`
says so; `FLAGS` tells what each flag means and what to do.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from .. import __version__
from ..data.slides import Slide, slide_from
from ..errors import InputError, PalynoError, RejectedModelError, UsageError
from .duplicates import IOU
from .maps import MapReader, check_reader
from .naming import Namer
from .network import Network, choose_device
from .reading import DECISIVE, Pass, Settings, SlideReader
from .results import Grain, Provenance, SlideResult
from .runtimes import asked_runtime, is_exported, open_exported
from .tiles import Grid, cut, reconcile
from .weights import Metadata, find_model, load_weights, read_metadata, shipped_models

if TYPE_CHECKING:
    import torch
    from PIL import Image

    from .explain import Explanation

__all__ = ["DECISIVE", "FLAGS", "Detector", "load"]

FLAGS = {
    "saturated": "a tile holds as many grains as the network can return, however small: use a smaller --overlap",
    "oversized": "a grain is larger than the overlap of tiles and may be cut or counted twice: use a larger --tile",
    "partly_unread": "regions could not be read and their grains are missing: see `unread`, and copy the file again",
    "edge": "the grain touches the picture's border and may be cut",
}


def load(
    name_or_path: str | Path = "hieraedge-n",
    *,
    device: str = "auto",
    runtime: str = "auto",
    on_prepare: Callable[[str], None] | None = None,
) -> Detector:
    """A detector from its weights.

    Args:
        name_or_path: A model that comes with palyno, a weights file (safetensors), or what `palyno export` wrote: an
            ONNX file, an engine of TensorRT, the folder of an OpenVINO model or its .xml.
        device: `auto`, `cpu`, `cuda`, `cuda:N` or `mps`.
        runtime: What runs weights: `torch`; `onnxruntime`, on a CPU, for which they are exported once and kept (see
            `palyno.vision.runtimes.prepared`); or `auto`: what `PALYNO_RUNTIME` says, else onnxruntime on a CPU and
            PyTorch elsewhere and for what onnxruntime cannot run. `Detector.runtime` tells which it is.
        on_prepare: Called with a line to show before weights are exported, which takes 10 to 20 seconds.

    Raises:
        UsageError: The device is not here, or cannot be had with the runtime.
        UnknownModelError: No such name or file.
        RejectedModelError: The file is not what it should be.
        PalynoError: `onnxruntime` was asked for and cannot run the network.
    """
    if is_exported(name_or_path) and str(name_or_path) not in shipped_models():
        exported, metadata = open_exported(name_or_path, device)
        if runtime not in ("auto", exported.runtime.partition(" ")[0]):
            raise UsageError(f"runtime: expected auto for {name_or_path}, which {exported.runtime} runs, got {runtime}")
        about = exported.about
        return Detector(Network(exported, exported.device, about.max_objects, about.duplicates), metadata)
    path, shipped = find_model(name_or_path)
    asked = asked_runtime(runtime)
    place = choose_device("cpu" if asked == "onnxruntime" and device == "auto" else device)
    note = None
    if asked == "onnxruntime" and place.type != "cpu":
        raise UsageError(f"runtime: expected torch or auto on {place}, got onnxruntime; or use --device cpu with it")
    if asked != "torch" and place.type == "cpu":
        metadata = read_metadata(path, shipped=shipped)
        try:
            return _in_onnxruntime(path, metadata, place, on_prepare)
        except PalynoError as error:
            if asked == "onnxruntime":
                raise
            note = f"PyTorch runs {metadata.name}, not onnxruntime, which is faster on a CPU: {error}"
    model, metadata = load_weights(path, shipped=shipped)
    # Networks that give one box a grain, or so many boxes at most, say so.
    most, duplicates = getattr(model, "max_objects", None), getattr(model, "duplicates", True)
    return Detector(Network(model.fuse(verbose=False), place, most, duplicates), metadata, note=note)


def _in_onnxruntime(
    path: Path, metadata: Metadata, device: torch.device, on_prepare: Callable[[str], None] | None
) -> Detector:
    from .runtimes.prepared import prepared

    exported = prepared(path, metadata, on_prepare)

    def build() -> torch.nn.Module:
        model, found = load_weights(path)
        if found.sha256 != metadata.sha256:
            raise RejectedModelError(f"{path}: expected the weights that were opened, it has changed; open it again")
        return model.fuse(verbose=False).to(device).eval()

    network = Network(exported, device, exported.about.max_objects, exported.about.duplicates, build=build)
    return Detector(network, metadata)


class Detector:
    """Finds, names and counts grains. Made by `load`.

    Args:
        network: The network on its device.
        metadata: What its weights say about themselves.
        namer: Names boxes; None takes the one that the weights say.
        note: Why another runtime than the fastest was taken, to be shown.

    Attributes:
        name: Name of the model.
        sha256: Hash of its weights file.
        classes: Taxa that it was trained on.
        device: Where it runs.
        metadata: All that the weights say.
        namer: What names its boxes.
        note: Why PyTorch runs it where onnxruntime would be faster; None where it does not.
    """

    def __init__(self, network: Network, metadata: Metadata, *, namer: Namer | None = None, note: str | None = None):
        self.network, self.metadata, self.note = network, metadata, note
        self.name, self.sha256, self.classes = metadata.name, metadata.sha256, metadata.classes
        self.namer = namer or Namer(metadata.classes, metadata.naming_threshold, metadata.naming_temperature)

    @property
    def device(self) -> str:
        """Where the network runs, such as `cuda:0`."""
        return str(self.network.device)

    @property
    def runtime(self) -> str:
        """What runs the network, with its version, such as `onnxruntime 1.32.0`; with `vectors` PyTorch does."""
        return self.network.runtime()

    def __repr__(self) -> str:
        return f"Detector({self.name!r}, {len(self.classes)} classes, {self.device}, {self.runtime})"

    def detect(
        self,
        image: str | Path | np.ndarray | Image.Image | Slide,
        *,
        conf: float = 0.25,
        iou: float = IOU,
        tile: int = 640,
        imgsz: int | None = None,
        overlap: int | str = "auto",
        batch: int | None = None,
        um_per_px: float | None = None,
        name: str | None = None,
        views: int = 1,
        vectors: MapReader | None = None,
        on_tile: Callable[[int, int], None] | None = None,
    ) -> SlideResult:
        """All grains of one slide.

        Args:
            image: A path, an array (H, W, 3) of uint8 RGB, a Pillow image or an open slide.
            conf: Least confidence of a grain, in [0, 1].
            iou: Two boxes of one tile whose intersection over union is above this are one grain. Lower it where
                grains are boxed twice, raise it for clumps in which they overlap by more.
            tile: Largest side of a tile in pixels of the slide, from 64. The network is not shown more at once than in
                its training, however large this is, unless a grain or `overlap` needs it.
            imgsz: Side that a tile is scaled to for the network, always the whole of it; None takes the pixels as they
                are.
            overlap: Pixels that neighbouring tiles share, at most half a tile. It should be at least the diameter of
                the largest grain. `auto` begins with the largest grain of the training; where a grain turns out to be
                cut, the slide is read again with twice the overlap, and with larger tiles where that is more than half
                of one, up to `tile`. Beyond that, and with an overlap of your own, such slides and grains are flagged
                `oversized`.
            batch: Tiles at once; only speed and memory depend on it.
            um_per_px: Micrometres a pixel; goes before what the file says.
            name: Name of the slide in the result; None takes the file's name.
            views: Mirrored and turned views of each tile whose answers are averaged: 1, 2, 4 or 8. Names get surer, and
                it takes as many times as long.
            vectors: What gives each grain a vector too, from the maps of the pass that found it: a `RegionEncoder` of
                `palyno.retrieval.encoders.image`, trained on this very detector.
            on_tile: Called with the tiles done and all tiles after each, from the start again where the slide is read
                again; raise in it to cancel.

        Raises:
            UsageError: An argument that cannot be meant, or vectors of an exported network.
            SlideError: The slide cannot be opened, or no tile of it can be read.
            RejectedModelError: `vectors` was trained on another detector.
        """
        settings = Settings(conf, iou, tile, imgsz, overlap, vectors, views)
        if views > 1 and not self.network.duplicates:
            raise UsageError(
                f"views: {self.name} gives one box a grain, not always at the same place; expected 1 view with it"
            )
        if vectors is not None:
            check_reader(vectors, self.network.module, self.metadata)
        if batch is not None and (not isinstance(batch, int) or isinstance(batch, bool) or batch < 1):
            raise UsageError(f"batch: expected a whole number from 1, got {batch!r}")
        opened = _opened(image, um_per_px, name)
        try:
            reader = SlideReader(self.network, self.namer, self.metadata, settings)
            found, large = reader.read(opened, batch, on_tile or (lambda done, total: None))
        finally:
            if opened is not image:
                opened.close()
        return self._result(opened, name or opened.name, um_per_px, settings, found, large)

    def detect_many(self, images: Iterable[Any], *, on_error: str = "raise", **arguments: Any) -> Iterator[SlideResult]:
        """The grains of many slides, one slide in memory at a time, in order.

        Args:
            images: As `detect` takes them.
            on_error: `raise`, or `skip` a slide that cannot be read, with a warning that names it.
            **arguments: As for `detect`.

        Yields:
            A result a slide.

        Raises:
            UsageError: An argument that cannot be meant.
            InputError: A slide cannot be read, and `on_error` is `raise`.
        """
        if on_error not in ("raise", "skip"):
            raise UsageError(f"on_error: expected raise or skip, got {on_error!r}")
        return self._many(images, on_error == "skip", arguments)

    def explain(
        self, image: str | Path | np.ndarray | Image.Image | Slide, grain: Grain | Sequence[float], **options: Any
    ) -> Explanation:
        """Why a grain was called what it was called: maps of what in the picture speaks for the name.

        Args:
            image: As `detect` takes it.
            grain: One of a result's, or a box `xyxy` in pixels of the slide.
            **options: For `palyno.vision.explain.explain`: methods, layer, taxon, context and others.

        Raises:
            UsageError: An argument that cannot be meant, or the network has no box there.
            SlideError: The slide cannot be read.
        """
        from .explain import explain

        return explain(self, image, grain, **options)

    def _many(self, images: Iterable[Any], skip: bool, arguments: dict[str, Any]) -> Iterator[SlideResult]:
        for image in images:
            try:
                result = self.detect(image, **arguments)
            except InputError as error:
                if not skip:
                    raise
                warnings.warn(f"skipped: {error}", stacklevel=2)
            else:
                yield result

    def _result(
        self, slide: Slide, name: str, um_per_px: float | None, settings: Settings, found: Pass, large: bool
    ) -> SlideResult:
        grid = found.grid
        boxes = np.concatenate([np.empty((0, 4), np.float32), *found.boxes])
        confidence = np.concatenate([np.empty(0, np.float32), *found.confidence])
        tiles = np.concatenate([np.empty(0, int), *found.tiles])
        kept = reconcile(grid, boxes, confidence, tiles)
        kept = kept[confidence[kept] >= np.float32(settings.conf)]
        too_large = cut(grid, boxes[kept], tiles[kept])
        boxes, names = boxes[kept], [found.names[i] for i in kept]
        reader, vectors = settings.reader, None
        if reader is not None:
            vectors = np.concatenate([np.empty((0, reader.dim), np.float32), *found.vectors])[kept]
        at_border = (boxes[:, :2] <= 1).any(1) | (boxes[:, 2:] >= (grid.width - 1, grid.height - 1)).any(1)
        unread = tuple(tile.core for tile in found.unread)
        missing = sum((x2 - x1) * (y2 - y1) for x1, y1, x2, y2 in unread)
        flags = {"saturated": found.saturated, "oversized": large, "partly_unread": bool(unread)}
        return SlideResult(
            slide=name,
            width=grid.width,
            height=grid.height,
            boxes=boxes,
            confidence=confidence[kept],
            taxa=tuple(n.taxon for n in names),
            provenance=self._provenance(settings, grid, um_per_px),
            ranks=tuple(n.rank for n in names),
            candidates=tuple(n.candidates for n in names),
            um_per_px=slide.um_per_px,
            um_source=slide.um_source,
            flags=tuple(flag for flag, raised in flags.items() if raised),
            grain_flags=tuple(
                ("edge",) * bool(border) + ("oversized",) * bool(large)
                for border, large in zip(at_border, too_large, strict=True)
            ),
            notes=slide.notes,
            fraction_read=1 - missing / (grid.width * grid.height),
            unread=unread,
            conf=float(settings.conf),
            vectors=vectors,
            encoder_id=None if reader is None else reader.encoder_id,
        )

    def _provenance(self, settings: Settings, grid: Grid, um_per_px: float | None) -> Provenance:
        arguments = {
            "conf": float(settings.conf),
            "iou": float(settings.iou),
            "tile": settings.tile,
            "tile_px": grid.tile,
            "imgsz": round(grid.tile * settings.scale),
            "overlap": settings.overlap,
            "overlap_px": grid.overlap,
            "um_per_px": um_per_px,
            "views": settings.views,
            "naming_threshold": self.namer.threshold,
            "naming_temperature": self.namer.temperature,
        }
        if settings.reader is not None:
            arguments["vectors"] = settings.reader.encoder_id
        runtime = self.network.runtime(maps=settings.reader is not None)
        return Provenance(self.name, self.sha256, __version__, arguments, runtime, self.device)


def _opened(image: Any, um_per_px: float | None, name: str | None) -> Slide:
    if isinstance(image, Slide):
        if um_per_px is not None:
            raise UsageError("um_per_px: expected it where the slide is opened, open_slide(path, um_per_px=...)")
        return image
    return slide_from(image, um_per_px=um_per_px, name=name or "image")
