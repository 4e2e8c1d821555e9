"""The texts of a collection by their words: an index in the records' own file, committed with them or not at all.

A record of the kind `text` is read by the shipped glossary and indexed with the terms that it says, as in
`retrieval.hybrid`; so is its taxon, where the text does not name it. The file says which reading its index is of
(SQLite's `user_version`). An index of another reading, such as another version's, is not used: the texts are read anew
in memory, and by the next writer for good.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from itertools import islice

import numpy as np

from ..glossary import Glossary
from ..lexical import SCHEMA, Lexicon
from ..words import folded
from .record import Record

__all__ = ["TextIndex", "document"]

_AT_ONCE = 2000


def document(taxon: str | None, text: str | None) -> str:
    """What of a text is searched by words: all of it, and its taxon where it does not name it."""
    parts = [text or ""]
    if taxon and folded(taxon) not in folded(parts[0]):
        parts.append(taxon)
    return "\n".join(parts).strip()


class TextIndex:
    """The words of texts by the ids of their records.

    Args:
        database: Of the records.
        texts: Gives id, taxon and text of every record that is a text.
        write: The file is being worked on: bring the index up to date.
    """

    def __init__(
        self, database: sqlite3.Connection, texts: Callable[[], Iterator[tuple[int, str, str]]], *, write: bool
    ) -> None:
        self._database, self._texts = database, texts
        if write:
            self._bring_up_to_date()

    @cached_property
    def lexicon(self) -> Lexicon:
        """The index of the file, or one in memory where that is of another reading."""
        if _is_there(self._database):
            stored = Lexicon(self._database)
            if not len(stored) or self._reading == _own_reading():
                return stored
        made = Lexicon()
        self._fill(made)
        return made

    def add(self, ids: Sequence[int], records: Sequence[Record]) -> None:
        """Indexes those of some records that are texts; none of them is indexed yet."""
        texts = [
            (i, made)
            for i, record in zip(ids, records, strict=True)
            if record.kind == "text" and (made := document(record.taxon, record.text))
        ]
        if texts:
            if self._reading != _own_reading():
                self._database.execute(f"PRAGMA user_version = {_own_reading()}")
            _add(self.lexicon, texts)

    def remove(self, ids: Iterable[int]) -> None:
        """Takes records out that are indexed; the others are passed over."""
        wanted = [int(i) for i in ids]
        if len(wanted) > _AT_ONCE:
            wanted = np.intersect1d(np.array(wanted, np.int64), self.lexicon.ids()).tolist()
        self.lexicon.remove(wanted)

    def faults(self) -> list[str]:
        """What is wrong with it; nothing if it is sound."""
        wanted = {i for i, taxon, text in self._texts() if document(taxon, text)}
        wrong = wanted ^ set(self.lexicon.ids().tolist())
        return [f"the words of record {i} are not those of its text" for i in sorted(wrong)]

    @property
    def _reading(self) -> int:
        return int(self._database.execute("PRAGMA user_version").fetchone()[0])

    def _bring_up_to_date(self) -> None:
        new = not _is_there(self._database)
        stored = Lexicon(self._database)
        if new or (len(stored) and self._reading != _own_reading()):
            for statement in SCHEMA:
                self._database.execute(f"DELETE FROM {statement.split()[2]}")
            if self._fill(stored):
                self._database.execute(f"PRAGMA user_version = {_own_reading()}")

    def _fill(self, lexicon: Lexicon) -> int:
        texts = ((i, made) for i, taxon, text in self._texts() if (made := document(taxon, text)))
        total = 0
        while some := list(islice(texts, _AT_ONCE)):
            total += len(some)
            _add(lexicon, some)
        return total


def concepts(records: Mapping[int, Record]) -> dict[int, frozenset[str]]:
    """The glossary's terms that texts say, broader ones included."""
    glossary = Glossary.shipped()
    return {i: glossary.concepts(document(record.taxon, record.text)) for i, record in records.items()}


def _add(lexicon: Lexicon, texts: Sequence[tuple[int, str]]) -> None:
    glossary = Glossary.shipped()
    lexicon.add([i for i, _ in texts], [glossary.document(text) for _, text in texts])


def _own_reading() -> int:
    # Never 0, which a file has that says nothing.
    return int(Glossary.shipped().digest[:8], 16) & 0x7FFFFFFF | 1


def _is_there(database: sqlite3.Connection) -> bool:
    return database.execute("SELECT 1 FROM sqlite_schema WHERE name = 'lexicon_texts'").fetchone() is not None
