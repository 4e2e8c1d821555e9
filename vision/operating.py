"""Where a threshold puts a detector: its precision at every recall, and the threshold that counts best.

A threshold is chosen on validation images and then read off on test images; chosen on those that it is judged by, it
flatters.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..data.annotations import LabelledImage
from ..errors import NothingToDoError
from .intervals import Ranked
from .intervals import draws as drawn
from .metrics import match
from .results import SlideResult

__all__ = ["USUAL", "Choice", "choose_conf", "how_it_counts", "precision_recall"]

# The threshold where none is given.
USUAL = 0.25


@dataclass(frozen=True)
class Choice:
    """A threshold.

    Attributes:
        conf: The threshold.
        count_error: Mean over images with grains of |found - true| / true at it.
        f1: Harmonic mean of precision and recall of grains at it.
        interval: Between which thresholds 95 % of bootstrap draws of the images would have chosen; None without draws.
    """

    conf: float
    count_error: float
    f1: float
    interval: tuple[float, float] | None


def choose_conf(truth: Sequence[LabelledImage], results: Sequence[SlideResult], draws: int = 0) -> Choice:
    """The threshold, in hundredths, of the least mean count error.

    Of equal ones the better F1 decides, then the higher threshold. The same images give the same answer.

    Args:
        truth: True boxes.
        results: What was found, in the same order, at a lower threshold than any that may be chosen.
        draws: Bootstrap draws over images for the interval; 0 gives none.

    Raises:
        NothingToDoError: No image has a grain.
    """
    true = np.array([len(t) for t in truth], int)
    some = true > 0
    if not some.any():
        raise NothingToDoError("expected images with grains to choose a threshold on, found none")
    lowest = max((result.conf for result in results), default=0.0)
    hundredths = np.arange(max(1, math.ceil(round(100 * lowest, 6))), 100)
    # As `SlideResult.above` compares.
    limits = (hundredths / 100).astype(np.float32)
    found, hits = (np.zeros((len(limits), len(truth)), int) for _ in range(2))
    for i, (image, result) in enumerate(zip(truth, results, strict=True)):
        # The surest choose first, so that dropping the least sure changes no other match.
        right = match(image.boxes, result.boxes, result.confidence) >= 0
        kept = result.confidence[None] >= limits[:, None]
        found[:, i], hits[:, i] = kept.sum(1), (kept & right).sum(1)
    errors = np.abs(found - true)[:, some] / true[some]
    mean, f1 = errors.mean(1), _f1(found.sum(1), hits.sum(1), true.sum())
    best = _best(mean, f1)
    interval = None
    if draws and some.sum() > 1:
        # Each draw chooses as the images themselves do: else, where many thresholds are equal, it lies elsewhere.
        chosen = []
        for weights in drawn(int(some.sum()), draws):
            drawn_f1 = _f1(found[:, some] @ weights, hits[:, some] @ weights, int(true[some] @ weights))
            chosen.append(hundredths[_best(errors @ weights / weights.sum(), drawn_f1)] / 100)
        low, high = np.quantile(chosen, [0.025, 0.975])
        interval = (float(low), float(high))
    return Choice(int(hundredths[best]) / 100, float(mean[best]), float(f1[best]), interval)


def _f1(found: np.ndarray, hits: np.ndarray, true: int) -> np.ndarray:
    """Harmonic mean of precision and recall at each threshold."""
    return 2 * hits / np.maximum(found + true, 1)


def _best(errors: np.ndarray, f1: np.ndarray) -> int:
    """The threshold of the least error; of equal ones that of the better F1, then the highest."""
    return int(np.lexsort((-np.arange(len(errors)), -f1, errors.round(12)))[0])


def how_it_counts(truth: Sequence[LabelledImage], results: Sequence[SlideResult]) -> dict[str, float] | None:
    """At which threshold a detector counts best, and how well there and at the usual one.

    A network that was trained briefly, or whose head picks its boxes itself, may be little sure of grains and nearly as
    sure of what is none; counted at the usual threshold it is then wrong by a multiple.

    Args:
        truth: True boxes of images that it was not trained on.
        results: What it found on them, in the same order, from a confidence below the usual one.

    Returns:
        `conf`, `count_error` and `count_error_at_usual`, for `conf` see `choose_conf`; None where no image has a grain.

    Raises:
        UsageError: The images were read from a confidence above the usual one.
    """
    if not any(map(len, truth)):
        return None
    choice = choose_conf(truth, results)
    # Counts alone are compared: which box is which grain does not matter to them.
    errors = [abs(len(r.above(USUAL)) - len(t)) / len(t) for t, r in zip(truth, results, strict=True) if len(t)]
    return {
        "conf": choice.conf,
        "count_error": round(choice.count_error, 4),
        "count_error_at_usual": round(float(np.mean(errors)), 4),
    }


def precision_recall(one: Ranked, points: int = 101) -> tuple[np.ndarray, np.ndarray]:
    """The precision-recall curve at IoU 0.5, its precision made to fall only, as average precision reads it.

    Args:
        one: Ranked boxes.
        points: Recalls from 0 to 1.

    Returns:
        Recall and precision, (points,) each; precision is 0 past the highest recall reached.
    """
    at = np.linspace(0, 1, points)
    precision = np.zeros(points)
    total = int(one.true.sum())
    if len(one.image) and total:
        hits = one.hit[0].cumsum()
        falling = np.maximum.accumulate((hits / np.arange(1, len(hits) + 1))[::-1])[::-1]
        place = np.searchsorted(hits / total, at, side="left")
        reached = place < len(hits)
        precision[reached] = falling[place[reached]]
    return at, precision
