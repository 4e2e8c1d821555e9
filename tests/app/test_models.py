from __future__ import annotations

import hashlib
import itertools
import json
import re
import shlex

import pytest
from click.testing import CliRunner
from palyno.app import zoo
from palyno.app.cli import cli
from palyno.vision import weights
from palyno.vision.models.tables import configure, model_names


@pytest.fixture
def lock(monkeypatch, tmp_path):
    """A list with one model of three bytes, in place of the one that ships."""
    (tmp_path / "tiny.safetensors").write_bytes(b"abc")
    entry = {
        "file": "tiny.safetensors",
        "sha256": hashlib.sha256(b"abc").hexdigest(),
        "bytes": 3,
        "licence": "AGPL-3.0",
        "source": "made up",
    }
    file = tmp_path / "models.lock"
    file.write_text(json.dumps({"format": weights.LOCK_FORMAT, "models": {"tiny": entry}}))
    monkeypatch.setattr(weights, "LOCK", file)
    monkeypatch.setattr(weights.shipped_models, "__defaults__", (file,))
    return file


def run(*arguments):
    return CliRunner().invoke(cli, ["models", *arguments])


def test_list_names_licence_and_source(lock):
    done = run("list")
    assert done.exit_code == 0
    assert all(word in done.stdout for word in ("tiny", "AGPL-3.0", "made up"))
    first = json.loads(run("list", "--json").stdout)["models"][0]
    assert (first["name"], first["bytes"], first["ships"]) == ("tiny", 3, True)
    assert "expected safetensors, got 3 bytes" in first["problem"]


def test_list_has_every_model_that_can_be_built_with_its_size_and_work():
    rows = {row["name"]: row for row in json.loads(run("list", "--json").stdout)["models"]}
    assert set(model_names()) <= set(rows)
    keys = {"family", "parameters", "gflops", "bytes", "head", "options", "ships", "licence", "kind"}
    keys |= {"validation", "short_training", "counted_for"}
    assert all(keys <= set(row) for row in rows.values())
    assert rows["hieraedge-n-reference"]["options"] == {"edge": "reference", "gate": "published"}
    assert rows["backbone-yolo-n"]["parameters"] is None, "which backbone is not said"
    assert {row["licence"] for row in rows.values()} == {"AGPL-3.0-or-later", "AGPL-3.0"}
    assert all((row["licence"] == "AGPL-3.0") == (row["family"] == "ultralytics") for row in rows.values())
    assert all(row["counted_for"] == (len(row["classes"]) if row.get("classes") else 80) for row in rows.values())
    table = run("list").stdout
    assert all(name in table for name in rows)


def test_list_has_every_backbone_of_ours_with_its_size_and_work_and_what_to_do_with_it():
    listed = json.loads(run("list", "--json").stdout)
    rows = {row["name"]: row for row in listed["backbones"]}
    assert list(rows) == [
        "biformer_nano",
        "biformer_tiny",
        "biformer_small",
        "biformer_stl",
        "biformer_stl_nchw",
        "biformer_base",
    ]
    keys = {"family", "parameters", "gflops", "bytes", "channels", "strides", "models", "ships", "licence", "kind"}
    assert all(keys <= set(row) for row in rows.values())
    models = {row["name"]: row for row in listed["models"]}
    assert not set(rows) & set(models), "a --model is no --backbone"
    layouts = rows["biformer_nano"]["models"]
    assert sorted(layouts) == sorted(n for n, row in models.items() if row["parameters"] is None and row["options"])
    text = run("list").stdout
    assert all(name in text for name in (*rows, *layouts))
    assert re.search(r"biformer_nano +1\.80 +6\.3 +3\.6 MB +32 at 4, 64 at 8, 128 at 16, 256 at 32 +AGPL-3\.0", text)


def test_what_list_says_to_do_with_backbones_can_be_done():
    """The commands get as far as the data, which is not there; what they name is known; the line of Python runs."""
    import palyno.vision.backbones  # noqa: F401
    import timm

    lines = [line.strip() for line in run("list").stdout.splitlines()]
    commands = [shlex.split(line) for line in lines if line.startswith("palyno train ")]
    assert len(commands) == 2
    for _, *arguments in commands:
        assert "scenes/data.yaml' does not exist" in CliRunner().invoke(cli, arguments).output
        named = dict(itertools.pairwise(arguments))
        config = configure(named.get("--model", "backbone-yolo-n"), classes=2, backbone=named["--backbone"])
        assert config["options"]["backbone"] == named["--backbone"]
        assert named["--backbone"].removeprefix("timm:") in timm.list_models()
    (line,) = (line for line in lines if line.startswith("import timm"))
    imports, maps = line.split("; ")
    exec(imports, scope := {})
    assert eval(maps, scope).feature_info.channels() == [32, 64, 128, 256]


def test_weights_are_as_large_as_the_table_that_they_were_trained_with(shipped_model):
    """Whatever their name stands for by now; a header's table is found again among ours."""
    from palyno.vision.models.tables import layout_of
    from palyno.vision.models.zoo import read_zoo
    from safetensors import safe_open

    for name in ("hieraedge-n-reference", "hieraedge-n-one2one", "hieraedge-published-n", "biformer-nano-yolo"):
        assert layout_of(configure(name, classes=3)) == name
    assert layout_of(configure("hieraedge-n-reference", classes=3, gate="none", edge="none")) == "hieraedge-published-n"
    assert layout_of(configure("backbone-yolo-n", classes=3, backbone="timm:resnet18")) == "backbone-yolo-n"
    assert layout_of(configure("hieraedge-s", classes=3, gate="published")) == "hieraedge-s"
    assert layout_of(configure("yolo12n", classes=3)) == "yolo12n"
    assert layout_of(configure("hieraedge-n", classes=3) | {"outputs": ["n3", "n4", "p5"]}) is None
    (row,) = (row for row in zoo.list_zoo() if row["name"] == shipped_model)
    with safe_open(weights.LOCK.parent / row["file"], "pt") as file:
        learned = [name for name in file.keys() if not re.search(r"\.(running_\w+|num_batches_tracked)$", name)]  # noqa: SIM118
        assert sum(file.get_tensor(name).numel() for name in learned) == row["parameters"]
    assert row["counted_for"] == len(row["classes"]) == 66
    assert row["parameters"] < read_zoo()[row["layout"]]["parameters"], "that is for 80 classes"


def test_figures_of_validation_and_of_a_short_training_are_told_apart(tmp_path, monkeypatch, shipped_model):
    def figures(name):
        (row,) = (row for row in zoo.list_zoo() if row["name"] == name)
        return row["validation"], row["short_training"]

    monkeypatch.setattr(zoo, "FIGURES", tmp_path / "none.json")
    own = weights.read_metadata(weights.LOCK.parent / weights.shipped_models()[shipped_model].file).training
    said = {name: own["validation"][f"metrics/{name}(B)"] for name in ("mAP50", "mAP50-95")}
    assert figures(shipped_model) == (said, None)
    assert figures("yolo12n") == (None, None)
    mean = {"composed": {"mAP50": [0.25, 0.2, 0.3], "mAP50-95": [0.125, 0.1, 0.2], "sd": None}, "other": {}}
    entry = {"runs": {"0": {}, "1": {}}, "mean": mean}
    (tmp_path / "some.json").write_text(json.dumps({"models": {"yolo12n": entry, shipped_model: entry}}))
    monkeypatch.setattr(zoo, "FIGURES", tmp_path / "some.json")
    short = {"seeds": 2, "mAP50": 0.25, "mAP50-95": 0.125}
    assert figures("yolo12n") == (None, short)
    assert figures(shipped_model) == (said, short), "weights that ship were trained longer than their layout was there"
    listed = " ".join(run("list").stdout.split())
    assert "0.125 / 0.250" in listed and f"{said['mAP50-95']:.3f} / {said['mAP50']:.3f}" in listed
    # Validation is kinder than the test that the README tells of, so whoever sees both is told which is which.
    assert "images that chose them" in listed and "weights/NAME.md" in listed and "docs/detectors.md" in listed
    (tmp_path / "some.json").write_text("[")
    assert figures("yolo12n") == (None, None)


def test_what_the_page_says_of_peers_is_listed():
    """The committed document is read as it is."""
    listed = {row["name"]: row["short_training"] for row in zoo.list_zoo()}
    document = json.loads(zoo.FIGURES.read_text(encoding="utf-8"))["models"]
    for name in ("yolo11n", "yolo12n", "hieraedge-n-reference", "rtdetr-l"):
        assert listed[name]["mAP50-95"] == document[name]["mean"]["composed"]["mAP50-95"][0]


def test_listing_builds_nothing(run_python):
    code = (
        "import sys, palyno.app.cli as c; c.cli.main(['models', 'list'], standalone_mode=False);"
        "print([m for m in ('torch', 'ultralytics', 'pandas') if m in sys.modules])"
    )
    assert run_python("-c", code).splitlines()[-1] == "[]"


@pytest.mark.parametrize(
    ("content", "status"), [(b"abc", "ok"), (b"abd", "differs"), (b"ab", "differs"), (None, "missing")]
)
def test_verify_hashes_every_file(lock, content, status):
    file = lock.parent / "tiny.safetensors"
    file.unlink()
    if content is not None:
        file.write_bytes(content)
    done = run("verify", "--json")
    assert [model["status"] for model in json.loads(done.stdout)["models"]] == [status]
    assert done.exit_code == (0 if status == "ok" else 5)
    assert status in run("verify").stdout


def test_a_damaged_list_is_refused(lock):
    lock.write_text("{")
    assert run("verify").exit_code == 5
