"""Detectors on BiFormer's pyramid and on timm's: their size, that they train, and that their weights are kept whole."""

import copy
import json

import pytest
import timm
import torch
from click.testing import CliRunner
from palyno import UsageError
from palyno.app.cli import cli
from palyno.vision.models.detection import PollenModel, build, model_names
from palyno.vision.models.pyramid import pyramid
from palyno.vision.train import TrainSettings, train
from palyno.vision.weights import find_model, load_weights, save_weights
from PIL import Image, ImageDraw
from torch.utils.flop_counter import FlopCounterMode

BIFORMER = ["biformer-nano-yolo", "biformer-nano-edge-yolo"]
# Attention, convolutional stages, maps with their channels last, windows that move, windows that must tile the maps.
SWIN, MAXVIT = "timm:swin_tiny_patch4_window7_224", "timm:maxvit_pico_rw_256"
TIMM = ["timm:biformer_nano", "timm:convnext_atto", "timm:mambaout_femto", SWIN, MAXVIT]


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def made():
    torch.manual_seed(0)
    return {name: build(name, classes=["Betula", "Alnus"]) for name in BIFORMER}


@pytest.fixture(params=BIFORMER)
def model(request, made):
    return copy.deepcopy(made[request.param])


def parameters(module):
    return sum(p.numel() for p in module.parameters())


def lively(model):
    """With the statistics and shifts of data: fresh ones hide most mistakes."""
    torch.manual_seed(0)
    for norm in model.modules():
        if isinstance(norm, torch.nn.BatchNorm2d):
            for tensor in (norm.bias.data, norm.running_mean):
                tensor.normal_(0, 0.3)
            norm.running_var.uniform_(0.5, 1.5)
    return model.eval()


@pytest.mark.parametrize(
    ("name", "total", "gflops"),
    [("biformer-nano-yolo", 3_046_684, 9.66), ("biformer-nano-edge-yolo", 3_396_380, 10.76)],
)
def test_nano_detectors_are_small(name, total, gflops):
    """YOLO12n, counted so: 2.64 million parameters and 7.66 G operations, of which its backbone 1.39 and 4.25."""
    model = build(name, classes=120).eval()
    assert parameters(model) == total
    assert parameters(model.model[0].blocks["backbone"].net) == 1_796_224
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model(torch.rand(1, 3, 640, 640))
    assert counter.get_total_flops() / 1e9 == pytest.approx(gflops, abs=0.01)


def test_the_head_is_given_boxes_in_pixels_and_probabilities(model):
    with torch.no_grad():
        y = model.eval()(torch.rand(2, 3, 64, 96))[0]
    assert y.shape == (2, 4 + 2, 8 * 12 + 4 * 6 + 2 * 3)
    assert ((y[:, 4:] >= 0) & (y[:, 4:] <= 1)).all()


def test_a_step_of_training_changes_every_parameter_of_the_body(model):
    """Two images of one grain each."""
    from ultralytics.cfg import get_cfg

    torch.manual_seed(0)
    model.args = get_cfg()
    grains = {"bboxes": torch.tensor([[0.4, 0.5, 0.4, 0.4], [0.6, 0.5, 0.5, 0.4]]), "cls": torch.tensor([[0], [1]])}
    losses, _ = model.train()({"img": torch.rand(2, 3, 64, 64), "batch_idx": torch.arange(2), **grains})
    losses.sum().backward()
    body = model.model[0]
    before = copy.deepcopy(body)
    assert all(torch.isfinite(p.grad).all() for p in body.parameters())
    torch.optim.AdamW(body.parameters(), 1e-3, weight_decay=0).step()
    pairs = zip(body.named_parameters(), before.parameters(), strict=True)
    assert [name for (name, now), then in pairs if torch.equal(now, then)] == []


def test_a_run_of_training_ends_in_weights_that_load(tmp_path):
    for split in ("train", "val"):
        for folder in ("images", "labels"):
            (tmp_path / folder / split).mkdir(parents=True)
        picture = Image.new("RGB", (64, 64), "white")
        ImageDraw.Draw(picture).ellipse((10, 12, 40, 42), fill="brown")
        picture.save(tmp_path / f"images/{split}/0.png")
        (tmp_path / f"labels/{split}/0.txt").write_text("0 0.39 0.42 0.47 0.47")
    data = tmp_path / "data.yaml"
    data.write_text(f"path: {tmp_path}\ntrain: images/train\nval: images/val\nnames: {{0: Betula}}\n")
    settings = TrainSettings(
        data,
        tmp_path / "run",
        model="backbone-edge-yolo-n",
        backbone="timm:biformer_nano",
        epochs=1,
        batch=1,
        imgsz=64,
        device="cpu",
        workers=0,
    )
    weights = train(settings)
    model, metadata = load_weights(weights)
    assert metadata.config["options"] == {"backbone": "timm:biformer_nano", "edge": "magnitude"}
    assert metadata.training["recipe"]["backbone"] == "timm:biformer_nano"
    assert model(torch.rand(1, 3, 64, 64))[0].shape == (1, 5, 84)


def test_only_the_edge_path_of_one_of_them_has_edges(made):
    assert "edge" not in made["biformer-nano-yolo"].model[0].blocks
    model = made["biformer-nano-edge-yolo"]
    without = build("biformer-nano-edge-yolo", classes=2, edge="none")
    assert parameters(model) - parameters(without) == parameters(model.model[0].blocks["edge"]) > 0
    with pytest.raises(UsageError, match="unknown option 'edge'; expected one of backbone"):
        build("biformer-nano-yolo", classes=2, edge="none")


def test_fusing_keeps_the_function_and_folds_every_normalisation(model):
    x = torch.rand(1, 3, 64, 96, dtype=torch.float64)
    lively(model).double()
    with torch.no_grad():
        y = model(x)[0]
        torch.testing.assert_close(model.fuse()(x)[0], y, rtol=1e-9, atol=1e-9)
    assert not any(isinstance(module, torch.nn.BatchNorm2d) for module in model.modules())


def kept(model, path):
    save_weights(
        path,
        model,
        name="test",
        classes=list(model.names.values()),
        config=model.yaml,
        imgsz=64,
        naming_threshold=0.5,
        max_grain_px=40,
        training={},
    )
    return load_weights(path)[0]


def test_weights_that_are_saved_and_loaded_give_the_same_outputs(model, tmp_path):
    lively(model).half().float()
    loaded = kept(model, tmp_path / "test.safetensors")
    assert loaded.yaml == model.yaml
    x = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(loaded(x)[0], model(x)[0])


@pytest.mark.parametrize("backbone", TIMM)
def test_any_pyramid_of_timm_is_a_backbone(backbone, tmp_path):
    torch.manual_seed(0)
    model = build("backbone-yolo-n", classes=2, backbone=backbone, channels=1)
    again = PollenModel(json.loads(json.dumps(model.yaml)), verbose=False)
    again.load_state_dict(model.state_dict())
    x = torch.rand(2, 1, 64, 128)
    with torch.no_grad():
        y = model.eval()(x)[0]
        assert y.shape == (2, 6, 8 * 16 + 4 * 8 + 2 * 4)
        assert torch.equal(again.eval()(x)[0], y)
        model.half().float()
        assert torch.equal(kept(model, tmp_path / "test.safetensors")(x)[0], model(x)[0])


def test_timms_network_and_ours_are_the_same():
    torch.manual_seed(0)
    (ours, widths), (timms, same) = (pyramid(name, (4, 8, 16, 32)) for name in ("biformer_nano", "timm:biformer_nano"))
    assert widths == same == [32, 64, 128, 256]
    flat = {n.replace("stages.", "stages_").replace("stem.", "stem_"): t for n, t in ours.state_dict().items()}
    timms.load_state_dict(flat)
    x = torch.rand(1, 3, 70, 100)
    with torch.no_grad():
        for a, b in zip(ours.eval()(x), timms.eval()(x), strict=True):
            assert torch.equal(a, b)


@pytest.mark.parametrize("name", [SWIN, MAXVIT])
def test_windows_see_images_of_any_size(name):
    """Where windows have to tile the maps, an image is seen as it is with zeros to the right and below."""
    torch.manual_seed(0)
    made, widths = pyramid(name, (8, 16, 32))
    made.eval()
    image = torch.rand(1, 3, 160, 288)
    with torch.no_grad():
        maps = made(image)
        assert [tuple(x.shape[1:]) for x in maps] == [
            (c, 160 // s, 288 // s) for c, s in zip(widths, (8, 16, 32), strict=True)
        ]
        whole = made(torch.nn.functional.pad(image, (0, 512 - 288, 0, 256 - 160)))
        same = [
            torch.allclose(x, y[..., : x.shape[2], : x.shape[3]], atol=1e-6) for x, y in zip(maps, whole, strict=True)
        ]
    assert made.multiple == (256 if name == MAXVIT else 1)
    assert all(same) == (name == MAXVIT)


def test_swin_on_images_of_its_own_size_is_timms():
    """What makes it take any size changes nothing on images that it was made for."""
    torch.manual_seed(0)
    made, _ = pyramid(SWIN, (4, 8, 16, 32))
    stock = timm.create_model(SWIN.removeprefix("timm:"), features_only=True).eval()
    stock.load_state_dict(made.net.state_dict())
    x = torch.rand(1, 3, 224, 224)
    with torch.no_grad():
        for ours, theirs in zip(made.eval().net(x), stock(x), strict=True):
            assert torch.equal(ours, theirs)


def test_an_edge_path_on_timms_pyramid():
    model = build("backbone-edge-yolo-n", classes=2, backbone="timm:convnext_atto").eval()
    maps = model.model[0].maps(torch.rand(1, 3, 64, 64), ["backbone.p2", "edge.p3", "p3"])
    assert [tuple(x.shape[1:]) for x in maps.values()] == [(40, 16, 16), (32, 8, 8), (128, 8, 8)]


@pytest.mark.parametrize(
    ("backbone", "message"),
    [
        (None, r"backbone: expected one of biformer_base, .*, or timm:NAME .*; got None"),
        ("convnext_tiny", r"or timm:NAME .*; got 'convnext_tiny'"),
        ("timm:convnext_tny", r"timm [\d.]+ has no network 'convnext_tny'; expected convnext_tiny"),
        ("timm:convnext_atto.d2_in1k", "has no network 'convnext_atto.d2_in1k'"),
        ("timm:hf-hub:someone/something", "has no network 'hf-hub:someone/something'"),
        ("timm:vit_tiny_patch16_224", "has maps of strides 16, 16, 16; the layer table also asks for 8, 32"),
        (
            "timm:efficientformerv2_s0",
            "timm:efficientformerv2_s0 is not a pyramid for images of any size: it works on images of 224 x 224 px",
        ),
        ("timm:coatnet_nano_rw_224", "any size: it works on images of 224 x 224 px alone"),
        ("timm:inception_v3", r"any size: its map at stride 8 of an image 320 x 320 is \(1, 288, 37, 37\)"),
    ],
)
def test_backbones_that_cannot_be_are_refused(backbone, message):
    with pytest.raises(UsageError, match=message):
        build("backbone-yolo-n", classes=2, backbone=backbone)


def test_models_without_a_choice_of_backbone_say_so():
    assert {*BIFORMER, "backbone-yolo-n", "backbone-yolo-s", "backbone-edge-yolo-n"} <= set(model_names())
    with pytest.raises(UsageError, match="unknown option 'backbone'; expected one of edge, gate"):
        build("hieraedge-n", classes=2, backbone="biformer_nano")


@pytest.mark.parametrize(
    ("arguments", "model", "backbone"),
    [
        ([], "hieraedge-n", None),
        (["--backbone", "timm:convnext_tiny"], "backbone-yolo-n", "timm:convnext_tiny"),
        (["--backbone", "biformer_tiny", "--model", "backbone-edge-yolo-s"], "backbone-edge-yolo-s", "biformer_tiny"),
        (["--model", "biformer-nano-yolo"], "biformer-nano-yolo", None),
    ],
)
def test_the_command_line_names_the_backbone(arguments, model, backbone, shipped_model, tmp_path, monkeypatch):
    seen = []

    def train(settings, resume, told):
        seen.append(settings)
        return find_model(shipped_model)[0]

    monkeypatch.setattr("palyno.vision.train.train", train)
    (tmp_path / "data.yaml").touch()
    done = CliRunner().invoke(cli, ["train", str(tmp_path / "data.yaml"), "--out", str(tmp_path / "run"), *arguments])
    assert done.exit_code == 0, done.output
    assert (seen[0].model, seen[0].backbone) == (model, backbone)


def test_a_detector_on_biformer_is_built_without_timm(run_python):
    """Which imports torchvision, and both take longer than the first slide."""
    run_python(
        "-c",
        "import sys; from palyno.vision.models.detection import build; build('biformer-nano-yolo', classes=2);"
        "assert not {'timm', 'torchvision'} & set(sys.modules)",
    )
