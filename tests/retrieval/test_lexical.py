"""Search by words: the formula, kept in step with what is added and removed."""

import hashlib
import math
import sqlite3
import unicodedata
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from palyno import UsageError
from palyno.retrieval.lexical import K1, B, Lexicon
from palyno.retrieval.words import VERSION, folded, terms

WORDS = ["betula", "alnus", "pore", "wall", "smooth", "triporate", "colpus", "grain"]
texts = st.lists(st.sampled_from(WORDS), max_size=12).map(" ".join)


def by_hand(documents, query, k1=K1, b=B):
    """The formula, a loop at a time."""
    counts = {number: Counter(text.split()) for number, text in documents.items()}
    mean = sum(c.total() for c in counts.values()) / max(len(counts), 1)
    scores = {}
    for number, own in counts.items():
        for term in query.split():
            n = sum(term in c for c in counts.values())
            if term in own:
                idf = math.log(1 + (len(counts) - n + 0.5) / (n + 0.5))
                part = own[term] / (own[term] + k1 * (1 - b + b * own.total() / mean))
                scores[number] = scores.get(number, 0) + idf * part
    return scores


@settings(max_examples=60, deadline=None)
@given(
    st.lists(texts, max_size=8), st.sets(st.integers(0, 7)), texts, st.sampled_from([(1.2, 0.75), (0.0, 0.0), (2, 1)])
)
def test_scores_are_the_formula_after_any_adding_and_removing(added, removed, query, parameters):
    lexicon = Lexicon(k1=parameters[0], b=parameters[1])
    documents = dict(enumerate(added))
    lexicon.add(list(documents), list(documents.values()))
    assert lexicon.remove(removed) == len(removed & set(documents))
    documents = {number: text for number, text in documents.items() if number not in removed}
    found = lexicon.search(query, k=100)
    assert len(lexicon) == len(documents)
    assert dict(found) == pytest.approx(by_hand(documents, query, *parameters), rel=1e-12)
    assert found == sorted(found, key=lambda item: (-item[1], item[0]))


def test_a_term_is_weighed_as_sqlite_weighs_it():
    documents = {i: " ".join(WORDS[(i * j) % 8] for j in range(1, 4 + i)) for i in range(1, 40)}
    database = sqlite3.connect(":memory:")
    database.execute("CREATE VIRTUAL TABLE peer USING fts5(text)")
    database.executemany("INSERT INTO peer (rowid, text) VALUES (?, ?)", documents.items())
    lexicon = Lexicon()
    lexicon.add(list(documents), list(documents.values()))
    for word in WORDS:
        rows = database.execute("SELECT rowid, -bm25(peer) FROM peer WHERE peer MATCH ?", (word,)).fetchall()
        n = len(rows)
        # SQLite takes Robertson's first idf, never below 1e-6, and the factor k1 + 1.
        theirs = max(math.log((39 - n + 0.5) / (n + 0.5)), 1e-6) * (K1 + 1)
        ours = math.log1p((39 - n + 0.5) / (n + 0.5))
        expected = {number: score / theirs * ours for number, score in rows}
        assert dict(lexicon.search(word, k=100)) == pytest.approx(expected, rel=1e-9)


def test_a_word_may_be_said_twice_or_weighed():
    lexicon = Lexicon()
    lexicon.add([1, 2], ["betula pore", "alnus pore"])
    (number, score), *_ = lexicon.search("betula")
    assert lexicon.search("betula betula", k=1) == [(number, 2 * score)]
    assert lexicon.search({"betula": 0.5, "alnus": 0.0}) == [(1, score / 2)]


def test_only_allowed_documents_are_found_and_rarity_stays_that_of_all():
    lexicon = Lexicon()
    lexicon.add(range(4), ["pore", "pore wall", "wall", "pore pore"])
    everything = dict(lexicon.search("pore", k=9))
    assert dict(lexicon.search("pore", k=9, among=[1, 2])) == {1: everything[1]}
    assert lexicon.search("pore", among=[]) == lexicon.search("pore", k=0) == lexicon.search("", k=3) == []


def test_adding_and_removing_belong_to_the_callers_transaction(tmp_path):
    file = tmp_path / "records.db"
    database = sqlite3.connect(file)
    lexicon = Lexicon(database)
    lexicon.add([1], ["betula"])
    database.commit()
    lexicon.add([2], ["betula alnus"])
    lexicon.remove([1])
    database.rollback()
    assert [number for number, _ in lexicon.search("betula alnus")] == [1] and 2 not in lexicon
    database.close()
    assert [number for number, _ in Lexicon(sqlite3.connect(file)).search("betula")] == [1]


def test_another_connection_that_writes_is_seen(tmp_path):
    first, second = (Lexicon(sqlite3.connect(tmp_path / "records.db", isolation_level=None)) for _ in range(2))
    first.add([1, 5], ["betula", "alnus pore"])
    assert [n for n, _ in second.search("betula pore")] == [1, 5] and second.ids().tolist() == [1, 5]
    first.remove([1])
    first.add([3], ["pore"])
    assert [n for n, _ in second.search("betula pore")] == [3, 5] and second.ids().tolist() == [3, 5]


def test_terms_that_nothing_says_any_more_are_forgotten():
    lexicon = Lexicon()
    lexicon.add([1, 2], ["betula pore", "alnus pore"])
    lexicon.remove([1])
    lexicon.tidy()
    assert {term for (term,) in lexicon.database.execute("SELECT term FROM lexicon_words")} == {"alnus", "pore"}
    assert [n for n, _ in lexicon.search("betula alnus")] == [2]


def test_the_version_rises_when_texts_are_read_in_another_way():
    """An index that was stored says which reading it is of: who changes what these give raises `words.VERSION`."""
    text = (
        "Tri-colporate GRAINS, 20–30 µm; Größe, l'aulne 3‑porate Populus × axis classes 桦木属 Betula花粉 ガ "
        "soft\u00adhyphen ﬁne ½ studies foot_note Ångström Ωmega ｗｉｄｅ"
    )
    digest = hashlib.sha256("\n".join([*terms(text), folded(text)]).encode()).hexdigest()[:16]
    assert (VERSION, digest) == (1, "00ecab4e5c504049")


def test_what_cannot_be_meant_is_refused_and_changes_nothing():
    lexicon = Lexicon()
    lexicon.add([1], ["betula"])
    for numbers, given_texts in (([1], ["x"]), ([2, 2], ["x", "y"]), ([2], ["x", "y"])):
        with pytest.raises(UsageError, match="expected a number"):
            lexicon.add(numbers, given_texts)
    assert len(lexicon) == 1 and lexicon.search("x") == []
    for wrong in ({"k1": -1.0}, {"b": 2.0}, {"k1": math.nan}):
        with pytest.raises(UsageError, match="expected k1"):
            Lexicon(**wrong)
    with pytest.raises(UsageError, match="weights from zero on"):
        lexicon.search({"betula": math.nan})


def test_a_text_without_words_is_kept_and_never_found():
    lexicon = Lexicon()
    lexicon.add([1, 2], ["", "betula"])
    assert len(lexicon) == 2 and [n for n, _ in lexicon.search("betula")] == [2]
    assert lexicon.remove([1]) == 1 and lexicon.remove([1]) == 0


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Tri-colporate GRAINS", ["tricolporate", "tri", "colporate", "grain"]),
        ("3‑porate", ["3porate", "3", "porate"]),
        ("20–30 µm", ["20", "30", "μm"]),
        ("Populus × canadensis", ["populus", "canadensis"]),
        ("Größe, épais, ÅNGSTRÖM", ["grosse", "epais", "angstrom"]),
        ("l'aulne (Alnus)", ["l", "aulne", "alnus"]),
        ("Pinus axis class walls spores", ["pinus", "axis", "class", "wall", "spore"]),
        ("松", ["松"]),
        ("桦木属 Betula花粉", ["桦", "木", "属", "桦木", "木属", "betula", "花", "粉", "花粉"]),
        ("ガ", ["ガ"]),
        ("soft\u00adhyphen", ["softhyphen"]),
        ("  ,;—\n", []),
    ],
)
def test_terms(text, expected):
    assert terms(text) == expected


@given(st.text(max_size=40))
def test_terms_are_the_same_in_every_unicode_form_and_case(text):
    expected = terms(text)
    for form in ("NFC", "NFD", "NFKC", "NFKD"):
        assert terms(unicodedata.normalize(form, text)) == expected
    assert all(term and not any(c.isspace() for c in term) for term in expected)


def test_a_chinese_name_is_found_by_a_part_of_it():
    lexicon = Lexicon()
    lexicon.add([1, 2, 3], ["桦木属花粉 三孔", "松属花粉 两个气囊", "Alnus"])
    assert [n for n, _ in lexicon.search("桦木")] == [1]
    assert [n for n, _ in lexicon.search("松")] == [2]
