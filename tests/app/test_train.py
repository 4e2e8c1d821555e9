"""`palyno train`: what its options come to, and what is refused before anything is read."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from click.testing import CliRunner
from palyno.app.cli import cli


def test_a_name_with_a_folder_is_refused_before_anything_is_done(tmp_path):
    (tmp_path / "data.yaml").write_text("names: [Betula, Alnus]\n")
    asked = ["train", str(tmp_path / "data.yaml"), "--out", str(tmp_path / "run"), "--weights", "hieraedge-n"]
    done = CliRunner().invoke(cli, [*asked, "--name", "a/b"])
    assert done.exit_code == 2
    # Not what the weights know of the classes, either.
    assert done.output.startswith("Error: name: expected the name of a file, without folders, got 'a/b'")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("error", "says"),
    [(0.042, "best at --conf 0.41: mean error 4.2%, 9.0% at the default 0.25"), (1.0, "train longer")],
)
def test_it_ends_with_the_threshold_that_counts_best_or_with_there_being_none(tmp_path, monkeypatch, error, says):
    counts = {"conf": 0.41, "count_error": error, "count_error_at_usual": 0.09}
    monkeypatch.setattr("palyno.vision.train.train", lambda settings, resume, told: tmp_path / "x.safetensors")
    monkeypatch.setattr(
        "palyno.vision.weights.read_metadata", lambda path: SimpleNamespace(training={"counts": counts})
    )
    (tmp_path / "data.yaml").write_text("names: [Betula, Alnus]\n")
    done = CliRunner().invoke(cli, ["train", str(tmp_path / "data.yaml"), "--out", str(tmp_path / "run")])
    assert done.exit_code == 0, done.output
    assert says in done.stderr and ("0.41" in done.stderr) == (error < 1)
