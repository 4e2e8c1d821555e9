"""Accuracy against latency, a detector a point."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ...data.atomic import write_bytes

__all__ = ["draw"]

OURS, PEER, INK = "#c2410c", "#64748b", "#1e293b"
_OURS = ("hieraedge", "biformer")
# Where a name may stand, in points from its point, or from an end of its bar above or below which it is centred; the
# first that is free is taken. Farther off it is less clear whose name it is.
_NEAR = [("value", side * 8, dy) for dy in (0, 8, -8) for side in (1, -1)]
_ENDS = [("high", 0, 9), ("low", 0, -9), ("high", 0, 21), ("low", 0, -21)]
_FAR = [("value", side * dx, dy) for dx in (8, 24) for dy in (16, -16, 28, -28) for side in (1, -1)]


def draw(
    scores: Mapping[str, Any], latency: Mapping[str, Any], file: Path, *, name: str, figure: str = "mAP50-95"
) -> None:
    """Draws an SVG; the same documents give the same bytes.

    Args:
        scores: From `score_all`.
        latency: From `measure_latency`; models that it does not have are left out.
        file: Where to; replaced.
        name: Set of images.
        figure: What is drawn upwards, with its interval where it has one.
    """
    import matplotlib

    with matplotlib.rc_context({"svg.hashsalt": "palyno", "font.size": 10, "font.family": "DejaVu Sans"}):
        from matplotlib.backends.backend_svg import FigureCanvasSVG

        canvas = FigureCanvasSVG(_figure(scores, latency, name, figure))
        image = io.BytesIO()
        canvas.print_svg(image, metadata={"Date": None, "Creator": "palyno bench detectors"})
    write_bytes(file, image.getvalue())


def _figure(scores: Mapping[str, Any], latency: Mapping[str, Any], name: str, figure: str) -> Any:
    from matplotlib.figure import Figure

    # An SVG is of 72 points an inch: labels are measured as they will be drawn.
    canvas = Figure(figsize=(7.6, 4.8), layout="constrained", facecolor="white", dpi=72)
    axes = canvas.add_subplot()
    points = []
    for model, entry in scores["models"].items():
        own = latency["models"].get(model, {}).get("1")
        if own is None or name not in entry["mean"]:
            continue
        value, *ends = entry["mean"][name][figure]
        low, high = ends or (value, value)
        points.append((own["median_ms"], value, low, high, model))
    points.sort()
    for x, value, low, high, model in points:
        axes.plot([x, x], [low, high], color=_colour(model), linewidth=1.6, alpha=0.55, solid_capstyle="round")
        axes.plot(x, value, "o", color=_colour(model), markersize=8)
    # Doublings are what matters where one network takes ten times as long as another.
    if points and points[-1][0] > 4 * points[0][0]:
        axes.set_xscale("log", base=2)
    axes.xaxis.set_major_formatter("{x:g}")
    device = latency["device"]
    threads = f", {device['threads']} threads" if device["kind"] == "cpu" else ""
    axes.set_xlabel(f"milliseconds an image of {latency['side']} px, {device['name']}{threads}")
    axes.set_ylabel(f"{figure}, set {name}")
    axes.margins(x=0.22, y=0.12)
    axes.grid(color="#e2e8f0", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(length=0, colors=INK)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    canvas.draw_without_rendering()
    _label(axes, points)
    return canvas


def _label(axes: Any, points: Sequence[tuple[float, float, float, float, str]]) -> None:
    """Writes each model's name beside its point, where it touches no bar, no point and no other name."""
    from matplotlib.transforms import Bbox

    taken = []
    for x, value, low, high, _ in points:
        (left, bottom), (_, middle), (_, top) = axes.transData.transform([(x, low), (x, value), (x, high)])
        taken += [Bbox([[left - 2, bottom], [left + 2, top]]), Bbox([[left - 5, middle - 5], [left + 5, middle + 5]])]
    for point in points:
        for place in (*_NEAR, *_ENDS, *_FAR):
            text = _name(axes, point, place)
            box = text.get_window_extent()
            inside = (axes.bbox.min <= box.min).all() and (box.max <= axes.bbox.max).all()
            if inside and not any(box.overlaps(other) for other in taken):
                break
            text.remove()
        else:
            box = _name(axes, point, _NEAR[0]).get_window_extent()
        taken.append(box)


def _name(axes: Any, point: tuple[float, float, float, float, str], place: tuple[str, int, int]) -> Any:
    x, value, low, high, model = point
    of, dx, dy = place
    return axes.annotate(
        model,
        (x, {"value": value, "low": low, "high": high}[of]),
        (dx, dy),
        textcoords="offset points",
        ha="center" if dx == 0 else "left" if dx > 0 else "right",
        va="center",
        color=_colour(model),
        fontweight="bold",
    )


def _colour(model: str) -> str:
    return OURS if model.startswith(_OURS) else PEER
