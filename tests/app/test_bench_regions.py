import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from palyno.app.bench_regions import bench_regions, read_scenes, tables
from palyno.app.cli import cli
from palyno.data.slides import open_slide
from palyno.errors import InputError
from palyno.retrieval.encoders.image import ImageEncoder, RegionEncoder
from PIL import Image


@pytest.fixture(scope="module")
def encoders(shipped_model, one_thread):
    return RegionEncoder(device="cpu"), ImageEncoder(device="cpu")


@pytest.fixture(scope="module")
def scenes(encoders, samples, tmp_path_factory):
    """Three scenes, all the same picture; its grains are called after their order, so no two are alike."""
    folder = tmp_path_factory.mktemp("scenes")
    with open_slide(samples / "composed.jpg") as slide:
        picture = slide.read(0, 0, 256, 256)
    result = encoders[0].detector.detect(picture)
    grains = [{"box": box, "taxon": f"taxon {i}"} for i, box in enumerate(result.boxes.tolist())]
    # One that nothing is found at, and one more in the gallery alone.
    grains.append({"box": [1, 250, 4, 255], "taxon": "missed"})
    written = []
    for split in ("train", "test"):
        (folder / "images" / split).mkdir(parents=True)
        for name in ("a.png", "b.png")[: 1 + (split == "test")]:
            Image.fromarray(picture).save(folder / "images" / split / name)
            written.append({"split": split, "image": name, "grains": grains if split == "train" else grains[1:]})
    (folder / "manifest.json").write_text(json.dumps({"scenes": written}))
    return folder, len(result)


def test_of_the_same_picture_every_grain_finds_itself(scenes, encoders):
    folder, count = scenes
    document = bench_regions(folder, *encoders)
    assert document["grey"] is False
    assert document["gallery"] == {"split": "train", "grains": count, "taxa": count}
    assert document["queries"] == {"split": "test", "grains": 2 * count - 2, "taxa": count - 1}
    passes, crops_in_passes, crops = document["recall_at_1"]
    assert passes["by_taxon"][0] == crops["by_taxon"][0] == 1.0 and passes["n"] == 2 * count - 2
    # Crops show less around a grain than the pass did.
    assert 0.5 < crops_in_passes["grains"] <= 1
    assert document["time"]["scenes"] == 1 and document["time"]["grains"] == count
    assert document["regions"] == encoders[0].encoder_id and document["crops"] == encoders[1].encoder_id
    shown = tables(document)
    assert f"{2 * count - 2} grains of {count - 1} taxa" in shown and "| 1.000 (1.000 to 1.000) | 1.000 of" in shown


def test_quiet_is_quiet_and_loses_no_figures(scenes, tmp_path):
    def run(*arguments):
        return CliRunner().invoke(cli, ["bench", "regions", str(scenes[0]), "--device", "cpu", *arguments])

    lost = run("--quiet")
    assert lost.exit_code == 2 and "--quiet: expected --out or --json with it" in lost.stderr
    done = run("--quiet", "--out", str(tmp_path / "r.json"))
    assert (done.exit_code, done.output) == (0, "")
    assert json.loads((tmp_path / "r.json").read_text())["recall_at_1"]


@pytest.mark.parametrize("name", ["regions.json", "regions_grey.json"])
def test_shipped_figures_are_of_the_weights_that_ship(encoders, name):
    document = json.loads((Path(__file__).parents[2] / "docs" / "results" / name).read_text(encoding="utf-8"))
    assert document["detector"] == {"name": "hieraedge-n", "sha256": encoders[0].detector.sha256}
    assert (document["regions"], document["crops"]) == tuple(encoder.encoder_id for encoder in encoders)


def test_scenes_come_with_their_boxes_and_other_folders_are_refused(scenes, tmp_path):
    path, boxes, taxa = next(iter(read_scenes(scenes[0], "train")))
    assert path.is_file() and boxes.shape == (len(taxa), 4) and np.isfinite(boxes).all()
    with pytest.raises(InputError, match="scenes of the split val"):
        list(read_scenes(scenes[0], "val"))
    row = {"split": "train", "image": "tile.jpg", "background": "field.jpg", "scale": 1.0, "silver": True}
    document = json.loads((scenes[0] / "manifest.json").read_text(encoding="utf-8"))
    (tmp_path / "manifest.json").write_text(json.dumps({**document, "scenes": [row, *document["scenes"]]}))
    assert next(iter(read_scenes(tmp_path, "train")))[0].name == path.name  # Tiles of labelled fields are passed over.
    for content in ("[]", '{"scenes": [{"split": "val"}]}', "no"):
        (tmp_path / "manifest.json").write_text(content)
        with pytest.raises(InputError, match="what palyno compose writes"):
            list(read_scenes(tmp_path, "val"))
    done = CliRunner().invoke(cli, ["bench", "regions", str(tmp_path), "--device", "cpu"])
    assert done.exit_code == 3 and "what palyno compose writes" in done.output
