"""Names at the rank that the probabilities bear out; expected values worked out by hand."""

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from palyno import UsageError
from palyno.vision.naming import Namer, at_least_one, shares

# Two genera of Sapindaceae, two species of one of them; a single Myrtaceae; a genus-level class; an unlisted one.
CLASSES = (
    "Serjania erecta",
    "Serjania hebecarpa",
    "Paullinia spicata",
    "Qualea multiflora",
    "Eucalyptus sp.",
    "Lycopodium marker",
    "unknown",
)


def name(threshold=0.5, **probabilities):
    p = np.full((1, len(CLASSES)), 0.0)
    for key, value in probabilities.items():
        p[0, [i for i, c in enumerate(CLASSES) if c.lower().startswith(key)]] = value
    (found,) = Namer(CLASSES, threshold).names(p)
    return found


def test_at_least_one_of_two_even_chances():
    np.testing.assert_allclose(at_least_one([[0.5, 0.5], [0, 0], [1, 0.2], [0.1, 0.2]]), [0.75, 0, 1, 0.28])


@pytest.mark.parametrize(
    ("probabilities", "taxon", "rank"),
    [
        ({"serjania e": 0.9}, "Serjania erecta", "species"),
        # A faint grain, but nothing else than this species.
        ({"serjania e": 0.3}, "Serjania erecta", "species"),
        ({"eucalyptus": 0.8}, "Eucalyptus sp.", "genus"),
        ({"lycopodium": 0.8}, "Lycopodium marker", "species"),
        ({"unknown": 0.8, "serjania e": 0.1}, "unknown", "unknown"),
        # Odds of 3 to 7 each: a third for a species, two thirds for the genus.
        ({"serjania": 0.3, "qualea": 0.3}, "Serjania", "genus"),
        # A third each, two of them of one family.
        ({"serjania e": 0.2, "paullinia": 0.2, "qualea": 0.2}, "Sapindaceae", "family"),
        # Odds of 2/3, 2/3 and 1: 4/7 for the genus.
        ({"serjania": 0.4, "unknown": 0.5}, "Serjania", "genus"),
        # Odds of 3/7, 3/7 and 3/2: 4/11 for the genus.
        ({"serjania": 0.3, "unknown": 0.6}, "unknown", "unknown"),
        # No two of them related, a third each.
        ({"serjania e": 0.5, "qualea": 0.5, "eucalyptus": 0.5}, "unknown", "unknown"),
    ],
)
def test_the_finest_name_that_the_probabilities_bear_out(probabilities, taxon, rank):
    found = name(**probabilities)
    assert (found.taxon, found.rank) == (taxon, rank)


def test_of_equal_names_the_finer_rank_goes_first_then_the_alphabet():
    found = name(threshold=0.3, **{"serjania e": 0.5, "qualea": 0.5, "eucalyptus": 0.5})
    assert (found.taxon, found.rank) == ("Qualea multiflora", "species")


def test_a_share_is_the_probability_given_that_exactly_one_is_right():
    p = np.array([0.2, 0.7, 0.5, 0.05])
    exactly = np.array([np.prod(np.where(np.arange(4) == i, p, 1 - p)) for i in range(4)])
    np.testing.assert_allclose(shares(np.log(p / (1 - p))), exactly / exactly.sum(), rtol=1e-12)


def test_temperature_flattens_shares_and_keeps_their_order():
    z = np.random.default_rng(0).normal(0, 3, (50, 9))
    cold, warm, hot = (shares(z, t) for t in (1, 2, 1e6))
    assert (np.argsort(cold, 1) == np.argsort(warm, 1)).all()
    assert (cold.max(1) > warm.max(1)).all() and (cold.min(1) < warm.min(1)).all()
    np.testing.assert_allclose(hot, 1 / 9, atol=1e-5)
    # As if two independent answers of half the evidence were multiplied and normalised.
    np.testing.assert_allclose(warm**2 / (warm**2).sum(1, keepdims=True), cold, rtol=1e-9)


def test_a_network_that_is_too_sure_names_less():
    p = np.array([[0.9, 0.01, 0.02, 0.3, 0.01, 0.01, 0.01]])
    names = [Namer(CLASSES, 0.8, t).names(p)[0] for t in (1, 3)]
    assert [n.taxon for n in names] == ["Serjania erecta", "unknown"]
    assert names[1].candidates[0][0] == "Serjania erecta" and names[1].candidates[0][1] < names[0].candidates[0][1]


def test_candidates_begin_with_the_name_and_hold_the_likeliest_classes():
    # Odds of 3/7 three times and 1/199; 0.6587 that there is a grain.
    assert name(serjania=0.3, qualea=0.3, paullinia=0.005).candidates == (
        ("Serjania", 0.4374),
        ("Qualea multiflora", 0.2187),
        ("Serjania erecta", 0.2187),
        ("Serjania hebecarpa", 0.2187),
    )
    # Odds of 4, 1/9 and twice 9/991; 0.8232 that there is a grain.
    assert name(qualea=0.8, paullinia=0.1, serjania=0.009).candidates == (
        ("Qualea multiflora", 0.7975),
        ("Paullinia spicata", 0.0222),
    )
    # Nothing speaks for `unknown` itself.
    assert name(qualea=0.3, paullinia=0.3, eucalyptus=0.3).candidates == (
        ("Eucalyptus sp.", 0.219),
        ("Paullinia spicata", 0.219),
        ("Qualea multiflora", 0.219),
    )


def test_a_species_does_not_give_way_to_a_genus_of_which_it_is_the_only_class():
    found = name(threshold=0.9, qualea=0.5, unknown=0.2)
    assert (found.taxon, found.rank) == ("unknown", "unknown")


tables = st.lists(st.floats(0, 1), min_size=len(CLASSES), max_size=len(CLASSES)).map(np.array)
FINENESS = {"species": 0, "genus": 1, "family": 2, "unknown": 3}


@given(tables, st.permutations(range(len(CLASSES))), st.floats(0.05, 1))
@settings(max_examples=150, deadline=None)
def test_the_order_of_classes_does_not_matter(p, order, threshold):
    expected = Namer(CLASSES, threshold).names(p)
    classes = [CLASSES[i] for i in order]
    assert Namer(classes, threshold).names(p[list(order)]) == expected


@given(tables, st.floats(0.05, 0.9), st.floats(0, 0.1))
@example(np.array([0.4, 0.4, 0, 0, 0, 0, 0.5]), 0.6, 0.1)
@example(np.array([0, 0, 0, 0, 0, 0.875, 0.5]), 0.875, 0.0625)
@example(np.array([1.0, 1, 0, 0, 0, 0, 0]), 0.5, 0.1)
@settings(max_examples=600, deadline=None)
def test_asking_for_more_certainty_never_gives_a_finer_name(p, threshold, more):
    less, much = (Namer(CLASSES, t).names(p)[0] for t in (threshold, threshold + more))
    assert FINENESS[much.rank] >= FINENESS[less.rank]


@given(tables, st.floats(0.3, 0.9), st.floats(0, 1))
@settings(max_examples=150, deadline=None)
def test_more_probability_for_the_named_class_keeps_the_name(p, threshold, share):
    found = Namer(CLASSES, threshold).names(p)[0]
    if found.taxon in CLASSES and p.max() > 0 and CLASSES[p.argmax()] == found.taxon:
        p[p.argmax()] += share * (1 - p.max())
        assert Namer(CLASSES, threshold).names(p)[0].taxon == found.taxon


def test_no_boxes_have_no_names():
    assert Namer(CLASSES).names(np.empty((0, len(CLASSES)))) == []


@pytest.mark.parametrize("arguments", [((),), (("a", "a"),), (("a",), 0), (("a",), 1.1), (("a",), 1, 0)])
def test_arguments_that_cannot_be_are_refused(arguments):
    with pytest.raises(UsageError, match="expected"):
        Namer(*arguments)
