"""Text to the terms that search by words compares: `terms`.

Made for the words of palynology in any script, in any Unicode form: case and accents do not count (`Größe`, `grosse`),
`tri-colporate` is found as `tricolporate` and by its parts, an English plural as its singular, a Latin one (`colpi`)
by the glossary. Han, kana and hangul, which have no spaces, become single characters and pairs of neighbours, as
Lucene's CJKBigramFilter can give them: `松` alone is a pine.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from itertools import pairwise

__all__ = ["folded", "terms"]

# Unified ideographs with their extensions, kana, hangul.
_PAIRED = "\u3005-\u3007\u3040-\u30ff\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7a3\U00020000-\U0003ffff"
_CHUNK = re.compile(rf"[{_PAIRED}]+|(?:(?![{_PAIRED}])[^\W_])+(?:-(?:(?![{_PAIRED}])[^\W_])+)*")
# Hyphens of all sorts are one; the soft one only says where a line may break.
_HYPHENS = {**dict.fromkeys(map(ord, "\u2010\u2011\ufe63\uff0d"), "-"), 0xAD: None}


def folded(text: str) -> str:
    """Text without case, accents and the many forms of one character; as long as what is written allows."""
    text = unicodedata.normalize("NFKC", text).casefold().translate(_HYPHENS)
    return "".join(c for c in unicodedata.normalize("NFKD", text) if not _is_accent(c))


def terms(text: str) -> list[str]:
    """The terms of a text, in order, repeats kept.

    Example:
        >>> terms("Tri-colporate GRAINS, 20–30 µm; Größe")
        ['tricolporate', 'tri', 'colporate', 'grain', '20', '30', 'μm', 'grosse']
        >>> terms("桦木属")
        ['桦', '木', '属', '桦木', '木属']
    """
    return [term for match in _CHUNK.finditer(unicodedata.normalize("NFC", folded(text))) for term in _split(match[0])]


def _split(chunk: str) -> Iterator[str]:
    if re.match(f"[{_PAIRED}]", chunk):
        yield from chunk
        yield from map("".join, pairwise(chunk))
        return
    parts = chunk.split("-")
    if len(parts) == 2 and parts[1].isalpha():
        yield _singular("".join(parts))
    for part in parts:
        yield _singular(part)


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


def _is_accent(character: str) -> bool:
    """Marks that modify a letter, but not those that are half of a kana (ガ is not カ)."""
    return unicodedata.combining(character) > 0 and character not in "\u3099\u309a"
