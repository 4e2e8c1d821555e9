"""`palyno val` as users call it: the shipped model, its kept predictions, the chosen threshold, the pictures."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import numpy as np
import palyno
import pytest
from click.testing import CliRunner
from palyno.app.cli import cli
from palyno.app.val_pictures import draw
from palyno.app.val_style import slanted
from palyno.app.val_summary import finite, lines
from palyno.data.annotations import LabelledImage
from palyno.data.annotations.coco import write_coco
from palyno.data.annotations.yolo import read_yolo
from palyno.data.compose import Recipe, compose_dataset
from palyno.data.scene import SceneSettings
from palyno.vision.duplicates import IOU
from palyno.vision.predictions import read_predictions, write_predictions
from palyno.vision.protocol import full_report
from palyno.vision.results import Provenance, SlideResult
from palyno.vision.tiles import iou_matrix
from palyno.vision.validate import read_split
from PIL import Image

PICTURES = Path(__file__).parent.parent / "data" / "pictures" / "pollen73s"
SAMPLES = Path(palyno.__file__).parent / "data" / "samples"
NAMES = {"classes", "confusion", "reliability", "precision_recall", "counts"}


def val(*arguments):
    return CliRunner().invoke(cli, ["val", *map(str, arguments)])


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    """Three small scenes of which the shipped model finds the grains, and what it found."""
    folder = tmp_path_factory.mktemp("val")
    scene = SceneSettings(size=256, grain_px=(40, 60), largest_count=5)
    unknown = {"train": (), "val": (), "test": ()}
    recipe = Recipe(PICTURES / "train", scenes={"train": 1, "val": 3, "test": 0}, unknown=unknown, scene=scene)
    compose_dataset(recipe, folder / "scenes")
    data = folder / "scenes" / "data.yaml"
    done = val(data, "--device", "cpu", "--save", folder / "found.json.gz", "--draws", 40, "--json")
    assert done.exit_code == 0, done.output
    return data, folder / "found.json.gz", json.loads(done.stdout)


def test_kept_predictions_give_the_very_same_report(scenes):
    data, found, report = scenes
    assert report["counts"]["true"] > 0 and report["AP50_any"] > 0.5
    again = val(data, "--predictions", found, "--draws", 40, "--json")
    assert json.loads(again.stdout) == report
    assert report["arguments"]["tile"] == 640 and len(report["sha256"]) == 64


def test_predictions_of_pictures_of_one_name_in_two_folders_are_told_apart(tmp_path):
    """One is of grains and one is empty, so that mistaken for each other they would find nothing."""
    for folder, source in (("a", "rice_dense.jpg"), ("b", "peat.jpg")):
        for kind in ("images", "labels"):
            (tmp_path / kind / folder).mkdir(parents=True)
        shutil.copy(SAMPLES / source, tmp_path / "images" / folder / "x.jpg")
    (tmp_path / "labels/a/x.txt").write_text("0 0.5 0.5 0.1 0.1\n")
    data = tmp_path / "data.yaml"
    data.write_text("train: images\nval: images\nnames: [Oryza]\n")
    kept = tmp_path / "found.json.gz"
    first = val(data, "--device", "cpu", "--draws", 0, "--save", kept, "--json")
    again = val(data, "--predictions", kept, "--draws", 0, "--json")
    assert again.exit_code == 0, again.output
    assert json.loads(again.stdout) == json.loads(first.stdout)


def test_predictions_are_kept_in_a_new_folder_and_a_place_where_they_cannot_be_is_refused_first(scenes, tmp_path):
    data, found, _ = scenes
    kept = tmp_path / "new" / "folder" / "found.json.gz"
    assert val(data, "--device", "cpu", "--draws", 0, "--save", kept).exit_code == 0
    assert [file.name for file in kept.parent.iterdir()] == [kept.name]
    # No such model would be told next.
    refused = val(data, "--model", "none", "--save", kept / "found.json.gz")
    assert refused.exit_code == 2 and "in the way" in refused.stderr
    assert kept.read_bytes() == found.read_bytes()


def test_the_limit_of_overlap_is_that_of_detect_and_is_kept(scenes, tmp_path):
    """At nought no two boxes touch; the report and what was saved say which limit it was."""
    data, _, report = scenes
    assert report["arguments"]["iou"] == IOU
    detector, told = palyno.load("hieraedge-n", device="cpu"), {}
    for iou in (0, 1):
        done = val(data, "--device", "cpu", "--iou", iou, "--draws", 0, "--save", tmp_path / "found.json.gz", "--json")
        told[iou] = json.loads(done.stdout)
        kept, _ = read_predictions(tmp_path / "found.json.gz")
        assert told[iou]["arguments"]["iou"] == iou
        assert {result.provenance.arguments["iou"] for result in kept} == {iou}
        for result, image in zip(kept, read_split(data, "val")[0], strict=True):
            expected = detector.detect(image, conf=0.05, iou=iou)
            np.testing.assert_allclose(result.boxes, expected.boxes, atol=0.006)
            overlap = iou_matrix(result.boxes, result.boxes) - np.eye(len(result))
            assert iou or not overlap.size or overlap.max() == 0
    assert told[0]["counts"]["found"] <= report["counts"]["found"] < told[1]["counts"]["found"]


def test_pictures_are_scaled_for_the_model_as_detect_scales_them(scenes, tmp_path):
    """As weights ask for that were trained on scaled pictures: tiles of 256 px at 512, grains twice as large."""
    data, found, _ = scenes
    kept = tmp_path / "found.json.gz"
    scaling = ("--tile", 256, "--imgsz", 512)
    done = val(data, "--device", "cpu", *scaling, "--draws", 0, "--save", kept, "--json")
    assert json.loads(done.stdout)["arguments"]["imgsz"] == 512
    detector = palyno.load("hieraedge-n", device="cpu")
    results = read_predictions(kept)[0]
    for result, image in zip(results, read_split(data, "val")[0], strict=True):
        expected = detector.detect(image, conf=0.05, tile=256, imgsz=512)
        np.testing.assert_allclose(result.boxes, expected.boxes, atol=0.006)
    plain = read_predictions(found)[0]
    assert any(not np.array_equal(a.confidence, b.confidence) for a, b in zip(results, plain, strict=True))


def test_a_coco_file_is_as_good_as_a_yolo_data_set(scenes, tmp_path):
    data, found, report = scenes
    write_coco(read_yolo(data, split="val"), tmp_path / "truth.json")
    other = json.loads(val(tmp_path / "truth.json", "--predictions", found, "--draws", 0, "--json").stdout)
    assert other["split"] == "truth.json" and other["intervals"] is None
    assert other["AP50_any"] == pytest.approx(report["AP50_any"], abs=0.01)
    assert other["counts"] == report["counts"]


def test_pictures_are_found_from_wherever_a_data_set_says(scenes, tmp_path):
    """A data.yaml away from its pictures, one whose pictures were moved with it, and COCO as compose has it."""
    data, _, _ = scenes
    root = data.parent
    away = tmp_path / "data.yaml"
    shutil.copy(data, away)
    moved = tmp_path / "moved"
    shutil.copytree(root, moved)
    (moved / "data.yaml").write_text(data.read_text().replace(str(root), "/not/there"))
    for file, folder in (
        (data, root),
        (away, root),
        (moved / "data.yaml", moved),
        (root / "annotations" / "val.json", root),
    ):
        images, truth = read_split(file, "val")
        assert [image.parent for image in images] == [folder / "images" / "val"] * len(truth)
        assert all(image.is_file() for image in images)


def test_the_chosen_threshold_is_printed_alone_and_can_be_given_back(scenes):
    data, found, _ = scenes
    done = val(data, "--predictions", found, "--choose", "conf")
    assert done.exit_code == 0
    assert val(data, "--predictions", found, "--choose", "conf").stdout == done.stdout
    conf = float(done.stdout)
    chosen = json.loads(val(data, "--predictions", found, "--choose", "conf", "--json").stdout)
    given = json.loads(val(data, "--predictions", found, "--conf", conf, "--json").stdout)
    assert chosen["chosen"]["conf"] == chosen["conf"] == conf
    assert chosen["counts"] == given["counts"]
    for other in (0.1, 0.25, 0.5, 0.9):
        error = json.loads(val(data, "--predictions", found, "--conf", other, "--draws", 0, "--json").stdout)
        assert given["counts"]["count_error"] <= error["counts"]["count_error"]


def test_a_reader_is_told_the_figures_with_their_intervals(scenes):
    data, found, report = scenes
    told = val(data, "--predictions", found, "--draws", 40).stderr
    for name, what in (("mAP50", "mAP50"), ("mAP50-95", "mAP50-95"), ("AR", "AR"), ("AP50_any", "AP50 of any grain")):
        low, high = report["intervals"][name]
        limits = "" if low is None else f" [{low:.3f}, {high:.3f}]"
        assert f"{what} {report[name]:.3f}{limits}" in told
    for kind in ("right", "wrong", "unknown"):
        share, low, high = report["shares"]["names"][kind]
        limits = "" if low is None else f" [{low:.1%}, {high:.1%}]"
        assert f"{report['names'][kind]} {kind} ({share:.1%}{limits})" in told.partition("names of matched")[2]
    name, row = min(report["per_class"].items(), key=lambda item: item[1]["AP50-95"])
    low, high = row["AP50-95_interval"]
    limits = "" if low is None else f" [{low:.3f}, {high:.3f}]"
    assert f"lowest mAP50-95 of a name: {name} {row['AP50-95']:.3f}{limits} ({row['true']} grains)" in told
    low, high = report["calibration"]["grain"]["intervals"]["brier"]
    assert f"[{low:.3f}, {high:.3f}]" in told.partition("calibration of the confidence: expected error")[2]


def test_labels_that_are_not_there_are_told_and_give_no_figures(scenes, tmp_path):
    folder = tmp_path / "scenes"
    shutil.copytree(scenes[0].parent, folder)
    shutil.rmtree(folder / "labels")
    text = (folder / "data.yaml").read_text()
    (folder / "data.yaml").write_text(text.replace(str(scenes[0].parent), str(folder)))
    done = val(folder / "data.yaml", "--predictions", scenes[1], "--json")
    report = json.loads(done.stdout)
    assert report["mAP50"] is None and report["counts"]["true"] == 0
    assert "no image of val has a true grain" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--model", "hieraedge-n"), "expected no --model"),
        (("--tile", 320), "expected no --tile"),
        (("--imgsz", 320), "expected no --imgsz"),
        (("--iou", 0.7), "expected no --iou"),
        (("--save", "x"), "expected no --save"),
        (("--choose", "conf", "--conf", 0.3), "--conf or --choose conf"),
        (("--conf", 0.01), "read with conf 0.05"),
    ],
)
def test_options_that_cannot_go_together_are_refused(scenes, arguments, says):
    data, found, _ = scenes
    done = val(data, "--predictions", found, *arguments)
    assert done.exit_code == 2 and says in done.stderr


def test_no_threshold_is_chosen_where_nothing_is_found(scenes, tmp_path):
    data, found, _ = scenes
    results, classes = read_predictions(found)
    write_predictions(tmp_path / "none.json.gz", [result.select([]) for result in results], classes)
    done = val(data, "--predictions", tmp_path / "none.json.gz", "--choose", "conf")
    assert done.exit_code == 4, done.output
    assert not done.stdout and "none at any" in done.stderr


def test_a_threshold_below_what_is_looked_for_is_refused_before_the_model_runs(scenes):
    done = val(scenes[0], "--conf", 0.01, "--model", "no such model")
    assert done.exit_code == 2 and "at least that, got 0.01" in done.stderr


def made(classes, images=6, found=True, grains=12):
    """A report of grains of some classes, found or not."""
    rng = np.random.default_rng(len(classes))
    truth, results = [], []
    for i in range(images):
        n = grains if classes else 0
        corner = np.stack([np.arange(n) * 60, np.full(n, 10 * i)], 1)
        boxes = np.hstack([corner, corner + 40]).astype(np.float32)
        labels = tuple(classes[k] for k in rng.integers(0, len(classes), n)) if n else ()
        truth.append(LabelledImage(f"{i}", 5000, 640, boxes, labels))
        m = n if found else 0
        names = tuple(name if rng.random() < 0.7 else classes[0] for name in labels[:m])
        score = rng.uniform(0.05, 1, m)
        candidates = tuple(((name, float(p)),) for name, p in zip(names, score, strict=True))
        provenance = Provenance("m", "0", "0")
        results.append(SlideResult(f"{i}", 5000, 640, boxes[:m], score, names, provenance, candidates=candidates))
    return finite({"model": "m", "split": "val", **full_report(truth, results, classes or ("Zea mays",), draws=20)})


MANY = tuple(f"Genus{i} species{i}" for i in range(66))


@pytest.mark.parametrize("form", ["png", "svg"])
@pytest.mark.parametrize(
    ("classes", "found"),
    [((), False), (("Zea mays",), True), (("Zea mays",), False), (("Zea mays", "unknown"), True), (MANY, True)],
    ids=["no grains", "one class", "nothing found", "a class and unknown", "66 classes"],
)
def test_pictures_are_drawn_of_whatever_there_is(tmp_path, classes, found, form):
    report = made(classes, found=found, grains=40)
    files = draw(report, tmp_path / "pictures", form)
    assert {file.stem for file in files} == NAMES
    for file in files:
        if form == "png":
            with Image.open(file) as picture:
                pixels = np.asarray(picture.convert("L"))
            assert (pixels < 128).any()
            # Nothing is cut off.
            assert (pixels[[0, -1]] > 128).all() and (pixels[:, [0, -1]] > 128).all()
        else:
            assert file.read_text(encoding="utf-8").rstrip().endswith("</svg>")
    assert list(lines(report))
    json.dumps(report, allow_nan=False)


def test_the_same_report_gives_the_same_pictures_and_leaves_pyplot_alone(tmp_path):
    report = made(("Zea mays", "Betula pendula"))
    before = "matplotlib.pyplot" in sys.modules
    for form in ("png", "svg"):
        one, other = (draw(report, tmp_path / name, form) for name in "ab")
        assert [file.read_bytes() for file in one] == [file.read_bytes() for file in other]
    assert ("matplotlib.pyplot" in sys.modules) == before


def test_a_picture_names_every_class(tmp_path):
    report = made(MANY, grains=60)
    draw(report, tmp_path, "svg")
    for name in ("classes", "confusion"):
        text = (tmp_path / f"{name}.svg").read_text(encoding="utf-8")
        assert all(f"<!-- {taxon}" in text for taxon in report["per_class"])


def test_predictions_of_another_split_are_refused(scenes, tmp_path):
    data, _, _ = scenes
    box = np.array([[0, 0, 9, 9]], np.float32)
    result = SlideResult("other.png", 10, 10, box, [0.9], ("Zea mays",), Provenance("m", "0", "0"))
    write_predictions(tmp_path / "p", [result], ("Zea mays",))
    done = val(data, "--predictions", tmp_path / "p")
    assert done.exit_code == 3 and "no prediction for 3 images" in done.stderr


@pytest.mark.parametrize(
    ("name", "style"),
    [
        ("Serjania erecta", "italic"),
        ("Serjania", "italic"),
        ("Genus7 species7", "normal"),
        ("Quercus petraea", "italic"),
        ("Poaceae sp.", "normal"),
        ("Asteraceae undiff.", "normal"),
        ("unknown", "normal"),
    ],
)
def test_species_and_genera_are_set_in_italics(name, style):
    assert slanted(name) == style
