"""Names of taxa and what they belong to: species, genus, family (APG IV), order.

The table `taxa.csv` gives the taxon behind each label of the reference collections, spelled right, and its place. A
name that is not in it is left exactly as it is written: a suffix such as `-type`, `cf.`, `undiff.` or `Poaceae >40 um`
says what was seen under the microscope and is never stripped to make a match. A pollen type is a set of properties and
not a plant taxon (Joosten and de Klerk 2002, *Review of Palaeobotany and Palynology* 122:29).

Names are made one only where grains are counted, by `counted_as`: `Poaceae sp.` says no more than `Poaceae` does. What
a grain was called stays as it was written in every row of its own.
"""

from __future__ import annotations

import csv
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

from ..errors import UsageError

__all__ = [
    "INDETERMINABLE",
    "RANKS",
    "UNKNOWN",
    "Lineage",
    "counted_as",
    "lineage",
    "members",
    "roll_up",
    "spellings",
    "taxon_of",
]

RANKS = ("genus", "family", "order")
UNKNOWN = "unknown"
INDETERMINABLE = "indeterminable"

# What is written behind a genus or family of which a species, or several, are meant and not named.
_NOT_NAMED = ("sp.", "spp.", "spec.", "sp", "spp", "spec")


@dataclass(frozen=True)
class Lineage:
    """Where a name belongs; None at the ranks that it does not say."""

    species: str | None = None
    genus: str | None = None
    family: str | None = None
    order: str | None = None

    @property
    def rank(self) -> str:
        """The most specific rank of the name; `unknown` where the name is not in the table."""
        return next((rank for rank in ("species", *RANKS) if getattr(self, rank)), "unknown")


def taxon_of(label: str) -> str:
    """The taxon that a label of a reference collection stands for.

    Args:
        label: A label such as the folder name `genipa_auniricana`, or a taxon's name.

    Returns:
        The taxon, `Genipa americana`; a label that is not in the table as it came.
    """
    return _labels().get(_key(label), label)


def lineage(name: str) -> Lineage:
    """Where a name belongs.

    Args:
        name: A taxon at any rank: `Serjania erecta`, `Serjania sp.`, `Serjania`, `Sapindaceae`.

    Returns:
        Its ranks; all None for reserved names and names that are not in the table.
    """
    return _names().get(_key(name), Lineage())


def roll_up(name: str, rank: str) -> str:
    """The name at a coarser rank.

    Args:
        name: A taxon.
        rank: `genus`, `family` or `order`.

    Returns:
        The taxon's name at that rank; a coarser, reserved or unlisted name as it came.

    Raises:
        UsageError: There is no such rank.

    Example:
        >>> roll_up("Serjania erecta", "genus"), roll_up("Poaceae sp.", "genus")
        ('Serjania', 'Poaceae sp.')
    """
    _check(rank)
    return getattr(lineage(name), rank) or name


def counted_as(name: str) -> str:
    """The name under which a grain is counted: `Poaceae` for `Poaceae sp.`, which claims the same.

    Behind one word, `sp.`, `spp.` and `spec.` say that the species is not named. Names that say anything else are taxa
    of their own: `Poaceae-type` and `Poaceae undiff.`, `cf. Poaceae`, `Betula sp. 2`, `Betula cf. nana`.

    Args:
        name: A taxon as it is written, in the table of taxa or not.

    Returns:
        The name in Unicode's composed form, so that an accent does not part what looks the same.

    Example:
        >>> counted_as("Poaceae sp."), counted_as("Poaceae-type"), counted_as("cf. Poaceae")
        ('Poaceae', 'Poaceae-type', 'cf. Poaceae')
    """
    name = _key(name)
    taxon, _, behind = name.partition(" ")
    return taxon if behind in _NOT_NAMED and _is_one_word(taxon) else name


def spellings(name: str) -> tuple[str, ...]:
    """All names that are counted as this one is, that of the count first: `Poaceae`, `Poaceae sp.`, `Poaceae spp.`."""
    taxon = counted_as(name)
    return (taxon, *(f"{taxon} {behind}" for behind in _NOT_NAMED)) if _is_one_word(taxon) else (taxon,)


def _is_one_word(name: str) -> bool:
    """Whether a name is written as those of genera and families are."""
    return name.isalpha() and name == name.capitalize()


def members(classes: Sequence[str], rank: str) -> dict[str, list[int]]:
    """Groups a model's classes by rank, so that their probabilities can be summed when the species is unsure.

    Args:
        classes: Taxa in the model's order.
        rank: `genus`, `family` or `order`.

    Returns:
        Indices into `classes` by name at that rank, in order of first appearance; every index is in one group.

    Raises:
        UsageError: There is no such rank.
    """
    _check(rank)
    groups: dict[str, list[int]] = {}
    for index, name in enumerate(classes):
        groups.setdefault(roll_up(name, rank), []).append(index)
    return groups


def _check(rank: str) -> None:
    if rank not in RANKS:
        raise UsageError(f"unknown rank {rank!r}: expected one of {', '.join(RANKS)}")


def _key(name: str) -> str:
    """Accents have two spellings in Unicode; file systems and editors mix them."""
    return unicodedata.normalize("NFC", name)


@cache
def _rows() -> tuple[dict[str, str], ...]:
    text = files(__package__).joinpath("taxa.csv").read_text(encoding="utf-8")
    return tuple(csv.DictReader(text.splitlines()))


@cache
def _labels() -> dict[str, str]:
    return {_key(row["label"]): row["taxon"] for row in _rows()}


@cache
def _names() -> dict[str, Lineage]:
    """Every name with its lineage: the taxa themselves, then the genera, families and orders that they belong to."""
    names: dict[str, Lineage] = {}
    for row in _rows():
        genus, family, order = (row[rank] or None for rank in RANKS)
        species = row["taxon"] if row["rank"] == "species" else None
        for name, place in (
            (row["taxon"], Lineage(species, genus, family, order)),
            (genus, Lineage(None, genus, family, order)),
            (family, Lineage(None, None, family, order)),
            (order, Lineage(None, None, None, order)),
        ):
            if name:
                names.setdefault(_key(name), place)
    return names
