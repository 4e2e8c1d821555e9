"""How a query finds its space, and what an answer says."""

from __future__ import annotations

import re
import threading

import numpy as np
import pytest
from palyno.errors import PalynoError, RejectedModelError, UsageError
from palyno.retrieval.collection import Collection, Hit, Record, query
from palyno.retrieval.collection.records import Records
from PIL import Image

NAMES = {"red": (1, 0, 0), "green": (0, 1, 0), "blue": (0, 0, 1)}


class Colours:
    """Pictures and words in one space: a picture is its mean colour, a word the colour that it names."""

    dim = 3

    def __init__(self, modality, encoder_id="colours"):
        self.modality, self.encoder_id = modality, encoder_id

    def encode(self, items):
        if self.modality == "image":
            rows = [np.asarray(item, float).reshape(-1, 3).mean(0) + 1e-6 for item in items]
        else:
            rows = [np.sum([NAMES[w] for w in re.findall(r"[a-z]+", item.lower()) if w in NAMES], 0) for item in items]
        rows = np.array(rows, np.float32).reshape(-1, 3)
        return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def picture(red, green, blue):
    return np.full((4, 5, 3), (red, green, blue), np.uint8)


@pytest.fixture
def no_shipped(monkeypatch):
    monkeypatch.setattr(query, "shipped_encoders", lambda modality: iter(()))


@pytest.fixture
def collection(tmp_path, no_shipped):
    encoders = [Colours("image"), Colours("text")]
    with Collection.create(tmp_path / "c", encoders=encoders) as made:
        colours = {"red": (200, 10, 0), "reddish": (150, 90, 80), "green": (0, 99, 0), "blue": (9, 9, 250)}
        records = [Record(kind="grain", taxon=name, slide="s1") for name in colours]
        made.add(records, encoders[0], items=[picture(*colour) for colour in colours.values()])
        yield made


def taxa(hits):
    return [hit.record.taxon for hit in hits]


def test_words_pictures_files_and_vectors_find_the_same_grain(collection, tmp_path):
    Image.fromarray(picture(0, 90, 0)).save(tmp_path / "green.png")
    for asked in ("Green", picture(0, 90, 0), Image.fromarray(picture(0, 90, 0)), tmp_path / "green.png"):
        assert taxa(collection.search(asked, 1)) == ["green"]
    vector = np.array([0, 1, 0], np.float32)
    assert taxa(collection.search(vector, 1, encoder="colours")) == ["green"]
    assert taxa(collection.search(vector, 1, encoder=Colours("image"))) == ["green"]
    assert taxa(collection.search(picture(255, 0, 0), 2)) == ["red", "reddish"]
    assert collection.info()["spaces"][0]["modalities"] == ["image"]


def test_an_answer_says_what_it_is_and_why(collection):
    collection.add([Record(kind="text", taxon="Pinus", text="Blue, with two air sacs.")], Colours("text"))
    hit = collection.search("blue grain with sacs", 1, "kind = 'text'")[0]
    assert isinstance(hit, Hit) and (hit.id, hit.kind, hit.encoder_id) == (5, "text", "colours")
    assert hit.score == pytest.approx(1)
    assert hit.reasons == ("shares blue, sacs", "near in colours: all 1 compared")
    assert collection.info()["spaces"][0]["modalities"] == ["image", "text"]
    with pytest.raises(AttributeError):
        hit.score = 0.5


def test_an_encoder_that_can_explain_is_asked_with_the_vectors_found(collection):
    class Explaining(Colours):
        def explain(self, words, vectors):
            return [(f"{words} by {vector[0]:.1f}",) for vector in vectors]

    hits = collection.search("red", 2, encoder=Explaining("text"))
    assert [hit.reasons for hit in hits] == [
        ("shares red", "red by 1.0", "near in colours: all 4 compared"),
        ("red by 0.8", "near in colours: all 4 compared"),
    ]
    assert collection.search(picture(9, 0, 0), 1)[0].reasons == ("near in colours: all 4 compared",)


def test_a_vector_is_compared_only_in_its_own_space(collection):
    vector = np.array([0, 1, 0], np.float32)
    with pytest.raises(UsageError, match=r"expected the encoder_id of the vector, got none.*colours"):
        collection.search(vector)
    with pytest.raises(RejectedModelError, match="colours; got one of shapes: vectors of two encoders do not compare"):
        collection.search(vector, encoder="shapes")
    with pytest.raises(RejectedModelError, match="got one of shapes"):
        collection.search("green", encoder=Colours("text", "shapes"))
    with pytest.raises(UsageError, match="expected image to encode, got text"):
        collection.search("green", encoder=Colours("image"))
    with pytest.raises(UsageError, match="encoder_id of a text encoder that is at hand, got 'shapes'"):
        collection.search("green", encoder="shapes")
    assert taxa(collection.search("green", 1, encoder="colours")) == ["green"]


def test_with_two_spaces_it_must_be_said_which(collection):
    collection.add([Record(kind="text", text="green")], Colours("text", "others"))
    with Collection.open(collection.path, encoders=[Colours("text"), Colours("text", "others")]) as both:
        with pytest.raises(UsageError, match=r"say which space.*colours, others"):
            both.search("green")
        assert [hit.id for hit in both.search("green", encoder="others")] == [5]
        assert [hit.id for hit in both.search("green", 1, encoder="colours")] == [3]
        with pytest.raises(UsageError, match=r"say which space is meant: colours, others"):
            both.near_duplicates()
        assert both.near_duplicates(0.9, encoder="others") == []
    with Collection.open(collection.path) as none, pytest.raises(RejectedModelError, match=r"at hand none"):
        none.search("green")


def test_what_is_no_query_is_refused(collection):
    for nonsense in (5, b"green", np.zeros((2, 2, 2, 2)), None):
        with pytest.raises(PalynoError):
            collection.search(nonsense)
    with pytest.raises(UsageError, match="encoder: expected"):
        Collection.open(collection.path, encoders=["colours"])


def test_an_encoder_that_gives_no_unit_vectors_is_refused(collection):
    class Long(Colours):
        def encode(self, items):
            return 2 * super().encode(items)

    with pytest.raises(UsageError, match="colours: expected unit length, got 2"):
        collection.add([Record(kind="text", text="red")], Long("text"))
    with pytest.raises(UsageError, match="expected items or vectors"):
        collection.add([Record(kind="text")], Colours("text"))


def test_near_duplicates_are_told_with_their_slides(tmp_path, unit):
    vectors = unit(300, 32)
    vectors[10] = vectors[200]
    near = vectors[50] + 0.05 * unit(1, 32, seed=3)[0]
    vectors[7] = near / np.linalg.norm(near)
    slides = [f"s{i % 7}" for i in range(300)]
    for exact_below in (1000, 100):
        with Collection.create(tmp_path / str(exact_below), exact_below=exact_below) as c:
            c.add([Record(kind="grain", slide=slide) for slide in slides], "e", vectors=vectors)
            pairs = c.near_duplicates(0.98)
            assert [(p.first, p.second, p.same_slide) for p in pairs] == [(11, 201, False), (8, 51, False)]
            assert pairs[0].score == pytest.approx(1) and 0.98 <= pairs[1].score < 1
            wanted = np.argwhere(np.triu(vectors @ vectors.T >= 0.5, 1))
            assert {(p.first - 1, p.second - 1) for p in c.near_duplicates(0.5)} == set(map(tuple, wanted.tolist()))
            assert c.near_duplicates(0.98, where="id < 200") == [pairs[1]]


def test_many_vectors_are_compared_with_their_neighbours(monkeypatch, unit, tmp_path):
    from palyno.retrieval.collection import duplicates

    vectors = unit(200, 16)
    vectors[20:40] = vectors[160:180]
    with Collection.create(tmp_path / "c") as c:
        c.add([Record(kind="grain")] * 200, "e", vectors=vectors)
        all_pairs = c.near_duplicates(0.9)
        monkeypatch.setattr(duplicates, "_ALL_PAIRS", 10)
        assert c.near_duplicates(0.9) == all_pairs and len(all_pairs) >= 20


def test_threads_share_a_collection(filled, unit):
    queries = unit(60)
    with Collection.open(filled) as c:
        alone = [c.search(q, 5, "width_um > 30", encoder="pictures") for q in queries]
        answers = {}

        def work(part):
            for i in range(part, 60, 4):
                answers[i] = c.search(queries[i], 5, "width_um > 30", encoder="pictures")

        threads = [threading.Thread(target=work, args=(part,)) for part in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert [answers[i] for i in range(60)] == alone


def test_a_filter_that_was_asked_before_sees_later_changes(filled, unit):
    with Collection.open(filled) as c:
        ask = lambda: [h.id for h in c.search(unit(60)[1], 3, "taxon = 'Pinus'", encoder="pictures")]  # noqa: E731
        assert ask() == []
        c.update([2, 9], taxon="Pinus")
        assert ask()[0] == 2 and set(ask()) == {2, 9}
        with c.batch():
            c.delete([9])
            assert ask() == [2]
            c.embed([2], unit(1, seed=4), "pictures")
            assert ask() == [2]


def test_changes_of_a_batch_are_seen_in_it_and_undone_with_it(filled, unit):
    with Collection.open(filled) as c:
        generation = c.info()["generation"]
        with pytest.raises(KeyError), c.batch():
            c.delete([1, 2])
            c.add([Record(kind="text", text="x")], "third", vectors=unit(1))
            assert c.count("id < 4") == 1 and "third" in c.spaces
            raise KeyError
        assert c.count("id < 4") == 3 and c.spaces == ("pictures", "words")
        with c.batch(), c.batch():
            c.delete([1])
            c.delete([2])
        assert c.info()["generation"] == generation + 1
        with c.batch():
            pass
        assert c.info()["generation"] == generation + 1


def test_a_call_that_fails_in_a_batch_leaves_nothing_of_itself(filled, unit, grains, monkeypatch):
    def full(*arguments):
        raise OSError("no room")

    with Collection.open(filled) as c:
        before = dict(c.records())
        with c.batch():
            with monkeypatch.context() as broken:
                broken.setattr(Records, "link", full)
                mixed = [*grains(3), *grains(2, first=70)]
                with pytest.raises(OSError, match="no room"):
                    c.add(mixed, "pictures", vectors=unit(5, seed=5), known="update")
            with pytest.raises(UsageError, match="vectors of 16 numbers, got 3"):
                c.add(grains(1, first=80), "pictures", vectors=unit(1, 3))
            assert dict(c.records()) == before
            ids = c.add(grains(2, first=90), "pictures", vectors=unit(2, seed=6))
        assert len(c) == len(before) + 2 and all(check.ok for check in c.verify())
        assert np.array_equal(c.vectors(ids, "pictures"), unit(2, seed=6))
        assert [c.search(v, 1, encoder="pictures")[0].id for v in unit(2, seed=6)] == ids.tolist()
        assert np.array_equal(c.vectors([1], "pictures"), unit(60)[:1])


def test_records_may_change_while_they_are_gone_through(filled, monkeypatch):
    monkeypatch.setattr("palyno.retrieval.collection.questions._PAGE", 7)
    with Collection.open(filled) as c:
        seen = [i for i, _ in c.records("kind = 'text'")]
        assert len(seen) == 40
        with c.batch():
            for i, record in c.records("kind = 'text'"):
                c.update([i], reviewer=record.text)
                if i % 2:
                    c.delete([i])
        assert [i for i, _ in c.records("kind = 'text'")] == [i for i in seen if i % 2 == 0]
        assert all(record.reviewer == record.text for _, record in c.records("kind = 'text'"))


def test_a_newer_generation_that_is_refused_leaves_the_open_one(filled, unit):
    with Collection.open(filled) as reader, Collection.open(filled) as writer:
        writer.delete([1])
        file = filled / writer._generation.manifest.records.file
        file.write_bytes(file.read_bytes()[:-1] + b"!")
        with pytest.raises(RejectedModelError, match=file.name):
            reader.refresh()
        assert reader.count("id = 1") == 1
        assert reader.search(unit(60)[0], 1, encoder="pictures")[0].id == 1


def test_a_collection_is_a_public_name():
    import palyno

    assert palyno.Collection is Collection
