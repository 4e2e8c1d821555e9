"""The field's words in four languages: which ones a text says, and which it says are not there.

`glossary.csv` has the terms of pollen morphology with what else they are called in English, German, Spanish and
French, and the broader term that each belongs to; `names.csv` has the taxa with their common names. `Glossary.read`
finds them in a text, the longest first:

    >>> [(m.term, m.negated) for m in Glossary.shipped().read("dreiporige Körner ohne Stacheln")]
    [('triporate', False), ('echinate', True)]

From that come the texts that are indexed and searched: the term's own English word is added to the text of a document,
with the broader terms, and to that of a query. A document does not fit where its `concepts` have one of the query's
`unwanted`. What negates a word, before it, behind it or in it, is told in `negation.py`.

The wordings and meanings are our own. Where a term can be looked up, the column `sources` says: H2018 Halbritter et al.
2018, Illustrated Pollen Terminology; P2007 Punt et al. 2007, Rev. Palaeobot. Palynol. 143, 1 (with Hoen 1999); PW the
glossary of the Pollen-Wiki (Stebler, German); GC Gastaldi, Bui Thi and Girard, structure et morphologie d'un grain de
pollen (CARI, French); S1976 Saenz de Rivas 1976, Anal. Inst. Bot. Cavanilles 33, 159 (Spanish); PO Plant Ontology;
B2004 Beug 2004, Leitfaden der Pollenbestimmung; F1989 Faegri and Iversen 1989, Textbook of Pollen Analysis; DA2007
D'Amato et al. 2007, Allergy 62, 976; VO2004 Von der Ohe et al. 2004, Apidologie 35, S18.
"""

from __future__ import annotations

import csv
import hashlib
import json
import re
import unicodedata
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache, cached_property
from importlib.resources import files
from itertools import accumulate

from ..errors import InputError, UsageError
from .negation import NEGATIONS, TURNS, Word, behind, only_negates, without
from .words import VERSION, folded

__all__ = ["LANGUAGES", "Glossary", "Mention", "Query", "Said"]

LANGUAGES = {"en": "English", "de": "German", "es": "Spanish", "fr": "French"}

_Entry = tuple[tuple[str, ...], str]
_MOST_KNOWN = 100_000

# Raised when `read` gives another answer for any text: what was indexed before is then read anew.
_READING = 2

_WORD = re.compile(r"[^\W_]+")
# A word, or what ends a clause.
_PART = re.compile(r"([^\W_]+)|[.,;:!?()]")


# `Größe` is how large something is, `größer` larger than something; without its dots the word would be `große`, large.
_SIZE = re.compile(r"\bgr(?:ö|o\u0308)(?=(?:ß|ss)(?:e|en|er)\b)", re.IGNORECASE)


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
class Said:
    """How a query says a term.

    Attributes:
        term: The term.
        words: The words of the query that say it, as they were typed.
        languages: Those in which it is called so; none where it stands as the term itself.
        negated: The query says that it must not be there.
    """

    term: str
    words: str
    languages: tuple[str, ...] = ()
    negated: bool = False

    def __str__(self) -> str:
        """The term, and where it comes from: `triporate (German dreiporiger)`."""
        if folded(self.words) == folded(self.term):
            return self.term
        languages = () if "en" in self.languages else self.languages
        return f"{self.term} ({' '.join(['/'.join(LANGUAGES[one] for one in languages), self.words]).strip()})"


@dataclass(frozen=True)
class Query:
    """What is asked, in the words that are searched for.

    Attributes:
        text: The query without the parts it negates.
        terms: Terms it asks for, each once, in order.
        unwanted: Terms it says must not be there.
        meanings: What each of the terms means in plain English; the term itself where the glossary does not say.
        said: How it says each term that it wants or does not want, the first time.
        typed: The query as it was put.
    """

    text: str
    terms: tuple[str, ...]
    unwanted: frozenset[str]
    meanings: tuple[str, ...] = ()
    said: Mapping[str, Said] = field(default_factory=dict)
    typed: str = ""

    @property
    def words(self) -> str:
        """For search by words: the text, with the terms after it."""
        return " ".join([self.text, *self.terms]).strip()

    @property
    def sentence(self) -> str:
        """For a sentence encoder: the text, with the meanings after it; a query that only negates, as it was put."""
        return ". ".join(part for part in (self.text, "; ".join(self.meanings)) if part) or self.typed


class Glossary:
    """Terms with their wordings.

    Args:
        wordings: Term -> what it is called in any language, as words with single spaces; a `*` at the end of a word
            stands for any ending. The term itself need not be among them.
        broader: Term -> the next broader one.
        glosses: Term -> what it means, in plain words.
        languages: (term, wording) -> the languages in which it is called so.

    Raises:
        InputError: A wording is not of words, or broader terms go round in a circle.
    """

    def __init__(
        self,
        wordings: Mapping[str, Iterable[str]],
        broader: Mapping[str, str] | None = None,
        glosses: Mapping[str, str] | None = None,
        languages: Mapping[tuple[str, str], Iterable[str]] | None = None,
    ):
        self.terms = tuple(wordings)
        self.glosses = dict(glosses or {})
        self._broader = dict(broader or {})
        # The first three letters of the first word -> (words, term), the longest first.
        self._starts: dict[str, list[_Entry]] = {}
        self._languages: dict[_Entry, tuple[str, ...]] = {}
        for term, ways in wordings.items():
            for way in {term, *ways}:
                words = tuple(re.findall(r"[^\W_]+\*?", folded(way)))
                if not words or words[0] == "*":
                    raise InputError(f"glossary: {term}: expected words, got {way!r}")
                entry = (words, term)
                self._starts.setdefault(words[0].rstrip("*")[:3], []).append(entry)
                spoken = {*self._languages.get(entry, ()), *(languages or {}).get((term, way), ())}
                self._languages[entry] = tuple(one for one in LANGUAGES if one in spoken)
        for entries in self._starts.values():
            entries.sort(key=lambda entry: (-len(entry[0]), -sum(map(len, entry[0])), entry))
        # The entries that begin with a word, for each word that was met, most of which begin none.
        self._begun: dict[str, tuple[_Entry, ...]] = {}
        self._all_broader = {term: self._climb(term) for term in self.terms}

    @staticmethod
    @cache
    def shipped(languages: tuple[str, ...] = tuple(LANGUAGES)) -> Glossary:
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
        spoken: dict[tuple[str, str], list[str]] = {}
        broader, glosses = {}, {}
        for name, column, above in (("glossary.csv", "term", "broader"), ("names.csv", "taxon", "family")):
            for row in _rows(name):
                term = row[column]
                wordings[term] = []
                for language in languages:
                    for way in filter(str.strip, row[language].split("|")):
                        wordings[term].append(way)
                        spoken.setdefault((term, way), []).append(language)
                if row[above] and row[above] != term:
                    broader[term] = row[above]
                if gloss := row.get("gloss"):
                    glosses[term] = gloss
        return Glossary(wordings, broader, glosses, spoken)

    @cached_property
    def digest(self) -> str:
        """The same for a glossary that reads every document the same: what was indexed with it says so."""
        told = [VERSION, _READING, sorted(self._languages), sorted(self._broader.items())]
        return hashlib.sha256(json.dumps(told, ensure_ascii=False).encode()).hexdigest()

    def broader(self, term: str) -> tuple[str, ...]:
        """All broader terms of a term, nearest first."""
        return self._all_broader.get(term, ())

    def read(self, text: str) -> list[Mention]:
        """The terms that a text says, in order; where wordings overlap, the longest from the left."""
        return self._mentions(_plain(text))

    def document(self, text: str) -> str:
        """The text of a document to index: with the terms that it says, and their broader ones, after it."""
        return " ".join([text, *sorted(self.concepts(text))])

    def concepts(self, text: str) -> frozenset[str]:
        """The terms that a text says are there, with their broader ones."""
        said = {mention.term for mention in self.read(text) if not mention.negated}
        return frozenset(said.union(*map(self.broader, said)))

    def query(self, text: str) -> Query:
        """What a query asks for, and what it does not want."""
        plain = _plain(text)
        mentions = self._mentions(plain)
        kept, at = [], 0
        for mention in mentions:
            if mention.negated:
                kept.append(plain[at : mention.start])
                at = mention.stop
        wanted = tuple(dict.fromkeys(mention.term for mention in mentions if not mention.negated))
        unwanted = frozenset(mention.term for mention in mentions if mention.negated) - set(wanted)
        whole = text if not unwanted else "".join([*kept, plain[at:]])
        if unwanted and not wanted and only_negates(_WORD.findall(whole)):
            # It only negates: nothing is left to search for.
            whole = ""
        meanings = tuple(self.glosses.get(term) or term for term in wanted)
        said: dict[str, Said] = {}
        for mention in mentions:
            if mention.negated == (mention.term in unwanted):
                typed = _typed(text, plain, mention.start, mention.stop)
                languages = self._spoken(mention.term, _WORD.findall(plain[mention.start : mention.stop]))
                said.setdefault(mention.term, Said(mention.term, typed, languages, mention.negated))
        return Query(whole.strip(), wanted, unwanted, meanings, said, text)

    def _mentions(self, text: str) -> list[Mention]:
        words: list[Word] = []
        # Whether a clause ends before each word.
        ends: list[bool] = []
        ended = False
        for part in _PART.finditer(text):
            if part[1] is None:
                ended = True
            else:
                words.append((part[1], part.start(), part.end()))
                ends.append(ended)
                ended = False
        mentions: list[Mention] = []
        # The places of the first and the last word of each.
        spans: list[tuple[int, int]] = []
        negated, i = False, 0
        while i < len(words):
            word, start, _ = words[i]
            if i and ends[i]:
                negated = False
            entry, lacked = self._longest(words, ends, i), None
            if (stem := without(word)) and (entry is None or word not in entry[0]):
                lacked = self._longest([(stem, start, words[i][2])], [True], 0)
                entry = lacked or entry
            if entry is not None:
                last = i + len(entry[0]) - 1
                mentions.append(Mention(entry[1], start, words[last][2], negated != (lacked is not None)))
                spans.append((i, last))
                i = last + 1
                continue
            if (numbers := behind(words, ends, i, spans)) is not None:
                for number in numbers:
                    mentions[number] = replace(mentions[number], negated=True)
            elif word in NEGATIONS:
                negated = True
            elif word in TURNS:
                negated = False
            i += 1
        return mentions

    def _longest(self, words: Sequence[Word], ends: Sequence[bool], i: int) -> _Entry | None:
        word = words[i][0]
        begun = self._begun.get(word)
        if begun is None:
            begun = tuple(entry for entry in self._starts.get(word[:3], ()) if _fits(entry[0][0], word))
            if len(self._begun) < _MOST_KNOWN:
                self._begun[word] = begun
        for entry in begun:
            pattern, stop = entry[0], i + len(entry[0])
            if stop > len(words) or any(ends[i + 1 : stop]):
                continue
            if all(_fits(one, other[0]) for one, other in zip(pattern[1:], words[i + 1 : stop], strict=True)):
                return entry
        return None

    def _spoken(self, term: str, words: Sequence[str]) -> tuple[str, ...]:
        """The languages in which some words stand for a term."""
        found = {
            language
            for entry in self._starts.get(words[0][:3], ())
            if entry[1] == term and len(entry[0]) == len(words) and all(map(_fits, entry[0], words))
            for language in self._languages[entry]
        }
        return tuple(language for language in LANGUAGES if language in found)

    def _climb(self, term: str) -> tuple[str, ...]:
        path: list[str] = []
        while (term := self._broader.get(term, "")) and term not in path:
            path.append(term)
        if term:
            raise InputError(f"glossary: broader terms go round in a circle: {', '.join(path)}")
        return tuple(path)


def _plain(text: str) -> str:
    """A text folded, as long as `folded` makes it, with `Größe` told from `große`."""
    return folded(text if text.isascii() else _SIZE.sub("grø", text))


def _fits(pattern: str, word: str) -> bool:
    return word.startswith(pattern[:-1]) if pattern.endswith("*") else word == pattern


def _typed(text: str, plain: str, start: int, stop: int) -> str:
    """The part of a text that its folded form has between two places; that form where characters do not map singly."""
    lengths = [len(folded(character)) for character in text]
    places = [0, *accumulate(lengths)]
    if places[-1] != len(plain):
        return plain[start:stop]
    first, last = bisect_right(places, start) - 1, bisect_left(places, stop)
    # Accents that were typed as characters of their own belong to the letter before.
    while last < len(text) and lengths[last] == 0:
        last += 1
    return unicodedata.normalize("NFC", text[first:last])


def _rows(name: str) -> Iterator[dict[str, str]]:
    text = files(__package__).joinpath(name).read_text(encoding="utf-8")
    yield from csv.DictReader(text.splitlines())
