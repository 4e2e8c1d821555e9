"""`palyno bench runtimes`: every runtime gives the same boxes, and its figures are those of its own process."""

import json

import pytest
from click.testing import CliRunner
from palyno.app.bench_runtimes import _summary, bench_runtimes
from palyno.app.cli import cli
from palyno.errors import UsageError
from PIL import Image

pytest.importorskip("onnxruntime")


def test_the_summary_of_known_times():
    assert _summary([4.0, 1.0, 2.0, 3.0, 5.0]) == {
        "median_ms": 3.0,
        "lower_quartile_ms": 2.0,
        "upper_quartile_ms": 4.0,
        "least_ms": 1.0,
    }


@pytest.mark.slow
def test_a_runtime_is_measured_beside_pytorch(tmp_path, shipped_model):
    out = tmp_path / "figures.json"
    Image.new("RGB", (200, 200), "white").save(tmp_path / "slide.png")
    line = ["bench", "runtimes", "--model", shipped_model, "--threads", "1", "--imgsz", "64", "--rounds", "4"]
    line += ["--slides", str(tmp_path / "slide.png"), "--runs", "1"]
    done = CliRunner().invoke(cli, [*line, "--runtime", "onnxruntime, any size", "--out", str(out), "--json"])
    assert done.exit_code == 0, done.output
    document = json.loads(done.stdout)
    assert json.loads(out.read_text()) == document
    base, other = document["rows"]
    assert (base["runtime"], base["faster"], base["box_px"]) == ("palyno, PyTorch", 1.0, 0.0)
    assert other["runtime"] == "onnxruntime, any size"
    assert 0 < other["probability"] < 1e-3
    assert other["box_px"] < 0.5
    for row in (base, other):
        assert 0 < row["least_ms"] <= row["lower_quartile_ms"] <= row["median_ms"] <= row["upper_quartile_ms"]
        assert 100 < row["peak_mib"] < 10_000
    assert done.stderr.count("MiB") == 2
    whole = document["detect"]
    assert [row["runtime"] for row in whole] == ["torch", "onnxruntime"]
    assert all(row["grains"] == 0 and row["seconds"] == [row["median_s"]] for row in whole)
    assert whole[0]["faster"] == 1.0
    assert whole[1]["faster"] == pytest.approx(whole[0]["median_s"] / whole[1]["median_s"], abs=0.01)


def test_an_unknown_runtime_is_refused():
    with pytest.raises(UsageError, match=r"runtimes: expected some of palyno, PyTorch.*; got tflite"):
        bench_runtimes(runtimes=["tflite"])
