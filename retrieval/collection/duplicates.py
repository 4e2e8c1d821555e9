"""Records that are nearly the same: the same grain pictured twice, the same passage from two sources."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from ...errors import UsageError
from .backend import VectorBackend
from .record import KINDS, Kind, Pair
from .records import Records
from .space import Space
from .vectors import exact_scores
from .where import Condition

__all__ = ["Duplicates", "find_duplicates"]

# Up to so many vectors all pairs are compared; beyond that the nearest of each, so many.
_ALL_PAIRS, _NEIGHBOURS = 50_000, 50
_CHUNK = 1024


@dataclass(frozen=True)
class Duplicates:
    """Pairs of records that are nearly the same, and what was compared to find them.

    Attributes:
        pairs: The most alike first.
        kind: What was compared: grains, or texts where no grain passes; never one with the other.
        encoder_id: The space; None where nothing that passes has a vector.
        compared: How many.
        left_out: How many more of the kind pass, and have no vector in that space.
    """

    pairs: tuple[Pair, ...]
    kind: Kind
    encoder_id: str | None
    compared: int
    left_out: int


def find_duplicates(
    spaces: Mapping[str, Space], condition: Condition, threshold: float, records: Records
) -> Duplicates:
    """Pairs of records whose cosine is at least a threshold.

    Up to 50,000 vectors every pair is compared; of more, each with the 50 nearest that a search finds.

    Args:
        spaces: Where to compare. Of several it is the one that holds the most of what passes: grains, if any do.
        condition: What passes.
        threshold: Least cosine.
        records: The records.

    Raises:
        UsageError: The threshold is not above 0 and at most 1, or several spaces hold as many.
    """
    if not 0 < threshold <= 1:
        raise UsageError(f"threshold: expected a cosine above 0 and at most 1, got {threshold}")
    for kind in KINDS:
        passing = records.ids(condition.and_kind(kind))
        held = {name: np.intersect1d(passing, space.backend.ids()) for name, space in spaces.items()}
        most = max((len(ids) for ids in held.values()), default=0)
        fullest = [name for name, ids in held.items() if len(ids) == most > 0]
        if len(fullest) > 1:
            raise UsageError(
                "expected encoder= (--space on the command line) to say which space is meant, as several hold the most "
                f"{kind}s, {most:,}: {', '.join(fullest)}"
            )
        if fullest:
            ids = held[fullest[0]]
            pairs = _pairs(spaces[fullest[0]].backend, ids, threshold, records)
            return Duplicates(pairs, kind, fullest[0], most, len(passing) - most)
    return Duplicates((), "grain", None, 0, 0)


def _pairs(backend: VectorBackend, ids: np.ndarray, threshold: float, records: Records) -> tuple[Pair, ...]:
    """Pairs of some records, given by ascending ids, the most alike first."""
    pairs = _all_pairs(backend, ids, threshold) if len(ids) <= _ALL_PAIRS else _neighbours(backend, ids, threshold)
    found = records.get(sorted({i for pair in pairs for i in pair[:2]}))
    slides = {i: record.slide for i, record in found.items()}
    return tuple(
        Pair(a, b, score, slides[a] is not None and slides[a] == slides[b])
        for a, b, score in sorted(pairs, key=lambda pair: (-pair[2], pair[:2]))
    )


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
