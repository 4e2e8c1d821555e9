"""Text to the terms that search by words compares: `terms`.

Made for the words of palynology in any script, in any Unicode form: case and accents do not count (`Größe`, `grosse`),
`tri-colporate` is found as `tricolporate` and by its parts, an English plural as its singular, a Latin one (`colpi`)
by the glossary. Han, kana and hangul, which have no spaces, become single characters and pairs of neighbours, as
Lucene's CJKBigramFilter can give them: `松` alone is a pine.
"""

from __future__ import annotations

import re
import unicodedata
from functools import lru_cache
from itertools import pairwise

__all__ = ["VERSION", "folded", "terms"]

# Raised when `terms` or `folded` gives another answer for any text: what was indexed before is then read anew.
VERSION = 1

# Unified ideographs with their extensions, kana, hangul.
_PAIRED = "\u3005-\u3007\u3040-\u30ff\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7a3\U00020000-\U0003ffff"
_CHUNK = re.compile(rf"[{_PAIRED}]+|(?:(?![{_PAIRED}])[^\W_])+(?:-(?:(?![{_PAIRED}])[^\W_])+)*")
# The same where there are none of these, which is most text and several times as fast.
_PLAIN_CHUNK, _SOME_PAIRED = re.compile(r"[^\W_]+(?:-[^\W_]+)*"), re.compile(f"[{_PAIRED}]")
# Hyphens of all sorts are one; the soft one only says where a line may break.
_HYPHENS = {**dict.fromkeys(map(ord, "\u2010\u2011\ufe63\uff0d"), "-"), 0xAD: None}


def folded(text: str) -> str:
    """Text without case, accents and the many forms of one character; as long as what is written allows."""
    if text.isascii():
        return text.lower()
    text = unicodedata.normalize("NFKC", text).casefold().translate(_HYPHENS)
    return unicodedata.normalize("NFKD", text).translate(_ACCENTS)


def terms(text: str) -> list[str]:
    """The terms of a text, in order, repeats kept.

    Example:
        >>> terms("Tri-colporate GRAINS, 20–30 µm; Größe")
        ['tricolporate', 'tri', 'colporate', 'grain', '20', '30', 'μm', 'grosse']
        >>> terms("桦木属")
        ['桦', '木', '属', '桦木', '木属']
    """
    text = unicodedata.normalize("NFC", folded(text))
    chunks = (_CHUNK if _SOME_PAIRED.search(text) else _PLAIN_CHUNK).findall(text)
    return [term for chunk in chunks for term in _split(chunk)]


@lru_cache(maxsize=65_536)
def _split(chunk: str) -> tuple[str, ...]:
    if _SOME_PAIRED.match(chunk):
        return (*chunk, *map("".join, pairwise(chunk)))
    parts = chunk.split("-")
    whole = [_singular("".join(parts))] if len(parts) == 2 and parts[1].isalpha() else []
    return (*whole, *map(_singular, parts))


def _singular(word: str) -> str:
    """Harman 1991, *How effective is suffixing?*, JASIS 42, 7: the S stemmer."""
    if len(word) > 3 and word.isascii():
        if word.endswith("ies") and not word.endswith(("aies", "eies")):
            return word[:-3] + "y"
        if word.endswith("es") and not word.endswith(("aes", "ees", "oes")):
            return word[:-1]
        if word.endswith("s") and not word.endswith(("us", "ss", "is")):
            return word[:-1]
    return word


class _Accents(dict[int, int | None]):
    """For `str.translate`: drops marks that modify a letter, but not those that are half of a kana (ガ is not カ)."""

    def __missing__(self, code: int) -> int | None:
        accent = unicodedata.combining(chr(code)) > 0 and code not in (0x3099, 0x309A)
        return self.setdefault(code, None if accent else code)


_ACCENTS = _Accents()
