"""What a text says of a grain's size, against what was measured: `stated_size` and `size_evidence`.

    stated = stated_size("small spheroidal triporate grain, 25-33 µm")     # SizeRange(low=25.0, high=33.0)
    size_evidence(stated, np.array([29.0, 80.0, np.nan]))                  # [ 1.4, -2.9, 0.0]

The vectors of grains hold no size, as pictures do not say how large a pixel is. Where that is known, size says more
than most traits do. The evidence is the logarithm of a likelihood ratio, so that it adds to a score that is one too:

    E(L) = ln[ (1 - e) p(L | stated) / p(L) + e ]

p(L | stated) is that of a length whose logarithm is uniform in the stated range, blurred by a normal distribution:
what preparation and measuring add. p(L) is log-normal, of pollen of all kinds. e is the share of texts and pixel sizes
that are wrong. What is not known says nothing: E = 0.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np

from ...errors import UsageError
from ..words import folded

__all__ = ["SizeRange", "size_evidence", "stated_size"]

# Of the logarithm. Within a taxon of POLLEN73S the longest diameter spreads by 0.10 (median of 73 taxa), which a stated
# range has in it already; media alone make grains of one taxon differ by a quarter.
_BLUR = 0.15
_WRONG = 0.05
# Middle and spread of the logarithm of the diameter of pollen: 95 % between 10 and 110 micrometres.
_MIDDLE, _SPREAD = np.log(33.0), 0.6
# A single number is meant a tenth up and down; "above 100" to two and a half times that.
_ABOUT, _ABOVE, _BELOW = 1.1, 2.5, 0.4
_SMALLEST, _LARGEST = 2.0, 400.0

_CLASSES = {"very small": (4, 10), "small": (10, 25), "medium": (25, 50), "large": (50, 100), "very large": (100, 250)}
_VERY = r"(?:very|sehr|muy|tres)\s+"
_WORDS = {
    "small": r"small|klein(?:e[nrms]?)?|pequen[oa]s?|petite?s?",
    "medium": r"medium|mittelgross(?:e[nrms]?)?|median[oa]s?|moyen(?:ne)?s?",
    "large": r"large|gross(?:e[nrms]?)?|grandes?|grande?s?",
}
_CLASS = re.compile("|".join(rf"\b(?P<{c}>(?P<very_{c}>{_VERY})?(?:{w}))\b" for c, w in _WORDS.items()))

_NUMBER = r"\d+(?:[.,]\d+)?"
_UNIT = r"(?:[µμ]m|um|microns?|micromet(?:re|er)s?|mikrometern?|micras?|micrometros?)\b"
_TO = r"\s*(?:-|–|—|to|bis|a|up\s+to)\s*"
_BOUND = (
    r"(?P<above>>=?|≥|over|above|more\s+than|exceed(?:s|ing)|uber|mehr\s+als|mas\s+de|plus\s+de)|"
    r"(?P<below><=?|≤|under|below|less\s+than|up\s+to|unter|bis(?:\s+zu)?|hasta|menos\s+de|jusqu'a|moins\s+de)"
)
_LENGTH = re.compile(
    rf"(?:(?:{_BOUND})\s*)?(?P<low>{_NUMBER})(?:\s*{_UNIT})?(?:{_TO}(?P<high>{_NUMBER}))?\s*{_UNIT}",
)
# Clauses: a size said of a part of the grain is not that of the grain.
_CLAUSE = re.compile(r"[;:()\n]|[.,](?!\d)")
_GRAIN = re.compile(
    r"\b(?:grains?|pollen\w*|monads?|tetrads?|polyads?|spheroids?|spheres?|spherical|diamet\w+|korn|korner\w*|durchmesser|"
    r"gran[oa]s?|polen|diametro|long\s+axis|across)\b"
)
_PART = re.compile(
    r"\b(?:spin\w*|echin\w*|exine?\w*|sexine|nexine|intine|wall|wand|pared|paroi|por(?:e[ns]?|us|i|os)|pore|colp\w*|furrows?|"
    r"lumin\w*|mur[iu]s?|columell\w*|sacc(?:us|i)|sacs?|bladders?|annul\w*|opercul\w*|verruc\w*|gemma\w*|gran(?:ul\w*)|"
    r"stachel\w*|espinas?|epines?|luftsack\w*|thick|dick|poren|furchen?|surcos?|sillons?)\b"
)


@dataclass(frozen=True)
class SizeRange:
    """The longest diameter that a text gives, micrometres.

    Attributes:
        low: From.
        high: To.
    """

    low: float
    high: float

    def __post_init__(self) -> None:
        if not 0 < self.low <= self.high < np.inf:
            raise UsageError(
                f"size: expected micrometres from above 0 to as much or more, got {self.low} to {self.high}"
            )


def stated_size(text: str) -> SizeRange | None:
    """The size of a grain that a text gives, in English, German, Spanish or French; None if it gives none.

    Numbers with a unit go before words such as `small` or `très grand`, for which see `palyno.data.traits.TERMS`. Of
    several ranges, such as those of two axes, the one that goes highest is meant. What is said of spines, pores, air
    sacs or the wall is left out.

    Args:
        text: A phrase, a sentence, a description.

    Example:
        >>> stated_size("echinate, spines 3-5 µm long; grains 30 to 40 µm")
        SizeRange(low=30.0, high=40.0)
    """
    clauses = [c for c in _CLAUSE.split(folded(text)) if _GRAIN.search(c) or not _PART.search(c)]
    ranges = [found for clause in clauses for match in _LENGTH.finditer(clause) if (found := _range(match))]
    if ranges:
        return max(ranges, key=lambda r: (r.high, r.low))
    named = [match for clause in clauses for match in _CLASS.finditer(clause)]
    if not named:
        return None
    bounds = [_CLASSES[_named(match)] for match in named]
    return SizeRange(float(min(low for low, _ in bounds)), float(max(high for _, high in bounds)))


def size_evidence(stated: SizeRange | None, length_um: np.ndarray) -> np.ndarray:
    """How much more likely lengths are if a text is right than for pollen of any kind.

    Args:
        stated: What the text says; None says nothing.
        length_um: Longest diameters, (n,), micrometres; NaN where the pixel size is not known.

    Returns:
        Natural logarithms of likelihood ratios, (n,) float64; at least ln 0.05.

    Raises:
        UsageError: A length that is not above 0.
    """
    from scipy.stats import norm

    length = np.asarray(length_um, float)
    if (length <= 0).any():
        raise UsageError(f"length_um: expected micrometres above 0, or NaN, got {np.nanmin(length):g}")
    if stated is None:
        return np.zeros(length.shape)
    at = np.log(length)
    low, high = np.log(stated.low), np.log(stated.high)
    if high - low < 2 * np.log(_ABOUT):
        low, high = (low + high) / 2 - np.log(_ABOUT), (low + high) / 2 + np.log(_ABOUT)
    # The uniform density, blurred; in the tails the difference of two numbers near 1 is 0, and `_WRONG` is left.
    given = (norm.cdf((high - at) / _BLUR) - norm.cdf((low - at) / _BLUR)) / (high - low)
    ratio = given / norm.pdf(at, _MIDDLE, _SPREAD)
    return np.where(np.isnan(at), 0.0, np.log((1 - _WRONG) * ratio + _WRONG))


def _range(match: re.Match[str]) -> SizeRange | None:
    low, high = (float(part.replace(",", ".")) if part else None for part in match.group("low", "high"))
    assert low is not None
    if high is None:
        span = (_ABOVE, 1.0) if match["above"] else (1.0, _BELOW) if match["below"] else (1.0, 1.0)
        low, high = low * span[1], low * span[0]
    if high < low or high < _SMALLEST or low > _LARGEST:
        return None
    return SizeRange(low, high)


def _named(match: re.Match[str]) -> str:
    name = next(name for name in _WORDS if match[name])
    return f"very {name}" if match[f"very_{name}"] and name != "medium" else name
