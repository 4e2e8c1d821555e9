"""The field's words in four languages: which ones a text says, and which it says are not there.

`glossary.csv` has the terms of pollen morphology with what else they are called in English, German, Spanish and
French, and the broader term that each belongs to; `names.csv` has the taxa with their common names. `Glossary.read`
finds them in a text, the longest first:

    >>> [(m.term, m.negated) for m in Glossary.shipped().read("dreiporige Körner ohne Stacheln")]
    [('triporate', False), ('echinate', True)]

From that come the texts that are indexed and searched: the term's own English word is added to the text of a document,
with the broader terms, and to that of a query. A document does not fit where its `concepts` have one of the query's
`unwanted`. A word is negated if a `not`, `without`, `ohne`, `sin`, `sans` or the like stands before it in its clause.

The wordings and meanings are our own. Where a term can be looked up, the column `sources` says: H2018 Halbritter et al.
2018, Illustrated Pollen Terminology; P2007 Punt et al. 2007, Rev. Palaeobot. Palynol. 143, 1 (with Hoen 1999); PW the
glossary of the Pollen-Wiki (Stebler, German); GC Gastaldi, Bui Thi and Girard, structure et morphologie d'un grain de
pollen (CARI, French); S1976 Saenz de Rivas 1976, Anal. Inst. Bot. Cavanilles 33, 159 (Spanish); PO Plant Ontology;
B2004 Beug 2004, Leitfaden der Pollenbestimmung; F1989 Faegri and Iversen 1989, Textbook of Pollen Analysis; DA2007
D'Amato et al. 2007, Allergy 62, 976; VO2004 Von der Ohe et al. 2004, Apidologie 35, S18.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from itertools import pairwise

from ..errors import InputError, UsageError
from .words import folded

__all__ = ["LANGUAGES", "Glossary", "Mention", "Query"]

LANGUAGES = ("en", "de", "es", "fr")

_WORD = re.compile(r"[^\W_]+")


def _words(text: str) -> frozenset[str]:
    return frozenset(_WORD.findall(text))


_NEGATIONS = _words(
    "no not without lacking lacks lack nor neither never non absent except "
    "ohne nicht kein keine keinen keiner keines keinem weder noch fehlend fehlende "
    "sin ni carece carecen carente carentes excepto "
    "sans pas depourvu depourvue depourvus depourvues sauf aucun aucune"
)
# Where what was negated ends: a full stop, a comma, or a word that turns.
_TURNS = _words("but with having has have sondern aber mit pero sino con mais avec although while which that")


@dataclass(frozen=True)
class Mention:
    """A term that a text says.

    Attributes:
        term: The English term, or the Latin name of a taxon.
        start: Number of the first letter of it in the folded text.
        stop: Number of the letter after its last.
        negated: The text says that it is not there.
    """

    term: str
    start: int
    stop: int
    negated: bool


@dataclass(frozen=True)
class Query:
    """What is asked, in the words that are searched for.

    Attributes:
        text: The query without the parts it negates.
        terms: Terms it asks for, each once, in order.
        unwanted: Terms it says must not be there.
        meanings: What each of the terms means in plain English; the term itself where the glossary does not say.
    """

    text: str
    terms: tuple[str, ...]
    unwanted: frozenset[str]
    meanings: tuple[str, ...] = ()

    @property
    def words(self) -> str:
        """For search by words: the text, with the terms after it."""
        return " ".join([self.text, *self.terms]).strip()

    @property
    def sentence(self) -> str:
        """For a sentence encoder: the text, with the meanings after it."""
        return ". ".join(part for part in (self.text, "; ".join(self.meanings)) if part)


class Glossary:
    """Terms with their wordings.

    Args:
        wordings: Term -> what it is called in any language, as words with single spaces; a `*` at the end of a word
            stands for any ending. The term itself need not be among them.
        broader: Term -> the next broader one.
        glosses: Term -> what it means, in plain words.

    Raises:
        InputError: A wording is not of words, or broader terms go round in a circle.
    """

    def __init__(
        self,
        wordings: Mapping[str, Iterable[str]],
        broader: Mapping[str, str] | None = None,
        glosses: Mapping[str, str] | None = None,
    ):
        self.terms = tuple(wordings)
        self.glosses = dict(glosses or {})
        self._broader = dict(broader or {})
        # The first three letters of the first word -> (words, term), the longest first.
        self._starts: dict[str, list[tuple[tuple[str, ...], str]]] = {}
        for term, ways in wordings.items():
            for way in {term, *ways}:
                words = tuple(re.findall(r"[^\W_]+\*?", folded(way)))
                if not words or words[0] == "*":
                    raise InputError(f"glossary: {term}: expected words, got {way!r}")
                self._starts.setdefault(words[0].rstrip("*")[:3], []).append((words, term))
        for entries in self._starts.values():
            entries.sort(key=lambda entry: (-len(entry[0]), -sum(map(len, entry[0])), entry))
        self._all_broader = {term: self._climb(term) for term in self.terms}

    @staticmethod
    @cache
    def shipped(languages: tuple[str, ...] = LANGUAGES) -> Glossary:
        """The glossary that ships, taxa and their families included.

        Args:
            languages: Those whose wordings are known. A word may be one thing in one language and another in the next
                (`pin` is a pine in French), so texts whose language is known are read better in that one alone.

        Raises:
            UsageError: There is no such language.
        """
        if not languages or set(languages) - set(LANGUAGES):
            raise UsageError(f"languages: expected some of {', '.join(LANGUAGES)}, got {languages!r}")
        wordings: dict[str, list[str]] = {}
        broader, glosses = {}, {}
        for row in _rows("glossary.csv"):
            wordings[row["term"]] = _wordings(row, languages)
            glosses[row["term"]] = row["gloss"]
            if row["broader"]:
                broader[row["term"]] = row["broader"]
        for row in _rows("names.csv"):
            wordings[row["taxon"]] = _wordings(row, languages)
            if row["family"] and row["family"] != row["taxon"]:
                broader[row["taxon"]] = row["family"]
        return Glossary(wordings, broader, glosses)

    def broader(self, term: str) -> tuple[str, ...]:
        """All broader terms of a term, nearest first."""
        return self._all_broader.get(term, ())

    def read(self, text: str) -> list[Mention]:
        """The terms that a text says, in order; where wordings overlap, the longest from the left."""
        return list(self._mentions(folded(text)))

    def document(self, text: str) -> str:
        """The text of a document to index: with the terms that it says, and their broader ones, after it."""
        return " ".join([text, *sorted(self.concepts(text))])

    def concepts(self, text: str) -> frozenset[str]:
        """The terms that a text says are there, with their broader ones."""
        said = {mention.term for mention in self.read(text) if not mention.negated}
        return frozenset(said.union(*map(self.broader, said)))

    def query(self, text: str) -> Query:
        """What a query asks for, and what it does not want."""
        plain = folded(text)
        mentions = list(self._mentions(plain))
        kept, at = [], 0
        for mention in mentions:
            if mention.negated:
                kept.append(plain[at : mention.start])
                at = mention.stop
        wanted = tuple(dict.fromkeys(mention.term for mention in mentions if not mention.negated))
        unwanted = frozenset(mention.term for mention in mentions if mention.negated) - set(wanted)
        whole = text if not unwanted else "".join([*kept, plain[at:]])
        return Query(whole.strip(), wanted, unwanted, tuple(self.glosses.get(term) or term for term in wanted))

    def _mentions(self, text: str) -> Iterator[Mention]:
        words = list(_WORD.finditer(text))
        negated, i = False, 0
        while i < len(words):
            if i and re.search(r"[.,;:!?()]", text[words[i - 1].end() : words[i].start()]):
                negated = False
            found = self._longest(words, i, text)
            if found is not None:
                count, term = found
                yield Mention(term, words[i].start(), words[i + count - 1].end(), negated)
                i += count
                continue
            if words[i][0] in _NEGATIONS:
                negated = True
            elif words[i][0] in _TURNS:
                negated = False
            i += 1

    def _longest(self, words: Sequence[re.Match[str]], i: int, text: str) -> tuple[int, str] | None:
        for pattern, term in self._starts.get(words[i][0][:3], ()):
            some = words[i : i + len(pattern)]
            if len(some) == len(pattern) and all(map(_fits, pattern, (word[0] for word in some))):
                between = (text[a.end() : b.start()] for a, b in pairwise(some))
                if not any(re.search(r"[.,;:!?()]", gap) for gap in between):
                    return len(pattern), term
        return None

    def _climb(self, term: str) -> tuple[str, ...]:
        path: list[str] = []
        while (term := self._broader.get(term, "")) and term not in path:
            path.append(term)
        if term:
            raise InputError(f"glossary: broader terms go round in a circle: {', '.join(path)}")
        return tuple(path)


def _fits(pattern: str, word: str) -> bool:
    return word.startswith(pattern[:-1]) if pattern.endswith("*") else word == pattern


def _wordings(row: Mapping[str, str], languages: Sequence[str]) -> list[str]:
    return [way for language in languages for way in row[language].split("|") if way.strip()]


def _rows(name: str) -> Iterator[dict[str, str]]:
    text = files(__package__).joinpath(name).read_text(encoding="utf-8")
    yield from csv.DictReader(text.splitlines())
