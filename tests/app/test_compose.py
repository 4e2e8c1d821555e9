"""`palyno compose` as users call it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from palyno.app.cli import cli
from palyno.vision.predictions import write_predictions
from palyno.vision.results import Provenance, SlideResult

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


def test_it_is_told_whether_the_original_sizes_of_pictures_are_known(tmp_path):
    references = tmp_path / "references"
    shutil.copytree(PICTURES / "train", references)
    few = ("--train-scenes", 1, "--val-scenes", 1, "--size", 128, "--seed", 1)
    without = CliRunner().invoke(cli, ["compose", *map(str, (references, "--out", tmp_path / "without", *few))])
    pictures = sorted(references.glob("*/*.jpg"))
    rows = [f"references/{picture.parent.name}/{picture.name},1000,900" for picture in pictures]
    (references / "manifest.csv").write_text("\n".join(["file,original_width,original_height", *rows]) + "\n")
    known = CliRunner().invoke(cli, ["compose", *map(str, (references, "--out", tmp_path / "known", *few))])
    assert without.exit_code == known.exit_code == 0
    assert "no manifest.csv with original sizes" in without.stderr
    assert f"original sizes of {len(pictures)} pictures are known" in known.stderr
    sizes = [
        json.loads((tmp_path / name / "manifest.json").read_text())["original_sizes"] for name in ("without", "known")
    ]
    assert sizes == [0, len(pictures)]
    # They matter: what was shrunk less than others comes out smaller.
    boxes = [json.loads((tmp_path / name / "annotations" / "train.json").read_text()) for name in ("without", "known")]
    assert boxes[0]["annotations"] != boxes[1]["annotations"]


def test_the_summary_is_one_document_and_a_folder_with_files_is_refused(tmp_path):
    done = compose(tmp_path / "scenes", "--json")
    assert json.loads(done.stdout)["images"] == {"train": 1, "val": 1}
    again = compose(tmp_path / "scenes")
    assert again.exit_code == 2 and "expected a new or empty folder" in again.stderr


def kept(scenes, split, path):
    """What a detector that finds every grain and takes each for `Zea mays` would be kept to have found."""
    manifest = json.loads((scenes / "manifest.json").read_text())
    results = [
        SlideResult(
            scene["image"],
            128,
            128,
            np.array([grain["box"] for grain in scene["grains"]], np.float32),
            np.full(len(scene["grains"]), 0.9, np.float32),
            ("Zea mays",) * len(scene["grains"]),
            Provenance("m", "a" * 64, "1"),
            candidates=((("Zea mays", 0.9),),) * len(scene["grains"]),
            conf=0.05,
        )
        for scene in manifest["scenes"]
        if scene["split"] == split
    ]
    write_predictions(path, results, manifest["classes"])
    return path


def test_hard_cases_of_a_detector_are_told_and_kept_in_the_manifest(tmp_path):
    named = ("--unknown", "train:mimosa_pigra", "--train-scenes", 6)
    assert compose(tmp_path / "first", *named).exit_code == 0
    file = kept(tmp_path / "first", "train", tmp_path / "train.json.gz")
    done = compose(tmp_path / "second", *named, "--hard-cases", tmp_path / "first", file, "--hard-most", 3)
    assert done.exit_code == 0, done.stderr
    hardness = json.loads((tmp_path / "second" / "manifest.json").read_text())["recipe"]["hardness"]
    assert (hardness["most"], hardness["seen_by"]) == (3, ["a" * 64])
    assert min(hardness["taxa"], key=hardness["taxa"].get) == "zea_mays"
    hardest = max(hardness["taxa"].values())
    assert (
        f"hard cases: {hardness['mean']:.2f} on average; hardest: " in done.stderr and f" {hardest:.2f}" in done.stderr
    )

    other = kept(tmp_path / "first", "val", tmp_path / "val.json.gz")
    wrong = compose(tmp_path / "third", *named, "--hard-cases", tmp_path / "first", other)
    assert wrong.exit_code == 3 and "another split or set" in wrong.stderr
    alone = compose(tmp_path / "third", "--hard-most", 3)
    assert alone.exit_code == 2 and "--hard-most: expected --hard-cases with it" in alone.stderr
    assert not (tmp_path / "third").exists()
