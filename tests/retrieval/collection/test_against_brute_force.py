"""Whatever is done to a collection in whatever order, its answers are those of a few lines of Python."""

from __future__ import annotations

import math
import os
import re
import shutil
import tempfile
from collections import Counter
from functools import cache
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
from palyno.retrieval.collection import Collection, Record, query
from palyno.retrieval.glossary import Glossary
from palyno.retrieval.words import terms

DIM = 5
TAXA = ("Betula", "Alnus", None)

# Few directions, so that equal and nearly equal scores are common.
GRID = [np.array(v, np.float32) for v in np.ndindex(*(3,) * DIM) if any(v)]
VECTORS = st.sampled_from([vector / np.float32(np.linalg.norm(vector)) for vector in GRID])
FILTERS = {
    None: lambda r: True,
    "taxon = 'Betula'": lambda r: r.taxon == "Betula",
    "not taxon = 'Betula'": lambda r: r.taxon is not None and r.taxon != "Betula",
    "taxon is null or width_um > 5": lambda r: r.taxon is None or (r.width_um or 0) > 5,
    "width_um between 2 and 3 and extra.n >= 1": lambda r: 2 <= (r.width_um or 0) <= 3 and r.extra["n"] >= 1,
    "slide like 'a%' and taxon in ('Alnus', 'Salix')": lambda r: (r.slide or "b")[0] in "aA" and r.taxon == "Alnus",
    "text like '%grain%' and not slide is null": lambda r: "grain" in (r.text or "").lower() and r.slide is not None,
    "confidence > 2": lambda r: False,
}

# What texts and questions are made of: terms of the glossary in two languages, names, and words that are neither.
TEXTS = st.lists(
    st.sampled_from(
        ["triporate", "dreiporig", "spiny", "not", "ohne", "smooth", "grain", "Birke", "Alnus", "松", "oak,"]
    ),
    min_size=1,
    max_size=7,
).map(" ".join)
QUESTIONS = st.one_of(
    TEXTS,
    st.sampled_from(["dreiporige Körner ohne Stacheln", "Birke", "smooth grain not spiny", "ohne Stacheln", "松"]),
)


class Bag:
    """A text is how often it has each of some letters; one without any of them cannot be read."""

    encoder_id, dim, modality = "bag", DIM, "text"

    def encode(self, items):
        rows = np.array([[item.lower().count(letter) for letter in "atgnk"] for item in items], np.float64)
        rows = rows.reshape(-1, DIM)
        return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)

    def readable(self, items):
        return [bool(re.search("[atgnk]", item.lower())) for item in items]


def score(a, b):
    """The cosine in exact arithmetic of the stored numbers, rounded once."""
    return np.float32(math.fsum(float(x) * float(y) for x, y in zip(a, b, strict=True)))


def whole(record):
    named = not record.taxon or record.taxon.lower() in record.text.lower()
    return record.text if named else f"{record.text}\n{record.taxon}"


@cache
def counted(text):
    return Counter(terms(Glossary.shipped().document(text)))


def by_words(texts, asked):
    """BM25 as it is written down, over all texts: {id: score}."""
    counts = {i: counted(whole(record)) for i, record in texts.items()}
    mean = sum(count.total() for count in counts.values()) / max(1, len(counts))
    scores = {}
    for term, weight in sorted(Counter(terms(asked.words)).items()):
        n = sum(term in count for count in counts.values())
        idf = math.log1p((len(counts) - n + 0.5) / (n + 0.5))
        for i, count in counts.items():
            if count[term]:
                part = count[term] / (count[term] + 1.2 * (1 - 0.75 + 0.75 * count.total() / mean))
                scores[i] = scores.get(i, 0.0) + weight * idf * part
    return scores


def by_meaning(texts, asked):
    bag = Bag()
    if not bag.readable([asked.sentence])[0]:
        return None
    wanted = bag.encode([asked.sentence])[0]
    read = {i: record.text for i, record in texts.items() if bag.readable([record.text])[0]}
    # None also where no text has a vector: then there is no such ranking.
    return {i: float(score(bag.encode([text])[0], wanted)) for i, text in read.items()} or None


def fused(texts, asked, by):
    """What finds the texts that pass a filter, as (id, score, unwanted), best first."""
    parts = {"words": by_words(texts, asked), "vectors": by_meaning(texts, asked)}
    parts = {name: part for name, part in parts.items() if part is not None and by in (None, name)}
    weights = {"words": 1.0, "vectors": 0.5 if "words" in parts else 1.0}
    bad = {i: bool(asked.unwanted & Glossary.shipped().concepts(whole(record))) for i, record in texts.items()}

    def answer(passes):
        total = {}
        for name, part in parts.items():
            ranking = sorted((i for i in part if passes(texts[i])), key=lambda i: (-part[i], i))
            for place, i in enumerate(ranking, 1):
                total[i] = total.get(i, 0.0) + weights[name] / (60 + place)
        order = sorted(sorted(total, key=lambda i: -total[i]), key=lambda i: bad[i])
        best = sum(weights[name] for name in parts) / 61
        told = next(iter(parts.values())) if len(parts) == 1 else {i: total[i] / best for i in total}
        return [(i, told[i], bad[i]) for i in order]

    return answer


class AgainstBruteForce(RuleBasedStateMachine):
    """Two collections, one that is always exact and one with an index from 12 vectors on, and a dictionary."""

    @initialize()
    def create(self):
        self.folder = Path(tempfile.mkdtemp(prefix="palyno-"))
        self.open = {
            "exact": Collection.create(self.folder / "exact", encoders=[Bag()]),
            "lists": Collection.create(self.folder / "lists", exact_below=12, encoders=[Bag()]),
        }
        self.truth, self.texts, self.gone = {}, {}, set()
        # So that there is something to search in from the beginning.
        for taxon, slide in (("Betula", "a.bib"), (None, None)):
            self.add_texts(["triporate grain", "spiny", "dreiporig smooth", "松"], taxon, slide)

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

    @rule(texts=st.lists(TEXTS, max_size=6), taxon=st.sampled_from(TAXA), slide=st.sampled_from(["a.bib", None]))
    def add_texts(self, texts, taxon, slide):
        records = [Record(kind="text", text=text, taxon=taxon, slide=slide, extra={"n": 1}) for text in texts]
        ids = self.both(lambda c: c.add(records, Bag()))
        assert not self.gone & set(ids.tolist())
        self.texts.update(zip(ids.tolist(), records, strict=True))

    @precondition(lambda self: self.texts)
    @rule(data=st.data(), text=TEXTS, taxon=st.sampled_from(TAXA))
    def rewrite(self, data, text, taxon):
        ids = data.draw(st.lists(st.sampled_from(sorted(self.texts)), unique=True, max_size=3))
        self.both(lambda c: c.update(ids, text=text, taxon=taxon))
        self.texts |= {
            i: Record(kind="text", text=text, taxon=taxon, slide=self.texts[i].slide, extra={"n": 1}) for i in ids
        }

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

    @precondition(lambda self: self.truth or self.texts)
    @rule(data=st.data())
    def delete(self, data):
        ids = data.draw(st.lists(st.sampled_from(sorted([*self.truth, *self.texts])), unique=True, max_size=5))
        self.both(lambda c: c.delete(ids))
        self.drop(ids)

    def drop(self, ids):
        self.gone.update(ids)
        for i in ids:
            self.truth.pop(i, None)
            self.texts.pop(i, None)

    @rule(where=st.sampled_from([f for f in FILTERS if f]))
    def delete_where(self, where):
        records = {**{i: record for i, (record, _) in self.truth.items()}, **self.texts}
        ids = {i for i, record in records.items() if FILTERS[where](record)}
        assert self.both(lambda c: c.delete(where=where)) == len(ids)
        self.drop(ids)

    @precondition(lambda self: self.truth)
    @rule(data=st.data(), vectors=st.lists(VECTORS, min_size=1, max_size=3))
    def give_up_a_batch(self, data, vectors):
        i = data.draw(st.sampled_from(sorted(self.truth)))
        for collection in self.open.values():
            with pytest.raises(ZeroDivisionError), collection.batch():
                collection.delete([i])
                collection.add([Record(kind="grain")] * len(vectors), "space", vectors=np.array(vectors))
                collection.add([Record(kind="text", text="triporate grain")], Bag())
                collection.update(sorted(self.texts), text="smooth grain")
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
            self.open[name] = Collection.open(self.folder / name, shards=shards, indexes=indexes, encoders=[Bag()])

    @rule()
    def go_on_with_a_snapshot(self):
        for name, collection in self.open.items():
            copy = self.folder / f"{name} {collection.info()['generation']} {len(list(self.folder.iterdir()))}"
            collection.snapshot(copy)
            collection.close()
            shutil.rmtree(self.folder / name)
            copy.rename(self.folder / name)
            self.open[name] = Collection.open(self.folder / name, encoders=[Bag()])

    @rule(query=VECTORS, k=st.integers(0, 30), where=st.sampled_from(list(FILTERS)))
    def search(self, query, k, where):
        passing = {i: vector for i, (record, vector) in self.truth.items() if FILTERS[where](record)}
        wanted = sorted(((-score(vector, query), i) for i, vector in passing.items()))[:k]
        for name, collection in self.open.items():
            if "space" not in collection.spaces:
                continue
            for exact in {True, name != "exact"}:
                hits = collection.search(query, k, where, encoder="space", exact=exact)
                assert [hit.id for hit in hits] == [i for _, i in wanted]
                assert [hit.score for hit in hits] == [min(1.0, -float(s)) for s, _ in wanted]
                assert all(hit.record == self.truth[hit.id][0] for hit in hits)

    @rule(question=QUESTIONS, k=st.sampled_from([30, 3, 1, 0]), by=st.sampled_from([None, None, "words", "vectors"]))
    def search_texts(self, question, k, by):
        asked = Glossary.shipped().query(question)
        read = Bag().readable([asked.sentence, *(record.text for record in self.texts.values())])
        if by == "vectors" and not (read[0] and any(read[1:])):
            return
        answer = fused(self.texts, asked, by)
        for where, passes in FILTERS.items():
            wanted = answer(passes)[:k]
            for collection in self.open.values():
                hits = collection.search(question, k, where, kind="text", by=by)
                assert [hit.id for hit in hits] == [i for i, _, _ in wanted]
                assert [hit.score for hit in hits] == pytest.approx([s for _, s, _ in wanted], abs=1e-12)
                assert [any("comes last" in why for why in hit.reasons) for hit in hits] == [
                    bad for _, _, bad in wanted
                ]
                assert all(hit.record == self.texts[hit.id] for hit in hits)

    @invariant()
    def counts_agree(self):
        if hasattr(self, "open"):
            for collection in self.open.values():
                assert len(collection) == len(self.truth) + len(self.texts)
                wanted = [kind for kind, there in (("grain", self.truth), ("text", self.texts)) if there]
                assert list(collection.kinds()) == wanted


def run(examples, steps, monkeypatch):
    # What the disk does with the bytes is not asked here, and waiting for it would take most of the time.
    monkeypatch.setattr(os, "fsync", lambda handle: None)
    monkeypatch.setattr(query, "shipped_encoders", lambda modality: iter(()))
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
    run(12, 20, monkeypatch)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_answers_are_those_of_brute_force_after_many_changes(monkeypatch):
    run(80, 30, monkeypatch)


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
