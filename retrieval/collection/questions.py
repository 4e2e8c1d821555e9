"""What can be asked of a collection that is open: `Questions`, the half of `Collection` that changes nothing."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

import numpy as np

from ...errors import RejectedModelError, UsageError
from ..encoders import Encoder
from ..glossary import Glossary
from ..hybrid import DEPTH, combine, readable
from .answers import hits_by_vectors, hits_in_texts, read_as
from .duplicates import Duplicates, find_duplicates
from .generation import Generation
from .query import ask, check_encoder, check_query, fitting_encoders, is_vector, pick
from .record import KINDS, Hit, Kind, Pair, Record
from .snapshot import copy_generation
from .space import Space
from .texts import concepts
from .vectors import as_ids
from .verify import Check, verify_files
from .where import Condition, Where, parse

__all__ = ["Questions"]

_SELECTIONS, _MOST_KEPT, _PAGE = 16, 1000, 1000

By = Literal["words", "vectors"]


class Questions:
    """Searches and look-ups in the generation that is open. Threads may share an object and take turns."""

    def __init__(self, path: Path, generation: Generation, encoders: Sequence[Encoder]) -> None:
        """Use `Collection.create` or `Collection.open`."""
        self.path, self._generation = path, generation
        self._encoders = tuple(check_encoder(encoder) for encoder in encoders)
        self._turn, self._depth = threading.RLock(), 0
        # What filters let pass, and what there is at all; until the next change.
        self._selections: OrderedDict[tuple[str, Condition], Any] = OrderedDict()
        self._there: dict[tuple[Kind, Condition, int | None], bool] = {}

    def search(
        self,
        query: Any,
        k: int = 10,
        where: Where = None,
        *,
        kind: Kind | None = None,
        by: By | None = None,
        encoder: Encoder | str | None = None,
        exact: bool = False,
    ) -> list[Hit]:
        """The grains, or the texts, that answer a query best: of one kind, so that their scores compare.

        Words find texts by BM25, by the glossary's terms and by their vectors at once, as `retrieval.hybrid` says, and
        grains by vectors. Pictures find grains, or texts that describe what they look like, by vectors.

        Args:
            query: Words; a picture as a `Path`, a Pillow image or an array (H, W, 3) uint8; or a vector, (dim,).
            k: At most so many.
            where: Only records that pass this filter; see `where.py` for its language.
            kind: `grain` or `text`. None takes grains for a picture; for words and vectors the kind that there is, and
                is refused where records of both pass that the query can be compared with.
            by: `words` or `vectors`, to find texts by one of the two alone.
            encoder: What to encode the query with, or the encoder_id of a vector. None takes the encoder of the only
                space that fits; a vector always needs it.
            exact: Compare every vector, whatever index there is.

        Returns:
            Best first, the lower id first where scores are equal. Texts that say what words do not want (*without
            spines*) come after all others.

        Raises:
            UsageError: An argument cannot be meant, or it is not said which kind or space.
            RejectedModelError: The query's encoder is not one of the collection's.
        """
        if isinstance(k, bool) or not isinstance(k, int | np.integer) or k < 0:
            raise UsageError(f"k: expected a whole number from 0 on, got {k!r}")
        if kind not in (None, *KINDS):
            raise UsageError(f"kind: expected grain or text, got {kind!r}")
        if by not in (None, "words", "vectors"):
            raise UsageError(f"by: expected words, vectors or None for both, got {by!r}")
        query = check_query(query)
        if not isinstance(query, str) and by == "words":
            raise UsageError("by: expected vectors for a query that has no words, got 'words'")
        if by == "words" and (kind == "grain" or encoder is not None):
            raise UsageError("by='words': expected texts to search in and no encoder, as only words are compared")
        condition = parse(where)
        with self._turn:
            chosen = self._kind(query, kind, by, encoder, condition)
            if chosen is None or (encoder is None and not is_vector(query) and not self._any(chosen, condition)):
                return []
            if isinstance(query, str) and chosen == "text":
                return self._in_texts(query, int(k), condition, by, encoder, exact)
            return self._by_vectors(query, int(k), condition, chosen, encoder, exact)

    def kinds(self, where: Where = None, *, encoder: Encoder | str | None = None) -> tuple[Kind, ...]:
        """The kinds, of `grain` and `text`, of the records that pass a filter and have a vector of an encoder.

        Raises:
            RejectedModelError: The encoder is none of the collection's.
        """
        condition = parse(where)
        with self._turn:
            space = None if encoder is None else self._space(encoder)
            return tuple(kind for kind in KINDS if self._any(kind, condition, space))

    def near_duplicates(
        self, threshold: float = 0.98, *, encoder: Encoder | str | None = None, where: Where = None
    ) -> list[Pair]:
        """Pairs of records whose vectors are nearly the same, the most alike first; see `duplicates`."""
        return list(self.duplicates(threshold, encoder=encoder, where=where).pairs)

    def duplicates(
        self, threshold: float = 0.98, *, encoder: Encoder | str | None = None, where: Where = None
    ) -> Duplicates:
        """Pairs of records whose vectors are nearly the same, and what was compared to find them.

        Grains are compared; texts only where no grain passes.

        Args:
            threshold: Least cosine.
            encoder: The space; None takes the one in which the most of what passes has a vector.
            where: Only records that pass this filter.

        Raises:
            UsageError: The threshold is not above 0 and at most 1, or it must be said which space.
            RejectedModelError: The encoder is none of the collection's.
        """
        with self._turn:
            spaces = self._generation.spaces
            if encoder is not None:
                space = self._space(encoder)
                spaces = {space.entry.encoder_id: space}
            return find_duplicates(spaces, parse(where), threshold, self._generation.records)

    def get(self, record_id: int) -> Record:
        """A record.

        Raises:
            UsageError: There is none with this id.
        """
        with self._turn:
            return self._existing(as_ids([record_id]))[int(record_id)]

    def known(self, keys: Iterable[str]) -> dict[str, int]:
        """The ids of the records that have one of these keys."""
        with self._turn:
            return self._generation.records.by_key(keys)

    def records(self, where: Where = None) -> Iterator[tuple[int, Record]]:
        """The records that pass a filter with their ids, in the order of these."""
        condition, last = parse(where), 0
        while True:
            # In pages, so that the collection may change while they are read.
            with self._turn:
                page = self._generation.records.page(condition, last, _PAGE)
            if not page:
                return
            yield from page
            last = page[-1][0]

    def count(self, where: Where = None) -> int:
        """How many records pass a filter."""
        with self._turn:
            return self._generation.records.count(parse(where))

    def __len__(self) -> int:
        return self.count()

    def vectors(self, ids: Sequence[int] | np.ndarray, encoder: Encoder | str | None = None) -> np.ndarray:
        """The stored vectors of records, (n, dim) float32; `encoder` says in which space, where there are several."""
        with self._turn:
            return np.array(self._space(encoder).backend.vectors(as_ids(ids, unique=False)))

    def encoders(self, modality: Literal["text", "image"]) -> list[Encoder]:
        """The encoders at hand that read texts, or pictures, and whose vectors it has: one a space."""
        with self._turn:
            return fitting_encoders(modality, self._generation.spaces, self._encoders)

    @property
    def spaces(self) -> tuple[str, ...]:
        """The encoder_ids of its vectors."""
        return tuple(self._generation.spaces)

    def info(self) -> dict[str, Any]:
        """What it holds and how it is searched."""
        with self._turn:
            manifest, spaces = self._generation.manifest, self._generation.spaces.values()
            size = sum((self.path / name).stat().st_size for name in manifest.files if (self.path / name).exists())
            return {
                "path": str(self.path),
                "generation": manifest.generation,
                "created": manifest.created,
                "palyno": manifest.palyno,
                "records": len(self._generation.records),
                "kinds": {kind: self.count({"kind": kind}) for kind in KINDS},
                "texts_by_words": len(self._generation.records.words.lexicon),
                "bytes": size,
                "exact_below": manifest.exact_below,
                "spaces": [
                    {
                        "encoder_id": space.entry.encoder_id,
                        "modalities": list(space.entry.modalities),
                        "dim": space.entry.dim,
                        "metric": space.entry.metric,
                        **space.backend.stats(),
                    }
                    for space in spaces
                ],
            }

    def verify(self) -> list[Check]:
        """Reads every file of the present generation and compares it with the manifest and with the others."""
        return verify_files(self.path)

    def snapshot(self, target: str | Path) -> Path:
        """Copies the generation that is open to another folder, as a collection of its own.

        Raises:
            UsageError: The folder is not empty.
            RejectedModelError: A file is not what was committed; nothing can be opened there then.
        """
        with self._turn:
            if self._depth:
                raise UsageError("snapshot: expected a committed collection, got one in a batch; take it afterwards")
            return copy_generation(self.path, self._generation.manifest, Path(target))

    def close(self) -> None:
        """Closes its files."""
        self._generation.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"{type(self).__name__}({str(self.path)!r}, {len(self)} records)"

    def _existing(self, ids: np.ndarray) -> dict[int, Record]:
        found = self._generation.records.get(ids)
        if missing := [i for i in ids.tolist() if i not in found]:
            raise UsageError(f"expected ids of records, got {missing[0]}; it may have been deleted")
        return found

    def _kind(
        self, query: Any, kind: Kind | None, by: By | None, encoder: Encoder | str | None, condition: Condition
    ) -> Kind | None:
        """What is searched for; None where nothing passes."""
        if kind is not None:
            return kind
        if by == "words":
            return "text"
        if not isinstance(query, str) and not is_vector(query):
            return "grain"
        space = None
        if encoder is not None:
            name = encoder if isinstance(encoder, str) else check_encoder(encoder).encoder_id
            space = self._generation.spaces.get(name)
        if space is None and (encoder is not None or is_vector(query)):
            # Is refused, whatever it is asked for.
            return "grain"
        found = [one for one in KINDS if self._any(one, condition, space)]
        if len(found) > 1:
            raise UsageError(
                "expected kind='grain' or kind='text' (--in grains or --in texts on the command line) to say what is "
                "searched for, as both are there; their scores do not compare"
            )
        return found[0] if found else None

    def _by_vectors(
        self, query: Any, k: int, condition: Condition, kind: Kind, encoder: Encoder | str | None, exact: bool
    ) -> list[Hit]:
        """Records of a kind by their vectors alone."""
        partner = None
        if not is_vector(query):
            modality: Literal["text", "image"] = "text" if isinstance(query, str) else "image"
            encoder = pick(modality, kind, encoder, self._holding(kind), self._encoders)
            if modality == "image":
                partner = next(iter(fitting_encoders("text", [encoder.encoder_id], self._encoders)), None)
        asked = ask(query, encoder, self._generation.spaces)
        within = self._select(asked.space, condition, kind)
        found = asked.space.backend.search(asked.vector, k, within=within, exact=exact)[0]
        return hits_by_vectors(asked, found, self._generation.records.get(found.ids), partner)

    def _in_texts(
        self, query: str, k: int, condition: Condition, by: By | None, encoder: Encoder | str | None, exact: bool
    ) -> list[Hit]:
        """Texts by words, by meaning, or both."""
        asked, records = Glossary.shipped().query(query), self._generation.records
        depth, how = max(k, DEPTH), [f"read as {said}"] if (said := read_as(asked)) else []
        words = vectors = encoder_id = None
        if by != "vectors":
            lexicon = records.words.lexicon
            words = lexicon.search(asked.words, depth, among=self._among(condition))
            how.append(f"by words: BM25 over {len(lexicon):,} texts")
        holding = self._holding("text")
        if by == "vectors" or encoder is not None or (by is None and holding):
            encoder = pick("text", "text", encoder, holding, self._encoders)
            if by is None and not readable(encoder, [asked.sentence])[0]:
                how.append(f"by meaning: not at all, as {encoder.encoder_id} cannot read the query")
            else:
                meant = ask(asked.sentence, encoder, self._generation.spaces)
                within = self._select(meant.space, condition, "text")
                nearest = meant.space.backend.search(meant.vector, depth, within=within, exact=exact)[0]
                vectors = list(zip(nearest.ids.tolist(), nearest.scores.clip(-1, 1).tolist(), strict=True))
                encoder_id = encoder.encoder_id
                how.append(f"by meaning: near in {encoder_id}: {nearest.how}")
        elif by is None:
            how.append("by meaning: not at all, as no text has a vector")
        found = combine(asked, k, words=words, vectors=vectors, concepts=lambda ids: concepts(records.get(ids)))
        there = records.get([one.number for one in found])
        alone = by or ("both" if vectors is not None else "words")
        return hits_in_texts(asked, found, there, alone, encoder_id, "; ".join(how))

    def _holding(self, kind: Kind) -> dict[str, Space]:
        """The spaces that have vectors of a kind."""
        return {name: one for name, one in self._generation.spaces.items() if self._any(kind, parse(None), one)}

    def _any(self, kind: Kind, condition: Condition, space: Space | None = None) -> bool:
        """Whether a record of a kind passes a filter, and has a vector in a space."""
        key = (kind, condition, None if space is None else space.entry.number)
        if key not in self._there:
            if len(self._there) >= _MOST_KEPT:
                self._there.clear()
            self._there[key] = self._generation.records.any(*key)
        return self._there[key]

    def _among(self, condition: Condition) -> np.ndarray | None:
        """The ids of the texts that pass a filter; None for all of them."""
        if condition.passes_all:
            return None
        texts = condition.and_kind("text")
        return self._kept("words", texts, lambda: self._generation.records.ids(texts))

    def _select(self, space: Space, condition: Condition, kind: Kind) -> Any:
        """The records of a kind that pass a filter, as the space's backend likes them; None for all of them."""
        if self._any("text" if kind == "grain" else "grain", parse(None), space):
            condition = condition.and_kind(kind)
        if condition.passes_all:
            return None
        name = f"space {space.entry.encoder_id}"
        return self._kept(name, condition, lambda: space.backend.select(self._generation.records.ids(condition)))

    def _kept(self, what: str, condition: Condition, make: Callable[[], Any]) -> Any:
        """What a filter lets pass; the last few are kept."""
        key = (what, condition)
        if key not in self._selections:
            self._selections[key] = make()
            if len(self._selections) > _SELECTIONS:
                self._selections.popitem(last=False)
        self._selections.move_to_end(key)
        return self._selections[key]

    def _forget(self) -> None:
        """Drops what was kept, as something has changed."""
        self._selections.clear()
        self._there.clear()

    def _space(self, encoder: Encoder | str | None) -> Space:
        spaces = self._generation.spaces
        if encoder is None:
            if len(spaces) != 1:
                raise UsageError(
                    "expected encoder= (--space on the command line) to say which space is meant: "
                    f"{', '.join(spaces) or 'there is none'}"
                )
            return next(iter(spaces.values()))
        name = encoder if isinstance(encoder, str) else encoder.encoder_id
        if name not in spaces:
            raise RejectedModelError(f"expected one of the spaces {', '.join(spaces) or '(none)'}, got {name}")
        return spaces[name]
