"""The confusion matrix as a picture, and beside it the pairs of names most often confused."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ..data.taxa import UNKNOWN
from ..vision.confusion import block_order
from .val_style import GREY, INK, RULE, empty, slanted

__all__ = ["draw_confusion"]

_OTHER = "other name"
_FEWEST = 15
# Inches: the width of the list, the height of one of its lines.
_LIST, _LINE = 5.0, 0.24


def draw_confusion(figure: Any, report: Mapping[str, Any]) -> None:
    """Fills a figure; classes that are taken for one another stand together.

    Args:
        figure: A matplotlib `Figure`.
        report: Of `palyno val`.
    """
    rows, columns, counts = _arranged(report["confusion"])
    if not counts.sum():
        figure.set_size_inches(5, 2)
        empty(figure.add_subplot(), "No grains and no boxes.")
        return
    side = max(3.2, 0.155 * len(rows) + 0.6)
    worst = report["confusion"]["worst"][: max(_FEWEST, int(side / _LINE) - 4)]
    figure.set_size_inches(side + 2.2 + _LIST, max(side + 2.2, _LINE * len(worst) + 2.4))
    matrix, beside = figure.subplots(1, 2, width_ratios=(side + 2.2, _LIST))
    image = _matrix(matrix, rows, columns, counts)
    _list(beside, worst)
    _key(figure, beside, image, _OTHER in columns)


def _arranged(confusion: Mapping[str, Any]) -> tuple[list[str], list[str], np.ndarray]:
    """Rows and columns in the order drawn; names that no grain has, genera most of them, share one column."""
    true, named, counts = confusion["true"], confusion["named"], np.array(confusion["counts"], int)
    taxa = [i for i, name in enumerate(true[:-1]) if name != UNKNOWN]
    square = counts[np.ix_(taxa, range(len(taxa)))]
    order = block_order(square)
    last = [i for i in range(len(true)) if i not in taxa]
    others = counts[:, len(taxa) : -2].sum(1, keepdims=True)
    table = np.hstack([counts[:, order], others, counts[:, -2:]])[[*(taxa[i] for i in order), *last]]
    names = [true[taxa[i]] for i in order]
    columns = [*names, _OTHER, *named[-2:]]
    if not others.any():
        table, columns = np.delete(table, len(taxa), 1), [*names, *named[-2:]]
    return [*names, *(true[i] for i in last)], columns, table


def _matrix(axes: Any, rows: Sequence[str], columns: Sequence[str], counts: np.ndarray) -> Any:
    from matplotlib.colors import LinearSegmentedColormap, PowerNorm

    share = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    ramp = LinearSegmentedColormap.from_list("palyno", ["#ffffff", "#9ecae1", "#0072b2", "#0b2545"])
    # The root of the share, as most confusions are of a few grains in a hundred.
    # Cells come out square but for a little; forced to be, they would push the names off the picture.
    image = axes.imshow(share, cmap=ramp, norm=PowerNorm(0.5, 0, 1), aspect="auto", interpolation="nearest")
    axes.set_xticks(range(len(columns)), columns, rotation=90)
    axes.set_yticks(range(len(rows)), [f"{name}  {n}" for name, n in zip(rows, counts.sum(1), strict=True)])
    size = 8 if len(rows) <= 25 else 6.5
    axes.tick_params(length=0, labelsize=size, colors=INK)
    for labels, names in ((axes.get_xticklabels(), columns), (axes.get_yticklabels(), rows)):
        for label, name in zip(labels, names, strict=True):
            label.set_style(slanted(name))
    taxa = sum(name not in (UNKNOWN, _OTHER) for name in columns) - 1
    for line, at in ((axes.axvline, taxa), (axes.axhline, taxa)):
        line(at - 0.5, color=GREY, linewidth=0.8)
    axes.set_xticks(np.arange(len(columns) + 1) - 0.5, minor=True)
    axes.set_yticks(np.arange(len(rows) + 1) - 0.5, minor=True)
    axes.grid(which="minor", color="#eef2f6", linewidth=0.4)
    axes.tick_params(which="minor", length=0)
    if len(rows) <= 12:
        for (y, x), n in np.ndenumerate(counts):
            if n:
                axes.text(x, y, n, ha="center", va="center", fontsize=8, color="white" if share[y, x] > 0.3 else INK)
    axes.set_xlabel("called")
    axes.xaxis.set_label_position("top")
    axes.set_ylabel("is, with the number of grains")
    for spine in axes.spines.values():
        spine.set_color(RULE)
    return image


def _list(axes: Any, worst: Sequence[Mapping[str, Any]]) -> None:
    axes.set_title("Most often confused")
    axes.set_axis_off()
    if not worst:
        axes.text(0, 0.97, "No grain was given a wrong name.", va="top", color=GREY, transform=axes.transAxes)
        return
    axes.set_xlim(0, _LIST)
    axes.set_ylim(axes.figure.get_size_inches()[1] - 0.6, 0)
    heads = ((0.35, "right", "grains"), (0.85, "right", "share"), (1.0, "left", "is"), (2.95, "left", "called"))
    for x, side, head in heads:
        axes.text(x, 0.14, head, ha=side, va="center", fontsize=8, color=GREY)
    for i, pair in enumerate(worst, 1):
        y = _LINE * i + 0.16
        axes.text(0.35, y, f"{pair['number']}", ha="right", va="center", fontweight="bold")
        axes.text(0.85, y, f"{pair['share']:.0%}", ha="right", va="center", color=GREY)
        axes.text(1.0, y, pair["true"], style=slanted(pair["true"]), va="center")
        axes.text(2.95, y, pair["named"], style=slanted(pair["named"]), va="center")


def _key(figure: Any, axes: Any, image: Any, other: bool) -> None:
    """What the shades stand for, below the list."""
    bar = figure.colorbar(image, cax=axes.inset_axes((0.03, 0.075, 0.6, 0.018)), orientation="horizontal")
    bar.set_ticks([0, 0.05, 0.2, 0.5, 1], labels=["0", "5 %", "20 %", "50 %", "100 %"])
    bar.ax.tick_params(length=0, labelsize=8)
    bar.ax.set_title("share of the grains of a row", fontsize=8, color=GREY)
    bar.outline.set_visible(False)
    if other:
        note = f"{_OTHER}: a genus or family, or a taxon that no grain here is"
        axes.text(0.03, 0.0, note, fontsize=8, color=GREY, transform=axes.transAxes)
