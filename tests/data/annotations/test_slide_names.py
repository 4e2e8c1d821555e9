from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st
from palyno.data.annotations.names import slide_stem, slide_stems
from palyno.errors import UsageError


@pytest.mark.parametrize(
    ("name", "stem"),
    [
        ("a.tif", "a"),
        ("dir/sub/a.tif", "a"),
        ("C:\\slides\\a.tif", "a"),
        ("level 3 (10 cm).ome.tif", "level 3 (10 cm).ome"),
        ("Isoëtes.png", "Isoëtes"),
        (unicodedata.normalize("NFD", "Isoëtes.png"), unicodedata.normalize("NFC", "Isoëtes")),
        ("no extension", "no extension"),
    ],
)
def test_a_plain_name_keeps_its_stem(name, stem):
    assert slide_stem(name) == stem


@pytest.mark.parametrize(
    ("name", "start"),
    [
        ("a:b?.tif", "a_b_-"),
        ("line\nend.tif", "line_end-"),
        ("CON.tif", "_CON-"),
        ("nul", "_nul-"),
        ("com1.ome.tif", "_com1.ome-"),
        (".hidden", "_hidden-"),
        ("trailing. .tif", "trailing_-"),
        ("..", "_-"),
        ("", "_-"),
        ("\udcff.tif", "_-"),
        ("ë" * 300 + ".tif", "ë" * 100 + "-"),
    ],
)
def test_what_file_systems_dislike_is_replaced_and_told_by_the_hash(name, start):
    stem = slide_stem(name)
    assert stem.startswith(start) and len(stem) == len(start) + 8
    assert len(stem.encode()) <= 209


@pytest.mark.parametrize(
    "names",
    [
        ("a.tif", "a.png"),
        ("x/a.tif", "y/a.tif"),
        ("A.tif", "a.tif"),
        ("a:.tif", "a?.tif"),
        (unicodedata.normalize("NFC", "ë.tif"), unicodedata.normalize("NFD", "ë.tif")),
        ("ë" * 300 + "1.tif", "ë" * 300 + "2.tif"),
    ],
)
def test_names_that_would_share_a_file_differ(names):
    stems = slide_stems(names)
    assert len({stem.casefold() for stem in stems.values()}) == 2
    assert slide_stems(reversed(names)) == stems


def test_slides_of_one_name_say_which_folder_they_are_of():
    stems = slide_stems(["2024-05-01/sweep 1.jpg", "2024-05-02/a/sweep 1.jpg", "x.jpg", "y/z.jpg"])
    assert [stem[:-8] for stem in stems.values()][:2] == ["2024-05-01_sweep 1-", "2024-05-02_a_sweep 1-"]
    assert list(stems.values())[2:] == ["x", "z"]
    deep = slide_stems([f"{'ü' * 200}/{day}/sweep 1.jpg" for day in ("monday", "tuesday")])
    assert all(
        f"ü_{day}_sweep 1-" in stem and len(stem.encode()) <= 209
        for day, stem in zip(("monday", "tuesday"), deep.values(), strict=True)
    )


@given(st.lists(st.text(max_size=12), unique=True, max_size=8))
def test_any_names_give_distinct_valid_stems(names):
    stems = slide_stems(names)
    assert list(stems) == names
    assert len({unicodedata.normalize("NFC", stem).casefold() for stem in stems.values()}) == len(names)
    for stem in stems.values():
        assert stem and not stem.startswith(".") and not stem.endswith((" ", "."))
        assert not set(stem) & set('<>:"/\\|?*\0\n\r')
        stem.encode()


def test_a_name_that_is_there_twice_is_refused():
    with pytest.raises(UsageError, match=r"'a\.tif' is there twice"):
        slide_stems(["a.tif", "b.tif", "a.tif"])


def test_a_name_made_to_clash_is_refused():
    clash = slide_stems(["a.tif", "a.png"])["a.png"]
    with pytest.raises(UsageError, match="too alike"):
        slide_stems(["a.tif", "a.png", f"{clash}.tif"])
