"""Why a detector called one grain what it did: the grain's surroundings through the opened network, as maps.

The network is shown the grain and what lies around it, cut out of the tile that counts the grain and on the tile's
lattice. Of all places that it answers for, the one whose box is the grain's is explained, and no other box takes part:
the map of a grain is the same however many others were found.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ... import __version__
from ...data.slides import Slide, slide_from
from ...errors import UsageError
from ..naming import at_least_one
from ..results import Grain, Provenance
from ..tiles import Grid
from .attribution import eigen_cam, grad_cam, integrated_gradients
from .opened import Opened
from .sight import Place, Sight, cells_of, field_colour, find_place, sight_of

if TYPE_CHECKING:
    from PIL import Image

    from ..detector import Detector

__all__ = ["METHODS", "Attribution", "Explanation", "attributions", "crop_of", "explain", "summary"]

METHODS = ("gradcam", "eigencam", "ig", "edges")

# A crop shows this share of the grain's longer side around it.
MARGIN = 0.35


@dataclass(frozen=True)
class Attribution:
    """One map over an explanation's crop.

    Attributes:
        method: `gradcam`, `eigencam`, `ig` or `edges`.
        layer: Whose map it is: a layer's name, or `image`.
        stride: Pixels of the network's input a cell of that layer.
        values: float32, (H, W), a value a pixel of the crop.
        figures: What belongs to the map: for `ig` the difference of the logits that it sums up to, the sum, and the
            steps that were taken.
    """

    method: str
    layer: str
    stride: int
    values: np.ndarray
    figures: dict[str, float]

    @property
    def amount(self) -> np.ndarray:
        """How much there is of it at every pixel, at least 0: the sign does not count.

        EigenCAM's projection has no zero of its own, so what counts is by how much it exceeds its least.
        """
        return self.values - self.values.min() if self.method == "eigencam" else np.abs(self.values)


@dataclass(frozen=True)
class Explanation:
    """Why one grain was called what it was called.

    Attributes:
        slide: Name of the slide.
        grain_id: Of the result that the grain is from; None for a box.
        box: The grain, `xyxy`, pixels of the slide.
        found: The network's own box of it.
        taxon: What the detector calls it.
        rank: Rank of the name.
        confidence: Of the detector, that there is a grain.
        candidates: The likeliest names with their probabilities.
        confidence_in_sight: The same confidence where the network is shown no more than the sight.
        explained: The class whose logit the maps explain.
        logit: That logit, in the sight.
        stride: Of the level whose place answers for the grain.
        place: Where that place lies, pixels of the slide.
        sight: What the network was shown, `xyxy`, pixels of the slide.
        crop: What the maps cover, `xyxy`, pixels of the slide.
        picture: uint8, RGB, (H, W, 3): the crop.
        maps: The attributions.
        um_per_px: Micrometres a pixel, or None.
        provenance: Model, hash, version and arguments.
        left_out: Methods that this network has not, with the reason.
    """

    slide: str
    grain_id: str | None
    box: tuple[float, float, float, float]
    found: tuple[float, float, float, float]
    taxon: str
    rank: str
    confidence: float
    candidates: tuple[tuple[str, float], ...]
    confidence_in_sight: float
    explained: str
    logit: float
    stride: int
    place: tuple[float, float]
    sight: tuple[int, int, int, int]
    crop: tuple[int, int, int, int]
    picture: np.ndarray
    maps: tuple[Attribution, ...]
    provenance: Provenance
    um_per_px: float | None = None
    left_out: tuple[tuple[str, str], ...] = ()

    @property
    def probability(self) -> float:
        """What the network itself says of the class that is explained, before temperature makes a name of it."""
        return 1 / (1 + math.exp(-self.logit))


def explain(
    detector: Detector,
    image: str | Path | np.ndarray | Image.Image | Slide,
    grain: Grain | Sequence[float],
    *,
    methods: Sequence[str] = METHODS,
    layer: str = "fine",
    taxon: str | None = None,
    context: float = 3.0,
    tile: int = 640,
    imgsz: int | None = None,
    overlap: int | None = None,
    um_per_px: float | None = None,
    tolerance: float = 0.05,
    opened: Opened | None = None,
) -> Explanation:
    """Explains one grain.

    Args:
        detector: Made by `load` from weights.
        image: As `Detector.detect` takes it.
        grain: One of a result's, or a box `xyxy` in pixels of the slide, also one that the detector left out.
        methods: Any of `gradcam`, `eigencam`, `ig`, `edges`.
        layer: For the first two: `neck`, `backbone`, `fine`, or the name of a layer of this network.
        taxon: The class to explain; None takes its likeliest class, also of a grain that is called `unknown`.
        context: Sides of the grain that the network is shown, at least 256 pixels and at most the tile; `inf` for the
            tile.
        tile: As for `Detector.detect`; of a result the provenance's `tile_px`.
        imgsz: As for `Detector.detect`.
        overlap: Pixels that tiles share; of a result the provenance's `overlap_px`.
        um_per_px: Micrometres a pixel; goes before what the file says.
        tolerance: For `ig`, see `integrated_gradients`.
        opened: The detector's network, opened before: to explain many grains.

    Raises:
        UsageError: An argument that cannot be meant, or the network has no box there.
        SlideError: The slide cannot be read.
    """
    methods = tuple(dict.fromkeys(methods))
    if unknown := [method for method in methods if method not in METHODS]:
        raise UsageError(f"methods: expected some of {', '.join(METHODS)}; got {', '.join(unknown)}")
    if not methods:
        raise UsageError(f"methods: expected some of {', '.join(METHODS)}; got none")
    if not context >= 1:
        raise UsageError(f"context: expected at least 1, the grain itself; got {context}")
    if taxon is not None and taxon not in detector.classes:
        raise UsageError(f"taxon: expected a class of {detector.name}, such as {detector.classes[0]}; got {taxon!r}")
    opened = opened or Opened(detector.network.module)
    box = np.array(grain.box if isinstance(grain, Grain) else grain, float)
    slide = image if isinstance(image, Slide) else slide_from(image, um_per_px=um_per_px, name="image")
    try:
        if box.shape != (4,) or not (box[2:] > box[:2]).all():
            raise UsageError(f"grain: expected a box x1, y1, x2, y2 with x1 < x2 and y1 < y2; got {box.tolist()}")
        if (box[2:] <= 0).any() or (box[:2] >= (slide.width, slide.height)).any():
            raise UsageError(f"grain: expected a box on the slide, {slide.width} x {slide.height}; got {box.tolist()}")
        shared = min(tile // 2, detector.metadata.max_grain_px) if overlap is None else overlap
        grid = Grid(slide.width, slide.height, tile, shared)
        sight = sight_of(slide, box, grid, 1.0 if imgsz is None else imgsz / tile, context)
        crop = crop_of(box, sight.window)
        x1, y1, x2, y2 = crop
        picture = slide.read(x1, y1, x2 - x1, y2 - y1)
    finally:
        if slide is not image:
            slide.close()
    place = find_place(opened, sight, box)
    name = detector.namer.names(place.probabilities[None])[0]
    sure = float(at_least_one(place.probabilities.clip(0, 1 - 1e-7)))
    told: Any = grain if isinstance(grain, Grain) else name
    # A grain that is called unknown, or by its genus, is explained by what it was likeliest of all.
    own = taxon or next((name for name, _ in told.candidates), None)
    target = detector.classes.index(own) if own in detector.classes else int(place.probabilities.argmax())
    maps, logit = attributions(
        opened, sight, place, target, methods=methods, layer=layer, crop=crop, box=box, tolerance=tolerance
    )
    made = {one.method for one in maps}
    left_out = tuple((method, f"{detector.name} has no edge path") for method in methods if method not in made)
    arguments = {
        "layer": layer,
        "context": None if math.isinf(context) else float(context),
        "tile": tile,
        "imgsz": imgsz,
        "overlap": shared,
        "tolerance": tolerance,
    }
    return Explanation(
        slide=slide.name,
        grain_id=grain.grain_id if isinstance(grain, Grain) else None,
        box=tuple(round(float(v), 2) for v in box),  # type: ignore[arg-type]
        found=tuple(round(float(v), 2) for v in place.box),  # type: ignore[arg-type]
        taxon=told.taxon,
        rank=told.rank,
        confidence=told.confidence if isinstance(told, Grain) else sure,
        candidates=told.candidates,
        confidence_in_sight=sure,
        explained=detector.classes[target],
        logit=logit,
        stride=opened.strides[place.level],
        place=tuple(float(v) for v in place.centre),  # type: ignore[arg-type]
        sight=sight.window,
        crop=crop,
        picture=picture,
        maps=maps,
        um_per_px=slide.um_per_px,
        provenance=Provenance(
            detector.name, detector.sha256, __version__, arguments, detector.network.runtime(maps=True), detector.device
        ),
        left_out=left_out,
    )


def attributions(
    opened: Opened,
    sight: Sight,
    place: Place,
    target: int,
    *,
    methods: Sequence[str],
    layer: str,
    crop: Sequence[int],
    box: np.ndarray,
    tolerance: float = 0.05,
) -> tuple[tuple[Attribution, ...], float]:
    """The maps of one place's logit over a crop; those that the network has not are missing.

    Args:
        opened: The network.
        sight: What it is shown.
        place: Whose logit.
        target: Of which class.
        methods: Any of `METHODS`.
        layer: See `explain`.
        crop: What the maps cover, `xyxy`, pixels of the slide.
        box: The grain, `xyxy`, pixels of the slide.
        tolerance: For `ig`.

    Returns:
        The maps, and the logit.
    """
    import torch

    image = sight.tensor(opened.device)
    name = opened.layer(layer, place.level)
    found: list[Attribution] = []
    with torch.enable_grad():
        look = opened.look(image.clone().requires_grad_(True), [name])
        logit, activations = look.logits[0, target, place.number], look.maps[name][0]
        stride = image.shape[2] // activations.shape[1]
        gradients = torch.autograd.grad(logit, look.maps[name])[0][0] if "gradcam" in methods else None
    activations = activations.detach().float()
    for method in methods:
        if method == "gradcam" and gradients is not None:
            values = grad_cam(activations, gradients.float()).cpu().numpy()
            found.append(Attribution(method, name, stride, sight.spread(values, stride, crop), {}))
        elif method == "eigencam":
            rows, columns = cells_of(sight, crop, stride, activations.shape[1:])
            # Beyond the crop as at its border, so that the border's pixels are between cells of one kind.
            part = eigen_cam(activations[:, rows, columns]).cpu().numpy()
            around = [(s.start, n - s.stop) for s, n in zip((rows, columns), activations.shape[1:], strict=True)]
            values = np.pad(part, around, mode="edge")
            found.append(Attribution(method, name, stride, sight.spread(values, stride, crop), {}))
        elif method == "ig":
            found.append(_integrated(opened, sight, place.number, target, crop, box, tolerance))
        elif method == "edges":
            for step, level in opened.edges(image).items():
                values = sight.spread(level.cpu().numpy(), step, crop)
                found.append(Attribution(method, f"edge/{step}", step, values, {}))
    return tuple(found), float(logit.detach())


def _integrated(
    opened: Opened, sight: Sight, index: int, target: int, crop: Sequence[int], box: np.ndarray, tolerance: float
) -> Attribution:
    """Integrated gradients from an empty field of the colour around the grain."""
    import torch

    image = sight.tensor(opened.device)[0]
    colour = torch.from_numpy(field_colour(sight, box)).to(image).div(255)[:, None, None]
    side = max(image.shape[1:])
    # Each image brings the maps of every layer along, some 400 MB for one of 640 pixels.
    batch = 1 if opened.device.type == "cpu" else max(1, int(16 * 640**2 / side**2))
    made = integrated_gradients(
        lambda x: opened.look(x).logits[:, target, index],
        image,
        colour.expand_as(image),
        tolerance=tolerance,
        batch=batch,
    )
    figures = {
        "difference": round(made.difference, 5),
        "sum": round(float(made.values.cpu().double().sum()), 5),
        "steps": made.steps,
    }
    values = sight.spread(made.values.sum(0).float().cpu().numpy(), 1, crop)
    return Attribution("ig", "image", 1, values, figures)


def crop_of(box: np.ndarray, window: Sequence[int]) -> tuple[int, int, int, int]:
    """A square around the grain, where the window has room for it."""
    side = math.ceil((1 + 2 * MARGIN) * float((box[2:] - box[:2]).max()))
    low = np.round((box[:2] + box[2:] - side) / 2).astype(int)
    x1, y1 = np.maximum(low, window[:2]).tolist()
    x2, y2 = np.minimum(low + side, window[2:]).tolist()
    return x1, y1, x2, y2


def summary(explanation: Explanation) -> dict[str, Any]:
    """An explanation's numbers as plain values."""
    rows = []
    for one in explanation.maps:
        size = one.amount
        total = float(size.sum())
        y, x = np.unravel_index(int(size.argmax()), size.shape)
        peak = [int(x) + explanation.crop[0], int(y) + explanation.crop[1]]
        rows.append(
            {
                "method": one.method,
                "layer": one.layer,
                "stride": one.stride,
                "inside_box": round(float(_inside(explanation, size).sum()) / total, 4) if total else None,
                "peak": peak if total else None,
                **one.figures,
            }
        )
    return {
        "slide": explanation.slide,
        "grain_id": explanation.grain_id,
        "box": list(explanation.box),
        "found": list(explanation.found),
        "taxon": explanation.taxon,
        "rank": explanation.rank,
        "confidence": round(explanation.confidence, 4),
        "confidence_in_sight": round(explanation.confidence_in_sight, 4),
        "candidates": [{"taxon": name, "probability": p} for name, p in explanation.candidates],
        "explained": explanation.explained,
        "probability": round(explanation.probability, 4),
        "logit": round(explanation.logit, 4),
        "stride": explanation.stride,
        "place": [round(v, 1) for v in explanation.place],
        "sight": list(explanation.sight),
        "crop": list(explanation.crop),
        "um_per_px": explanation.um_per_px,
        "maps": rows,
        "left_out": dict(explanation.left_out),
        "model": {"name": explanation.provenance.model, "sha256": explanation.provenance.sha256},
        "version": explanation.provenance.version,
        "runtime": explanation.provenance.runtime,
        "device": explanation.provenance.device,
        "arguments": dict(explanation.provenance.arguments),
    }


def _inside(explanation: Explanation, values: np.ndarray) -> np.ndarray:
    x1, y1, x2, y2 = (
        round(v - o) for v, o in zip(explanation.box, (*explanation.crop[:2], *explanation.crop[:2]), strict=True)
    )
    return values[max(y1, 0) : y2, max(x1, 0) : x2]
