"""Vectors as they come in: float32, of the right length, finite, of unit length; and their exact scores."""

from __future__ import annotations

from typing import Any

import numpy as np

from ...errors import UsageError

__all__ = ["as_ids", "as_vectors", "best", "exact_scores"]

# How far from 1 a length may be: what float16 makes of a unit vector still passes.
_TOLERANCE = 2e-3


def as_vectors(vectors: Any, dim: int, *, what: str = "vectors") -> np.ndarray:
    """Vectors that may be stored or searched for.

    Args:
        vectors: (n, dim), anything that numpy takes as numbers.
        dim: Length of a vector.
        what: What to call them in a message.

    Returns:
        (n, dim) float32, C-contiguous.

    Raises:
        UsageError: Another shape; a NaN or an infinity; a length that is not 1.
    """
    try:
        # What float32 does not hold becomes an infinity, which is refused below.
        with np.errstate(over="ignore"):
            array = np.ascontiguousarray(vectors, dtype=np.float32)
    except (TypeError, ValueError) as error:
        raise UsageError(f"{what}: expected numbers of shape (n, {dim}), got {type(vectors).__name__}") from error
    if array.ndim != 2 or array.shape[1] != dim:
        raise UsageError(f"{what}: expected shape (n, {dim}), got {array.shape}")
    squares = np.einsum("ij,ij->i", array, array, dtype=np.float64)
    wrong = np.flatnonzero(~np.isfinite(squares))
    if len(wrong):
        raise UsageError(f"{what}: expected finite numbers, got NaN or infinity in number {wrong[0]}")
    wrong = np.flatnonzero(np.abs(np.sqrt(squares) - 1) > _TOLERANCE)
    if len(wrong):
        raise UsageError(
            f"{what}: expected unit length, got {np.sqrt(squares[wrong[0]]):.4g} for number {wrong[0]}; divide each by "
            "its length, and leave out those that are zero"
        )
    return array


def as_ids(ids: Any, *, unique: bool = True) -> np.ndarray:
    """Ids of records, int64, (n,).

    Raises:
        UsageError: They are no whole numbers from 0 on, or one comes twice.
    """
    array = np.asarray(ids)
    if array.size == 0:
        return np.empty(0, np.int64)
    if array.ndim != 1 or array.dtype.kind not in "iu" or array.min() < 0:
        raise UsageError(f"ids: expected a list of whole numbers from 0 on, got {ids!r:.80}")
    array = array.astype(np.int64)
    if unique and len(np.unique(array)) < len(array):
        raise UsageError("ids: expected each id once, got one twice")
    return array


def exact_scores(vectors: np.ndarray, query: np.ndarray) -> np.ndarray:
    """Cosines of unit vectors with a query: products and sums in float64, rounded once to float32.

    The score of a vector does not depend on which others are scored with it, as it would with BLAS. So equal vectors
    have equal scores, and every way to search gives the same ones.

    Args:
        vectors: (n, d).
        query: (d,).

    Returns:
        (n,) float32.
    """
    return (vectors.astype(np.float64) * query.astype(np.float64)).sum(axis=1).astype(np.float32)


def best(scores: np.ndarray, ids: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """The k highest scores and their ids, best first; the lower id first where scores are equal."""
    order = np.lexsort((ids, -scores))[:k]
    return scores[order], ids[order]
