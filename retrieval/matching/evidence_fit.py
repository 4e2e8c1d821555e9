"""Fitting of `TraitModel`: seconds on a CPU, in closed form but for two calibrations.

1. For each trait, ridge regression of has against has not on the grains' numbers; both halves, and within them all
   taxa, weigh alike.
2. The same with a fifth of the genera left out, five times. On what was left out, a logistic curve for each trait turns
   the regression's values into logarithms of likelihood ratios (Platt 1999); a falling curve is made flat.
3. Traits of a grain go together, and their evidence is not independent: the sum is weighed by one number, that which
   makes grains of the right taxon the most likely among those of the genera left out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from ...data.taxa import taxon_of
from ...errors import InputError, UsageError
from .columns import COLUMNS, known, said_of
from .evidence import TraitModel

__all__ = ["TraitFit", "TraitSettings", "fit_traits"]


@dataclass(frozen=True, kw_only=True)
class TraitSettings:
    """How traits are fitted.

    Attributes:
        ridge: Weight of the squared coefficients, the numbers having the spread 1.
        folds: Parts that the genera are cut in.
        flat: Weight of the squared slope of the logistic curves.
        least: A trait that fewer taxa have is left out.
    """

    ridge: float = 30.0
    folds: int = 5
    flat: float = 0.02
    least: int = 2

    def __post_init__(self) -> None:
        for name, valid, expected in (
            ("ridge", self.ridge > 0, "above 0"),
            ("folds", self.folds >= 2, "2 or more"),
            ("flat", self.flat > 0, "above 0"),
            ("least", self.least >= 2, "2 or more"),
        ):
            if not valid:
                raise UsageError(f"{name}: expected {expected}, got {getattr(self, name)!r}")


@dataclass(frozen=True)
class TraitFit:
    """A fitted model, and how well each trait was read on genera left out.

    Attributes:
        model: The model.
        auc: By column, the probability that of two grains, one of a taxon that has the trait and one of a taxon that
            has not, the former gets the higher value; 0.5 is chance.
        taxa: By column, how many taxa have it.
        weight: Of the sum.
    """

    model: TraitModel
    auc: Mapping[str, float]
    taxa: Mapping[str, int]
    weight: float


def fit_traits(numbers: np.ndarray, taxa: Sequence[str], settings: TraitSettings | None = None) -> TraitFit:
    """Fits traits.

    Args:
        numbers: Of grains, (n, features); see `describe`.
        taxa: Label of each.
        settings: How.

    Raises:
        InputError: Fewer genera than folds, or no trait that some taxa have and others have not.
    """
    settings = settings or TraitSettings()
    data = _Data.of(np.asarray(numbers, float), taxa)
    every = np.ones(len(data.taxon), bool)
    folds = data.folds(every, settings.folds, 0)
    fitted = _fit(data, every, settings)
    if not fitted.curves:
        raise InputError("expected traits that some taxa have and others have not, see data/traits.csv; found none")
    weight = _weigh(data, folds, settings)
    columns = list(fitted.curves)
    model = TraitModel(columns, data.numbers.shape[1])
    slopes = np.array([fitted.curves[c][0] for c in columns])
    shifts = np.array([fitted.curves[c][1] for c in columns])
    readings = [fitted.readings[c] for c in columns]
    with torch.no_grad():
        model.mean.copy_(torch.from_numpy(fitted.mean))
        model.spread.copy_(torch.from_numpy(fitted.spread))
        model.linear.weight.copy_(torch.from_numpy(weight * slopes[:, None] * np.array([b for b, _ in readings])))
        model.linear.bias.copy_(torch.from_numpy(weight * (slopes * np.array([c for _, c in readings]) + shifts)))
    has = {c: int(np.nansum(data.has[:, COLUMNS.index(c)])) for c in columns}
    return TraitFit(model.eval(), {c: fitted.auc[c] for c in columns}, has, weight)


@dataclass(frozen=True)
class _Data:
    """Grains, with their taxa by number, and what these have: (taxa, COLUMNS), NaN where not known."""

    numbers: np.ndarray
    names: tuple[str, ...]
    taxon: np.ndarray
    has: np.ndarray
    genus: np.ndarray

    @classmethod
    def of(cls, numbers: np.ndarray, taxa: Sequence[str]) -> _Data:
        if numbers.ndim != 2 or len(numbers) != len(taxa) or not np.isfinite(numbers).all():
            raise UsageError(f"numbers: expected finite ones, ({len(taxa)}, features), got {numbers.shape}")
        names = tuple(sorted(set(taxa)))
        place = {name: i for i, name in enumerate(names)}
        has = np.array([[known(name).get(column, np.nan) for column in COLUMNS] for name in names], float)
        genera = np.array([taxon_of(name).split(" ")[0].casefold() for name in names])
        taxon = np.array([place[name] for name in taxa])
        return cls(numbers, names, taxon, has.reshape(len(names), len(COLUMNS)), genera[taxon])

    def folds(self, kept: np.ndarray, count: int, seed: int) -> list[np.ndarray]:
        """Boolean (n,) each: the grains of a part of the genera."""
        genera = np.unique(self.genus[kept])
        if len(genera) < count:
            raise InputError(f"expected taxa of at least {count} genera, got {len(genera)}")
        drawn = genera[np.random.default_rng(seed).permutation(len(genera))]
        return [kept & np.isin(self.genus, drawn[i::count]) for i in range(count)]


@dataclass(frozen=True)
class _Fitted:
    mean: np.ndarray
    spread: np.ndarray
    readings: dict[str, tuple[np.ndarray, float]]
    curves: dict[str, tuple[float, float]]
    auc: dict[str, float]

    def evidence(self, numbers: np.ndarray) -> dict[str, np.ndarray]:
        z = (numbers - self.mean) / self.spread
        return {
            column: slope * (z @ self.readings[column][0] + self.readings[column][1]) + shift
            for column, (slope, shift) in self.curves.items()
        }


def _fit(data: _Data, kept: np.ndarray, s: TraitSettings) -> _Fitted:
    """Readings, with curves from readings that had not seen the genera."""
    apart = np.full((len(data.taxon), len(COLUMNS)), np.nan)
    for left_out in data.folds(kept, s.folds, 1):
        mean, spread, readings = _read(data, kept & ~left_out, s)
        z = (data.numbers[left_out] - mean) / spread
        for column, (slope, shift) in readings.items():
            apart[left_out, COLUMNS.index(column)] = z @ slope + shift
    mean, spread, readings = _read(data, kept, s)
    curves, auc = {}, {}
    for column in readings:
        at = COLUMNS.index(column)
        has = data.has[data.taxon, at]
        used = kept & ~np.isnan(has) & ~np.isnan(apart[:, at])
        if not 0 < has[used].sum() < used.sum():
            continue
        weights = _alike(data.taxon[used], has[used])
        curves[column] = _curve(apart[used, at], has[used], weights, s.flat)
        auc[column] = _auc(apart[used, at], has[used], weights)
    return _Fitted(mean, spread, readings, curves, auc)


def _read(
    data: _Data, kept: np.ndarray, s: TraitSettings
) -> tuple[np.ndarray, np.ndarray, dict[str, tuple[np.ndarray, float]]]:
    """Mean and spread of the numbers, and for each trait coefficients and a constant: -0.5 has not, 0.5 has."""
    x, taxon = data.numbers[kept], data.taxon[kept]
    each = 1 / np.bincount(taxon)[taxon]
    each /= each.sum()
    mean = each @ x
    spread = np.sqrt(each @ (x - mean) ** 2) + 1e-6
    z = (x - mean) / spread
    readings = {}
    for at, column in enumerate(COLUMNS):
        has = data.has[taxon, at]
        used = ~np.isnan(has)
        there = len(np.unique(taxon[used & (has == 1)]))
        if there < s.least or len(np.unique(taxon[used & (has == 0)])) < s.least:
            continue
        weights = _alike(taxon[used], has[used]) / 2
        middle = weights @ z[used]
        away = z[used] - middle
        spreads = (away * weights[:, None]).T @ away + s.ridge * np.eye(z.shape[1])
        slope = np.linalg.solve(spreads, (away * weights[:, None]).T @ (has[used] - 0.5))
        readings[column] = slope, float(-middle @ slope)
    return mean, spread, readings


def _alike(taxon: np.ndarray, has: np.ndarray) -> np.ndarray:
    """Weights of grains: all taxa alike, 1 in sum for those that have a trait and for those that have not."""
    weights = 1 / np.bincount(taxon)[taxon]
    for side in (0, 1):
        weights[has == side] /= weights[has == side].sum()
    return weights


def _curve(values: np.ndarray, has: np.ndarray, weights: np.ndarray, flat: float) -> tuple[float, float]:
    """Slope and shift of a logistic curve, by Newton's method; both 0 if it falls."""
    weights = weights / weights.sum()
    a, b = 0.5, 0.0
    for _ in range(40):
        p = 1 / (1 + np.exp(-(a * values + b)))
        slope = np.array([(weights * (p - has) * values).sum() + flat * a, (weights * (p - has)).sum()])
        r = weights * p * (1 - p)
        mixed = (r * values).sum()
        bend = np.array([[(r * values**2).sum() + flat, mixed], [mixed, r.sum() + 1e-6]])
        step = np.linalg.solve(bend, slope)
        a, b = a - step[0], b - step[1]
    return (float(a), float(b)) if a > 0 else (0.0, 0.0)


def _auc(values: np.ndarray, has: np.ndarray, weights: np.ndarray) -> float:
    order = np.argsort(values)
    there, not_there = (np.where(has == side, weights, 0)[order] for side in (1, 0))
    return float((there * (not_there.cumsum() - 0.5 * not_there)).sum())


def _weigh(data: _Data, folds: Sequence[np.ndarray], s: TraitSettings) -> float:
    """The weight of the sum under which taxa that were left out find their grains the most likely."""
    from scipy.optimize import minimize_scalar

    sums: list[tuple[np.ndarray, np.ndarray]] = []
    for left_out in folds:
        evidence = _fit(data, ~left_out, s).evidence(data.numbers[left_out])
        for number in np.unique(data.taxon[left_out]):
            named = [evidence[column] for column in said_of(data.names[number]) if column in evidence]
            if named:
                sums.append((np.sum(named, axis=0), data.taxon[left_out] == number))
    if not sums:
        return 1.0

    def loss(weight: float) -> float:
        total = 0.0
        for evidence, right in sums:
            p = np.exp(weight * (evidence - evidence.max()))
            total -= np.log(p[right].sum() / p.sum() + 1e-12)
        return total / len(sums)

    return float(minimize_scalar(loss, bounds=(0, 20), method="bounded").x)
