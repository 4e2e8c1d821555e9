"""Phrases for grains: what a palynologist, or someone without the terms, would type to find them.

A caption is put together from a taxon's traits, what was measured in the picture, and now and then the name. Nothing is
said that is not known: a trait that is empty in the table gives no word.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ...data.taxa import lineage, taxon_of
from ...data.traits import Traits, traits_of
from .measures import Measures

__all__ = ["FIELDS", "Caption", "apertures", "caption", "facts", "phrase", "say", "truths"]

FIELDS = ("size", "colour", "outline", "unit", "apertures", "ornamentation", "shape", "feature")
"""What is said of a grain; colour, outline and size are measured, the others are of its taxon."""

# Wordings that stand behind the noun.
_AFTER = ("with", "covered", "longer", "circular", "elliptic", "three-c")

_COUNT = {"1": "mono", "2": "di", "3": "tri", "4": "tetra", "5": "penta", "6": "hexa", "many": "panto"}
_PLAIN = {"1": "one", "2": "two", "3": "three", "4": "four", "5": "five", "6": "six", "many": "many"}
_KIND = {"pore": "porate", "colpus": "colpate", "colporus": "colporate", "sulcus": "sulcate"}
_PLAIN_KIND = {
    "pore": ("pore", "pores"),
    "colpus": ("furrow", "furrows"),
    "colporus": ("furrow with a pore", "furrows with pores"),
    "sulcus": ("long furrow", "long furrows"),
    "leptoma": ("thin area", "thin areas"),
}
_WORDS: dict[str, dict[str, tuple[str, ...]]] = {
    "ornamentation": {
        "psilate": ("psilate", "smooth", "with a smooth wall"),
        "verrucate": ("verrucate", "warty", "with a warty surface"),
        "echinate": ("echinate", "spiny", "covered with spines"),
        "reticulate": ("reticulate", "net-like", "with a net of ridges"),
        "striate": ("striate", "finely ridged", "with parallel ridges"),
        "clavate": ("clavate", "with a croton pattern", "with club-shaped elements"),
    },
    "shape": {
        "oblate": ("oblate", "flattened"),
        "spheroidal": ("spheroidal", "spherical"),
        "prolate": ("prolate", "longer than wide"),
    },
    "size": {size: (size, f"{size} sized") for size in ("very small", "small", "medium", "large", "very large")},
    "unit": {"polyad": ("polyad", "polyad of many grains"), "tetrad": ("tetrad", "four grains together")},
    "feature": {
        "annulate": ("annulate", "with a ring around the pore"),
        "syncolpate": ("syncolpate", "with furrows that meet at the poles"),
        "pseudocolpate": ("heterocolpate", "with false furrows"),
        "trichotomosulcate": ("trichotomosulcate", "with a three-armed furrow"),
        "saccate": ("bisaccate", "with two air sacs", "winged"),
    },
    "outline": {
        "round": ("round", "circular in outline"),
        "elongated": ("elongated", "elliptic in outline"),
        "triangular": ("triangular", "three-cornered in outline"),
        "lobed": ("lobed", "with a lobed outline"),
    },
}


def apertures(number: str, kind: str) -> tuple[str, ...]:
    """The words for so many apertures of a kind, the term first.

    Example:
        >>> apertures("3", "pore")
        ('triporate', 'with three pores')
    """
    if kind == "none":
        return ("inaperturate", "without apertures")
    plain = f"with {_PLAIN[number]} {_PLAIN_KIND[kind][number != '1']}"
    if kind not in _KIND:
        return (plain,)
    return (_COUNT[number] + _KIND[kind], plain)


@dataclass(frozen=True)
class Caption:
    """A phrase, and what it says.

    Attributes:
        text: Such as `large pink grain, tricolporate, with a net of ridges`.
        facts: What is said, by field, such as `{"apertures": "3 colporus"}`; `name` if it names a taxon.
    """

    text: str
    facts: Mapping[str, str]


def facts(taxon: str, measures: Measures | None = None, fields: Collection[str] = FIELDS) -> dict[str, str]:
    """What can be said of a grain of a taxon, by field; fields of which nothing is known are left out.

    A measured size is said in place of the taxon's. Apertures of several numbers are said with the first. That a grain
    is single goes without saying.
    """
    true = truths(taxon, measures)
    first = {field: min(true[field], key=_place) for field in FIELDS if field in fields and true.get(field)}
    return {field: value for field, value in first.items() if value != "monad"}


def truths(taxon: str, measures: Measures | None = None) -> dict[str, frozenset[str]]:
    """All values that are right for a grain, by field; a value that is not among them is wrong.

    Fields that are left out are not known. A feature is there or not known. `name` holds species, genus and family.
    """
    traits: Traits = traits_of(taxon)
    place = lineage(taxon_of(taxon))
    true = {
        field: frozenset({value})
        for field, value in (
            ("ornamentation", traits.ornamentation),
            ("shape", traits.shape),
            ("size", traits.size_class),
            ("unit", traits.unit),
        )
        if value
    }
    if traits.aperture_type == "none":
        true["apertures"] = frozenset({"0 none"})
    elif traits.aperture_type and traits.aperture_number:
        true["apertures"] = frozenset(f"{number} {traits.aperture_type}" for number in traits.aperture_number)
    if traits.feature:
        true["feature"] = frozenset({traits.feature})
    if measures is not None:
        true |= {"outline": frozenset({measures.outline}), "colour": frozenset({measures.colour})}
        if measures.size:
            true["size"] = frozenset({measures.size})
    names = {n for n in (place.species, place.genus, place.family) if n} or {taxon_of(taxon)}
    return {**true, "name": frozenset(names)}


def _place(value: str) -> tuple[int, str]:
    """`many` comes after the numbers."""
    return (value.startswith("many"), value)


def say(field: str, value: str, rng: np.random.Generator | None = None) -> str:
    """Words for one fact; the term itself without `rng`, else any of its wordings."""
    if field == "apertures":
        options: Sequence[str] = apertures(*value.split(" ", 1))
    elif field == "colour":
        options = (value, f"stained {value}") if value not in ("colourless", "grey") else (value,)
    else:
        options = _WORDS[field].get(value, (value,))
    return options[0] if rng is None else str(rng.choice(options))


def caption(
    taxon: str,
    measures: Measures | None = None,
    *,
    rng: np.random.Generator,
    keep: float = 0.7,
    name: float = 0.25,
    fields: Collection[str] = FIELDS,
) -> Caption:
    """A phrase for a grain.

    Args:
        taxon: Its taxon.
        measures: What was measured.
        rng: Draws facts, wordings and their order.
        keep: Probability that a fact is said; at least one is, if there is one.
        name: Probability that the taxon, its genus or its family is named; it is if nothing else can be said.
        fields: What may be said, of `FIELDS`.
    """
    known = list(facts(taxon, measures, fields).items())
    said = [pair for pair in known if rng.random() < keep]
    if not said and known:
        said = [known[int(rng.integers(len(known)))]]
    if rng.random() < name or not said:
        said.append(("name", str(rng.choice(sorted(truths(taxon)["name"])))))
    return phrase(dict(said), rng)


def phrase(said: Mapping[str, str], rng: np.random.Generator | None = None) -> Caption:
    """Facts as a phrase: with the terms in the order of the facts, or with `rng` in any wording and order."""
    words = [say(field, value, rng) for field, value in said.items() if field != "name"]
    if rng is not None:
        words = [words[i] for i in rng.permutation(len(words))]
    after = [w for w in words if w.startswith(_AFTER)]
    noun = "grain" if rng is None else str(rng.choice(["grain", "pollen grain", "pollen"]))
    if "name" in said:
        noun = f"{noun} of {said['name']}"
    return Caption(", ".join([" ".join([*(w for w in words if w not in after), noun]), *after]), dict(said))
