"""Search in texts: two rankings fused, terms in other languages, and what is not wanted last."""

import numpy as np
import pytest
from palyno import UsageError
from palyno.retrieval.encoders.text import TextEncoder
from palyno.retrieval.fusion import RRF_K, fuse
from palyno.retrieval.glossary import Glossary, Query
from palyno.retrieval.hybrid import VECTOR_WEIGHT, TextSearch, combine
from palyno.retrieval.lexical import Lexicon

TEXTS = {
    3: "Triporate grains with a smooth wall.",
    5: "Bisaccate, with two large air bladders; a conifer.",
    8: "Three pores and many long spines.",
    9: "A conifer; plain balls without any opening.",
}


@pytest.fixture(scope="module")
def encoder():
    return TextEncoder(threads=1)


def make(encoder, **options):
    search = TextSearch(encoder, **options)
    search.add(list(TEXTS), list(TEXTS.values()))
    return search


def test_without_a_glossary_it_is_the_fusion_of_bm25_and_cosine(encoder):
    query = "smooth conifer grains"
    lexicon = Lexicon()
    lexicon.add(list(TEXTS), list(TEXTS.values()))
    cosine = encoder.encode(list(TEXTS.values())) @ encoder.encode([query])[0]
    by_meaning = [number for _, number in sorted(zip(-cosine, TEXTS, strict=True))]
    words = lexicon.search(query, 9)
    expected = fuse([[n for n, _ in words], by_meaning], weights=[1, VECTOR_WEIGHT])
    found = make(encoder).search(query)
    best = (1 + VECTOR_WEIGHT) / (RRF_K + 1)
    assert [(one.number, one.score) for one in found] == [(n, pytest.approx(score / best)) for n, score in expected]
    assert {one.number: (one.words.rank, one.words.score) for one in found if one.words} == {
        n: (rank, score) for rank, (n, score) in enumerate(words, 1)
    }
    places = {one.number: one.vectors for one in found}
    assert [places[n].rank for n in by_meaning] == [1, 2, 3, 4]
    assert [places[n].score for n in TEXTS] == pytest.approx(cosine, abs=1e-6)


def test_the_first_in_every_ranking_has_one(encoder):
    for vectors, words in ((True, True), (True, False), (False, True)):
        found = make(encoder if vectors else None, words=words).search("Triporate grains with a smooth wall.")
        assert found[0].number == 3 and found[0].score == pytest.approx(1)


@pytest.mark.parametrize("k", [0, 1, 10, 100, 101, 150, 200, 999])
def test_what_is_not_wanted_comes_last_however_far_down_the_rest_is(k):
    ranking = [(number, 1 / (1 + number)) for number in range(200)]
    said = {number: frozenset(["spiny"] if number < 100 else ["smooth"]) for number in range(200)}
    asked = Query("", ("smooth",), frozenset(["spiny"]))
    found = combine(asked, k, words=ranking, vectors=None, concepts=lambda some: {n: said[n] for n in some})
    assert [one.number for one in found] == [*range(100, 200), *range(100)][:k]
    assert all((one.unwanted == ("spiny",)) == (one.number < 100) for one in found)
    assert all((one.terms == ("smooth",)) == (one.number >= 100) for one in found)


def test_a_query_that_only_negates_finds_what_is_not_that(encoder):
    search = make(encoder, glossary=Glossary.shipped())
    for query in ("ohne Stacheln", "not spiny"):
        found = search.search(query)
        assert [one.number for one in found][-1] == 8 and len(found) == 4
        assert all(one.words is None for one in found)


def test_terms_are_found_in_other_languages_and_what_is_not_wanted_comes_last(encoder):
    search = make(encoder, glossary=Glossary.shipped())
    found = search.search("dreiporiger Pollen ohne Stacheln")
    assert found[0].number == 3 and found[0].terms == ("triporate",)
    assert found[-1].number == 8 and found[-1].unwanted == ("echinate",)
    assert search.search("conifère sans ballonnets")[0].number == 9


def test_documents_of_a_known_language_are_not_misread_by_another(encoder):
    """`Sapindaceae` starts like the French for a fir."""
    found = {}
    for languages in (("en", "fr"), ("en",)):
        search = TextSearch(None, glossary=Glossary.shipped(), document_glossary=Glossary.shipped(languages))
        search.add([1, 2], ["Maple, Sapindaceae.", "Silver fir, Pinaceae."])
        found[languages] = [one.number for one in search.search("Weißtanne")]
    assert set(found["en", "fr"]) == {1, 2} and found["en",] == [2]


@pytest.mark.parametrize(("vectors", "words"), [(True, False), (False, True)])
def test_each_ranking_stands_alone(encoder, vectors, words):
    search = make(encoder if vectors else None, words=words)
    assert search.search("smooth triporate")[0].number == 3
    assert len(search.search("smooth triporate", 9)) == (4 if vectors else 1)


def test_what_was_removed_is_not_found_and_its_number_is_free(encoder):
    search = make(encoder, glossary=Glossary.shipped())
    assert search.remove([3, 4]) == 1 and len(search) == 3
    assert 3 not in [one.number for one in search.search("triporate smooth wall", 9)]
    search.add([3], ["Echinate."])
    assert search.search("smooth", 9)[-1].number in TEXTS


def test_a_text_or_query_that_the_encoder_cannot_read_is_searched_by_its_words(encoder):
    search = make(encoder)
    search.add([1, 2], ["蔷薇", ""])
    assert not encoder.readable(["蔷薇"])[0]
    assert [one.number for one in search.search("蔷薇")] == [1]
    assert search.search("") == search.search("🌸") == []


def test_nothing_to_search_in_finds_nothing(encoder):
    assert TextSearch(encoder, glossary=Glossary.shipped()).search("Betula") == []
    assert make(encoder).search("Betula", 0) == []


def test_what_cannot_be_meant_is_refused(encoder):
    with pytest.raises(UsageError, match="nothing to search with"):
        TextSearch(None, words=False)
    with pytest.raises(UsageError, match="a glossary for queries, too"):
        TextSearch(encoder, document_glossary=Glossary.shipped())
    with pytest.raises(UsageError, match="languages: expected some of en, de, es, fr"):
        Glossary.shipped(("it",))
    search = make(encoder)
    for numbers in ([3], [7, 7]):
        with pytest.raises(UsageError, match="a new number for each text"):
            search.add(numbers, ["x"] * len(numbers))

    class Pictures:
        encoder_id, dim, modality = "pictures", 2, "image"

        def encode(self, items):
            return np.zeros((len(items), 2), np.float32)

    with pytest.raises(UsageError, match="expected an encoder of texts"):
        TextSearch(Pictures())
