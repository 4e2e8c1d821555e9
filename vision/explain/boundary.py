"""Whether attributions follow the borders of what is seen: the share of one that lies along an object's outline.

The share of an attribution within k pixels of the outline, inside and outside, of all that lies in the object's box
and a tenth of its diameter around it. Chance is the share of the area: what an attribution has that is the same
everywhere. Their ratio is the *enrichment*. A band may be as wide as k pixels or as k times the object's diameter,
which does not change when the picture is enlarged.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from scipy.ndimage import distance_transform_edt

from ...errors import UsageError

__all__ = ["Band", "Interval", "Share", "border_distance", "boundary_share", "diameter", "paired_bootstrap"]

# Of the diameter, around the box.
SURROUNDINGS = 0.1


class Band(NamedTuple):
    """How near to the outline counts.

    Attributes:
        width: Pixels, or shares of the diameter, on either side of the outline.
        relative: Whether it is shares of the diameter.
    """

    width: float
    relative: bool = False

    @property
    def name(self) -> str:
        """Such as `4px` or `0.05d`."""
        return f"{self.width:g}{'d' if self.relative else 'px'}"

    def pixels(self, of: float) -> float:
        """The width in pixels for an object of this diameter."""
        return self.width * of if self.relative else self.width


class Share(NamedTuple):
    """How much of an attribution lies along the outline.

    Attributes:
        share: Of the attribution, in [0, 1].
        chance: Of the area, in (0, 1].
    """

    share: float
    chance: float

    @property
    def enrichment(self) -> float:
        """Times chance."""
        return self.share / self.chance


class Interval(NamedTuple):
    """A mean with the limits between which it lies.

    Attributes:
        mean: Of all grains.
        low: Lower limit.
        high: Upper limit.
    """

    mean: float
    low: float
    high: float


def diameter(mask: np.ndarray) -> float:
    """Of the circle with the mask's area, pixels."""
    return float(2 * np.sqrt(np.count_nonzero(mask) / np.pi))


def border_distance(mask: np.ndarray) -> np.ndarray:
    """Distance of every pixel's middle to the outline of a mask, which runs between its last pixels and the next.

    The picture's own border is no outline: a grain that it cuts goes on behind it.

    Args:
        mask: Boolean, (H, W), with pixels inside and outside.

    Returns:
        float32, (H, W): half a pixel on both sides of the outline, and more away from it.

    Raises:
        UsageError: All pixels are inside, or none.
    """
    mask = np.asarray(mask, bool)
    if mask.all() or not mask.any():
        raise UsageError(f"mask: expected pixels inside and outside, got {int(mask.sum())} of {mask.size} inside")
    return (np.where(mask, distance_transform_edt(mask), distance_transform_edt(~mask)) - 0.5).astype(np.float32)


def surroundings(mask: np.ndarray) -> tuple[slice, slice]:
    """Rows and columns of a mask's box with a tenth of its diameter around it, as far as the picture goes."""
    reach = max(1, round(SURROUNDINGS * diameter(mask)))
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return (
        slice(max(0, int(rows[0]) - reach), int(rows[-1]) + 1 + reach),
        slice(max(0, int(columns[0]) - reach), int(columns[-1]) + 1 + reach),
    )


def boundary_share(attribution: np.ndarray, mask: np.ndarray, bands: Sequence[Band]) -> dict[str, Share] | None:
    """The share of an attribution along a mask's outline, for several bands.

    Args:
        attribution: A value a pixel, (H, W); its sign does not count.
        mask: Boolean, (H, W): where the object shows.
        bands: How near to the outline counts.

    Returns:
        By the bands' names; None where there is no attribution in the object's surroundings.

    Raises:
        UsageError: Shapes that differ, or a mask without inside or outside.
    """
    if attribution.shape != mask.shape:
        raise UsageError(f"attribution: expected a value a pixel of the mask, {mask.shape}; got {attribution.shape}")
    distance, place = border_distance(mask), surroundings(mask)
    values, near = np.abs(attribution[place]).astype(np.float64), distance[place]
    total, size = float(values.sum()), diameter(mask)
    if not total > 0:
        return None
    found = {}
    for band in bands:
        inside = near <= band.pixels(size)
        # A band thinner than a pixel still has the pixels at the outline.
        inside = inside if inside.any() else near <= 0.5
        found[band.name] = Share(float(values[inside].sum()) / total, float(inside.mean()))
    return found


def paired_bootstrap(
    columns: Mapping[str, np.ndarray], groups: np.ndarray, *, seed: int = 0, rounds: int = 2000, level: float = 0.95
) -> dict[str, Interval]:
    """Means over grains with percentile intervals; whole scenes are drawn, as the grains of one are not independent.

    All columns are drawn together, so that a difference of two columns is one of the same grains.

    Args:
        columns: Values of every grain, (N,) each.
        groups: Scene of every grain, (N,).
        seed: Of the draws.
        rounds: Draws.
        level: Of the intervals.
    """
    names, values = list(columns), np.stack([np.asarray(v, float) for v in columns.values()])
    kinds, index = np.unique(np.asarray(groups), return_inverse=True)
    sums = np.stack([np.bincount(index, row, len(kinds)) for row in values])
    sizes = np.bincount(index, minlength=len(kinds))
    drawn = np.random.default_rng(seed).integers(len(kinds), size=(rounds, len(kinds)))
    means = sums[:, drawn].sum(2) / sizes[drawn].sum(1)
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2], axis=1)
    return {name: Interval(float(values[i].mean()), float(low[i]), float(high[i])) for i, name in enumerate(names)}
