"""The index of a large space: FAISS's inverted lists (`IVF{2 sqrt n},SQ8`), laid out, written, and read with distrust.

Vectors are put in the list of their nearest centre and kept there as one byte a dimension; a search reads the lists of
the centres nearest to the query (Jegou, Douze, Schmid 2011, doi 10.1109/TPAMI.2010.57), and what it finds is scored
again with the stored vectors. The number of lists read is chosen when the lists are laid out: twice the fewest, in
powers of two, that find 99.5 % of the ten nearest of a sample. The sample is of stored vectors, and without a filter;
queries from elsewhere, and filters, which leave the nearest further away, need more. FAISS's ids are rows of the vector
store, which never shift.
"""

from __future__ import annotations

import hashlib
import math
from pathlib import Path
from typing import Any

import numpy as np

from ...data.atomic import write_bytes
from ...errors import RejectedModelError
from .manifest import FileEntry, IndexEntry
from .vectors import exact_scores

__all__ = ["Ivf", "build_ivf", "candidates_wanted", "read_ivf"]

SEED = 20_260_501
WANTED_RECALL = 0.995

# Points a list that the clustering sees, at most, and how often it moves its centres. Laying out takes time with the
# square of the lists; half of FAISS's usual number of them is quick enough to search and four times quicker to lay out.
_POINTS, _ROUNDS = 48, 8
_SAMPLE, _NEAREST = 256, 10
# Lists read, for each that the sample needs.
_MORE = 2
_CHUNK = 1 << 16


class Ivf:
    """A trained index of rows 0 to n of a space.

    Attributes:
        index: FAISS's.
        rows: Rows that it covers.
        trained_rows: Rows of the space when its lists were laid out.
        nprobe: Lists that a search reads.
        recall: Share of the ten nearest that this found in a sample.
    """

    def __init__(self, index: Any, *, trained_rows: int, nprobe: int = 1, recall: float = math.nan) -> None:
        self.index, self.trained_rows, self.nprobe, self.recall = index, trained_rows, nprobe, recall

    @property
    def rows(self) -> int:
        """Rows that it covers."""
        return int(self.index.ntotal)

    @property
    def nlist(self) -> int:
        """Lists."""
        return int(self.index.nlist)

    @property
    def factory(self) -> str:
        """FAISS's name of it."""
        return f"IVF{self.nlist},SQ8"

    @property
    def imbalance(self) -> float:
        """1 where all lists are equally long; how many times longer a search takes than then."""
        return float(self.index.invlists.imbalance_factor())

    def search(self, query: np.ndarray, k: int, bits: np.ndarray | None, nprobe: int) -> np.ndarray:
        """Rows that may be among the nearest.

        Args:
            query: (1, d).
            k: Rows wanted.
            bits: Which rows may be returned, a bit each, lowest first; None for all.
            nprobe: Lists to read.

        Returns:
            At most k rows, int64.
        """
        import faiss

        selector = {} if bits is None else {"sel": faiss.IDSelectorBitmap(bits)}
        asked = faiss.SearchParametersIVF(nprobe=min(nprobe, self.nlist), **selector)
        rows = self.index.search(query, min(k, self.rows), params=asked)[1][0]
        return rows[rows >= 0]

    def extend(self, vectors: np.ndarray) -> None:
        """Puts further rows into the lists as they are."""
        for start in range(0, len(vectors), _CHUNK):
            self.index.add(np.ascontiguousarray(vectors[start : start + _CHUNK], np.float32))

    def calibrate(self, vectors: np.ndarray) -> None:
        """Chooses the number of lists to read, with vectors of the index as queries.

        Args:
            vectors: All rows that it covers.
        """
        chosen = np.random.default_rng(SEED).choice(self.rows, min(_SAMPLE, self.rows), replace=False)
        chosen.sort()
        queries = np.ascontiguousarray(vectors[chosen], np.float32)
        near = _nearest(queries, vectors, min(_NEAREST + 1, self.rows))
        self.nprobe = 1
        while self.nprobe < self.nlist and self._recall(queries, near, vectors) < WANTED_RECALL:
            self.nprobe = min(2 * self.nprobe, self.nlist)
        self.nprobe = min(_MORE * self.nprobe, self.nlist)
        self.recall = self._recall(queries, near, vectors)

    def _recall(self, queries: np.ndarray, near: np.ndarray, vectors: np.ndarray) -> float:
        """Share of the nearest rows that a search with rescoring finds; equally near ones count as found."""
        k, found = near.shape[1], 0
        for query, scores in zip(queries, near, strict=True):
            rows = self.search(query[None], candidates_wanted(k), None, self.nprobe)
            reached = np.sort(exact_scores(vectors[rows], query))[::-1][:k]
            # The first is the query itself.
            found += int((reached[1:] >= scores[-1] - 1e-6).sum())
        return found / max(1, len(near) * (k - 1))

    def write(self, path: Path) -> IndexEntry:
        """Writes it to a file that is there whole or not at all; what the manifest says of it."""
        import faiss

        data = faiss.serialize_index(self.index).tobytes()
        write_bytes(path, data)
        return IndexEntry(
            file=FileEntry(path.name, len(data), hashlib.sha256(data).hexdigest()),
            factory=self.factory,
            rows=self.rows,
            trained_rows=self.trained_rows,
            nlist=self.nlist,
            nprobe=self.nprobe,
            recall=round(self.recall, 5),
            seed=SEED,
            faiss=faiss.__version__,
        )


def candidates_wanted(k: int) -> int:
    """How many candidates are scored again with the stored vectors to return k."""
    return max(10 * k, 100)


def build_ivf(vectors: np.ndarray) -> Ivf:
    """Lays out lists for all rows of a space and fills them.

    Args:
        vectors: (n, d) float32, of unit length; may lie on the disk.
    """
    import faiss

    n, dim = vectors.shape
    nlist = max(1, min(int(2 * math.sqrt(n)), n))
    index = faiss.index_factory(dim, f"IVF{nlist},SQ8", faiss.METRIC_INNER_PRODUCT)
    index.cp.seed, index.cp.niter = SEED, _ROUNDS
    # FAISS prints a warning where a list has fewer points than it likes; small collections have.
    index.cp.min_points_per_centroid, index.cp.max_points_per_centroid = 1, _POINTS
    chosen = np.random.default_rng(SEED).choice(n, min(n, _POINTS * nlist), replace=False)
    chosen.sort()
    index.train(np.ascontiguousarray(vectors[chosen], np.float32))
    made = Ivf(index, trained_rows=n)
    made.extend(vectors)
    made.calibrate(vectors)
    return made


def read_ivf(folder: Path, entry: IndexEntry, dim: int) -> Ivf:
    """Reads an index that a manifest names.

    The bytes are hashed before FAISS sees them, FAISS may not allocate more than they could fill, and what comes out is
    compared with the manifest down to the rows in its lists.

    Raises:
        RejectedModelError: A byte was changed, or it is not the index that the manifest describes.
    """
    import faiss

    path = folder / entry.file.file
    try:
        data = path.read_bytes() if path.stat().st_size == entry.file.bytes else b""
    except OSError as error:
        raise RejectedModelError(f"{path}: cannot be read: {error.strerror or error}") from error
    if len(data) != entry.file.bytes or hashlib.sha256(data).hexdigest() != entry.file.sha256:
        raise RejectedModelError(
            f"{path}: expected {entry.file.bytes:,} bytes with the sha256 {entry.file.sha256[:16]}..., got others: the "
            "file was changed; palyno index rebuild makes it anew from the vectors"
        )
    before = faiss.get_deserialization_vector_byte_limit(), faiss.get_deserialization_loop_limit()
    faiss.set_deserialization_vector_byte_limit(max(1 << 20, 2 * len(data)))
    faiss.set_deserialization_loop_limit(max(1 << 20, len(data)))
    try:
        index = faiss.deserialize_index(np.frombuffer(data, np.uint8))
    except (RuntimeError, MemoryError, AssertionError) as error:
        raise _other(path, "a file that FAISS reads", " ".join(str(error).split())[:200]) from error
    finally:
        faiss.set_deserialization_vector_byte_limit(before[0])
        faiss.set_deserialization_loop_limit(before[1])
    _compare(path, index, entry, dim)
    return Ivf(index, trained_rows=entry.trained_rows, nprobe=entry.nprobe, recall=entry.recall)


def _compare(path: Path, index: Any, entry: IndexEntry, dim: int) -> None:
    """Takes only the one kind of index that is written here, with exactly the rows of the manifest."""
    import faiss

    if type(index) is not faiss.IndexIVFScalarQuantizer:
        raise _other(path, "IndexIVFScalarQuantizer", type(index).__name__)
    centres = faiss.downcast_index(index.quantizer)
    if type(centres) is not faiss.IndexFlatIP and type(centres) is not faiss.IndexFlat:
        raise _other(path, "centres in an IndexFlat", type(centres).__name__)
    said = {
        "d": (dim, index.d),
        "metric": (faiss.METRIC_INNER_PRODUCT, index.metric_type),
        "lists": (entry.nlist, index.nlist),
        "centres": (entry.nlist, centres.ntotal),
        "d of the centres": (dim, centres.d),
        "ntotal": (entry.rows, index.ntotal),
        "bytes a vector": (dim, index.code_size),
    }
    for name, (expected, got) in said.items():
        if expected != got:
            raise _other(path, f"{name} {expected}", str(got))
    lists = index.invlists
    if lists.nlist != entry.nlist or lists.code_size != dim:
        raise _other(path, f"{entry.nlist} lists of {dim} bytes a vector", f"{lists.nlist} of {lists.code_size}")
    sizes = [lists.list_size(i) for i in range(entry.nlist)]
    if sum(sizes) != entry.rows:
        raise _other(path, f"{entry.rows} rows in the lists", str(sum(sizes)))
    seen = np.zeros(entry.rows, bool)
    for i, size in enumerate(sizes):
        if size:
            rows = faiss.rev_swig_ptr(lists.get_ids(i), size)
            if rows.min() < 0 or rows.max() >= entry.rows:
                raise _other(path, f"rows below {entry.rows}", f"{rows.min()} to {rows.max()}")
            seen[rows] = True
    if not seen.all():
        raise _other(path, "each row once", f"{int((~seen).sum())} rows missing")


def _other(path: Path, expected: str, got: str) -> RejectedModelError:
    return RejectedModelError(
        f"{path}: expected {expected}, got {got}; palyno index rebuild makes it anew from the vectors"
    )


def _nearest(queries: np.ndarray, vectors: np.ndarray, k: int) -> np.ndarray:
    """The k highest scores of each query over all vectors, (n, k), highest first."""
    top = np.full((len(queries), k), -2, np.float32)
    for start in range(0, len(vectors), _CHUNK):
        scores = queries @ np.asarray(vectors[start : start + _CHUNK]).T
        both = np.concatenate([top, scores], 1)
        top = np.partition(both, both.shape[1] - k, axis=1)[:, -k:]
    return np.sort(top, axis=1)[:, ::-1]
