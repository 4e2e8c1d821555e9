"""How sure a mean, or a difference of two systems on the same queries, is.

- `interval`: percentile bootstrap over queries (Efron and Tibshirani 1993, chapter 13).
- `compare`: the difference of means, its paired bootstrap interval, and the paired randomisation test (Fisher 1935;
  Smucker, Allan and Carterette 2007, CIKM, 623: the test to prefer for rankings). If neither system is better, the sign
  of each query's difference is a coin's; p is the share of signings that make the mean at least as far from 0.
- `holm`: p values of several tests, so that one false alarm among all of them is as rare as asked (Holm 1979).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ...errors import UsageError

__all__ = ["EXACT", "Comparison", "Interval", "compare", "holm", "interval"]

# Up to so many differences that are not zero, every signing is tried.
EXACT = 16
_ROUNDING = 1e-12
_BLOCK = 2_000_000


@dataclass(frozen=True)
class Interval:
    """A mean with its limits."""

    mean: float
    low: float
    high: float


@dataclass(frozen=True)
class Comparison:
    """How much better a is than b on the same queries.

    Attributes:
        difference: Mean of a minus mean of b.
        low: Lower limit of the difference.
        high: Upper limit.
        p: Two-sided, of the paired randomisation test.
        wins: Queries on which a is better.
        losses: Queries on which b is better.
        ties: The others.
    """

    difference: float
    low: float
    high: float
    p: float
    wins: int
    losses: int
    ties: int


def interval(
    values: Sequence[float] | np.ndarray, *, level: float = 0.95, samples: int = 10_000, seed: int = 0
) -> Interval:
    """The mean of values that were drawn from more such queries, with its limits.

    Args:
        values: One a query.
        level: Share of such intervals that hold the mean of all queries of the kind.
        samples: Bootstrap samples.
        seed: Of the drawing; the same seed gives the same limits.

    Raises:
        UsageError: No values, one that is not finite, or a level or number that cannot be meant.
    """
    values = _checked("values", values)
    if not 0 < level < 1 or samples < 1:
        raise UsageError(f"expected a level between 0 and 1 and samples above zero, got {level!r} and {samples!r}")
    rng, n = np.random.default_rng(seed), len(values)
    block = max(_BLOCK // n, 1)
    means = np.concatenate(
        [values[rng.integers(0, n, (min(block, samples - i), n))].mean(1) for i in range(0, samples, block)]
    )
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(values.mean()), float(low), float(high))


def compare(
    a: Sequence[float] | np.ndarray,
    b: Sequence[float] | np.ndarray,
    *,
    level: float = 0.95,
    samples: int = 10_000,
    seed: int = 0,
) -> Comparison:
    """Compares two systems, query by query.

    Args:
        a: Values of one, in the order of the queries.
        b: Values of the other, in the same order.
        level: Of the interval.
        samples: Bootstrap samples, and signings where there are too many to try all.
        seed: Of both.

    Raises:
        UsageError: Not as many values, none, or one that is not finite.
    """
    a, b = _checked("a", a), _checked("b", b)
    if len(a) != len(b):
        raise UsageError(f"expected values of the same queries, got {len(a)} and {len(b)}")
    differences = a - b
    limits = interval(differences, level=level, samples=samples, seed=seed)
    p = _randomisation(differences, samples, np.random.default_rng(seed))
    wins, losses = int((differences > 0).sum()), int((differences < 0).sum())
    return Comparison(limits.mean, limits.low, limits.high, p, wins, losses, len(a) - wins - losses)


def holm(ps: Sequence[float]) -> list[float]:
    """The p values of several tests, adjusted for their number, in the same order.

    Example:
        >>> holm([0.01, 0.04, 0.03])
        [0.03, 0.06, 0.06]
    """
    adjusted, highest = [0.0] * len(ps), 0.0
    for rank, index in enumerate(sorted(range(len(ps)), key=ps.__getitem__)):
        highest = max(highest, min((len(ps) - rank) * ps[index], 1.0))
        adjusted[index] = highest
    return adjusted


def _randomisation(differences: np.ndarray, samples: int, rng: np.random.Generator) -> float:
    d = differences[differences != 0]
    n = len(d)
    # Sums that differ by rounding alone are equal.
    observed = abs(d.sum()) - _ROUNDING * max(np.abs(d).sum(), 1)
    if n <= EXACT:
        signs = 1 - 2 * (np.arange(2**n)[:, None] >> np.arange(n) & 1)
        return float((np.abs(signs @ d) >= observed).mean())
    block, far = max(_BLOCK // n, 1), 0
    for start in range(0, samples, block):
        signs = 1 - 2 * rng.integers(0, 2, (min(block, samples - start), n))
        far += int((np.abs(signs @ d) >= observed).sum())
    # The signing that was seen is one of them, so p is never 0.
    return (far + 1) / (samples + 1)


def _checked(name: str, values: Sequence[float] | np.ndarray) -> np.ndarray:
    array = np.asarray(values, float)
    if array.ndim != 1 or not array.size or not all(map(math.isfinite, array)):
        raise UsageError(
            f"{name}: expected at least one finite number a query, got {array.size} of shape {array.shape}"
        )
    return array
