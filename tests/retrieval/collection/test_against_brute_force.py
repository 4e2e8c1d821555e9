"""Whatever is done to a collection in whatever order, its answers are those of a few lines of numpy."""

from __future__ import annotations

import math
import os
import shutil
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from palyno.errors import UsageError
from palyno.retrieval.collection import Collection, Record

DIM = 5
TAXA = ("Betula", "Alnus", None)

# Few directions, so that equal and nearly equal scores are common.
GRID = [np.array(v, np.float32) for v in np.ndindex(*(3,) * DIM) if any(v)]
VECTORS = st.sampled_from([vector / np.float32(np.linalg.norm(vector)) for vector in GRID])
FILTERS = {
    None: lambda r: True,
    "taxon = 'Betula'": lambda r: r.taxon == "Betula",
    "not taxon = 'Betula'": lambda r: r.taxon is not None and r.taxon != "Betula",
    "taxon is null or width_um > 5": lambda r: r.taxon is None or r.width_um > 5,
    "width_um between 2 and 3 and extra.n >= 1": lambda r: 2 <= r.width_um <= 3 and r.extra["n"] >= 1,
    "slide like 'a%' and taxon in ('Alnus', 'Salix')": lambda r: r.slide[0] in "aA" and r.taxon == "Alnus",
    "confidence > 2": lambda r: False,
}


def score(a, b):
    """The cosine in exact arithmetic of the stored numbers, rounded once."""
    return np.float32(math.fsum(float(x) * float(y) for x, y in zip(a, b, strict=True)))


class AgainstBruteForce(RuleBasedStateMachine):
    """Two collections, one that is always exact and one with an index from 12 vectors on, and a dictionary."""

    @initialize()
    def create(self):
        self.folder = Path(tempfile.mkdtemp(prefix="palyno-"))
        self.open = {
            "exact": Collection.create(self.folder / "exact"),
            "lists": Collection.create(self.folder / "lists", exact_below=12),
        }
        self.truth, self.gone = {}, set()

    def teardown(self):
        if hasattr(self, "open"):
            for collection in self.open.values():
                assert [check for check in collection.verify() if not check.ok] == []
                collection.close()
            shutil.rmtree(self.folder)

    def both(self, call):
        first, second = (call(collection) for collection in self.open.values())
        assert np.array_equal(first, second)
        return first

    @rule(
        vectors=st.lists(VECTORS, max_size=8),
        taxon=st.sampled_from(TAXA),
        width=st.integers(0, 9),
        slide=st.sampled_from(["a1", "A2", "b"]),
    )
    def add(self, vectors, taxon, width, slide):
        records = [
            Record(kind="grain", taxon=taxon, width_um=width, slide=slide, extra={"n": i}) for i in range(len(vectors))
        ]
        array = np.array(vectors, np.float32).reshape(-1, DIM)
        ids = self.both(lambda c: c.add(records, "space", vectors=array))
        assert not self.gone & set(ids.tolist())
        self.truth.update(zip(ids.tolist(), zip(records, array, strict=True), strict=True))

    @precondition(lambda self: self.truth)
    @rule(data=st.data(), taxon=st.sampled_from(TAXA))
    def rename(self, data, taxon):
        ids = data.draw(st.lists(st.sampled_from(sorted(self.truth)), unique=True, max_size=5))
        self.both(lambda c: c.update(ids, taxon=taxon, reviewer="ü"))
        for i in ids:
            record, vector = self.truth[i]
            kept = {"kind": "grain", "width_um": record.width_um, "slide": record.slide, "extra": record.extra}
            self.truth[i] = Record(taxon=taxon, reviewer="ü", **kept), vector

    @precondition(lambda self: self.truth)
    @rule(data=st.data(), vector=VECTORS)
    def move(self, data, vector):
        i = data.draw(st.sampled_from(sorted(self.truth)))
        self.both(lambda c: c.embed([i], vector[None], "space"))
        self.truth[i] = self.truth[i][0], vector

    @precondition(lambda self: self.truth)
    @rule(data=st.data())
    def delete(self, data):
        ids = data.draw(st.lists(st.sampled_from(sorted(self.truth)), unique=True, max_size=5))
        self.both(lambda c: c.delete(ids))
        self.gone.update(ids)
        for i in ids:
            del self.truth[i]

    @rule(where=st.sampled_from([f for f in FILTERS if f]))
    def delete_where(self, where):
        ids = {i for i, (record, _) in self.truth.items() if FILTERS[where](record)}
        assert self.both(lambda c: c.delete(where=where)) == len(ids)
        self.gone |= ids
        for i in ids:
            del self.truth[i]

    @precondition(lambda self: self.truth)
    @rule(data=st.data(), vectors=st.lists(VECTORS, min_size=1, max_size=3))
    def give_up_a_batch(self, data, vectors):
        i = data.draw(st.sampled_from(sorted(self.truth)))
        for collection in self.open.values():
            with pytest.raises(ZeroDivisionError), collection.batch():
                collection.delete([i])
                collection.add([Record(kind="grain")] * len(vectors), "space", vectors=np.array(vectors))
                raise ZeroDivisionError

    @rule()
    def compact(self):
        self.both(lambda c: c.compact())

    @rule()
    def rebuild(self):
        self.both(lambda c: c.rebuild())

    @rule(shards=st.sampled_from([1, 1, 3]), indexes=st.booleans())
    def reload(self, shards, indexes):
        for name, collection in self.open.items():
            collection.close()
            self.open[name] = Collection.open(self.folder / name, shards=shards, indexes=indexes)

    @rule(query=VECTORS, k=st.integers(0, 30), where=st.sampled_from(list(FILTERS)))
    def search(self, query, k, where):
        passing = {i: vector for i, (record, vector) in self.truth.items() if FILTERS[where](record)}
        wanted = sorted(((-score(vector, query), i) for i, vector in passing.items()))[:k]
        for name, collection in self.open.items():
            if not collection.spaces:
                continue
            for exact in {True, name != "exact"}:
                hits = collection.search(query, k, where, encoder="space", exact=exact)
                assert [hit.id for hit in hits] == [i for _, i in wanted]
                assert [hit.score for hit in hits] == [min(1.0, -float(s)) for s, _ in wanted]
                assert all(hit.record == self.truth[hit.id][0] for hit in hits)

    @invariant()
    def counts_agree(self):
        if hasattr(self, "open"):
            for collection in self.open.values():
                assert len(collection) == len(self.truth)


def run(examples, steps, monkeypatch):
    # What the disk does with the bytes is not asked here, and waiting for it would take most of the time.
    monkeypatch.setattr(os, "fsync", lambda handle: None)
    run_state_machine_as_test(
        AgainstBruteForce,
        settings=settings(
            max_examples=examples,
            stateful_step_count=steps,
            deadline=None,
            suppress_health_check=list(HealthCheck),
            derandomize=True,
        ),
    )


def test_answers_are_those_of_brute_force_after_any_changes(monkeypatch):
    run(12, 15, monkeypatch)


@pytest.mark.slow
def test_answers_are_those_of_brute_force_after_many_changes(monkeypatch):
    run(150, 40, monkeypatch)


def test_a_second_process_may_read_while_one_writes(tmp_path, unit, grains):
    with Collection.create(tmp_path / "c") as writer, Collection.open(tmp_path / "c") as reader:
        writer.add(grains(5), "space", vectors=unit(5))
        assert (len(reader), reader.spaces) == (0, ())
        assert reader.refresh() and not reader.refresh()
        for _ in range(4):
            writer.compact()
        assert [hit.id for hit in reader.search(unit(5)[2], 1, encoder="space")] == [3]
        reader.add(grains(1, first=5), "space", vectors=unit(1, seed=1))
        with pytest.raises(UsageError, match="'grain 5' again"):
            writer.add(grains(1, first=5), "space", vectors=unit(1, seed=2))
        assert len(writer) == 6
