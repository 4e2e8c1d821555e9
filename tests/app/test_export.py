"""`palyno export`: a file, one JSON document, and the exit codes."""

import json
import sys

import palyno
import pytest
from click.testing import CliRunner
from palyno.app.cli import cli
from palyno.vision import export as module
from palyno.vision.runtimes.parity import Parity

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")


pytestmark = pytest.mark.usefixtures("one_thread")


def export(*arguments):
    return CliRunner().invoke(cli, ["export", *map(str, arguments)])


def test_a_model_is_exported_and_told(tmp_path, shipped_model):
    file = tmp_path / "folder" / "model.onnx"
    done = export(shipped_model, "--out", file, "--imgsz", 64, "--batch", 2, "--large-kernels", "dft", "--json")
    assert done.exit_code == 0, done.output
    document = json.loads(done.stdout)
    parity = document.pop("parity")
    assert document == {
        "out": str(file),
        "format": "onnx",
        "name": shipped_model,
        "bytes": file.stat().st_size,
        "sha256": palyno.load(shipped_model, device="cpu").metadata.sha256,
        "imgsz": 64,
        "batch": 2,
        "dynamic": False,
        "half": False,
        "duplicates": True,
        "max_objects": None,
        "trained_px": 640,
        "naming_threshold": document["naming_threshold"],
        "naming_temperature": document["naming_temperature"],
        "max_grain_px": document["max_grain_px"],
        "licence": "AGPL-3.0-or-later",
        "version": palyno.__version__,
        "large_kernels": "dft",
    }
    # Two images of 8 x 8, 4 x 4 and 2 x 2 anchors from each of the four sample slides.
    assert (parity["tiles"], parity["boxes"]) == (4, 4 * 2 * 84)
    assert parity["box_px"] < 0.5
    assert parity["probability"] < 1e-3


def test_the_parity_is_told(tmp_path, shipped_model):
    done = export(shipped_model, "--out", tmp_path / "x.onnx", "--imgsz", 64)
    assert "as in PyTorch to" in done.stderr
    assert "336 boxes of 4 tiles" in done.stderr


def test_a_file_that_is_there_is_replaced_only_with_overwrite(tmp_path, monkeypatch, shipped_model):
    file = tmp_path / "model.onnx"
    file.write_text("mine")
    refused = export(shipped_model, "--out", file)
    assert refused.exit_code == 2
    assert "--overwrite" in refused.stderr
    assert file.read_text() == "mine"
    monkeypatch.setattr(module, "onnx_graph", lambda *_: b"a graph")
    monkeypatch.setattr(module, "compare", lambda *_: Parity(0.0, 0.0, 1, 1))
    done = export(shipped_model, "--out", file, "--imgsz", 32, "--overwrite")
    assert done.exit_code == 0
    assert done.stdout == ""
    assert str(file) in done.stderr
    assert file.read_bytes() == b"a graph"


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["hieraedge-n"], 2, "--out"),
        (["hieraedge-n", "--imgsz", "100"], 2, "imgsz: expected a multiple of 32"),
        (["hieraedge-n", "--imgsz", "0"], 2, "--imgsz"),
        (["hieraedge-n", "--batch", "0"], 2, "--batch"),
        (["hieraedge-n", "--large-kernels", "fft"], 2, "--large-kernels"),
        (["hieraedge-n", "--format", "tflite"], 2, "--format"),
        (["no-such-model"], 5, "no-such-model"),
    ],
)
def test_what_cannot_be_meant_is_refused(tmp_path, shipped_model, arguments, code, message):
    file = tmp_path / "x.onnx"
    done = export(*arguments, *([] if len(arguments) == 1 and code == 2 else ["--out", file]))
    assert done.exit_code == code
    assert message in done.stderr
    assert not file.exists()


def test_missing_packages_are_named(tmp_path, monkeypatch, shipped_model):
    monkeypatch.setitem(sys.modules, "onnx", None)
    done = export(shipped_model, "--out", tmp_path / "x.onnx", "--json")
    assert done.exit_code == 1
    assert json.loads(done.stdout)["error"]["message"].startswith("onnx: expected to be installed")
