"""Every backend answers alike: the one with FAISS, the one with lists, and shards of them, here and in Ray."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from palyno.errors import PalynoError, UsageError
from palyno.retrieval.collection import Collection, FaissBackend, Found, ShardedBackend, VectorBackend, merge
from palyno.retrieval.collection.ivf import build_ivf
from palyno.retrieval.collection.shards import make_shards
from palyno.retrieval.collection.vectors import best, exact_scores

N, DIM = 400, 12


@pytest.fixture(scope="module")
def ray_shards():
    ray = pytest.importorskip("ray")
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, object_store_memory=100 * 2**20)
    yield lambda: ShardedBackend(make_shards(DIM, 2, "ray"))
    ray.shutdown()


@pytest.fixture(scope="module")
def data(unit):
    """Unit vectors with many exact doubles, and ids that are neither dense nor in order."""
    vectors = unit(N, DIM)
    vectors[100:160] = vectors[5]
    return np.random.default_rng(3).permutation(np.arange(N) * 7 + 3), vectors


def made(kind, request):
    if kind == "ray":
        return request.getfixturevalue("ray_shards")()
    if kind == "lists":
        vectors = request.getfixturevalue("data")[1]
        masked = np.full(N // 2, -1)
        # Lists over rows that are no longer used, and all that is used behind them.
        return FaissBackend(DIM, masked, vectors[: N // 2], build_ivf(vectors[: N // 2]))
    if kind == "sharded":
        return ShardedBackend([FaissBackend(DIM) for _ in range(3)])
    return FaissBackend(DIM)


@pytest.fixture(params=["local", "lists", "sharded", "ray"])
def backend(request, data):
    backend = made(request.param, request)
    assert isinstance(backend, VectorBackend) and len(backend) == 0 and backend.dim == DIM
    backend.upsert(*data)
    yield backend
    backend.close()


def brute(ids, vectors, query, k):
    return best(exact_scores(vectors, query), ids, k)


def same(found, expected):
    scores, ids = expected
    assert found.ids.dtype == np.int64 and found.scores.dtype == np.float32
    assert np.array_equal(found.ids, ids)
    assert np.array_equal(found.scores, scores)


@pytest.mark.parametrize("k", [0, 1, 10, 61, N, N + 5])
def test_finds_the_nearest_in_order_of_score_and_id(backend, data, k):
    ids, vectors = data
    queries = vectors[[5, 200, 399]]
    for query, found in zip(queries, backend.search(queries, k, exact=True), strict=True):
        same(found, brute(ids, vectors, query, k))
        assert found.exact


@pytest.mark.parametrize("share", [0, 1, 3, 39, 60, 200, 399, 400])
def test_a_filter_is_exact_at_any_share(backend, data, share):
    ids, vectors = data
    chosen = np.random.default_rng(share).permutation(N)[:share]
    within = backend.select(np.concatenate([ids[chosen], [10**12, 1]]))
    for k in (1, 10, 500):
        found = backend.search(vectors[5:6], k, within=within, exact=True)[0]
        same(found, brute(ids[chosen], vectors[chosen], vectors[5], k))


def test_vectors_are_replaced_and_deleted(backend, data, unit):
    ids, vectors = data
    other = unit(50, DIM, seed=8)
    backend.upsert(ids[50:100], other)
    backend.delete(np.concatenate([ids[:50], [10**12]]))
    now = np.concatenate([other, vectors[100:]])
    assert len(backend) == N - 50
    assert np.array_equal(backend.ids(), np.sort(ids[50:]))
    assert np.array_equal(backend.vectors(ids[50:]), now)
    same(backend.search(vectors[:1], 20, exact=True)[0], brute(ids[50:], now, vectors[0], 20))
    assert backend.verify() == []
    with pytest.raises(UsageError, match="ids that have a vector"):
        backend.vectors(ids[:1])
    backend.delete(ids)
    assert [len(found.ids) for found in backend.search(vectors[:2], 5)] == [0, 0]


def test_says_how_it_searches(backend):
    stats = backend.stats()
    assert stats["vectors"] == N and {"index", "exact"} <= set(stats)
    assert "compared" in backend.search(np.eye(DIM, dtype=np.float32)[:1], 3, exact=True)[0].how


@given(st.lists(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 50)), max_size=9), max_size=4), st.integers(0, 12))
def test_merging_the_nearest_of_parts_gives_the_nearest_of_the_whole(parts, k):
    # An id lies in one part; scores are few, so that many are equal.
    seen, whole, answers = set(), [], []
    for part in parts:
        mine = [(score, i) for score, i in {i: (score, i) for score, i in part}.values() if i not in seen]
        seen |= {i for _, i in mine}
        whole += mine
        top = sorted(mine, key=lambda pair: (-pair[0], pair[1]))[:k]
        scores, ids = [s for s, _ in top], [i for _, i in top]
        answers.append(Found(np.array(ids, np.int64), np.array(scores, np.float32), "a part", True))
    merged = merge(answers, k)
    expected = sorted(whole, key=lambda pair: (-pair[0], pair[1]))[:k]
    assert list(zip(merged.scores.tolist(), merged.ids.tolist(), strict=True)) == expected


def test_lists_find_nearly_all_and_never_what_a_filter_excludes(unit):
    rng = np.random.default_rng(0)
    centres = unit(40, 24, seed=5)
    vectors = centres[rng.integers(0, 40, 6000)] + 0.05 * rng.standard_normal((6000, 24)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    ids = np.arange(6000) * 2
    backend = FaissBackend(24, ids, vectors, build_ivf(vectors[:5000]))
    stats = backend.stats()
    assert (stats["unindexed"], stats["exact"]) == (1000, False) and stats["recall"] >= 0.99
    for allowed in (None, ids[::2], ids[:4000:5], ids[::50]):
        within = None if allowed is None else backend.select(allowed)
        kept = np.ones(6000, bool) if allowed is None else np.isin(ids, allowed)
        hits = 0
        for query in vectors[::150]:
            found = backend.search(query[None], 10, within=within)[0]
            assert found.exact == (allowed is not None and len(allowed) < 600)
            assert allowed is None or np.isin(found.ids, allowed).all()
            wanted = brute(ids[kept], vectors[kept], query, 10)[1]
            # Whatever was found has its exact score and stands in the right order.
            assert np.array_equal(found.scores, exact_scores(vectors[found.ids // 2], query))
            assert np.array_equal(np.lexsort((found.ids, -found.scores)), np.arange(10))
            hits += np.isin(found.ids, wanted).sum()
        assert hits >= 0.98 * 400


@pytest.mark.parametrize("n", [4, 30, 3000])
def test_the_recall_that_lists_report_is_that_of_as_many_lists_as_are_read(unit, n):
    vectors = unit(n, 32)
    made = build_ivf(vectors)

    def recall(nprobe):
        found = wanted = 0
        for row in np.random.default_rng(1).choice(n, min(n, 200), replace=False):
            nearest = brute(np.arange(n), vectors, vectors[row], 11)[1][1:]
            rows = made.search(vectors[row : row + 1], 110, None, nprobe)
            reached = rows[np.argsort(-exact_scores(vectors[rows], vectors[row]), kind="stable")][1:11]
            found, wanted = found + np.isin(nearest, reached).sum(), wanted + len(nearest)
        return found / wanted

    assert made.recall == pytest.approx(recall(made.nprobe), abs=0.01)
    # A quarter of the lists would not do.
    assert made.recall >= 0.995 and (made.nprobe < 4 or recall(made.nprobe // 4) < 0.999)


def test_lists_that_hold_too_few_of_a_filters_rows_are_not_relied_on(unit):
    # Half the vectors point one way, half the other; a filter lets only the far half pass.
    vectors = unit(2000, 8)
    vectors[:, 0] = np.repeat([3.0, -3.0], 1000)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    backend = FaissBackend(8, np.arange(2000), vectors, build_ivf(vectors))
    far = np.arange(1000, 2000)
    found = backend.search(vectors[:1], 700, within=backend.select(far))[0]
    same(found, brute(far, vectors[far], vectors[0], 700))
    assert found.exact


def test_the_same_search_gives_the_same_answer_again(unit):
    vectors = unit(3000, 16)
    first, second = (FaissBackend(16, np.arange(3000), vectors, build_ivf(vectors)) for _ in range(2))
    alone = first.search(vectors[7:8], 50)[0]
    for found in (first.search(vectors[:20], 50)[7], second.search(vectors[7:8], 50)[0]):
        assert np.array_equal(found.ids, alone.ids) and np.array_equal(found.scores, alone.scores)


def test_a_selection_from_before_a_change_is_refused(unit):
    backend = FaissBackend(4)
    backend.upsert(np.arange(5), unit(5, 4))
    within = backend.select(np.arange(3))
    backend.upsert(np.array([9]), unit(1, 4))
    with pytest.raises(UsageError, match="before a change"):
        backend.search(unit(1, 4), 1, within=within)


def test_shards_must_fit_and_engines_be_known():
    with pytest.raises(UsageError, match="same dim"):
        ShardedBackend([FaissBackend(3), FaissBackend(4)])
    with pytest.raises(UsageError, match="one or more"):
        ShardedBackend([])
    with pytest.raises(UsageError, match="1 or more"):
        make_shards(4, 0, "local")
    with pytest.raises(UsageError, match="local or ray"):
        make_shards(4, 1, "dask")


def test_a_shard_that_holds_another_ones_vectors_is_found(unit):
    backend = ShardedBackend([FaissBackend(4), FaissBackend(4)])
    backend.upsert(np.arange(6), unit(6, 4))
    backend.shards[0].upsert(np.array([11]), unit(1, 4))
    assert backend.verify() == ["shard 0: holds vectors of another"]


def test_without_ray_it_is_said(monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(PalynoError, match=r"palyno\[ray\]"):
        make_shards(4, 1, "ray")


@pytest.mark.parametrize("engine", ["local", "ray"])
def test_a_collection_in_shards_answers_as_one(filled, unit, engine, request):
    if engine == "ray":
        request.getfixturevalue("ray_shards")
    with Collection.open(filled, indexes=False) as whole, Collection.open(filled, shards=2, engine=engine) as parts:
        for where in (None, "width_um > 40", "taxon = 'Betula'"):
            for query in unit(60)[::20]:
                expected = [(h.id, h.score) for h in whole.search(query, 12, where, encoder="pictures")]
                assert [(h.id, h.score) for h in parts.search(query, 12, where, encoder="pictures")] == expected
        parts.delete([3])
        parts.compact()
        assert whole.refresh()
        expected = [h.id for h in whole.search(unit(60)[2], 5, encoder="pictures")]
        assert [h.id for h in parts.search(unit(60)[2], 5, encoder="pictures")] == expected
