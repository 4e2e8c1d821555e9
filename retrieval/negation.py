"""What a text says is not there, in English, German, Spanish and French: the words that negate, and how far they reach.

    without spines, ohne Stacheln       before it: what follows in the clause, up to a word that turns (`but`, `mit`)
    spines and warts absent             behind it: what stands right before, and what is joined to that
    poreless, stachellos                in it

Words are as `words.folded` leaves them, with the places where they begin and end, and `ends` says of each whether a
clause ends before it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

__all__ = ["NEGATIONS", "TURNS", "Word", "behind", "only_negates", "without"]

# A word, and the numbers of its first letter and of the letter after its last.
Word = tuple[str, int, int]


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


NEGATIONS = _words(
    "no not without lacking lacks lack nor neither never non absent missing except "
    "ohne nicht kein keine keinen keiner keines keinem weder noch fehlen fehlt fehlend fehlende "
    "sin ni carece carecen carente carentes excepto "
    "sans pas depourvu depourvue depourvus depourvues sauf aucun aucune"
)
"""Words that negate what comes after them in their clause."""

TURNS = _words("but with having has have sondern aber mit pero sino con mais avec although while which that")
"""Words where what was negated ends; a full stop or a comma ends it, too."""

_ABSENT = _words(
    "absent lacking missing fehlen fehlt fehlend fehlende fehlten "
    "ausente ausentes faltan falta absente absentes absents manquent manque"
)
# Absent with a negation right before.
_PRESENT = _words("present seen visible vorhanden sichtbar ausgebildet presente presentes visibles presents presentes")
# What may stand between a word and those, and what joins words that are negated together.
_BETWEEN = _words("is are was were usually always often ist sind immer meist es son est sont toujours souvent")
_JOINS = _words("and or und oder y o ni et ou")
_EMPTY = NEGATIONS | _ABSENT | _PRESENT | _BETWEEN | _JOINS

_LESS = re.compile(r"([^\W\d_]{3,}?)(?:less|los|lose[mnrs]?)")


def only_negates(words: Sequence[str]) -> bool:
    """Whether nothing is left to search for in words from which what they negate was taken."""
    return _EMPTY.issuperset(words)


def without(word: str) -> str | None:
    """What a word says it is without: `pore` of `poreless`; None where it has no such ending."""
    match = _LESS.fullmatch(word)
    return match and match[1]


def behind(words: Sequence[Word], ends: Sequence[bool], i: int, said: Sequence[tuple[int, int]]) -> list[int] | None:
    """What a word negates that stands before it.

    Args:
        words: Of the text.
        ends: Whether a clause ends before each.
        i: The place of the word.
        said: The places of the first and the last word of each term before it, in order.

    Returns:
        The numbers of such terms, the nearest first; None for a word that does not negate like that here: another
        word, one that goes on (`spores lacking an opening`), or one that begins a clause.
    """
    last = i + 1 == len(words) or ends[i + 1] or words[i + 1][0] in _JOINS | TURNS
    if not last or ends[i]:
        return None
    if words[i][0] in _PRESENT and i and words[i - 1][0] in NEGATIONS:
        i -= 1
    elif words[i][0] not in _ABSENT:
        return None
    return list(_reached(words, ends, i, said))


def _reached(words: Sequence[Word], ends: Sequence[bool], i: int, said: Sequence[tuple[int, int]]) -> Iterator[int]:
    between = _BETWEEN
    for number in range(len(said) - 1, -1, -1):
        first, last = said[number]
        gap = [word for word, _, _ in words[last + 1 : i]]
        if any(ends[last + 1 : i + 1]) or not between.issuperset(gap) or (between is _JOINS and not gap):
            return
        yield number
        i, between = first, _JOINS
