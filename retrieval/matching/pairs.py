"""Grains with what is right and wrong to say of each: what the matcher learns from and is asked about."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from ...errors import InputError, UsageError
from .captions import FIELDS, Caption, caption, truths
from .measures import Measures

__all__ = ["Captions", "Pairs", "draw_captions", "first_ranks"]


@dataclass(frozen=True)
class Pairs:
    """Grains as an image tower reads them, with their facts.

    Attributes:
        features: float32, (views, N, dim): vectors of pictures, the views being pictures of the same grain, and after
            them the measures if the tower reads these.
        taxa: Label of each grain.
        measures: What was measured of each, or None for all.
    """

    features: np.ndarray
    taxa: tuple[str, ...]
    measures: tuple[Measures, ...] | None = None

    def __post_init__(self) -> None:
        if self.features.ndim != 3 or self.features.shape[1] != len(self.taxa):
            raise UsageError(
                f"features: expected (views, grains, dim) of {len(self.taxa)} grains, got {self.features.shape}"
            )
        if self.measures is not None and len(self.measures) != len(self.taxa):
            raise UsageError(f"measures: expected one a grain, {len(self.taxa)}, got {len(self.measures)}")

    def __len__(self) -> int:
        return len(self.taxa)

    def select(self, kept: Sequence[bool] | np.ndarray) -> Pairs:
        """The grains for which `kept`, Boolean (N,), is true."""
        at = np.flatnonzero(np.asarray(kept, bool))
        measures = None if self.measures is None else tuple(self.measures[i] for i in at)
        return Pairs(self.features[:, at], tuple(self.taxa[i] for i in at), measures)

    @cached_property
    def true(self) -> tuple[Mapping[str, frozenset[str]], ...]:
        """What is right to say of each grain; see `truths`."""
        measures = self.measures or (None,) * len(self)
        return tuple(truths(t, m) for t, m in zip(self.taxa, measures, strict=True))


@dataclass(frozen=True)
class Captions:
    """Phrases, and for which grains they are right or wrong.

    Attributes:
        captions: The phrases.
        of: Grain that each was made for, int64, (M,).
    """

    captions: tuple[Caption, ...]
    of: np.ndarray

    def __len__(self) -> int:
        return len(self.captions)

    @property
    def texts(self) -> list[str]:
        """The phrases as texts."""
        return [one.text for one in self.captions]

    def truth(self, pairs: Pairs) -> tuple[np.ndarray, np.ndarray]:
        """Which phrases are right for which grains, and which are known to be wrong: Boolean (M, N) each.

        A phrase is right if all that it says is, and wrong if something is known not to be; else it is neither.
        """
        columns = sorted({pair for one in self.captions for pair in one.facts.items()})
        place = {pair: i for i, pair in enumerate(columns)}
        said = np.zeros((len(self), len(columns)), np.float32)
        for row, one in zip(said, self.captions, strict=True):
            row[[place[pair] for pair in one.facts.items()]] = 1
        held = [[value in true.get(field, ()) for field, value in columns] for true in pairs.true]
        known = [[field in true for field, _ in columns] for true in pairs.true]
        true = np.array(held, bool).reshape(len(pairs), len(columns))
        false = np.array(known, bool).reshape(true.shape) & ~true
        return said @ np.float32(~true).T == 0, said @ np.float32(false).T > 0


def draw_captions(
    pairs: Pairs,
    count: int,
    seed: int,
    *,
    keep: float = 0.7,
    name: float = 0.25,
    fields: Collection[str] = FIELDS,
) -> Captions:
    """Draws phrases for grains.

    Args:
        pairs: The grains.
        count: Phrases a grain.
        seed: The same gives the same phrases.
        keep: See `caption`, as `name` and `fields`.
        name: Probability that a taxon is named.
        fields: What may be said.

    Raises:
        InputError: There are no grains.
    """
    found, of = [], []
    measures = pairs.measures or (None,) * len(pairs)
    for i, (taxon, measured) in enumerate(zip(pairs.taxa, measures, strict=True)):
        rng = np.random.default_rng([seed, i])
        for _ in range(count):
            found.append(caption(taxon, measured, rng=rng, keep=keep, name=name, fields=fields))
            of.append(i)
    if not found:
        raise InputError("expected grains to speak of, found none")
    return Captions(tuple(found), np.array(of, np.int64))


def first_ranks(scores: np.ndarray, right: np.ndarray) -> np.ndarray:
    """The rank of the first right answer to each query, 1 for the top; Recall@k is the share of ranks up to k.

    Args:
        scores: (Q, N).
        right: Boolean, (Q, N).

    Returns:
        float64, (Q,); infinity where nothing is right. Wrong answers with the same score count as before it.
    """
    best = np.where(right, scores, -np.inf).max(1, initial=-np.inf)
    ahead = ((scores >= best[:, None]) & ~right).sum(1)
    return np.where(right.any(1), 1.0 + ahead, np.inf)
