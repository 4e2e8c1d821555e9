r"""The filters of a collection: a little language that is parsed here and never handed to the database as written.

    taxon = 'Betula' and width_um > 20 and slide like 'A%'
    kind = 'text' or (confidence >= 0.9 and not reviewer is null)
    taxon in ('Alnus', 'Corylus') and extra.depth_cm between 10 and 12.5

    filter     = and-terms joined by "or";   not binds closer than and, and closer than or
    term       = ["not"] ( "(" filter ")" | comparison )
    comparison = column ( "=" | "!=" | "<" | "<=" | ">" | ">=" ) value
               | column ["not"] "like" text          % any characters, _ any one, \ takes the next as it is
               | column ["not"] "in" "(" value, ... ")"
               | column ["not"] "between" value "and" value
               | column "is" ["not"] "null"
    column     = a field of a record, or extra.NAME for a further column, extra.NAME.NAME inside one
    value      = number | 'text' ('' stands for one quote) | true | false

What is not known matches no comparison, not even a negated one; ask for it with `is null`. `like` takes a to z and A to
Z as equal. For `=`, `!=` and `in` a taxon is what it is counted as: `taxon = 'Poaceae'` finds `Poaceae sp.`, too, and
`taxon like 'Poaceae'` only what is written so. Every value reaches the database as a parameter, and every name is one
of a list.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from ...data.taxa import spellings
from ...errors import UsageError
from .record import NUMBERS, TEXTS, nfc

__all__ = ["Condition", "Where", "parse"]

Where = str | Mapping[str, Any] | None

_LONGEST, _MOST_TERMS, _DEEPEST, _MOST_VALUES = 20_000, 500, 50, 10_000
_TOKEN = re.compile(
    r"""\s*(?:
      (?P<number>[+-]?(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][+-]?\d+)?)(?![\w.])
    | (?P<text>'(?:[^']|'')*')
    | (?P<word>[^\W\d]\w*(?:\.\w+)*)
    | (?P<sign><=|>=|!=|<>|=|<|>|\(|\)|,)
    )""",
    re.VERBOSE,
)
_COMPARISONS = {"=": "=", "!=": "!=", "<>": "!=", "<": "<", "<=": "<=", ">": ">", ">=": ">="}


@dataclass(frozen=True)
class Condition:
    """A filter as SQL.

    Attributes:
        sql: Condition on the table of records, with `?` for every value.
        values: What they stand for.
    """

    sql: str
    values: tuple[str | float | int, ...]

    @property
    def passes_all(self) -> bool:
        """Whether there is no filter."""
        return self.sql == "1"

    def and_kind(self, kind: str) -> Condition:
        """The same for records of a kind."""
        return Condition(f"kind = ? and ({self.sql})", (kind, *self.values))


@dataclass(frozen=True)
class _Token:
    kind: str
    text: str
    at: int


def parse(where: Where) -> Condition:
    """Parses a filter.

    Args:
        where: Text in the language above; or columns with a value each, or with a list of which one must match; None or
            nothing lets everything pass.

    Raises:
        UsageError: The text is not in the language; the message points at the place.
    """
    if where is None:
        return Condition("1", ())
    if isinstance(where, Mapping):
        return _equal(where)
    if not isinstance(where, str):
        raise UsageError(f"where: expected a filter as text or a mapping, got {type(where).__name__}")
    if len(where) > _LONGEST:
        raise UsageError(f"where: expected at most {_LONGEST:,} characters, got {len(where):,}")
    return _Parser(where).parse() if where.strip() else Condition("1", ())


def _equal(columns: Mapping[str, Any]) -> Condition:
    """Columns that must have a value, or one of several."""
    parts: list[str] = []
    values: list[Any] = []
    total = 0
    for name, wanted in columns.items():
        sql, kind, path = _column(name, f"where: {name!r}")
        options = list(wanted) if isinstance(wanted, list | tuple | set | frozenset) else [wanted]
        for option in options:
            if not isinstance(option, str | int | float) or (
                kind != "any" and isinstance(option, str) != (kind == "text")
            ):
                raise UsageError(f"where: {name}: expected {_KINDS[kind]}, got {option!r}")
        total += len(path) + len(options)
        if not options:
            parts.append("0")
        elif sql == "taxon":
            parts.append(f"taxon {_ONE_OF_TAXA}")
            values.append(_written(options))
        else:
            parts.append(f"{sql} in ({', '.join('?' * len(options))})")
            values += [*path, *(nfc(option) if isinstance(option, str) else option for option in options)]
    if total > _MOST_VALUES:
        raise UsageError(f"where: expected at most {_MOST_VALUES:,} values, got {total:,}")
    return Condition(" and ".join(parts) or "1", tuple(values))


# All spellings as one value: of each name there are several, and a statement takes only so many values.
_ONE_OF_TAXA = "in (select value from json_each(?))"


def _written(taxa: Iterable[str]) -> str:
    """All that is counted as one of some taxa, for `_ONE_OF_TAXA`."""
    return json.dumps(list(dict.fromkeys(one for taxon in taxa for one in spellings(taxon))))


_KINDS = {"text": "text", "number": "a number", "any": "text or a number"}


def _column(name: str, place: str) -> tuple[str, str, tuple[str, ...]]:
    """A column's SQL, what it holds, and the parameters that the SQL needs."""
    lower = name.lower()
    if lower in TEXTS:
        return lower, "text", ()
    if lower in NUMBERS or lower == "id":
        return lower, "number", ()
    head, _, rest = name.partition(".")
    if head.lower() == "extra" and rest and '"' not in rest:
        return "nfc(json_extract(extra, ?))", "any", ("$" + "".join(f'."{part}"' for part in rest.split(".")),)
    raise UsageError(f"{place}: expected one of id, {', '.join(TEXTS + NUMBERS)} or extra.NAME, got {name!r}")


class _Parser:
    """Recursive descent over the tokens; each rule returns SQL and adds its values in their order."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.values: list[str | float | int] = []
        self.tokens = list(self._tokens())
        self.next, self.depth, self.terms = 0, 0, 0

    def parse(self) -> Condition:
        sql = self._or()
        if not self._is("end"):
            self._fail("and, or, or the end")
        return Condition(sql, tuple(self.values))

    def _tokens(self) -> Iterator[_Token]:
        at, end = 0, len(self.text.rstrip())
        while at < end:
            match = _TOKEN.match(self.text, at)
            if not match or match.lastgroup is None:
                place = at + len(self.text[at:]) - len(self.text[at:].lstrip())
                raise UsageError(
                    f"where: expected a column, a value or a comparison, got {self.text[place : place + 12]!r} at "
                    f"character {place + 1}; text stands in single quotes"
                )
            kind = match.lastgroup
            yield _Token(kind, match[kind], match.start(kind))
            at = match.end()
        yield _Token("end", "", end)

    def _or(self) -> str:
        return self._joined("or", self._and)

    def _and(self) -> str:
        return self._joined("and", self._not)

    def _joined(self, word: str, part: Any) -> str:
        parts = [part()]
        while self._take_word(word):
            parts.append(part())
        return parts[0] if len(parts) == 1 else f"({f' {word} '.join(parts)})"

    def _not(self) -> str:
        self.depth += 1
        if self.depth > _DEEPEST:
            raise UsageError(f"where: expected at most {_DEEPEST} brackets and nots inside each other")
        try:
            if self._take_word("not"):
                return f"not ({self._not()})"
            if self._take_sign("("):
                inner = self._or()
                self._expect(")")
                return f"({inner})"
            return self._comparison()
        finally:
            self.depth -= 1

    def _comparison(self) -> str:
        self.terms += 1
        if self.terms > _MOST_TERMS:
            raise UsageError(f"where: expected at most {_MOST_TERMS} comparisons; use `in`")
        token = self.tokens[self.next]
        if token.kind != "word":
            self._fail("a column")
        column, kind, path = _column(token.text, f"where: character {token.at + 1}")
        self.next += 1
        self.values += path
        if self._take_word("is"):
            no = "not " if self._take_word("not") else ""
            if not self._take_word("null"):
                self._fail("null")
            return f"{column} is {no}null"
        no = "not " if self._take_word("not") else ""
        if self._take_word("like"):
            if kind == "number":
                self._fail(f"a comparison with a number, as {token.text} holds one")
            return f"{column} {no}like {self._value('text')} escape '\\'"
        if self._take_word("in"):
            self._expect("(")
            first, options = len(self.values), [self._value(kind)]
            while self._take_sign(","):
                options.append(self._value(kind))
            self._expect(")")
            return self._taxa(first, no) if column == "taxon" else f"{column} {no}in ({', '.join(options)})"
        if self._take_word("between"):
            low = self._value(kind)
            if not self._take_word("and"):
                self._fail("and")
            return f"{column} {no}between {low} and {self._value(kind)}"
        sign = self.tokens[self.next]
        if no or sign.kind != "sign" or sign.text not in _COMPARISONS:
            self._fail("like, in or between" if no else "a comparison such as = or like")
        self.next += 1
        how, value = _COMPARISONS[sign.text], self._value(kind)
        if column == "taxon" and how in ("=", "!="):
            return self._taxa(-1, "not " if how == "!=" else "")
        return f"{column} {how} {value}"

    def _taxa(self, first: int, no: str) -> str:
        """The values from a place on, which are taxa, with all that is counted as one of them."""
        self.values[first:] = [_written(map(str, self.values[first:]))]
        return f"taxon {no}{_ONE_OF_TAXA}"

    def _value(self, kind: str) -> str:
        token = self.tokens[self.next]
        if token.kind == "text" and kind != "number":
            self.values.append(nfc(token.text[1:-1].replace("''", "'")))
        elif token.kind == "number" and kind != "text":
            self.values.append(float(token.text) if re.search(r"[.eE]", token.text) else _integer(token.text))
        elif token.kind == "word" and kind == "any" and token.text.lower() in ("true", "false"):
            self.values.append(int(token.text.lower() == "true"))
        else:
            self._fail({"text": "text in single quotes", "number": "a number"}.get(kind, "a value"))
        self.next += 1
        return "?"

    def _is(self, kind: str, text: str | None = None) -> bool:
        token = self.tokens[self.next]
        return token.kind == kind and (text is None or token.text.lower() == text)

    def _take_word(self, word: str) -> bool:
        found = self._is("word", word)
        self.next += found
        return found

    def _take_sign(self, sign: str) -> bool:
        found = self._is("sign", sign)
        self.next += found
        return found

    def _expect(self, sign: str) -> None:
        if not self._take_sign(sign):
            self._fail(sign)

    def _fail(self, expected: str) -> None:
        token = self.tokens[self.next]
        got = token.text or "the end"
        raise UsageError(f"where: expected {expected} at character {token.at + 1}, got {got} in: {self.text}")


def _integer(text: str) -> int | float:
    """A whole number; as a float where SQLite's 64 bits do not hold it."""
    number = int(text)
    return number if -(2**63) <= number < 2**63 else float(text)
