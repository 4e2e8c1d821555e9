"""The pages of `docs/` that figures are written into: committed documents read, tables made, marked places filled.

A page says where tables go by comments, `<!-- bench:NAME -->` and `<!-- /bench:NAME -->`; what is between them is
replaced. The same documents give the same bytes.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..data.atomic import write_text
from ..errors import InputError, UsageError

__all__ = ["fill_page", "read_document", "table"]


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table in Markdown, without an end of line after its last row."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def read_document(file: str | Path, command: str, *, has: Sequence[str] = (), **expected: Any) -> dict[str, Any]:
    """Reads figures that a command wrote as JSON.

    Args:
        file: The file.
        command: Of palyno, such as `bench kernels`.
        has: Keys that must be there.
        **expected: Keys that must have these values, such as `schema=1`.

    Raises:
        InputError: It cannot be read, or is something else.
    """
    try:
        document = json.loads(Path(file).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{file}: expected figures of `palyno {command}` as JSON, got {error}") from error
    known = isinstance(document, dict) and all(document.get(key) == value for key, value in expected.items())
    if not known or any(key not in document for key in has):
        wanted = [*(f"{key} {value!r}" for key, value in expected.items()), *has]
        raise InputError(
            f"{file}: expected figures of `palyno {command}` with {', '.join(wanted)}; got something else, or figures "
            "of another version: measure again"
        )
    return document


def fill_page(page: str | Path, sections: Mapping[str, str], *, whole: bool = True) -> list[str]:
    """Fills the marked places of a page.

    Args:
        page: The page.
        sections: Markdown by name of place, without an end of line after the last.
        whole: All of the page's places are among `sections`, which may hold more. Otherwise the page has a place for
            each of `sections`, and its other places stay as they are.

    Returns:
        The names of the places that were filled, in the page's order.

    Raises:
        UsageError: The page is not there, has no place for a section, or one that there is nothing for, or the marks
            are not one pair.
    """
    page = Path(page)
    try:
        text = page.read_text(encoding="utf-8")
    except OSError as error:
        raise UsageError(f"{page}: expected a page with places for tables, got {error.strerror}") from error
    found = re.findall(r"<!-- bench:(\S+) -->", text)
    missing = [name for name in sections if name not in found]
    if not found or (missing and not whole):
        name = missing[0]
        raise UsageError(f"{page}: expected places such as <!-- bench:{name} --> <!-- /bench:{name} -->, got none")
    places = [name for name in found if whole or name in sections]
    for name in places:
        if name not in sections:
            raise UsageError(f"{page}: bench:{name}: expected one of {', '.join(sections)}")
        mark = re.escape(f"bench:{name}")
        pairs = list(re.finditer(rf"(<!-- {mark} -->).*?(<!-- /{mark} -->)", text, re.DOTALL))
        if len(pairs) != 1 or places.count(name) > 1:
            raise UsageError(f"{page}: bench:{name}: expected one pair of marks, closed by <!-- /bench:{name} -->")
        text = f"{text[: pairs[0].end(1)]}\n{sections[name]}\n{text[pairs[0].start(2) :]}"
    write_text(page, text)
    return places
