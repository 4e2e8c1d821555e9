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

from ..errors import UsageError
from .words import terms

__all__ = ["K1", "B", "Lexicon"]

K1, B = 1.2, 0.75

_SCHEMA = """
CREATE TABLE IF NOT EXISTS lexicon_terms (term TEXT NOT NULL, id INTEGER NOT NULL, n INTEGER NOT NULL,
    PRIMARY KEY (term, id)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS lexicon_documents (id INTEGER PRIMARY KEY, length INTEGER NOT NULL, terms TEXT NOT NULL);
"""


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
        self.database = sqlite3.connect(":memory:", check_same_thread=False) if database is None else database
        for statement in filter(str.strip, _SCHEMA.split(";")):
            self.database.execute(statement)

    def __len__(self) -> int:
        return self.database.execute("SELECT count(*) FROM lexicon_documents").fetchone()[0]

    def __contains__(self, number: object) -> bool:
        found = self.database.execute("SELECT 1 FROM lexicon_documents WHERE id = ?", (number,)).fetchone()
        return found is not None

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
        for number, text in zip(numbers, texts, strict=True):
            counts = Counter(terms(text))
            row = (number, counts.total(), "\n".join(counts))
            self.database.execute("INSERT INTO lexicon_documents VALUES (?, ?, ?)", row)
            self.database.executemany(
                "INSERT INTO lexicon_terms VALUES (?, ?, ?)", [(term, number, n) for term, n in counts.items()]
            )

    def remove(self, numbers: Iterable[int]) -> int:
        """Removes documents; returns how many of the numbers were there."""
        removed = 0
        for number in map(int, numbers):
            row = self.database.execute("SELECT terms FROM lexicon_documents WHERE id = ?", (number,)).fetchone()
            if row is None:
                continue
            self.database.executemany(
                "DELETE FROM lexicon_terms WHERE term = ? AND id = ?", [(term, number) for term in row[0].split("\n")]
            )
            self.database.execute("DELETE FROM lexicon_documents WHERE id = ?", (number,))
            removed += 1
        return removed

    def search(
        self, query: str | Mapping[str, float], k: int = 10, *, among: Iterable[int] | None = None
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
        total, length = self.database.execute("SELECT count(*), total(length) FROM lexicon_documents").fetchone()
        allowed = None if among is None else {int(number) for number in among}
        scores: dict[int, float] = {}
        # In one order, so that sums do not depend on how the query was put.
        for term in sorted(term for term, weight in weights.items() if weight):
            postings = self.database.execute(
                "SELECT id, n, length FROM lexicon_terms JOIN lexicon_documents USING (id) WHERE term = ?", (term,)
            ).fetchall()
            idf = math.log1p((total - len(postings) + 0.5) / (len(postings) + 0.5))
            for number, n, own in postings:
                if allowed is None or number in allowed:
                    damped = n / (n + self.k1 * (1 - self.b + self.b * own * total / length))
                    scores[number] = scores.get(number, 0.0) + weights[term] * idf * damped
        return sorted(scores.items(), key=lambda item: (-item[1], item[0]))[:k]
