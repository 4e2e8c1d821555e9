"""The vectors of one encoder in a collection: their file, and what searches them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from ...errors import RejectedModelError
from .backend import VectorBackend
from .ivf import Ivf, build_ivf, read_ivf
from .local import FaissBackend
from .manifest import SpaceEntry
from .records import Records
from .shards import RayShard, ShardedBackend, fill, make_shards
from .store import VectorStore

__all__ = ["Layout", "Space"]

# Lists are laid out anew when there are so many times the rows that they were made for; before that, rows that came
# since are put into them when they are this share of those inside.
_OUTGROWN, _EXTENDED = 2.0, 0.25


@dataclass(frozen=True)
class Layout:
    """Where vectors are searched.

    Attributes:
        shards: Parts that they are spread over.
        engine: `local`, or `ray`.
        indexes: Whether stored indexes are used; without them every vector is compared.
        check: Whether every byte is hashed when a file is opened.
        device: `auto`, `cpu` or `cuda`: what searches without a filter, see `gpu.py`.
    """

    shards: int = 1
    engine: str = "local"
    indexes: bool = True
    check: bool = True
    device: str = "auto"

    @property
    def whole(self) -> bool:
        """Whether a space is searched in this process as one."""
        return self.shards == 1 and self.engine == "local"


class Space:
    """One space of an open collection.

    Attributes:
        entry: What the manifest says of it.
        store: Its vectors.
        backend: What searches them.
    """

    def __init__(self, entry: SpaceEntry, store: VectorStore, backend: VectorBackend, layout: Layout) -> None:
        """Use `create` or `open`."""
        self.entry, self.store, self.backend, self.layout = entry, store, backend, layout
        self._changed = self._moved = False

    @classmethod
    def create(
        cls, folder: Path, number: int, generation: int, encoder_id: str, dim: int, modality: str | None, layout: Layout
    ) -> Space:
        """A new space without vectors."""
        name = _vectors_name(number, generation)
        store = VectorStore.create(folder / name, encoder_id, dim)
        modalities = (modality,) if modality else ()
        entry = SpaceEntry(number, encoder_id, modalities, dim, "cosine", name, 0, 0, ())
        return cls(entry, store, _backend(store, np.empty(0, np.int64), None, layout), layout)

    @classmethod
    def open(cls, folder: Path, entry: SpaceEntry, records: Records, layout: Layout) -> Space:
        """A space that a manifest names.

        Raises:
            RejectedModelError: A byte of its files was changed, or they do not fit the records.
        """
        path, check = folder / entry.file, layout.check
        store = VectorStore.open(path, entry.encoder_id, entry.dim, entry.rows, entry.blocks, check=check)
        ids = records.rows(entry.number, entry.rows)
        if (ids >= 0).sum() != entry.ntotal:
            raise RejectedModelError(
                f"{records.path}: expected {entry.ntotal} vectors of {entry.encoder_id}, got {(ids >= 0).sum()}"
            )
        ivf = None
        if entry.index and layout.indexes and layout.whole:
            ivf = read_ivf(folder, entry.index, entry.dim)
        return cls(entry, store, _backend(store, ids, ivf, layout), layout)

    @property
    def ivf(self) -> Ivf | None:
        """The lists in use."""
        return getattr(self.backend, "ivf", None)

    def add(self, records: Records, ids: np.ndarray, vectors: np.ndarray, modality: str | None) -> None:
        """Adds vectors of records, or puts them in the place of those they had."""
        first = self.store.append(vectors)
        try:
            records.link(self.entry.number, first, ids)
        except BaseException:
            self.store.cut(first)
            raise
        self.backend.upsert(ids, vectors)
        if modality and modality not in self.entry.modalities:
            self.entry = replace(self.entry, modalities=(*self.entry.modalities, modality))
        self._changed = True

    def delete(self, ids: np.ndarray) -> None:
        """Takes the vectors of records out of searches."""
        self.backend.delete(ids)
        self._changed = True

    def remove(self, records: Records, ids: np.ndarray) -> None:
        """Takes the vectors of records away, which stay without."""
        records.unlink(self.entry.number, ids)
        self.delete(ids)

    def compact(self, folder: Path, records: Records, generation: int) -> None:
        """Moves the rows in use to a new file."""
        ids = records.rows(self.entry.number, self.store.rows)
        rows = np.flatnonzero(ids >= 0)
        # The rows may lie in a file of this very generation, when their space is as new or they were moved before.
        while (folder / (name := _vectors_name(self.entry.number, generation))).exists():
            generation += 1
        store = VectorStore.create(folder / name, self.entry.encoder_id, self.entry.dim)
        for part in _parts(rows):
            store.append(self.store.array()[part])
        records.relink(self.entry.number, ids[rows])
        self.store, self.entry = store, replace(self.entry, file=name, index=None)
        self.backend.close()
        self.backend = _backend(store, ids[rows], None, self.layout)
        self._changed = self._moved = True

    def settle(self, folder: Path, records: Records, generation: int, exact_below: int, *, rebuild: bool) -> None:
        """Brings its files to the disk, with an index where it has become large; nothing names them yet."""
        self.store.sync()
        if self.layout.whole:
            self._settle_index(folder, records, generation, exact_below, rebuild or self._moved)
        self.entry = replace(self.entry, rows=self.store.rows, ntotal=len(self.backend), blocks=self.store.blocks)
        self._changed = self._moved = False

    def _settle_index(self, folder: Path, records: Records, generation: int, exact_below: int, rebuild: bool) -> None:
        if not (self._changed or rebuild):
            return
        rows, ivf = self.store.rows, self.ivf
        if len(self.backend) < exact_below:
            # Half as a margin, so that a collection at the border does not come and go.
            if ivf and (rebuild or len(self.backend) < exact_below / 2):
                self._use(records, None)
            if not self.ivf:
                self.entry = replace(self.entry, index=None)
            return
        if rebuild or ivf is None or rows >= _OUTGROWN * ivf.trained_rows:
            ivf = build_ivf(self.store.array())
        elif rows - ivf.rows >= _EXTENDED * ivf.rows:
            ivf.extend(self.store.array()[ivf.rows :])
        else:
            return
        index = ivf.write(folder / f"index-{self.entry.number:02d}-{generation:06d}.faiss")
        self.entry = replace(self.entry, index=index)
        self._use(records, ivf)

    def _use(self, records: Records, ivf: Ivf | None) -> None:
        self.backend = _backend(self.store, records.rows(self.entry.number, self.store.rows), ivf, self.layout)


def _vectors_name(number: int, generation: int) -> str:
    return f"vectors-{number:02d}-{generation:06d}.f32"


def _parts(rows: np.ndarray, size: int = 65_536) -> Sequence[np.ndarray]:
    return [rows[start : start + size] for start in range(0, len(rows), size)]


def _backend(store: VectorStore, ids: np.ndarray, ivf: Ivf | None, layout: Layout) -> VectorBackend:
    """What searches the rows of a store as the layout says."""
    if layout.whole:
        return FaissBackend(store.dim, ids, store.array(), ivf, layout.device)
    shards = make_shards(store.dim, layout.shards, layout.engine)
    rows = np.flatnonzero(ids >= 0)
    # Shards read the file; rows that were just added must be in it.
    store.flush()
    for i, shard in enumerate(shards):
        mine = rows[ids[rows] % len(shards) == i]
        if isinstance(shard, RayShard):
            shard.fill(store.path, store.rows, mine, ids[mine])
        else:
            fill(shard, store.path, store.dim, store.rows, mine, ids[mine])
    return ShardedBackend(shards)
