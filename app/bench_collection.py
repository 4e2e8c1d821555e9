"""How fast a large collection answers, and how much of the truth, beside comparing every vector.

The vectors are made, not real: taxa of unequal size, each around a centre of its own, spread along a few directions of
its own and a little along all others. So they cluster as encoders' vectors do, and have a low dimension inside a taxon;
how near a real encoder's come to this is not claimed. Queries are further draws of the same taxa.

    flat        FAISS's IndexFlatIP in memory, filters as its IDSelectorBitmap, given for free; no records
    collection  `Collection.search` as a user calls it: filter, search, exact scores, records from the disk

Both search in one process, one query at a time, in the same run.
"""

from __future__ import annotations

import os
import platform
import shutil
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import UsageError

__all__ = ["bench_collection"]

ENCODER = "drawn vectors"
K = 10

_TAXA, _DIRECTIONS, _SPREAD, _NOISE = 2000, 24, 0.5, 0.25
_CHUNK = 50_000


def bench_collection(
    vectors: int = 1_000_000,
    *,
    dim: int = 384,
    queries: int = 200,
    threads: int = 2,
    seed: int = 0,
    folder: Path | None = None,
    tell: Callable[[str], None] = lambda line: None,
) -> dict[str, Any]:
    """Builds a collection and times searches in it.

    Args:
        vectors: How many.
        dim: Numbers each.
        queries: Searches of each kind.
        threads: Of FAISS and BLAS.
        seed: Of the vectors, records and queries.
        folder: Where there is room for the collection, 2.5 kB a vector; None takes the system's folder for such.
        tell: Is told what is being done.

    Returns:
        The settings, times of building, and `searches`, a row each kind: milliseconds of flat search and of the
        collection (`p50`, `p90`, and `first_p50` for filters that were not asked before), how many times faster, and
        `recall_at_10`: the share of flat search's ten that the collection returns, equal scores counted as equal.

    Raises:
        UsageError: Fewer vectors than queries need.
    """
    if vectors < 1000 or queries < 1 or threads < 1:
        raise UsageError(f"expected 1,000 vectors or more, a query and a thread, got {vectors}, {queries}, {threads}")
    import faiss

    faiss.omp_set_num_threads(threads)
    place = Path(tempfile.mkdtemp(prefix="palyno-bench-", dir=folder))
    try:
        return _run(vectors, dim, queries, threads, seed, place, tell)
    finally:
        shutil.rmtree(place, ignore_errors=True)


class _Draws:
    """Vectors around the centres of taxa."""

    def __init__(self, dim: int, seed: int) -> None:
        rng = np.random.default_rng(seed)
        self.centres = _unit(rng.standard_normal((_TAXA, dim), np.float32))
        # Each taxon spreads along its own few of a common set of directions.
        self.directions = rng.standard_normal((_TAXA, _DIRECTIONS, dim), np.float32) / np.float32(np.sqrt(dim))
        weights = 1 / (50 + np.arange(_TAXA))
        self.shares = weights / weights.sum()
        self.dim = dim

    def draw(self, n: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Taxa, (n,), and vectors, (n, dim)."""
        taxa = np.sort(rng.choice(_TAXA, n, p=self.shares))
        made = self.centres[taxa] + rng.standard_normal((n, self.dim), np.float32) * np.float32(_NOISE / self.dim**0.5)
        along = rng.standard_normal((n, _DIRECTIONS), np.float32) * np.float32(_SPREAD / _DIRECTIONS**0.5)
        for taxon in np.unique(taxa):
            rows = taxa == taxon if n < 10_000 else slice(*np.searchsorted(taxa, [taxon, taxon + 1]))
            made[rows] += along[rows] @ self.directions[taxon]
        order = rng.permutation(n)
        return taxa[order], _unit(made)[order]


def _run(
    n: int, dim: int, queries: int, threads: int, seed: int, place: Path, tell: Callable[[str], None]
) -> dict[str, Any]:
    import faiss

    from ..retrieval.collection import Collection

    draws, rng = _Draws(dim, seed), np.random.default_rng(seed + 1)
    flat = faiss.IndexFlatIP(dim)
    times: dict[str, float] = {}
    columns = _build(place / "c", n, draws, rng, flat, times, tell)
    tell("opening it")
    began = time.perf_counter()
    with Collection.open(place / "c") as collection:
        times["open"] = time.perf_counter() - began
        size = sum(file.stat().st_size for file in (place / "c").glob("*.*") if file.is_file())
        info = collection.info()
        taxa, asked = draws.draw(queries, np.random.default_rng(seed + 2))
        rows = []
        for name, where in _filters(taxa).items():
            tell(f"searching: {name}")
            rows.append(_search(collection, flat, asked, columns, name, where))
    return {
        "bench": "collection",
        "vectors": n,
        "dim": dim,
        "k": K,
        "queries": queries,
        "threads": threads,
        "seed": seed,
        "drawn": {"taxa": _TAXA, "directions": _DIRECTIONS, "spread": _SPREAD, "noise": _NOISE},
        "machine": {
            "processor": _processor(),
            "cores": os.cpu_count(),
            "load_1min_at_end": round(os.getloadavg()[0], 2),
            "python": platform.python_version(),
            "numpy": np.__version__,
            "faiss": faiss.__version__,
        },
        "index": info["spaces"][0],
        "bytes": size,
        "seconds": {name: round(value, 2) for name, value in times.items()},
        "searches": rows,
    }


def _build(
    path: Path,
    n: int,
    draws: _Draws,
    rng: np.random.Generator,
    flat: Any,
    times: dict[str, float],
    tell: Callable[[str], None],
) -> dict[str, np.ndarray]:
    """Fills a collection, and a flat index with the same vectors; the columns that filters ask for."""
    from ..retrieval.collection import Collection, Record

    columns: dict[str, list[np.ndarray]] = {"taxon": [], "width": [], "slide": []}
    with Collection.create(path) as collection:
        began = time.perf_counter()
        drawing = 0.0
        with collection.batch():
            for start in range(0, n, _CHUNK):
                tell(f"adding {min(start + _CHUNK, n):,} of {n:,}")
                clock, count = time.perf_counter(), min(_CHUNK, n - start)
                taxa, vectors = draws.draw(count, rng)
                widths, slides = rng.uniform(10, 90, count).round(1), rng.integers(0, 200, count)
                for name, values in (("taxon", taxa), ("width", widths), ("slide", slides)):
                    columns[name].append(values)
                flat.add(vectors)
                drawing += time.perf_counter() - clock
                rows = zip(taxa.tolist(), widths.tolist(), slides.tolist(), strict=True)
                records = [
                    Record(kind="grain", taxon=f"taxon {t}", width_um=w, slide=f"slide {s:03d}") for t, w, s in rows
                ]
                collection.add(records, ENCODER, vectors=vectors, modality="image")
            times["add"] = time.perf_counter() - began - drawing
            tell("committing: hashing, and laying out the lists")
            clock = time.perf_counter()
        times["commit_with_index"] = time.perf_counter() - clock
        tell("committing one record more")
        clock = time.perf_counter()
        # A vector that the flat index does not have either is put back at once.
        last = collection.add([Record(kind="grain")], ENCODER, vectors=draws.centres[:1])
        times["commit_one_record"] = time.perf_counter() - clock
        collection.delete(last)
    return {name: np.concatenate(values) for name, values in columns.items()}


Filter = tuple[str | None, Callable[[dict[str, np.ndarray]], np.ndarray] | None]


def _filters(taxa: np.ndarray) -> dict[str, list[Filter]]:
    """For each kind of search its filter a query, as the language says it and as a mask of the rows."""
    none: Filter = (None, None)
    return {
        "no filter": [none] * len(taxa),
        "half the records, whatever they are": [("width_um > 50", lambda c: c["width"] > 50)] * len(taxa),
        "a fifth of the records, whatever they are": [("slide < 'slide 040'", lambda c: c["slide"] < 40)] * len(taxa),
        "a twentieth of the records": [("slide < 'slide 010'", lambda c: c["slide"] < 10)] * len(taxa),
        "the query's own taxon": [(f"taxon = 'taxon {taxon}'", partial(_is_taxon, taxon)) for taxon in taxa.tolist()],
    }


def _is_taxon(taxon: int, columns: dict[str, np.ndarray]) -> np.ndarray:
    return columns["taxon"] == taxon


def _search(
    collection: Any, flat: Any, asked: np.ndarray, columns: dict[str, np.ndarray], name: str, filters: Sequence[Filter]
) -> dict[str, Any]:
    """Times one kind of search both ways."""
    import faiss

    spent: dict[str, list[float]] = {"flat": [], "collection": [], "first": []}
    hits, wanted, passing = 0, 0, []
    bits: dict[str | None, Any] = {}
    for query, (where, mask) in zip(asked, filters, strict=True):
        if where not in bits:
            chosen = None if mask is None else mask(columns)
            passing.append(flat.ntotal if chosen is None else int(chosen.sum()))
            packed = None if chosen is None else np.packbits(chosen, bitorder="little")
            bits[where] = None if packed is None else faiss.SearchParameters(sel=faiss.IDSelectorBitmap(packed))
            if where is not None:
                spent["first"].append(_timed(collection.search, query, K, where, encoder=ENCODER)[0])
        seconds, (scores, _) = _timed(flat.search, query[None], K, params=bits[where])
        spent["flat"].append(seconds)
        seconds, found = _timed(collection.search, query, K, where, encoder=ENCODER)
        spent["collection"].append(seconds)
        true = scores[0][scores[0] > -2]
        # Scores of FAISS are rounded otherwise; what reaches the tenth's belongs to the ten.
        hits += sum(hit.score >= true[-1] - 1e-5 for hit in found) if len(true) else 0
        wanted += len(true)
    flat_ms, own_ms = (1000 * np.array(spent[one]) for one in ("flat", "collection"))
    row: dict[str, Any] = {
        "search": name,
        "passing": int(np.median(passing)),
        "flat_p50_ms": round(float(np.median(flat_ms)), 3),
        "flat_p90_ms": round(float(np.quantile(flat_ms, 0.9)), 3),
        "p50_ms": round(float(np.median(own_ms)), 3),
        "p90_ms": round(float(np.quantile(own_ms, 0.9)), 3),
        "times_faster": round(float(np.median(flat_ms) / np.median(own_ms)), 2),
        "recall_at_10": round(hits / wanted, 5),
        "how": found[0].reasons[-1],
    }
    if spent["first"]:
        row["first_p50_ms"] = round(1000 * float(np.median(spent["first"])), 3)
    return row


def _timed(call: Callable[..., Any], *arguments: Any, **options: Any) -> tuple[float, Any]:
    began = time.perf_counter()
    result = call(*arguments, **options)
    return time.perf_counter() - began, result


def _unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()
