import csv
from importlib.resources import files

import numpy as np
import pytest
from palyno.data.taxa import taxon_of
from palyno.data.traits import TERMS, Traits, trait_matrix, traits_of


def rows(name):
    return list(csv.DictReader(files("palyno.data").joinpath(name).read_text(encoding="utf-8").splitlines()))


def test_every_taxon_of_the_reference_table_has_a_row():
    named = {row["taxon"] for row in rows("taxa.csv")} - {"unknown", "indeterminable", "Lycopodium"}
    assert named <= {row["taxon"] for row in rows("traits.csv")}


def test_no_taxon_comes_twice_and_each_says_how_sure_and_where():
    table = rows("traits.csv")
    assert len({row["taxon"] for row in table}) == len(table)
    assert {row["confidence"] for row in table} == {"high", "medium", "low"}
    assert all(row["source"] for row in table if any(row[f] for f in ("aperture_type", "ornamentation", "size_class")))


@pytest.mark.parametrize("field", TERMS)
def test_only_words_of_the_vocabulary_are_used(field):
    for row in rows("traits.csv"):
        held = getattr(traits_of(row["taxon"]), field)
        assert held is None or set([held] if isinstance(held, str) else held) <= set(TERMS[field])


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("zea_mays", {"aperture_number": ("1",), "aperture_type": "pore", "feature": "annulate"}),
        ("Tridax procumbens", {"aperture_number": ("3", "4"), "ornamentation": "echinate"}),
        ("croton_urucurana", {"aperture_number": ("0",), "aperture_type": "none"}),
        ("Pinus", {"feature": "saccate", "size_class": "large"}),
        ("mimosa_ditans", {"unit": None, "ornamentation": None}),
    ],
)
def test_facts_of_the_textbooks(name, expected):
    assert {field: getattr(traits_of(name), field) for field in expected} == expected


def test_apertures_that_are_none_have_no_kind_and_the_other_way_round():
    for row in rows("traits.csv"):
        assert (row["aperture_number"] == "0") == (row["aperture_type"] == "none")


def test_a_taxon_that_is_not_listed_has_no_traits():
    assert traits_of("Quercus robur") == Traits("Quercus robur")


def test_matrix_is_one_zero_or_unknown():
    names = ["tridax_procumbens", "zea_mays", "mimosa_ditans"]
    columns, values = trait_matrix(names)
    told = dict(zip(columns, values.T, strict=True))
    assert values.shape == (3, len(columns))
    assert told["aperture_number:4"][:2].tolist() == [1, 0]
    assert told["ornamentation:echinate"][:2].tolist() == [1, 0]
    assert np.isnan(values[2]).all()
    assert "ornamentation:striate" not in columns
    assert taxon_of("zea_mays") == "Zea mays"
