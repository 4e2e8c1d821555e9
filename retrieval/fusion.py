"""Several rankings into one: reciprocal rank fusion.

    score(d) = sum over rankings r of w_r / (k + rank_r(d)),   rank from 1, k = 60

Cormack, Clarke and Buettcher 2009, *Reciprocal Rank Fusion outperforms Condorcet and individual Rank Learning Methods*,
SIGIR, 758. Only places count, so scores of any scale may meet: cosine, BM25, a classifier's.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from typing import TypeVar

from ..errors import UsageError

__all__ = ["RRF_K", "fuse"]

RRF_K = 60

Id = TypeVar("Id", bound=Hashable)


def fuse(
    rankings: Sequence[Sequence[Id]], *, k: float = RRF_K, weights: Sequence[float] | None = None
) -> list[tuple[Id, float]]:
    """Fuses rankings.

    Args:
        rankings: Ids, best first; one that a ranking does not have adds nothing there.
        k: Damps the lead of first places; Cormack et al. chose 60.
        weights: Of the rankings; None counts all alike.

    Returns:
        (id, score) of every id, best first; equal scores in the order in which the rankings first name them.

    Raises:
        UsageError: An id twice in one ranking, or a k or weight that cannot be meant.

    Example:
        >>> [name for name, _ in fuse([["a", "b", "c"], ["b", "c"]])]
        ['b', 'c', 'a']
    """
    if not (math.isfinite(k) and k >= 0):
        raise UsageError(f"k: expected a number from zero on, got {k!r}")
    weights = [1.0] * len(rankings) if weights is None else list(weights)
    if len(weights) != len(rankings) or not all(math.isfinite(w) and w >= 0 for w in weights):
        raise UsageError(f"weights: expected a number from zero on for each of {len(rankings)} rankings, got {weights}")
    scores: dict[Id, float] = {}
    for number, (ranking, weight) in enumerate(zip(rankings, weights, strict=True)):
        if len(set(ranking)) < len(ranking):
            twice = next(name for i, name in enumerate(ranking) if name in ranking[:i])
            raise UsageError(f"ranking {number}: expected each id once, got {twice!r} twice")
        for rank, name in enumerate(ranking, 1):
            scores[name] = scores.get(name, 0.0) + weight / (k + rank)
    return sorted(scores.items(), key=lambda item: -item[1])
