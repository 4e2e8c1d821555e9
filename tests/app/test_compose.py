"""`palyno compose` as users call it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner
from palyno.app.cli import cli

PICTURES = Path(__file__).parent.parent / "data" / "pictures" / "pollen73s"


def compose(out, *arguments):
    few = ("--train-scenes", 1, "--val-scenes", 1, "--test-scenes", 1, "--size", 128)
    return CliRunner().invoke(cli, ["compose", *map(str, (PICTURES / "train", "--out", out, *few, *arguments))])


@pytest.mark.parametrize("tested", [False, True])
def test_scenes_to_test_with_need_pictures_of_their_own_and_their_lack_is_told(tested, tmp_path):
    done = compose(tmp_path / "scenes", *(("--test-reference", PICTURES / "val") if tested else ()))
    assert done.exit_code == 0
    assert ("no test scenes: --test-reference" in done.stderr) is not tested
    assert len(list((tmp_path / "scenes" / "images" / "test").glob("*"))) == tested
    assert ("test: images/test" in (tmp_path / "scenes" / "data.yaml").read_text()) is tested


def test_the_summary_is_one_document_and_a_folder_with_files_is_refused(tmp_path):
    done = compose(tmp_path / "scenes", "--json")
    assert json.loads(done.stdout)["images"] == {"train": 1, "val": 1}
    again = compose(tmp_path / "scenes")
    assert again.exit_code == 2 and "expected a new or empty folder" in again.stderr
