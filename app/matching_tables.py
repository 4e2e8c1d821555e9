"""Figures of `palyno bench matching` as Markdown, and into the page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from .bench_matching import FORMAT
from .markdown import fill_page, read_document, table

__all__ = ["read_figures", "render", "tables"]


def read_figures(file: str | Path) -> dict[str, Any]:
    """Reads what `bench_matching` gave and was written as JSON.

    Raises:
        InputError: It is not that.
    """
    return read_document(file, "bench matching", format=FORMAT)


def render(document: Mapping[str, Any], page: str | Path) -> None:
    """Writes the tables between `<!-- bench:matching -->` and `<!-- /bench:matching -->` of a page.

    Raises:
        UsageError: The page does not have the marks once.
    """
    fill_page(page, {"matching": tables(document)}, whole=False)


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
            "Recall@1 by which wrong answers are trained against; the difference with limits 95 % by Student's t:",
            table(
                ["wrong answers", "annotation: grain to phrase", "search: phrase to grain"],
                [
                    *([name, *(_several(of[way]) for way in ("annotation", "search"))] for name, of in found.items()),
                    ["sentences minus images", *(_signed(apart[way]) for way in ("annotation", "search"))],
                ],
            ),
        ]
    if atlas := document.get("atlas"):
        low, high = atlas["random_95"]
        rows = [[name, _several(values)] for name, values in atlas["mrr"].items() if name != "random"]
        parts += [
            f"Texts of the Pollen AI Atlas to its pictures, {atlas['pictures']} of them, {atlas['genera']} genera that "
            "were never trained on; MRR of the first picture of the genus:",
            table(
                ["query", "MRR"],
                [*rows, ["in random order", f"{atlas['mrr']['random'][0]:.3f} ({low:.3f} to {high:.3f})"]],
            ),
        ]
    return "\n\n".join(parts)


def _limits(values: Sequence[float]) -> str:
    mean, low, high = values
    return f"{mean:.3f} ({low:.3f} to {high:.3f})"


def _signed(values: Sequence[float]) -> str:
    mean, low, high = values
    return f"{mean:+.3f} ({low:+.3f} to {high:+.3f})"


def _several(values: Sequence[float]) -> str:
    """Mean, and the single ones."""
    mean = sum(values) / len(values)
    return f"{mean:.3f} ({', '.join(f'{value:.3f}' for value in values)})"
