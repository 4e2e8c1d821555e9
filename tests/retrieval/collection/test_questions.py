"""How a query finds its space, and what an answer says."""

from __future__ import annotations

import re
import threading
import unicodedata

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
    texts = ["Blue, with two air sacs.", "Blue and spiny.", "Red: three pores."]
    collection.add([Record(kind="text", taxon="Pinus", text=text) for text in texts], Colours("text"))
    hits = collection.search("blue pine ohne Stacheln, drei Poren", 3, "kind = 'text'")
    hit = hits[0]
    assert isinstance(hit, Hit) and (hit.id, hit.kind, hit.encoder_id) == (7, "text", "colours")
    # First by words; third by meaning, which has half the weight.
    assert hit.score == pytest.approx((1 / 61 + 0.5 / 63) / (1.5 / 61))
    assert (hit.words.rank, hit.vectors.rank, hit.vectors.score) == (1, 3, 0)
    how = hit.reasons[-1]
    said = "says Pinus (pine), triporate (German drei Poren)"
    assert hit.reasons == (said, "1st by words, 3rd by meaning", how)
    assert how == (
        "read as Pinus (pine), triporate (German drei Poren), not echinate (German Stacheln); by words: BM25 over 3 "
        "texts; by meaning: near in colours: all 3 compared"
    )
    assert hits[1].reasons == ("says Pinus (pine)", "shares blue", "3rd by words, 1st by meaning", how)
    assert hits[2].reasons[2] == "comes last: says echinate (German Stacheln), which is not wanted"
    assert collection.info()["spaces"][0]["modalities"] == ["image", "text"]
    with pytest.raises(AttributeError):
        hit.score = 0.5


def test_an_encoder_that_can_explain_is_asked_with_the_vectors_found(collection):
    class Explaining(Colours):
        def explain(self, words, vectors):
            # Its own words are no sign of a guess.
            return [(f"{words} looks by {vector[0]:.1f}",) for vector in vectors]

        def ignores(self, words):
            return ["large"] if "large" in words else []

    large = collection.search("large red", 1, encoder=Explaining("text"))[0].reasons[-1]
    assert large == "near in colours: all 4 compared; large: not in these vectors, filter by width_um and height_um"
    hits = collection.search("red", 2, encoder=Explaining("text"))
    assert [hit.reasons for hit in hits] == [
        ("shares red", "red looks by 1.0", "near in colours: all 4 compared"),
        ("red looks by 0.8", "near in colours: all 4 compared"),
    ]
    assert not any(hit.guessed for hit in hits)
    Explaining.guesses = True
    assert all(hit.guessed for hit in collection.search("red", 2, encoder=Explaining("text")))
    guess = "near in colours: all 4 compared; what grains look to have is a guess by the taxa that were trained on"
    assert {hit.reasons[-1] for hit in collection.search("red", 2, encoder=Explaining("text"))} == {guess}
    Explaining.explain = lambda self, words, vectors: [()] * len(vectors)
    (hit,) = collection.search("red", 1, encoder=Explaining("text"))
    assert (hit.reasons[-1], hit.guessed) == ("near in colours: all 4 compared", False)
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
    with pytest.raises(UsageError, match="an encoder of texts that is at hand, colours; got 'shapes'"):
        collection.search("green", encoder="shapes")
    assert taxa(collection.search("green", 1, encoder="colours")) == ["green"]


def test_with_two_spaces_it_must_be_said_which(collection):
    texts = [Colours("text", "others"), Colours("text", "third")]
    collection.add([Record(kind="text", text="green")], texts[0])
    with Collection.open(collection.path, encoders=[Colours("text"), *texts]) as both:
        assert [hit.id for hit in both.search("green", encoder="others")] == [5]
        assert [hit.id for hit in both.search("green", 1, encoder="colours")] == [3]
        both.embed([5], texts[1].encode(["green"]), texts[1])
        with pytest.raises(UsageError, match=r"say which space.*others, third"):
            both.search("green", kind="text")
        assert [hit.encoder_id for hit in both.search("green", encoder="third")] == ["third"]
        with pytest.raises(UsageError, match=r"which space is meant, as several hold the most texts, 1: others, third"):
            both.near_duplicates(where="kind = 'text'")
        assert both.near_duplicates(0.9, encoder="others") == []
    with Collection.open(collection.path) as none:
        with pytest.raises(RejectedModelError, match=r"expected grains with vectors.*at hand none"):
            none.search("green", kind="grain")
        with pytest.raises(RejectedModelError, match=r"expected texts with vectors.*at hand none"):
            none.search("green", kind="text")
        assert [hit.id for hit in none.search("green", by="words")] == [5]


def test_grains_and_texts_never_stand_in_one_list(collection):
    collection.add([Record(kind="text", taxon="green", text="Green.")], Colours("text"))
    assert collection.kinds() == ("grain", "text") and collection.kinds("taxon = 'red'") == ("grain",)
    for asked in ("green", np.array([0, 1, 0], np.float32)):
        encoder = None if isinstance(asked, str) else "colours"
        with pytest.raises(UsageError, match=r"kind='grain' or kind='text'.*do not compare"):
            collection.search(asked, encoder=encoder)
        for kind, wanted in (("grain", [3, 2, 1, 4]), ("text", [5])):
            assert [hit.id for hit in collection.search(asked, kind=kind, encoder=encoder)] == wanted
        # A filter may leave nothing to choose.
        assert [hit.id for hit in collection.search(asked, 1, "id < 5", encoder=encoder)] == [3]
        assert [hit.id for hit in collection.search(asked, 1, "taxon = 'green' and id > 3", encoder=encoder)] == [5]
        assert collection.search(asked, 1, "taxon = 'black'", encoder=encoder) == []
    assert [hit.id for hit in collection.search(picture(0, 99, 0), 9)] == [3, 2, 1, 4]
    assert [hit.id for hit in collection.search(picture(0, 99, 0), 9, kind="text")] == [5]


def test_words_of_texts_and_of_pictures_are_searched_in_the_texts_own_space(collection):
    own = Colours("text", "own")
    ids = collection.add([Record(kind="text", text=text) for text in ("green", "red", "blue")], own)
    collection.embed(ids, Colours("text").encode(["blue", "green", "red"]), Colours("text"))
    with Collection.open(collection.path, encoders=[Colours("text"), Colours("image"), own]) as opened:
        hits = opened.search("green", kind="text", by="vectors")
        assert ([hit.id for hit in hits], hits[0].encoder_id) == ([5, 6, 7], "own")
        assert opened.search("green", kind="grain")[0].encoder_id == "colours"
        assert [hit.id for hit in opened.search(picture(0, 99, 0), 1, kind="text")] == [6]


def test_texts_may_be_found_by_words_or_by_meaning_alone(collection):
    texts = ["Green wall.", "A wall, said to be red.", "Nothing of all that."]
    collection.add([Record(kind="text", text=text) for text in texts], None)
    collection.embed([5, 6], Colours("text").encode(texts[:2]), Colours("text"))
    found = {by: collection.search("Green wall", 9, kind="text", by=by) for by in (None, "words", "vectors")}
    assert {by: [hit.id for hit in hits] for by, hits in found.items()} == {by: [5, 6] for by in found}
    words, vectors = found["words"][0], found["vectors"][0]
    assert (words.encoder_id, words.vectors, vectors.words) == (None, None, None)
    assert (words.score, vectors.score) == (words.words.score, vectors.vectors.score)
    assert words.reasons == ("says exine (wall)", "shares Green", "read as exine (wall); by words: BM25 over 3 texts")
    for wrong in ({"kind": "grain"}, {"encoder": "colours"}):
        with pytest.raises(UsageError, match="by='words': expected texts"):
            collection.search("green", by="words", **wrong)
    with pytest.raises(UsageError, match="a query that has no words"):
        collection.search(picture(0, 9, 0), by="words")
    for wrong in (None, b"green", [0.0, 1.0], 3):
        with pytest.raises(UsageError, match=f"query: expected words, a picture .* got {type(wrong).__name__}"):
            collection.search(wrong, encoder="colours")
    for wrong, said in (({"by": "both"}, "words, vectors or None"), ({"kind": "texts"}, "expected grain or text")):
        with pytest.raises(UsageError, match=said):
            collection.search("green", **wrong)


def test_what_an_encoder_cannot_read_is_searched_by_words_and_says_so(collection):
    class Latin(Colours):
        def readable(self, items):
            return [item.isascii() for item in items]

    latin = Latin("text", "latin")
    ids = collection.add([Record(kind="text", text=text) for text in ("green", "松属 花粉")], latin)
    with Collection.open(collection.path, encoders=[latin]) as opened:
        assert opened.info()["spaces"][1]["vectors"] == 1
        hits = opened.search("松属", kind="text")
        assert [hit.id for hit in hits] == [ids[1]] and hits[0].encoder_id is None
        assert "by meaning: not at all, as latin cannot read the query" in hits[0].reasons[-1]
        with pytest.raises(UsageError, match=r"expected words that latin can read, got '松属'"):
            opened.search("松属", kind="text", by="vectors")
    with Collection.create(collection.path.parent / "none", encoders=[latin]) as without:
        without.add([Record(kind="text", text="green")], None)
        assert "by meaning: not at all, as no text has a vector" in without.search("green")[0].reasons[-1]


def test_a_picture_in_which_no_grain_stands_out_is_told(collection):
    class Careful(Colours):
        def encode_seen(self, items):
            return self.encode(items), [np.asarray(item).min() < 200 for item in items]

    with Collection.open(collection.path, encoders=[Careful("image")]) as opened:
        doubtful, sure = (opened.search(picture(*c), 1)[0].reasons[-1] for c in ((250, 240, 240), (9, 9, 250)))
    assert doubtful.startswith("no grain stands out from the picture, so all of it was compared")
    assert sure.startswith("near in colours")


def test_an_empty_collection_has_no_answers(tmp_path, collection):
    with Collection.create(tmp_path / "new", encoders=[Colours("text"), Colours("image")]) as new:
        assert new.search("green") == new.search(picture(0, 9, 0)) == new.search("green", by="words") == []
        with pytest.raises(RejectedModelError, match="none; got one of colours"):
            new.search(np.array([0, 1, 0], np.float32), encoder="colours")
    collection.delete(where="id > 0")
    assert collection.kinds() == ()
    assert (
        collection.search("green")
        == collection.search("green", kind="text")
        == collection.search(picture(0, 9, 0))
        == []
    )


def test_words_are_the_same_in_every_unicode_form(collection):
    collection.add(
        [Record(kind="text", taxon="Süßkirsche", text="Größe und Züge"), Record(kind="text", text="x")], None
    )
    for form in ("NFC", "NFD", "NFKC", "NFKD"):
        asked = [unicodedata.normalize(form, text) for text in ("Züge der Süßkirsche", "Größe")]
        hits = [collection.search(text, by="words") for text in asked]
        assert [[hit.id for hit in found] for found in hits] == [[5], [5]]
        assert hits == [collection.search(text, by="words") for text in ("Züge der Süßkirsche", "Größe")]


def test_what_is_no_query_is_refused(collection):
    for nonsense in (5, b"green", np.zeros((2, 2, 2, 2)), None):
        with pytest.raises(PalynoError):
            collection.search(nonsense)
    for nothing in ("", "  \n", "?!", "🌸"):
        with pytest.raises(UsageError, match="without a letter or digit"):
            collection.search(nothing)
    with pytest.raises(UsageError, match=r"at most 10,000 characters, got 10,001"):
        collection.search("x" * 10_001)
    with pytest.raises(UsageError, match="encoder: expected"):
        collection.search("green", encoder=5)
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


def test_texts_that_were_encoded_for_pictures_are_no_duplicates(collection):
    collection.add([Record(kind="text", text="green")] * 2, Colours("text"))
    assert collection.near_duplicates(0.999) == []
    collection.add([Record(kind="grain")], Colours("image"), items=[picture(0, 99, 0)])
    assert [(pair.first, pair.second) for pair in collection.near_duplicates(0.999)] == [(3, 7)]


def test_duplicates_are_looked_for_among_grains_where_most_of_them_have_a_vector(collection):
    texts = collection.add([Record(kind="text", text="green")] * 2, Colours("text", "sentences"))
    found = collection.duplicates(0.8)
    assert (found.encoder_id, found.kind, found.compared, found.left_out) == ("colours", "grain", 4, 0)
    assert [(pair.first, pair.second) for pair in found.pairs] == [(1, 2)]
    # A second space of pictures, with fewer of them, is not the one that is meant until it holds as many.
    shapes = Colours("image", "shapes")
    more = collection.add([Record(kind="grain")] * 2, shapes, items=[picture(0, 0, 9)] * 2)
    found = collection.duplicates(0.8)
    assert (found.encoder_id, found.compared, found.left_out) == ("colours", 4, 2)
    found = collection.duplicates(0.8, where="id > 6")
    assert (found.encoder_id, found.compared, found.left_out) == ("shapes", 2, 0)
    assert [(pair.first, pair.second) for pair in found.pairs] == [tuple(more)]
    collection.embed([1, 2], shapes.encode([picture(9, 0, 0)] * 2), shapes)
    with pytest.raises(UsageError, match=r"--space.* as several hold the most grains, 4: colours, shapes"):
        collection.duplicates(0.8)
    assert collection.duplicates(0.8, encoder="shapes").compared == 4
    # Texts, where no grain passes; and nothing, where nothing does.
    found = collection.duplicates(0.8, where="kind = 'text'")
    assert (found.encoder_id, found.kind, found.compared) == ("sentences", "text", 2)
    assert [(pair.first, pair.second) for pair in found.pairs] == [tuple(texts)]
    found = collection.duplicates(0.8, where="taxon = 'black'")
    assert (found.pairs, found.encoder_id, found.compared) == ((), None, 0)


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
