"""Search in texts by words, by meaning and by the field's terms at once: `TextSearch`.

    search = TextSearch(TextEncoder(), glossary=Glossary.shipped())
    search.add([1, 2], ["Triporate grains with a smooth wall.", "Bisaccate, very large."])
    search.search("dreiporiger Pollen ohne Luftsäcke", k=10)        # [Found(number=1, ...), ...]

Two rankings, BM25 and the cosine of sentence vectors, are fused by reciprocal ranks. The glossary adds to a document
the terms that it says, with the broader ones, for search by words; to a query it adds the terms for search by words and
their meanings for the encoder. Documents that have what a query does not want come after all others. Vectors are of the
texts as they are, so a new glossary needs no new vectors.

`VECTOR_WEIGHT` was chosen on the development half of the test set (`retrieval.evaluate.pollen`).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..errors import UsageError
from .encoders import Encoder
from .fusion import fuse
from .glossary import Glossary, Query
from .lexical import Lexicon

__all__ = ["VECTOR_WEIGHT", "Found", "TextSearch"]

# Of the ranking by vectors, where that by words has 1.
VECTOR_WEIGHT = 0.5


@dataclass(frozen=True)
class Found:
    """A document that answers.

    Attributes:
        number: Its number.
        score: The fused score; comparable within one answer only.
        terms: Terms that both the query and the document say.
        unwanted: Terms of the document that the query does not want; such documents come last.
    """

    number: int
    score: float
    terms: tuple[str, ...] = ()
    unwanted: tuple[str, ...] = ()


class TextSearch:
    """Texts by number, in memory.

    Args:
        encoder: For the ranking by meaning; None leaves it out.
        words: Whether there is a ranking by words.
        glossary: Such as `Glossary.shipped()`; None searches for what is written and no more.
        document_glossary: To read documents with, such as `Glossary.shipped(("en",))` where all are in English; None
            takes `glossary`.
        vector_weight: Of the ranking by meaning, where that by words has 1.

    Raises:
        UsageError: Neither ranking is wanted, or the encoder is not one of texts.
    """

    def __init__(
        self,
        encoder: Encoder | None,
        *,
        words: bool = True,
        glossary: Glossary | None = None,
        document_glossary: Glossary | None = None,
        vector_weight: float = VECTOR_WEIGHT,
    ):
        if encoder is None and not words:
            raise UsageError("expected an encoder, or words=True, got neither: there would be nothing to search with")
        if document_glossary is not None and glossary is None:
            raise UsageError("document_glossary: expected a glossary for queries, too, got none")
        if encoder is not None and encoder.modality != "text":
            raise UsageError(f"{encoder.encoder_id}: expected an encoder of texts, got one of {encoder.modality}s")
        self.encoder, self.glossary, self.vector_weight = encoder, glossary, vector_weight
        self._reader = document_glossary or glossary
        self._lexicon = Lexicon() if words else None
        self._concepts: dict[int, frozenset[str]] = {}
        self._vectors: dict[int, np.ndarray] = {}

    def __len__(self) -> int:
        return len(self._concepts)

    def add(self, numbers: Sequence[int], texts: Sequence[str]) -> None:
        """Adds documents.

        Raises:
            UsageError: As many numbers as texts were expected, or a number is there already; nothing is added. A text
                that the encoder cannot read is found by its words alone.
        """
        numbers = [int(number) for number in numbers]
        taken = [number for number in numbers if number in self._concepts]
        if len(numbers) != len(texts) or len(set(numbers)) < len(numbers) or taken:
            raise UsageError(
                f"expected a new number for each text, got {len(numbers)} for {len(texts)}, taken: {taken}"
            )
        if self._lexicon is not None:
            self._lexicon.add(numbers, [self._reader.document(text) if self._reader else text for text in texts])
        if self.encoder is not None:
            fits = _readable(self.encoder, texts)
            vectors = self.encoder.encode([text for text, fit in zip(texts, fits, strict=True) if fit])
            known = [number for number, fit in zip(numbers, fits, strict=True) if fit]
            self._vectors |= dict(zip(known, vectors, strict=True))
        for number, text in zip(numbers, texts, strict=True):
            self._concepts[number] = self._reader.concepts(text) if self._reader else frozenset()

    def remove(self, numbers: Iterable[int]) -> int:
        """Removes documents; returns how many of the numbers were there."""
        gone = [number for number in {int(number) for number in numbers} if number in self._concepts]
        if self._lexicon is not None:
            self._lexicon.remove(gone)
        for number in gone:
            del self._concepts[number]
            self._vectors.pop(number, None)
        return len(gone)

    def search(self, query: str, k: int = 10, *, depth: int = 1000) -> list[Found]:
        """Finds the documents that answer best.

        Args:
            query: Words, in English, German, Spanish or French, or a name.
            k: At most so many.
            depth: How far down each ranking is fused.

        Returns:
            Best first; no documents where nothing of the query can be searched for.
        """
        asked = Query(query, (), frozenset()) if self.glossary is None else self.glossary.query(query)
        rankings, weights = [], []
        if self._lexicon is not None:
            rankings.append([number for number, _ in self._lexicon.search(asked.words, depth)])
            weights.append(1.0)
        if self.encoder is not None:
            rankings.append(self._nearest(asked.sentence, depth))
            weights.append(self.vector_weight if self._lexicon is not None else 1.0)
        found = []
        for number, score in fuse(rankings, weights=weights):
            own = self._concepts[number]
            said = tuple(term for term in asked.terms if term in own)
            found.append(Found(number, score, said, tuple(sorted(asked.unwanted & own))))
        return sorted(found, key=lambda one: bool(one.unwanted))[:k]

    def _nearest(self, sentence: str, depth: int) -> list[int]:
        assert self.encoder is not None
        if not self._vectors or not _readable(self.encoder, [sentence])[0]:
            return []
        numbers = np.array(list(self._vectors))
        scores = np.stack(list(self._vectors.values())) @ self.encoder.encode([sentence])[0]
        return [int(number) for number in numbers[np.lexsort((numbers, -scores))][:depth]]


def _readable(encoder: Any, texts: Sequence[str]) -> Sequence[bool]:
    """Which texts the encoder can read; an encoder that does not say reads all."""
    return encoder.readable(texts) if hasattr(encoder, "readable") else [True] * len(texts)
