"""What `palyno val` tells a reader at a terminal."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

__all__ = ["finite", "lines"]


def finite(value: Any) -> Any:
    """The document with None where there is no figure, as JSON has no NaN."""
    if isinstance(value, Mapping):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def lines(report: Mapping[str, Any]) -> Iterator[str]:
    """The lines; figures with their intervals of 95 % in brackets.

    Args:
        report: Of `palyno val`, after `finite`.
    """
    counts, intervals = report["counts"], report["intervals"] or {}

    def figure(name: str, value: float | None, percent: bool = False, of: Mapping[str, Any] | None = intervals) -> str:
        show = (lambda v: f"{v:.1%}") if percent else (lambda v: f"{v:.3f}")
        low, high = (of or {}).get(name) or (None, None)
        return "none" if value is None else show(value) + (f" [{show(low)}, {show(high)}]" if low is not None else "")

    yield f"{report['model']} on {counts['images']} images of {report['split']}, {counts['true']} grains"
    yield (
        f"mAP50 {figure('mAP50', report['mAP50'])}   mAP50-95 {figure('mAP50-95', report['mAP50-95'])}   "
        f"AP50 of any grain {figure('AP50_any', report['AP50_any'])}"
    )
    yield (
        f"with up to three names a box, as other tools count: mAP50 "
        f"{figure('mAP50_multi_label', report['mAP50_multi_label'])}   mAP50-95 "
        f"{figure('mAP50-95_multi_label', report['mAP50-95_multi_label'])}"
    )
    yield (
        f"AR {figure('AR', report['AR'])}   mAP50-95 of grains below 32 px {figure('AP_small', report['AP_small'])}, "
        f"up to 96 px {figure('AP_medium', report['AP_medium'])}, above {figure('AP_large', report['AP_large'])}"
    )
    if chosen := report.get("chosen"):
        between = " (95 % of draws: {:g} to {:g})".format(*chosen["interval"]) if chosen["interval"] else ""
        yield f"chosen on this split: conf {chosen['conf']:g}{between}; confirm it on images that it was not chosen on"
    yield (
        f"at conf {report['conf']:g}: precision {figure('precision', counts['precision'])}, "
        f"recall {figure('recall', counts['recall'])}, F1 {figure('f1', counts['f1'])}, "
        f"mean count error {figure('count_error', counts['count_error'], percent=True)}"
    )
    for part, what in (("names", "names of matched grains"), ("unknown", "unknown grains")):
        told = []
        for kind, number in report[part].items():
            share, *ends = report["shares"][part].get(kind, (None,))
            of = {kind: ends} if ends else None
            told.append(f"{number} {kind.replace('_', ' ')}")
            told[-1] += "" if share is None else f" ({figure(kind, share, percent=True, of=of)})"
        yield f"{what}: {', '.join(told)}"
    if absent := report["not_in_classes"]:
        yield f"true grains that the detector has no name for: {_tally(absent)}"
    for key, what in (("grain", "confidence"), ("name", "probability of the name")):
        if (one := report["calibration"][key])["number"]:
            yield (
                f"calibration of the {what}: expected error {figure('ece', one['ece'], of=one['intervals'])}, "
                f"Brier score {figure('brier', one['brier'], of=one['intervals'])} ({one['number']} boxes)"
            )
    if len(report["per_class"]) > 1:
        hardest = sorted(report["per_class"].items(), key=lambda item: item[1]["AP50-95"])[:3]
        yield "lowest mAP50-95 of a name: " + ", ".join(
            f"{name} {figure(name, row['AP50-95'], of={name: row['AP50-95_interval']})} ({row['true']} grains)"
            for name, row in hardest
        )
    if worst := report["confusion"]["worst"][:5]:
        yield "most often confused: " + ", ".join(
            f"{pair['true']} called {pair['named']} {pair['number']} times ({pair['share']:.0%})" for pair in worst
        )


def _tally(numbers: Mapping[str, int]) -> str:
    return ", ".join(f"{number} {name.replace('_', ' ')}" for name, number in numbers.items())
