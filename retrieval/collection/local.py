"""The vectors of a space on this machine: `FaissBackend`, exact, or with inverted lists and exact scores.

Rows are numbered as in the vector store: they are added at the end and never move. A removed row is masked, and goes
when the collection is compacted. Rows that the lists cover stay on the disk and are read for scoring; the rest is in
memory and always compared one by one, so what was just added is found as surely as ever.

How a search is done, and `Found.how` says so:

- a GPU has the vectors and nearly all of them pass: every one is compared there, see `gpu.py`
- no lists, or few rows pass the filter (less than a tenth): every one is compared
- else the lists, with the filter inside; what is found is checked against the filter and scored again
- fewer than k found: every one is compared after all
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from ...errors import UsageError
from .backend import Found
from .gpu import MARGIN, MOST, GpuFlat, gpu_for
from .ivf import Ivf, candidates_wanted
from .vectors import best, exact_scores

__all__ = ["FEW", "FaissBackend"]

# Below this share of the rows, lists filtered inside lose too many of the nearest: all that pass are compared.
FEW = 0.1

# FAISS scores in float32, in an order of its own. So that its rounding decides nothing, more rows than asked for are
# scored again, until none that was left out can be better; beyond this many rows all are.
_SPARE, _BY_PARTS = 32, 4096
_CHUNK = 8192


@dataclass(frozen=True, eq=False)
class Selection:
    """Rows that may be returned.

    Attributes:
        rows: Ascending, int64.
        total: Rows that there are.
        base: How many of these the lists cover.
    """

    rows: np.ndarray
    total: int
    base: int

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def complete(self) -> bool:
        """Whether no row is left out."""
        return len(self.rows) == self.total

    @cached_property
    def mask(self) -> np.ndarray:
        """Whether each row may be returned, bool, (total,)."""
        mask = np.zeros(self.total, bool)
        mask[self.rows] = True
        return mask

    @cached_property
    def bits(self) -> tuple[np.ndarray, np.ndarray]:
        """The mask of the rows in lists and of the rest, a bit each, lowest first."""
        base, rest = self.mask[: self.base], self.mask[self.base :]
        return np.packbits(base, bitorder="little"), np.packbits(rest, bitorder="little")

    @cached_property
    def split(self) -> int:
        """How many of `rows` the lists cover."""
        return int(np.searchsorted(self.rows, self.base))


class FaissBackend:
    """Vectors in FAISS, in memory and, where there are lists, on the disk; a `VectorBackend`.

    Args:
        dim: Length of a vector.
        ids: The record of each row, -1 where it is no longer used; None for an empty one.
        vectors: All rows, (n, dim) float32; those that the lists cover are used as they are given, which may be from
            the disk.
        ivf: Inverted lists of the first rows.
        device: `cpu`; `cuda` to search on a GPU what has no filter; `auto` to do so where there is one.
    """

    def __init__(
        self,
        dim: int,
        ids: np.ndarray | None = None,
        vectors: np.ndarray | None = None,
        ivf: Ivf | None = None,
        device: str = "cpu",
    ) -> None:
        import faiss

        self._dim, self.ivf = dim, ivf
        base = ivf.rows if ivf else 0
        empty = np.empty((0, dim), np.float32)
        self._base = empty if vectors is None else vectors[:base]
        self._tail = faiss.IndexFlatIP(dim)
        self._ids = np.empty(0, np.int64) if ids is None else np.array(ids, np.int64)
        if vectors is not None:
            for start in range(base, len(vectors), _CHUNK):
                self._tail.add(np.ascontiguousarray(vectors[start : start + _CHUNK], np.float32))
        self._device = device
        self._gpu: GpuFlat | None = None
        self._forget()
        self._load_gpu()

    @property
    def dim(self) -> int:
        """Length of a vector."""
        return self._dim

    def __len__(self) -> int:
        return len(self._all)

    def ids(self) -> np.ndarray:
        """The ids that have a vector, ascending."""
        return self._order[0]

    def upsert(self, ids: np.ndarray, vectors: np.ndarray) -> None:
        """Adds rows at the end; older ones of the same ids are masked."""
        self.delete(ids)
        self._tail.add(np.ascontiguousarray(vectors, np.float32))
        self._ids = np.concatenate([self._ids, np.asarray(ids, np.int64)])
        self._forget()
        if self._gpu is None:
            self._load_gpu()
        else:
            self._gpu.add(vectors)

    def delete(self, ids: np.ndarray) -> None:
        """Masks the rows of ids."""
        rows = self._rows(ids)
        self._ids[rows[rows >= 0]] = -1
        self._forget()

    def select(self, ids: np.ndarray) -> Selection:
        """The rows of ids."""
        rows = self._rows(ids)
        return Selection(np.sort(rows[rows >= 0]), len(self._ids), len(self._base))

    def vectors(self, ids: np.ndarray) -> np.ndarray:
        """The vectors of ids, (n, dim)."""
        rows = self._rows(ids)
        if len(rows) and rows.min() < 0:
            raise UsageError(f"expected ids that have a vector in this space, got {np.asarray(ids)[rows < 0][0]}")
        return self._gather(rows)

    def search(
        self, queries: np.ndarray, k: int, *, within: Selection | None = None, exact: bool = False
    ) -> list[Found]:
        """The nearest to each query; see `VectorBackend`."""
        selection = self._all if within is None else within
        if selection.total != len(self._ids):
            raise UsageError(
                "within: expected a selection of the vectors as they are now, got one from before a change"
            )
        return [self._one(query, min(k, len(selection)), selection, exact) for query in queries]

    def stats(self) -> Mapping[str, Any]:
        """What it holds and how it searches."""
        told: dict[str, Any] = {"index": "Flat", "vectors": len(self), "rows": len(self._ids), "exact": True}
        if self.ivf:
            told |= {"index": self.ivf.factory, "exact": False, "unindexed": int(self._tail.ntotal)}
            told |= {"nprobe": self.ivf.nprobe, "recall": round(self.ivf.recall, 4)}
            told |= {"imbalance": round(self.ivf.imbalance, 3)}
        if self._gpu is not None:
            told |= {"exact": True, "device": "cuda"}
        return told

    def verify(self) -> list[str]:
        """Whether every row has unit length, and every list the rows it should."""
        faults = []
        for start in range(0, len(self._all), _CHUNK):
            rows = self._all.rows[start : start + _CHUNK]
            lengths = np.linalg.norm(self._gather(rows).astype(np.float64), axis=1)
            wrong = ~(np.abs(lengths - 1) < 1e-2)
            faults += [
                f"the vector of record {i} has the length {n:.4g}"
                for i, n in zip(self._ids[rows[wrong]].tolist(), lengths[wrong].tolist(), strict=True)
            ]
        return faults

    def close(self) -> None:
        """Gives back the memory of a GPU."""
        self._gpu = None

    def _one(self, query: np.ndarray, k: int, selection: Selection, exact: bool) -> Found:
        if k <= 0:
            return Found(np.empty(0, np.int64), np.empty(0, np.float32), "nothing to compare", True)
        if self._gpu is not None:
            found = self._by_gpu(self._gpu, query, k, selection)
            if found is not None:
                return found
        if self.ivf and not exact and len(selection) >= FEW * len(self._all):
            found = self._by_lists(self.ivf, query, k, selection)
            if found is not None:
                return found
        return self._one_by_one(query, k, selection)

    def _load_gpu(self) -> None:
        self._gpu = gpu_for(self._device, len(self._ids), self._dim)
        if self._gpu is not None:
            self._gpu.add(self._base)
            self._gpu.add(self._rest)

    def _by_gpu(self, gpu: GpuFlat, query: np.ndarray, k: int, selection: Selection) -> Found | None:
        """The nearest for certain, found by a GPU; None where its rounding, or its limit, could have hidden one."""
        # It knows no filter: what does not pass is found, too, and taken out.
        masked = len(self._ids) - len(selection)
        if k + _SPARE + masked > MOST:
            return None
        rows, floor = gpu.top(query, k + _SPARE + masked)
        rows = rows[selection.mask[rows]]
        scores, ids = best(exact_scores(self._gather(rows), query), self._ids[rows], k)
        if len(scores) < k or scores[-1] <= floor + MARGIN:
            return None
        return Found(ids, scores, f"all {len(selection):,} compared on a GPU", exact=True)

    def _by_lists(self, ivf: Ivf, query: np.ndarray, k: int, selection: Selection) -> Found | None:
        """The nearest that the lists find, with exact scores; None where they find fewer than k."""
        wanted = candidates_wanted(k)
        # With fewer rows to find in each list, as many more lists are read.
        nprobe = min(ivf.nlist, round(ivf.nprobe * len(self._ids) / len(selection)))
        rows = ivf.search(query[None], wanted, None if selection.complete else selection.bits[0], nprobe)
        rest, _ = self._scan_rest(query, wanted, selection)
        rows = np.concatenate([rows, rest])
        rows = rows[selection.mask[rows]]
        if len(rows) < k:
            return None
        scores, ids = best(exact_scores(self._gather(rows), query), self._ids[rows], k)
        how = f"{nprobe} of {ivf.nlist:,} lists of {ivf.factory} read, {len(rows):,} compared"
        return Found(ids, scores, how, exact=False)

    def _one_by_one(self, query: np.ndarray, k: int, selection: Selection) -> Found:
        """The nearest for certain."""
        wanted, slack = k + _SPARE, max(1e-6, self._dim * 2.0**-23)
        while True:
            if wanted > _BY_PARTS or wanted >= len(selection):
                scores, ids = self._score_all(query, k, selection)
                break
            base, base_floor = self._scan_base(query, wanted, selection)
            rest, rest_floor = self._scan_rest(query, wanted, selection)
            rows = np.concatenate([base, rest])
            scores, ids = best(exact_scores(self._gather(rows), query), self._ids[rows], k)
            # Rows that were left out have at most the floor, give or take FAISS's rounding.
            if len(scores) == k and scores[-1] > max(base_floor, rest_floor) + slack:
                break
            wanted *= 4
        return Found(ids, scores, f"all {len(selection):,} compared", exact=True)

    def _score_all(self, query: np.ndarray, k: int, selection: Selection) -> tuple[np.ndarray, np.ndarray]:
        scores, ids = np.empty(0, np.float32), np.empty(0, np.int64)
        for start in range(0, len(selection), _CHUNK):
            rows = selection.rows[start : start + _CHUNK]
            more = exact_scores(self._gather(rows), query)
            scores, ids = best(np.concatenate([scores, more]), np.concatenate([ids, self._ids[rows]]), k)
        return scores, ids

    def _scan_base(self, query: np.ndarray, wanted: int, selection: Selection) -> tuple[np.ndarray, float]:
        rows = selection.rows[: selection.split]
        bits = None if selection.complete else selection.bits[0]
        return _scan(self._base, query, wanted, rows, bits)

    def _scan_rest(self, query: np.ndarray, wanted: int, selection: Selection) -> tuple[np.ndarray, float]:
        rows = selection.rows[selection.split :] - selection.base
        bits = None if selection.complete else selection.bits[1]
        found, floor = _scan(self._rest, query, wanted, rows, bits)
        return found + selection.base, floor

    @property
    def _rest(self) -> np.ndarray:
        """The rows in memory, (n, dim), as FAISS holds them; good until rows are added."""
        import faiss

        n = self._tail.ntotal
        if n == 0:
            return np.empty((0, self._dim), np.float32)
        return faiss.rev_swig_ptr(self._tail.get_xb(), n * self._dim).reshape(n, self._dim)

    def _gather(self, rows: np.ndarray) -> np.ndarray:
        """Rows as an array of their own."""
        base = len(self._base)
        if base == 0:
            return self._rest[rows]
        out = np.empty((len(rows), self._dim), np.float32)
        inside = rows < base
        out[inside] = self._base[rows[inside]]
        out[~inside] = self._rest[rows[~inside] - base]
        return out

    def _forget(self) -> None:
        """Drops what was derived from the rows."""
        for name in ("_all", "_order"):
            self.__dict__.pop(name, None)

    @cached_property
    def _all(self) -> Selection:
        return Selection(np.flatnonzero(self._ids >= 0), len(self._ids), len(self._base))

    @cached_property
    def _order(self) -> tuple[np.ndarray, np.ndarray]:
        """Ids in use, ascending, and the row of each."""
        rows = self._all.rows
        order = np.argsort(self._ids[rows], kind="stable")
        return self._ids[rows][order], rows[order]

    def _rows(self, ids: np.ndarray) -> np.ndarray:
        """The row of each id, -1 where it has none."""
        known, rows = self._order
        ids = np.asarray(ids, np.int64)
        if not len(known):
            return np.full(len(ids), -1, np.int64)
        at = np.minimum(np.searchsorted(known, ids), len(known) - 1)
        return np.where(known[at] == ids, rows[at], -1)


def _scan(
    vectors: np.ndarray, query: np.ndarray, wanted: int, rows: np.ndarray, bits: np.ndarray | None
) -> tuple[np.ndarray, float]:
    """The rows with the highest inner products as FAISS computes them, without an index of its own.

    Args:
        vectors: (n, d) float32, C-contiguous.
        query: (d,) float32.
        wanted: At most so many.
        rows: The rows to compare, ascending.
        bits: The same as a mask, a bit each; None for all of them.

    Returns:
        Rows, and the lowest score among them; minus infinity where none was left out.
    """
    import faiss

    if not len(rows):
        return np.empty(0, np.int64), -np.inf
    n, dim = vectors.shape
    k = min(wanted, len(rows))
    query = np.ascontiguousarray(query, np.float32)
    scores, found = np.empty(k, np.float32), np.empty(k, np.int64)
    pointers = faiss.swig_ptr(query), faiss.swig_ptr(vectors)
    out = faiss.swig_ptr(scores), faiss.swig_ptr(found)
    if bits is None:
        faiss.knn_inner_product(*pointers, dim, 1, n, k, *out)
    elif len(rows) < FEW * n:
        rows = np.ascontiguousarray(rows, np.int64)
        faiss.knn_inner_products_by_idx(*pointers, faiss.swig_ptr(rows), dim, 1, n, len(rows), k, *out)
    else:
        faiss.knn_inner_product(*pointers, dim, 1, n, k, *out, faiss.IDSelectorBitmap(bits))
    found = found[found >= 0]
    return found, float(scores[: len(found)].min()) if 0 < len(found) < len(rows) else -np.inf
