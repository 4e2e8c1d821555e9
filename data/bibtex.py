r"""BibTeX's entries: titles, abstracts and who wrote them, with LaTeX's marks taken off.

    @string{rpp = "Review of Palaeobotany and Palynology"}
    @article{halbritter, title = {Preparing living pollen}, journal = rpp # " A", year = 1998}

Names that `@string` gave before are put in, small letters and capitals alike, and pieces joined by `#`. A name that
nothing was given for stays as it is: abbreviations of journals are often known to a style alone. LaTeX's accents
(`{\"u}`) become letters.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

__all__ = ["read_bibtex"]


@dataclass
class Macros:
    """What names of `@string` stand for, in the order of the file.

    Attributes:
        room: Characters that they may still put into values: some lines could fill any memory.
        values: By name, in small letters.
    """

    room: int
    values: dict[str, str] = field(default_factory=dict)

    def put_in(self, token: str) -> str:
        """What a word without quotes stands for.

        Raises:
            ValueError: There is no room any more.
        """
        if (value := self.values.get(token.lower())) is None:
            return token
        if len(value) > self.room:
            raise ValueError(f"expected names of @string to put in no more than ten times the file, got {token} again")
        self.room -= len(value)
        return value


_START = re.compile(r"^[ \t]*@\s*(\w+)\s*([{(])", re.MULTILINE)
_NEXT = re.compile(r"@\s*(\w+)\s*([{(])")
_FIELD = re.compile(r"\s*,?\s*([^\s\"#%'(),={}]+)\s*=\s*")
_WORD = re.compile(r"[^\s,#{}()]+")
_JOIN = re.compile(r"\s*#\s*")
_KEPT = {"year": "year", "doi": "doi", "journal": "journal", "url": "url", "language": "language"}


def read_bibtex(text: str) -> Iterator[tuple[str, Mapping[str, Any] | str]]:
    """The entries of a file.

    Args:
        text: What it holds.

    Yields:
        The line, and the entry (`id`, `type`, `title`, `abstract`, `authors`, `keywords`, year, doi, journal, url and
        language as they are there), or why it cannot be read.
    """
    macros = Macros(room=10 * len(text) + 100_000)
    starts = list(_START.finditer(text))
    # The next entry bounds this one, so that a brace that is never closed spoils no other.
    ends = [*(match.start() for match in starts[1:]), len(text)]
    for start, end in zip(starts, ends, strict=False):
        at: re.Match[str] | None = start
        while at is not None:
            place = str(text.count("\n", 0, at.start()) + 1)
            kind, body = at[1].lower(), text[at.end() : end].rstrip()
            try:
                if kind in ("comment", "preamble"):
                    stop = _skipped(text[at.end() - 1 : end])
                elif kind == "string":
                    stop = _macro(body, ")" if at[2] == "(" else "}", macros)
                else:
                    entry, stop = _entry(kind, body, ")" if at[2] == "(" else "}", macros)
                    yield place, entry
            except ValueError as error:
                yield place, str(error)
                break
            # Another one may begin in the line in which this one ends.
            at = _NEXT.search(text, at.end() + stop, end)


def _skipped(text: str) -> int:
    """Where a comment that begins with its bracket ends, counted from behind that; all there is where it does not."""
    try:
        return _close(text, 0) if text.startswith("{") else len(text)
    except ValueError:
        return len(text)


def _macro(body: str, closing: str, macros: Macros) -> int:
    """Takes down what `@string` says; where in the body it ends."""
    match = _FIELD.match(body)
    # A number stands for itself.
    if match is None or body.lstrip().startswith(",") or match[1][0].isdigit():
        raise ValueError(f"expected NAME = value in @string, got {body[:30].strip() or 'nothing'!r}")
    value, at = _value(body, match.end(), macros)
    stop = _end(body, at, closing)
    macros.values[match[1].lower()] = value
    return stop


def _entry(kind: str, body: str, closing: str, macros: Macros) -> tuple[dict[str, Any], int]:
    """An entry, and where in the body it ends."""
    key, comma, _ = body.partition(",")
    if not comma or not key.strip():
        raise ValueError("expected a key and fields, got none")
    entry: dict[str, Any] = {"id": key.strip(), "type": kind}
    at = len(key)
    while True:
        match = _FIELD.match(body, at)
        if not match:
            break
        raw, at = _value(body, match.end(), macros)
        name, value = match[1].lower(), _plain(raw)
        if name in ("title", "abstract"):
            entry[name] = value
        elif name == "author":
            entry["authors"] = [_plain(author) for author in re.split(r"\s+and\s+", raw) if author.strip()]
        elif name == "keywords":
            entry["keywords"] = [word for word in re.split(r"\s*[;,]\s*", value) if word]
        elif name in _KEPT:
            entry[_KEPT[name]] = value
    return entry, _end(body, at, closing)


def _end(body: str, at: int, closing: str) -> int:
    """Behind the bracket that closes an entry, whose last value ends at a place."""
    rest = body[at:].lstrip(", \t\r\n")
    if not rest.startswith(closing):
        raise ValueError(f"expected {closing} at its end, got {rest[:30].strip() or 'nothing'!r}")
    return len(body) - len(rest) + 1


def _value(body: str, at: int, macros: Macros) -> tuple[str, int]:
    """A value that begins at a place, pieces joined by `#` together, and where it ends."""
    pieces = []
    while True:
        if at < len(body) and body[at] in '{"':
            end = _close(body, at)
            pieces.append(body[at + 1 : end])
            at = end + 1
        else:
            match = _WORD.match(body, at)
            if not match:
                raise ValueError(f"expected a value, got {body[at : at + 20]!r}")
            pieces.append(macros.put_in(match[0]))
            at = match.end()
        match = _JOIN.match(body, at)
        if not match:
            return "".join(pieces), at
        at = match.end()


def _close(body: str, at: int) -> int:
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
