"""`palyno bench boundary`: on composed scenes, with attributions whose shares are known."""

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from palyno.app import bench_boundary as bench
from palyno.app.bench_boundary import BANDS, bench_boundary
from palyno.app.cli import cli
from palyno.data.compose import Recipe, compose_dataset
from palyno.data.masks import read_masks
from palyno.data.scene import SceneSettings
from palyno.errors import InputError, NothingToDoError, UsageError
from palyno.vision.explain import Attribution
from palyno.vision.explain.boundary import border_distance
from palyno.vision.weights import find_model, load_weights, save_weights

pytestmark = pytest.mark.usefixtures("one_thread")

PICTURES = Path(__file__).parents[1] / "data" / "pictures" / "pollen73s"
LOW = 0.05


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    out = tmp_path_factory.mktemp("scenes") / "set"
    recipe = Recipe(
        PICTURES / "train",
        test_reference=PICTURES / "val",
        scenes={"train": 0, "val": 0, "test": 2},
        scene=SceneSettings(size=320, grain_px=(30, 110), largest_count=8),
        seed=3,
    )
    compose_dataset(recipe, out, masks=True)
    return out


@pytest.fixture(scope="module")
def twin(tmp_path_factory):
    """The weights that ship, under another name."""
    model, about = load_weights(find_model("hieraedge-n")[0])
    return save_weights(
        tmp_path_factory.mktemp("twin") / "twin.safetensors",
        model,
        name="twin",
        classes=about.classes,
        config=about.config,
        imgsz=about.imgsz,
        naming_threshold=about.naming_threshold,
        naming_temperature=about.naming_temperature,
        max_grain_px=about.max_grain_px,
        training={},
    )


def test_known_attributions_get_their_known_shares(scenes, twin, monkeypatch):
    """The first model's attribution is the outline itself, the second's is the same everywhere."""
    masks = {
        tuple(grain.box): grain.mask for grains in read_masks(scenes / "masks/test.json").values() for grain in grains
    }
    calls = []

    def known(opened, sight, place, target, *, methods, layer, crop, box, tolerance):
        x1, y1, x2, y2 = crop
        distance = border_distance(masks[tuple(box)][y1:y2, x1:x2])
        values = (distance <= 0.5).astype(np.float32) if len(calls) % 2 == 0 else np.ones(distance.shape, np.float32)
        calls.append(box)
        return (Attribution("gradcam", layer, 8, values, {}),), 0.0

    monkeypatch.setattr(bench, "attributions", known)
    found = bench_boundary(scenes, ["hieraedge-n", str(twin)], maps=["gradcam/fine"], conf=LOW, device="cpu")
    assert found["measured"]["grains"] == len(calls) / 2 > 2
    rows = [row for row in found["rows"] if row["map"] == "gradcam/fine" and row["size"] == "all"]
    assert [row["band"] for row in rows] == [band.name for band in BANDS]
    for row in rows:
        first, second = (row["models"][name] for name in ("hieraedge-n", "twin"))
        assert first["share"] == pytest.approx({"mean": 1, "low": 1, "high": 1})
        assert second["enrichment"] == pytest.approx({"mean": 1, "low": 1, "high": 1})
        (apart,) = row["differences"]
        assert apart["share"]["mean"] == pytest.approx(1 - row["chance"], abs=2e-5)
        assert apart["grains_above"] == 1


def test_a_model_is_no_different_from_its_twin(scenes, twin):
    maps = ["gradcam/neck", "eigencam/fine", "edges"]
    found = bench_boundary(
        scenes, ["hieraedge-n", str(twin)], maps=maps, conf=LOW, device="cpu", most_scenes=1, most_grains=3
    )
    assert found["scenes"]["scenes"] == 1 and found["measured"]["grains"] <= 3
    keys = {row["map"] for row in found["rows"]}
    assert keys == {"gradcam/neck", "eigencam/fine", "edge/4", "edge/8", "edge/16", "edge/32", "sobel"}
    for row in found["rows"]:
        assert all(0 <= told["share"]["mean"] <= 1 for told in row["models"].values())
        for apart in row["differences"]:
            assert apart["share"] == {"mean": 0, "low": 0, "high": 0}


def test_the_command_writes_what_it_shows(scenes, tmp_path):
    out = tmp_path / "boundary.json"
    arguments = ["bench", "boundary", scenes, "--map", "gradcam/fine", "--scenes", 1, "--grains", 2, "--conf", LOW]
    arguments = [*map(str, arguments), "--device", "cpu", "--out", str(out)]
    done = CliRunner().invoke(cli, arguments)
    assert done.exit_code == 0, done.output
    assert "gradcam/fine" in done.stdout and "0.05d" in done.stdout
    document = json.loads(out.read_text())
    assert document["models"][0]["name"] == "hieraedge-n" and len(document["scenes"]["masks_sha256"]) == 64
    done = CliRunner().invoke(cli, arguments)
    assert done.exit_code == 2 and "--overwrite" in done.output


def test_what_cannot_be_measured_is_said(scenes, tmp_path):
    with pytest.raises(UsageError, match=r"maps: expected some of gradcam/neck, .*; got lime"):
        bench_boundary(scenes, ["hieraedge-n"], maps=["lime"])
    with pytest.raises(InputError, match="compose them with `palyno compose --masks`"):
        bench_boundary(tmp_path, ["hieraedge-n"])
    with pytest.raises(UsageError, match="models: expected different ones"):
        bench_boundary(scenes, ["hieraedge-n", "hieraedge-n"])
    with pytest.raises(NothingToDoError, match=r"none of \d+ grains is found by all of hieraedge-n with 1"):
        bench_boundary(scenes, ["hieraedge-n"], conf=1.0, device="cpu", most_scenes=1)
