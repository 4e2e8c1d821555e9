from __future__ import annotations

import csv
import unicodedata
from importlib.resources import files

import pytest
from palyno.data import taxa
from palyno.data.taxa import Lineage, counted_as, lineage, members, roll_up, spellings, taxon_of
from palyno.errors import UsageError

ROWS = list(csv.DictReader(files("palyno.data").joinpath("taxa.csv").read_text(encoding="utf-8").splitlines()))


@pytest.mark.parametrize(
    ("label", "taxon"),
    [
        ("acrocomia_aculeta", "Acrocomia aculeata"),
        ("genipa_auniricana", "Genipa americana"),
        ("myracroduon_urundeuva", "Myracrodruon urundeuva"),
        ("tabebuia_chysotricha", "Tabebuia chrysotricha"),
        ("tabebuia_rosealba", "Tabebuia roseoalba"),
        ("serjania_sp", "Serjania sp."),
        ("poaceae_sp", "Poaceae sp."),
        ("alnus_mix", "Alnus"),
        ("Zea mays", "Zea mays"),
        ("my_own_folder", "my_own_folder"),
    ],
)
def test_labels_get_the_accepted_spelling(label, taxon):
    assert taxon_of(label) == taxon


@pytest.mark.parametrize(
    ("name", "expected", "rank"),
    [
        ("Serjania erecta", Lineage("Serjania erecta", "Serjania", "Sapindaceae", "Sapindales"), "species"),
        ("Serjania sp.", Lineage(None, "Serjania", "Sapindaceae", "Sapindales"), "genus"),
        ("Serjania", Lineage(None, "Serjania", "Sapindaceae", "Sapindales"), "genus"),
        ("Poaceae sp.", Lineage(None, None, "Poaceae", "Poales"), "family"),
        ("Sapindaceae", Lineage(None, None, "Sapindaceae", "Sapindales"), "family"),
        ("Lycopodium", Lineage(None, "Lycopodium", "Lycopodiaceae", "Lycopodiales"), "genus"),
        ("unknown", Lineage(), "unknown"),
        ("indeterminable", Lineage(), "unknown"),
        ("Quercus robur", Lineage(), "unknown"),
    ],
)
def test_lineage_knows_names_at_every_rank(name, expected, rank):
    assert lineage(name) == expected
    assert lineage(name).rank == rank


@pytest.mark.parametrize(
    "name",
    ["unknown", "indeterminable", "Betula-type", "cf. Zea mays", "Zea mays cf.", "Poaceae >40 um", "Alnus undiff.", ""],
)
@pytest.mark.parametrize("rank", taxa.RANKS)
def test_a_name_that_is_not_in_the_table_is_never_shortened(name, rank):
    assert roll_up(name, rank) == name


def test_a_coarser_name_stays_as_it_is():
    assert roll_up("Poaceae sp.", "genus") == "Poaceae sp."
    assert roll_up("Sapindaceae", "genus") == "Sapindaceae"
    assert roll_up("Sapindales", "family") == "Sapindales"


def test_roll_up_reaches_each_rank():
    assert [roll_up("Zea mays", rank) for rank in taxa.RANKS] == ["Zea", "Poaceae", "Poales"]


def test_an_unknown_rank_lists_those_there_are():
    with pytest.raises(UsageError, match="genus, family, order"):
        roll_up("Oryza", "tribe")
    with pytest.raises(UsageError, match="genus, family, order"):
        members([], "tribe")


def test_members_group_classes_for_backing_off():
    classes = ["Serjania erecta", "Oryza", "Serjania sp.", "unknown", "Poaceae sp.", "Zea mays", "Quercus robur"]
    assert members(classes, "genus") == {
        "Serjania": [0, 2],
        "Oryza": [1],
        "unknown": [3],
        "Poaceae sp.": [4],
        "Zea": [5],
        "Quercus robur": [6],
    }
    assert members(classes, "family") == {
        "Sapindaceae": [0, 2],
        "Poaceae": [1, 4, 5],
        "unknown": [3],
        "Quercus robur": [6],
    }


@pytest.mark.parametrize("rank", taxa.RANKS)
def test_members_put_every_class_in_one_group(rank):
    classes = [row["taxon"] for row in ROWS]
    indices = sorted(i for group in members(classes, rank).values() for i in group)
    assert indices == list(range(len(classes)))


def test_rolling_up_step_by_step_is_rolling_up_at_once():
    for row in ROWS:
        assert roll_up(roll_up(row["taxon"], "genus"), "family") == roll_up(row["taxon"], "family")


def test_composed_and_decomposed_accents_match(monkeypatch):
    row = dict.fromkeys(("note", "order"), "") | {
        "label": "isoetes",
        "taxon": unicodedata.normalize("NFC", "Isoëtes"),
        "genus": unicodedata.normalize("NFC", "Isoëtes"),
        "family": "Isoetaceae",
        "rank": "genus",
    }
    monkeypatch.setattr(taxa, "_rows", lambda: (row,))
    taxa._names.cache_clear()
    try:
        assert roll_up(unicodedata.normalize("NFD", "Isoëtes"), "family") == "Isoetaceae"
    finally:
        taxa._names.cache_clear()


@pytest.mark.parametrize(
    ("written", "counted"),
    [
        ("Poaceae sp.", "Poaceae"),
        ("Poaceae spp.", "Poaceae"),
        ("Salix spec.", "Salix"),
        ("Quercus sp", "Quercus"),
        ("Isoe\u0308tes sp.", "Iso\u00ebtes"),
        ("Isoe\u0308tes", "Iso\u00ebtes"),
        ("Poaceae", "Poaceae"),
        # What follows says more than that no species is named.
        ("Poaceae-type", "Poaceae-type"),
        ("Poaceae type", "Poaceae type"),
        ("Poaceae-type sp.", "Poaceae-type sp."),
        ("cf. Poaceae", "cf. Poaceae"),
        ("cf. Poaceae sp.", "cf. Poaceae sp."),
        ("Poaceae cf.", "Poaceae cf."),
        ("Poaceae undiff.", "Poaceae undiff."),
        ("Poaceae >40 um", "Poaceae >40 um"),
        ("Betula sp. 2", "Betula sp. 2"),
        ("Betula sp. nov.", "Betula sp. nov."),
        ("Betula nana", "Betula nana"),
        ("Betula nana subsp.", "Betula nana subsp."),
        ("× Triticosecale sp.", "× Triticosecale sp."),
        ("unknown", "unknown"),
        ("indeterminable", "indeterminable"),
        ("unknown sp.", "unknown sp."),
        ("poaceae_sp", "poaceae_sp"),
        ("sp.", "sp."),
        ("", ""),
    ],
)
def test_only_a_species_that_is_not_named_counts_with_its_genus_or_family(written, counted):
    assert counted_as(written) == counted
    assert counted_as(counted) == counted
    assert spellings(written)[0] == counted


def test_spellings_are_the_names_that_are_counted_as_one():
    named = ["Poaceae", "Poaceae sp.", "Poaceae sp", "Poaceae spp.", "Poaceae spp", "Poaceae spec.", "Poaceae spec"]
    for name in named:
        assert sorted(spellings(name)) == sorted(named)
        assert {counted_as(one) for one in spellings(name)} == {"Poaceae"}
    for name in ("Poaceae-type", "cf. Poaceae", "Zea mays", "unknown", "× Triticosecale sp."):
        assert spellings(name) == (name,)


def test_a_name_that_counts_as_another_has_the_place_of_it():
    for row in ROWS:
        assert lineage(counted_as(row["taxon"])) == lineage(row["taxon"])


def test_the_table_is_consistent():
    assert len({row["label"] for row in ROWS}) == len({row["taxon"] for row in ROWS}) == len(ROWS)
    families: dict[str, set[str]] = {}
    for row in ROWS:
        families.setdefault(row["genus"], set()).add(row["family"])
        epithets = row["taxon"].split()
        assert row["rank"] in ("species", "genus", "family", "unknown")
        assert (row["rank"] == "unknown") == (row["family"] == "") == (row["order"] == "")
        if row["rank"] in ("species", "genus"):
            assert epithets[0] == row["genus"]
        if row["rank"] == "species":
            assert len(epithets) == 2 and epithets[1] != "sp."
        if row["family"]:
            assert row["family"].endswith("aceae") and row["order"].endswith("ales")
        assert all(unicodedata.is_normalized("NFC", value) for value in row.values())
    assert all(len(found) == 1 for genus, found in families.items() if genus)
