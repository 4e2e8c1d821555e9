"""The comparison of detectors: what is trained, what a score is, what a page shows."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from palyno.app.bench_detectors.latency import _call, _can_be_captured, measure_latency
from palyno.app.bench_detectors.plot import _figure, draw
from palyno.app.bench_detectors.render import read_figures, render_page
from palyno.app.bench_detectors.runs import ImageSet, Run, train_all
from palyno.app.bench_detectors.score import Truth, score_all
from palyno.app.bench_detectors.variants import PARTS as TABLES
from palyno.app.bench_detectors.variants import VARIANTS, network_of
from palyno.data.annotations import LabelledImage
from palyno.data.annotations.coco import write_coco
from palyno.errors import InputError, UsageError
from palyno.vision.predictions import write_predictions
from palyno.vision.results import Provenance, SlideResult
from palyno.vision.validate import evaluate

CLASSES = ("Betula", "Corylus")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """True boxes of 14 images, and what four runs of three models found on them: the more noise, the worse."""
    root = tmp_path_factory.mktemp("runs")
    rng = np.random.default_rng(0)
    truth = []
    for i in range(14):
        corner = np.stack(np.meshgrid([20, 220, 420], [20, 220]), -1).reshape(-1, 2)[: 3 + i % 4]
        boxes = np.hstack([corner, corner + 90]).astype(np.float32)
        truth.append(LabelledImage(f"scene_{i}.jpg", 640, 640, boxes, tuple(CLASSES[k % 2] for k in range(len(boxes)))))
    write_coco(truth, root / "truth.json", categories=CLASSES)
    for run, noise in (("hieraedge-n-s0", 4), ("hieraedge-n-s1", 5), ("yolo12n-s0", 14), ("yolo11n-s0", 8)):
        results = []
        for image in truth:
            boxes = image.boxes + rng.normal(0, noise, image.boxes.shape).astype(np.float32)
            sure = rng.uniform(0.3, 1, len(boxes)).astype(np.float32)
            candidates = tuple(((n, float(c)),) for n, c in zip(image.labels, sure, strict=True))
            results.append(
                SlideResult(
                    image.image, 640, 640, boxes, sure, image.labels, Provenance(run, "0" * 64, "1"),
                    candidates=candidates, conf=0.05,
                )
            )  # fmt: skip
        (root / "runs" / run).mkdir(parents=True)
        write_predictions(root / "runs" / run / "composed.json.gz", results, CLASSES)
        (root / "runs" / run / "recipe.json").write_text(json.dumps({"seed": 0, "epochs": 5, "out": "/somewhere"}))
    return root


@pytest.fixture(scope="module")
def document(folder):
    return score_all(folder / "runs", [Truth("composed", folder / "truth.json", "scene_*")], number=60)


def test_scores_are_those_of_palyno_val(folder, document):
    from palyno.data.annotations.coco import read_coco
    from palyno.vision.predictions import read_predictions

    results, classes = read_predictions(folder / "runs" / "yolo11n-s0" / "composed.json.gz")
    expected = evaluate(read_coco(folder / "truth.json"), results, classes)
    told = document["models"]["yolo11n"]["runs"]["0"]["composed"]
    for key in ("mAP50", "mAP50-95", "AP50_any"):
        assert told[key][0] == pytest.approx(expected[key], abs=1e-5)
    for key in ("precision", "recall", "f1", "count_error"):
        assert told[key][0] == pytest.approx(expected["counts"][key], abs=1e-5)
    assert document["models"]["yolo11n"]["runs"]["0"]["recipe"] == {"seed": 0, "epochs": 5}


def test_a_recipe_names_files_and_not_where_they_lie(folder, tmp_path):
    shutil.copytree(folder / "runs" / "yolo11n-s0", tmp_path / "runs" / "yolo11n-s0")
    table, _ = network_of("without-sef")
    recipe = {
        "model": table,
        "weights": None,
        "backbone_weights": str(tmp_path / "tiny.safetensors"),
        "teacher": str(tmp_path / "large.safetensors"),
        "lr": 0.1,
    }
    (tmp_path / "runs" / "yolo11n-s0" / "recipe.json").write_text(json.dumps(recipe))
    document = score_all(tmp_path / "runs", [Truth("composed", folder / "truth.json")], number=2)
    assert document["models"]["yolo11n"]["runs"]["0"]["recipe"] == {
        "model": "without-sef",
        "weights": None,
        "backbone_weights": "tiny.safetensors",
        "teacher": "large.safetensors",
        "lr": 0.1,
    }


def test_means_intervals_and_differences(document):
    models = document["models"]
    one, two = (models["hieraedge-n"]["runs"][s]["composed"]["mAP50-95"] for s in "01")
    mean = models["hieraedge-n"]["mean"]["composed"]
    assert mean["mAP50-95"][0] == pytest.approx((one[0] + two[0]) / 2, abs=1e-5)
    assert mean["sd"]["mAP50-95"] == pytest.approx(np.std([one[0], two[0]], ddof=1), abs=1e-5)
    assert models["yolo12n"]["mean"]["composed"]["sd"] is None
    value, low, high = mean["mAP50-95"]
    assert low <= value <= high
    less, low, high = document["differences"]["yolo12n"]["composed"]["mAP50-95"]
    assert less == pytest.approx(value - models["yolo12n"]["mean"]["composed"]["mAP50-95"][0], abs=2e-5)
    assert 0 < low <= less <= high
    # Paired draws: the difference is surer than its two parts.
    assert high - low < sum(np.ptp(models[m]["mean"]["composed"]["mAP50-95"][1:]) for m in ("hieraedge-n", "yolo12n"))


def test_a_threshold_is_chosen_on_one_set_and_counts_on_the_other(folder, document, tmp_path):
    """Each run's own: every second scene chooses, the rest is counted at what `choose_conf` says of those."""
    from palyno.data.annotations.coco import read_coco
    from palyno.vision.operating import choose_conf
    from palyno.vision.predictions import read_predictions

    truth = read_coco(folder / "truth.json")
    halves = {"fitting": truth[::2], "held": truth[1::2]}
    for name, images in halves.items():
        write_coco(images, tmp_path / f"{name}.json", categories=CLASSES)
    runs, errors = tmp_path / "runs", {}
    for run in (folder / "runs").iterdir():
        results, _ = read_predictions(run / "composed.json.gz")
        (runs / run.name).mkdir(parents=True)
        own = {"fitting": results[::2], "held": results[1::2]}
        for name, some in own.items():
            write_predictions(runs / run.name / f"{name}.json.gz", some, CLASSES)
        conf = choose_conf(halves["fitting"], own["fitting"]).conf
        counts = [len(result.above(conf)) for result in own["held"]]
        errors[run.name] = (
            conf,
            np.mean([abs(n - len(t)) / len(t) for n, t in zip(counts, halves["held"], strict=True)]),
        )
    truths = [Truth(name, tmp_path / f"{name}.json") for name in ("held", "fitting")]
    scores = score_all(runs, truths, choose="fitting", number=10)
    for name, (conf, error) in errors.items():
        model, _, seed = name.rpartition("-s")
        assert scores["models"][model]["runs"][seed]["conf"] == conf
        assert scores["models"][model]["runs"][seed]["held"]["count_error"][0] == pytest.approx(error, abs=1e-5)
    assert len({conf for conf, _ in errors.values()}) > 1
    assert list(scores["sets"]) == ["held", "fitting"]
    assert scores["conf"] is None
    assert "conf" not in document["models"]["yolo11n"]["runs"]["0"]
    with pytest.raises(UsageError, match="expected one of held, fitting, got 'other'"):
        score_all(runs, truths, choose="other")
    (runs / "yolo11n-s0" / "fitting.json.gz").unlink()
    with pytest.raises(InputError, match="expected what was found on fitting"):
        score_all(runs, truths, choose="fitting", number=10)


READ = {
    "iou": 0.7, "tile": 640, "tile_px": 640, "imgsz": 640, "overlap": "auto", "overlap_px": 130, "um_per_px": None,
    "views": 1, "naming_threshold": 0.8, "naming_temperature": 1.2,
}  # fmt: skip


def _read_so(folder, target, run, name="composed", conf=0.05, **changed):
    """What a run found, as if it was read with other arguments."""
    from palyno.vision.predictions import read_predictions

    results, classes = read_predictions(folder / "runs" / run / "composed.json.gz")
    provenance = Provenance(run, "0" * 64, "1", READ | changed)
    results = [replace(result.above(conf), provenance=provenance) for result in results]
    (target / run).mkdir(exist_ok=True)
    write_predictions(target / run / f"{name}.json.gz", results, classes)


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"views": 8}, "views 8"),
        ({"iou": 0.5}, "iou 0.5"),
        ({"tile": 320, "tile_px": 320, "imgsz": 320}, "tile 320"),
        ({"overlap": 100, "overlap_px": 100}, "overlap 100"),
        ({"imgsz": 320}, "scale 0.5"),
        ({"conf": 0.1}, "conf 0.1"),
    ],
)
def test_what_was_read_in_another_way_is_not_compared(folder, tmp_path, changed, named):
    _read_so(folder, tmp_path, "hieraedge-n-s0")
    _read_so(folder, tmp_path, "yolo11n-s0", **changed)
    with pytest.raises(
        InputError, match=rf"hieraedge-n-s0.composed\.json\.gz has .*yolo11n-s0.composed\.json\.gz has {named}"
    ):
        score_all(tmp_path, [Truth("composed", folder / "truth.json")], number=2)


def test_what_is_a_networks_own_may_differ(folder, tmp_path):
    """Its threshold and temperature of names, and how large a tile and an overlap its grains ask for."""
    own = {"naming_threshold": 0.5, "naming_temperature": 0.1, "tile_px": 320, "imgsz": 320, "overlap_px": 60}
    _read_so(folder, tmp_path, "hieraedge-n-s0")
    _read_so(folder, tmp_path, "yolo11n-s0", **own)
    document = score_all(tmp_path, [Truth("composed", folder / "truth.json")], number=2)
    assert set(document["models"]) == {"hieraedge-n", "yolo11n"}


def test_a_threshold_is_not_taken_to_another_reading(folder, tmp_path):
    """Sets may be read in ways of their own, unless a threshold that was chosen on one is for the other."""
    for run in ("hieraedge-n-s0", "yolo11n-s0"):
        _read_so(folder, tmp_path, run)
        _read_so(folder, tmp_path, run, "eight", views=8)
    truths = [Truth(name, folder / "truth.json") for name in ("composed", "eight")]
    score_all(tmp_path, truths, number=2)
    with pytest.raises(InputError, match=r"composed\.json\.gz has views 1, .*eight\.json\.gz has views 8"):
        score_all(tmp_path, truths, number=2, choose="composed")


def test_sizes_are_for_the_classes_that_runs_have(folder, tmp_path):
    """What two classes have less than 80, and a kernel of 7 less than one of 31, counted by hand."""
    from palyno.vision.models.zoo import read_zoo

    for name in ("hieraedge-n-s0", "kernel-7-s0", "of-my-own-s0"):
        shutil.copytree(folder / "runs" / "hieraedge-n-s0", tmp_path / name)
    models = score_all(tmp_path, [Truth("composed", folder / "truth.json")], number=2)["models"]
    whole, size, of_80 = models["hieraedge-n"], models["kernel-7"], read_zoo()["hieraedge-n"]
    assert {entry["classes"] for entry in models.values()} == {2}
    assert "parameters" not in models["of-my-own"]

    def naming(width, classes):
        """Of maps of 64, 128 and 256 channels: depthwise 3x3 and 1x1 twice, normalised, then 1x1 with a bias."""
        first = sum(9 * c + 2 * c + c * width + 2 * width for c in (64, 128, 256))
        return first + 3 * (9 * width + 2 * width + width**2 + 2 * width + width * classes + classes)

    # What the recipe says of the network goes before the name.
    recipe = {"gate": "none", "edge": None, "options": {"kernel": 7}}
    (tmp_path / "hieraedge-n-s0" / "recipe.json").write_text(json.dumps(recipe))
    again = score_all(tmp_path, [Truth("composed", folder / "truth.json")], number=2)["models"]
    assert again["hieraedge-n"]["parameters"] == size["parameters"]
    # Branches of names are as wide as the finest map, and wider for more classes.
    assert of_80["parameters"] - whole["parameters"] == naming(80, 80) - naming(64, 2)
    assert whole["gflops"] < of_80["gflops"]
    channels, pixels = 32, 80 * 80
    # Kernels of K x K, 1 x K, K x 1 while they are trained; one of K x K when they are not.
    taps = [side * side + 2 * side for side in (31, 7)]
    assert whole["parameters"] - size["parameters"] == channels * (taps[0] - taps[1])
    assert whole["gflops"] - size["gflops"] == pytest.approx(2e-9 * channels * pixels * (31**2 - 7**2), abs=0.011)


def test_detectors_of_other_classes_are_not_compared(folder, tmp_path):
    from palyno.vision.predictions import read_predictions

    shutil.copytree(folder / "runs", tmp_path / "runs")
    file = tmp_path / "runs" / "yolo11n-s0" / "composed.json.gz"
    results, classes = read_predictions(file)
    # In another order they are the same.
    write_predictions(file, results, classes[::-1])
    score_all(tmp_path / "runs", [Truth("composed", folder / "truth.json")], number=2)
    write_predictions(file, results, (*classes, "Alnus"))
    with pytest.raises(InputError, match=r"s0.composed\.json\.gz has 2, .*yolo11n-s0.*gz has 3, only one Alnus"):
        score_all(tmp_path / "runs", [Truth("composed", folder / "truth.json")], number=2)


def test_other_images_are_refused(folder, tmp_path):
    with pytest.raises(InputError, match="no more and no fewer; scene_1"):
        score_all(folder / "runs", [Truth("composed", folder / "truth.json", "scene_?.jpg")], number=10)
    with pytest.raises(InputError, match="found none"):
        score_all(folder / "runs", [Truth("other", folder / "truth.json")], number=10)
    for text in ("composed", "=a.json", "composed="):
        with pytest.raises(UsageError, match="expected NAME=FILE"):
            Truth.parse(text)
    for text in ("a=b", "a=b:", "=b:val"):
        with pytest.raises(UsageError, match="expected NAME=DATA"):
            ImageSet.parse(text)
    assert ImageSet.parse("a=b/data.yaml:test:scene_*").only == "scene_*"


def test_true_boxes_of_two_pictures_of_one_name_are_refused(tmp_path):
    images = [LabelledImage(f"{part}/x.jpg", 9, 9, np.zeros((0, 4)), ()) for part in "ab"]
    write_coco(images, tmp_path / "truth.json")
    with pytest.raises(InputError, match=r"different file names, got b/x\.jpg and another"):
        Truth("both", tmp_path / "truth.json").read()


def test_the_page_and_the_plot(document, tmp_path):
    page = tmp_path / "page.md"
    page.write_text("# A\n<!-- bench:scores-composed -->\nold\n<!-- /bench:scores-composed -->\n")
    latency = {
        "schema": 1,
        "device": {"kind": "cpu", "name": "A", "threads": 2},
        "side": 640,
        "torch": "2",
        "when": "2026-01-01",
        "models": {m: {"1": {"median_ms": t}} for m, t in (("hieraedge-n", 90.0), ("yolo12n", 80.0))},
    }
    assert render_page(page, [document], [latency]) == ["scores-composed"]
    text = page.read_text()
    lines = [line for line in text.splitlines() if line.startswith("| ") and "---" not in line]
    assert [line.split(" | ")[0].removeprefix("| ") for line in lines[1:]] == ["hieraedge-n", "yolo11n", "yolo12n"]
    assert lines[1].count("**") >= 2
    # Of two classes: with 80 it has 3.05 M and 8.75.
    assert lines[1].split(" | ")[1:3] == ["3.01", "8.58"]
    assert "old" not in text
    places = ("latency", "differences-composed")
    page.write_text("".join(f"<!-- bench:{place} -->\n<!-- /bench:{place} -->\n" for place in places))
    render_page(page, [document], [latency])
    assert "| hieraedge-n | 90 ms | 1.12 |" in page.read_text()
    page.write_text("<!-- bench:instead-composed -->\n<!-- /bench:instead-composed -->\n")
    render_page(page, [document], [latency])
    head, _, *rows = [line.split(" | ") for line in page.read_text().splitlines() if line.startswith("| ")]
    assert head[-1] == "composed |"
    assert [row[0] for row in rows] == ["| yolo11n", "| yolo12n"]
    for model, row in zip(("yolo11n", "yolo12n"), rows, strict=True):
        value, low, high = (-100 * figure for figure in document["differences"][model]["composed"]["mAP50-95"])
        assert row[-1].replace("**", "") == f"{value:+.1f} ({high:+.1f} to {low:+.1f}) |"
    for name in "ab":
        draw(document, latency, tmp_path / name, name="composed")
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    assert b"yolo12n" in (tmp_path / "a").read_bytes()
    page.write_text("<!-- bench:nothing -->\n<!-- /bench:nothing -->\n")
    with pytest.raises(UsageError, match="bench:nothing: expected one of latency, scores-composed, diff"):
        render_page(page, [document], [latency])


# Milliseconds, mAP50-95 and its interval: as YOLOs lie beside each other, and closer than that.
CROWDS = {
    "near": [
        (72, 0.324, 0.302, 0.330),
        (77.5, 0.338, 0.317, 0.343),
        (79.4, 0.360, 0.338, 0.365),
        (668, 0.5, 0.48, 0.52),
    ],
    "a row": [(70 + 5 * i, 0.3, 0.2, 0.4) for i in range(6)],
    "a column": [(100, 0.3 + 0.01 * i, 0.29 + 0.01 * i, 0.31 + 0.01 * i) for i in range(8)],
    "at the right": [(100, 0.3, 0.2, 0.4), (5000, 0.3, 0.2, 0.4), (5100, 0.31, 0.2, 0.4)],
}


@pytest.mark.parametrize("crowd", CROWDS)
def test_names_in_the_plot_touch_no_bar_no_point_and_no_other_name(crowd):
    points = CROWDS[crowd]
    names = [f"hieraedge-{i}" for i in range(len(points))]
    scores = {
        "models": {
            n: {"mean": {"composed": {"mAP50-95": [v, low, high]}}}
            for n, (_, v, low, high) in zip(names, points, strict=True)
        }
    }
    device = {"kind": "cpu", "name": "A", "threads": 2}
    times = {n: {"1": {"median_ms": p[0]}} for n, p in zip(names, points, strict=True)}
    drawn = _figure(scores, {"device": device, "side": 640, "models": times}, "composed", "mAP50-95")
    drawn.draw_without_rendering()
    (axes,) = drawn.axes
    assert sorted(text.get_text() for text in axes.texts) == names
    boxes = [text.get_window_extent() for text in axes.texts]
    assert not [(a, b) for i, a in enumerate(boxes) for b in boxes[:i] if a.overlaps(b)]
    for box in boxes:
        assert axes.bbox.x0 <= box.x0 and box.x1 <= axes.bbox.x1
        for x, value, low, high in points:
            bar = axes.transData.transform(np.column_stack([np.full(50, x), np.linspace(low, high, 50)]))
            assert not ((bar > box.min) & (bar < box.max)).all(1).any()
            at = axes.transData.transform((x, value))
            assert np.linalg.norm(at - np.clip(at, box.min, box.max)) >= 4


def test_documents_of_something_else_are_refused(tmp_path):
    file = tmp_path / "a.json"
    for content in ("{", "[]", '{"schema": 1}'):
        file.write_text(content)
        with pytest.raises(InputError, match=r"a\.json: expected"):
            read_figures(file, "models")


def test_runs_that_fail_are_named_and_whole_ones_left_alone(tmp_path, monkeypatch):
    """The commands themselves are tested where they are; here a run is whole, one is broken off and one fails."""
    from palyno.app.bench_detectors import runs

    called = []

    def call(arguments, log):
        called.append(list(arguments))
        if arguments[0] == "val":
            target = arguments[arguments.index("--save") + 1]
            Path(target).touch()
            return 0
        name = arguments[arguments.index("--name") + 1]
        if name == "yolo26n":
            return 1
        (tmp_path / f"{name}-s0").mkdir(exist_ok=True)
        (tmp_path / f"{name}-s0" / f"{name}.safetensors").touch()
        return 0

    monkeypatch.setattr(runs, "_call", call)
    whole = tmp_path / "yolo11n-s0"
    whole.mkdir()
    (whole / "yolo11n.safetensors").touch()
    (whole / "composed.json.gz").touch()
    broken = tmp_path / "yolo12n-s0" / "weights"
    broken.mkdir(parents=True)
    (broken / "last.pt").touch()
    plan = [Run(m, 0, ("--epochs", "3")) for m in ("yolo11n", "yolo12n", "hieraedge-n", "yolo26n")]
    sets = [ImageSet("composed", tmp_path / "data.yaml", "test")]
    told = []
    left = train_all(
        plan, tmp_path / "data.yaml", tmp_path, sets, devices=["cuda:0", "cuda:1"], each=2, told=told.append
    )
    assert left == ["yolo26n-s0"]
    assert len(told) == 4
    assert not any("yolo11n" in argument for command in called for argument in command)
    (resumed,) = (command for command in called if command[0] == "train" and "yolo12n" in command)
    assert "--resume" in resumed
    (ours,) = (command for command in called if command[0] == "train" and "hieraedge-n" in command)
    assert "--resume" not in ours
    assert ours[ours.index("--model") + 1] == "hieraedge-n"
    assert ours[ours.index("--epochs") + 1] == "3"
    assert train_all(plan, tmp_path / "data.yaml", tmp_path, sets, start_within=-1) == ["yolo26n-s0"]


# What each variant lacks of hieraedge-n's blocks, and has that it has not.
PARTS = {
    "without-sef": ({"SEF"}, set()),
    "without-edges": ({"HEM", "SEF"}, set()),
    "without-spdconv": ({"SPDConv"}, set()),
    "without-cspokm": ({"CSPOKM"}, set()),
    "gate-published": (set(), {"GlobalGate"}),
    "gate-channel": (set(), {"ChannelGate"}),
}
# Variants that differ in the training alone; the last two, in what they are trained on.
SETTINGS = {
    "turned-45": {"degrees": 45},
    "light-2": {"light": 2},
    "multi-scale": {"multi_scale": 0.25},
    "nwd-half": {"nwd": 0.5},
    "teacher-s": {"teacher": "hieraedge-s"},
    "hard-cases": {},
    "more-scenes": {},
}
KINDS = ("HEM", "SEF", "SPDConv", "CSPOKM", "ChannelGate", "GlobalGate")


@pytest.mark.parametrize("name", sorted(VARIANTS))
def test_a_variant_is_its_model_but_for_one_part(name, tmp_path):
    from palyno.app.commands.train import train
    from palyno.vision.models.detection import build

    def parts(model, options):
        network = build(model, classes=3, **options)
        return {kind for module in network.modules() if (kind := type(module).__name__) in KINDS}, network

    (tmp_path / "data.yaml").touch()
    command = Run(name, 1, ("--epochs", "3")).training(tmp_path / "data.yaml", tmp_path)
    parsed = train.make_context("train", command[1:]).params
    assert (parsed["seed"], parsed["epochs"], parsed["name"]) == (1, 3, name)
    model, options = network_of(name)
    assert parsed["model"] == model
    if name.endswith(("-named", "-loss")) or name in SETTINGS:
        assert not options
        assert (parsed["naming_loss"] is None) == (name in SETTINGS)
        same = [command[1], "--out", str(tmp_path), "--model", model, "--epochs", "3"]
        plain = train.make_context("train", same).params
        changed = {option: value for option, value in parsed.items() if value != plain[option]}
        for option in ("out", "name", "seed", "naming_loss"):
            changed.pop(option, None)
        assert changed == SETTINGS.get(name, {})
    elif name == "published-without-gate":
        assert parts(model, {})[0] == {"HEM", "SEF", "SPDConv", "CSPOKM", "GlobalGate"}
        assert parts(model, options)[0] == {"HEM", "SEF", "SPDConv", "CSPOKM"}
    else:
        mine, network = parts(model, options)
        whole, plain = parts("hieraedge-n", {})
        lacks, has = PARTS.get(name, (set(), set()))
        assert (whole - mine, mine - whole) == (lacks, has)
        changed = network.yaml["options"] != plain.yaml["options"] or network.yaml["layers"] != plain.yaml["layers"]
        assert changed
        assert network.yaml["naming_loss"] == plain.yaml["naming_loss"]


# Rows of each table that are not hieraedge's: None where it has none, or where the table has none.
NECK = {
    "fine3": ("p2", "SPDConv", {"out": 256}),
    "omni3": ("join3", "CSPOKM", {"ratio": 0.25, "kernel": "$kernel", "gate": "$gate"}),
}
ROWS = {
    "neck-as-published": NECK,
    "neck-and-edges-as-published": {**NECK, "edge": ("p2", "HEM", {"widths": [128, 256, 512], "edge": "$edge"})},
    # What read the part's output reads what the part read.
    "without-spdconv": {"fine3": None, "join3": (["up3", "p3"], "Concat", {})},
    "without-cspokm": {"omni3": None, "n3": ("join3", "C3k2", {"out": 256, "repeats": 2})},
    "without-sef": {
        "joined3": (["edge.p3", "stage3"], "Concat", {}),
        "p3": ("joined3", "Conv", {"out": 512}),
        "joined4": (["edge.p4", "stage4"], "Concat", {}),
        "p4": ("joined4", "Conv", {"out": 512}),
        "joined5": (["edge.p5", "stage5"], "Concat", {}),
        "fused5": ("joined5", "Conv", {"out": 1024}),
    },
    "without-edges": {
        "edge": None,
        "stage3": None,
        "p3": ("down3", "C3k2", {"out": 512, "repeats": 2, "ratio": 0.25}),
        "stage4": None,
        "p4": ("down4", "C3k2", {"out": 512, "repeats": 2, "c3k": True}),
        "fused5": None,
        "pooled5": ("stage5", "SPPF", {"out": 1024}),
    },
}


@pytest.mark.parametrize("file", sorted(TABLES.glob("*.yaml")), ids=lambda file: file.stem)
def test_a_table_is_hieraedges_but_for_the_rows_of_one_part(file):
    import yaml
    from palyno.vision.models import tables

    mine, whole = (yaml.safe_load(f.read_text()) for f in (file, Path(tables.__file__).with_name("hieraedge.yaml")))
    rows, expected = ({name: tuple(row) for name, *row in table["layers"]} for table in (mine, whole))
    # Of the rest nothing differs but that there are no further names, and no options of what is not there.
    assert mine["scale"] == "n"
    assert set(mine) == {*whole, "scale"} - {"models"}
    assert all(mine[key] == whole[key] for key in ("scales", "naming_loss", "reg_max", "outputs"))
    used = {value[1:] for _, _, arguments in rows.values() for value in arguments.values() if str(value)[0] == "$"}
    assert mine["options"] == {key: value for key, value in whole["options"].items() if key in used}
    differ = {name: rows.get(name) for name in rows.keys() | expected.keys() if rows.get(name) != expected.get(name)}
    assert differ == ROWS[file.stem]


def test_the_help_names_every_variant():
    from palyno.app.commands.bench_detectors import train

    told = " ".join((train.help or "").split())
    left = [name for name in VARIANTS if name not in told and f"-{name.split('-', 1)[1]}" not in told]
    assert not left


def test_no_variant_has_the_name_of_another_model():
    from palyno.vision.models.zoo import read_zoo

    assert not VARIANTS.keys() & read_zoo().keys()


@pytest.mark.parametrize(("name", "can"), [("yolo26n", True), ("hieraedge-rtdetr", False), ("rtdetr-l", False)])
def test_what_copies_from_main_memory_is_not_captured(name, can):
    from palyno.vision.models.detection import build

    assert _can_be_captured(build(name, classes=2)) is can


def test_times_say_the_threads_that_they_were_taken_on():
    import torch

    before = torch.get_num_threads()
    document = measure_latency(["yolo11n"], classes=2, threads=before + 1, seconds=0.01)
    assert document["device"]["threads"] == before + 1
    assert torch.get_num_threads() == before
    assert document["models"]["yolo11n"]["1"]["median_ms"] > 0


@pytest.mark.parametrize(("name", "makes"), [("hieraedge-published-n", True), ("published-without-gate", False)])
def test_a_gate_is_timed_with_its_transform_as_it_has_it_once_trained(name, makes, monkeypatch):
    import torch

    made = []
    transform = torch.fft.fft2
    monkeypatch.setattr(torch.fft, "fft2", lambda *a, **k: made.append(1) or transform(*a, **k))
    with torch.inference_mode():
        _call(name, 2, "cpu", 1, torch.contiguous_format)(None)
    assert bool(made) is makes


@pytest.mark.gpu
def test_graphs_are_replayed_while_their_networks_live():
    """A graph holds addresses: with the weights freed it reads what others wrote there, or nothing that is there."""
    document = measure_latency(["hieraedge-n", "yolo11n", "rtdetr-l"], device="cuda", seconds=0.3)
    for entry in document["models"].values():
        assert set(entry) == {"1", "16"}
        assert 0 < entry["1"]["median_ms"] < entry["16"]["median_ms"]
