"""Traits of taxa: what a key asks for and a microscope shows.

The table `traits.csv` names, for each taxon of the reference collections, the dispersal unit, the apertures' number and
kind, the ornamentation as light microscopy shows it, the shape and the size. It was written from general knowledge of
the works in its column `source`, where the taxon or its genus can be looked up, and not checked against them page by
page; `confidence` says how sure an entry is. What is not known is empty, and nothing follows from an empty field.
"""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

import numpy as np

from .taxa import taxon_of

__all__ = ["TERMS", "Traits", "trait_matrix", "traits_of"]

TERMS: dict[str, tuple[str, ...]] = {
    "unit": ("monad", "tetrad", "polyad"),
    "aperture_number": ("0", "1", "2", "3", "4", "5", "6", "many"),
    "aperture_type": ("none", "pore", "colpus", "colporus", "sulcus", "leptoma"),
    "ornamentation": ("psilate", "verrucate", "echinate", "reticulate", "striate", "clavate"),
    "shape": ("oblate", "spheroidal", "prolate"),
    "size_class": ("very small", "small", "medium", "large", "very large"),
    "feature": ("annulate", "syncolpate", "pseudocolpate", "trichotomosulcate", "saccate"),
}
"""The words that each field may hold.

Shapes are wide: oblate and prolate hold their sub-forms, spheroidal both near forms. Sizes are of the longer axis: very
small below 10 um, small to 25, medium to 50, large to 100, very large above. A feature that is not named may still be
there.
"""


@dataclass(frozen=True)
class Traits:
    """What is known of a taxon's grains; None where it is not.

    Attributes:
        taxon: The taxon.
        unit: Of dispersal.
        aperture_number: The numbers that occur, `("3", "4")` for three to four; `many` for seven and more.
        aperture_type: Kind of the apertures.
        ornamentation: Of the surface, in light microscopy.
        shape: Polar against equatorial axis.
        size_class: Longer axis.
        feature: Something that marks it.
        confidence: high, medium or low; None of a taxon that is not in the table.
    """

    taxon: str
    unit: str | None = None
    aperture_number: tuple[str, ...] | None = None
    aperture_type: str | None = None
    ornamentation: str | None = None
    shape: str | None = None
    size_class: str | None = None
    feature: str | None = None
    confidence: str | None = None


def traits_of(name: str) -> Traits:
    """The traits of a taxon, or of a label of the reference collections.

    Example:
        >>> traits_of("sida_cerradoensis").ornamentation
        'echinate'
    """
    taxon = taxon_of(name)
    return _table().get(taxon, Traits(taxon))


def trait_matrix(names: Sequence[str]) -> tuple[tuple[str, ...], np.ndarray]:
    """Traits as numbers, to learn from.

    Args:
        names: Taxa or labels.

    Returns:
        The columns, `field:term`, those that some taxon has; and float32 (taxa, columns): 1 where the taxon has the
        trait, 0 where it has another of that field, NaN where that is not known.
    """
    known = [traits_of(name) for name in names]
    columns, values = [], []
    for field, terms in TERMS.items():
        for term in terms:
            column = np.array([_value(getattr(traits, field), term, field) for traits in known], np.float32)
            if np.nanmax(column, initial=0) > 0:
                columns.append(f"{field}:{term}")
                values.append(column)
    return tuple(columns), np.array(values, np.float32).T.reshape(len(names), len(columns))


def _value(held: str | tuple[str, ...] | None, term: str, field: str) -> float:
    if held is None:
        return np.nan
    return float(term in held if isinstance(held, tuple) else term == held)


def _numbers(written: str) -> tuple[str, ...] | None:
    if not written:
        return None
    low, _, high = written.partition("-")
    return tuple(str(n) for n in range(int(low), int(high) + 1)) if high else (low,)


@cache
def _table() -> dict[str, Traits]:
    text = files(__package__).joinpath("traits.csv").read_text(encoding="utf-8")
    table = {}
    for row in csv.DictReader(text.splitlines()):
        plain = {
            k: row[k] or None for k in ("unit", "aperture_type", "ornamentation", "shape", "size_class", "feature")
        }
        table[row["taxon"]] = Traits(
            row["taxon"], aperture_number=_numbers(row["aperture_number"]), confidence=row["confidence"], **plain
        )
    return table
