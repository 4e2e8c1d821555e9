"""How sure a figure is: bootstrap over images of average precision, of counts and of differences between detectors.

Images are drawn with replacement (Efron 1979), grains of one image stay together. Matching is pycocotools' and does not
change with the draw, so that it is done once: a draw only weighs what was matched.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..data.annotations import LabelledImage
from .metrics import coco_evaluation, match

__all__ = ["Counted", "Ranked", "bootstrap", "counted", "draws", "interval", "ranked"]

# Where pycocotools reads precision off.
_RECALLS = np.linspace(0, 1, 101)


@dataclass(frozen=True)
class Ranked:
    """Boxes of one class over all images, surest first, as pycocotools matched them at ten thresholds.

    Attributes:
        image: (n,) which image each box is in.
        hit: (10, n) whether it is a true one.
        true: (images,) true boxes in each image.
    """

    image: np.ndarray
    hit: np.ndarray
    true: np.ndarray

    def precision(self, weights: np.ndarray) -> np.ndarray:
        """Average precision at each threshold for each draw.

        Args:
            weights: (draws, images), how often each image was drawn.

        Returns:
            (draws, 10); NaN where a draw has no true box of the class.
        """
        made = np.zeros((len(weights), len(self.hit)))
        true = weights @ self.true
        if len(self.image):
            drawn = weights[:, self.image].astype(np.float64)
            found = drawn.cumsum(1)
            for k, hit in enumerate(self.hit):
                hits = (drawn * hit).cumsum(1)
                precision = hits / np.maximum(found, np.spacing(1))
                precision = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
                recall = hits / np.maximum(true, 1)[:, None]
                # How many recalls are read off at each box: those that it is the first to reach.
                reached = np.searchsorted(_RECALLS, recall, side="right")
                made[:, k] = (precision * np.diff(reached, axis=1, prepend=0)).sum(1) / len(_RECALLS)
        made[true == 0] = np.nan
        return made


def ranked(truth: Sequence[LabelledImage], found: Sequence[LabelledImage], classes: Sequence[str]) -> list[Ranked]:
    """The boxes of each class, ready to be weighed; arguments as for `average_precision`."""
    with contextlib.redirect_stdout(io.StringIO()):
        evaluation = coco_evaluation(truth, found, classes, sizes=False)
    if evaluation is None:
        zero = np.zeros((10, 0), bool)
        return [
            Ranked(np.zeros(0, int), zero, np.array([image.labels.count(name) for image in truth])) for name in classes
        ]
    images = len(truth)
    return [_ranked(evaluation.evalImgs[k * images : (k + 1) * images], images) for k in range(len(classes))]


def _ranked(own: Sequence[Any], images: int) -> Ranked:
    true = np.zeros(images, int)
    scores, where, hits = [np.zeros(0)], [np.zeros(0, int)], [np.zeros((10, 0), bool)]
    for i, image in enumerate(own):
        if image is None:
            continue
        true[i] = len(image["gtIds"])
        scores.append(np.array(image["dtScores"]))
        where.append(np.full(len(image["dtScores"]), i))
        hits.append(np.array(image["dtMatches"]).reshape(10, -1) > 0)
    order = np.argsort(-np.concatenate(scores), kind="mergesort")
    return Ranked(np.concatenate(where)[order], np.concatenate(hits, 1)[:, order], true)


@dataclass(frozen=True)
class Counted:
    """What was counted in each image at one threshold, whatever the names.

    Attributes:
        true, found, hits: (images,).
    """

    true: np.ndarray
    found: np.ndarray
    hits: np.ndarray

    def figures(self, weights: np.ndarray) -> dict[str, np.ndarray]:
        """`precision`, `recall`, `f1` and `count_error` (mean of |found - true| / true), (draws,) each."""
        true, found, hits = (weights @ values for values in (self.true, self.found, self.hits))
        error = np.abs(self.found - self.true) / np.maximum(self.true, 1)
        some = self.true > 0
        precision, recall = hits / np.maximum(found, 1), hits / np.maximum(true, 1)
        return {
            "precision": precision,
            "recall": recall,
            "f1": 2 * precision * recall / np.maximum(precision + recall, 1e-9),
            "count_error": weights[:, some] @ error[some] / np.maximum(weights[:, some].sum(1), 1),
        }


def counted(truth: Sequence[LabelledImage], found: Sequence[LabelledImage]) -> Counted:
    """What was counted in each image; boxes are matched as in `count_quality`."""
    hits = [
        (match(true.boxes, seen.boxes, np.asarray(seen.confidence)) >= 0).sum()
        for true, seen in zip(truth, found, strict=True)
    ]
    return Counted(np.array([len(t) for t in truth]), np.array([len(f) for f in found]), np.array(hits))


def draws(images: int, number: int, seed: int = 0) -> np.ndarray:
    """How often each image is drawn in each of `number` samples of as many images, (number, images)."""
    rng = np.random.default_rng(seed)
    return rng.multinomial(images, np.full(images, 1 / images), size=number)


def interval(
    figure: float, values: np.ndarray, level: float = 0.95, bounds: tuple[float, float] = (0.0, 1.0)
) -> tuple[float, float]:
    """The basic bootstrap interval (Davison and Hinkley 1997, 5.2): the draws' quantiles, reflected at the figure.

    Average precision is higher on a drawn sample, which has fewer different images, than on all images. The percentile
    interval would carry that bias twice; reflected, it is taken off.

    Args:
        figure: On every image once.
        values: (draws,); NaN where a draw has no such figure.
        level: Of the interval.
        bounds: The least and the largest value that such a figure can have.

    Returns:
        Low and high; NaN where no draw has a figure.
    """
    if np.isnan(values).all():
        return float("nan"), float("nan")
    low, high = np.nanquantile(values, [(1 - level) / 2, (1 + level) / 2])
    return float(np.clip(2 * figure - high, *bounds)), float(np.clip(2 * figure - low, *bounds))


def bootstrap(
    of_class: Mapping[str, Ranked], any_grain: Ranked, counts: Counted, number: int, seed: int = 0
) -> tuple[dict[str, Any], dict[str, tuple[float, float]]]:
    """Intervals of 95 % of all figures, from the same draws of images.

    Args:
        of_class: Ranked boxes of each class.
        any_grain: Ranked boxes without regard to names.
        counts: What was counted at the operating threshold.
        number: Draws.
        seed: Of the draws.

    Returns:
        `draws`, `level` and, as (low, high), `mAP50`, `mAP50-95`, `AP50_any`, `precision`, `recall`, `f1` and
        `count_error`; and AP50 of each class that occurs.
    """
    weights = np.vstack([np.ones((1, len(any_grain.true)), int), draws(len(any_grain.true), number, seed)])
    present = {name: one for name, one in of_class.items() if one.true.any()}
    each = {name: _in_parts(one, weights) for name, one in present.items()}
    half = _mean_of([values[:, 0] for values in each.values()], len(weights))
    whole = _mean_of([values.mean(1) for values in each.values()], len(weights))
    grain = Ranked(any_grain.image, any_grain.hit[:1], any_grain.true)
    figures = {
        "mAP50": half,
        "mAP50-95": whole,
        "AP50_any": _in_parts(grain, weights)[:, 0],
        **counts.figures(weights),
    }
    intervals = {
        name: interval(values[0], values[1:], bounds=(0.0, np.inf if name == "count_error" else 1.0))
        for name, values in figures.items()
    }
    of_each = {name: interval(values[0, 0], values[1:, 0]) for name, values in each.items()}
    return {"draws": number, "level": 0.95, **intervals}, of_each


def _in_parts(one: Ranked, weights: np.ndarray, size: int = 50) -> np.ndarray:
    """`Ranked.precision` of some draws at a time, as all of them with all boxes would not fit in a small memory."""
    return np.concatenate([one.precision(weights[i : i + size]) for i in range(0, len(weights), size)])


def _mean_of(classes: Sequence[np.ndarray], number: int) -> np.ndarray:
    """The mean over the classes that each draw has."""
    values = np.array(classes).reshape(-1, number)
    there = ~np.isnan(values)
    total = np.where(there, values, 0).sum(0)
    return np.where(there.any(0), total / np.maximum(there.sum(0), 1), np.nan)
