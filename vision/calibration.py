"""Whether a probability means what it says: of boxes at confidence 0.8, are eight in ten a grain?

Boxes are put into bins of equal width by their probability. In a bin B of n boxes out of N the mean probability is
conf(B) and the share that came true acc(B); the expected calibration error is `sum n / N |acc(B) - conf(B)|` (Naeini
et al. 2015; Guo et al. 2017, equation 3). The Brier score is the mean of `(p - y)^2` (Brier 1950); it also falls when
right and wrong are told apart better, which the calibration error does not see.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from ..data.annotations import LabelledImage
from ..data.taxa import UNKNOWN
from ..errors import UsageError
from .confusion import agrees
from .metrics import match
from .results import SlideResult

__all__ = ["Bin", "Calibration", "calibration", "calibration_draws", "grain_events", "name_events"]


@dataclass(frozen=True)
class Bin:
    """Boxes whose probability lies in (low, high].

    Attributes:
        low, high: Limits; 0 itself belongs to the first bin.
        number: Boxes.
        probability: Their mean probability, None without boxes.
        right: Share of them that came true, None without boxes.
    """

    low: float
    high: float
    number: int
    probability: float | None
    right: float | None


@dataclass(frozen=True)
class Calibration:
    """How well probabilities are calibrated.

    Attributes:
        number: Boxes.
        ece: Expected calibration error, NaN without boxes.
        brier: Brier score, NaN without boxes.
        bins: The reliability table, from low to high.
    """

    number: int
    ece: float
    brier: float
    bins: tuple[Bin, ...]


def calibration(probability: np.ndarray, right: np.ndarray, bins: int = 15) -> Calibration:
    """Compares probabilities with what came true.

    Args:
        probability: In [0, 1], (N,).
        right: Whether each came true, (N,).
        bins: Bins of equal width.

    Raises:
        UsageError: A number that is no probability, or no bins.
    """
    p, y = _exact(probability), np.asarray(right, np.float64)
    if bins < 1 or p.shape != y.shape or not ((p >= 0) & (p <= 1)).all():
        raise UsageError("expected at least one bin, and an outcome for each probability in [0, 1]")
    edges, place = np.linspace(0, 1, bins + 1), _bin_of(p, bins)
    number = np.bincount(place, minlength=bins)
    mean = np.bincount(place, p, bins) / np.maximum(number, 1)
    share = np.bincount(place, y, bins) / np.maximum(number, 1)
    return Calibration(
        number=len(p),
        ece=float(number @ np.abs(share - mean) / len(p)) if len(p) else float("nan"),
        brier=float(np.mean((p - y) ** 2)) if len(p) else float("nan"),
        bins=tuple(
            Bin(float(low), float(high), int(n), float(m) if n else None, float(s) if n else None)
            for low, high, n, m, s in zip(edges[:-1], edges[1:], number, mean, share, strict=True)
        ),
    )


def calibration_draws(
    parts: Sequence[tuple[np.ndarray, np.ndarray]], weights: np.ndarray, bins: int = 15
) -> dict[str, np.ndarray]:
    """`ece` and `brier` of `calibration` for each draw of images, (draws,) each; NaN where a draw has no boxes.

    Args:
        parts: Probabilities of each image's boxes, and whether each came true.
        weights: How often each image was drawn, (draws, images).
        bins: Bins of equal width.
    """
    gap, number, square = np.zeros((len(parts), bins)), np.zeros(len(parts)), np.zeros(len(parts))
    for i, (probability, right) in enumerate(parts):
        p, y = _exact(probability), np.asarray(right, np.float64)
        gap[i] = np.bincount(_bin_of(p, bins), y - p, bins)
        number[i], square[i] = len(p), ((p - y) ** 2).sum()
    total = weights @ number
    some = np.where(total > 0, total, np.nan)
    return {"ece": np.abs(weights @ gap).sum(1) / some, "brier": weights @ square / some}


def _exact(probability: np.ndarray) -> np.ndarray:
    """Single precision puts 0.8 a hair above 0.8 and so into the next bin."""
    return np.round(np.asarray(probability, np.float64), 7)


def _bin_of(p: np.ndarray, bins: int) -> np.ndarray:
    return np.maximum(np.searchsorted(np.linspace(0, 1, bins + 1), p - 1e-9, side="right") - 1, 0)


def grain_events(truth: Sequence[LabelledImage], results: Sequence[SlideResult]) -> tuple[np.ndarray, np.ndarray]:
    """The confidence of every box, and whether a true grain is there (IoU 0.5, each once, surest first): (N,), (N,)."""
    confidence = [result.confidence for result in results]
    right = [partner >= 0 for _, _, partner in _matched(truth, results)]
    return np.concatenate([np.zeros(0), *confidence]), np.concatenate([np.zeros(0, bool), *right])


def name_events(
    truth: Sequence[LabelledImage], results: Sequence[SlideResult], *, given_grain: bool = False
) -> tuple[np.ndarray, np.ndarray]:
    """The probability of every box's name, and whether it is right, at its own rank.

    Boxes called `unknown` are left out: most are so because no name was sure enough, and have no such probability.

    Args:
        truth: True boxes.
        results: What was found, in the same order.
        given_grain: Only of boxes that are grains, and as a share of the confidence, which is what naming looks at;
            else that of "a grain of this name is here", which is false where there is no grain.

    Returns:
        (N,) and (N,).
    """
    probability, right = [], []
    for true, result, partner in _matched(truth, results):
        for i, candidates in enumerate(result.candidates):
            name = result.taxa[i]
            if name == UNKNOWN or not candidates or candidates[0][0] != name or (given_grain and partner[i] < 0):
                continue
            whole = float(result.confidence[i]) if given_grain else 1.0
            probability.append(min(candidates[0][1] / max(whole, 1e-9), 1.0))
            right.append(partner[i] >= 0 and agrees(name, result.ranks[i], true.labels[partner[i]]))
    return np.array(probability, np.float64), np.array(right, bool)


def _matched(
    truth: Sequence[LabelledImage], results: Sequence[SlideResult]
) -> Iterator[tuple[LabelledImage, SlideResult, np.ndarray]]:
    for true, result in zip(truth, results, strict=True):
        yield true, result, match(true.boxes, result.boxes, result.confidence)
