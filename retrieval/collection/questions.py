"""What can be asked of a collection that is open: `Questions`, the half of `Collection` that changes nothing."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

import numpy as np

from ...errors import RejectedModelError, UsageError
from ..encoders import Encoder
from .duplicates import near_duplicates
from .generation import Generation
from .query import ask, check_encoder, fitting_encoders, reasons
from .record import Hit, Pair, Record
from .snapshot import copy_generation
from .space import Space
from .vectors import as_ids
from .verify import Check, verify_files
from .where import Condition, Where, parse

__all__ = ["Questions"]

_SELECTIONS, _PAGE = 16, 1000


class Questions:
    """Searches and look-ups in the generation that is open. Threads may share an object and take turns."""

    def __init__(self, path: Path, generation: Generation, encoders: Sequence[Encoder]) -> None:
        """Use `Collection.create` or `Collection.open`."""
        self.path, self._generation = path, generation
        self._encoders = tuple(check_encoder(encoder) for encoder in encoders)
        self._turn, self._depth = threading.RLock(), 0
        self._selections: OrderedDict[tuple[str, Condition], Any] = OrderedDict()

    def search(
        self,
        query: Any,
        k: int = 10,
        where: Where = None,
        *,
        encoder: Encoder | str | None = None,
        exact: bool = False,
    ) -> list[Hit]:
        """The records nearest to a query, in the one space that it belongs to.

        Args:
            query: Words; a picture as a `Path`, a Pillow image or an array (H, W, 3) uint8; or a vector, (dim,).
            k: At most so many.
            where: Only records that pass this filter; see `where.py` for its language.
            encoder: What to encode the query with, or the encoder_id of a vector. None takes the encoder of the only
                space that fits; a vector always needs it.
            exact: Compare every vector, whatever index there is.

        Returns:
            Best first, the lower id first where scores are equal.

        Raises:
            UsageError: `k` or `where` cannot be meant, or it is not said which space.
            RejectedModelError: The query's encoder is not one of the collection's.
        """
        if isinstance(k, bool) or not isinstance(k, int | np.integer) or k < 0:
            raise UsageError(f"k: expected a whole number from 0 on, got {k!r}")
        condition = parse(where)
        with self._turn:
            asked = ask(query, encoder, self._generation.spaces, self._encoders)
            within = None if where is None else self._select(asked.space, condition)
            found = asked.space.backend.search(asked.vector, int(k), within=within, exact=exact)[0]
            there = self._generation.records.get(found.ids)
            records = [there[i] for i in found.ids.tolist()]
            why = reasons(asked, found, records)
        rows = zip(found.ids.tolist(), np.clip(found.scores, -1, 1).tolist(), records, why, strict=True)
        return [Hit(i, score, record, asked.space.entry.encoder_id, said) for i, score, record, said in rows]

    def near_duplicates(
        self, threshold: float = 0.98, *, encoder: Encoder | str | None = None, where: Where = None
    ) -> list[Pair]:
        """Pairs of records whose vectors are nearly the same, the most alike first.

        Args:
            threshold: Least cosine.
            encoder: The space; None where there is only one.
            where: Only records that pass this filter.

        Raises:
            UsageError: The threshold is not above 0 and at most 1, or it is not said which space.
        """
        with self._turn:
            space = self._space(encoder)
            ids = space.backend.ids()
            if where is not None:
                ids = np.intersect1d(ids, self._generation.records.ids(parse(where)))
            return near_duplicates(space.backend, ids, threshold, self._generation.records)

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
                "kinds": {kind: self.count({"kind": kind}) for kind in ("grain", "text")},
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

    def _select(self, space: Space, condition: Condition) -> Any:
        """The records that pass a filter, as the space's backend likes them; the last few are kept."""
        key = (space.entry.encoder_id, condition)
        if key not in self._selections:
            self._selections[key] = space.backend.select(self._generation.records.ids(condition))
            if len(self._selections) > _SELECTIONS:
                self._selections.popitem(last=False)
        self._selections.move_to_end(key)
        return self._selections[key]

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
