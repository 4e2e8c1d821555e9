import numpy as np
import pytest
from palyno.data.traits import TERMS, traits_of
from palyno.retrieval.glossary import Glossary
from palyno.retrieval.matching.captions import FIELDS, apertures, caption, facts, phrase, say, truths
from palyno.retrieval.matching.measures import Measures

PINK = Measures(120.0, 100.0, (0.01, 0.2, 0.01, 0.01, 0.01), (0.1, 0.6, 0.3), 60.0)


@pytest.mark.parametrize(
    ("number", "kind", "terms"),
    [
        ("3", "pore", ("triporate", "with three pores")),
        ("1", "sulcus", ("monosulcate", "with one long furrow")),
        ("many", "pore", ("pantoporate", "with many pores")),
        ("0", "none", ("inaperturate", "without apertures")),
        ("1", "leptoma", ("with one thin area",)),
    ],
)
def test_apertures_are_called_by_their_term_first(number, kind, terms):
    assert apertures(number, kind) == terms


def test_what_was_measured_stands_in_place_of_what_the_taxon_usually_is():
    taxon = "sida_cerradoensis"
    assert facts(taxon)["ornamentation"] == "echinate" == traits_of(taxon).ornamentation
    assert facts(taxon).keys().isdisjoint({"colour", "outline"})
    told = facts(taxon, PINK)
    assert (told["size"], told["colour"], told["outline"]) == ("large", "pink", "triangular")
    assert set(facts(taxon, PINK, ("colour",))) == {"colour"}


def test_nothing_is_said_of_a_taxon_that_is_not_in_the_table_but_its_name():
    assert facts("Nonesuch nonesuch") == {}
    one = caption("Nonesuch nonesuch", rng=np.random.default_rng(0), name=0)
    assert set(one.facts) == {"name"} and "onesuch" in one.text


def test_all_that_is_said_is_true_and_is_in_the_text():
    for seed in range(200):
        rng = np.random.default_rng(seed)
        one = caption("zea_mays", PINK, rng=rng)
        true = truths("zea_mays", PINK)
        for field, value in one.facts.items():
            assert value in true[field]
            if field == "name":
                assert value in one.text
        assert one.facts


def test_the_same_facts_in_their_terms_are_one_text():
    said = {"size": "large", "colour": "pink", "apertures": "3 colporus", "ornamentation": "reticulate"}
    assert phrase(said).text == "large pink tricolporate reticulate grain"
    wordings = {phrase(said, np.random.default_rng(seed)).text for seed in range(30)}
    assert len(wordings) > 15


@pytest.mark.parametrize("field", ["ornamentation", "shape", "feature"])
def test_every_trait_has_words_and_the_glossary_reads_the_term(field):
    for value in TERMS[field]:
        term = say(field, value)
        wordings = {say(field, value, np.random.default_rng(seed)) for seed in range(20)}
        assert term in wordings and len(wordings) > 1
        if term not in ("clavate", "heterocolpate", "trichotomosulcate", "syncolpate", "bisaccate"):
            assert term in Glossary.shipped().query(f"{term} grain").terms, term


def test_every_field_of_captions_can_be_said():
    assert set(facts("zea_mays", PINK)) <= set(FIELDS)
    assert say("colour", "grey", np.random.default_rng(0)) == "grey"
