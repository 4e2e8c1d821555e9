"""How sure a figure is: bootstrap over images of average precision, of counts and of differences between detectors.

Images are drawn with replacement (Efron 1979), grains of one image stay together. Matching is pycocotools' and does not
change with the draw, so that it is done once: a draw only weighs what was matched.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..data.annotations import LabelledImage
from .metrics import coco_evaluation, match

__all__ = [
    "Counted",
    "Ranked",
    "bootstrap",
    "counted",
    "draws",
    "interval",
    "mean_precision",
    "ranked",
    "ranked_by_size",
    "shares",
    "varying",
]

# Where pycocotools reads precision off.
_RECALLS = np.linspace(0, 1, 101)


@dataclass(frozen=True)
class Ranked:
    """Boxes of one class over all images, surest first, as pycocotools matched them at ten thresholds.

    Attributes:
        image: (n,) which image each box is in.
        hit: (10, n) whether it is a true one.
        true: (images,) true boxes in each image.
        counts: (10, n) whether it counts at all, which a box of another size of grain does not; None where all do.
    """

    image: np.ndarray
    hit: np.ndarray
    true: np.ndarray
    counts: np.ndarray | None = None

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
                if self.counts is not None:
                    found = (drawn * self.counts[k]).cumsum(1)
                hits = (drawn * hit).cumsum(1)
                precision = hits / np.maximum(found, np.spacing(1))
                precision = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
                recall = hits / np.maximum(true, 1)[:, None]
                # How many recalls are read off at each box: those that it is the first to reach.
                reached = np.searchsorted(_RECALLS, recall, side="right")
                made[:, k] = (precision * np.diff(reached, axis=1, prepend=0)).sum(1) / len(_RECALLS)
        made[true == 0] = np.nan
        return made

    def recall(self, weights: np.ndarray) -> np.ndarray:
        """The highest recall at each threshold for each draw; arguments and shapes as `precision`'s."""
        true = weights @ self.true
        hits = weights[:, self.image].astype(np.float64) @ self.hit.T
        return np.where(true[:, None] > 0, hits / np.maximum(true, 1)[:, None], np.nan)


def ranked(truth: Sequence[LabelledImage], found: Sequence[LabelledImage], classes: Sequence[str]) -> list[Ranked]:
    """The boxes of each class, ready to be weighed; arguments as for `average_precision`."""
    return _of_sizes(truth, found, classes, sizes=False)["all"]


def ranked_by_size(
    truth: Sequence[LabelledImage], found: Sequence[LabelledImage], classes: Sequence[str]
) -> dict[str, list[Ranked]]:
    """As `ranked`, for grains of `all` sizes, and for `small`, `medium` and `large` ones alone."""
    return _of_sizes(truth, found, classes, sizes=True)


def _of_sizes(
    truth: Sequence[LabelledImage], found: Sequence[LabelledImage], classes: Sequence[str], sizes: bool
) -> dict[str, list[Ranked]]:
    with contextlib.redirect_stdout(io.StringIO()):
        evaluation = coco_evaluation(truth, found, classes, sizes=sizes)
    names, images = evaluation.params.areaRngLbl, len(truth)
    # By class, then by size, then by image.
    parts = [evaluation.evalImgs[at : at + images] for at in range(0, len(evaluation.evalImgs), images)]
    return {name: [_ranked(own, images) for own in parts[i :: len(names)]] for i, name in enumerate(names)}


def _ranked(own: Sequence[Any], images: int) -> Ranked:
    true = np.zeros(images, int)
    scores, where = [np.zeros(0)], [np.zeros(0, int)]
    hits, counts = [np.zeros((10, 0), bool)], [np.zeros((10, 0), bool)]
    for i, image in enumerate(own):
        if image is None:
            continue
        true[i] = len(image["gtIds"]) - int(np.sum(image["gtIgnore"]))
        scores.append(np.array(image["dtScores"]))
        where.append(np.full(len(image["dtScores"]), i))
        counts.append(~np.array(image["dtIgnore"], bool).reshape(10, -1))
        hits.append((np.array(image["dtMatches"]).reshape(10, -1) > 0) & counts[-1])
    order = np.argsort(-np.concatenate(scores), kind="mergesort")
    some = np.concatenate(counts, 1)[:, order]
    return Ranked(np.concatenate(where)[order], np.concatenate(hits, 1)[:, order], true, None if some.all() else some)


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
        """`precision`, `recall`, `f1` and `count_error` (mean of |found - true| / true), (draws,) each.

        All but precision are NaN where a draw has no grain.
        """
        true, found, hits = (weights @ values for values in (self.true, self.found, self.hits))
        error = np.abs(self.found - self.true) / np.maximum(self.true, 1)
        some = self.true > 0
        # Of images without grains there is nothing to find, which is no share of 0.
        true = np.where(true > 0, true, np.nan)
        precision, recall = hits / np.maximum(found, 1), hits / true
        return {
            "precision": precision,
            "recall": recall,
            "f1": 2 * precision * recall / np.maximum(precision + recall, 1e-9),
            "count_error": np.where(true > 0, weights[:, some] @ error[some], np.nan)
            / np.maximum(weights[:, some].sum(1), 1),
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
    figure: float,
    values: np.ndarray,
    level: float = 0.95,
    bounds: tuple[float, float] = (0.0, 1.0),
    *,
    reflected: bool = True,
) -> tuple[float, float]:
    """The basic bootstrap interval (Davison and Hinkley 1997, 5.2): the draws' quantiles, reflected at the figure.

    Average precision is higher on a drawn sample, which has fewer different images, than on all images. The percentile
    interval would carry that bias twice; reflected, it is taken off. A mean over images, such as the count error, has
    no such bias, and a long tail above: there the quantiles themselves are the better interval, whose ends are errors
    that draws have.

    Args:
        figure: On every image once.
        values: (draws,); NaN where a draw has no such figure.
        level: Of the interval.
        bounds: The least and the largest value that such a figure can have.
        reflected: Whether the quantiles are; else it is the percentile interval (5.3.1 there).

    Returns:
        Low and high; NaN where no draw has a figure.
    """
    if np.isnan(values).all():
        return float("nan"), float("nan")
    low, high = np.nanquantile(values, [(1 - level) / 2, (1 + level) / 2])
    if reflected:
        low, high = 2 * figure - high, 2 * figure - low
    return float(np.clip(low, *bounds)), float(np.clip(high, *bounds))


def bootstrap(
    of_sizes: Mapping[str, Sequence[Ranked]],
    classes: Sequence[str],
    any_grain: Ranked,
    counts: Counted,
    number: int,
    seed: int = 0,
    *,
    multi_label: Sequence[Ranked],
) -> tuple[dict[str, Any], dict[str, dict[str, tuple[float, float]]]]:
    """Intervals of 95 % of all figures, from the same draws of images.

    A figure that is the same in every draw has none (NaN): that all three grains of a class were found says little of
    other grains, though no draw of the three can tell.

    Args:
        of_sizes: Ranked boxes of each class, as `ranked_by_size` gives them.
        classes: The classes.
        any_grain: Ranked boxes without regard to names.
        counts: What was counted at the operating threshold.
        number: Draws.
        seed: Of the draws.
        multi_label: Ranked boxes of each class, where a box can be of several.

    Returns:
        `draws`, `level` and, as (low, high), `mAP50`, `mAP50-95`, `AR`, `AP_small`, `AP_medium`, `AP_large`,
        `mAP50_multi_label`, `mAP50-95_multi_label`, `AP50_any`, `precision`, `recall`, `f1` and `count_error`; and
        `AP50` and `AP50-95` of each class that occurs.
    """
    weights = np.vstack([np.ones((1, len(any_grain.true)), int), draws(len(any_grain.true), number, seed)])
    present = {name: one for name, one in zip(classes, of_sizes["all"], strict=True) if one.true.any()}
    each = {name: _in_parts(one.precision, weights) for name, one in present.items()}
    grain = Ranked(any_grain.image, any_grain.hit[:1], any_grain.true)
    several = [_in_parts(one.precision, weights) for one in multi_label if one.true.any()]
    figures = {
        **mean_precision(list(each.values()), len(weights)),
        **{f"{name}_multi_label": values for name, values in mean_precision(several, len(weights)).items()},
        "AR": _mean_of([_in_parts(one.recall, weights).mean(1) for one in present.values()], len(weights)),
        **{
            f"AP_{size}": _mean_of([_in_parts(one.precision, weights).mean(1) for one in ones], len(weights))
            for size, ones in of_sizes.items()
            if size != "all"
        },
        "AP50_any": _in_parts(grain.precision, weights)[:, 0],
        **counts.figures(weights),
    }
    intervals = {
        name: varying(values, bounds=(0.0, np.inf), reflected=False) if name == "count_error" else varying(values)
        for name, values in figures.items()
    }
    of_class = {
        name: {"AP50": varying(values[:, 0]), "AP50-95": varying(values.mean(1))} for name, values in each.items()
    }
    return {"draws": number, "level": 0.95, **intervals}, of_class


def shares(counts: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Of what was counted in several kinds the share of each.

    Args:
        counts: (images, kinds).
        weights: (draws, images), how often each image was drawn.

    Returns:
        (draws, kinds); NaN where a draw has nothing.
    """
    drawn = (weights @ counts).astype(np.float64)
    total = drawn.sum(1, keepdims=True)
    return np.divide(drawn, total, out=np.full_like(drawn, np.nan), where=total > 0)


def mean_precision(each: Sequence[np.ndarray], number: int) -> dict[str, np.ndarray]:
    """`mAP50` and `mAP50-95` of so many draws, (number,) each, of what `Ranked.precision` gives for each class."""
    return {
        "mAP50": _mean_of([values[:, 0] for values in each], number),
        "mAP50-95": _mean_of([values.mean(1) for values in each], number),
    }


def varying(
    values: np.ndarray, bounds: tuple[float, float] = (0.0, 1.0), *, reflected: bool = True
) -> tuple[float, float]:
    """`interval` of a figure, the first value, from its draws, the others; NaN where they are all the same."""
    there = values[~np.isnan(values)]
    if not there.size or there.min() == there.max():
        return float("nan"), float("nan")
    return interval(values[0], values[1:], bounds=bounds, reflected=reflected)


def _in_parts(figure: Callable[[np.ndarray], np.ndarray], weights: np.ndarray, size: int = 50) -> np.ndarray:
    """A figure of some draws at a time, as all of them with all boxes would not fit in a small memory."""
    return np.concatenate([figure(weights[i : i + size]) for i in range(0, len(weights), size)])


def _mean_of(classes: Sequence[np.ndarray], number: int) -> np.ndarray:
    """The mean over the classes that each draw has."""
    values = np.array(classes).reshape(-1, number)
    there = ~np.isnan(values)
    total = np.where(there, values, 0).sum(0)
    return np.where(there.any(0), total / np.maximum(there.sum(0), 1), np.nan)
