"""Texts to search in, from the files that laboratories have: notes, tables, and the exports of reference managers.

    .txt           a text a paragraph; blank lines part them
    .jsonl         an object a line with `text`, `title` or both; `_id` or `id`; `taxon`; what else there is is kept
    .csv           the same as columns
    .bib, .ris     title and abstract of each entry; authors, year, DOI, keywords are kept

An entry that cannot be read is left out and told with its place; the others of its file are kept. UTF-8 only.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..errors import AnnotationError, UsageError
from .annotations.reading import read_text
from .bibtex import read_bibtex

__all__ = ["TEXT_SUFFIXES", "Passage", "Texts", "read_texts"]

# Characters of one text: a long book. What is longer is a whole library that came as one line.
_LONGEST = 1_000_000


@dataclass(frozen=True)
class Passage:
    """One text.

    Attributes:
        key: The same for the same entry of the same file: its identifier there, else a hash of the text.
        text: Title and text.
        taxon: What it is about, where the file says so.
        extra: What else the file says.
    """

    key: str
    text: str
    taxon: str | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Texts:
    """The texts of a file.

    Attributes:
        passages: Those that could be read, each once.
        skipped: Place and reason of each that could not.
    """

    passages: tuple[Passage, ...]
    skipped: tuple[tuple[str, str], ...]


Entry = tuple[str, Mapping[str, Any] | str]


def read_texts(path: str | Path) -> Texts:
    """Reads a file of texts.

    Args:
        path: Its suffix says what it is, see above.

    Raises:
        UsageError: Another suffix.
        AnnotationError: The file cannot be read at all.
    """
    path = Path(path)
    read = _READERS.get(path.suffix.lower())
    if read is None:
        raise UsageError(
            f"{path}: expected a file of texts, {', '.join(TEXT_SUFFIXES)}, got {path.suffix or 'no suffix'}"
        )
    passages: dict[str, Passage] = {}
    skipped = []
    for place, entry in read(read_text(path)):
        where = f"{path.name}:{place}"
        if isinstance(entry, str):
            skipped.append((where, entry))
            continue
        try:
            passage = _passage(path.name, entry)
        except ValueError as error:
            skipped.append((where, str(error)))
            continue
        if passage.key in passages:
            same = passages[passage.key] == passage
            skipped.append((where, "stands there twice" if same else f"a second entry with the key {passage.key!r}"))
        else:
            passages[passage.key] = passage
    return Texts(tuple(passages.values()), tuple(skipped))


def _passage(file: str, entry: Mapping[str, Any]) -> Passage:
    """An entry with its fields in place."""
    fields = {str(name): value for name, value in entry.items() if value not in (None, "", [], {})}
    parts = [fields.pop(name, "") for name in ("title", "text", "abstract")]
    if not all(isinstance(part, str) for part in parts):
        raise ValueError("expected text as text, got something else")
    text = "\n".join(part.strip() for part in parts if part.strip())
    if not text or "\0" in text:
        raise ValueError("expected a title or a text, got none" if not text else "expected text without NUL characters")
    if not any(map(str.isalnum, text)):
        raise ValueError(f"expected words, got {text!r:.40} without a letter or digit")
    if len(text) > _LONGEST:
        raise ValueError(f"expected at most {_LONGEST:,} characters, got {len(text):,}; split it into passages")
    try:
        digest = hashlib.sha256(text.encode()).hexdigest()[:16]
    except UnicodeEncodeError as error:
        raise ValueError("expected Unicode text, got half a character") from error
    names = [fields.pop(name, None) for name in ("_id", "id")]
    key = next((str(name) for name in names if isinstance(name, str | int)), digest)
    taxon = fields.pop("taxon", None)
    if taxon is not None and not isinstance(taxon, str):
        raise ValueError(f"expected the taxon's name, got {taxon!r:.40}")
    return Passage(f"{file}:{key}", text, taxon, fields)


def _paragraphs(text: str) -> Iterator[Entry]:
    line = 1
    for part in re.split(r"(\n[ \t]*\n\s*)", text.replace("\r\n", "\n")):
        if part.strip():
            yield str(line), {"text": " ".join(part.split())}
        line += part.count("\n")


def _objects(text: str) -> Iterator[Entry]:
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            entry = json.loads(line)
        except (ValueError, RecursionError) as error:
            yield str(number), f"expected a JSON object, got {error}"
            continue
        yield str(number), entry if isinstance(entry, dict) else f"expected a JSON object, got {line.strip():.40}"


def _table(text: str) -> Iterator[Entry]:
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    try:
        header = next(reader, [])
        if not {"text", "title"} & set(header):
            raise AnnotationError(f"expected a column `text` or `title`, got {', '.join(header) or 'an empty file'}")
        for cells in reader:
            if len(cells) == len(header):
                yield str(reader.line_num), dict(zip(header, cells, strict=True))
            elif cells:
                yield str(reader.line_num), f"expected {len(header)} cells, got {len(cells)}"
    except csv.Error as error:
        yield str(reader.line_num), f"expected CSV, got {error}; what follows is not read"


_RIS_LINE = re.compile(r"([A-Z][A-Z0-9])  ?-(?: (.*))?$")
_RIS_FIELDS = {"ID": "id", "TI": "title", "T1": "title", "AB": "abstract", "N2": "abstract", "PY": "year", "Y1": "year"}
_RIS_FIELDS |= {"DO": "doi", "JO": "journal", "T2": "journal", "UR": "url", "LA": "language"}
_RIS_LISTS = {"AU": "authors", "A1": "authors", "KW": "keywords"}


def _ris(text: str) -> Iterator[Entry]:
    entry: dict[str, Any] | None = None
    begun, last = 0, ""
    for number, line in enumerate(text.splitlines(), 1):
        match = _RIS_LINE.match(line)
        tag, value = (match[1], (match[2] or "").strip()) if match else ("", line.strip())
        if tag == "TY":
            if entry is not None:
                yield str(begun), "expected ER before the next entry, got none"
            entry, begun, last = {"type": value}, number, ""
        elif entry is None:
            if value:
                yield str(number), f"expected TY to begin an entry, got {line.strip():.40}"
        elif tag == "ER":
            yield str(begun), entry
            entry = None
        elif tag in _RIS_LISTS:
            last = ""
            entry.setdefault(_RIS_LISTS[tag], []).append(value)
        elif tag:
            last = _RIS_FIELDS.get(tag, "")
            if last:
                entry.setdefault(last, value)
        elif value and last:
            # A long field may go on in lines of its own.
            entry[last] = f"{entry[last]} {value}"
    if entry is not None:
        yield str(begun), "expected ER at the end, got none"


_READERS: dict[str, Callable[[str], Iterator[Entry]]] = {
    ".txt": _paragraphs,
    ".jsonl": _objects,
    ".csv": _table,
    ".bib": read_bibtex,
    ".ris": _ris,
}
TEXT_SUFFIXES = tuple(_READERS)
