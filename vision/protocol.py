"""The evaluation protocol: everything that `palyno val` tells, each figure with how sure it is."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from typing import Any

import numpy as np

from ..data.annotations import LabelledImage
from ..errors import InputError
from .calibration import calibration, calibration_draws, grain_events, name_events
from .confusion import confusion
from .intervals import bootstrap, counted, ranked, ranked_by_size, shares, varying
from .intervals import draws as drawn
from .operating import precision_recall
from .results import SlideResult
from .validate import NAMED, OF_UNKNOWN, by_best_class, by_several_classes, evaluate, named, without_names

__all__ = ["full_report", "in_order"]


def full_report(
    truth: Sequence[LabelledImage],
    results: Sequence[SlideResult],
    classes: Sequence[str],
    *,
    conf: float = 0.25,
    draws: int = 500,
    bins: int = 15,
) -> dict[str, Any]:
    """Everything that is to be known of results on labelled images.

    Args:
        truth: True boxes.
        results: What was found, in the same order, down to a confidence well below `conf`.
        classes: The detector's classes.
        conf: The operating threshold, for counts, names, the confusion matrix and precision and recall.
        draws: Bootstrap draws over images for the intervals; 0 gives none, and so does a single image.
        bins: Bins of the reliability tables.

    Returns:
        What `evaluate` returns, and in its `per_class` also `true`, `found`, `precision`, `recall`, `AP50_interval` and
        `AP50-95_interval`; `shares` of `names` and of `unknown`, each (share, low, high), without draws (share,);
        `intervals` of 95 %, or None; `calibration` of `grain` (the confidence), `name` (a grain of this name is here)
        and `name_given_grain`, with `intervals` of their errors; `confusion`; `curve`, precision of any grain at each
        recall; `images`, the grains true and found in each; `not_in_classes`, true grains of names that the detector
        cannot give.
    """
    report = evaluate(truth, results, classes, conf=conf)
    at_conf = [result.above(conf) for result in results]
    found = [result.to_annotations() for result in at_conf]
    any_grain = ranked(without_names(truth), without_names([r.to_annotations() for r in results]), ["grain"])[0]
    intervals: dict[str, Any] | None = None
    of_class: dict[str, dict[str, tuple[float, float]]] = {}
    if draws and len(truth) > 1:
        best = ranked_by_size(truth, [by_best_class(result, classes) for result in results], classes)
        several = ranked(truth, [by_several_classes(result, classes) for result in results], classes)
        intervals, of_class = bootstrap(best, classes, any_grain, counted(truth, found), draws, multi_label=several)
    names = confusion(truth, at_conf)
    recall, precision = precision_recall(any_grain)
    known = set(classes)
    return {
        **report,
        "per_class": {
            name: {
                **figures,
                **{f"{key}_interval": of_class.get(name, {}).get(key) for key in ("AP50", "AP50-95")},
                **names.of_class(name),
            }
            for name, figures in report["per_class"].items()
        },
        "shares": _shares(truth, at_conf, draws),
        "intervals": intervals,
        "calibration": {
            "grain": _calibrated(truth, results, grain_events, bins, draws),
            "name": _calibrated(truth, results, name_events, bins, draws),
            "name_given_grain": _calibrated(truth, results, partial(name_events, given_grain=True), bins, draws),
        },
        "confusion": {**asdict(names), "counts": names.counts.tolist()},
        "curve": {"recall": recall.round(6).tolist(), "precision": precision.tolist()},
        "images": [{"image": t.image, "true": len(t), "found": len(f)} for t, f in zip(truth, found, strict=True)],
        "not_in_classes": dict(sorted(Counter(n for t in truth for n in t.labels if n not in known).items())),
    }


def _shares(truth: Sequence[LabelledImage], results: Sequence[SlideResult], number: int) -> dict[str, Any]:
    """How grains were named, as shares with their intervals; without draws, as shares alone."""
    rows = [np.ones((1, len(truth)), int)]
    if number and len(truth) > 1:
        rows.append(drawn(len(truth), number))
    told = {}
    for (part, counts), kinds in zip(named(truth, results).items(), (NAMED, OF_UNKNOWN), strict=True):
        values = shares(counts, np.vstack(rows))
        ends = [varying(column) if len(rows) > 1 else () for column in values.T]
        told[part] = {kind: (float(values[0, k]), *ends[k]) for k, kind in enumerate(kinds)}
    return told


def _calibrated(
    truth: Sequence[LabelledImage], results: Sequence[SlideResult], events: Any, bins: int, number: int
) -> dict[str, Any]:
    """One calibration, with intervals of its errors."""
    parts = [events([true], [result]) for true, result in zip(truth, results, strict=True)]
    probability, right = (np.concatenate(part) for part in zip(*parts, strict=True))
    one: dict[str, Any] = {**asdict(calibration(probability, right, bins)), "intervals": None}
    if number and len(truth) > 1:
        weights = np.vstack([np.ones((1, len(truth)), int), drawn(len(truth), number)])
        one["intervals"] = {name: varying(values) for name, values in calibration_draws(parts, weights, bins).items()}
    return one


def in_order(truth: Sequence[LabelledImage], results: Sequence[SlideResult]) -> list[SlideResult]:
    """The results in the order of the images, matched by name, or by file name where folders differ.

    Raises:
        InputError: An image has no result, a result has no image, or two have one name.
    """
    for short in (False, True):
        names = [_name(t.image, short) for t in truth]
        slides = {_name(r.slide, short): r for r in results}
        if len(slides) == len(results) and len(set(names)) == len(names) and set(names) == set(slides):
            return [slides[name] for name in names]
    missing = sorted(set(names) - set(slides))
    extra = sorted(set(slides) - set(names))
    what = f"no prediction for {len(missing)} images such as {missing[0]}" if missing else ""
    what = what or (f"{len(extra)} predictions of other images such as {extra[0]}" if extra else "two of one name")
    raise InputError(f"expected one prediction for each of {len(truth)} images, got {len(results)}: {what}")


def _name(path: str, short: bool) -> str:
    path = path.replace("\\", "/")
    return path.rsplit("/", 1)[-1] if short else path
