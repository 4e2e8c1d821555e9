"""The plot of `docs/kernels.md`: for each thing that was asked, ours, the fastest peer and the limit of the machine."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ...data.atomic import write_bytes
from .render import verdicts

__all__ = ["draw"]

OURS, PEER, FLOOR, INK = "#c2410c", "#64748b", "#0f766e", "#1e293b"


def draw(documents: Sequence[dict[str, Any]], file: str | Path) -> None:
    """Draws the plot as SVG; the same documents give the same bytes.

    Args:
        documents: From `bench_kernels`.
        file: Where to; replaced.
    """
    import matplotlib

    with matplotlib.rc_context({"svg.hashsalt": "palyno", "font.size": 9, "font.family": "DejaVu Sans"}):
        from matplotlib.backends.backend_svg import FigureCanvasSVG
        from matplotlib.figure import Figure

        rows = [entry for entry in verdicts(documents) if not entry["memory"] and entry["reached"] is not None]
        figure = Figure(figsize=(9.2, 1.1 + 0.42 * max(1, len(rows))), layout="constrained", facecolor="white")
        _fill(figure.add_subplot(), rows)
        image = io.BytesIO()
        FigureCanvasSVG(figure).print_svg(image, metadata={"Date": None, "Creator": "palyno bench kernels"})
    write_bytes(file, image.getvalue())


def _fill(axes: Any, rows: Sequence[dict[str, Any]]) -> None:
    for y, entry in enumerate(rows):
        if y % 2 == 0:
            axes.axhspan(y - 0.5, y + 0.5, color="#f8fafc", linewidth=0, zorder=0)
        known = {contender["name"]: contender for contender in entry["row"]["contenders"]}
        ours, peer = known[entry["ours"]]["median_ms"], known[entry["peer"]]["median_ms"]
        floor = entry["row"]["floor_ms"]
        axes.plot([ours, peer], [y, y], color="#cbd5e1", linewidth=2.5, solid_capstyle="round", zorder=1)
        axes.plot(peer, y, "o", color="white", markeredgecolor=PEER, markeredgewidth=1.6, markersize=7, zorder=2)
        axes.plot(ours, y, "o", color=OURS, markersize=7.5, zorder=3)
        if floor and entry["row"]["operations"]:
            axes.plot(floor, y, "|", color=FLOOR, markersize=11, markeredgewidth=2, zorder=2)
        times = f"{entry['reached']:.3g}x"
        axes.annotate(
            f"{times}  (asked {entry['asked']:g}x)",
            (1.015, y),
            xycoords=("axes fraction", "data"),
            va="center",
            color=INK if entry["met"] else OURS,
            fontweight="bold" if entry["met"] else "normal",
        )
    axes.set_xscale("log")
    axes.set_yticks(range(len(rows)), [_label(entry) for entry in rows])
    axes.set_ylim(max(1, len(rows)) - 0.5, -0.5)
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.set_xlabel("milliseconds a call, logarithmic")
    axes.grid(axis="x", color="#e2e8f0", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(length=0, colors=INK)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set_color("#94a3b8")
    marks: list[Any] = [
        *axes.plot([], [], "o", color=OURS, markersize=7.5, label="palyno"),
        *axes.plot([], [], "o", color="white", markeredgecolor=PEER, markeredgewidth=1.6, label="fastest peer"),
        *axes.plot(
            [],
            [],
            "|",
            color=FLOOR,
            markersize=11,
            markeredgewidth=2,
            label="limit of the machine for the definition as it stands",
        ),
    ]
    axes.legend(
        handles=marks,
        loc="lower left",
        bbox_to_anchor=(0, 1),
        ncols=3,
        frameon=False,
        handletextpad=0.3,
        borderaxespad=0.2,
    )


def _label(entry: dict[str, Any]) -> str:
    row = entry["row"]
    name = row["operator"].split("-")[0] + (" (worst of the sweep)" if "cases" in entry else "")
    place = {"cuda": "GPU", "cpu": "CPU"}[entry["device"]["kind"]]
    return f"{name} {row['case']}\n{'x'.join(str(side) for side in row['shape'])}, {row['dtype']}, {place}"
