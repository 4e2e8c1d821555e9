"""`Collection`: a folder of grains and texts that can be searched, and that survives being killed.

    with palyno.Collection.create("reference") as collection:
        collection.add(records, encoder, items=crops)
        for hit in collection.search(crop, k=5, where="taxon != 'unknown'"):
            print(hit.score, hit.record.taxon, hit.record.slide)

This half of it makes changes; `questions.py` has the other.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import numpy as np

from ...data.lock import locked
from ...errors import UsageError
from ..encoders import Encoder
from ..hybrid import readable
from .generation import Generation
from .manifest import Manifest
from .query import check_encoder, encode, fitting_encoders
from .questions import Questions
from .record import Record
from .space import Layout, Space
from .vectors import as_ids, as_vectors
from .where import Where, parse

__all__ = ["EXACT_BELOW", "Collection"]

# From so many vectors on a space is searched through lists: comparing all of 384 numbers takes about 10 ms then.
EXACT_BELOW = 100_000


class Collection(Questions):
    """Grains and texts with their vectors, in one folder.

    Each change is on the disk when its call returns, and costs a copy of the records' file; add many records in one
    call, or put calls into `with collection.batch():`, which commits once, or not at all. Searches see the generation
    that was opened and what this object changed since; `refresh` takes over what others wrote.

    One process writes at a time; others may read meanwhile. Threads may share an object and take turns.
    """

    def __init__(self, path: Path, generation: Generation, encoders: Sequence[Encoder]) -> None:
        """Use `create` or `open`."""
        super().__init__(path, generation, encoders)
        self._dirty, self._commit_with = False, dict[str, Any]()

    @classmethod
    def create(
        cls, path: str | Path, *, exact_below: int = EXACT_BELOW, encoders: Sequence[Encoder] = ()
    ) -> Collection:
        """Makes an empty collection.

        Args:
            path: Its folder, which must not be there, or be empty.
            exact_below: From how many vectors on a space is searched through an index.
            encoders: Encoders for queries and records, before those that ship.

        Raises:
            UsageError: The folder is not empty.
        """
        path = Path(path)
        if path.exists() and (not path.is_dir() or any(file.name != ".palyno" for file in path.iterdir())):
            raise UsageError(f"{path}: expected a folder that is empty or not there, got one with files; give another")
        if exact_below < 1:
            raise UsageError(f"exact_below: expected 1 or more, got {exact_below}")
        with locked(path / ".palyno" / "lock"):
            return cls(path, Generation.create(path, exact_below, Layout()), encoders)

    @classmethod
    def open(
        cls,
        path: str | Path,
        *,
        encoders: Sequence[Encoder] = (),
        shards: int = 1,
        engine: Literal["local", "ray"] = "local",
        indexes: bool = True,
        check: bool = True,
        device: Literal["auto", "cpu", "cuda"] = "auto",
    ) -> Collection:
        """Opens a collection.

        Args:
            path: Its folder.
            encoders: Encoders for queries and records, before those that ship.
            shards: Spread each space over so many parts, in memory.
            engine: Where parts live: `local` in this process, `ray` in actors of a cluster that reads the same folder.
            indexes: Use the stored indexes; off compares every vector, and opens a collection with a damaged index.
            check: Hash every byte first; about 0.5 to 2 GB a second.
            device: What searches without a filter: `auto` takes a GPU where FAISS finds one and it is worth it. Answers
                are the same, but exact where the index of a large space on the CPU is not.

        Raises:
            RejectedModelError: A byte of a file was changed, or there is no collection; the message names the file.
        """
        path = Path(path)
        return cls(path, Generation.open(path, Layout(shards, engine, indexes, check, device)), encoders)

    @contextmanager
    def batch(self, *, wait: float = 0.0) -> Iterator[Collection]:
        """Makes the changes in the block one commit; an error in it undoes them all.

        Args:
            wait: Seconds to wait for another process that is writing.

        Raises:
            UsageError: Another process is writing.
        """
        with self._turn:
            if self._depth:
                self._depth += 1
                try:
                    yield self
                finally:
                    self._depth -= 1
                return
            with locked(self.path / ".palyno" / "lock", wait=wait):
                self.refresh()
                self._generation.sweep()
                self._depth = 1
                try:
                    yield self
                    if self._dirty:
                        self._generation.commit(**self._commit_with)
                except BaseException:
                    self._reopen()
                    raise
                finally:
                    self._depth, self._dirty, self._commit_with = 0, False, {}
                    self._forget()

    def add(
        self,
        records: Sequence[Record],
        encoder: Encoder | str | None,
        *,
        vectors: Any = None,
        items: Sequence[Any] | None = None,
        modality: Literal["text", "image"] | None = None,
        known: Literal["refuse", "skip", "update"] = "refuse",
    ) -> np.ndarray:
        """Adds records with a vector each; a text that the encoder cannot read gets none and is found by its words.

        Args:
            records: What they are.
            encoder: What makes their vectors; its encoder_id where they are given; None adds records without vectors.
            vectors: (n, dim), of unit length; None encodes `items`.
            items: What to encode: texts or pictures; None takes the records' texts.
            modality: What the vectors were made from, where `encoder` is an encoder_id.
            known: What to do with a record whose key is in the collection: refuse all, skip it, or replace it.

        Returns:
            Their ids, int64, (n,): those that were there already for known ones.

        Raises:
            UsageError: Numbers of records, items and vectors differ, a vector is not finite or not of unit length, a
                key comes twice, or another process is writing.
        """
        records = list(records)
        if known not in ("refuse", "skip", "update"):
            raise UsageError(f"known: expected refuse, skip or update, got {known!r}")
        if encoder is None and (vectors is not None or items is not None or modality):
            raise UsageError("expected an encoder, or its encoder_id, with vectors or items, got None")
        if vectors is not None and len(vectors) != len(records):
            raise UsageError(f"expected a vector a record, got {len(vectors)} for {len(records)}")
        if items is not None and len(items) != len(records):
            raise UsageError(f"expected an item a record, got {len(items)} for {len(records)}")
        keys = [record.key for record in records if record.key is not None]
        if len(set(keys)) < len(keys):
            raise UsageError("expected each key once, got one twice; leave the second out")
        with self.batch():
            there = self._generation.records.by_key(keys) if known != "refuse" else {}
            ids = np.array([there.get(record.key or "", -1) for record in records], np.int64)
            old = ids >= 0
            take = np.arange(len(records)) if known == "update" else np.flatnonzero(~old)
            if not len(take):
                return ids
            made = None if encoder is None else self._vectors(records, take, encoder, vectors, items)
            self._change()
            replaced = take[old[take]]
            space = made and self._generation.space(made.encoder_id, made.dim, modality or made.modality)
            working = self._generation.records
            with working.all_or_nothing():
                self._replace(ids[replaced], [records[i] for i in replaced])
                ids[~old] = working.insert([records[i] for i in np.flatnonzero(~old)])
                if made and space and len(made.places):
                    space.add(working, ids[made.places], made.vectors, modality or made.modality)
            return ids

    def embed(
        self,
        ids: Sequence[int] | np.ndarray,
        vectors: Any,
        encoder: Encoder | str,
        *,
        modality: Literal["text", "image"] | None = None,
    ) -> None:
        """Gives records a vector in a space, in place of one that they have there.

        Args:
            ids: Records.
            vectors: (n, dim), of unit length.
            encoder: The encoder that made them, or its encoder_id.
            modality: What they were made from, where `encoder` is an encoder_id.

        Raises:
            UsageError: There is no such record, or the vectors are not what they should be.
        """
        wanted = as_ids(ids)
        if len(wanted) != len(vectors):
            raise UsageError(f"expected a vector an id, got {len(vectors)} for {len(wanted)}")
        name, dim, kind = _names(encoder, vectors, modality)
        array = as_vectors(vectors, dim)
        with self.batch():
            self._existing(wanted)
            if len(wanted):
                self._change()
                self._generation.space(name, dim, kind).add(self._generation.records, wanted, array, kind)

    def update(self, ids: Sequence[int] | np.ndarray, **changes: Any) -> None:
        """Changes fields of records, the same in all of them.

        A text that changes is encoded anew where its encoder is at hand, and else has no vector there any more.

        Args:
            ids: Records.
            **changes: Fields of `Record` with their new values.

        Raises:
            UsageError: There is no such record or field.
        """
        wanted = as_ids(ids)
        if unknown := sorted(set(changes) - {field.name for field in dataclasses.fields(Record)}):
            raise UsageError(f"expected fields of a record, got {', '.join(unknown)}")
        with self.batch():
            found = self._existing(wanted)
            if len(wanted) and changes:
                self._change()
                changed = [dataclasses.replace(found[i], **changes) for i in wanted.tolist()]
                with self._generation.records.all_or_nothing():
                    other = self._replace(wanted, changed)
                    texts = {int(i): record.text for i, record in zip(wanted, changed, strict=True) if record.text}
                    for space in self._generation.spaces.values():
                        self._encode_again(space, [i for i in other if i in texts], texts)

    def delete(self, ids: Sequence[int] | np.ndarray | None = None, *, where: Where = None) -> int:
        """Removes records and their vectors; their ids are not given again.

        Args:
            ids: Records; or
            where: A filter that they pass.

        Returns:
            How many there were.

        Raises:
            UsageError: Both or neither are given, or there is no such record.
        """
        if (ids is None) == (where is None):
            raise UsageError("delete: expected either ids or a filter, to be sure of what is meant")
        condition = parse(where)
        with self.batch():
            if ids is None:
                wanted = self._generation.records.ids(condition)
            else:
                wanted = as_ids(ids)
                self._existing(wanted)
            if len(wanted):
                self._change()
                self._generation.records.delete(wanted)
                for space in self._generation.spaces.values():
                    space.delete(wanted)
            return len(wanted)

    def compact(self) -> None:
        """Gives back the room of deleted records and replaced vectors, and makes the indexes anew."""
        with self.batch():
            self._change()
            for space in self._generation.spaces.values():
                space.compact(self.path, self._generation.records, self._generation.next)
            self._generation.records.vacuum()

    def rebuild(self, *, exact_below: int | None = None) -> None:
        """Makes the indexes anew from the vectors.

        Args:
            exact_below: From how many vectors on a space has one; None leaves it.
        """
        if exact_below is not None and exact_below < 1:
            raise UsageError(f"exact_below: expected 1 or more, got {exact_below}")
        with self.batch():
            self._change()
            self._commit_with = {"exact_below": exact_below, "rebuild": True}

    def refresh(self) -> bool:
        """Takes over what others wrote; whether there was anything."""
        with self._turn:
            if self._depth or Manifest.read(self.path) == self._generation.manifest:
                return False
            self._reopen(check=self._generation.layout.check)
            return True

    def _reopen(self, *, check: bool = False) -> None:
        # Opened before the old one is closed: where it is refused, what was open stays so.
        old, layout = self._generation, self._generation.layout
        self._generation = Generation.open(self.path, dataclasses.replace(layout, check=check))
        self._generation.layout = layout
        old.close()
        self._forget()

    def _change(self) -> None:
        self._generation.work()
        self._dirty = True
        self._forget()

    def _replace(self, ids: np.ndarray, records: Sequence[Record]) -> list[int]:
        """Puts records in the place of others; vectors of texts that are no longer the same go.

        Returns:
            The ids of the texts that are no longer the same.
        """
        working = self._generation.records
        before = working.get(ids)
        working.replace(ids.tolist(), records)
        changed = {
            int(i)
            for i, record in zip(ids, records, strict=True)
            if "text" in (record.kind, before[int(i)].kind)
            and (before[int(i)].kind, before[int(i)].text) != (record.kind, record.text)
        }
        for space in self._generation.spaces.values():
            # Where only pictures were encoded, what a record says does not matter.
            if changed and space.entry.modalities != ("image",):
                there = np.intersect1d(np.array(sorted(changed), np.int64), space.backend.ids())
                if len(there):
                    space.remove(working, there)
        return [int(i) for i, record in zip(ids, records, strict=True) if int(i) in changed and record.kind == "text"]

    def _encode_again(self, space: Space, ids: Sequence[int], texts: Mapping[int, str]) -> None:
        """Gives texts the vectors of what they say now, if the space's encoder is at hand."""
        for encoder in fitting_encoders("text", [space.entry.encoder_id], self._encoders):
            said = [texts[i] for i in ids]
            describes = encoder.describes(said) if hasattr(encoder, "describes") else [True] * len(said)
            known = [i for i, *fit in zip(ids, describes, readable(encoder, said), strict=True) if all(fit)]
            if known:
                vectors = encode(encoder, [texts[i] for i in known])
                space.add(self._generation.records, np.array(known, np.int64), vectors, "text")

    def _vectors(
        self, records: list[Record], take: np.ndarray, encoder: Encoder | str, vectors: Any, items: Sequence[Any] | None
    ) -> _Made:
        """The vectors of the records that are taken."""
        if vectors is not None:
            name, dim, kind = _names(encoder, vectors, None)
            return _Made(take, as_vectors(np.asarray(vectors)[take], dim), name, dim, kind)
        encoder = check_encoder(encoder)
        chosen = [records[i].text if items is None else items[i] for i in take]
        if items is None and (encoder.modality != "text" or not all(chosen)):
            raise UsageError("expected items or vectors: only texts that are not empty are encoded from the records")
        if encoder.modality == "text":
            fits = readable(encoder, chosen)
            take, chosen = take[fits], [text for text, fit in zip(chosen, fits, strict=True) if fit]
        return _Made(take, encode(encoder, chosen), encoder.encoder_id, encoder.dim, encoder.modality)


@dataclasses.dataclass(frozen=True, eq=False)
class _Made:
    """Vectors, (n, dim), of the records at some places of a list; their encoder_id, and what they were made from."""

    places: np.ndarray
    vectors: np.ndarray
    encoder_id: str
    dim: int
    modality: str | None


def _names(encoder: Encoder | str, vectors: Any, modality: str | None) -> tuple[str, int, str | None]:
    """The encoder_id, dim and modality of vectors that were made elsewhere."""
    if not isinstance(encoder, str):
        encoder = check_encoder(encoder)
        return encoder.encoder_id, encoder.dim, encoder.modality
    if not encoder:
        raise UsageError("encoder: expected the encoder_id of the vectors, got none")
    shape = np.shape(vectors)
    if len(shape) != 2:
        raise UsageError(f"vectors: expected shape (n, dim), got {shape}")
    return encoder, shape[1], modality
