"""What can hold the vectors of a space and find the nearest: the protocol, and how answers of several are merged."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np

from .vectors import best

__all__ = ["Found", "VectorBackend", "merge"]


@dataclass(frozen=True)
class Found:
    """The nearest to one query, best first, the lower id first where scores are equal.

    Attributes:
        ids: int64, (n,); n is at most the k asked for, and less only where there are no more.
        scores: float32, (n,): `exact_scores`, whatever found them.
        how: In words, such as `all 1,200 compared`.
        exact: Whether these are certainly the nearest.
    """

    ids: np.ndarray
    scores: np.ndarray
    how: str
    exact: bool


@runtime_checkable
class VectorBackend(Protocol):
    """Vectors of one space by the ids of their records.

    Every one answers alike: the same `exact_scores`, the same order, never an id outside `within`. It is derived data:
    a collection fills it from the vectors and records that it keeps.
    """

    @property
    def dim(self) -> int:
        """Length of a vector."""
        ...

    def __len__(self) -> int:
        """Vectors that are in use."""
        ...

    def upsert(self, ids: np.ndarray, vectors: np.ndarray) -> None:
        """Adds vectors, or puts them in the place of those that their ids had.

        Args:
            ids: int64, (n,), each once.
            vectors: (n, dim) float32, of unit length.
        """
        ...

    def delete(self, ids: np.ndarray) -> None:
        """Removes the vectors of ids; those that have none are passed over."""
        ...

    def select(self, ids: np.ndarray) -> Any:
        """Prepares a set of ids for `search(within=...)`; good until the next change."""
        ...

    def search(self, queries: np.ndarray, k: int, *, within: Any = None, exact: bool = False) -> list[Found]:
        """The nearest to each query.

        Args:
            queries: (n, dim) float32, of unit length.
            k: At most so many.
            within: What `select` returned; None searches all.
            exact: Compare every vector, whatever index there is.
        """
        ...

    def ids(self) -> np.ndarray:
        """The ids that have a vector, ascending, int64."""
        ...

    def vectors(self, ids: np.ndarray) -> np.ndarray:
        """The vectors of ids, (n, dim).

        Raises:
            UsageError: One has none.
        """
        ...

    def stats(self) -> Mapping[str, Any]:
        """How it searches, for people: at least `index`, `vectors`, `exact`."""
        ...

    def verify(self) -> list[str]:
        """What is wrong with it; nothing if it is sound."""
        ...

    def close(self) -> None:
        """Gives back what it holds; it is not used any more."""
        ...


def merge(parts: Sequence[Found], k: int) -> Found:
    """The nearest among the nearest of several parts that share no id.

    If each part's are its k nearest, these are the k nearest of all: nothing that is not among the k nearest of its
    part can be among the k nearest of the whole.
    """
    scores = np.concatenate([part.scores for part in parts]) if parts else np.empty(0, np.float32)
    ids = np.concatenate([part.ids for part in parts]) if parts else np.empty(0, np.int64)
    scores, ids = best(scores, ids, k)
    words = list(dict.fromkeys(part.how for part in parts))
    how = f"{len(parts)} parts: {'; '.join(words)}" if len(parts) > 1 else "".join(words)
    return Found(ids, scores, how, all(part.exact for part in parts))
