from __future__ import annotations

import hashlib
import json

import pytest
from click.testing import CliRunner
from palyno.app import zoo
from palyno.app.cli import cli
from palyno.vision import weights
from palyno.vision.models.tables import model_names


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
    keys = {"family", "parameters", "gflops", "bytes", "head", "options", "ships", "licence", "figures", "kind"}
    assert all(keys <= set(row) for row in rows.values())
    assert rows["hieraedge-n-reference"]["options"] == {"edge": "reference", "gate": "published"}
    assert rows["backbone-yolo-n"]["parameters"] is None, "which backbone is not said"
    table = run("list").stdout
    assert all(name in table for name in rows)


def test_weights_are_as_large_as_the_table_that_they_were_trained_with(shipped_model):
    """Whatever their name stands for by now; a header's table is found again among ours."""
    from palyno.vision.models.tables import configure, layout_of
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
        held = sum(file.get_tensor(name).numel() for name in file.keys())  # noqa: SIM118
    # Statistics of normalisation beside the parameters, 80 classes in place of the weights' own.
    assert held == pytest.approx(row["parameters"], rel=0.02)


def test_figures_are_the_weights_own_or_those_that_were_measured(tmp_path, monkeypatch, shipped_model):
    def figures():
        return {row["name"]: row["figures"] for row in zoo.list_zoo()}

    monkeypatch.setattr(zoo, "FIGURES", tmp_path / "none.json")
    own = weights.read_metadata(weights.LOCK.parent / weights.shipped_models()[shipped_model].file)
    assert figures()[shipped_model] == own.training["validation"]
    assert figures()["yolo12n"] is None
    (tmp_path / "some.json").write_text(json.dumps({"models": {"yolo12n": {"mAP50": 0.25}}}))
    monkeypatch.setattr(zoo, "FIGURES", tmp_path / "some.json")
    assert figures()["yolo12n"] == {"mAP50": 0.25}
    assert "mAP50 0.250" in run("list").stdout
    (tmp_path / "some.json").write_text("[")
    assert figures()["yolo12n"] is None


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
