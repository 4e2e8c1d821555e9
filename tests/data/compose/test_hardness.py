"""Hard pictures are drawn as often as the equations say, only for training, and nothing else changes."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from palyno.data.compose import Hardness, Recipe, Sighting, compose_dataset, measure
from palyno.data.compose.cuts import Shelf, cut_to_file
from palyno.data.compose.hardness import shares, times
from palyno.data.references import Reference, find_references
from palyno.data.scene import SceneSettings
from palyno.errors import InputError, UsageError

PICTURES = Path(__file__).parents[1] / "pictures" / "pollen73s"


def picture(taxon, number):
    return Reference(Path(f"{number}.jpg"), taxon)


def test_hardness_is_the_mean_of_what_was_missed_drawn_to_the_taxons():
    seen = [Sighting("a/0.jpg", "a", 0.0), Sighting("a/0.jpg", "a", 0.5), Sighting("a/1.jpg", "a", 1.0)]
    hardness = measure([*seen, Sighting("b/0.jpg", "b", 0.9)])
    h_all = (1 + 0.5 + 0 + 0.1) / 4
    h_a = (1 + 0.5 + 0 + 5 * h_all) / (3 + 5)
    assert hardness.mean == pytest.approx(h_all, abs=1e-6)
    assert hardness.taxa == pytest.approx({"a": h_a, "b": (0.1 + 5 * h_all) / 6}, abs=1e-6)
    assert hardness.of(picture("a", 0)) == pytest.approx((1.5 + 5 * h_a) / 7, abs=1e-6)
    assert hardness.of(picture("a", 1)) == pytest.approx((0 + 5 * h_a) / 6, abs=1e-6)
    # Never placed: its taxon's; of a taxon that never was: that of all.
    assert hardness.of(picture("a", 2)) == hardness.taxa["a"]
    assert hardness.of(picture("c", 0)) == hardness.mean


def test_pictures_harder_than_usual_are_drawn_as_many_times_as_often_up_to_the_most():
    references = [picture("a", 0), picture("a", 1), picture("b", 0)]
    hardness = Hardness({"a/0.jpg": 0.8, "a/1.jpg": 0.1, "b/0.jpg": 0.15}, {}, 0.0)
    np.testing.assert_allclose(shares(references), [0.25, 0.25, 0.5])
    # Usual is 0.8 / 4 + 0.1 / 4 + 0.15 / 2 = 0.3.
    np.testing.assert_allclose(times(references, hardness), [0.8 / 0.3, 1, 1])
    capped = Hardness(hardness.pictures, {}, 0.0, most=2)
    np.testing.assert_allclose(times(references, capped), [2, 1, 1])


@pytest.mark.parametrize("most", [1.0, 1.5, 4.0, 50.0])
def test_no_picture_is_drawn_more_or_less_often_than_the_bounds(most):
    rng = np.random.default_rng(3)
    references = [picture(f"t{t}", i) for t in range(9) for i in range(rng.integers(1, 30))]
    hardness = Hardness(
        {r.name: float(h) for r, h in zip(references, rng.beta(0.3, 2, len(references)), strict=True)}, {}, 0.0, most
    )
    before = shares(references)
    after = before * times(references, hardness)
    ratio = after / after.sum() / before
    assert before.sum() == pytest.approx(1)
    assert (ratio >= 1 / most - 1e-9).all() and (ratio <= most + 1e-9).all()
    assert most == 1 or ratio.max() / ratio.min() > 1.4


@pytest.mark.parametrize("level", [0.0, 0.3, 1.0])
def test_where_all_are_as_hard_all_are_drawn_as_without(level):
    references = [picture("a", 0), picture("a", 1), picture("b", 0)]
    assert times(references, Hardness({}, {}, level)).tolist() == [1, 1, 1]


@pytest.fixture(scope="module")
def shelves(tmp_path_factory):
    """A shelf of real pictures, their hardness, and the shelf that draws by it."""
    # Taxa of one to all of their pictures.
    references = [r for i, r in enumerate(find_references(PICTURES / "train")) if i < 12 or i % 5 == 0]
    cuts = tmp_path_factory.mktemp("cuts")
    assert not any(cut_to_file(r, cuts) for r in references)
    labels = {r.taxon: r.taxon for r in references}
    rng = np.random.default_rng(0)
    hardness = Hardness(
        {r.name: float(h) for r, h in zip(references, rng.beta(0.5, 2, len(references)), strict=True)}, {}, 0.5
    )
    return Shelf(references, labels, cuts), hardness, Shelf(references, labels, cuts, hardness)


def test_a_shelf_draws_each_picture_as_often_as_the_equation_says(shelves):
    _, hardness, shelf = shelves
    references = [r for taxon in shelf.taxa for r in shelf.by_taxon[taxon]]
    chances = shares(references) * times(references, hardness)
    chances /= chances.sum()
    draws, rng = 20_000, np.random.default_rng(1)
    drawn = Counter(shelf.draw(rng).name for _ in range(draws))
    counts = np.array([drawn[r.name] for r in references])
    assert counts.sum() == draws
    z = (counts - draws * chances) / np.sqrt(draws * chances * (1 - chances))
    assert np.abs(z).max() < 4.5
    assert chances.max() / chances.min() > 3


def test_a_shelf_without_hardness_draws_as_ever(shelves):
    plain = shelves[0]
    ours, theirs = np.random.default_rng(7), np.random.default_rng(7)
    for _ in range(200):
        own = plain.by_taxon[plain.taxa[int(theirs.integers(len(plain.taxa)))]]
        assert plain.draw(ours) is own[int(theirs.integers(len(own)))]
    assert ours.bit_generator.state == theirs.bit_generator.state


def recipe(**options):
    return Recipe(
        PICTURES / "train",
        test_reference=PICTURES / "val",
        scenes={"train": 24, "val": 2, "test": 2},
        val_share=0.25,
        scene=SceneSettings(size=192, grain_px=(14, 50), largest_count=25),
        **options,
    )


def test_only_training_scenes_change_and_they_hold_more_of_what_is_hard(tmp_path):
    hard = "zea_mays"
    taxa = sorted({r.taxon for r in find_references(PICTURES / "train")})
    pictures = {r.name: float(r.taxon == hard) for r in find_references(PICTURES / "train")}
    hardness = Hardness(pictures, {taxon: float(taxon == hard) for taxon in taxa}, 0.1)
    made = {
        "plain": compose_dataset(recipe(), tmp_path / "plain"),
        "hard": compose_dataset(recipe(hardness=hardness), tmp_path / "hard"),
        "again": compose_dataset(recipe(hardness=hardness), tmp_path / "again", workers=2),
    }
    files = {
        name: {p.relative_to(tmp_path / name): p.read_bytes() for p in (tmp_path / name).rglob("*.*")} for name in made
    }
    assert {p for p in files["hard"] if files["hard"][p] != files["again"][p]} == {Path("data.yaml")}
    changed = {p for p in files["plain"] if files["plain"][p] != files["hard"].get(p)}
    assert Path("images/train/scene_000000.jpg") in changed
    assert not [p for p in changed if {"val", "test"} & {p.stem, *p.parts}]
    assert sum(p.parts[0] == "images" and p.parts[1] != "train" for p in files["plain"]) == 4

    def share(manifest):
        grains = [g["taxon"] for s in manifest["scenes"] if s["split"] == "train" for g in s["grains"]]
        assert len(grains) > 100 and set(grains) == set(taxa)
        return grains.count(hard) / len(grains)

    # One taxon of ten, ten times as hard as usual: four times as often, 4 / 13 in place of 1 / 10.
    assert share(made["plain"]) < 0.16 and 0.2 < share(made["hard"]) < 0.42
    assert made["plain"]["recipe"]["hardness"] is None
    kept = made["hard"]["recipe"]["hardness"]
    assert Hardness(**kept | {"seen_by": tuple(kept["seen_by"])}) == hardness
    assert json.loads((tmp_path / "hard" / "manifest.json").read_text()) == made["hard"]


def test_hardness_of_other_pictures_and_numbers_that_cannot_be_meant_are_refused(tmp_path):
    other = measure([Sighting("betula/1.jpg", "betula", 0.5)])
    with pytest.raises(InputError, match=r"betula/1\.jpg and the other pictures in them are none of those"):
        compose_dataset(recipe(hardness=other), tmp_path / "out")
    assert not (tmp_path / "out").exists()
    with pytest.raises(InputError, match="found none"):
        measure([])
    for most in (0.5, float("nan"), float("inf")):
        with pytest.raises(UsageError, match="most: expected 1 or more"):
            measure([Sighting("a/1.jpg", "a", 0.5)], most=most)
