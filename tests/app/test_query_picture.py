"""A picture to search with: one grain as it is, of a field one of its grains."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from palyno.app import query_picture as module
from palyno.app.cli import cli
from palyno.app.collecting import crop
from palyno.app.query_picture import query_picture
from palyno.data.slides import open_slide
from palyno.errors import NothingToDoError, UsageError
from palyno.retrieval.collection import Collection, Record
from palyno.retrieval.encoders.image import ImageEncoder
from palyno.vision.detector import load
from PIL import Image

PICTURES = Path(__file__).parents[1] / "data" / "pictures"


@pytest.fixture(scope="module")
def detector():
    return load(device="cpu", runtime="torch")


@pytest.fixture(scope="module")
def grains(detector, samples):
    """What the detector finds on the composed field."""
    return detector.detect(samples / "composed.jpg", conf=0.25)


def centres(result):
    return (result.boxes[:, :2] + result.boxes[:, 2:]) / 2


def test_of_a_field_the_grain_nearest_to_its_middle_is_cut_as_collections_cut_it(detector, samples, grains):
    path = samples / "composed.jpg"
    asked = query_picture(path, detector)
    whole = [i for i, flags in enumerate(grains.grain_flags) if "edge" not in flags]
    middle = min(whole, key=lambda i: np.hypot(*(centres(grains)[i] - [grains.width / 2, grains.height / 2])))
    assert (asked.grain.box, asked.of) == (grains[middle].box, len(grains))
    with open_slide(path) as slide:
        assert np.array_equal(asked.pixels, crop(slide, grains[middle].box))
    x1, y1, x2, y2 = (f"{side:.0f}" for side in grains[middle].box)
    assert f"composed.jpg shows {len(grains)} grains: searched with the one nearest to its middle" in asked.note
    assert f"{grains[middle].taxon} {grains[middle].confidence:.2f} at {x1}, {y1} to {x2}, {y2}; --at X Y" in asked.note
    told = asked.document()
    assert told["note"] == asked.note and told["grain"]["of"] == len(grains)
    assert told["grain"]["box"] == pytest.approx(grains[middle].box, abs=0.051)


def test_a_place_takes_the_grain_there_also_one_that_the_border_cuts(detector, samples, grains):
    for i in (0, len(grains) // 2, len(grains) - 1):
        asked = query_picture(samples / "composed.jpg", detector, tuple(centres(grains)[i]))
        assert asked.grain.box == grains[i].box
        assert f"nearest to {centres(grains)[i][0]:g}, " in asked.note


def test_a_picture_that_one_grain_fills_is_taken_whole(detector):
    single = sorted(PICTURES.glob("pollen73s/val/*/*.jpg"))[::4]
    assert len(single) >= 5
    for path in single:
        asked = query_picture(path, detector)
        with Image.open(path) as image:
            assert np.array_equal(asked.pixels, np.asarray(image.convert("RGB")))
        assert (asked.grain, asked.note, asked.document()) == (None, "", {})


def test_where_no_two_grains_are_found_the_picture_is_taken_whole(detector, tmp_path):
    Image.new("RGB", (300, 200), (230, 228, 235)).save(tmp_path / "blank.png")
    asked = query_picture(tmp_path / "blank.png", detector)
    assert asked.pixels.shape == (200, 300, 3) and asked.document() == {}
    with pytest.raises(NothingToDoError, match="found none; search without --at"):
        query_picture(tmp_path / "blank.png", detector, (10, 10))


def test_places_outside_and_whole_slides_are_refused(detector, samples, monkeypatch):
    for outside in ((640, 10), (10, 640)):
        with pytest.raises(UsageError, match="--at: expected a point inside 640 x 640 pixels"):
            query_picture(samples / "composed.jpg", detector, outside)
    monkeypatch.setattr(module, "_MOST_PX", 640 * 640 - 1)
    with pytest.raises(UsageError, match="got 640 x 640; add the slide"):
        query_picture(samples / "composed.jpg", detector)


def test_a_search_with_a_field_finds_the_grain_that_it_says_it_took(detector, samples, grains, tmp_path, monkeypatch):
    monkeypatch.setattr("palyno.vision.detector.load", lambda **options: detector)
    with Collection.create(tmp_path / "c") as made, open_slide(samples / "composed.jpg") as slide:
        records = [Record(kind="grain", taxon=grain.taxon, slide=grain.slide, box=grain.box) for grain in grains]
        made.add(records, ImageEncoder(device="cpu"), items=[crop(slide, grain.box) for grain in grains])
    arguments = ["search", str(tmp_path / "c"), "--image", str(samples / "composed.jpg"), "-k", "1"]
    for at in ([], ["--at", *(f"{value:.1f}" for value in centres(grains)[3])]):
        told = json.loads(CliRunner().invoke(cli, [*arguments, *at, "--json"]).stdout)
        (hit,) = told["lists"][0]["hits"]
        assert hit["box"] == pytest.approx(told["grain"]["box"], abs=0.051) and hit["score"] > 0.999
        done = CliRunner().invoke(cli, [*arguments, *at])
        assert done.exit_code == 0 and f"    note  {told['note']}\n" in done.stderr and "note" not in done.stdout
    # What the detector says of a crop's surroundings is no reason to take less than it.
    with open_slide(samples / "composed.jpg") as slide:
        Image.fromarray(crop(slide, grains[3].box)).save(tmp_path / "crop.png")
    arguments[3] = str(tmp_path / "crop.png")
    told = json.loads(CliRunner().invoke(cli, [*arguments, "--json"]).stdout)
    assert told["lists"][0]["hits"][0]["id"] == 4 and "note" not in told


def test_a_place_without_a_picture_cannot_be_meant(tmp_path):
    Collection.create(tmp_path / "c").close()
    done = CliRunner().invoke(cli, ["search", str(tmp_path / "c"), "echinate", "--at", "3", "4"])
    assert done.exit_code == 2 and "expected --image with it" in done.output
