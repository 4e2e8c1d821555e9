"""Search in texts by words, by meaning and by the field's terms at once: `TextSearch`.

    search = TextSearch(TextEncoder(), glossary=Glossary.shipped())
    search.add([1, 2], ["Triporate grains with a smooth wall.", "Bisaccate, very large."])
    search.search("dreiporiger Pollen ohne Luftsäcke", k=10)        # [Found(number=1, ...), ...]

Two rankings, BM25 and the cosine of sentence vectors, are fused by reciprocal ranks. The glossary adds to a document
the terms that it says, with the broader ones, for search by words; to a query it adds the terms for search by words and
their meanings for the encoder. Documents that have what a query does not want come after all others. Vectors are of the
texts as they are, so a new glossary needs no new vectors.

`TextSearch` keeps its texts in memory. A collection keeps its own on the disk and makes the two rankings there; how
they become one answer is `combine`, for both.

`VECTOR_WEIGHT` was chosen on the development half of the test set (`retrieval.evaluate.pollen`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..errors import UsageError
from .encoders import Encoder
from .fusion import RRF_K, fuse
from .glossary import Glossary, Query
from .lexical import Lexicon

__all__ = ["DEPTH", "VECTOR_WEIGHT", "Found", "Part", "TextSearch", "combine", "readable"]

# Of the ranking by vectors, where that by words has 1.
VECTOR_WEIGHT = 0.5
# How far down each ranking is fused: a document that is in neither so far up is not found.
DEPTH = 1000
_AT_ONCE = 64

# Numbers with their scores, best first.
Ranking = Sequence[tuple[int, float]]


@dataclass(frozen=True)
class Part:
    """The place that one ranking gives a document.

    Attributes:
        rank: From 1.
        score: BM25, or the cosine.
    """

    rank: int
    score: float


@dataclass(frozen=True)
class Found:
    """A document that answers.

    Attributes:
        number: Its number.
        score: The fused score as a share of what the first in every ranking has, above 0 and at most 1; comparable
            within one answer only.
        terms: Terms that both the query and the document say.
        unwanted: Terms of the document that the query does not want; such documents come last.
        words: Its place by words, where it has one.
        vectors: Its place by meaning, where it has one.
    """

    number: int
    score: float
    terms: tuple[str, ...] = ()
    unwanted: tuple[str, ...] = ()
    words: Part | None = None
    vectors: Part | None = None


def combine(
    asked: Query,
    k: int,
    *,
    words: Ranking | None,
    vectors: Ranking | None,
    concepts: Callable[[Sequence[int]], Mapping[int, frozenset[str]]],
    vector_weight: float = VECTOR_WEIGHT,
) -> list[Found]:
    """One answer of the rankings by words and by meaning.

    Args:
        asked: The query, as the glossary reads it.
        k: At most so many.
        words: The ranking by words; None where there is none.
        vectors: The ranking by meaning; None where there is none.
        concepts: Tells the terms that documents say, broader ones included; asked only for those it matters for.
        vector_weight: Of the ranking by meaning, where that by words has 1; alone, it does not matter.

    Returns:
        Best first, documents with what is not wanted after all others.
    """
    weights = {"words": 1.0, "vectors": vector_weight if words is not None else 1.0}
    parts = {name: ranking for name, ranking in (("words", words), ("vectors", vectors)) if ranking is not None}
    places = {
        name: {number: Part(rank, score) for rank, (number, score) in enumerate(ranking, 1)}
        for name, ranking in parts.items()
    }
    best = sum(weights[name] for name in parts) / (RRF_K + 1)
    fused = fuse([list(places[name]) for name in parts], weights=[weights[name] for name in parts])
    said: dict[int, frozenset[str]] = {}
    good: list[tuple[int, float]] = []
    last: list[tuple[int, float]] = []
    for start in range(0, len(fused), _AT_ONCE):
        # Only as far down as the answer needs: reading texts for their terms takes longer than finding them.
        if len(good) >= k:
            break
        some = fused[start : start + _AT_ONCE]
        if asked.unwanted:
            said |= concepts([number for number, _ in some])
        for item in some:
            bad = bool(asked.unwanted) and not asked.unwanted.isdisjoint(said[item[0]])
            (last if bad else good).append(item)
    fused = [*good, *last][:k]
    if asked.terms and not asked.unwanted:
        said |= concepts([number for number, _ in fused])
    found = []
    for number, score in fused:
        own = said.get(number, frozenset())
        terms, unwanted = tuple(t for t in asked.terms if t in own), tuple(sorted(asked.unwanted & own))
        own_places = {name: place[number] for name, place in places.items() if number in place}
        found.append(Found(number, score / best, terms, unwanted, **own_places))
    return found


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
            fits = readable(self.encoder, texts)
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

    def search(self, query: str, k: int = 10, *, depth: int = DEPTH) -> list[Found]:
        """Finds the documents that answer best.

        Args:
            query: Words, in English, German, Spanish or French, or a name.
            k: At most so many.
            depth: How far down each ranking is fused.

        Returns:
            Best first; no documents where nothing of the query can be searched for.
        """
        asked = Query(query, (), frozenset()) if self.glossary is None else self.glossary.query(query)
        return combine(
            asked,
            k,
            words=None if self._lexicon is None else self._lexicon.search(asked.words, depth),
            vectors=None if self.encoder is None else self._nearest(self.encoder, asked.sentence, depth),
            concepts=lambda numbers: {number: self._concepts[number] for number in numbers},
            vector_weight=self.vector_weight,
        )

    def _nearest(self, encoder: Encoder, sentence: str, depth: int) -> list[tuple[int, float]]:
        if not self._vectors or not readable(encoder, [sentence])[0]:
            return []
        numbers, query = np.array(list(self._vectors)), encoder.encode([sentence])[0].astype(np.float64)
        # In float64 and rounded once, as in a collection: equal vectors are equally near.
        scores = (np.stack(list(self._vectors.values())) * query).sum(1).astype(np.float32)
        order = np.lexsort((numbers, -scores))[:depth]
        return list(zip(numbers[order].tolist(), scores[order].tolist(), strict=True))


def readable(encoder: Any, texts: Sequence[str]) -> list[bool]:
    """Which texts an encoder can read; one that does not say reads all."""
    return [bool(fit) for fit in encoder.readable(texts)] if hasattr(encoder, "readable") else [True] * len(texts)
