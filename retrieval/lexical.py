"""Search by words: BM25 over postings in SQLite, in step with whatever else is in the same database.

For a query of terms t with weights w_t and a document of length l (in terms, mean length m, N documents, n_t with t),

    score = sum_t w_t idf_t f_t / (f_t + k1 (1 - b + b l / m)),   idf_t = ln(1 + (N - n_t + 0.5) / (n_t + 0.5))

Robertson and Zaragoza 2009, *The Probabilistic Relevance Framework*, eq. 3.15, with the inverse document frequency that
Lucene takes so that no term counts against a document, and without the constant factor k1 + 1; k1 = 1.2, b = 0.75.

Adding and removing documents are transactions of the database: where a caller keeps records there too, both are kept or
neither is.
"""

from __future__ import annotations

import math
import sqlite3
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from ..errors import UsageError
from .words import terms

__all__ = ["K1", "SCHEMA", "B", "Lexicon"]

K1, B = 1.2, 0.75

# Terms by number, so that a posting takes ten bytes or so; the terms of each text once more, to take it out again.
SCHEMA = (
    "CREATE TABLE lexicon_words (number INTEGER PRIMARY KEY, term TEXT NOT NULL UNIQUE) STRICT",
    """CREATE TABLE lexicon_postings (word INTEGER NOT NULL, id INTEGER NOT NULL, n INTEGER NOT NULL,
PRIMARY KEY (word, id)) WITHOUT ROWID, STRICT""",
    "CREATE TABLE lexicon_texts (id INTEGER PRIMARY KEY, length INTEGER NOT NULL, words BLOB NOT NULL) STRICT",
)
_AT_ONCE, _MARKS = 2000, 500


class Lexicon:
    """Texts by number, found by their words.

    Args:
        database: A connection, whose transactions the caller ends; None makes a database in memory.
        k1: How slowly more of the same term stops to count; 0 counts presence alone.
        b: How much long documents are discounted, 0 to 1.

    Raises:
        UsageError: A k1 or b that cannot be meant.

    Example:
        >>> lexicon = Lexicon()
        >>> lexicon.add([1, 2], ["triporate grains", "trisaccate grain"])
        >>> [number for number, _ in lexicon.search("Triporate")]
        [1]
    """

    def __init__(self, database: sqlite3.Connection | None = None, *, k1: float = K1, b: float = B):
        if not (math.isfinite(k1) and k1 >= 0 and 0 <= b <= 1):
            raise UsageError(f"expected k1 from zero on and b from 0 to 1, got k1={k1!r}, b={b!r}")
        self.k1, self.b = k1, b
        if database is None:
            database = sqlite3.connect(":memory:", check_same_thread=False, isolation_level=None)
        self.database = database
        if not database.execute("SELECT 1 FROM sqlite_schema WHERE name = 'lexicon_texts'").fetchone():
            for statement in SCHEMA:
                database.execute(statement)
        self._known: tuple[tuple[int, int], tuple[np.ndarray, np.ndarray]] | None = None

    def __len__(self) -> int:
        return self.database.execute("SELECT count(*) FROM lexicon_texts").fetchone()[0]

    def __contains__(self, number: object) -> bool:
        found = self.database.execute("SELECT 1 FROM lexicon_texts WHERE id = ?", (number,)).fetchone()
        return found is not None

    def ids(self) -> np.ndarray:
        """The numbers of its documents, ascending, int64."""
        return self._documents()[0]

    def add(self, numbers: Sequence[int], texts: Sequence[str]) -> None:
        """Adds documents.

        Args:
            numbers: One a text, whole, not yet there.
            texts: Of any length; one without words is kept and never found.

        Raises:
            UsageError: As many numbers as texts were expected, or a number is there already; nothing is added.
        """
        numbers = [int(number) for number in numbers]
        if len(numbers) != len(texts):
            raise UsageError(f"expected a number for each text, got {len(numbers)} for {len(texts)} texts")
        counted = Counter(numbers)
        if twice := [number for number in numbers if counted[number] > 1 or number in self]:
            raise UsageError(f"document {twice[0]}: expected a number not yet in use; remove the document first")
        for start in range(0, len(numbers), _AT_ONCE):
            self._add(numbers[start : start + _AT_ONCE], texts[start : start + _AT_ONCE])

    def _add(self, numbers: Sequence[int], texts: Sequence[str]) -> None:
        counts = [Counter(terms(text)) for text in texts]
        words = self._numbers(dict.fromkeys(term for count in counts for term in count), new=True)
        postings, rows = [], []
        for number, count in zip(numbers, counts, strict=True):
            own = sorted((words[term], n) for term, n in count.items())
            postings += [(word, number, n) for word, n in own]
            rows.append((number, count.total(), np.array([word for word, _ in own], "<i4").tobytes()))
        self.database.executemany("INSERT INTO lexicon_texts VALUES (?, ?, ?)", rows)
        # In the order of the table, which is much faster than text by text.
        self.database.executemany("INSERT INTO lexicon_postings VALUES (?, ?, ?)", sorted(postings))

    def remove(self, numbers: Iterable[int]) -> int:
        """Removes documents; returns how many of the numbers were there."""
        removed = 0
        for number in map(int, numbers):
            row = self.database.execute("SELECT words FROM lexicon_texts WHERE id = ?", (number,)).fetchone()
            if row is None:
                continue
            self.database.executemany(
                "DELETE FROM lexicon_postings WHERE word = ? AND id = ?",
                [(word, number) for word in np.frombuffer(row[0], "<i4").tolist()],
            )
            self.database.execute("DELETE FROM lexicon_texts WHERE id = ?", (number,))
            removed += 1
        return removed

    def tidy(self) -> None:
        """Forgets the terms that no document has any more."""
        self.database.execute("DELETE FROM lexicon_words WHERE number NOT IN (SELECT word FROM lexicon_postings)")

    def search(
        self, query: str | Mapping[str, float], k: int = 10, *, among: Iterable[int] | np.ndarray | None = None
    ) -> list[tuple[int, float]]:
        """Finds the documents that match best.

        Args:
            query: Words; or weights of terms as `words.terms` gives them. A word said twice counts twice.
            k: At most so many.
            among: Only these documents; how rare a term is stays that of all.

        Returns:
            (number, score), best first, equal scores by number; only documents with a term of the query.

        Raises:
            UsageError: A k below zero, or a weight that is not finite or below zero.
        """
        weights = Counter(terms(query)) if isinstance(query, str) else query
        if k < 0 or not all(math.isfinite(w) and w >= 0 for w in weights.values()):
            raise UsageError(f"expected k and weights from zero on, got k={k}, weights {dict(weights)}")
        ids, lengths = self._documents()
        total, length = len(ids), max(1, int(lengths.sum()))
        scores, found = np.zeros(total), np.zeros(total, bool)
        wanted = sorted(term for term, weight in weights.items() if weight)
        numbers = self._numbers(wanted)
        # In one order, so that sums do not depend on how the query was put.
        for term in (term for term in wanted if term in numbers):
            own, n = self._postings(numbers[term])
            # A file from elsewhere may name documents that it does not have.
            there = np.isin(own, ids)
            own, n = own[there], n[there]
            places = np.searchsorted(ids, own)
            idf = math.log1p((total - len(own) + 0.5) / (len(own) + 0.5))
            damped = n / (n + self.k1 * (1 - self.b + self.b * lengths[places] * total / length))
            scores[places] += weights[term] * idf * damped
            found[places] = True
        if among is not None:
            allowed = among if isinstance(among, np.ndarray) else np.fromiter(map(int, among), np.int64)
            found &= np.isin(ids, allowed)
        ids, scores = ids[found], scores[found]
        order = np.lexsort((ids, -scores))[:k]
        return list(zip(ids[order].tolist(), scores[order].tolist(), strict=True))

    def _numbers(self, words: Iterable[str], *, new: bool = False) -> dict[str, int]:
        """The numbers of terms that are there, or that are made to be."""
        words = list(words)
        if new:
            self.database.executemany(
                "INSERT OR IGNORE INTO lexicon_words (term) VALUES (?)", [(word,) for word in words]
            )
        found: dict[str, int] = {}
        for start in range(0, len(words), _MARKS):
            part = words[start : start + _MARKS]
            marks = ", ".join("?" * len(part))
            rows = self.database.execute(f"SELECT term, number FROM lexicon_words WHERE term IN ({marks})", part)
            found.update(rows)
        return found

    def _postings(self, word: int) -> tuple[np.ndarray, np.ndarray]:
        """The documents that have a term, ascending, and how often each does."""
        # As text: a row each would take several times as long to come out of the database.
        rows = "SELECT id, n FROM lexicon_postings WHERE word = ? ORDER BY id"
        return self._columns(f"SELECT group_concat(id), group_concat(n) FROM ({rows})", (word,))

    def _documents(self) -> tuple[np.ndarray, np.ndarray]:
        """The documents, ascending, and their lengths; kept until the database changes."""
        # A transaction may yet be undone, so nothing is kept from inside one.
        state = None if self.database.in_transaction else (self.database.total_changes, self._version())
        if state is None or self._known is None or self._known[0] != state:
            rows = "SELECT id, length FROM lexicon_texts ORDER BY id"
            ids, lengths = self._columns(f"SELECT group_concat(id), group_concat(length) FROM ({rows})")
            if state is None:
                return ids, lengths
            self._known = state, (ids, lengths)
        return self._known[1]

    def _version(self) -> int:
        """Changes where another connection wrote."""
        return self.database.execute("PRAGMA data_version").fetchone()[0]

    def _columns(self, statement: str, values: tuple[int, ...] = ()) -> tuple[np.ndarray, np.ndarray]:
        """Two columns of whole numbers that a statement lists."""
        first, second = self.database.execute(statement, values).fetchone()
        return np.fromstring(first or "", np.int64, sep=","), np.fromstring(second or "", np.int64, sep=",")
