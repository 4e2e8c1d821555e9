"""Which taxa are taken for which: what each true grain was called, and what was called a grain without being one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..data.annotations import LabelledImage
from ..data.taxa import UNKNOWN, counted_as, lineage
from .metrics import match
from .results import SlideResult

__all__ = ["FALSE", "MISSED", "Confusion", "agrees", "block_order", "confusion"]

MISSED, FALSE = "missed", "false"


def agrees(name: str, rank: str, label: str) -> bool:
    """Whether a name, given at a rank, is right for a label: the same, or the label's own taxon at that rank.

    `Poaceae sp.` claims no species, so that it is right for `Zea mays` as `Poaceae` is.
    """
    own, taxon = lineage(label), counted_as(name)
    if taxon != name:
        return taxon in (counted_as(label), own.genus, own.family)
    return name == label or name == getattr(own, rank, None)


@dataclass(frozen=True)
class Confusion:
    """Rows are what a grain is, columns what it was called.

    Attributes:
        true: Names of the rows: the labels that occur, `unknown` after the taxa, and `false` for boxes that are no
            grain.
        named: Names of the columns: those of the rows in the same order; other names that were given, such as a genus;
            `unknown`; and `missed` for grains without a box.
        counts: Grains, (rows, columns). A row sums to the grains of its label, all but the last to all true grains, a
            column but the last to the boxes of its name.
        worst: The 40 pairs of names most often confused, as true, named, number and the share of the label's grains;
            names that are right at a coarser rank, and `unknown` for a taxon, are not confusions.
    """

    true: tuple[str, ...]
    named: tuple[str, ...]
    counts: np.ndarray
    worst: tuple[dict[str, Any], ...]

    def of_class(self, name: str) -> dict[str, float | int]:
        """`true` grains, `found` boxes of that name, `precision` and `recall`; NaN where there is nothing to share."""
        row = self.counts[self.true.index(name)] if name in self.true[:-1] else np.zeros(len(self.named), int)
        at = self.named.index(name) if name in self.named[:-1] else None
        hits, found = (0, 0) if at is None else (int(row[at]), int(self.counts[:, at].sum()))
        true = int(row.sum())
        return {
            "true": true,
            "found": found,
            "precision": hits / found if found else float("nan"),
            "recall": hits / true if true else float("nan"),
        }


def confusion(truth: Sequence[LabelledImage], results: Sequence[SlideResult]) -> Confusion:
    """Counts names of grains; boxes are matched whatever their names, as in `count_quality`.

    Args:
        truth: True boxes.
        results: What was found at the operating threshold, in the same order.
    """
    pairs: Counter[tuple[str | None, str | None]] = Counter()
    coarser: set[tuple[str, str]] = set()
    for true, result in zip(truth, results, strict=True):
        partner = match(true.boxes, result.boxes, result.confidence)
        for i, j in enumerate(partner.tolist()):
            label, name = (true.labels[j] if j >= 0 else None), result.taxa[i]
            pairs[label, name] += 1
            if label is not None and agrees(name, result.ranks[i], label):
                coarser.add((label, name))
        seen = set(partner.tolist())
        pairs.update((label, None) for j, label in enumerate(true.labels) if j not in seen)
    labels = sorted({label for label, _ in pairs if label is not None}, key=lambda label: (label == UNKNOWN, label))
    names = {name for _, name in pairs if name is not None}
    taxa = [label for label in labels if label != UNKNOWN]
    taxa += sorted(names - set(taxa) - {UNKNOWN})
    # None stands for what has no name, so that a taxon that is called like the reserved words stays apart.
    rows: list[str | None] = [*labels, None]
    columns: list[str | None] = [*taxa, UNKNOWN, None]
    counts = np.array([[pairs[row, column] for column in columns] for row in rows], int)
    total = {label: int(counts[i].sum()) for i, label in enumerate(labels)}
    wrong: list[dict[str, Any]] = [
        {"true": label, "named": name, "number": number, "share": number / total[label]}
        for (label, name), number in pairs.items()
        if label is not None and name not in (None, UNKNOWN) and (label, name) not in coarser
    ]
    wrong.sort(key=lambda pair: (-pair["number"], -pair["share"], pair["true"], pair["named"]))
    return Confusion((*labels, FALSE), (*taxa, UNKNOWN, MISSED), counts, tuple(wrong[:40]))


def block_order(counts: np.ndarray) -> list[int]:
    """An order of classes in which those that are taken for one another stand together.

    Leaves of an average-linkage tree over `1 - (share of i called j + share of j called i) / 2`, turned so that
    neighbours are as like as can be (Bar-Joseph et al. 2001).

    Args:
        counts: Of the classes among themselves, (classes, classes).
    """
    if len(counts) < 3:
        return list(range(len(counts)))
    from scipy.cluster.hierarchy import leaves_list, linkage
    from scipy.spatial.distance import squareform

    share = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    apart = 1 - (share + share.T) / 2
    np.fill_diagonal(apart, 0)
    return leaves_list(linkage(squareform(apart, checks=False), "average", optimal_ordering=True)).tolist()
