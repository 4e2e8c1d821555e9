"""Traits as columns: which of them a taxon has, and which a text asks for."""

from __future__ import annotations

from collections.abc import Iterable

from ..glossary import Glossary
from .captions import facts, truths

__all__ = ["COLUMNS", "asked", "known", "said_of"]

_KINDS = ("none", "pore", "colpus", "colporus", "furrow", "sulcus")
_NUMBERS = ("1", "2", "3", "4", "5", "6", "many")
_ORNAMENTS = ("psilate", "verrucate", "echinate", "reticulate", "striate", "clavate")
_SHAPES = ("oblate", "spheroidal", "prolate")

COLUMNS = (
    *(f"kind:{kind}" for kind in _KINDS),
    *(f"number:{number}" for number in _NUMBERS),
    *(f"ornamentation:{term}" for term in _ORNAMENTS),
    *(f"shape:{term}" for term in _SHAPES),
)
"""`field:value`; a furrow is a colpus with or without a pore in it."""

# Terms of the glossary that name number and kind, and those that name a kind alone.
_APERTURES = {
    "inaperturate": "0 none",
    "monoporate": "1 pore",
    "diporate": "2 pore",
    "triporate": "3 pore",
    "periporate": "many pore",
    "tricolpate": "3 colpus",
    "stephanocolpate": "6 colpus",
    "tricolporate": "3 colporus",
    "monosulcate": "1 sulcus",
}
_BROAD = {"porate": "kind:pore", "colpate": "kind:furrow", "colporate": "kind:colporus"}
_SCULPTURES = {
    **{term: term for term in _ORNAMENTS},
    "microechinate": "echinate",
    "microreticulate": "reticulate",
    "rugulate": "verrucate",
}


def known(taxon: str) -> dict[str, bool]:
    """Which columns are known of a taxon, and whether it has them."""
    true = truths(taxon)
    has: dict[str, bool] = {}
    for field, values in (("ornamentation", _ORNAMENTS), ("shape", _SHAPES)):
        if field in true:
            has |= {f"{field}:{value}": value in true[field] for value in values}
    if "apertures" in true:
        there = {column for value in true["apertures"] for column in _of_apertures(value)}
        has |= {f"{field}:{v}": f"{field}:{v}" in there for field, vs in _APERTURE_FIELDS for v in vs}
    return has


def said_of(taxon: str) -> frozenset[str]:
    """The columns that a full description of a taxon asks for; none if nothing is known."""
    said = facts(taxon, None, ("apertures", "ornamentation", "shape"))
    return frozenset(
        column
        for field, value in said.items()
        for column in (_of_apertures(value) if field == "apertures" else (f"{field}:{value}",))
        if column in COLUMNS
    )


def asked(text: str) -> frozenset[str]:
    """The columns that a text asks for, by the glossary, in any of its languages.

    What is said not to be there is left out. Broad terms (`with pores`) count only if no number is named.

    Example:
        >>> sorted(asked("dreiporig, glatt"))
        ['kind:pore', 'number:3', 'ornamentation:psilate']
    """
    terms = Glossary.shipped().query(text).terms
    columns = {column for term in terms if term in _APERTURES for column in _of_apertures(_APERTURES[term])}
    if not columns:
        columns = {_BROAD[term] for term in terms if term in _BROAD}
    columns |= {f"ornamentation:{_SCULPTURES[term]}" for term in terms if term in _SCULPTURES}
    columns |= {f"shape:{term}" for term in terms if term in _SHAPES}
    return frozenset(columns)


_APERTURE_FIELDS = (("kind", _KINDS), ("number", _NUMBERS))


def _of_apertures(value: str) -> Iterable[str]:
    number, kind = value.split(" ", 1)
    yield f"kind:{kind}"
    if kind in ("colpus", "colporus"):
        yield "kind:furrow"
    if number in _NUMBERS:
        yield f"number:{number}"
