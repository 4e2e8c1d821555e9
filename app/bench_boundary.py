"""`palyno bench boundary`: whether networks look at the outlines of grains, on scenes whose masks are exact."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from ..data.masks import GrainMask, read_masks
from ..data.slides import Slide, open_slide
from ..errors import InputError, NothingToDoError, UsageError
from ..vision.detector import Detector, load
from ..vision.explain.boundary import Band, Share, boundary_share, diameter, paired_bootstrap
from ..vision.explain.explaining import attributions, crop_of
from ..vision.explain.opened import Opened
from ..vision.explain.sight import SAME_BOX, Place, Sight, find_place, sight_of
from ..vision.naming import at_least_one
from ..vision.tiles import Grid, iou_matrix
from .report import versions

__all__ = ["BANDS", "MAPS", "bench_boundary"]

BANDS = (Band(2), Band(4), Band(8), Band(0.02, True), Band(0.05, True), Band(0.1, True))
MAPS = ("gradcam/neck", "gradcam/fine", "eigencam/neck", "eigencam/fine", "ig", "edges")
# What any edge detector has without a network: the Sobel magnitude of the picture itself.
PICTURE = "picture"

_SIZES = {"small": (0, 32), "medium": (32, 96), "large": (96, np.inf)}


@dataclass
class _Grain:
    """What was measured of one grain: by model and map the shares along its outline."""

    scene: str
    diameter: float
    shares: dict[str, dict[str, dict[str, Share]]] = field(default_factory=dict)


def bench_boundary(
    scenes: Path,
    models: Sequence[str],
    *,
    split: str = "test",
    maps: Sequence[str] = MAPS,
    most_scenes: int | None = None,
    most_grains: int | None = None,
    conf: float = 0.25,
    device: str = "auto",
    seed: int = 0,
    tolerance: float = 0.05,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:
    """Measures the shares of attributions along the outlines of grains, for several models on the same grains.

    A grain counts where every model has a box of it, at least half alike and as sure as `conf`. The logit of its true
    class is explained.

    Args:
        scenes: Folder that `palyno compose --masks` wrote.
        models: Names or weights files; each later one is compared with the first.
        split: Of the scenes.
        maps: Any of `MAPS`.
        most_scenes: Only the first so many scenes.
        most_grains: Of each scene only so many grains, drawn by the seed.
        conf: Least confidence of the models in a grain.
        device: Where they run.
        seed: Of the draws.
        tolerance: Of the integrated gradients' completeness.
        progress: Called with the scenes done and to do.

    Raises:
        UsageError: Unknown maps, or models that cannot be opened.
        InputError: No masks there.
        NothingToDoError: No grain that all models find.
    """
    if unknown := [name for name in maps if name not in MAPS]:
        raise UsageError(f"maps: expected some of {', '.join(MAPS)}; got {', '.join(unknown)}")
    file = scenes / "masks" / f"{split}.json"
    if not file.is_file():
        raise InputError(f"{file}: expected the masks of composed scenes; compose them with `palyno compose --masks`")
    masks = dict(list(read_masks(file).items())[:most_scenes])
    subjects = _subjects(models, device)
    measured: list[_Grain] = []
    every = 0
    rng = np.random.default_rng(seed)
    for done, (name, grains) in enumerate(masks.items(), 1):
        every += len(grains)
        if most_grains is not None and len(grains) > most_grains:
            grains = [grains[i] for i in sorted(rng.choice(len(grains), most_grains, replace=False))]
        with open_slide(scenes / "images" / split / name) as slide:
            for grain in grains:
                if (one := _measure(slide, name, grain, subjects, maps, conf, tolerance)) is not None:
                    measured.append(one)
        if progress:
            progress(done, len(masks))
    if not measured:
        raise NothingToDoError(f"none of {every} grains is found by all of {', '.join(subjects)} with {conf}")
    sizes = np.array([one.diameter for one in measured])
    manifest = scenes / "manifest.json"
    return {
        "command": " ".join(["palyno", *sys.argv[1:]]) if Path(sys.argv[0]).name == "palyno" else None,
        "versions": versions(),
        "scenes": {
            "folder": Path(scenes).name,
            "split": split,
            "scenes": len(masks),
            "grains": every,
            "masks_sha256": hashlib.sha256(file.read_bytes()).hexdigest(),
            "manifest_sha256": hashlib.sha256(manifest.read_bytes()).hexdigest() if manifest.is_file() else None,
        },
        "models": [{"name": name, "sha256": d.sha256, "device": d.device} for name, (d, _) in subjects.items()],
        "settings": {"maps": list(maps), "conf": conf, "seed": seed, "tolerance": tolerance, "grains": most_grains},
        "measured": {
            "grains": len(measured),
            "scenes": len({one.scene for one in measured}),
            "diameter_px": {f"q{q}": round(float(np.quantile(sizes, q / 100)), 1) for q in (5, 50, 95)},
        },
        "rows": list(_rows(measured, list(subjects), seed)),
    }


def _subjects(models: Sequence[str], device: str) -> dict[str, tuple[Detector, Opened]]:
    """The detectors by names that tell them apart."""
    if not models:
        raise UsageError("models: expected at least one")
    detectors = [load(model, device=device, runtime="torch") for model in models]
    plain = [detector.name for detector in detectors]
    names = [d.name if plain.count(d.name) == 1 else f"{d.name} {d.sha256[:8]}" for d in detectors]
    if len(set(names)) < len(names):
        raise UsageError(f"models: expected different ones, got {', '.join(names)}")
    return {name: (d, Opened(d.network.model)) for name, d in zip(names, detectors, strict=True)}


def _measure(
    slide: Slide,
    scene: str,
    grain: GrainMask,
    subjects: dict[str, tuple[Detector, Opened]],
    maps: Sequence[str],
    conf: float,
    tolerance: float,
) -> _Grain | None:
    """The shares of one grain; None where a model does not find it."""
    box, mask = np.array(grain.box, float), grain.mask
    seen: dict[str, tuple[Sight, Place]] = {}
    for name, (detector, opened) in subjects.items():
        if grain.label not in detector.classes:
            return None
        # Of every model the same: what it sees must not depend on how large the grains of its training were.
        sight = sight_of(slide, box, Grid(slide.width, slide.height, 640, 160), 1.0, 3.0)
        try:
            place = find_place(opened, sight, box)
        except UsageError:
            return None
        sure = at_least_one(place.probabilities.clip(0, 1 - 1e-7))
        if iou_matrix(box[None], place.box[None])[0, 0] < SAME_BOX or sure < conf:
            return None
        seen[name] = (sight, place)
    one = _Grain(scene, diameter(mask))
    for name, (sight, place) in seen.items():
        detector, opened = subjects[name]
        target = detector.classes.index(grain.label)
        crop = crop_of(box, sight.window)
        part = mask[crop[1] : crop[3], crop[0] : crop[2]]
        found = one.shares[name] = {}
        for layer, methods in _by_layer(maps).items():
            made, _ = attributions(
                opened, sight, place, target, methods=methods, layer=layer, crop=crop, box=box, tolerance=tolerance
            )
            for each in made:
                key = each.layer if each.method == "edges" else _key(each.method, layer)
                if (shares := boundary_share(each.amount, part, BANDS)) is not None:
                    found[key] = shares
    x1, y1, x2, y2 = crop
    grey = cv2.cvtColor(slide.read(x1, y1, x2 - x1, y2 - y1), cv2.COLOR_RGB2GRAY).astype(np.float32)
    edges = np.hypot(cv2.Sobel(grey, cv2.CV_32F, 1, 0), cv2.Sobel(grey, cv2.CV_32F, 0, 1))
    if (shares := boundary_share(edges, part, BANDS)) is not None:
        one.shares[PICTURE] = {"sobel": shares}
    return one


def _key(method: str, layer: str) -> str:
    return method if method == "ig" else f"{method}/{layer}"


def _by_layer(maps: Sequence[str]) -> dict[str, list[str]]:
    """Methods by the layer that they are asked of, so that a layer is run once."""
    found: dict[str, list[str]] = {}
    for name in maps:
        method, _, layer = name.partition("/")
        found.setdefault(layer or "fine", []).append(method)
    return found


def _rows(measured: Sequence[_Grain], names: Sequence[str], seed: int) -> Iterator[dict[str, Any]]:
    """For every map and band: each model's share, against chance and against the first model's, by size of grain."""
    keys = dict.fromkeys(key for one in measured for name in (*names, PICTURE) for key in one.shares.get(name, ()))
    for key in keys:
        who = [name for name in (*names, PICTURE) if any(key in one.shares.get(name, ()) for one in measured)]
        common = [one for one in measured if all(key in one.shares.get(name, ()) for name in who)]
        for band in BANDS:
            for size, (low, high) in {"all": (0, np.inf), **_SIZES}.items():
                chosen = [one for one in common if low <= one.diameter < high]
                if not chosen:
                    continue
                yield {
                    "map": key,
                    "band": band.name,
                    "size": size,
                    "grains": len(chosen),
                    **_figures(chosen, who, key, band.name, seed),
                }


def _figures(chosen: Sequence[_Grain], who: Sequence[str], key: str, band: str, seed: int) -> dict[str, Any]:
    columns: dict[str, np.ndarray] = {"chance": np.array([one.shares[who[0]][key][band].chance for one in chosen])}
    for name in who:
        columns[f"share {name}"] = np.array([one.shares[name][key][band].share for one in chosen])
        columns[f"enrichment {name}"] = columns[f"share {name}"] / columns["chance"]
    for name in who[1:]:
        columns[f"difference {name}"] = columns[f"share {who[0]}"] - columns[f"share {name}"]
    made = paired_bootstrap(columns, np.array([one.scene for one in chosen]), seed=seed)
    plain = {name: {k: round(v, 5) for k, v in interval._asdict().items()} for name, interval in made.items()}
    return {
        "chance": plain["chance"]["mean"],
        "models": {n: {"share": plain[f"share {n}"], "enrichment": plain[f"enrichment {n}"]} for n in who},
        "differences": [
            {
                "of": who[0],
                "minus": name,
                "share": plain[f"difference {name}"],
                "grains_above": round(float((columns[f"difference {name}"] > 0).mean()), 4),
            }
            for name in who[1:]
        ],
    }
