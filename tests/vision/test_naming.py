"""Names at the rank that the probabilities bear out; expected values worked out by hand."""

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from palyno import UsageError
from palyno.vision.naming import Namer, at_least_one

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
        # 0.30 / (1 - 0.7 * 0.7 * 0.7) = 0.457 for a species; 0.51 / 0.657 = 0.776 for the genus.
        ({"serjania": 0.3, "qualea": 0.3}, "Serjania", "genus"),
        # 0.2 and 0.2 in different genera of one family, 0.2 in another: 0.36 / 0.488 = 0.738.
        ({"serjania e": 0.2, "paullinia": 0.2, "qualea": 0.2}, "Sapindaceae", "family"),
        # 0.64 for the genus is more than 0.5 for `unknown`, but 0.51 is less than 0.6.
        ({"serjania": 0.4, "unknown": 0.5}, "Serjania", "genus"),
        ({"serjania": 0.3, "unknown": 0.6}, "unknown", "unknown"),
        # No two of them related, and equal: the finer rank, then the alphabet.
        # 0.5 / 0.875 = 0.571 for each, but 0.3 / 0.657 = 0.457.
        ({"serjania e": 0.5, "qualea": 0.5, "eucalyptus": 0.5}, "Qualea multiflora", "species"),
        ({"serjania e": 0.3, "qualea": 0.3, "eucalyptus": 0.3}, "unknown", "unknown"),
    ],
)
def test_the_finest_name_that_the_probabilities_bear_out(probabilities, taxon, rank):
    found = name(**probabilities)
    assert (found.taxon, found.rank) == (taxon, rank)


def test_candidates_begin_with_the_name_and_hold_the_likeliest_classes():
    assert name(serjania=0.3, qualea=0.3, paullinia=0.005).candidates == (
        ("Serjania", 0.51),
        ("Qualea multiflora", 0.3),
        ("Serjania erecta", 0.3),
        ("Serjania hebecarpa", 0.3),
    )
    assert name(qualea=0.8, paullinia=0.02, serjania=0.009).candidates == (
        ("Qualea multiflora", 0.8),
        ("Paullinia spicata", 0.02),
    )
    # Nothing speaks for `unknown` itself.
    assert name(qualea=0.3, paullinia=0.3, eucalyptus=0.3).candidates == (
        ("Eucalyptus sp.", 0.3),
        ("Paullinia spicata", 0.3),
        ("Qualea multiflora", 0.3),
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


@pytest.mark.parametrize("arguments", [((),), (("a", "a"),), (("a",), 0), (("a",), 1.1)])
def test_arguments_that_cannot_be_are_refused(arguments):
    with pytest.raises(UsageError, match="expected"):
        Namer(*arguments)
