"""What a collection answers with, and why: the reasons that stand beside each hit.

    says triporate (German dreiporiger), psilate          terms that the query and a text share
    shares wall, thin                                     its other words
    says echinate (German Stacheln), which is not wanted  such texts come last
    1st by words, 3rd by meaning                          the places that were fused
    looks triporate (German dreiporig)                    traits of a query that a grain seems to have
    looks triporate, too                                  traits that it shares with a picture
    says triporate, as the grain looks                    of a description, to a picture

How it was searched for comes last, the same for all.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping, Sequence

import numpy as np

from ..encoders import Encoder
from ..glossary import Glossary, Query
from ..hybrid import Found as FoundText
from ..words import folded, terms
from .backend import Found
from .query import Asked
from .record import Hit, Record, nfc
from .texts import concepts, document

__all__ = ["hits_by_vectors", "hits_in_texts", "read_as"]

_GUESS = "what grains look to have is a guess by the taxa that were trained on"

_WORD = re.compile(r"[^\W_]+(?:-[^\W_]+)*")
_COMMON = frozenset(
    _WORD.findall(
        "and are for from has have its not than that the this was were with which their into "
        "der die das den dem des ein eine einer und mit von fur ohne nicht "
        "los las una del con sin por para que sus les une avec sans pour dans sur qui aux"
    )
)


def read_as(asked: Query) -> str:
    """What the glossary takes a query for, as `triporate (German dreiporiger), not echinate (German Stacheln)`."""
    wanted = [str(asked.said[term]) for term in asked.terms]
    return ", ".join([*wanted, *(f"not {asked.said[term]}" for term in asked.said if term in asked.unwanted)])


def hits_in_texts(
    asked: Query, found: Sequence[FoundText], records: Mapping[int, Record], by: str, encoder_id: str | None, how: str
) -> list[Hit]:
    """Texts that were found by words, by meaning or by both.

    Args:
        asked: The query as the glossary reads it.
        found: Best first.
        records: The texts by id.
        by: `words`, `vectors` or `both`: whose score is told.
        encoder_id: The space of the vectors.
        how: How they were searched for.
    """
    hits = []
    for one in found:
        place = {"words": one.words, "vectors": one.vectors}.get(by)
        score = one.score if place is None else place.score
        why = (*_text_reasons(asked, one, records[one.number], by), how)
        hits.append(Hit(one.number, score, records[one.number], encoder_id, why, one.words, one.vectors))
    return hits


def hits_by_vectors(asked: Asked, found: Found, records: Mapping[int, Record], partner: Encoder | None) -> list[Hit]:
    """Records whose vectors are the nearest.

    A query's `doubt` is told with how it was searched for. An encoder that can say more has `explain(query, vectors)`,
    which gives the reasons of each vector, with `guesses` where they are no more than that; `ignores(query)`, which
    gives what is not in them; and `looks(vectors)`, which guesses the traits that grains seem to have.

    Args:
        asked: The query.
        found: What the space's backend found.
        records: The records by id.
        partner: Of a picture, the encoder of words in the same space, where there is one.
    """
    ids, scores = found.ids.tolist(), found.scores.clip(-1, 1).tolist()
    said: list[tuple[str, ...]] = [()] * len(ids)
    how, guessed = f"near in {asked.space.entry.encoder_id}: {found.how}", False
    if asked.words and ids and (explain := getattr(asked.encoder, "explain", None)):
        said = [tuple(more) for more in explain(asked.words, asked.space.backend.vectors(found.ids))]
        guessed = any(said) and getattr(asked.encoder, "guesses", False)
    elif ids and (looks := getattr(partner, "looks", None)):
        seen, said = _traits(asked, found, records, looks)
        how, guessed = f"the picture looks {', '.join(seen)}; {how}", True
    if guessed:
        how += f"; {_GUESS}"
    if asked.doubt:
        how = f"{asked.doubt}; {how}"
    ignores = getattr(asked.encoder, "ignores", None)
    if asked.words and ignores and (ignored := ignores(asked.words)):
        how += f"; {', '.join(ignored)}: not in these vectors, filter by width_um and height_um"
    if asked.words and (unwanted := Glossary.shipped().query(asked.words).unwanted):
        how += f"; {', '.join(sorted(unwanted))}: not wanted, and not searched against"
    hits = []
    for i, score, more in zip(ids, scores, said, strict=True):
        words = _shared(asked.words, records[i])
        why = (*([f"shares {', '.join(words)}"] if words else []), *more, how)
        hits.append(Hit(i, score, records[i], asked.space.entry.encoder_id, why, guessed=guessed))
    return hits


def _traits(
    asked: Asked, found: Found, records: Mapping[int, Record], looks: Callable[..., list[tuple[str, ...]]]
) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """The traits that a picture seems to have, and for each record which of them it has, too."""
    ids = found.ids.tolist()
    own: dict[int, Collection[str]] = {**concepts({i: records[i] for i in ids if records[i].kind == "text"})}
    if grains := [i for i in ids if i not in own]:
        own |= zip(grains, looks(asked.space.backend.vectors(np.array(grains))), strict=True)
    seen = looks(asked.vector)[0]
    said: list[tuple[str, ...]] = []
    for i in ids:
        shared = ", ".join(term for term in seen if term in own[i])
        how = "says {}, as the grain looks" if records[i].kind == "text" else "looks {}, too"
        said.append((how.format(shared),) if shared else ())
    return seen, said


def _text_reasons(asked: Query, found: FoundText, record: Record, by: str) -> list[str]:
    why = []
    if found.terms:
        why.append(f"says {', '.join(str(asked.said[term]) for term in found.terms)}")
    # Words that stand for a term are told with it.
    told = {word for term in found.terms for word in terms(asked.said[term].words)}
    if words := [word for word in _shared(asked.text, record) if not told.issuperset(terms(word))]:
        why.append(f"shares {', '.join(words)}")
    if found.unwanted:
        why.append(
            f"comes last: says {', '.join(str(asked.said[term]) for term in found.unwanted)}, which is not wanted"
        )
    places = [(found.words, "by words"), (found.vectors, "by meaning")]
    if by == "both":
        why.append(", ".join(f"{_ordinal(place.rank)} {name}" for place, name in places if place))
    return why


def _shared(query: str, record: Record) -> list[str]:
    """The words of a query that a record has, as they stand in the query."""
    if not query:
        return []
    own = set(terms(document(record.taxon, record.text)))
    words = dict.fromkeys(_WORD.findall(nfc(query)))
    return [word for word in words if _tells(word) and not own.isdisjoint(terms(word))]


def _tells(word: str) -> bool:
    """Whether a word is worth telling: not one of those that every text has."""
    plain = folded(word)
    return plain not in _COMMON and (len(plain) > 2 or not plain.isascii())


def _ordinal(rank: int) -> str:
    ending = "th" if rank % 100 in (11, 12, 13) else {1: "st", 2: "nd", 3: "rd"}.get(rank % 10, "th")
    return f"{rank:,}{ending}"
