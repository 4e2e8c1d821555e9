"""From the class probabilities of one box to a name at the most specific rank that the model is sure of.

A network gives each class a probability of its own, independent of the others. The probability that at least one of
them is right is `1 - prod(1 - p)`: that there is a grain at all, the box's *confidence*. Given that exactly one is
right, it is class i with probability proportional to its odds `p_i / (1 - p_i)`: the class's *share*. Networks are too
sure of names, so the logarithms of the odds are first divided by a temperature T, which is fitted on validation images
(Guo et al. 2017): `share = softmax(log odds / T)`. A taxon's share is the sum of its classes'. It does not fall when a
grain is merely faint or cut, as the probabilities themselves do.

The name is the first of species, genus, family whose share reaches the threshold and that no class outside it is
likelier than, else `unknown`. A class stands at its own rank: `Poaceae sp.` with the families, `unknown` last. So
asking for more certainty never gives a finer name. A coarser group holds the finer one, so its share is never smaller,
and larger only where further classes add to it: a species never gives way to a genus of which it is the only class.
The probability that is shown beside a name is its share of the confidence.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from ..data.taxa import INDETERMINABLE, UNKNOWN, lineage, members
from ..errors import UsageError

__all__ = ["Name", "Namer", "at_least_one", "log_odds", "shares"]

CANDIDATES = 3
LEAST_CANDIDATE = 0.01
# Where a probability is 0 or 1 its odds have no logarithm.
_NEVER = 1e-12


class Name(NamedTuple):
    """What a box is called.

    Attributes:
        taxon: The name.
        rank: species, genus, family or unknown.
        candidates: The name with its probability, where it is not a mere fallback to `unknown`; then the likeliest
            classes, three at most, each of at least 0.01.
    """

    taxon: str
    rank: str
    candidates: tuple[tuple[str, float], ...]


def at_least_one(probabilities: np.ndarray) -> np.ndarray:
    """The probability that at least one of independent events happens: `1 - prod(1 - p)` over the last axis."""
    with np.errstate(divide="ignore"):
        return -np.expm1(np.log1p(-np.asarray(probabilities, np.float64)).sum(-1))


def log_odds(probabilities: np.ndarray) -> np.ndarray:
    """`log(p / (1 - p))`, of 0 and 1 as of numbers next to them."""
    within = np.asarray(probabilities, np.float64).clip(_NEVER, 1 - _NEVER)
    return np.log(within) - np.log1p(-within)


def shares(z: np.ndarray, temperature: float = 1.0) -> np.ndarray:
    """What each class is given that one is right: the softmax of log odds `z` over the temperature, (N, classes)."""
    z = np.asarray(z, np.float64) / temperature
    q = np.exp(z - z.max(-1, keepdims=True))
    return q / q.sum(-1, keepdims=True)


class Namer:
    """Names boxes for one list of classes.

    Args:
        classes: The model's classes, in its order.
        threshold: Least share of the confidence that a name must have, in (0, 1].
        temperature: What log odds are divided by; above 1 for a network that is too sure of its names.

    Raises:
        UsageError: No classes, one that is there twice, or a threshold or temperature outside its range.
    """

    def __init__(self, classes: Sequence[str], threshold: float = 0.5, temperature: float = 1.0):
        if not classes or len(set(classes)) < len(classes):
            raise UsageError(f"expected different names of classes, got {list(classes)}")
        if not 0 < threshold <= 1:
            raise UsageError(f"expected a naming threshold above 0 and up to 1, got {threshold}")
        if not 0 < temperature < np.inf:
            raise UsageError(f"expected a naming temperature above 0, got {temperature}")
        # Equal probabilities are settled by name, so that the order of the classes does not matter.
        self._order = np.argsort(np.array(classes, object), kind="stable")
        self._classes = [classes[i] for i in self._order]
        ranks = [_rank(name) for name in self._classes]
        # Finest first; at one rank a class of its own goes before a group.
        self._steps: list[tuple[str, dict[str, list[int]]]] = []
        for rank in ("species", "genus", "family", "unknown"):
            singles = {name: [i] for i, name in enumerate(self._classes) if ranks[i] == rank}
            groups = _groups(self._classes, rank) if rank in ("genus", "family") else {}
            self._steps += [(rank, taxa) for taxa in (singles, groups) if taxa]
        self.threshold, self.temperature = float(threshold), float(temperature)

    def names(self, probabilities: np.ndarray) -> list[Name]:
        """Names of boxes.

        Args:
            probabilities: Of each class for each box, in [0, 1], (N, classes).

        Returns:
            N names.
        """
        p = np.asarray(probabilities, np.float64).reshape(-1, len(self._classes))[:, self._order]
        q = shares(log_odds(p), self.temperature)
        own = at_least_one(p)
        # A share of exactly the threshold must not fail by the rounding of a sum.
        least = self.threshold - 1e-9
        taxa, ranks, share = [UNKNOWN] * len(p), ["unknown"] * len(p), np.zeros(len(p))
        named = own <= 0
        for rank, groups in self._steps:
            if named.all():
                break
            joint = np.stack([q[:, columns].sum(1) for columns in groups.values()], 1)
            outside = np.stack([np.delete(q, columns, 1).max(1, initial=0) for columns in groups.values()], 1)
            names, top = list(groups), joint.argmax(1)
            rows = np.arange(len(p))
            sure = (joint[rows, top] >= least) & (joint[rows, top] >= outside[rows, top] - 1e-9)
            for i in np.flatnonzero(~named & sure):
                taxa[i], ranks[i], share[i], named[i] = names[top[i]], rank, joint[i, top[i]], True
        joint = own[:, None] * q
        likeliest = np.argsort(-joint, 1, kind="stable")[:, :CANDIDATES]
        return [self._name(taxa[i], ranks[i], float(own[i] * share[i]), likeliest[i], joint[i]) for i in range(len(p))]

    def _name(self, taxon: str, rank: str, own: float, likeliest: np.ndarray, p: np.ndarray) -> Name:
        classes = [(self._classes[j], float(p[j])) for j in likeliest if p[j] >= LEAST_CANDIDATE]
        if own > 0:
            classes = [(taxon, own), *((name, value) for name, value in classes if name != taxon)]
        return Name(taxon, rank, tuple((name, round(value, 4)) for name, value in classes))


def _groups(classes: Sequence[str], rank: str) -> dict[str, list[int]]:
    """The taxa at a rank that several classes belong to, by name."""
    groups = members(classes, rank)
    return {name: columns for name, columns in sorted(groups.items()) if len(columns) > 1}


def _rank(name: str) -> str:
    if name in (UNKNOWN, INDETERMINABLE):
        return "unknown"
    rank = lineage(name).rank
    # A class that the table of taxa does not have is still the finest that the model tells apart.
    return "species" if rank == "unknown" else rank
