"""Vectors off the detector's maps beside vectors of crops, on scenes: as found there, by the nearest grain's taxon.

Scenes of `palyno compose` tell of each grain which picture it was cut from. Grains of the scenes that training pictures
were put into are the gallery; grains of scenes of other pictures are looked up. Both encoders get the boxes that the
detector found, so that neither is spared what goes wrong there.
"""

from __future__ import annotations

import json
import platform
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from .. import __version__
from ..errors import InputError
from ..retrieval.encoders.image import ImageEncoder, RegionEncoder
from ..retrieval.encoders.image.evaluate import hits_at
from ..vision.tiles import iou_matrix
from .bench_matching import interval
from .collecting import crop

__all__ = ["Found", "bench_regions", "read_scenes", "tables"]

FORMAT = "palyno-bench-regions-1"

# A found box is a grain's where they overlap by more than this.
_SAME = 0.5
# Scenes that are read with and without vectors, in turn, to time what these cost; after one to warm up.
_TIMED = 10


@dataclass(frozen=True)
class Found:
    """Grains that were found in scenes and are known.

    Attributes:
        taxa: Of each.
        regions: Vectors of the scenes' passes, (N, dim).
        crops: Vectors of crops by the encoder of crops, (N, dim).
        crop_regions: Vectors of the same crops by the encoder of regions, as queries have; empty where not asked for.
    """

    taxa: tuple[str, ...]
    regions: np.ndarray
    crops: np.ndarray
    crop_regions: np.ndarray


def read_scenes(folder: str | Path, split: str) -> Iterator[tuple[Path, np.ndarray, list[str]]]:
    """The scenes of a split: the picture, boxes `xyxy` (N, 4), and taxa.

    Raises:
        InputError: It is no folder of `palyno compose`, or has no scenes of this split.
    """
    path = Path(folder) / "manifest.json"
    try:
        images = json.loads(path.read_text(encoding="utf-8"))["scenes"]
        # Tiles of labelled fields are among them; no picture is known that their grains would be from.
        scenes = [s for s in images if s["split"] == split and not s.get("silver")]
        rows = [(s["image"], [g["box"] for g in s["grains"]], [g["taxon"] for g in s["grains"]]) for s in scenes]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path}: expected what palyno compose writes, got {type(error).__name__}: {error}") from error
    if not rows:
        raise InputError(f"{path}: expected scenes of the split {split}, there are none")
    for image, boxes, taxa in rows:
        yield path.parent / "images" / split / image, np.array(boxes, float).reshape(-1, 4), taxa


def bench_regions(
    folder: str | Path,
    regions: RegionEncoder,
    crops: ImageEncoder,
    *,
    gallery: str = "train",
    queries: str = "test",
    grey: bool = False,
    on_scene: Callable[[str], None] = lambda line: None,
) -> dict[str, Any]:
    """Recall@1 and the time a grain of both encoders.

    Args:
        folder: Of `palyno compose`.
        regions: The encoder of regions, with its detector.
        crops: The encoder of crops.
        gallery: Split whose grains are known.
        queries: Split whose grains are looked up; of pictures that are not in the gallery's scenes.
        grey: Take the colour off the scenes first: the detector sees it, the encoder of crops never does.
        on_scene: Is told how far it is.

    Returns:
        The document: `recall_at_1`, a row a way to compare; `time`, seconds of the processor a grain, where it is what
        the detector runs on.
    """
    known = _find(folder, gallery, regions, crops, grey, False, on_scene)
    asked = _find(folder, queries, regions, crops, grey, True, on_scene)
    there = np.isin(asked.taxa, known.taxa)
    taxa = [taxon for taxon, one in zip(asked.taxa, there, strict=True) if one]
    rows = []
    for what, query, among in (
        ("regions of a pass, among regions of passes", asked.regions, known.regions),
        ("regions of crops, among regions of passes", asked.crop_regions, known.regions),
        ("crops, among crops", asked.crops, known.crops),
    ):
        hit = hits_at(query[there], among, taxa, known.taxa).astype(float)
        by_taxon = [hit[np.array(taxa) == taxon].mean() for taxon in sorted(set(taxa))]
        rows.append({"what": what, "by_taxon": interval(by_taxon), "grains": float(hit.mean()), "n": len(hit)})
    return {
        "format": FORMAT,
        "palyno": __version__,
        "detector": {"name": regions.detector.name, "sha256": regions.detector.sha256},
        "regions": regions.encoder_id,
        "crops": crops.encoder_id,
        "gallery": {"split": gallery, "grains": len(known.taxa), "taxa": len(set(known.taxa))},
        "queries": {"split": queries, "grains": len(taxa), "taxa": len(set(taxa))},
        "grey": grey,
        "recall_at_1": rows,
        # Of a GPU's work the processor's time says nothing.
        "time": _time(folder, queries, regions, crops) if regions.detector.device == "cpu" else None,
    }


def _find(
    folder: str | Path,
    split: str,
    regions: RegionEncoder,
    crops: ImageEncoder,
    grey: bool,
    again: bool,
    on_scene: Callable[[str], None],
) -> Found:
    from ..data.slides import slide_from

    taxa: list[str] = []
    columns: list[list[np.ndarray]] = [[np.empty((0, e.dim), np.float32)] for e in (regions, crops, regions)]
    for number, (path, boxes, names) in enumerate(read_scenes(folder, split), 1):
        with slide_from(_picture(path, grey)) as slide:
            result = regions.detector.detect(slide, vectors=regions)
            if len(result) and len(boxes):
                iou = iou_matrix(result.boxes, boxes)
                # Each other's best, so that a grain counts once.
                best = iou.argmax(1)
                mutual = (iou.max(1) > _SAME) & (iou.argmax(0)[best] == np.arange(len(result)))
                result, best = result.select(mutual), best[mutual]
                taxa += [names[i] for i in best]
                cut = [crop(slide, box) for box in result.boxes.tolist()]
                columns[0].append(result.vectors)
                columns[1].append(crops.encode(cut))
                columns[2].append(regions.encode(cut if again else []))
        on_scene(f"{split}: {number} scenes, {len(taxa)} grains found")
    return Found(tuple(taxa), *(np.concatenate(column) for column in columns))


def _picture(path: Path, grey: bool) -> np.ndarray:
    import cv2

    from ..data.slides import open_slide

    with open_slide(path) as slide:
        picture = slide.read(0, 0, slide.width, slide.height)
    return cv2.cvtColor(cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB) if grey else picture


def _time(folder: str | Path, split: str, regions: RegionEncoder, crops: ImageEncoder) -> dict[str, Any]:
    """Seconds of the processor, which other work on the machine does not lengthen by its waiting, but by its caches."""
    import torch

    from ..data.slides import slide_from

    spent, grains, scenes = np.zeros(3), 0, 0
    for number, (path, _, _) in enumerate(read_scenes(folder, split)):
        picture = _picture(path, False)
        began = time.process_time()
        regions.detector.detect(picture)
        plain = time.process_time()
        result = regions.detector.detect(picture, vectors=regions)
        both = time.process_time()
        with slide_from(picture) as slide:
            crops.encode([crop(slide, box) for box in result.boxes.tolist()])
        took = time.process_time() - both
        if number:
            spent += (plain - began, both - plain, took)
            grains, scenes = grains + len(result), number
        if number == _TIMED:
            break
    return {
        "scenes": scenes,
        "grains": grains,
        "pass_s": float(spent[0] / max(scenes, 1)),
        "regions_s_a_grain": float((spent[1] - spent[0]) / max(grains, 1)),
        "crops_s_a_grain": float(spent[2] / max(grains, 1)),
        "device": regions.detector.device,
        "threads": torch.get_num_threads(),
        "processor": platform.processor() or platform.machine(),
    }


def tables(document: Mapping[str, Any]) -> str:
    """The document in Markdown."""
    known, asked, spent = document["gallery"], document["queries"], document["time"]
    lines = [
        f"{asked['grains']} grains of {asked['taxa']} taxa in scenes of `{asked['split']}`, among {known['grains']} of "
        f"`{known['split']}`, {'grey' if document['grey'] else 'in colour'}; limits 95 % by bootstrap over taxa:",
        "",
        "| what is compared | Recall@1, mean of taxa (limits) | of all grains |",
        "| --- | --- | --- |",
    ]
    for row in document["recall_at_1"]:
        mean, low, high = row["by_taxon"]
        lines.append(f"| {row['what']} | {mean:.3f} ({low:.3f} to {high:.3f}) | {row['grains']:.3f} of {row['n']} |")
    if spent is not None:
        lines += [
            "",
            f"Processor's time a grain, {spent['threads']} thread(s), {spent['grains']} grains in {spent['scenes']} "
            f"scenes: {1000 * spent['regions_s_a_grain']:.1f} ms for regions, beside {1000 * spent['pass_s']:.0f} ms "
            f"for the pass of a scene that finds its grains; {1000 * spent['crops_s_a_grain']:.1f} ms for crops.",
        ]
    return "\n".join(lines)
