"""Phrases in the space of the pictures of grains: `WordsEncoder`, the matcher's way into collections.

    words = WordsEncoder()
    words.encoder_id == ImageEncoder().encoder_id    # phrases compare with pictures
    words.encode(["triporate, smooth, thin wall"])   # (1, 192) float32, unit length

Only a search imports PyTorch; which space the phrases are in is read from the weights' header.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from ...data.traits import TERMS
from ...errors import RejectedModelError, UsageError
from ...vision.weights import find_encoder
from ..encoders.image.weights import read_header
from ..glossary import Glossary
from .captions import apertures, say

if TYPE_CHECKING:
    from .matcher import Matcher

__all__ = ["NAME", "WordsEncoder"]

NAME = "grain-words"
_FORMAT = "palyno-matcher-1"

_APERTURES = (
    *(("0", "none"), ("1", "pore"), ("3", "pore"), ("many", "pore"), ("1", "sulcus")),
    *(("3", "colpus"), ("3", "colporus"), ("4", "colporus")),
)
# The terms of a kind, of which a grain looks most like one.
_TERMS: dict[str, tuple[str, ...]] = {
    "apertures": tuple(apertures(number, kind)[0] for number, kind in _APERTURES),
    **{field: tuple(say(field, term) for term in TERMS[field]) for field in ("ornamentation", "shape")},
}
# What a text says that describes a form, in the glossary's terms; narrower ones count as these.
_FORM = frozenset(
    (
        *("aperture", "inaperturate", "monosulcate", "annulate", "syncolpate", "heterocolpate", "saccate"),
        *("tetrad", "polyad", *TERMS["ornamentation"], *TERMS["shape"]),
    )
)

# Of what phrases say, what pictures' vectors do not have: grains are brought to one size.
_NOT_SEEN = ("very small", "large", "very large")


class WordsEncoder:
    """Phrases to vectors that compare with those of pictures; it may be used from several threads.

    Args:
        weights: A name from `palyno models list`, or a file.

    Raises:
        UnknownModelError: No such name or file.
        RejectedModelError: The file is not what it should be, or its image tower changes the pictures' vectors.
    """

    modality: Literal["text"] = "text"
    # What `explain` says is a guess by the taxa that the weights were trained on, and answers say so.
    guesses = True

    def __init__(self, weights: str | Path = NAME):
        self.path = find_encoder(weights)
        about = read_header(self.path, _FORMAT)
        try:
            self.encoder_id, self.dim = str(about.config["space"]), int(about.config["dim"])
            own_space = bool(about.config["image_width"])
        except (KeyError, TypeError, ValueError) as error:
            raise RejectedModelError(f"{self.path}: expected the configuration of a matcher, got {error}") from error
        if own_space:
            raise RejectedModelError(
                f"{self.path}: expected a matcher in the space of the pictures, got one with a space of its own; train "
                "it with image_width=0"
            )
        self._lock = threading.RLock()
        self._fields: dict[str, np.ndarray] = {}

    @cached_property
    def matcher(self) -> Matcher:
        """Its towers."""
        from .matcher import load_matcher

        return load_matcher(self.path)[0]

    def encode(self, items: Sequence[str]) -> np.ndarray:
        """Vectors of phrases.

        Args:
            items: Phrases, in English, German, Spanish or French.

        Returns:
            (n, dim) float32, each row of unit length, in the order of the phrases.

        Raises:
            UsageError: Not a list of texts, or one without words.
        """
        if isinstance(items, str):
            raise UsageError("texts: expected a list of texts, got one; put it in a list")
        if not len(items):
            return np.empty((0, self.dim), np.float32)
        with self._lock:
            return self.matcher.embed_texts(list(items))

    def readable(self, items: Sequence[str]) -> list[bool]:
        """Which phrases `encode` can read: those with a letter or digit that the sentence encoder knows."""
        return self.matcher.readable(list(items))

    def describes(self, items: Sequence[str]) -> list[bool]:
        """Which texts say what a grain looks like, so that comparing them with pictures means something."""
        return [not _FORM.isdisjoint(Glossary.shipped().concepts(text)) for text in items]

    def looks(self, vectors: np.ndarray) -> list[tuple[str, ...]]:
        """What grains look like: of apertures, ornamentation and shape the term that fits each best.

        Args:
            vectors: Of grains, (n, dim).

        Returns:
            For each grain such as `("triporate", "psilate", "spheroidal")`, as the glossary calls it.
        """
        best = {field: (np.asarray(vectors) @ self._of(field).T).argmax(1) for field in _TERMS}
        return [tuple(_called(known[best[field][i]]) for field, known in _TERMS.items()) for i in range(len(vectors))]

    def explain(self, query: str, vectors: np.ndarray) -> list[tuple[str, ...]]:
        """Which of the traits that a query asks for grains look like.

        Args:
            query: A phrase.
            vectors: Of grains, (n, dim).

        Returns:
            For each grain `("looks triporate, psilate",)`: the terms of the query that fit it better than the other
            terms of their kind; those that it does not want; or nothing.
        """
        asked = Glossary.shipped().query(query)
        if not any(term == _called(one) for term in asked.said for known in _TERMS.values() for one in known):
            return [()] * len(vectors)
        reasons = []
        for seen in self.looks(vectors):
            said = [str(asked.said[term]) for term in asked.terms if term in seen]
            unwanted = [str(asked.said[term]) for term in seen if term in asked.unwanted]
            against = [f"looks {', '.join(unwanted)}, which is not wanted"] if unwanted else []
            reasons.append((*([f"looks {', '.join(said)}"] if said else []), *against))
        return reasons

    def ignores(self, query: str) -> list[str]:
        """What a query asks for that is not in the vectors of pictures, as `large (German große)`."""
        asked = Glossary.shipped().query(query)
        return [str(asked.said[term]) for term in asked.terms if term in _NOT_SEEN]

    def _of(self, field: str) -> np.ndarray:
        with self._lock:
            if field not in self._fields:
                self._fields[field] = self.encode([f"{term} grain" for term in _TERMS[field]])
            return self._fields[field]


def _called(term: str) -> str:
    """What the glossary calls a term: `periporate` for `pantoporate`."""
    return next(iter(Glossary.shipped().query(term).terms), term)
