r"""Texts to search in, from the files that laboratories have: notes, tables, and the exports of reference managers.

    .txt           a text a paragraph; blank lines part them
    .jsonl         an object a line with `text`, `title` or both; `_id` or `id`; `taxon`; what else there is is kept
    .csv           the same as columns
    .bib, .ris     title and abstract of each entry; authors, year, DOI, keywords are kept

An entry that cannot be read is left out and told with its place; the others of its file are kept. UTF-8 only. LaTeX's
accents (`{\"u}`) become letters.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import re
import unicodedata
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..errors import AnnotationError, UsageError
from .annotations.reading import read_text

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


_BIB_START = re.compile(r"^[ \t]*@\s*(\w+)\s*([{(])", re.MULTILINE)
_BIB_NEXT = re.compile(r"@\s*(?!comment|string|preamble)(\w+)\s*([{(])", re.IGNORECASE)
_BIB_FIELD = re.compile(r"\s*,?\s*([\w:.-]+)\s*=\s*")
_BIB_NOT_ENTRIES = ("comment", "string", "preamble")
_BIB_KEPT = {"year": "year", "doi": "doi", "journal": "journal", "url": "url", "language": "language"}


def _bib(text: str) -> Iterator[Entry]:
    starts = [match for match in _BIB_START.finditer(text) if match[1].lower() not in _BIB_NOT_ENTRIES]
    ends = [match.start() for match in _BIB_START.finditer(text)] + [len(text)]
    for match in starts:
        # The next entry bounds this one, so that a brace that is never closed spoils no other.
        end = next(end for end in ends if end > match.start())
        at: re.Match[str] | None = match
        while at is not None:
            place = str(text.count("\n", 0, at.start()) + 1)
            body = text[at.end() : end].rstrip()
            try:
                entry, stop = _bib_entry(at[1].lower(), body, ")" if at[2] == "(" else "}")
            except ValueError as error:
                yield place, str(error)
                break
            yield place, entry
            # Another one may begin in the line in which this one ends.
            at = _BIB_NEXT.search(text, at.end() + stop, end)


def _bib_entry(kind: str, body: str, closing: str) -> tuple[dict[str, Any], int]:
    """An entry, and where in the body it ends."""
    key, comma, _ = body.partition(",")
    if not comma or not key.strip():
        raise ValueError("expected a key and fields, got none")
    entry: dict[str, Any] = {"id": key.strip(), "type": kind}
    at = len(key)
    while True:
        match = _BIB_FIELD.match(body, at)
        if not match:
            break
        raw, at = _bib_value(body, match.end())
        name, value = match[1].lower(), _plain(raw)
        if name in ("title", "abstract"):
            entry[name] = value
        elif name == "author":
            entry["authors"] = [_plain(author) for author in re.split(r"\s+and\s+", raw) if author.strip()]
        elif name == "keywords":
            entry["keywords"] = [word for word in re.split(r"\s*[;,]\s*", value) if word]
        elif name in _BIB_KEPT:
            entry[_BIB_KEPT[name]] = value
    rest = body[at:].lstrip(", \t\r\n")
    if not rest.startswith(closing):
        raise ValueError(f"expected {closing} at its end, got {rest[:30].strip() or 'nothing'!r}")
    return entry, len(body) - len(rest) + 1


def _bib_value(body: str, at: int) -> tuple[str, int]:
    """A value that begins at a place, pieces joined by `#` together, and where it ends."""
    pieces = []
    while True:
        if at < len(body) and body[at] in '{"':
            end = _bib_close(body, at)
            pieces.append(body[at + 1 : end])
            at = end + 1
        else:
            match = re.compile(r"[^\s,#{}()]+").match(body, at)
            if not match:
                raise ValueError(f"expected a value, got {body[at : at + 20]!r}")
            pieces.append(match[0])
            at = match.end()
        match = re.compile(r"\s*#\s*").match(body, at)
        if not match:
            return "".join(pieces), at
        at = match.end()


def _bib_close(body: str, at: int) -> int:
    """Where the brace or the quote that opens at a place is closed."""
    depth, quoted = 0, body[at] == '"'
    for place in range(at + quoted, len(body)):
        character = body[place]
        if body[place - 1] == "\\" and character in '{}"':
            continue
        depth += (character == "{") - (character == "}")
        if (quoted and character == '"' and depth == 0) or (not quoted and depth == 0):
            return place
    raise ValueError("expected a closing brace or quote, got the end of the entry")


_ACCENTS = dict(
    zip(
        "`'^\"~=.uvHcdbkr",
        "\u0300\u0301\u0302\u0308\u0303\u0304\u0307\u0306\u030c\u030b\u0327\u0323\u0331\u0328\u030a",
        strict=True,
    )
)
_ACCENT = re.compile(r"\\([`'^\"~=.]|[uvHcdbkr](?![A-Za-z]))\s*(?:\{\s*\\?([A-Za-z])\s*\}|\\?([A-Za-z]))")
_LETTERS = {"ss": "ß", "o": "ø", "O": "Ø", "l": "ł", "L": "Ł", "ae": "æ", "AE": "Æ", "oe": "œ", "OE": "Œ", "aa": "å"}
_LETTERS |= {"AA": "Å", "i": "i", "j": "j", "times": "×", "mu": "µ", "textmu": "µ", "textdegree": "°"}
_COMMAND = re.compile(r"\\([A-Za-z]+)\s*(?:\{\})?")


def _plain(text: str) -> str:
    """A value without LaTeX's marks."""
    text = _ACCENT.sub(lambda match: (match[2] or match[3]) + _ACCENTS[match[1]], text)
    text = _COMMAND.sub(lambda match: _LETTERS.get(match[1], ""), text)
    text = re.sub(r"(?<!\\)[{}$]", "", text).replace("---", "—").replace("--", "–").replace("~", " ")
    text = re.sub(r"\\(.)", r"\1", text)
    return unicodedata.normalize("NFC", " ".join(text.split()))


_READERS: dict[str, Callable[[str], Iterator[Entry]]] = {
    ".txt": _paragraphs,
    ".jsonl": _objects,
    ".csv": _table,
    ".bib": _bib,
    ".ris": _ris,
}
TEXT_SUFFIXES = tuple(_READERS)
