from __future__ import annotations

import json
import unicodedata

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from palyno.errors import UsageError
from palyno.retrieval.collection import Collection, Record
from palyno.retrieval.collection.records import Records

TEXT = st.none() | st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=20)
JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**40), 2**40)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"]), max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("abü ", max_size=3), inner, max_size=3),
    max_leaves=8,
)
NUMBER = st.none() | st.floats(0, 1e6)


@pytest.fixture(scope="module")
def collection(tmp_path_factory):
    made = Collection.create(tmp_path_factory.mktemp("records") / "c")
    yield made
    made.close()


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    made = Records.create(tmp_path_factory.mktemp("records") / "t.sqlite")
    yield made
    made.close()


@given(
    taxon=TEXT, text=TEXT, reviewer=TEXT, width=NUMBER, confidence=st.none() | st.floats(0, 1),
    box=st.none() | st.tuples(st.floats(-9, 0), st.floats(-9, 0), st.floats(1, 9), st.floats(1, 9)),
    extra=st.dictionaries(st.text("abü×", max_size=3), JSON, max_size=3),
)  # fmt: skip
def test_a_record_comes_back_as_it_went_in(table, taxon, text, reviewer, width, confidence, box, extra):
    record = Record(
        kind="grain", taxon=taxon, text=text, reviewer=reviewer, width_um=width, confidence=confidence, box=box,
        time="2026-05-01T10:00:00+02:00", extra=extra,
    )  # fmt: skip
    ids = table.insert([record])
    again = table.get(ids)[int(ids[0])]
    assert again == record
    assert again.extra == extra
    assert again.taxon == (taxon and unicodedata.normalize("NFC", taxon))


@pytest.mark.parametrize("name", ["Salix × rubens", "Lüneburger Heide", "Lu\u0308neburger Heide", "苗", "a\nb\t'\";--"])
def test_names_survive_the_disk_in_composed_form(tmp_path, name):
    with Collection.create(tmp_path / "c") as collection:
        collection.add([Record(kind="grain", taxon=name, slide=name, key=name)], "e", vectors=[[1.0]])
    with Collection.open(tmp_path / "c") as collection:
        record = collection.get(1)
        assert record.taxon == record.slide == record.key == unicodedata.normalize("NFC", name)
        assert collection.count({"taxon": unicodedata.normalize("NFD", name)}) == 1
        with pytest.raises(UsageError, match="a key that is not in the collection"):
            collection.add([Record(kind="grain", key=unicodedata.normalize("NFD", name))], "e", vectors=[[1.0]])


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"kind": "pollen"}, "expected grain or text"),
        ({"taxon": 5}, "taxon: expected text"),
        ({"taxon": "a\0b"}, "NUL"),
        ({"slide": "\udc80"}, "Unicode text"),
        ({"box": (5, 0, 1, 1)}, "x1 <= x2"),
        ({"box": (0, 0, 1)}, "x1 <= x2"),
        ({"box": (0, 0, 1, float("nan"))}, "finite"),
        ({"width_um": -1}, "from 0 on"),
        ({"width_um": float("inf")}, "finite"),
        ({"height_um": "wide"}, "expected a number"),
        ({"confidence": 1.5}, "probability"),
        ({"time": "yesterday"}, "ISO 8601"),
        ({"extra": {"a": float("nan")}}, "JSON"),
        ({"extra": {"a": object()}}, "JSON"),
        ({"extra": {1: 2}}, "names with values"),
        ({"extra": {"a": "x" * (1 << 20)}}, "at most 1,048,576 bytes"),
        ({"extra": {"a": "\ud800"}}, "JSON"),
    ],
)
def test_a_record_that_cannot_be_meant_is_refused(fields, said):
    with pytest.raises(UsageError, match=said):
        Record(**{"kind": "grain", **fields})


def test_vectors_that_cannot_be_compared_are_refused(collection, unit):
    for vectors, said in [
        ([[float("nan"), 0.0]], "NaN or infinity in number 0"),
        ([[0.6, 0.8], [float("inf"), 0.0]], "NaN or infinity in number 1"),
        ([[0.0, 0.0]], "unit length, got 0"),
        ([[3.0, 4.0]], "unit length, got 5"),
        ([[1e200, 1.0]], "NaN or infinity"),
        ([["a", "b"]], "expected numbers"),
        ([0.6, 0.8], "shape"),
    ]:
        records = [Record(kind="grain")] * len(vectors)
        with pytest.raises(UsageError, match=said):
            collection.add(records, "two", vectors=vectors)
    assert len(collection) == 0 and collection.spaces == ()
    collection.add([Record(kind="grain")], "two", vectors=[[0.6, 0.8]])
    with pytest.raises(UsageError, match="vectors of 2 numbers, got 3"):
        collection.add([Record(kind="grain")], "two", vectors=unit(1, 3))
    for query, said in [(np.zeros(2), "unit length"), (np.array([np.nan, 1]), "NaN"), (unit(1, 3)[0], r"\(n, 2\)")]:
        with pytest.raises(UsageError, match=said):
            collection.search(query, encoder="two")


def test_calls_that_cannot_be_meant_are_refused_and_change_nothing(tmp_path, unit, grains):
    with Collection.create(tmp_path / "c") as c:
        ids = c.add(grains(3), "e", vectors=unit(3))
        before = c.info()
        for call, said in [
            (lambda: c.add(grains(2, 9), "e", vectors=unit(3)), "got 3 for 2"),
            (lambda: c.add(grains(2, 9), "", vectors=unit(2)), "encoder_id"),
            (lambda: c.add(grains(2, 2), "e", vectors=unit(2)), "'grain 2' again"),
            (lambda: c.add([*grains(1, 9), *grains(1, 9)], "e", vectors=unit(2)), "each key once"),
            (lambda: c.add(grains(1, 9), "e", vectors=unit(1), known="maybe"), "refuse, skip or update"),
            (lambda: c.add(grains(1, 9), "e"), "encoder: expected"),
            (lambda: c.update([99], taxon="x"), "got 99"),
            (lambda: c.update(ids, colour="x"), "fields of a record, got colour"),
            (lambda: c.update(ids, confidence=7), "probability"),
            (lambda: c.update([1, 2], key="one"), "no other record has"),
            (lambda: c.update([1, 1], taxon="x"), "each id once"),
            (lambda: c.delete([1, 99]), "got 99"),
            (lambda: c.delete(), "either ids or a filter"),
            (lambda: c.delete([1], where="id = 1"), "either ids or a filter"),
            (lambda: c.delete([-1]), "whole numbers"),
            (lambda: c.delete([1.5]), "whole numbers"),
            (lambda: c.embed([99], unit(1), "e"), "got 99"),
            (lambda: c.embed([1], unit(2), "e"), "got 2 for 1"),
            (lambda: c.get(99), "got 99"),
            (lambda: c.rebuild(exact_below=0), "1 or more"),
            (lambda: c.search(unit(1)[0], -1, encoder="e"), "from 0 on"),
            (lambda: c.search(unit(1)[0], 1.5, encoder="e"), "whole number"),
            (lambda: c.search(unit(1)[0], True, encoder="e"), "whole number"),
            (lambda: c.near_duplicates(0), "above 0"),
            (lambda: c.near_duplicates(1.5), "at most 1"),
        ]:  # fmt: skip
            with pytest.raises(UsageError, match=said):
                call()
        assert c.info() == before
        assert {i: r.taxon for i, r in c.records()} == {i + 1: r.taxon for i, r in enumerate(grains(3))}


def test_known_records_are_skipped_or_replaced(tmp_path, unit, grains):
    with Collection.create(tmp_path / "c") as c:
        c.add(grains(3), "e", vectors=unit(3))
        generation = c.info()["generation"]
        assert c.add(grains(3), "e", vectors=unit(3, seed=1), known="skip").tolist() == [1, 2, 3]
        assert c.info()["generation"] == generation
        assert c.add(grains(3, 1), "e", vectors=unit(3, seed=1), known="skip").tolist() == [2, 3, 4]
        assert np.array_equal(c.vectors([2, 4]), [unit(3)[1], unit(3, seed=1)[2]])
        renamed = [Record(kind="grain", taxon="Pinus", key="grain 0"), Record(kind="grain", key="new")]
        assert c.add(renamed, "e", vectors=unit(2, seed=2), known="update").tolist() == [1, 5]
        assert c.get(1).taxon == "Pinus" and c.get(1).width_um is None
        assert np.array_equal(c.vectors([1, 5]), unit(2, seed=2))
        assert len(c.search(unit(2, seed=2)[0], 99, encoder="e")) == len(c) == 5


def test_an_empty_collection_answers(tmp_path, unit):
    with Collection.create(tmp_path / "c") as c:
        assert (len(c), list(c.records()), c.spaces, c.delete(where="id > 0")) == (0, [], (), 0)
        assert all(check.ok for check in c.verify())
        c.add([], "e", vectors=np.empty((0, 4)))
        c.delete(c.add([Record(kind="grain")], "e", vectors=unit(1)))
        assert c.search(unit(1)[0], 5, encoder="e") == []
        c.compact()
        c.rebuild()
        assert c.search(unit(1)[0], 5, "taxon = 'x'", encoder="e") == []
        assert c.near_duplicates() == []


def test_ids_are_never_given_again(tmp_path, unit):
    with Collection.create(tmp_path / "c") as c:
        for last in (2, 4, 6):
            ids = c.add([Record(kind="grain")] * 2, "e", vectors=unit(2))
            assert ids.tolist() == [last - 1, last]
            c.delete(ids)
            c.compact()


def test_further_columns_are_kept_as_json(tmp_path):
    with Collection.create(tmp_path / "c") as c:
        extra = {"path": "/data/Lu\u0308.tif", "z": [1, 2.5, None], "ß": {"×": True}}
        c.add([Record(kind="grain", extra=extra)], "e", vectors=[[1.0]])
        assert json.dumps(c.get(1).extra) == json.dumps(extra)


@pytest.mark.parametrize("new", [True, False])
def test_a_batch_may_give_room_back_of_what_it_has_itself_written(tmp_path, unit, grains, new):
    # More than a file's buffer holds, so that rows are on the disk.
    vectors = unit(2000)
    with Collection.create(tmp_path / "c") as c:
        ids = c.add(grains(2000), "pictures", vectors=vectors) if not new else None
        with c.batch():
            ids = c.add(grains(2000), "pictures", vectors=vectors) if new else ids
            for i in range(3):
                c.delete(ids[10 * i : 10 * i + 10])
                c.compact()
        assert np.array_equal(c.vectors(ids[30:]), vectors[30:])
        c.delete(ids[30:40])
        c.compact()
        assert np.array_equal(c.vectors(ids[40:]), vectors[40:])
        # The files of this generation and of the one before it.
        assert len(list((tmp_path / "c").glob("vectors-*"))) == 2
    with Collection.open(tmp_path / "c") as c:
        assert np.array_equal(c.vectors(ids[40:]), vectors[40:]) and all(check.ok for check in c.verify())
