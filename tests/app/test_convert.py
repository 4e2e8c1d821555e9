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
from palyno.data.annotations.csv import write_counts
from palyno.data.annotations.geojson import write_geojson
from palyno.vision.results import Provenance, SlideResult
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


def test_boxes_are_counted_as_a_run_counts_them(tmp_path):
    """Taxa that mean the same are one, a slide without grains has its row, limits are there: as `write_counts` says."""
    names = {"a.png": ("Poaceae", "Poaceae sp.", "Betula", "unknown"), "b.png": (), "c/d.png": ("Betula",) * 7}
    place = {"width": 400, "height": 300}
    boxes = {image: np.tile([10.0, 20, 60, 90], (len(labels), 1)) for image, labels in names.items()}
    provenance = Provenance("hieraedge-n", "0" * 64, "0.1.0")
    results = [SlideResult(i, 400, 300, boxes[i], np.ones(len(n)), n, provenance) for i, n in names.items()]
    write_counts(results, tmp_path / "run.csv")
    write_coco([LabelledImage(i, boxes=boxes[i], labels=n, **place) for i, n in names.items()], tmp_path / "coco.json")
    line = ["convert", str(tmp_path / "coco.json"), str(tmp_path / "again.csv"), "--from", "coco", "--to", "counts"]
    assert CliRunner().invoke(cli, line).exit_code == 0
    assert (tmp_path / "again.csv").read_bytes() == (tmp_path / "run.csv").read_bytes()
    assert "a.png,Poaceae,2,4," in (tmp_path / "run.csv").read_text()
    assert CliRunner().invoke(cli, line).exit_code == 2  # The table is there.


def test_addresses_of_label_studio_stand_before_names_and_come_off_again(tmp_path):
    address = "/data/local-files/?d=slides/"
    boxes, names = np.array([[10, 20, 60, 90]]), ("Betula",)
    write_coco([LabelledImage("c/a.png", 400, 300, boxes, names)], tmp_path / "coco.json")

    def run(source, target, read_as, write_as):
        paths = (str(tmp_path / source), str(tmp_path / target))
        line = ["convert", *paths, "--from", read_as, "--to", write_as, "--address", address]
        return CliRunner().invoke(cli, line)

    assert run("coco.json", "tasks.json", "coco", "labelstudio").exit_code == 0
    assert json.loads((tmp_path / "tasks.json").read_text())[0]["data"]["image"] == address + "c/a.png"
    assert run("tasks.json", "back.json", "labelstudio", "coco").exit_code == 0
    assert read_coco(tmp_path / "back.json")[0].image == "c/a.png"
    refused = run("coco.json", "other.json", "coco", "coco")
    assert refused.exit_code == 2 and "--address" in refused.stderr


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
