"""A GPU only proposes: its answers are those of the CPU. A flat index with rounded scores takes its place here."""

from __future__ import annotations

import faiss
import numpy as np
import pytest
from palyno.errors import UsageError
from palyno.retrieval.collection import Collection, FaissBackend, gpu, local
from palyno.retrieval.collection.vectors import best, exact_scores


class Rounded:
    """What `GpuFlat` does, on the CPU, with scores that keep ten bits."""

    calls = 0

    def __init__(self, dim):
        self.index = faiss.IndexFlatIP(dim)

    def add(self, vectors):
        self.index.add(np.ascontiguousarray(vectors))

    def top(self, query, wanted):
        type(self).calls += 1
        vectors = faiss.rev_swig_ptr(self.index.get_xb(), self.index.ntotal * self.index.d).reshape(-1, self.index.d)
        scores = np.round(vectors @ query * 512) / 512
        rows = np.argsort(-scores, kind="stable")[: min(wanted, gpu.MOST)]
        return rows, scores[rows].min() if len(rows) < len(scores) else -np.inf


@pytest.fixture
def rounded(monkeypatch):
    monkeypatch.setattr(local, "gpu_for", lambda device, rows, dim: Rounded(dim) if device == "cuda" else None)
    monkeypatch.setattr(Rounded, "calls", 0)
    return Rounded


def test_rounding_on_a_gpu_changes_no_answer(rounded, unit):
    vectors = unit(3000, 24)
    vectors[100:150] = vectors[7]
    # Neighbours that ten bits cannot tell apart.
    near = vectors[7] + 1e-4 * unit(40, 24, seed=2)
    vectors[200:240] = near / np.linalg.norm(near, axis=1, keepdims=True)
    ids, backend = np.arange(3000) * 2, FaissBackend(24, device="cuda")
    backend.upsert(ids[:2000], vectors[:2000])
    backend.upsert(ids[2000:], vectors[2000:])
    backend.delete(ids[::5])
    kept = np.arange(3000) % 5 != 0
    told = set()
    for i in (1, 7, 300, 2999):
        for k in (1, 10, 60, 2900):
            found = backend.search(vectors[i : i + 1], k)[0]
            scores, wanted = best(exact_scores(vectors[kept], vectors[i]), ids[kept], k)
            assert np.array_equal(found.ids, wanted) and np.array_equal(found.scores, scores) and found.exact
            told.add(found.how)
    assert told == {"all 2,400 compared on a GPU", "all 2,400 compared"}


def test_a_filter_reaches_the_gpu_only_where_it_leaves_out_a_few(rounded, unit):
    vectors, queries = unit(5000, 8), unit(5, 8, seed=1)
    backend, alone = (FaissBackend(8, np.arange(5000), vectors, device=device) for device in ("cuda", "cpu"))
    for step, calls in ((2, 0), (5, 5), (1, 10)):
        ids = np.flatnonzero(np.arange(5000) % step) if step == 5 else np.arange(0, 5000, step)
        found, wanted = (one.search(queries, 5, within=one.select(ids)) for one in (backend, alone))
        assert rounded.calls == calls and backend.stats()["device"] == "cuda"
        for first, second in zip(found, wanted, strict=True):
            assert np.array_equal(first.ids, second.ids) and np.array_equal(first.scores, second.scores)


def test_a_device_that_is_not_there_is_refused(filled):
    with pytest.raises(UsageError, match="auto, cpu, cuda"):
        Collection.open(filled, device="tpu")
    if not faiss.get_num_gpus():
        with pytest.raises(UsageError, match="found none; use cpu"):
            Collection.open(filled, device="cuda")
    Collection.open(filled, device="auto").close()


@pytest.mark.gpu
def test_a_gpu_gives_the_answers_of_the_cpu(tmp_path, unit):
    vectors = unit(60_000, 384)
    vectors[500:520] = vectors[3]
    on_cpu, on_gpu = (FaissBackend(384, np.arange(60_000), vectors, device=device) for device in ("cpu", "cuda"))
    for backend in (on_cpu, on_gpu):
        backend.delete(np.arange(0, 100, 7))
    said = set()
    for first, second in zip(on_cpu.search(vectors[:50], 10), on_gpu.search(vectors[:50], 10), strict=True):
        assert np.array_equal(first.ids, second.ids) and np.array_equal(first.scores, second.scores)
        said.add(second.how)
    assert any("on a GPU" in how for how in said)
