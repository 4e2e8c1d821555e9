"""Vectors from the detector's own maps: pooling, the head that ships with its detector, training, and refusals."""

import json

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from palyno.app.cli import cli
from palyno.data.slides import open_slide
from palyno.errors import InputError, RejectedModelError, UnknownModelError, UsageError
from palyno.retrieval.encoders import Encoder
from palyno.retrieval.encoders.image import RegionEncoder
from palyno.retrieval.encoders.image.grains import GrainSet
from palyno.retrieval.encoders.image.regions import RegionHead, pool_regions, squares
from palyno.retrieval.encoders.image.regions_train import RegionSettings, maps_of, train_regions, windows
from palyno.retrieval.encoders.image.weights import fill, read_encoder, read_header, write_encoder
from palyno.vision.detector import load
from palyno.vision.tiles import iou_matrix
from palyno.vision.weights import find_model, load_weights, save_weights, shipped_models
from torchvision.ops import roi_align

FORMAT = "palyno-region-encoder-1"


@pytest.fixture(scope="module")
def encoder(shipped_model, one_thread):
    return RegionEncoder(device="cpu")


@pytest.fixture(scope="module")
def scene(samples):
    """A composed slide of one window with 21 grains of many taxa."""
    with open_slide(samples / "composed.jpg") as slide:
        return slide.read(0, 0, slide.width, slide.height)


@pytest.fixture(scope="module")
def found(encoder, scene):
    return encoder.detector.detect(scene, vectors=encoder)


def paired(a, b, shift=(0, 0)):
    """Cosines of the vectors of grains that two results share, and how many grains of the first these are."""
    iou = iou_matrix(a.boxes, b.boxes + np.array([*shift, *shift], np.float32))
    at = iou.argmax(1)
    same = iou.max(1) > 0.9
    return (a.vectors * b.vectors[at]).sum(1)[same], same.mean()


@pytest.mark.parametrize("of", [(0, 1, 2, 2, 2), (1, 1, 1, 1, 1), (0, 0, 0, 2, 2)])
def test_pooling_is_roi_align(of):
    rng = torch.Generator().manual_seed(0)
    maps = [torch.rand(3, 5, 12, 20, generator=rng), torch.rand(3, 7, 6, 10, generator=rng)]
    corner = torch.rand(5, 2, generator=rng) * torch.tensor([60.0, 20.0]) + 8
    boxes = torch.cat([corner, corner + 10 + 50 * torch.rand(5, 2, generator=rng)], 1)
    assert (boxes[:, 2:] < torch.tensor([152.0, 88.0])).all()
    pooled = pool_regions(maps, boxes, torch.tensor(of), (96, 160))
    rois = torch.cat([torch.tensor(of)[:, None].float(), boxes], 1)
    oracle = [
        roi_align(level, rois, 7, 1 / stride, 2, aligned=True) for level, stride in zip(maps, (8, 16), strict=True)
    ]
    assert torch.allclose(pooled, torch.cat(oracle, 1), atol=1e-5)


def test_beyond_the_window_there_is_nothing():
    pooled = pool_regions(
        [torch.ones(1, 1, 8, 8)], torch.tensor([[-64.0, 0.0, 64.0, 64.0]]), torch.tensor([0]), (64, 64)
    )
    assert (pooled[0, 0, :, :3] == 0).all() and torch.allclose(pooled[0, 0, 1:-1, 4:], torch.ones(5, 3))


def test_a_pass_gives_what_the_networks_parts_give_by_themselves(encoder, scene, found):
    model, _ = load_weights(find_model(encoder.detector_name)[0])
    light = torch.from_numpy(scene).permute(2, 0, 1)[None].float() / 255
    with torch.inference_mode():
        maps = model.model[0](light)
        tensors, about = read_encoder(encoder.path, FORMAT)
        head = fill(RegionHead(sum(about.config["widths"])), tensors, encoder.path)
        regions = squares(torch.from_numpy(found.boxes.copy()))
        rois = torch.cat([torch.zeros(len(found), 1), regions], 1)
        # Regions inside: torchvision repeats the border's values, where we see nothing.
        inside = ((regions >= 32) & (regions <= 640 - 32)).all(1)
        pooled = torch.cat([roi_align(level, rois, 7, level.shape[2] / 640, 2, aligned=True) for level in maps], 1)
        expected = head(pooled).numpy()
    assert inside.sum() > 5
    np.testing.assert_allclose(found.vectors[inside], expected[inside], atol=2e-3)
    np.testing.assert_allclose(np.linalg.norm(found.vectors, axis=1), 1, atol=1e-5)
    assert found.encoder_id == encoder.encoder_id


def test_a_shift_by_the_coarsest_stride_leaves_vectors_nearly_as_they_are(encoder, samples):
    with open_slide(samples / "rice_sparse.jpg") as slide:
        field = slide.read(200, 200, 672, 672)
    first, second = (encoder.detector.detect(field[d : d + 640, d : d + 640], vectors=encoder) for d in (0, 32))
    inner = first.select(((first.boxes[:, :2] > 64) & (first.boxes[:, 2:] < 608)).all(1))
    cosine, share = paired(inner, second, (32, 32))
    # Not quite, as attention and what lies around a grain reach far.
    assert share == 1 and len(cosine) >= 5 and cosine.min() > 0.95


def test_tiles_give_nearly_the_vectors_of_one_window(encoder, scene, found):
    tiled = encoder.detector.detect(scene, tile=512, vectors=encoder)
    assert tiled.provenance.arguments["tile_px"] < 640
    cosine, share = paired(found, tiled)
    assert share > 0.9 and cosine.min() > 0.9 and np.median(cosine) > 0.98


def test_a_crop_finds_its_own_grain(encoder, scene, found):
    assert isinstance(encoder, Encoder) and encoder.modality == "image"
    crops, whole = [], []
    for i, (x1, y1, x2, y2) in enumerate(found.boxes.astype(int)):
        mx, my = int(0.15 * (x2 - x1)), int(0.15 * (y2 - y1))
        if x1 > mx and y1 > my and x2 + mx < 640 and y2 + my < 640:
            crops.append(scene[y1 - my : y2 + my, x1 - mx : x2 + mx])
            whole.append(i)
    vectors = encoder.encode(crops)
    assert vectors.dtype == np.float32
    assert ((vectors @ found.vectors.T).argmax(1) == whole).mean() >= 0.6
    assert encoder.encode([]).shape == (0, encoder.dim)
    np.testing.assert_allclose(encoder.encode(crops[1:2])[0], vectors[1], atol=1e-5)
    # Nothing to find, or hardly a picture: still a vector.
    assert np.isfinite(encoder.encode([np.full((50, 30, 3), 230, np.uint8), np.zeros((1, 5, 3), np.uint8)])).all()
    with pytest.raises(UsageError, match="put it in a list"):
        encoder.encode(crops[0])
    with pytest.raises(UsageError, match="uint8 RGB"):
        encoder.encode([crops[0].astype(float)])


def test_the_head_that_ships_is_for_the_detector_that_ships(encoder):
    assert encoder.detector_sha256 == shipped_models()[encoder.detector_name].sha256
    assert encoder.encoder_id.startswith(f"grain-regions@{encoder.about.sha256[:12]}/")
    assert encoder.dim == encoder.about.config["dim"] and len(encoder.widths) == 3


def test_another_detector_is_refused_by_name(encoder, shipped_model, tmp_path):
    model, about = load_weights(find_model(shipped_model)[0])
    with torch.no_grad():
        next(model.parameters()).mul_(1.5)
    said = {name: getattr(about, name) for name in ("classes", "config", "imgsz", "naming_threshold", "max_grain_px")}
    path = save_weights(tmp_path / "other.safetensors", model, name="other", training={}, **said)
    said = rf"{encoder.about.encoder_id}/roi1 reads the maps of {encoder.detector_name} .* got other with"
    other = load(path, device="cpu")
    with pytest.raises(RejectedModelError, match=said):
        other.detect(np.zeros((64, 64, 3), np.uint8), vectors=encoder)
    with pytest.raises(RejectedModelError, match=said):
        RegionEncoder(detector=other)
    with pytest.raises(RejectedModelError, match=said):
        _ = RegionEncoder(detector=path, device="cpu").detector


def test_files_that_are_no_heads_are_refused(tmp_path):
    with pytest.raises(UnknownModelError, match="grain-regions"):
        RegionEncoder("nothing")
    with pytest.raises(RejectedModelError, match=r"expected an encoder of regions.*got an encoder of crops"):
        RegionEncoder("grain-encoder")
    head = RegionHead(9, 8, 16)
    plain = {"dim": 8, "width": 16, "widths": [4, 5], "detector": "d", "detector_sha256": "0" * 64}
    for key, value in (("detector_sha256", None), ("widths", []), ("dim", -1), ("detector", 3), ("width", "x")):
        path = write_encoder(
            tmp_path / "x.safetensors", head, format=FORMAT, name="x", config={**plain, key: value}, training={}
        )
        with pytest.raises(RejectedModelError, match="expected dim, width, widths, detector"):
            RegionEncoder(path)
    path = write_encoder(tmp_path / "y.safetensors", head, format=FORMAT, name="y", config=plain, training={})
    with pytest.raises(RejectedModelError, match=r"maps of \(4, 5\) channels, as d has, got \(4, 6\)"):
        RegionEncoder(path).read([torch.rand(1, 4, 8, 8), torch.rand(1, 6, 4, 4)], torch.ones(1, 4), (64, 64))
    assert RegionEncoder(path).read(
        [torch.rand(1, 4, 8, 8), torch.rand(1, 5, 4, 4)], torch.ones(0, 4), (64, 64)
    ).shape == (0, 8)


def drawn(taxa=("petals2", "petals5"), each=3):
    """Grains with lobes, at any angle and of any stain."""
    from palyno.data.grains import CutGrain

    rng = np.random.default_rng(0)
    y, x = np.mgrid[-1:1:60j, -1:1:60j]
    grains = []
    for taxon in taxa:
        for i in range(each):
            lobes = 0.65 + 0.25 * np.cos(int(taxon[-1]) * (np.arctan2(y, x) + rng.uniform(0, 6.28)))
            mask = (np.hypot(x, y) < lobes).astype(np.float32)
            grains.append(
                (CutGrain(1 - mask[..., None] * rng.uniform(0.2, 0.8, 3).astype(np.float32), mask), taxon, f"{i}")
            )
    return GrainSet.collect(grains)


@pytest.mark.parametrize("grey", [0.0, 1.0])
def test_training_windows_hold_their_grain_where_the_box_says_in_grey_or_colour(grey):
    pixels = torch.from_numpy(drawn(each=4).pixels)
    light, boxes = windows(pixels, 128, (40, 90), grey, torch.Generator().manual_seed(0))
    assert light.shape == (8, 3, 128, 128) and light.min() >= 0 and light.max() <= 1
    for picture, (x1, y1, x2, y2) in zip(light, boxes.tolist(), strict=True):
        middle = picture[:, int((y1 + y2) / 2), int((x1 + x2) / 2)]
        assert middle.mean() < picture.amax((1, 2)).mean() - 0.1
    # What differs between channels, but for the camera's noise and the lamp.
    colour = (light - light.mean(1, keepdim=True)).std((2, 3)).amax(1)
    assert (colour < 0.025).all() if grey else (colour > 0.025).float().mean() > 0.6, colour


@pytest.mark.parametrize("kind", ["hieraedge-n", "yolo11n"])
def test_a_head_can_be_trained_for_any_detector_and_says_whose_it_is(kind, tmp_path, one_thread):
    from palyno.vision.weights import _builder

    model = _builder()(kind, classes=["a", "b"])
    path = save_weights(
        tmp_path / "detector.safetensors",
        model,
        name="mine",
        classes=["a", "b"],
        config=model.yaml,
        imgsz=640,
        naming_threshold=0.5,
        max_grain_px=160,
        training={},
    )
    settings = RegionSettings(
        out=tmp_path,
        detector=str(path),
        dim=12,
        window=64,
        grain_px=(30, 50),
        steps=2,
        batch=4,
        per_taxon=2,
        device="cpu",
    )
    weights = train_regions(drawn(), settings)
    detector = load(path, device="cpu")
    encoder = RegionEncoder(weights, detector=detector)
    assert encoder.detector_name == "mine" and encoder.detector_sha256 == detector.sha256
    widths = tuple(level.shape[1] for level in maps_of(detector.network.model)(torch.zeros(1, 3, 64, 64)))
    assert encoder.widths == widths
    assert encoder.encode([np.full((40, 40, 3), 99, np.uint8)]).shape == (1, 12)
    said = read_header(weights, FORMAT).training
    assert said["taxa"] == ["petals2", "petals5"] and said["steps"] == 2 and said["recall_at_1"] is None
    assert str(tmp_path) not in json.dumps(dict(said))


def test_the_command_trains_from_kept_grains_in_its_time_and_tells_the_recall(shipped_model, tmp_path, one_thread):
    grains = drawn(each=1).save(tmp_path / "grains.npz")
    common = ["train-encoder", str(grains), "--of", "regions", "--out", str(tmp_path / "run"), "--device", "cpu"]

    def run(*arguments, code=0):
        done = CliRunner().invoke(cli, [*common, *map(str, arguments)])
        assert done.exit_code == code, done.output
        return done.output

    told = run("--detector", find_model(shipped_model)[0], "--minutes", 0.01, "--batch", 4, "--queries", grains)
    # A grain's nearest is itself.
    assert "Recall@1 of 2: 1.0 grey, 1.0 in colour" in told
    header = read_header(tmp_path / "run" / "grain-regions.safetensors", FORMAT)
    assert header.config["detector_sha256"] == shipped_models()[shipped_model].sha256
    assert header.training["recall_at_1"] == {"grey": 1.0, "colour": 1.0, "queries": 2, "gallery": 2}
    assert "--resume is for --of grains, got --of regions" in run("--resume", code=2)
    assert "expected grains of two taxa" in str(run("--without", "petals2", code=3))


def test_settings_that_cannot_be_are_refused(tmp_path):
    for wrong in (
        {"window": 100},
        {"grain_px": (90, 40)},
        {"loss": "l2"},
        {"seconds": 0},
        {"grey": 2},
        {"per_taxon": 1},
    ):
        with pytest.raises(UsageError, match=next(iter(wrong))):
            RegionSettings(out=tmp_path, **wrong)
    with pytest.raises(InputError, match="two taxa"):
        train_regions(drawn(("petals2",)), RegionSettings(out=tmp_path, device="cpu"))
