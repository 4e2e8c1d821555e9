"""How the pictures of `palyno val` look: two hues that all eyes tell apart, on white."""

from __future__ import annotations

import re
from typing import Any

from ..data.taxa import lineage

__all__ = ["BLUE", "FAINT", "GREY", "INK", "ORANGE", "RULE", "bare", "empty", "slanted"]

BLUE, ORANGE, GREY, INK, RULE, FAINT = "#0072b2", "#c2410c", "#64748b", "#1e293b", "#cbd5e1", "#f8fafc"


def bare(axes: Any, grid: str) -> None:
    """Axes with a faint grid (`x`, `y` or `both`) in place of a frame."""
    axes.grid(axis=grid, color="#e2e8f0", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(length=0, colors=INK)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set_color("#94a3b8")


def empty(axes: Any, why: str) -> None:
    """Axes that only say why they show nothing."""
    axes.set_axis_off()
    axes.text(0.5, 0.5, why, ha="center", va="center", color=GREY, transform=axes.transAxes)


def slanted(name: str) -> str:
    """The font style of a name: species and genera are set in italics, binomials that the table does not have too."""
    rank = lineage(name).rank
    binomial = rank == "unknown" and re.fullmatch(r"[A-Z][a-z-]+(?<!aceae) [a-z-]+\.?", name)
    return "italic" if rank in ("species", "genus") or binomial else "normal"
