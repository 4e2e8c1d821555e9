"""The pictures of `palyno val --pictures`, drawn from its report alone."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..data.atomic import write_bytes
from ..data.counts import wilson
from .val_confusion import draw_confusion
from .val_style import BLUE, FAINT, GREY, INK, ORANGE, RULE, bare, empty, slanted

__all__ = ["draw"]


def draw(report: Mapping[str, Any], folder: Path, form: str = "png") -> list[Path]:
    """Draws `classes`, `confusion`, `reliability`, `precision_recall` and `counts`.

    Args:
        report: Of `palyno val`, after `finite`.
        folder: Made if missing; pictures of these names are replaced.
        form: `png` or `svg`. The same report gives the same bytes.

    Returns:
        The files.
    """
    folder.mkdir(parents=True, exist_ok=True)
    pictures: dict[str, Callable[[Any, Mapping[str, Any]], None]] = {
        "classes": _classes,
        "confusion": draw_confusion,
        "reliability": _reliability,
        "precision_recall": _precision_recall,
        "counts": _counts,
    }
    files = []
    for name, fill in pictures.items():
        files.append(folder / f"{name}.{form}")
        write_bytes(files[-1], _picture(report, fill, form))
    return files


def _picture(report: Mapping[str, Any], fill: Callable[[Any, Mapping[str, Any]], None], form: str) -> bytes:
    import matplotlib

    style: Any = {"svg.hashsalt": "palyno", "font.size": 9, "font.family": "DejaVu Sans", "text.color": INK}
    style |= {"axes.labelcolor": INK, "axes.titlesize": 10, "axes.titlelocation": "left"}
    with matplotlib.rc_context(style):
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.backends.backend_svg import FigureCanvasSVG
        from matplotlib.figure import Figure

        figure = Figure(layout="constrained", facecolor="white", dpi=160)
        fill(figure, report)
        image = io.BytesIO()
        if form == "svg":
            FigureCanvasSVG(figure).print_svg(image, metadata={"Date": None, "Creator": "palyno val"})
        else:
            FigureCanvasAgg(figure).print_png(image, metadata={"Software": "palyno val"})
    return image.getvalue()


def _classes(figure: Any, report: Mapping[str, Any]) -> None:
    """Average precision of each class, best first, with its interval, and how many grains it rests on."""
    rows = sorted(report["per_class"].items(), key=lambda item: (-item[1]["AP50"], item[0]))
    figure.set_size_inches(7.6, 1.5 + 0.185 * max(5, len(rows)))
    axes = figure.add_subplot()
    if not rows:
        empty(axes, "No grain of any class of the detector.")
        return
    for y, (_, row) in enumerate(rows):
        if y % 2 == 0:
            axes.axhspan(y - 0.5, y + 0.5, color=FAINT, linewidth=0, zorder=0)
        # One above the other: most overlap.
        for key, colour, at in (("AP50", BLUE, y - 0.14), ("AP50-95", GREY, y + 0.14)):
            if (ends := row[f"{key}_interval"]) and ends[0] is not None:
                axes.plot(ends, [at, at], color=colour, alpha=0.35, linewidth=2.2, solid_capstyle="butt")
        axes.text(1.03, y, f"{row['true']}", transform=axes.get_yaxis_transform(), va="center", ha="left", fontsize=7.5)
    places = range(len(rows))
    hollow = {"linestyle": "none", "markersize": 4, "color": "white", "markeredgecolor": GREY}
    axes.plot([r["AP50-95"] for _, r in rows], places, marker="o", label="AP50-95", zorder=3, **hollow)
    axes.plot([r["AP50"] for _, r in rows], places, "o", color=BLUE, markersize=5, label="AP50", zorder=4)
    axes.axvline(report["mAP50"], color=ORANGE, linewidth=1.2, label=f"mean AP50, {report['mAP50']:.3f}", zorder=1)
    axes.set_yticks(places, [name for name, _ in rows], fontsize=7.5)
    for label in axes.get_yticklabels():
        label.set_style(slanted(label.get_text()))
    above = {"xytext": (0, 4), "textcoords": "offset points", "fontsize": 7.5, "color": GREY}
    axes.annotate("grains", (1.03, 1), xycoords="axes fraction", **above)
    axes.set_xlim(-0.01, 1.01)
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.set_xlabel("average precision" + (" with 95 % interval" if report["intervals"] else ""))
    bare(axes, "x")
    axes.legend(loc="lower left", bbox_to_anchor=(-0.02, 1.0), ncols=3, frameon=False, handletextpad=0.4)


def _reliability(figure: Any, report: Mapping[str, Any]) -> None:
    """Share that came true against the probability given, above how many boxes that was."""
    figure.set_size_inches(8.2, 5.6)
    grid = figure.subplots(2, 2, height_ratios=(4, 1), sharex=True)
    titles = {"grain": "There is a grain", "name": "There is a grain of this name"}
    for column, (key, title) in enumerate(titles.items()):
        upper, lower = grid[0][column], grid[1][column]
        one = report["calibration"][key]
        upper.set_title(title)
        for axes in (upper, lower):
            axes.set_xlim(0, 1)
            bare(axes, "both")
        upper.set_ylim(0, 1.01)
        upper.plot([0, 1], [0, 1], color=GREY, linewidth=1, linestyle=(0, (4, 3)))
        lower.set_xlabel("probability given" if key == "name" else "confidence")
        bins = [b for b in one["bins"] if b["number"]]
        if not bins:
            upper.text(0.5, 0.2, "no boxes", ha="center", color=GREY)
            lower.set_yticks([])
            continue
        x, y = [b["probability"] for b in bins], [b["right"] for b in bins]
        limits = [wilson(b["right"] * b["number"], b["number"]) for b in bins]
        upper.vlines(x, [low for low, _ in limits], [high for _, high in limits], color=BLUE, alpha=0.4, linewidth=3)
        upper.plot(x, y, "o-", color=BLUE, markersize=4.5, linewidth=1)
        figures = f"expected error {one['ece']:.3f}\nBrier score {one['brier']:.3f}\n{one['number']} boxes"
        below = y[len(y) // 2] > x[len(x) // 2]
        place = {"x": 0.97, "y": 0.04, "ha": "right", "va": "bottom"} if below else {"x": 0.03, "y": 0.96, "va": "top"}
        upper.text(s=figures, transform=upper.transAxes, **place)
        lower.bar(
            [b["low"] for b in bins],
            [b["number"] for b in bins],
            [b["high"] - b["low"] for b in bins],
            align="edge",
            color=RULE,
            edgecolor="white",
        )
        lower.set_ylim(0)
    grid[0][0].set_ylabel("share that came true")
    grid[1][0].set_ylabel("boxes")


def _precision_recall(figure: Any, report: Mapping[str, Any]) -> None:
    """Precision at every recall of any grain, lines of equal F1, and where the threshold is."""
    figure.set_size_inches(5.2, 4.8)
    axes = figure.add_subplot()
    for f1 in (0.2, 0.4, 0.6, 0.8, 0.9):
        recall = [f1 / 2 + (1 - f1 / 2) * i / 200 for i in range(1, 201)]
        axes.plot(recall, [f1 * r / (2 * r - f1) for r in recall], color=RULE, linewidth=0.8, zorder=0)
        axes.text(1.01, f1 / (2 - f1), f"F1 {f1}", color=GREY, fontsize=7, va="center")
    curve, counts = report["curve"], report["counts"]
    axes.step(
        curve["recall"],
        curve["precision"],
        where="pre",
        color=BLUE,
        linewidth=1.8,
        label="any grain" if report["AP50_any"] is None else f"any grain, AP50 {report['AP50_any']:.3f}",
    )
    if counts["found"] and counts["true"]:
        if intervals := report["intervals"]:
            for key, along in (("recall", "h"), ("precision", "v")):
                fixed = counts["precision" if along == "h" else "recall"]
                ends = intervals[key]
                if ends[0] is None:
                    continue
                axes.plot(*((ends, [fixed] * 2) if along == "h" else ([fixed] * 2, ends)), color=ORANGE, linewidth=1.2)
        where = f"threshold {report['conf']:g}: precision {counts['precision']:.3f}, recall {counts['recall']:.3f}"
        axes.plot(counts["recall"], counts["precision"], "o", color=ORANGE, markersize=4.5, label=where, zorder=4)
    axes.set_xlim(0, 1)
    axes.set_ylim(0, 1.005)
    axes.set_xlabel("recall (share of the true grains found, IoU 0.5)")
    axes.set_ylabel("precision (share of the boxes that are grains)")
    bare(axes, "both")
    axes.legend(loc="lower left", frameon=False)


def _counts(figure: Any, report: Mapping[str, Any]) -> None:
    """Grains found in each image against true ones."""
    figure.set_size_inches(5.0, 4.8)
    axes = figure.add_subplot()
    images: Sequence[Mapping[str, Any]] = report["images"]
    most = max([1, *(value for image in images for value in (image["true"], image["found"]))])
    axes.plot([0, most * 1.05], [0, most * 1.05], color=GREY, linewidth=1, linestyle=(0, (4, 3)), label="found = true")
    axes.plot(
        [image["true"] for image in images],
        [image["found"] for image in images],
        "o",
        color=BLUE,
        alpha=0.35 if len(images) > 50 else 0.7,
        markeredgewidth=0,
        markersize=6,
        label=f"an image ({len(images)})",
    )
    counts, interval = report["counts"], (report["intervals"] or {}).get("count_error")
    between = f" [{interval[0]:.1%}, {interval[1]:.1%}]" if interval and interval[0] is not None else ""
    error = "" if counts["count_error"] is None else f"; mean error {counts['count_error']:.1%}{between}"
    axes.set_title(f"{counts['found']} found, {counts['true']} true{error}")
    axes.set_xlim(-0.02 * most, most * 1.05)
    axes.set_ylim(-0.02 * most, most * 1.05)
    axes.set_aspect("equal", adjustable="box")
    axes.set_xlabel("true grains in the image")
    axes.set_ylabel(f"grains found at threshold {report['conf']:g}")
    bare(axes, "both")
    axes.legend(loc="upper left", frameon=False)
