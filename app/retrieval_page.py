"""`docs/retrieval.md` from the documents of all that measures search: `fill`."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..errors import InputError
from . import bench_matching, bench_regions, bench_retrieval, matching_tables
from .markdown import fill_page

__all__ = ["fill", "sections"]

Document = Mapping[str, Any]

# Format of a document -> the name of its place, and its tables.
_PLACES: dict[str, tuple[Callable[[Document], str], Callable[[Document], str]]] = {
    bench_retrieval.FORMAT: (lambda document: f"text-{document['split']}", bench_retrieval.tables),
    bench_matching.FORMAT: (lambda document: "matching", matching_tables.tables),
    bench_regions.FORMAT: (lambda document: "regions-grey" if document["grey"] else "regions", bench_regions.tables),
}


def fill(paths: Sequence[Path], page: str | Path) -> list[str]:
    """Writes tables between `<!-- bench:NAME -->` and `<!-- /bench:NAME -->` of a page.

    Args:
        paths: Documents of `palyno bench retrieval`, `matching` and `regions`; of a folder, those that are such.
        page: The page.

    Returns:
        The names of the places, in the page's order.

    Raises:
        InputError: A file is no such document, a folder has none, or two are for one place.
        UsageError: The page does not have a place once.
    """
    return fill_page(page, sections(paths), whole=False)


def sections(paths: Sequence[Path]) -> dict[str, str]:
    """The tables by the name of their place; see `fill`."""
    found: dict[str, tuple[Path, str]] = {}
    for path in paths:
        files = sorted(path.glob("*.json")) if path.is_dir() else [path]
        documents = [(file, document) for file in files if (document := _read(file)) is not None]
        if not documents:
            raise InputError(
                f"{path}: expected figures of `palyno bench retrieval`, `matching` or `regions` as JSON, got none, or "
                "those of another version: measure again"
            )
        for file, document in documents:
            name, tables = _PLACES[document["format"]]
            if (place := name(document)) in found:
                raise InputError(f"{file}: expected one document for bench:{place}, got another: {found[place][0]}")
            found[place] = file, tables(document)
    return {place: text for place, (_, text) in found.items()}


def _read(file: Path) -> Document | None:
    """A document that has a place; None for another file."""
    try:
        document = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return document if isinstance(document, dict) and document.get("format") in _PLACES else None
