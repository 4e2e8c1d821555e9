"""`palyno train`: what its options come to, and what is refused before anything is read."""

from __future__ import annotations

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
