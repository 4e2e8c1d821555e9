"""Grains of a slide explained: which ones, their panels as PNG, and their numbers as `explain.json`."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..data.atomic import refuse_existing, write_bytes, write_text
from ..data.slides import open_slide
from ..errors import NothingToDoError, UsageError
from ..vision.detector import load
from ..vision.duplicates import IOU
from ..vision.explain import METHODS, explain
from ..vision.explain.explaining import summary
from ..vision.explain.opened import Opened
from ..vision.results import Grain, SlideResult
from .explanation import draw, png
from .report import versions

__all__ = ["ExplainOptions", "explain_slide"]


@dataclass(frozen=True, kw_only=True)
class ExplainOptions:
    """What `palyno explain` is asked for.

    Attributes:
        grain: Identifier of one grain, as in `grains.csv` of the same slide, model and arguments.
        box: A box `xyxy` instead, pixels of the slide; the slide is not searched then.
        top: So many of the surest grains instead; without all three, four.
        methods: Any of `METHODS`.
        layer: See `palyno.vision.explain.explain`.
        taxon: The class to explain; the grain's own if None.
        context: Sides of the grain that the network is shown.
        model: Name or weights file.
        device: Where it runs.
        runtime: What finds the grains, see `palyno.load`; PyTorch explains them.
        conf: As for `Detector.detect`, as all that follow.
        iou: See there.
        tile: See there.
        imgsz: See there.
        overlap: See there.
        um_per_px: See there.
        views: See there; without it an identifier of a run with several views would mean another grain.
        overwrite: Replace files that are there.
    """

    grain: str | None = None
    box: tuple[float, float, float, float] | None = None
    top: int | None = None
    methods: Sequence[str] = METHODS
    layer: str = "fine"
    taxon: str | None = None
    context: float = 3.0
    model: str = "hieraedge-n"
    device: str = "auto"
    runtime: str = "auto"
    conf: float = 0.25
    iou: float = IOU
    tile: int = 640
    imgsz: int | None = None
    overlap: int | str = "auto"
    um_per_px: float | None = None
    views: int = 1
    overwrite: bool = False

    def __post_init__(self) -> None:
        if sum(value is not None for value in (self.grain, self.box, self.top)) > 1:
            raise UsageError("expected one of --grain, --box and --top, got several")


def explain_slide(
    path: Path, out: Path, options: ExplainOptions, *, progress: Callable[[int, int], None] | None = None
) -> dict[str, Any]:
    """Explains grains of one slide.

    Args:
        path: The slide.
        out: Folder for `explain.json` and a PNG a grain, made if missing.
        options: Which grains, and how.
        progress: Called with the grains done and to do.

    Returns:
        The content of `explain.json`.

    Raises:
        UsageError: No such grain, an argument that cannot be meant, or files that are there.
        NothingToDoError: There is no grain on the slide.
        SlideError: The slide cannot be read.
    """
    if out.exists() and not out.is_dir():
        raise UsageError(f"{out}: expected a folder for the panels, got a file; give another name")
    refuse_existing(out / "explain.json", overwrite=options.overwrite)
    detector = load(options.model, device=options.device, runtime=options.runtime)
    opened = Opened(detector.network.module)
    with closing(open_slide(path, um_per_px=options.um_per_px)) as slide:
        reading: dict[str, Any] = {"tile": options.tile, "imgsz": options.imgsz}
        if isinstance(options.overlap, int):
            reading["overlap"] = options.overlap
        grains: list[Grain | Sequence[float]]
        found: list[tuple[tuple[str, ...], np.ndarray]] = []
        if options.box is not None:
            grains = [options.box]
        else:
            result = detector.detect(
                slide,
                conf=options.conf,
                iou=options.iou,
                tile=options.tile,
                imgsz=options.imgsz,
                overlap=options.overlap,
                views=options.views,
            )
            made = result.provenance.arguments
            # The tiles that the grains were found in, which are smaller than asked where grains are small.
            reading["tile"], reading["overlap"] = made["tile_px"], made["overlap_px"]
            reading["imgsz"] = None if options.imgsz is None else made["imgsz"]
            grains, found = list(_chosen(result, options)), [(result.taxa, result.confidence)]
        rows = []
        for done, grain in enumerate(grains, 1):
            explanation = explain(
                detector,
                slide,
                grain,
                methods=options.methods,
                layer=options.layer,
                taxon=options.taxon,
                context=options.context,
                opened=opened,
                **reading,
            )
            name = f"{path.stem}_{_label(grain)}.png"
            write_bytes(out / name, png(draw(explanation, found)), overwrite=options.overwrite)
            rows.append({"file": name, **summary(explanation)})
            if progress:
                progress(done, len(grains))
    document = {
        "slide": slide.name,
        "model": {"name": detector.name, "sha256": detector.sha256},
        # Of what found the grains; each says what explained it.
        "device": detector.device,
        "runtime": detector.runtime,
        "versions": versions(),
        "grains": rows,
    }
    text = json.dumps(document, ensure_ascii=False, indent=1) + "\n"
    write_text(out / "explain.json", text, overwrite=options.overwrite)
    return document


def _chosen(result: SlideResult, options: ExplainOptions) -> Sequence[Grain]:
    """The grain that was asked for, or the surest."""
    if not len(result):
        raise NothingToDoError(f"{result.slide}: expected a grain with a confidence of {options.conf:g}, found none")
    if options.grain is not None:
        if options.grain not in result.grain_ids:
            raise UsageError(
                f"{result.slide}: expected a grain from {result.grain_ids[0]} to {result.grain_ids[-1]}, got "
                f"{options.grain!r}; identifiers hold for one slide, model and threshold"
            )
        return [result[result.grain_ids.index(options.grain)]]
    order = np.argsort(-result.confidence, kind="stable")[: options.top or 4]
    return [result[int(i)] for i in order]


def _label(grain: Grain | Sequence[float]) -> str:
    return grain.grain_id if isinstance(grain, Grain) else "_".join(f"{v:g}" for v in grain)
