"""Phrases for grains: what a palynologist, or someone without the terms, would type to find them.

A caption is put together from a taxon's traits, what was measured in the picture, and now and then the name. Nothing is
said that is not known: a trait that is empty in the table gives no word.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ...data.taxa import lineage, taxon_of
from ...data.traits import Traits, traits_of
from .measures import Measures

__all__ = ["apertures", "caption", "facts", "say"]

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


def facts(taxon: str, measures: Measures | None = None) -> dict[str, str]:
    """What can be said of a grain of a taxon, by field; fields of which nothing is known are left out.

    A measured size is said in place of the taxon's. Apertures of several numbers are said with the first.
    """
    traits: Traits = traits_of(taxon)
    said = {
        "ornamentation": traits.ornamentation,
        "shape": traits.shape,
        "size": traits.size_class,
        "feature": traits.feature,
        "unit": traits.unit if traits.unit != "monad" else None,
    }
    if traits.aperture_type and (traits.aperture_number or traits.aperture_type == "none"):
        said["apertures"] = f"{(traits.aperture_number or ('0',))[0]} {traits.aperture_type}"
    if measures is not None:
        said |= {"outline": measures.outline, "colour": measures.colour}
        if measures.size:
            said["size"] = measures.size
    return {field: value for field, value in said.items() if value}


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
) -> str:
    """A phrase for a grain.

    Args:
        taxon: Its taxon.
        measures: What was measured.
        rng: Draws facts, wordings and their order.
        keep: Probability that a fact is said; at least one is, if there is one.
        name: Probability that the taxon, its genus or its family is named.

    Returns:
        The phrase, such as `large pink grain, tricolporate, with a net of ridges`.
    """
    known = list(facts(taxon, measures).items())
    said = [pair for pair in known if rng.random() < keep]
    if not said and known:
        said = [known[int(rng.integers(len(known)))]]
    phrases = [say(field, value, rng) for field, value in said]
    phrases = [phrases[i] for i in rng.permutation(len(phrases))]
    before = [p for p in phrases if not p.startswith(("with", "covered", "longer", "circular", "elliptic", "three-c"))]
    after = [p for p in phrases if p not in before]
    place = lineage(taxon_of(taxon))
    names = [n for n in (place.species, place.genus, place.family) if n] or [taxon_of(taxon)]
    noun = str(rng.choice(["grain", "pollen grain", "pollen"]))
    if rng.random() < name or not phrases:
        noun = f"{noun} of {rng.choice(names)}"
    return ", ".join([" ".join([*before, noun]), *after])
