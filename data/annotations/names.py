"""File names for the outputs of a slide, made from the slide's own name."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable
from hashlib import sha256

from ...errors import UsageError

__all__ = ["slide_stem", "slide_stems"]

# Leaves room within the 255 bytes of most file systems for the hash and endings such as `_overlay.geojson`.
_LONGEST = 200
_NOT_ALLOWED = re.compile(r'[<>:"|?*\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]')
_RESERVED = re.compile(r"(con|prn|aux|nul|com[0-9¹²³]|lpt[0-9¹²³])(\.|$)", re.IGNORECASE)


def slide_stem(name: str) -> str:
    """The file stem of a slide that stands alone; see `slide_stems`."""
    return slide_stems([name])[name]


def slide_stems(names: Iterable[str]) -> dict[str, str]:
    """File stems that are valid on every system and differ also where case does not count.

    A stem is the last part of the name without its extension. Eight digits of the name's hash are added where that
    would not do: characters had to be replaced, or two names would share it (`a.tif` and `a.png`). Names that share it
    from different folders get their folders in front, too, as hashes tell nobody which is which: `monday_sweep 1-…`.

    Args:
        names: The names of all slides whose files share a folder, as these decide which need the hash.

    Returns:
        The stem of each name. The order of the names does not matter.

    Raises:
        UsageError: A name is there twice.
    """
    names = list(names)
    twice = [name for name, n in Counter(names).items() if n > 1]
    if twice:
        raise UsageError(f"slide {twice[0]!r} is there twice: give paths that tell them apart")
    plain = {name: _plain(name) for name in names}
    shared = Counter(stem.casefold() for stem, _ in plain.values())
    stems = {}
    for name, (stem, changed) in plain.items():
        alike = shared[stem.casefold()] > 1
        digest = sha256(name.encode("utf-8", "surrogatepass")).hexdigest()[:8]
        stems[name] = f"{_below(name, stem) if alike else stem}-{digest}" if changed or alike else stem
    if len({stem.casefold() for stem in stems.values()}) < len(stems):
        raise UsageError("the names of two slides are too alike to tell their files apart: rename one")
    return stems


def _below(name: str, stem: str) -> str:
    """The stem with the folders of its slide in front; of a long path the end, which is nearest to the slide."""
    folders = "_".join(filter(None, re.split(r"[/\\]", name)[:-1])).encode("utf-8", "replace")
    room = _LONGEST - len(stem.encode()) - 1
    return _plain(f"{folders[-room:].decode(errors='ignore')}_{stem}.")[0] if folders and room > 0 else stem


def _plain(name: str) -> tuple[str, bool]:
    """The stem with what no file system likes replaced, and whether anything was."""
    last = unicodedata.normalize("NFC", re.split(r"[/\\]", name)[-1])
    stem = last.rpartition(".")[0] or last
    safe = _NOT_ALLOWED.sub("_", stem)
    safe = re.sub(r"^[.\s-]|[.\s]+$", "_", safe) or "_"
    if _RESERVED.match(safe):
        safe = f"_{safe}"
    safe = safe.encode()[:_LONGEST].decode(errors="ignore")
    return safe, safe != stem
