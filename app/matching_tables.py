"""Figures of `palyno bench matching` as Markdown, and into the page."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..data.atomic import write_text
from ..errors import InputError, UsageError
from .bench_matching import FORMAT
from .markdown import table

__all__ = ["read_document", "render", "tables"]

MARK = "bench:matching"


def read_document(file: str | Path) -> dict[str, Any]:
    """Reads what `bench_matching` gave and was written as JSON.

    Raises:
        InputError: It is not that.
    """
    try:
        document = json.loads(Path(file).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{file}: expected figures of `palyno bench matching`, {error}") from error
    if not isinstance(document, dict) or document.get("format") != FORMAT:
        raise InputError(f"{file}: expected figures of `palyno bench matching`, {FORMAT}; got something else")
    return document


def render(document: Mapping[str, Any], page: str | Path) -> None:
    """Writes the tables between `<!-- bench:matching -->` and `<!-- /bench:matching -->` of a page.

    Raises:
        UsageError: The page does not have the marks once.
    """
    page = Path(page)
    text = page.read_text(encoding="utf-8")
    pattern = re.compile(rf"(<!-- {MARK} -->\n).*?(<!-- /{MARK} -->)", re.DOTALL)
    if len(pattern.findall(text)) != 1:
        raise UsageError(f"{page}: expected one pair of marks, <!-- {MARK} --> and <!-- /{MARK} -->")
    write_text(page, pattern.sub(lambda match: f"{match[1]}{tables(document)}\n{match[2]}", text), overwrite=True)


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
