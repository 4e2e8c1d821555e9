"""Grains per taxon, with the interval that every count and percentage is shown with.

A slide is a sample: the share of a taxon in it estimates the share in the deposit. The limits are those of Mosimann
(1965, in Kummel & Raup, *Handbook of Paleontological Techniques*, 636-673) and Maher (1972, *Review of Palaeobotany and
Palynology* 13:85), which statisticians know as the Wilson score interval. They hold for one taxon at a time.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from statistics import NormalDist

from ..errors import UsageError

__all__ = ["Tally", "tally", "wilson"]


@dataclass(frozen=True)
class Tally:
    """The count of one taxon and its share of the sum.

    Attributes:
        taxon: The name.
        n: Grains of the taxon.
        sum: Grains of all taxa, this one included.
        percent: `100 * n / sum`.
        low: Lower limit of the percentage.
        high: Upper limit of the percentage; above 0 also where `n` is 0.
        level: Confidence level of the limits, in (0, 1).
        method: How the limits were made.
    """

    taxon: str
    n: int
    sum: int
    percent: float
    low: float
    high: float
    level: float = 0.95
    method: str = "wilson"


def wilson(x: float, n: float, level: float = 0.95, *, z: float | None = None) -> tuple[float, float]:
    """Limits of a share `x / n`, by inverting the score test.

    The limits are the two shares `p` at which `|x - n p| = z sqrt(n p (1 - p))`:
    `(x + z^2/2 -/+ z sqrt(x (n - x) / n + z^2/4)) / (n + z^2)`.

    Args:
        x: Grains of the taxon, 0 to `n`.
        n: The sum, which includes `x`; at 0 nothing is known and the limits are 0 and 1.
        level: Confidence level, in (0, 1).
        z: Normal quantile to use in place of `level`, such as the rounded 1.96 of printed tables.

    Returns:
        Lower and upper limit, shares in [0, 1].

    Raises:
        UsageError: `x`, `n`, `level` or `z` is out of its range.

    Example:
        >>> [round(limit, 5) for limit in wilson(30, 300, z=1.96)]
        [0.07095, 0.13917]
    """
    if not (math.isfinite(n) and 0 <= x <= n):
        raise UsageError(f"a share needs 0 <= x <= n: got x = {x}, n = {n}")
    if z is None:
        z = _quantile(level)
    elif not (math.isfinite(z) and z > 0):
        raise UsageError(f"z must be a positive number: got {z}")
    if n == 0:
        return 0.0, 1.0
    middle, half = x + z * z / 2, z * math.sqrt(x * (n - x) / n + z * z / 4)
    # At the ends the limits are exactly 0 and 1, which rounding must not touch.
    low = 0.0 if x == 0 else max(0.0, (middle - half) / (n + z * z))
    high = 1.0 if x == n else min(1.0, (middle + half) / (n + z * z))
    return low, high


def tally(names: Iterable[str], level: float = 0.95, taxa: Iterable[str] | None = None) -> list[Tally]:
    """Counts grains per taxon.

    `unknown` and `indeterminable` are taxa like any other: they have rows and are part of the sum. Names are counted as
    they come; see `taxa.counted_as` for those that mean the same.

    Args:
        names: One name a grain.
        level: Confidence level of the limits, in (0, 1).
        taxa: Names that get a row even where none was found: a zero count still has an upper limit.

    Returns:
        One row a taxon, most frequent first, ties by name; nothing where no grain was counted, as there is no share.

    Raises:
        UsageError: `level` is not in (0, 1).
    """
    z = _quantile(level)
    counts = Counter(names)
    total = counts.total()
    if not total:
        return []
    for taxon in taxa or ():
        counts.setdefault(taxon, 0)
    rows = []
    for taxon, n in sorted(counts.items(), key=lambda item: (-item[1], item[0])):
        low, high = wilson(n, total, z=z)
        rows.append(Tally(taxon, n, total, 100 * n / total, 100 * low, 100 * high, level))
    return rows


def _quantile(level: float) -> float:
    """The two-sided normal quantile: 1.95996 at 0.95."""
    if not 0 < level < 1:
        raise UsageError(f"the confidence level must lie between 0 and 1: expected such as 0.95, got {level}")
    return NormalDist().inv_cdf((1 + level) / 2)
