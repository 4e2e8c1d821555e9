from __future__ import annotations

import sqlite3

import pytest
from hypothesis import given
from hypothesis import strategies as st
from palyno.errors import UsageError
from palyno.retrieval.collection import Collection, Record
from palyno.retrieval.collection.where import parse


@pytest.fixture(scope="module")
def collection(tmp_path_factory):
    """Six records: what each filter below must find is read off them by eye."""
    records = [
        Record(kind="grain", taxon="Betula", width_um=25, slide="A1", confidence=0.9, extra={"depth": 1, "who": "Ö"}),
        Record(kind="grain", taxon="Betula", width_um=19.5, slide="A2", extra={"depth": 2.5, "core": {"site": "bog"}}),
        Record(kind="grain", taxon="Alnus × hybrida", width_um=25, slide="b_1", extra={"ok": True}),
        Record(kind="grain", taxon="Süßkirsche", slide="100%", extra={"ok": False}),
        Record(kind="text", text="it's a key", time="2026-05-01T10:00", reviewer="o'neil"),
        Record(kind="text", time="2026-06-01"),
    ]
    made = Collection.create(tmp_path_factory.mktemp("where") / "c")
    made.add(records, "space", vectors=[[1.0]] * 6)
    yield made
    made.close()


@pytest.mark.parametrize(
    ("where", "found"),
    [
        ("taxon = 'Betula'", [1, 2]),
        ("taxon != 'Betula'", [3, 4]),
        ("TAXON <> 'Betula'", [3, 4]),
        ("not taxon = 'Betula'", [3, 4]),
        ("taxon is null", [5, 6]),
        ("not (taxon is null)", [1, 2, 3, 4]),
        ("taxon is not null and width_um is null", [4]),
        ("taxon = 'Betula' and width_um > 20 and slide like 'A%'", [1]),
        ("width_um >= 19.5 and width_um <= 2.5e1", [1, 2, 3]),
        ("width_um between 19 and 20", [2]),
        ("width_um not between 19 and 20", [1, 3]),
        ("id in (1, 3, 99)", [1, 3]),
        ("id not in (1,3)", [2, 4, 5, 6]),
        ("kind = 'text' or width_um = 25 and slide = 'A1'", [1, 5, 6]),
        ("(kind = 'text' or width_um = 25) and slide = 'A1'", [1]),
        ("slide like 'a_'", [1, 2]),
        ("slide like 'b\\_1'", [3]),
        ("slide like 'a\\_%'", []),
        ("slide like '100\\%'", [4]),
        ("slide not like 'A%'", [3, 4]),
        ("text = 'it''s a key'", [5]),
        ("reviewer = 'o''neil'", [5]),
        ("time < '2026-05-15'", [5]),
        ("extra.depth > 1", [2]),
        ("extra.depth in (1, 2.5)", [1, 2]),
        ("extra.core.site = 'bog'", [2]),
        ("extra.ok = true", [3]),
        ("extra.ok = false or extra.who = 'Ö'", [1, 4]),
        ("extra.missing is null and id < 2", [1]),
        ("confidence = .9", [1]),
        ("", [1, 2, 3, 4, 5, 6]),
        ({"taxon": "Betula"}, [1, 2]),
        ({"taxon": ["Betula", "Süßkirsche"], "slide": "100%"}, [4]),
        ({"taxon": []}, []),
        ({"extra.ok": True}, [3]),
    ],
)
def test_finds_what_it_says(collection, where, found):
    assert [i for i, _ in collection.records(where)] == found
    assert collection.count(where) == len(found)


def test_a_taxon_is_found_under_every_name_that_is_counted_as_it_and_kept_as_written(tmp_path):
    written = ("Poaceae", "Poaceae sp.", "Poaceae-type", "cf. Poaceae", "Zea mays", "Poaceae spp.", None, "unknown")
    with Collection.create(tmp_path / "c") as made:
        made.add([Record(kind="grain", taxon=taxon) for taxon in written], None)
        for where, found in (
            ("taxon = 'Poaceae'", [1, 2, 6]),
            ("taxon = 'Poaceae sp.'", [1, 2, 6]),
            ("taxon != 'Poaceae sp.'", [3, 4, 5, 8]),
            ("not taxon in ('Poaceae', 'unknown')", [3, 4, 5]),
            ("taxon not in ('Poaceae spp.', 'unknown')", [3, 4, 5]),
            ("taxon in ('Zea mays', 'Poaceae') and id > 1", [2, 5, 6]),
            ("taxon = 'Poaceae-type' or taxon = 'cf. Poaceae'", [3, 4]),
            ("taxon like 'Poaceae sp.'", [2]),
            ("taxon like 'Poaceae' or taxon is null", [1, 7]),
            ("text = 'Poaceae' or extra.taxon = 'Poaceae'", []),
            ({"taxon": "Poaceae spp."}, [1, 2, 6]),
            ({"taxon": ["cf. Poaceae", "unknown"], "kind": "grain"}, [4, 8]),
        ):
            assert [i for i, _ in made.records(where)] == found, where
        assert [record.taxon for _, record in made.records()] == list(written)
        assert made.count({"taxon": [f"Genus{chr(97 + i // 26 % 26)}{chr(97 + i % 26)}" for i in range(10_000)]}) == 0


@pytest.mark.parametrize("form", ["Su\u0308ßkirsche", "Süßkirsche", "S\u00fcßkirsche"])
def test_any_unicode_form_of_a_name_finds_it(collection, form):
    for where in (f"taxon = '{form}'", {"taxon": form}, f"taxon like '{form[:3]}%'", f"taxon in ('{form}')"):
        assert [i for i, _ in collection.records(where)] == [4]
    assert [i for i, _ in collection.records("extra.who = 'O\u0308'")] == [1]
    assert [r.taxon for _, r in collection.records("taxon like '% × %'")] == ["Alnus × hybrida"]


@pytest.mark.parametrize(
    ("where", "said"),
    [
        ("taxon == 'Betula'", "character 8, got ="),
        ("taxon = Betula", "text in single quotes at character 9, got Betula"),
        ('taxon = "Betula"', "text stands in single quotes"),
        ("taxon = 5", "text in single quotes"),
        ("width_um > 'a'", "a number at character 12"),
        ("width_um like '2%'", "comparison with a number"),
        ("genus = 'Betula'", "expected one of id, kind, key, taxon"),
        ("taxon = 'Betula' and", "a column at character 21, got the end"),
        ("(taxon = 'Betula'", r"expected \) at character 18"),
        ("taxon = 'Betula') or (1 = 1", "and, or, or the end"),
        ("taxon in ()", "text in single quotes"),
        ("taxon", "a comparison such as"),
        ("taxon not = 'a'", "like, in or between"),
        ("taxon is 'a'", "null"),
        ("1 = 1", "a column"),
        ("width_um = 1_0", "character"),
        ("taxon = 'a' ; drop table records", "got '; drop"),
        ("taxon = 'a' -- x", "got '-- x'"),
        ('extra.a" = 1', "character"),
        ({"genus": "Betula"}, "expected one of id"),
        ({"taxon": 5}, "expected text, got 5"),
        ({"width_um": "a"}, "expected a number"),
        ({"taxon": None}, "expected text, got None"),
        ({'extra.a"b': 1}, "expected one of id"),
        (5, "expected a filter as text"),
        ("not " * 60 + "taxon = 'a'", "inside each other"),
        ("(" * 60, "inside each other"),
        (" or ".join(["id = 1"] * 501), "at most 500"),
        ("taxon = '" + "a" * 30_000 + "'", "at most 20,000 characters"),
        ({"id": list(range(20_000))}, "at most 10,000 values"),
    ],
)
def test_what_is_not_in_the_language_is_refused(collection, where, said):
    with pytest.raises(UsageError, match=said):
        collection.count(where)


def test_the_largest_filters_are_evaluated(collection):
    assert collection.count(" or ".join(["id = 1"] * 500)) == 1
    assert collection.count("not (" * 24 + "id = 1" + ")" * 24) == 1
    assert collection.count({"id": list(range(10_000))}) == 6
    assert collection.count(f"id < {10**400}") == 6


WORDS = st.sampled_from(["taxon", "id", "extra.a", "and", "or", "not", "in", "like", "is", "null", "between", "true"])
SIGNS = st.sampled_from(["=", "<", "(", ")", ",", "'a'", "'", '"', ";", "--", "1", "1e9", "\\", "?", "\0", "ü", "%"])


@given(st.lists(WORDS | SIGNS | st.text(max_size=3), max_size=12).map(" ".join))
def test_any_text_is_refused_or_becomes_sql_that_only_reads(text):
    try:
        condition = parse(text)
    except UsageError:
        return
    database = sqlite3.connect(":memory:")
    database.create_function("nfc", 1, lambda value: value)
    database.execute("CREATE TABLE records (id INTEGER, taxon TEXT, extra TEXT)")
    # Whatever would write is denied; no value stands in the statement itself.
    database.set_authorizer(lambda action, *_: sqlite3.SQLITE_OK if action in (20, 21, 31) else sqlite3.SQLITE_DENY)
    database.execute(f"SELECT id FROM records WHERE {condition.sql}", condition.values).fetchall()
    assert "'a'" not in condition.sql and ";" not in condition.sql
