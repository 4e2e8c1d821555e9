"""Figures of `palyno bench matching` as Markdown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from .markdown import table

__all__ = ["tables"]


def tables(document: Mapping[str, Any]) -> str:
    """All figures as Markdown."""
    pictures = document["pictures"]
    parts = [
        f"`val` ({pictures['val']:,} pictures) against `train` ({pictures['train']:,}), limits 95 % by bootstrap over "
        "taxa:",
        table(
            ["what is compared", "Recall@1, mean of taxa (limits)", "of all grains"],
            [
                [row["name"], _limits(row["by_taxon"]), f"{row['grains']:.3f} of {row['n']}"]
                for row in document["encoder"]
            ],
        ),
    ]
    if composed := document.get("composed"):
        splits = list(composed["sizes"])
        parts += [
            f"Words to grains, Recall@5, mean of {document['seeds']} trainings, limits 95 % by bootstrap over queries:",
            table(
                ["matcher", *(f"{s} ({composed['sizes'][s]['queries']} queries)" for s in splits)],
                [[row["name"], *(_limits(row[s]["recall@5"]) for s in splits)] for row in composed["rows"]],
            ),
        ]
    if directions := document.get("directions"):
        found, apart = directions["recall_at_1"], directions["sentences_minus_images"]
        parts += [
            f"Recall@1 by which wrong answers are trained against, {document['direction_seeds']} trainings each; the "
            "difference with limits 95 % by Student's t:",
            table(
                ["wrong answers", "annotation: grain to phrase", "search: phrase to grain"],
                [
                    *([name, *(_span(of[way]) for way in ("annotation", "search"))] for name, of in found.items()),
                    ["sentences minus images", *(_signed(apart[way]) for way in ("annotation", "search"))],
                ],
            ),
        ]
    if atlas := document.get("atlas"):
        parts += _atlas(atlas)
    return "\n\n".join(parts)


def _atlas(atlas: Mapping[str, Any]) -> list[str]:
    kinds = list(atlas["mrr"])
    columns = sorted(atlas["traits"]["columns"].items(), key=lambda pair: -pair[1]["auc"])
    return [
        f"Texts of the Pollen AI Atlas to its pictures, {atlas['pictures']} of them, {len(atlas['genera'])} genera "
        "that were never trained on; MRR of the first picture of the genus, limits 95 % by bootstrap over genera:",
        table(
            ["what ranks the pictures", *kinds],
            [[name, *(_limits(atlas["mrr"][kind][name]) for kind in kinds)] for name in atlas["mrr"][kinds[0]]],
        ),
        *(part for name, against in atlas["against"].items() for part in _against(name, against, kinds)),
        "How well traits are read off grains of genera that were left out (0.5 is chance), all taxa alike:",
        table(
            ["trait", "taxa that have it", "AUC"],
            [[name.replace(":", ": "), str(of["taxa"]), f"{of['auc']:.2f}"] for name, of in columns],
        ),
    ]


def _against(name: str, against: Mapping[str, Any], kinds: Sequence[str]) -> tuple[str, str]:
    others = against[kinds[0]]["differences"]
    rows = [[other, *(_signed(against[kind]["differences"][other]) for kind in kinds)] for other in others]
    times = [f"{against[kind]['times']:.2f} ({against[kind]['best_baseline']})" for kind in kinds]
    return (
        f"{name[:1].upper()}{name[1:]}, against others, the genera paired:",
        table(["minus", *kinds], [*rows, ["times the best of the first three", *times]]),
    )


def _limits(values: Sequence[float]) -> str:
    mean, low, high = values
    return f"{mean:.3f} ({low:.3f} to {high:.3f})"


def _signed(values: Sequence[float]) -> str:
    mean, low, high = values
    return f"{mean:+.3f} ({low:+.3f} to {high:+.3f})"


def _span(values: Sequence[float]) -> str:
    """Mean, least and most."""
    return f"{sum(values) / len(values):.3f} ({min(values):.3f} to {max(values):.3f})"
