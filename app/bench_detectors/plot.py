"""Accuracy against latency, a detector a point."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ...data.atomic import write_bytes

__all__ = ["draw"]

OURS, PEER, INK = "#c2410c", "#64748b", "#1e293b"
_OURS = ("hieraedge", "biformer")


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
        from matplotlib.figure import Figure

        canvas = Figure(figsize=(7.6, 4.8), layout="constrained", facecolor="white")
        axes = canvas.add_subplot()
        points = []
        for model, entry in scores["models"].items():
            own = latency["models"].get(model, {}).get("1")
            if own is None or name not in entry["mean"]:
                continue
            value, *ends = entry["mean"][name][figure]
            low, high = ends or (value, value)
            points.append((own["median_ms"], value, low, high, model))
        for x, value, low, high, model in sorted(points):
            colour = OURS if model.startswith(_OURS) else PEER
            axes.plot([x, x], [low, high], color=colour, linewidth=1.6, alpha=0.55, solid_capstyle="round")
            axes.plot(x, value, "o", color=colour, markersize=8)
            axes.annotate(model, (x, value), (8, -3), textcoords="offset points", color=colour, fontweight="bold")
        # Doublings are what matters where one network takes ten times as long as another.
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
        image = io.BytesIO()
        FigureCanvasSVG(canvas).print_svg(image, metadata={"Date": None, "Creator": "palyno bench detectors"})
    write_bytes(file, image.getvalue())
