"""The field's words: found in four languages, longest first, with what is negated; and the tables that ship."""

import csv
import unicodedata
from importlib.resources import files
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from palyno import InputError
from palyno.retrieval.glossary import LANGUAGES, Glossary, Mention


@pytest.fixture(scope="module")
def shipped():
    return Glossary.shipped()


@pytest.mark.parametrize(
    ("text", "wanted", "unwanted"),
    [
        ("three-pored grains", ["triporate"], []),
        ("dreiporige Körner ohne Stacheln", ["triporate"], ["echinate"]),
        ("granos sin aperturas, con espinas", ["inaperturate", "echinate"], []),
        ("pollen tricolporé, pas réticulé", ["tricolporate"], ["reticulate"]),
        ("POLEN DE ABEDUL", ["Betula"], []),
        ("neither porate nor colpate but with air sacs", ["saccate"], ["porate", "colpate"]),
        ("not spiny, smooth", ["psilate"], ["echinate"]),
        ("without pores or furrows", ["inaperturate"], []),
        ("weder Baum noch Strauch", [], ["tree", "shrub"]),
        ("spiny. Not reticulate. Large", ["echinate", "large"], ["reticulate"]),
        ("echinate but not without echinate ones", ["echinate"], []),
        ("spines absent", [], ["echinate"]),
        ("Spines and warts are absent, three pores", ["triporate"], ["echinate", "verrucate"]),
        ("reticulate, pores not present", ["reticulate"], ["porate"]),
        ("dreiporig, Stacheln fehlen", ["triporate"], ["echinate"]),
        ("Es fehlen Poren", [], ["porate"]),
        ("espinas ausentes", [], ["echinate"]),
        ("sacci missing and three pores", ["triporate"], ["saccate"]),
        ("triporate grains lacking spines", ["triporate"], ["echinate"]),
        ("colpi present, spines seen", ["colpate", "echinate"], []),
        ("a poreless, spineless grain", [], ["echinate", "porate"]),
        ("stachellose Körner", [], ["echinate"]),
        ("not spineless", ["echinate"], []),
        ("Größe 20 µm, größer als die Birke", ["Betula"], []),
        ("große Körner", ["large"], []),
        ("Süßgräser, Graspollen", ["Poaceae"], []),
        ("Straßenverkehr", [], []),
        ("", [], []),
    ],
)
def test_what_is_asked_for_and_what_is_not_wanted(shipped, text, wanted, unwanted):
    query = shipped.query(text)
    assert (list(query.terms), sorted(query.unwanted)) == (wanted, sorted(unwanted))
    for form in ("NFC", "NFD"):
        assert shipped.query(unicodedata.normalize(form, text)).terms == query.terms


def test_the_longest_wording_wins_and_an_ending_is_any():
    glossary = Glossary({"porate": ["pore"], "triporate": ["three pores", "dreipor*"], "echinate": []})
    assert [m.term for m in glossary.read("three pores, a pore, three-pores, dreiporigem, pores")] == (
        ["triporate", "porate", "triporate", "triporate"]
    )
    # A wording does not reach over a comma.
    assert glossary.read("three, pores") == []
    assert glossary.read("x ECHINATE") == [Mention("echinate", 2, 10, False)]


def test_a_document_gets_the_terms_it_says_with_the_broader_ones_and_not_the_negated():
    glossary = Glossary(
        {"aperture": [], "porate": [], "triporate": ["3 pores"], "echinate": []},
        broader={"triporate": "porate", "porate": "aperture"},
    )
    assert glossary.document("3 pores, not echinate") == "3 pores, not echinate aperture porate triporate"
    assert glossary.concepts("not echinate") == frozenset()
    assert glossary.broader("triporate") == ("porate", "aperture")


def test_a_query_is_put_in_words_and_in_a_sentence(shipped):
    query = shipped.query("dreiporig, ohne Stacheln")
    assert query.words == "dreiporig, ohne triporate"
    assert query.sentence == f"dreiporig, ohne. {shipped.glosses['triporate']}"
    plain = shipped.query("slide 12 of core A")
    assert (plain.words, plain.sentence, plain.terms) == ("slide 12 of core A", "slide 12 of core A", ())


def test_what_a_document_says_is_not_there_does_not_speak_against_it(shipped):
    unwanted = shipped.query("Nadelbaum ohne Luftsäcke").unwanted
    assert unwanted & shipped.concepts("A conifer with two air bladders.")
    assert not unwanted & shipped.concepts("A conifer without bladders.")


@given(st.text(max_size=60))
def test_any_text_can_be_read_and_mentions_stand_apart_in_order(text):
    mentions = Glossary.shipped().read(text)
    assert all(a.stop <= b.start for a, b in pairwise(mentions))
    assert all(mention.start < mention.stop for mention in mentions)


def test_every_shipped_wording_is_read_as_its_term(shipped):
    """But for a few words that stand for a plant and its kind (`grass`, `peat moss`), or for two terms (`spinules`)."""
    other = []
    for name in ("glossary.csv", "names.csv"):
        with files("palyno.retrieval").joinpath(name).open(encoding="utf-8", newline="") as file:
            for row in csv.DictReader(file):
                term = row.get("term") or row["taxon"]
                for language in LANGUAGES:
                    for way in filter(str.strip, row[language].split("|")):
                        found = {mention.term for mention in shipped.read(way.replace("*", ""))}
                        if term not in found:
                            other.append((term, way, found))
    assert len(other) <= 16, other


def test_the_shipped_tables_name_their_sources_and_every_language():
    with files("palyno.retrieval").joinpath("glossary.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    terms = {row["term"] for row in rows}
    assert len(rows) == len(terms) > 70
    assert all(row[language] for row in rows for language in LANGUAGES)
    assert all(row["broader"] in terms | {""} and row["gloss"] for row in rows)
    morphology = rows[: [row["term"] for row in rows].index("tree")]
    assert all(row["sources"] for row in morphology)


def test_tables_that_cannot_be_meant_are_refused():
    with pytest.raises(InputError, match="round in a circle"):
        Glossary({"a": [], "b": []}, broader={"a": "b", "b": "a"})
    with pytest.raises(InputError, match="expected words"):
        Glossary({"a": ["*"]})


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("dreiporiger Pollen ohne Luftsäcke", ["triporate (German dreiporiger)", "saccate (German Luftsäcke)"]),
        ("grano triporado", ["triporate (Spanish triporado)"]),
        ("parois LISSES", ["psilate (French LISSES)"]),
        ("three pores, Psilate", ["triporate (three pores)", "psilate"]),
        ("Birke", ["Betula (German Birke)"]),
        ("Betula", ["Betula"]),
    ],
)
def test_a_query_tells_how_it_says_each_term_and_in_which_language(query, expected):
    for form in ("NFC", "NFD"):
        said = Glossary.shipped().query(unicodedata.normalize(form, query)).said
        assert [str(one) for one in said.values()] == expected
        assert all(term == one.term for term, one in said.items())


def test_what_is_negated_is_told_as_such():
    asked = Glossary.shipped().query("smooth, ohne Stacheln, with spines that are not smooth")
    # What is wanted once is not unwanted.
    assert {term: one.negated for term, one in asked.said.items()} == {"psilate": False, "echinate": False}
    assert {term: one.negated for term, one in Glossary.shipped().query("not spiny").said.items()} == {"echinate": True}


def test_what_only_negates_leaves_no_words_and_the_sentence_as_it_was():
    for query in ("ohne Stacheln", "not spiny", "sin espinas", "spines are absent", "stachellos"):
        asked = Glossary.shipped().query(query)
        assert (asked.words, asked.sentence, asked.unwanted) == ("", query, {"echinate"})
    assert Glossary.shipped().query("grain without spines").words == "grain without"


def test_glossaries_that_read_documents_alike_have_the_same_digest():
    one = Glossary({"a": ["b c"], "d": []}, {"a": "d"}, {"a": "meaning"})
    assert one.digest == Glossary({"d": [], "a": ["B  c"]}, {"a": "d"}).digest
    assert (
        len({one.digest, Glossary({"a": ["b c"], "d": []}).digest, Glossary({"a": ["b"], "d": []}, {"a": "d"}).digest})
        == 3
    )
