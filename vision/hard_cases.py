"""What a detector made of each grain of composed training scenes, from what `palyno val --save` kept of it.

Which grains are hard for it is measured from this in `palyno.data.compose.hardness`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..data.compose.hardness import Sighting
from ..data.taxa import UNKNOWN, taxon_of
from ..errors import InputError
from .metrics import match
from .predictions import read_predictions
from .results import SlideResult

__all__ = ["read_sightings"]

# A detector that is worth asking finds more of the grains than this; boxes of other scenes lie on far fewer.
_LEAST_FOUND = 0.5


def read_sightings(scenes: Path, predictions: Path) -> tuple[list[Sighting], str]:
    """How sure a detector was of the name of each grain that was composed into the training scenes it read.

    Tiles of labelled fields are passed over, and so are grains that the detector was not taught to call as the scenes
    do: of classes that it does not have, or called unknown here though it knows them.

    Args:
        scenes: Folder of a composed data set, with its `manifest.json`.
        predictions: What `palyno val --split train --save` kept, of all of its training images or some.

    Returns:
        A sighting a grain, and the hash of the detector's weights.

    Raises:
        InputError: There is no such manifest; the file is not of these training scenes; or it has no names.
    """
    results, classes = read_predictions(predictions)
    splits = _grains(scenes)
    train = splits.get("train", {})
    wanted = (
        f"{predictions}: expected what `palyno val {scenes / 'data.yaml'} --split train --save` keeps of a detector"
    )
    names = [Path(result.slide).name for result in results]
    if other := [name for name, result in zip(names, results, strict=True) if name not in train]:
        raise InputError(f"{wanted}; {other[0]} is no training image of that set")
    # Scenes are numbered alike in every split and every set, so the boxes must tell.
    found = {split: share for split, grains in splits.items() if (share := _found(grains, names, results)) is not None}
    if "train" not in found:
        raise InputError(f"{wanted}; it has no grain of a scene")
    best = max(found, key=lambda split: found[split])
    if best != "train" or found["train"] < _LEAST_FOUND:
        shares = ", ".join(f"{share:.0%} of {split}'s" for split, share in found.items())
        raise InputError(
            f"{wanted}; its boxes lie on {shares} grains, so it is of another split or set, or finds too few"
        )
    if not any(_taught(grain, classes) for name in names for grain in train[name]):
        raise InputError(f"{wanted} that names these taxa; it knows none of them but {', '.join(classes[:3])}")
    if not any(any(candidates) for result in results for candidates in result.candidates):
        raise InputError(f"{wanted}; its boxes have no names")
    sightings = [
        Sighting(grain["source"], grain["taxon"], certainty)
        for name, result in zip(names, results, strict=True)
        for grain, certainty in zip(train[name], _certainty(train[name], result), strict=True)
        if _taught(grain, classes)
    ]
    return sightings, results[0].provenance.sha256


def _grains(scenes: Path) -> dict[str, dict[str, list[dict[str, Any]]]]:
    """By split and image what a manifest tells of the grains that were composed."""
    path = scenes / "manifest.json"
    by_split: dict[str, dict[str, list[dict[str, Any]]]] = {}
    try:
        for scene in json.loads(path.read_text(encoding="utf-8"))["scenes"]:
            grains = [
                {"box": np.array(g["box"], np.float32), **{key: str(g[key]) for key in ("source", "taxon", "label")}}
                for g in scene.get("grains", ())
            ]
            by_split.setdefault(scene["split"], {})[scene["image"]] = grains
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{path}: expected the manifest of a set that `palyno compose` made; {error}") from error
    return by_split


def _taught(grain: Mapping[str, Any], classes: Sequence[str]) -> bool:
    """Whether a detector of these classes was taught to call a grain by its label."""
    return grain["label"] in classes and not (grain["label"] == UNKNOWN and taxon_of(grain["taxon"]) in classes)


def _found(
    grains: Mapping[str, Sequence[Mapping[str, Any]]], names: Sequence[str], results: Sequence[SlideResult]
) -> float | None:
    """The share of a split's grains that boxes lie on, over the images that the results have names of."""
    true = hits = 0
    for name, result in zip(names, results, strict=True):
        own = grains.get(name, ())
        true += len(own)
        hits += sum(1 for _ in _matched(own, result))
    return hits / true if true else None


def _matched(grains: Sequence[Mapping[str, Any]], result: SlideResult) -> Iterator[tuple[int, int]]:
    """Pairs of a grain and the box on it."""
    boxes = np.array([grain["box"] for grain in grains], np.float32).reshape(-1, 4)
    partner = match(boxes, result.boxes, result.confidence)
    return ((int(partner[i]), int(i)) for i in np.flatnonzero(partner >= 0))


def _certainty(grains: Sequence[Mapping[str, Any]], result: SlideResult) -> list[float]:
    """The probability of each grain's true name, 0 where it was missed or that name is not among the likeliest."""
    sure = [0.0] * len(grains)
    for grain, box in _matched(grains, result):
        sure[grain] = min(1.0, dict(result.candidates[box]).get(grains[grain]["label"], 0.0))
    return sure
