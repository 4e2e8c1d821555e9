"""The records of a collection as an SQLite file: what each grain or text is, where its vectors are, the texts' words.

A committed file is never written again: the next commit works on a copy. So a reader keeps what it opened, one hash of
the whole file in the manifest shows any changed byte, and a killed commit leaves only a file that no manifest names.
"""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from ...errors import RejectedModelError, UsageError
from ..lexical import SCHEMA as WORDS
from .record import Kind, Record, extra_text, nfc
from .texts import TextIndex
from .where import Condition

__all__ = ["Records"]

_SCHEMA = (
    """CREATE TABLE records (id INTEGER PRIMARY KEY AUTOINCREMENT, kind TEXT NOT NULL, key TEXT UNIQUE, taxon TEXT,
slide TEXT, x1 REAL, y1 REAL, x2 REAL, y2 REAL, width_um REAL, height_um REAL, confidence REAL, reviewer TEXT,
time TEXT, text TEXT, extra TEXT NOT NULL) STRICT""",
    """CREATE TABLE vectors (space INTEGER NOT NULL, row INTEGER NOT NULL, id INTEGER NOT NULL,
PRIMARY KEY (space, row)) WITHOUT ROWID, STRICT""",
    "CREATE UNIQUE INDEX vectors_by_record ON vectors (id, space)",
    "CREATE INDEX records_by_taxon ON records (taxon)",
    "CREATE INDEX records_by_slide ON records (slide)",
)
_COLUMNS = (
    *("kind", "key", "taxon", "slide", "x1", "y1", "x2", "y2"),
    *("width_um", "height_um", "confidence", "reviewer", "time", "text", "extra"),
)
_FIELDS = (*_COLUMNS[:4], "box", *_COLUMNS[8:])


class Records:
    """The records, open for reading, or for writing in a file that no manifest names yet.

    Args:
        path: The file.
        write: Open it for writing.

    Attributes:
        path: The file.
        words: The words of the texts.

    Raises:
        RejectedModelError: It is no such file.
    """

    def __init__(self, path: Path, *, write: bool = False) -> None:
        self.path = path
        # `immutable` reads without locks; a committed file does not change.
        uri = f"{path.absolute().as_uri()}?{'mode=rw' if write else 'mode=ro&immutable=1'}"
        try:
            self._database = sqlite3.connect(uri, uri=True, check_same_thread=False, isolation_level=None)
            self._database.create_function("nfc", 1, _nfc, deterministic=True)
            self._database.execute("PRAGMA trusted_schema = OFF")
            self._database.execute("PRAGMA cell_size_check = ON")
            if write:
                # What is written here counts only once the manifest names it: a kill needs no journal, an error does.
                self._database.execute("PRAGMA journal_mode = MEMORY")
                self._database.execute("PRAGMA synchronous = OFF")
            self._check_schema()
            with self.all_or_nothing():
                self.words = TextIndex(self._database, self._texts, write=write)
        except sqlite3.Error as error:
            raise RejectedModelError(f"{path}: expected the records of a collection, got {error}") from error

    @classmethod
    def create(cls, path: Path) -> Records:
        """A new, empty file, open for writing."""
        path.unlink(missing_ok=True)
        database = sqlite3.connect(path, isolation_level=None)
        for statement in (*_SCHEMA, *WORDS):
            database.execute(statement)
        database.close()
        return cls(path, write=True)

    def copy(self, path: Path) -> Records:
        """The same records in another file, open for writing."""
        path.unlink(missing_ok=True)
        shutil.copyfile(self.path, path)
        return Records(path, write=True)

    def sync(self) -> None:
        """Writes all to the disk and closes the file."""
        self.close()
        handle = os.open(self.path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)

    def vacuum(self) -> None:
        """Gives back the room of what was deleted."""
        self.words.lexicon.tidy()
        self._database.execute("VACUUM")

    def close(self) -> None:
        """Closes the file."""
        self._database.close()

    def __len__(self) -> int:
        return int(self._one("SELECT count(*) FROM records"))

    @contextmanager
    def all_or_nothing(self) -> Iterator[None]:
        """Changes in the block are all made or, after an error, none; blocks may stand in one another."""
        self._database.execute("SAVEPOINT block")
        try:
            yield
        except BaseException:
            self._database.execute("ROLLBACK TO block")
            raise
        finally:
            self._database.execute("RELEASE block")

    def insert(self, records: Sequence[Record]) -> np.ndarray:
        """Adds records.

        Returns:
            Their ids, int64, (n,).

        Raises:
            UsageError: Two share a key, or one has a key that is there; nothing was added.
        """
        marks = ", ".join("?" * len(_COLUMNS))
        statement = f"INSERT INTO records ({', '.join(_COLUMNS)}) VALUES ({marks})"
        ids = np.empty(len(records), np.int64)
        with self.all_or_nothing():
            for i, record in enumerate(records):
                try:
                    ids[i] = self._database.execute(statement, _row(record)).lastrowid or -1
                except sqlite3.IntegrityError as error:
                    raise UsageError(
                        f"record {i}: expected a key that is not in the collection, got {record.key!r} again; "
                        "choose what happens with known ones, or leave it out"
                    ) from error
            self.words.add(ids.tolist(), records)
        return ids

    def replace(self, ids: Iterable[int], records: Iterable[Record]) -> None:
        """Puts other records in the place of some.

        Raises:
            UsageError: There is no such id, or another record has the key; nothing was changed.
        """
        marks = ", ".join(f"{column} = ?" for column in _COLUMNS)
        with self.all_or_nothing():
            for record_id, record in zip(map(int, ids), records, strict=True):
                old = self._ask("SELECT kind, taxon, text FROM records WHERE id = ?", (record_id,)).fetchone()
                try:
                    done = self._database.execute(
                        f"UPDATE records SET {marks} WHERE id = ?", (*_row(record), record_id)
                    )
                except sqlite3.IntegrityError as error:
                    raise UsageError(
                        f"record {record_id}: expected a key that no other record has, got {record.key!r}"
                    ) from error
                if not done.rowcount:
                    raise UsageError(f"expected the id of a record, got {record_id}; it may have been deleted")
                if "text" in (record.kind, old[0]) and old != (record.kind, record.taxon, record.text):
                    self.words.remove([record_id])
                    self.words.add([record_id], [record])

    def delete(self, ids: Sequence[int] | np.ndarray) -> None:
        """Removes records, the note where their vectors are, and their words."""
        with self.all_or_nothing():
            self.words.remove(ids)
            for table, column in (("vectors", "id"), ("records", "id")):
                self._database.executemany(f"DELETE FROM {table} WHERE {column} = ?", ((int(i),) for i in ids))

    def get(self, ids: Sequence[int] | np.ndarray) -> dict[int, Record]:
        """The records of those ids that are there."""
        found: dict[int, Record] = {}
        wanted = [int(i) for i in ids]
        for start in range(0, len(wanted), 500):
            part = wanted[start : start + 500]
            rows = self._database.execute(
                f"SELECT id, {', '.join(_COLUMNS)} FROM records WHERE id IN ({', '.join('?' * len(part))})", part
            )
            found.update((row[0], _record(row[1:])) for row in rows)
        return found

    def page(self, condition: Condition, after: int, most: int) -> list[tuple[int, Record]]:
        """The first records beyond an id that pass a filter, with their ids, in the order of these."""
        statement = (
            f"SELECT id, {', '.join(_COLUMNS)} FROM records WHERE ({condition.sql}) AND id > ? ORDER BY id LIMIT ?"
        )
        return [(row[0], _record(row[1:])) for row in self._ask(statement, (*condition.values, after, most))]

    def ids(self, condition: Condition) -> np.ndarray:
        """The ids of the records that pass a filter, ascending, int64."""
        # As one text: a row each would take several times as long to come out of the database.
        listed = self._one(f"SELECT group_concat(id) FROM records WHERE {condition.sql}", condition.values)
        return np.sort(np.fromstring(listed or "", np.int64, sep=","))

    def count(self, condition: Condition) -> int:
        """How many records pass a filter."""
        return int(self._one(f"SELECT count(*) FROM records WHERE {condition.sql}", condition.values))

    def any(self, kind: Kind, condition: Condition, space: int | None = None) -> bool:
        """Whether a record of a kind passes a filter and, where one is named, has a vector in a space."""
        inside = "" if space is None else " AND EXISTS (SELECT 1 FROM vectors WHERE id = records.id AND space = ?)"
        values = (kind, *condition.values, *(() if space is None else (space,)))
        return bool(
            self._one(f"SELECT EXISTS (SELECT 1 FROM records WHERE kind = ? AND ({condition.sql}){inside})", values)
        )

    def by_key(self, keys: Iterable[str | None]) -> dict[str, int]:
        """The ids of the keys that are there."""
        wanted = list(dict.fromkeys(nfc(key) for key in keys if key is not None))
        found: dict[str, int] = {}
        for start in range(0, len(wanted), 500):
            part = wanted[start : start + 500]
            marks = ", ".join("?" * len(part))
            found.update(self._database.execute(f"SELECT key, id FROM records WHERE key IN ({marks})", part))
        return found

    def link(self, space: int, first_row: int, ids: np.ndarray) -> None:
        """Notes that rows from `first_row` on of a space hold the vectors of records, in place of older ones."""
        with self.all_or_nothing():
            self._database.executemany(
                "INSERT OR REPLACE INTO vectors (space, row, id) VALUES (?, ?, ?)",
                ((space, first_row + i, record) for i, record in enumerate(ids.tolist())),
            )

    def unlink(self, space: int, ids: np.ndarray) -> None:
        """Notes that records have no vector in a space any more."""
        with self.all_or_nothing():
            self._database.executemany(
                "DELETE FROM vectors WHERE space = ? AND id = ?", ((space, record) for record in ids.tolist())
            )

    def relink(self, space: int, ids: np.ndarray) -> None:
        """Notes that rows 0 to n of a space hold the vectors of records, and no others do."""
        with self.all_or_nothing():
            self._database.execute("DELETE FROM vectors WHERE space = ?", (space,))
            self.link(space, 0, ids)

    def rows(self, space: int, total: int) -> np.ndarray:
        """The record of each row of a space, int64, (total,); -1 where the row is no longer used.

        Raises:
            RejectedModelError: A row is outside the store.
        """
        ids = np.full(total, -1, np.int64)
        cursor = self._ask("SELECT row, id FROM vectors WHERE space = ? ORDER BY row", (space,))
        pairs = np.fromiter((number for pair in cursor for number in pair), np.int64).reshape(-1, 2)
        if len(pairs) and not (pairs[0, 0] >= 0 and pairs[-1, 0] < total):
            raise RejectedModelError(f"{self.path}: expected rows below {total} in space {space}, got {pairs[-1, 0]}")
        ids[pairs[:, 0]] = pairs[:, 1]
        return ids

    def faults(self) -> list[str]:
        """What is wrong inside the file; nothing if it is sound."""
        found = [text for (text,) in self._ask("PRAGMA integrity_check", ()) if text != "ok"]
        lost = self._one("SELECT count(*) FROM vectors WHERE id NOT IN (SELECT id FROM records)")
        if lost:
            found.append(f"{lost} vectors belong to no record")
        for record_id in self._ids_that_do_not_load():
            found.append(f"record {record_id} does not hold what it should")
        return found + self.words.faults()

    def _texts(self) -> Iterator[tuple[int, str, str]]:
        yield from self._ask("SELECT id, taxon, text FROM records WHERE kind = 'text' ORDER BY id", ())

    def _ids_that_do_not_load(self) -> Iterator[int]:
        for row in self._ask(f"SELECT id, {', '.join(_COLUMNS)} FROM records", ()):
            try:
                _record(row[1:])
            except (UsageError, ValueError, TypeError):
                yield row[0]

    def _check_schema(self) -> None:
        """Takes no file with views, triggers, or other tables: such run what their maker wrote."""
        tables = ("records", "vectors", "lexicon_words")
        own = ("sqlite_sequence", *(f"sqlite_autoindex_{table}_1" for table in tables))
        rows = self._database.execute("SELECT name, sql FROM sqlite_schema")
        found = {sql for name, sql in rows if name not in own}
        # Files from before texts were searched by their words have none of them.
        if found not in ({*_SCHEMA}, {*_SCHEMA, *WORDS}):
            raise RejectedModelError(
                f"{self.path}: expected the tables of a collection of this version, got others; make the collection "
                "anew with palyno index build"
            )

    def _ask(self, statement: str, values: Sequence[Any]) -> sqlite3.Cursor:
        try:
            return self._database.execute(statement, values)
        except sqlite3.OperationalError as error:
            raise UsageError(f"where: the filter cannot be evaluated: {error}") from error
        except sqlite3.DatabaseError as error:
            raise RejectedModelError(f"{self.path}: expected sound records, got {error}") from error

    def _one(self, statement: str, values: Sequence[Any] = ()) -> Any:
        return self._ask(statement, values).fetchone()[0]


def _row(record: Record) -> tuple[Any, ...]:
    box = record.box or (None,) * 4
    own = (record.kind, record.key, record.taxon, record.slide, *box, record.width_um, record.height_um)
    return (*own, record.confidence, record.reviewer, record.time, record.text, extra_text(record.extra))


def _record(row: Sequence[Any]) -> Record:
    box = None if row[4] is None else tuple(row[4:8])
    fields: Mapping[str, Any] = dict(zip(_FIELDS, (*row[:4], box, *row[8:14], json.loads(row[14])), strict=True))
    return Record(**fields)


def _nfc(value: Any) -> Any:
    return nfc(value) if isinstance(value, str) else value
