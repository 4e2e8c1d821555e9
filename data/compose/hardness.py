"""Hard cases are set into training scenes more often: what a detector missed, misnamed or was hardly sure of.

A picture was placed n times in earlier training scenes; of placement i a detector gave the true name the probability
p_i, 0 where it found no grain. The picture's hardness is the mean of 1 - p_i, drawn by k placements' worth to that of
its taxon, and that to the mean of all, as a few placements tell little (the m-estimate, Cestnik 1990):

    h_all = mean over all placements of (1 - p_i)
    h_t   = (sum_{i in t} (1 - p_i) + k h_all) / (n_t + k)
    h_r   = (sum_{i in r} (1 - p_i) + k h_t) / (n_r + k)

A picture that was never placed has its taxon's, a taxon that was never placed the mean of all. Scenes draw a taxon of T
and one of its N_t pictures, so q_r = 1 / (T N_t). With hard cases, pictures harder than usual are drawn as many times
as often, m times at most:

    w_r = min(max(h_r / sum_s q_s h_s, 1), m)        P(r) = q_r w_r / sum_s q_s w_s

These are the repeat factors of LVIS (Gupta, Dollar & Girshick 2019, arXiv 1908.03195, section 4), with how hard a
picture is in place of how rare its class is; that what is hard counts more is hard example mining (Shrivastava, Gupta &
Girshick 2016, arXiv 1604.03540). As 1 <= w_r <= m, no picture is drawn less than 1 / m or more than m times as often as
without. Only the training scenes are drawn so.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from ...errors import InputError, UsageError
from ..references import Reference

__all__ = ["MOST", "Hardness", "Sighting", "measure", "times"]

MOST = 4.0
# Placements that a taxon's mean is worth beside a picture's own.
_PRIOR = 5


class Sighting(NamedTuple):
    """What a detector made of one placement of a reference picture.

    Attributes:
        source: Name of the picture, as `Reference.name`.
        taxon: Its folder.
        certainty: The probability that the detector gave its true name, in [0, 1]; 0 if it was missed.
    """

    source: str
    taxon: str
    certainty: float


@dataclass(frozen=True)
class Hardness:
    """How hard pictures were, as h of the module's equations.

    Attributes:
        pictures: h_r by the name of a picture.
        taxa: h_t by the name of a taxon's folder.
        mean: h_all.
        most: m, how many times as often a picture is drawn at most, from 1.
        seen_by: Hashes of the detectors that say so.
    """

    pictures: Mapping[str, float]
    taxa: Mapping[str, float]
    mean: float
    most: float = MOST
    seen_by: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not 1 <= self.most < np.inf:
            raise UsageError(f"most: expected 1 or more times as often, got {self.most}")

    def of(self, reference: Reference) -> float:
        """The picture's h_r, or the nearest that is known."""
        return self.pictures.get(reference.name, self.taxa.get(reference.taxon, self.mean))


def measure(sightings: Iterable[Sighting], *, most: float = MOST, seen_by: Sequence[str] = ()) -> Hardness:
    """How hard the pictures were that a detector saw.

    Raises:
        InputError: It saw none.
        UsageError: `most` is below 1.
    """
    misses: dict[tuple[str, str], list[float]] = defaultdict(list)
    for source, taxon, certainty in sightings:
        misses[taxon, source].append(1 - certainty)
    if not misses:
        raise InputError("hard cases: expected grains of reference pictures in the scenes, found none")
    by_taxon: dict[str, list[float]] = defaultdict(list)
    for (taxon, _), own in misses.items():
        by_taxon[taxon] += own
    mean = float(np.mean([miss for own in by_taxon.values() for miss in own]))
    taxa = {taxon: _drawn_to(own, mean) for taxon, own in sorted(by_taxon.items())}
    pictures = {source: round(_drawn_to(own, taxa[taxon]), 6) for (taxon, source), own in sorted(misses.items())}
    return Hardness(pictures, {t: round(h, 6) for t, h in taxa.items()}, round(mean, 6), most, tuple(seen_by))


def times(references: Sequence[Reference], hardness: Hardness) -> np.ndarray:
    """w_r: how many times as often as a usual one each picture is drawn, in [1, most], (N,)."""
    hard = np.array([hardness.of(reference) for reference in references])
    usual = float(shares(references) @ hard)
    return np.clip(hard / usual, 1, hardness.most) if usual > 0 else np.ones(len(hard))


def shares(references: Sequence[Reference]) -> np.ndarray:
    """q_r: how often each picture is drawn where all taxa, and all pictures of one, are drawn alike, (N,)."""
    taxa, taxon, number = np.unique(
        [reference.taxon for reference in references], return_inverse=True, return_counts=True
    )
    return 1 / (len(taxa) * number[taxon])


def _drawn_to(own: Sequence[float], mean: float) -> float:
    return (sum(own) + _PRIOR * mean) / (len(own) + _PRIOR)
