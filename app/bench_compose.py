"""`palyno bench compose`: what the surroundings of composed grains give away."""

from __future__ import annotations

from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict
from functools import cache, partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np

from ..data.grains import CutGrain, cut_grain
from ..data.leak import ring_leak
from ..data.references import Reference, find_references, read_picture, shrink
from ..data.scene import Scene, SceneSettings, compose_scene
from ..errors import InputError, UsageError

__all__ = ["bench_compose"]

# Distances of the ring from a grain's outline in pixels: where its own halo is, where its feather ends, and beyond.
RINGS = ((1, 4), (4, 8), (8, 8))
_CUT_PX = 256


def bench_compose(reference: Path, *, scenes: int = 150, seed: int = 0, workers: int = 1) -> list[dict[str, Any]]:
    """Composes pairs of scenes, with and without their grains, and scores what the rings around the grains tell.

    Args:
        reference: Folder with one folder of single-grain pictures a taxon.
        scenes: Pairs of scenes.
        seed: Of the scenes and the classifiers.
        workers: Processes.

    Returns:
        One row a ring: its place, and the figures of `RingLeak`.

    Raises:
        InputError: The references are missing.
        UsageError: scikit-learn, which the classifiers come from, is not installed.
    """
    try:
        import sklearn  # noqa: F401
    except ImportError as error:
        raise UsageError(
            "bench compose needs scikit-learn: run it with `uv run --group test palyno bench compose`"
        ) from error
    pair = partial(_pair, references=find_references(reference), seed=seed)
    if workers > 1:
        with ProcessPoolExecutor(workers, get_context("spawn")) as pool:
            pairs = list(pool.map(pair, range(scenes)))
    else:
        pairs = [pair(index) for index in range(scenes)]
    return [
        {"inner": inner, "width": width, **asdict(ring_leak(pairs, inner=inner, width=width, seed=seed))}
        for inner, width in RINGS
    ]


def _pair(index: int, *, references: list[Reference], seed: int) -> tuple[Scene, Scene]:
    settings = SceneSettings(largest_count=15)
    made = []
    for without in (False, True):
        rng = np.random.default_rng([seed, index])
        made.append(
            compose_scene(rng, partial(_pick, references), None, "", settings, keep_masks=True, without_grains=without)
        )
    return made[0], made[1]


def _pick(references: list[Reference], rng: np.random.Generator) -> tuple[str, str, str, CutGrain, float]:
    while True:
        one = references[int(rng.integers(len(references)))]
        if (cut := _cut(one)) is not None:
            return one.name, one.taxon, one.taxon, cut[0], cut[1]


@cache
def _cut(reference: Reference) -> tuple[CutGrain, float] | None:
    picture = read_picture(reference.path)
    try:
        cut = cut_grain(shrink(picture, _CUT_PX))
    except InputError:
        return None
    return cut, float(reference.native_px or max(picture.shape[:2]))
