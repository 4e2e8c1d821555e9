"""The words of a collection's texts: always those of its records, and found as the benchmark finds them."""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path

import numpy as np
import pytest
from palyno.app.bench_retrieval import FUSED
from palyno.retrieval.collection import Collection, Record, query, texts
from palyno.retrieval.collection.records import Records
from palyno.retrieval.encoders.text import TextEncoder
from palyno.retrieval.evaluate import evaluate
from palyno.retrieval.evaluate.pollen import read_pollen
from palyno.retrieval.glossary import Glossary
from palyno.retrieval.hybrid import TextSearch
from palyno.retrieval.lexical import SCHEMA


class Vowels:
    """A text is how often it has a, e and o; one without them cannot be read."""

    encoder_id, dim, modality = "vowels", 3, "text"

    def encode(self, items):
        rows = np.array([[item.count(vowel) for vowel in "aeo"] for item in items], np.float32).reshape(-1, 3)
        return rows / np.linalg.norm(rows, axis=1, keepdims=True)

    def readable(self, items):
        return [any(vowel in item for vowel in "aeo") for item in items]


@pytest.fixture
def no_shipped(monkeypatch):
    monkeypatch.setattr(query, "shipped_encoders", lambda modality: iter(()))


def text(said, **more):
    return Record(kind="text", text=said, **more)


def found(collection, words, **options):
    return [hit.id for hit in collection.search(words, kind="text", **options)]


class Remembering(TextEncoder):
    """Reads each text once."""

    def __init__(self, task):
        super().__init__(threads=1)
        asked = [Glossary.shipped().query(query).sentence for query in task.queries.values()]
        items = list(dict.fromkeys([*(document.whole for document in task.corpus.values()), *asked]))
        self.known = dict(zip(items, super().encode(items), strict=True))

    def encode(self, items):
        return np.array([self.known[item] for item in items], np.float32).reshape(-1, self.dim)


@pytest.fixture(scope="module")
def task():
    return read_pollen("test")


@pytest.fixture(scope="module")
def benchmark(task, tmp_path_factory):
    """The benchmark's documents in a collection with grains, after changes and deletes; and the encoder."""
    path, encoder, names = tmp_path_factory.mktemp("benchmark") / "c", Remembering(task), list(task.corpus)
    documents = [task.corpus[name].whole for name in names]
    with Collection.create(path) as made:
        made.add([text(f"ruin {i} pore") for i in range(5)], None)
        made.add([text("old", key=name) for name in names], None)
        made.update(range(6, 46), taxon="Betula")
        made.add([text(one, key=name) for name, one in zip(names, documents, strict=True)], encoder, known="update")
        made.delete(range(1, 6))
        made.add([Record(kind="grain")], "pictures", vectors=np.eye(1, 4, dtype=np.float32), modality="image")
    return path, encoder


def test_a_collection_answers_as_well_as_the_page_says(task, benchmark):
    path, encoder = benchmark
    page = Path(__file__).parents[3] / "docs" / "results" / "retrieval_text.json"
    systems = {one["system"]: one for one in json.loads(page.read_text(encoding="utf-8"))["systems"]}
    with Collection.open(path, encoders=[encoder]) as opened:
        run = {
            # The score as a rank: texts with what is not wanted come last whatever theirs is.
            name: {hit.record.key: 1 / rank for rank, hit in enumerate(opened.search(asked, 10, kind="text"), 1)}
            for name, asked in task.queries.items()
        }
    for measure in ("ndcg@10", "recall@10", "mrr@10"):
        measured = evaluate(run, task.qrels, [measure]).mean(measure)
        assert measured == pytest.approx(systems[FUSED][measure]["mean"], abs=5e-5)


def test_a_collection_ranks_as_text_search_in_memory_does(task, benchmark):
    path, encoder = benchmark
    names, glossary = list(task.corpus), Glossary.shipped()
    with Collection.open(path, encoders=[encoder]) as opened:
        for by, own, words in ((None, encoder, True), ("vectors", encoder, False), ("words", None, True)):
            search = TextSearch(own, words=words, glossary=glossary)
            search.add(range(len(names)), [document.whole for document in task.corpus.values()])
            for asked in list(task.queries.values())[::23]:
                wanted, hits = search.search(asked, len(names)), opened.search(asked, len(names), kind="text", by=by)
                assert [hit.record.key for hit in hits] == [names[one.number] for one in wanted]
                assert [(hit.words, hit.vectors) for hit in hits] == [(one.words, one.vectors) for one in wanted]
                if by is None:
                    assert [hit.score for hit in hits] == [one.score for one in wanted]


def test_texts_are_indexed_with_their_taxon_where_they_do_not_name_it():
    assert texts.document("Pinus", "Two sacs.") == "Two sacs.\nPinus"
    assert texts.document("Pinus", "PINUS sylvestris has sacs.") == "PINUS sylvestris has sacs."
    assert texts.document("Süßgras", "Ein SÜSSGRAS") == "Ein SÜSSGRAS"
    assert (texts.document(None, None), texts.document("Pinus", None)) == ("", "Pinus")


def test_changes_are_found_at_once_and_what_was_is_not(tmp_path, no_shipped):
    with Collection.create(tmp_path / "c", encoders=[Vowels()]) as c:
        c.add([text("alpha", key="a"), text("beta", key="b"), text("gamma")], Vowels())
        assert found(c, "alpha", by="words") == [1]
        with c.batch():
            c.update([1], text="delta")
            assert (found(c, "alpha", by="words"), found(c, "delta", by="words")) == ([], [1])
            c.add([text("alpha beta", key="b")], Vowels(), known="update")
            assert found(c, "alpha", by="words") == found(c, "beta", by="words") == [2]
            c.delete([2])
            assert found(c, "beta", by="words") == []
        c.update([3], kind="grain")
        assert found(c, "gamma", by="words") == [] and c.kinds() == ("grain", "text")
        c.update([3], kind="text", taxon="Betula")
        assert found(c, "gamma", by="words") == found(c, "birch", by="words") == [3]
        c.update([3], taxon=None, reviewer="x")
        assert found(c, "birch", by="words") == []
        c.compact()
        assert found(c, "delta", by="words") == [1] and all(check.ok for check in c.verify())
        # What no text says any more is not left behind.
        words = {row[0] for row in c._generation.records._database.execute("SELECT term FROM lexicon_words")}
        assert words == {"delta", "gamma"}


def test_only_texts_that_pass_the_filter_are_found_and_ranked(tmp_path, no_shipped):
    with Collection.create(tmp_path / "c", encoders=[Vowels()]) as c:
        c.add(
            [text("alpha alpha", slide="a"), text("alpha", slide="b"), text("alpha beta beta beta", slide="b")],
            Vowels(),
        )
        for by in (None, "words", "vectors"):
            assert set(found(c, "alpha", by=by)) == {1, 2, 3}
            assert set(found(c, "alpha", by=by, where="slide = 'b'")) == {2, 3}
            hits = c.search("alpha", 1, "slide = 'b'", kind="text", by=by)
            assert [place.rank for place in (hits[0].words, hits[0].vectors) if place] in ([1], [1, 1])
            assert found(c, "alpha", by=by, where="slide = 'c'") == []
        # How rare a word is stays that of all texts.
        alone, all_of_them = (c.search("alpha", 9, where, by="words") for where in ("slide = 'b'", None))
        assert {hit.id: hit.score for hit in alone}.items() <= {hit.id: hit.score for hit in all_of_them}.items()


def test_a_text_that_changes_has_the_vector_of_what_it_says_now(tmp_path, no_shipped):
    with Collection.create(tmp_path / "c", encoders=[Vowels()]) as c:
        c.add([text("aaa"), text("eee")], Vowels())
        c.embed([1, 2], np.eye(2, 4, dtype=np.float32), "foreign", modality="text")
        c.add([Record(kind="grain", text="aaa")], "foreign", vectors=np.eye(1, 4, 3, dtype=np.float32), modality="text")
        c.embed([1, 3], np.eye(2, 5, dtype=np.float32), "pictures", modality="image")
        c.update([1, 2], text="ooo", reviewer="x")
        assert np.array_equal(c.vectors([1, 2], "vowels"), [[0, 0, 1]] * 2)
        # An encoder that is not at hand cannot; what was made from a picture stays.
        assert [len(one.backend) for one in c._generation.spaces.values()] == [2, 1, 2]
        c.update([1], text="xyz")
        assert found(c, "eo", by="vectors") == [2] and found(c, "xyz") == [1]
        c.update([1], text="ooo")
        assert found(c, "eo", by="vectors") == [1, 2]
        c.update([1], text="xyz")
        c.update([3], text="bbb")
        assert [len(one.backend) for one in c._generation.spaces.values()] == [1, 1, 2]
        c.add([text("eea", key="k")], Vowels())
        c.embed([4], np.eye(1, 4, dtype=np.float32), "foreign", modality="text")
        c.add([text("eea", key="k", taxon="Alnus")], None, known="update")
        assert [len(one.backend) for one in c._generation.spaces.values()] == [2, 2, 2]
        c.add([text("oo", key="k")], None, known="update")
        assert [len(one.backend) for one in c._generation.spaces.values()] == [1, 1, 2]
        assert all(check.ok for check in c.verify())
    with Collection.open(tmp_path / "c", encoders=[Vowels()]) as c:
        assert [len(one.backend) for one in c._generation.spaces.values()] == [1, 1, 2]


def test_an_index_of_another_reading_is_not_used_and_made_anew_by_the_next_writer(tmp_path, no_shipped, monkeypatch):
    with Collection.create(tmp_path / "c") as c:
        c.add([text("dreiporig"), text("spiny")], None)
        assert found(c, "triporate", by="words") == [1]
    other = Glossary({"wooden": ["spiny"]})
    with monkeypatch.context() as changed:
        changed.setattr(Glossary, "shipped", staticmethod(lambda *languages: other))
        with Collection.open(tmp_path / "c") as c:
            assert found(c, "wooden", by="words") == [2] and found(c, "triporate", by="words") == []
            before = (tmp_path / "c" / c._generation.manifest.records.file).read_bytes()
            c.update([1], reviewer="x")
            assert found(c, "wooden", by="words") == [2]
            assert before != (tmp_path / "c" / c._generation.manifest.records.file).read_bytes()
        with Collection.open(tmp_path / "c") as c:
            monkeypatch.setattr(texts.TextIndex, "_fill", None)
            assert found(c, "wooden", by="words") == [2]
    monkeypatch.undo()
    with Collection.open(tmp_path / "c") as c:
        assert found(c, "triporate", by="words") == [1]


def test_records_from_before_texts_had_words_are_read_and_mended(tmp_path, no_shipped):
    with Collection.create(tmp_path / "c") as c:
        c.add([text("triporate"), Record(kind="grain", text="triporate")], None)
        path = tmp_path / "c" / c._generation.manifest.records.file
    database = sqlite3.connect(path, isolation_level=None)
    for statement in SCHEMA:
        database.execute(f"DROP TABLE {statement.split()[2]}")
    database.execute("PRAGMA user_version = 0")
    database.close()
    old = Records(path)
    assert old.faults() == [] and len(old.words.lexicon) == 1
    new = old.copy(tmp_path / "new.sqlite")
    assert [number for number, _ in new.words.lexicon.search("triporate")] == [1]
    new.sync()
    tables = {name for (name,) in sqlite3.connect(tmp_path / "new.sqlite").execute("SELECT name FROM sqlite_schema")}
    assert {"lexicon_words", "lexicon_postings", "lexicon_texts"} <= tables


def test_an_index_that_is_not_of_its_texts_is_told(tmp_path, no_shipped):
    with Collection.create(tmp_path / "c") as c:
        c.add([text("triporate"), text("spiny"), text("smooth")], None)
        path = tmp_path / "c" / c._generation.manifest.records.file
    database = sqlite3.connect(path, isolation_level=None)
    database.execute("DELETE FROM lexicon_texts WHERE id = 2")
    database.execute("DELETE FROM records WHERE id = 3")
    database.close()
    said = "the words of record {} are not those of its text"
    # Searching does not stumble over it.
    assert [number for number, _ in Records(path).words.lexicon.search("triporate spiny echinate")] == [1]
    assert Records(path).faults() == [said.format(2), said.format(3)]


def test_hits_of_texts_can_be_written_as_json(tmp_path, no_shipped):
    with Collection.create(tmp_path / "c", encoders=[Vowels()]) as c:
        c.add([text("alpha")], Vowels())
        (hit,) = c.search("alpha")
    assert json.dumps([vars(hit.words), vars(hit.vectors), hit.score, hit.reasons])
