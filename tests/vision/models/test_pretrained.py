"""A backbone that begins from a classifier's weights gives its maps, from the first step of training on."""

import hashlib
import json

import palyno.vision.backbones  # noqa: F401
import pytest
import timm
import torch
from click.testing import CliRunner
from palyno import RejectedModelError, UsageError
from palyno.app.cli import cli
from palyno.vision.models.detection import build
from palyno.vision.models.pretrained import as_begun, begin
from palyno.vision.models.pyramid import PIXELS, pixels_of, pyramid
from palyno.vision.models.tables import configure
from palyno.vision.models.trainer import PollenTrainer
from palyno.vision.train import TrainSettings
from palyno.vision.weights import load_weights, save_weights
from safetensors.torch import load_file, save_file
from torchvision.transforms.functional import normalize

pytestmark = pytest.mark.usefixtures("one_thread")

# Ours; norms of batches and of channels; windows, with maps that have their channels last; another order of names.
BACKBONES = ["biformer_nano", "timm:convnext_atto", "timm:mobilenetv4_conv_small_035", "timm:mambaout_femto"]


def classifier(name, **options):
    """timm's classifier with the statistics of data: fresh ones hide most mistakes."""
    torch.manual_seed(1)
    model = timm.create_model(name.removeprefix("timm:"), **options).eval()
    for norm in model.modules():
        if isinstance(norm, torch.nn.BatchNorm2d):
            norm.running_mean.normal_(0, 0.3)
            norm.running_var.uniform_(0.5, 1.5)
    return model


@pytest.fixture(params=BACKBONES)
def name(request):
    return request.param


@pytest.fixture
def file(name, tmp_path):
    path = tmp_path / "classifier.safetensors"
    save_file(classifier(name, num_classes=7).state_dict(), path, {"format": "pt"})
    return path


def begun(name, file, **options):
    model = build(as_begun(configure("backbone-yolo-n", classes=2, backbone=name, **options), file))
    return model, begin(model, file)


def test_its_maps_are_those_that_timm_makes_with_the_file(name, file):
    model, taken = begun(name, file)
    backbone = model.eval().model[0].blocks["backbone"]
    plain = name.removeprefix("timm:")
    overlay = {"file": str(file), "num_classes": 7}
    theirs = timm.create_model(plain, features_only=True, pretrained=True, pretrained_cfg_overlay=overlay).eval()
    about = timm.models.get_pretrained_cfg(plain)
    image = torch.rand(2, 3, 96, 64)
    with torch.no_grad():
        expected = theirs(normalize(image, about.mean, about.std))[-3:]
        found = backbone(image)
    if getattr(theirs, "output_fmt", "NCHW") == "NHWC":
        expected = [x.permute(0, 3, 1, 2) for x in expected]
    assert len(found) == 3
    for x, y in zip(found, expected, strict=True):
        # Fresh norms have weight 1 and bias 0.
        y = torch.nn.functional.layer_norm(y.permute(0, 2, 3, 1), y.shape[1:2], eps=1e-6).permute(0, 3, 1, 2)
        torch.testing.assert_close(x, y, rtol=1e-4, atol=1e-5)
        assert y.std() > 0.1
    tensors = load_file(file)
    assert taken.tensors + len(taken.left) == len(tensors)
    assert taken.tensors == len(backbone.net.state_dict()) and not taken.norms
    assert {n.partition(".")[0] for n in taken.left} <= {"head", "norm", "norm_head", "conv_head", "classifier"}
    assert taken.sha256 == hashlib.sha256(file.read_bytes()).hexdigest() == model.yaml["pretrained"]["sha256"]


def test_weights_of_it_load_with_the_same_pixels(name, file, tmp_path):
    model, _ = begun(name, file)
    model.half().float().eval()
    path = save_weights(
        tmp_path / "test.safetensors",
        model,
        name="test",
        classes=["a", "b"],
        config=model.yaml,
        imgsz=64,
        naming_threshold=0.5,
        max_grain_px=40,
        training={},
    )
    file.unlink()
    loaded, metadata = load_weights(path)
    assert loaded.model[0].blocks["backbone"].pixels == pixels_of(name) != "plain"
    assert metadata.config["pretrained"]["file"] == "classifier.safetensors"
    x = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(loaded(x)[0], model(x)[0])
        loaded.model[0].blocks["backbone"].pixels = "plain"
        assert not torch.equal(loaded(x)[0], model(x)[0])


@pytest.mark.parametrize("name", ["biformer_nano"], indirect=True)
def test_training_starts_from_the_file_and_tells_so(file, data, tmp_path, monkeypatch):
    before, step = [], PollenTrainer.optimizer_step

    def watched(trainer):
        if not before:
            before.append({key: tensor.clone() for key, tensor in trainer.model.state_dict().items()})
        step(trainer)

    monkeypatch.setattr(PollenTrainer, "optimizer_step", watched)
    settings = ["--epochs", "1", "--imgsz", "64", "--device", "cpu", "--workers", "0", "--batch", "1"]
    line = ["train", str(data), "--out", str(tmp_path / "run"), "--backbone", "biformer_nano", *settings]
    done = CliRunner().invoke(cli, [*line, "--backbone-weights", str(file)])
    assert done.exit_code == 0, done.output
    assert "biformer_nano: all of its" in done.stderr
    assert "not taken: head (2), norm (5); the norms of its maps, neck and head start from random" in done.stderr
    own, prefix = load_file(file), "model.0.blocks.backbone.net."
    found = {key.removeprefix(prefix): tensor for key, tensor in before[0].items() if key.startswith(prefix)}
    # Statistics of normalisation move with the first image, before the first step.
    learned = [key for key in found if "running" not in key and "batches" not in key]
    assert len(learned) > 100
    assert [key for key in learned if not torch.equal(found[key], own[key])] == []
    _, metadata = load_weights(tmp_path / "run" / "backbone-yolo-n.safetensors")
    said = {"file": file.name, "sha256": hashlib.sha256(file.read_bytes()).hexdigest()}
    assert metadata.training["recipe"]["backbone_weights"] == metadata.config["pretrained"] == said
    assert str(tmp_path) not in json.dumps([metadata.training, metadata.config])


@pytest.mark.parametrize("name", ["biformer_nano"], indirect=True)
def test_norms_of_a_detectors_maps_are_taken_stage_by_stage(file):
    tensors = load_file(file)
    norms = {f"norms.{i}.{part}": torch.rand(32 * 2**i) for i in range(4) for part in ("weight", "bias")}
    save_file(tensors | norms, file)
    model, taken = begun("biformer_nano", file)
    backbone = model.model[0].blocks["backbone"]
    assert torch.equal(backbone.norms[0].weight, norms["norms.1.weight"])
    assert torch.equal(backbone.norms[2].bias, norms["norms.3.bias"])
    assert taken.norms and "norms.0.bias" in taken.left
    assert "neck and head start" in str(taken) and "the norms" not in str(taken)


def test_pixels_are_known_of_every_network_of_timm():
    for name in timm.list_models():
        if (about := timm.models.get_pretrained_cfg(name)) is not None:
            assert PIXELS[pixels_of(f"timm:{name}")] == (about.mean, about.std), name


@pytest.mark.parametrize("name", ["biformer_nano"], indirect=True)
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.pop("stem.0.bias"), r"tensors, of which 1 differ: net.stem.0.bias missing for \(16,\)"),
        (lambda t: t.update({"stem.0.bias": torch.ones(3)}), r"of which 1 differ: net.stem.0.bias \(3,\) for \(16,\)"),
        (lambda t: t["stem.0.bias"].fill_(torch.nan), "expected finite weights, got others in stem.0.bias"),
        (lambda t: t.update({"model.stem.0.bias": torch.ones(16)}), "two have one name"),
    ],
)
def test_a_file_that_is_not_all_of_the_backbone_is_refused(file, change, message):
    tensors = load_file(file)
    change(tensors)
    save_file(tensors, file)
    with pytest.raises(RejectedModelError, match=message):
        begun("biformer_nano", file)


@pytest.mark.parametrize("name", ["biformer_nano"], indirect=True)
def test_what_is_wrong_is_told_before_anything_is_written(file, data, tmp_path, shipped_model):
    def run(*arguments):
        done = CliRunner().invoke(cli, ["train", str(data), "--out", str(tmp_path / "run"), *arguments])
        assert not (tmp_path / "run").exists()
        return done.exit_code, done.stderr

    code, said = run("--backbone-weights", str(file))
    assert (
        code == 2 and "expected a model with a backbone to choose, got hieraedge-n; choose one with --backbone" in said
    )
    code, said = run("--backbone", "biformer_nano", "--weights", str(file))
    assert code == 2 and "the weights of a backbone alone are backbone_weights" in said
    code, said = run("--weights", str(file))
    assert code == 5 and "those of a backbone are for palyno train --backbone-weights" in said
    code, said = run("--backbone", "biformer_nano", "--backbone-weights", str(tmp_path / "x.safetensors"))
    assert code == 5 and "there is no such file" in said
    save_file(load_file(file), file, {"palyno": '{"architecture": "biformer_nano"}'})
    code, said = run("--backbone", "biformer_tiny", "--backbone-weights", str(file))
    assert code == 5 and "it is of biformer_nano, as it says: --backbone biformer_nano" in said
    torch.save({"model": load_file(file)}, tmp_path / "x.pth")
    code, said = run("--backbone", "biformer_nano", "--backbone-weights", str(tmp_path / "x.pth"))
    assert code == 5 and "a pickle" in said and "`palyno models convert` makes it" in said
    with pytest.raises(UsageError, match="backbone_weights: weights bring their layer table"):
        TrainSettings(data, tmp_path / "run", weights=shipped_model, backbone_weights=file)


@pytest.mark.parametrize("name", ["biformer_nano"], indirect=True)
def test_pixels_of_colours_are_not_for_other_images(file):
    with pytest.raises(UsageError, match="imagenet is of red, green and blue, got an image of 1 channels"):
        begun("biformer_nano", file, channels=1)
    with pytest.raises(UsageError, match=r"pixels: expected one of plain, imagenet, .*; got 'x'"):
        config = as_begun(configure("backbone-yolo-n", classes=2, backbone="biformer_nano"), file)
        config["layers"][0][3]["pixels"] = "x"
        build(config)


def test_fusing_a_pyramid_of_patches_keeps_the_function():
    made, widths = pyramid("biformer_stl", (4, 8, 16, 32))
    assert widths == [96, 192, 384, 768]
    torch.manual_seed(0)
    for norm in made.modules():
        if isinstance(norm, torch.nn.BatchNorm2d):
            norm.running_mean.normal_(0, 0.3)
            norm.running_var.uniform_(0.5, 1.5)
    x = torch.rand(1, 3, 70, 100)
    with torch.no_grad():
        before = made.eval()(x)
        made.fuse()
        assert isinstance(made.net.stem[1], torch.nn.Identity)
        for a, b in zip(made(x), before, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4)
    assert [tuple(a.shape[2:]) for a in before] == [(18, 25), (9, 13), (5, 7), (3, 4)]
