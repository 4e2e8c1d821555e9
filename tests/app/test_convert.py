from __future__ import annotations

import itertools
import json

import numpy as np
import pytest
from click.testing import CliRunner
from palyno.app.cli import cli
from palyno.app.commands.convert import FORMATS
from palyno.data.annotations import LabelledImage
from palyno.data.annotations.coco import read_coco, write_coco
from palyno.data.annotations.geojson import write_geojson
from PIL import Image


@pytest.mark.parametrize(("first", "second"), [*itertools.permutations(FORMATS, 2)])
def test_boxes_survive_the_way_through_two_formats(tmp_path, first, second):
    before = LabelledImage("a.png", 400, 300, np.array([[10, 20, 60, 90], [200, 100, 260, 150]]), ("Betula", "Poaceae"))
    write_coco([before], tmp_path / "coco.json")
    steps = [("coco", tmp_path / "coco.json")]
    for number, name in enumerate((first, second, "coco")):
        place = tmp_path / f"{number}-{name}"
        place = place if name in ("yolo", "voc", "geojson") else place.with_suffix(".json")
        arguments = ["convert", str(steps[-1][1]), str(place), "--from", steps[-1][0], "--to", name, "--json"]
        done = CliRunner().invoke(cli, arguments)
        assert done.exit_code == 0, done.output
        assert json.loads(done.stdout)["boxes"] == 2
        steps.append((name, place))
    (after,) = read_coco(steps[-1][1])
    assert after.labels == before.labels
    assert np.abs(after.boxes - before.boxes).max() < 0.5


def test_a_target_that_is_there_is_not_overwritten(tmp_path):
    write_coco([LabelledImage("a.png", 9, 9, np.empty((0, 4)), ())], tmp_path / "a.json")
    done = CliRunner().invoke(
        cli, ["convert", str(tmp_path / "a.json"), str(tmp_path / "a.json"), "--from", "coco", "--to", "coco"]
    )
    assert done.exit_code == 2


def test_a_training_set_tells_the_boxes_of_the_pictures_that_are_listed(tmp_path):
    boxes = np.array([[10, 20, 60, 90], [100, 100, 160, 150]])
    images = [LabelledImage(f"{name}.png", 400, 300, boxes, ("Betula", "Poaceae")) for name in "abc"]
    write_coco(images, tmp_path / "coco.json")
    for name in "abc":
        Image.new("RGB", (400, 300)).save(tmp_path / f"{name}.png")
    for split, name in (("train", "a"), ("val", "c")):
        (tmp_path / f"{split}.txt").write_text(name)
    line = ["convert", str(tmp_path / "coco.json"), str(tmp_path / "set"), "--from", "coco", "--to", "yolo", "--json"]
    done = CliRunner().invoke(cli, [*line, "--splits", str(tmp_path), "--pictures", str(tmp_path)])
    assert done.exit_code == 0, done.output
    assert {key: json.loads(done.stdout)[key] for key in ("images", "boxes")} == {"images": 2, "boxes": 4}


@pytest.fixture
def of_qupath(tmp_path):
    """A picture's boxes as QuPath exports them: what palyno wrote, without its word on the slide, and one box more."""
    boxes = np.array([[10, 20, 60, 90], [200, 100, 260, 150]])
    image = LabelledImage("a b.png", 400, 300, boxes, ("Betula", "Poaceae"), np.array([0.9, 0.8]))
    path = write_geojson(image, tmp_path / "exported" / "a b.geojson")
    features = json.loads(path.read_text())["features"]
    drawn = {"type": "Polygon", "coordinates": [[[300, 10], [330, 10], [330, 40], [300, 40], [300, 10]]]}
    properties = {"objectType": "annotation", "classification": {"name": "Alnus"}}
    features.append({"type": "Feature", "id": "x", "geometry": drawn, "properties": properties})
    path.write_text(json.dumps({"type": "FeatureCollection", "features": features}))
    Image.new("RGB", (400, 300)).save(tmp_path / "a b.png")
    return path.parent


def test_boxes_corrected_in_qupath_get_name_and_size_from_the_pictures(tmp_path, of_qupath):
    line = ["convert", str(of_qupath), str(tmp_path / "coco.json"), "--from", "geojson", "--to", "coco"]
    done = CliRunner().invoke(cli, line)
    assert done.exit_code == 2 and "--pictures" in done.output
    done = CliRunner().invoke(cli, [*line, "--pictures", str(tmp_path)])
    assert done.exit_code == 0, done.output
    (image,) = read_coco(tmp_path / "coco.json")
    assert (image.image, image.width, image.height) == ("a b.png", 400, 300)
    assert image.labels == ("Betula", "Poaceae", "Alnus")
    assert np.abs(image.boxes[2] - [300, 10, 330, 40]).max() < 0.5


def test_of_two_pictures_of_one_name_none_is_guessed(tmp_path, of_qupath):
    Image.new("RGB", (40, 30)).save(tmp_path / "a b.jpg")
    line = ["convert", str(of_qupath), str(tmp_path / "coco.json"), "--from", "geojson", "--to", "coco"]
    done = CliRunner().invoke(cli, [*line, "--pictures", str(tmp_path)])
    assert done.exit_code == 3 and "got a b.jpg and a b.png" in done.output
