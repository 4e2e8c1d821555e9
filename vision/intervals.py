"""How sure a figure is: bootstrap over images of average precision, of counts and of differences between detectors.

Images are drawn with replacement (Efron 1979), grains of one image stay together. Matching is pycocotools' and does not
change with the draw, so that it is done once: a draw only weighs what was matched.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..data.annotations import LabelledImage
from .metrics import coco_evaluation, match

__all__ = ["Counted", "Ranked", "counted", "draws", "interval", "ranked"]

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
                for i, row in enumerate(recall):
                    at = np.searchsorted(row, _RECALLS, side="left")
                    made[i, k] = precision[i, at[at < len(row)]].sum() / len(_RECALLS)
        made[true == 0] = np.nan
        return made


def ranked(truth: Sequence[LabelledImage], found: Sequence[LabelledImage], classes: Sequence[str]) -> list[Ranked]:
    """The boxes of each class, ready to be weighed; arguments as for `average_precision`."""
    with contextlib.redirect_stdout(io.StringIO()):
        evaluation = coco_evaluation(truth, found, classes)
    if evaluation is None:
        zero = np.zeros((10, 0), bool)
        return [
            Ranked(np.zeros(0, int), zero, np.array([image.labels.count(name) for image in truth])) for name in classes
        ]
    images = len(truth)
    areas = len(evaluation.params.areaRng)
    made = []
    for k in range(len(classes)):
        # All sizes come first among the ranges of area.
        own = evaluation.evalImgs[k * areas * images : k * areas * images + images]
        made.append(_ranked(own, images))
    return made


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


def interval(values: np.ndarray, level: float = 0.95) -> tuple[float, float]:
    """The percentile interval of a figure's values over draws."""
    low, high = np.nanquantile(values, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)
