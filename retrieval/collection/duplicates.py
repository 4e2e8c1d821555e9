"""Records that are nearly the same: the same grain pictured twice, the same passage from two sources."""

from __future__ import annotations

import numpy as np

from ...errors import UsageError
from .backend import VectorBackend
from .record import Pair
from .records import Records
from .vectors import exact_scores

__all__ = ["near_duplicates"]

# Up to so many vectors all pairs are compared; beyond that the nearest of each, so many.
_ALL_PAIRS, _NEIGHBOURS = 50_000, 50
_CHUNK = 1024


def near_duplicates(backend: VectorBackend, ids: np.ndarray, threshold: float, records: Records) -> list[Pair]:
    """Pairs of ids whose cosine is at least a threshold, the most alike first.

    Up to 50,000 vectors every pair is compared; of more, each with the 50 nearest that a search finds.

    Args:
        backend: Holds the vectors.
        ids: Which to compare, ascending.
        threshold: Least cosine.
        records: Tells which lie on one slide.

    Raises:
        UsageError: The threshold is not above 0 and at most 1.
    """
    if not 0 < threshold <= 1:
        raise UsageError(f"threshold: expected a cosine above 0 and at most 1, got {threshold}")
    pairs = _all_pairs(backend, ids, threshold) if len(ids) <= _ALL_PAIRS else _neighbours(backend, ids, threshold)
    found = records.get(sorted({i for pair in pairs for i in pair[:2]}))
    slides = {i: record.slide for i, record in found.items()}
    return [
        Pair(a, b, score, slides[a] is not None and slides[a] == slides[b])
        for a, b, score in sorted(pairs, key=lambda pair: (-pair[2], pair[:2]))
    ]


def _all_pairs(backend: VectorBackend, ids: np.ndarray, threshold: float) -> list[tuple[int, int, float]]:
    vectors, pairs = backend.vectors(ids), []
    slack = max(1e-6, backend.dim * 2.0**-23)
    for start in range(0, len(ids), _CHUNK):
        # BLAS finds those that may be near enough; their exact score decides.
        near = vectors[start : start + _CHUNK] @ vectors[start:].T >= threshold - slack
        for i, row in enumerate(near, start):
            others = start + np.flatnonzero(row)
            others = others[others > i]
            if len(others):
                scores = exact_scores(vectors[others], vectors[i])
                pairs += [
                    (int(ids[i]), int(ids[j]), float(score))
                    for j, score in zip(others, scores, strict=True)
                    if score >= threshold
                ]
    return pairs


def _neighbours(backend: VectorBackend, ids: np.ndarray, threshold: float) -> list[tuple[int, int, float]]:
    within, pairs = backend.select(ids), set()
    for start in range(0, len(ids), _CHUNK):
        part = ids[start : start + _CHUNK]
        for i, found in zip(
            part.tolist(), backend.search(backend.vectors(part), _NEIGHBOURS, within=within), strict=True
        ):
            for j, score in zip(found.ids.tolist(), found.scores.tolist(), strict=True):
                if score < threshold:
                    break
                if i != j:
                    pairs.add((min(i, j), max(i, j), score))
    return list(pairs)
