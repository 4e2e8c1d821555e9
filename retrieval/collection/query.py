"""What is asked of a collection: which space a query belongs to, its vector, and why a record answers it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ...errors import PalynoError, RejectedModelError, UnknownModelError, UsageError
from ..encoders import Encoder
from ..hybrid import readable
from .record import Kind, nfc
from .vectors import as_vectors

if TYPE_CHECKING:
    from .space import Space

__all__ = [
    "Asked",
    "ask",
    "check_encoder",
    "check_query",
    "encode",
    "fitting_encoders",
    "is_vector",
    "pick",
    "shipped_encoders",
]

# The encoders that ship, by what they read; imported when first needed.
_SHIPPED = {
    "text": ("..encoders.text:TextEncoder", "..matching.words:WordsEncoder"),
    "image": ("..encoders.image:ImageEncoder",),
}

# Encoders of what a detector's pass finds: queries go to their spaces, but single pictures do not come in by them.
_FOR_QUERIES = {"text": (), "image": ("..encoders.image:RegionEncoder",)}

_NO_GRAIN = "no grain stands out from the picture, so all of it was compared: give a picture of one grain"

# Of words to search for: a page or two. A whole document is not a question.
_LONGEST = 10_000


@dataclass(frozen=True, eq=False)
class Asked:
    """A query, ready to be searched for.

    Attributes:
        space: The space that it belongs to.
        vector: (1, dim) float32.
        words: What it says, where it has words.
        encoder: What encoded it; None for a vector.
        doubt: Why its vector may mean little; empty where nothing speaks against it.
    """

    space: Space
    vector: np.ndarray
    words: str = ""
    encoder: Encoder | None = None
    doubt: str = ""


def ask(query: Any, encoder: Encoder | str | None, spaces: Mapping[str, Space]) -> Asked:
    """Finds the space of a query and its vector there.

    Args:
        query: Words; a picture as a `Path`, a Pillow image or an array (H, W, 3) uint8; or a vector, (dim,).
        encoder: What to encode it with, as `pick` finds it; of a vector, also its encoder_id.
        spaces: The spaces there are.

    Raises:
        UsageError: A vector without its encoder_id; words that the encoder cannot read; a query that is nothing of
            these.
        RejectedModelError: The encoder's space is not here.
    """
    if is_vector(query):
        return _ask_vector(query, encoder, spaces)
    encoder = check_encoder(encoder)
    space = _space(encoder.encoder_id, spaces)
    if isinstance(query, str) and not readable(encoder, [query])[0]:
        raise UsageError(
            f"expected words that {encoder.encoder_id} can read, got {query!r:.80}; give a Latin name or a "
            "translation, or search texts by their words (--by words)"
        )
    if isinstance(query, str):
        return Asked(space, encode(encoder, [query]), query, encoder)
    picture = _picture(query)
    if (encode_seen := getattr(encoder, "encode_seen", None)) is None:
        return Asked(space, encode(encoder, [picture]), encoder=encoder)
    vectors, seen = encode_seen([picture])
    vector = as_vectors(vectors, encoder.dim, what=encoder.encoder_id)
    return Asked(space, vector, encoder=encoder, doubt="" if seen[0] else _NO_GRAIN)


def is_vector(query: Any) -> bool:
    """Whether a query is a vector; other arrays are pictures."""
    return isinstance(query, np.ndarray) and query.ndim == 1


def pick(
    modality: str, kind: Kind, encoder: Encoder | str | None, spaces: Mapping[str, Space], encoders: Sequence[Encoder]
) -> Encoder:
    """The encoder of a query: the one that is asked for, or that of the only space that fits.

    Texts that were encoded for their own sake and for pictures too are searched for by words in the former space.

    Args:
        modality: Of the query.
        kind: What is searched for.
        encoder: What is asked for, or its encoder_id.
        spaces: The spaces that hold what is searched for.
        encoders: Encoders to choose from, before those that ship.

    Raises:
        UsageError: Another modality; there is none of that id at hand; several spaces fit.
        RejectedModelError: No space fits.
    """
    if isinstance(encoder, str):
        found = [one for one in _choices(modality, encoders) if one.encoder_id == encoder]
        if not found:
            raise UsageError(
                f"expected the encoder_id of an encoder of {modality}s that is at hand, "
                f"{_listed(one.encoder_id for one in _choices(modality, encoders))}; got {encoder!r}"
            )
        encoder = found[0]
    if encoder is not None:
        if encoder.modality != modality:
            raise UsageError(f"{encoder.encoder_id}: expected {encoder.modality} to encode, got {modality}")
        return encoder
    fitting = fitting_encoders(modality, spaces, encoders)
    if modality == kind == "text":
        fitting = [one for one in fitting if not _of_pictures(one, spaces[one.encoder_id])] or fitting
    if len(fitting) == 1:
        return fitting[0]
    if fitting:
        raise UsageError(
            f"expected encoder= (--space on the command line) to say which space is meant, as {modality} is encoded "
            f"for several: {', '.join(one.encoder_id for one in fitting)}"
        )
    names = dict.fromkeys(one.encoder_id for one in _choices(modality, encoders))
    words = " or search by words alone (--by words)," if modality == kind == "text" else ""
    raise RejectedModelError(
        f"expected {kind}s with vectors that {modality} can be compared with: they have {_listed(spaces)}, and of "
        f"{modality} encoders there is at hand {_listed(names)}; add them with one of these (palyno index add "
        f"--update),{words} or give encoder="
    )


def check_query(query: Any) -> Any:
    """What can be searched with: words, a picture or a vector, as it came; words in Unicode's composed form.

    Raises:
        UsageError: It is nothing of these; see `check_words` for words.
    """
    from PIL import Image

    if isinstance(query, str):
        return check_words(query)
    if not isinstance(query, Path | Image.Image | np.ndarray):
        raise UsageError(
            "query: expected words, a picture (a Path, a Pillow image or an array), or a vector (an array of one "
            f"dimension), got {type(query).__name__}"
        )
    return query


def check_words(query: str) -> str:
    """Words to search for.

    Raises:
        UsageError: There is no letter or digit in them, or more than 10,000 characters.
    """
    if len(query) > _LONGEST:
        raise UsageError(
            f"expected words to search for, at most {_LONGEST:,} characters, got {len(query):,}; take the sentence "
            "that matters"
        )
    if not any(map(str.isalnum, query)):
        raise UsageError(f"expected words to search for, got {query!r:.80} without a letter or digit")
    return nfc(query)


def encode(encoder: Encoder, items: Sequence[Any]) -> np.ndarray:
    """The vectors of texts or pictures, (n, dim) float32, checked."""
    if encoder.modality == "image":
        items = [_picture(item) for item in items]
    return as_vectors(encoder.encode(items), encoder.dim, what=encoder.encoder_id)


def check_encoder(encoder: Any) -> Encoder:
    """An encoder, or an error that says what one is."""
    if not isinstance(encoder, Encoder):
        raise UsageError(
            f"encoder: expected encoder_id, dim, modality and encode, got {type(encoder).__name__}; see "
            "palyno.retrieval.encoders"
        )
    return encoder


def shipped_encoders(modality: str) -> Iterator[Encoder]:
    """The encoders that ship, one of texts first; those whose weights are not installed are passed over."""
    yield from _at_hand(_SHIPPED[modality])


def _at_hand(places: Iterable[str]) -> Iterator[Encoder]:
    for place in places:
        module, name = place.split(":")
        kind = getattr(import_module(module, __package__), name)
        with suppress(UnknownModelError):
            yield _made(kind)


@cache
def _made(kind: Callable[[], Encoder]) -> Encoder:
    # Weights are read and hashed once, not at each search.
    return kind()


def fitting_encoders(modality: str, spaces: Iterable[str], encoders: Sequence[Encoder]) -> list[Encoder]:
    """The encoders of a modality whose spaces there are, in the order of these."""
    choices = {one.encoder_id: one for one in reversed(list(_choices(modality, encoders)))}
    return [choices[encoder_id] for encoder_id in spaces if encoder_id in choices]


def _ask_vector(query: np.ndarray, encoder: Encoder | str | None, spaces: Mapping[str, Space]) -> Asked:
    if encoder is None:
        raise UsageError(
            f"expected the encoder_id of the vector, got none; a vector is compared only with vectors of its own "
            f"encoder, here {_listed(spaces)}"
        )
    space = _space(encoder if isinstance(encoder, str) else encoder.encoder_id, spaces)
    return Asked(space, as_vectors(query[None], space.entry.dim, what="query"))


def _space(encoder_id: str, spaces: Mapping[str, Space]) -> Space:
    if encoder_id not in spaces:
        raise RejectedModelError(
            f"expected a query in one of the collection's spaces, {_listed(spaces)}; got one of {encoder_id}: vectors "
            "of two encoders do not compare. Add the records with this encoder first"
        )
    return spaces[encoder_id]


def _of_pictures(encoder: Encoder, space: Space) -> bool:
    """Whether an encoder reads texts to compare them with pictures: it tells which of them describe any."""
    return hasattr(encoder, "describes") or "image" in space.entry.modalities


def _choices(modality: str, encoders: Sequence[Encoder]) -> Iterator[Encoder]:
    yield from (one for one in encoders if one.modality == modality)
    try:
        yield from shipped_encoders(modality)
        yield from _at_hand(_FOR_QUERIES[modality])
    except PalynoError:
        if not encoders:
            raise


def _listed(spaces: Iterable[str]) -> str:
    return ", ".join(spaces) or "none"


def _picture(item: Any) -> np.ndarray:
    """A picture as an array (H, W, 3) uint8 RGB."""
    if isinstance(item, np.ndarray) and item.dtype == np.uint8 and item.ndim == 3 and item.shape[2] == 3:
        return item
    from ...data.slides import slide_from

    if isinstance(item, str):
        item = Path(item)
    with slide_from(item) as slide:
        return slide.read(0, 0, slide.width, slide.height)
