"""BiFormer: of the published size, a backbone and a classifier of timm's, and its published weights converted."""

import argparse
import json
import math

import pytest
import timm
import torch
from click.testing import CliRunner
from palyno import RejectedModelError, UsageError
from palyno.app.cli import cli
from palyno.vision.backbones import BiFormer, convert
from palyno.vision.blocks.biformer import BiFormerPyramid
from palyno.vision.blocks.routing import FullAttention
from palyno.vision.checkpoint import Checkpoint
from palyno.vision.models.detection import build
from palyno.vision.models.pretrained import as_begun, begin
from palyno.vision.models.tables import configure
from safetensors import safe_open
from safetensors.torch import load_file
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from torchvision.transforms.functional import normalize

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize(
    ("name", "parameters", "dims"),
    [
        # Counted on the authors' code.
        ("biformer_tiny", 13_142_760, [64, 128, 256, 512]),
        ("biformer_small", 25_536_232, [64, 128, 256, 512]),
        ("biformer_base", 56_804_968, [96, 192, 384, 768]),
        ("biformer_nano", 2_053_736, [32, 64, 128, 256]),
        # 28.4 million, the authors say.
        ("biformer_stl", 28_372_552, [96, 192, 384, 768]),
        ("biformer_stl_nchw", 28_372_552, [96, 192, 384, 768]),
    ],
)
def test_networks_are_of_the_published_size(name, parameters, dims):
    with torch.device("meta"):
        model = timm.create_model(name)
        features = timm.create_model(name, features_only=True, pretrained=False)
    assert sum(p.numel() for p in model.parameters()) == parameters
    assert features.feature_info.channels() == dims
    assert features.feature_info.reduction() == [4, 8, 16, 32]


@pytest.mark.parametrize(
    ("kind", "height", "width"),
    [("list", 64, 96), ("list", 75, 33), ("list", 5, 200), ("hook", 75, 33), ("fx", 75, 33)],
)
def test_maps_halve_from_stage_to_stage_whatever_the_size(kind, height, width):
    model = timm.create_model("biformer_nano", features_only=True, feature_cls=kind, in_chans=1).eval()
    with torch.no_grad():
        maps = model(torch.rand(1, 1, height, width))
    expected = [(1, 32 * 2**i, math.ceil(height / 4 / 2**i), math.ceil(width / 4 / 2**i)) for i in range(4)]
    assert [tuple(x.shape) for x in maps] == expected


def test_features_are_the_classifiers_own():
    torch.manual_seed(0)
    model = timm.create_model("biformer_nano", num_classes=7).eval()
    features = timm.create_model("biformer_nano", features_only=True, out_indices=(1, 3)).eval()
    # timm flattens rows: stages.1 is stages_1 there.
    state = {name.replace("stages.", "stages_").replace("stem.", "stem_"): t for name, t in model.state_dict().items()}
    features.load_state_dict({name: state[name] for name in features.state_dict()})
    x = torch.rand(2, 3, 70, 64)
    with torch.no_grad():
        fine, coarse = features(x)
        assert torch.equal(fine, model.stages[:2](model.stem(x)))
        torch.testing.assert_close(model(x), model.head(model.norm(coarse).mean((2, 3))))
        assert torch.equal(
            model.forward_head(model.forward_features(x), pre_logits=True), model.norm(coarse).mean((2, 3))
        )


def test_the_head_is_changed_or_left_out():
    model = timm.create_model("biformer_nano", num_classes=7)
    assert type(model) is BiFormer
    assert model.get_classifier().out_features == 7
    model.reset_classifier(3)
    x = torch.rand(2, 3, 64, 64)
    assert model(x).shape == (2, 3)
    model.reset_classifier(0)
    assert model(x).shape == (2, 256)
    model.reset_classifier(0, "")
    assert model(x).shape == (2, 256, 2, 2)
    with pytest.raises(UsageError, match="global_pool: expected avg"):
        model.reset_classifier(3, "max")


def test_gradients_are_finite_and_reach_every_parameter():
    torch.manual_seed(0)
    model = timm.create_model("biformer_nano", num_classes=5, drop_path_rate=0.2, layer_scale=0.5, padding="official")
    model(torch.rand(4, 3, 70, 50)).square().sum().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name
        assert parameter.grad.any(), name


def test_paths_are_dropped_the_more_the_deeper():
    model = BiFormerPyramid(dims=(8, 8, 8, 8), depths=(1, 1, 2, 1), head_dim=4, drop_path_rate=0.4)
    assert [b.drop_path.p for s in model.stages for b in s.blocks] == pytest.approx([0, 0.1, 0.2, 0.3, 0.4])


def test_the_last_stage_reads_everything_and_the_others_as_published():
    with torch.device("meta"):
        model = timm.create_model("biformer_base", padding="official")
    attention = [stage.blocks[0].attn for stage in model.stages]
    assert [(a.regions, a.topk, a.heads, a.padding) for a in attention[:3]] == [
        (7, 1, 3, "official"),
        (7, 4, 6, "official"),
        (7, 16, 12, "official"),
    ]
    assert attention[3].heads == 8


def test_unknown_options_and_other_than_four_stages_are_refused():
    with pytest.raises(TypeError, match="window"):
        timm.create_model("biformer_nano", window=7)
    with pytest.raises(UsageError, match=r"topks: expected four values, one a stage; got \(1, 2\)"):
        timm.create_model("biformer_nano", topks=(1, 2))


def published(classes=5, dims=(64, 128, 256, 512), depths=(2, 2, 8, 2)):
    """A state dict with the names and shapes of the authors' biformer_tiny."""
    shapes = {}

    def layer(name, *weight, bias=True):
        shapes[f"{name}.weight"] = weight
        if bias:
            shapes[f"{name}.bias"] = weight[:1]

    def norm(name, width):
        layer(name, width)
        shapes.update({f"{name}.{statistic}": (width,) for statistic in ("running_mean", "running_var")})
        shapes[f"{name}.num_batches_tracked"] = ()

    def halving(name, c_in, c_out, at=0):
        layer(f"{name}.{at}", c_out, c_in, 3, 3)
        norm(f"{name}.{at + 1}", c_out)

    halving("downsample_layers.0", 3, dims[0] // 2)
    halving("downsample_layers.0", dims[0] // 2, dims[0], at=3)
    for i in range(1, 4):
        halving(f"downsample_layers.{i}", dims[i - 1], dims[i])
    for i, (c, depth) in enumerate(zip(dims, depths, strict=True)):
        for block in (f"stages.{i}.{j}" for j in range(depth)):
            layer(f"{block}.pos_embed", c, 1, 3, 3)
            layer(f"{block}.norm1", c)
            layer(f"{block}.norm2", c)
            layer(f"{block}.attn.lepe", c, 1, 5, 5)
            if i < 3:
                layer(f"{block}.attn.qkv.qkv", 3 * c, c)
                layer(f"{block}.attn.wo", c, c)
            else:
                layer(f"{block}.attn.qkv", 3 * c, c, bias=False)
                layer(f"{block}.attn.proj", c, c)
            layer(f"{block}.mlp.0", 3 * c, c)
            layer(f"{block}.mlp.3", c, 3 * c)
    norm("norm", dims[3])
    layer("head", classes, dims[3])
    torch.manual_seed(0)
    return {name: torch.tensor(7) if shape == () else torch.rand(shape) * 0.1 for name, shape in shapes.items()}


def test_a_published_checkpoint_becomes_weights_that_timm_loads(tmp_path):
    state = published(classes=1000)
    assert len(state) == 264
    assert sum(t.numel() for name, t in state.items() if "running" not in name and "num_" not in name) == 13_142_760
    path, out = tmp_path / "biformer_tiny_in1k.pth", tmp_path / "tiny.safetensors"
    torch.save({"model": state, "optimizer": {"state": {0: torch.ones(2)}}, "args": argparse.Namespace(lr=1)}, path)
    done = CliRunner().invoke(cli, ["models", "convert", str(path), "--out", str(out), "--json"])
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout) == {"architecture": "biformer_tiny", "out": str(out), "bytes": out.stat().st_size}
    with safe_open(out, "pt") as file:
        assert json.loads(file.metadata()["palyno"])["architecture"] == "biformer_tiny"
    model = timm.create_model("biformer_tiny", pretrained=True, pretrained_cfg_overlay={"file": str(out)})
    ours = model.state_dict()
    for name, theirs in (
        ("stem.3.weight", "downsample_layers.0.3.weight"),
        ("stages.2.down.1.running_var", "downsample_layers.2.1.running_var"),
        ("stages.2.blocks.7.attn.qkv.bias", "stages.2.7.attn.qkv.qkv.bias"),
        ("stages.0.blocks.1.attn.proj.weight", "stages.0.1.attn.wo.weight"),
        ("stages.3.blocks.0.attn.qkv.weight", "stages.3.0.attn.qkv.weight"),
        ("stages.1.blocks.0.mlp.2.weight", "stages.1.0.mlp.3.weight"),
        ("stages.1.blocks.0.position.weight", "stages.1.0.pos_embed.weight"),
        ("head.weight", "head.weight"),
    ):
        assert torch.equal(ours[name], state[theirs]), name


def test_a_checkpoint_that_would_run_code_is_refused_and_runs_nothing(tmp_path):
    class Payload:
        def __reduce__(self):
            return open, (str(tmp_path / "ran"), "w")

    torch.save({"model": published(), "extra": Payload()}, tmp_path / "evil.pth")
    with pytest.raises(
        RejectedModelError, match=r"evil.pth: expected a checkpoint of BiFormer .*nothing in it was run"
    ):
        convert.convert_biformer(tmp_path / "evil.pth", tmp_path / "out.safetensors")
    assert not (tmp_path / "ran").exists()
    assert not (tmp_path / "out.safetensors").exists()


def without(state, name):
    return {key: tensor for key, tensor in state.items() if key != name}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda s: without(s, "stages.0.0.attn.wo.bias"),
            r"1 differ: stages.0.blocks.0.attn.proj.bias missing for \(64,\)",
        ),
        (lambda s: s | {"extra_weights": torch.ones(64)}, r"1 differ: extra_weights \(64,\) for nothing"),
        (lambda s: s | {"extra_norms.0.weight": torch.ones(64)}, r"differ: head.bias \(5,\) for nothing"),
        (
            lambda s: s | {"stages.0.0.attn.qkv.qkv.weight": torch.ones(64, 64)},
            r"nearest is biformer_tiny, from which 1 differ: stages.0.0.attn.qkv.qkv.weight \(64, 64\) for \(192, 64\)",
        ),
        (
            lambda s: s | {"norm.bias": torch.full((512,), torch.nan)},
            "expected finite weights, got others in norm.bias",
        ),
    ],
)
def test_tensors_that_are_not_those_of_a_network_are_named(change, message, tmp_path, monkeypatch):
    monkeypatch.setattr(convert, "read_checkpoint", lambda *_: Checkpoint(change(published()), {}, {}))
    (tmp_path / "x.pth").touch()
    with pytest.raises(RejectedModelError, match=message):
        convert.convert_biformer(tmp_path / "x.pth", tmp_path / "out.safetensors")


def test_any_number_of_classes_is_taken_and_files_are_not_written_over(tmp_path, monkeypatch):
    source, out = tmp_path / "x.pth", tmp_path / "out.safetensors"
    with pytest.raises(RejectedModelError, match="there is no such file"):
        convert.convert_biformer(source, out)
    monkeypatch.setattr(convert, "read_checkpoint", lambda *_: Checkpoint(published(classes=3), {}, {}))
    assert convert.convert_biformer(source, out) == "biformer_tiny"
    timm.create_model("biformer_tiny", num_classes=3).load_state_dict(load_file(out))
    with pytest.raises(UsageError, match="already there"):
        convert.convert_biformer(source, out)
    convert.convert_biformer(source, out, overwrite=True)


def stl(refactored=False, dims=(96, 192, 384, 768), depths=(2, 2, 6, 2)):
    """A state dict with the names and shapes of the authors' biformer_stl, or of the later biformer_stl_nchw."""
    torch.manual_seed(0)
    state, pixel = {}, (1, 1) if refactored else ()
    qkv, wo = ("qkv_linear", "output_linear") if refactored else ("qkv.qkv", "wo")

    def layer(name, *weight, bias=True):
        state[f"{name}.weight"] = torch.rand(weight) * 0.1
        if bias:
            state[f"{name}.bias"] = torch.rand(weight[:1]) * 0.1

    def norm(name, width):
        layer(name, width)
        state.update({f"{name}.running_mean": torch.rand(width), f"{name}.running_var": torch.rand(width) + 0.5})
        state[f"{name}.num_batches_tracked"] = torch.tensor(7)

    layer("downsample_layers.0.0", dims[0], 3, 4, 4)
    norm("downsample_layers.0.1", dims[0])
    for i in range(1, 4):
        norm(f"downsample_layers.{i}.0", dims[i - 1])
        layer(f"downsample_layers.{i}.1", dims[i], dims[i - 1], 2, 2)
    for i, (c, depth) in enumerate(zip(dims, depths, strict=True)):
        for block in (f"stages.{i}.blocks.{j}" for j in range(depth)):
            layer(f"{block}.norm1", c)
            layer(f"{block}.norm2", c)
            layer(f"{block}.attn.lepe", c, 1, 5, 5)
            layer(f"{block}.attn.{qkv if i < 3 else 'qkv'}", 3 * c, c, *pixel, bias=i < 3)
            layer(f"{block}.attn.{wo if i < 3 else 'proj'}", c, c, *pixel)
            layer(f"{block}.mlp.0", 4 * c, c, *pixel)
            layer(f"{block}.mlp.2", c, 4 * c, *pixel)
    norm("norm", dims[3])
    layer("head", 5, dims[3])
    return state


def converted(state, tmp_path, **wrapped):
    source, out = tmp_path / "theirs.pth", tmp_path / "ours.safetensors"
    torch.save(wrapped or {"model": state}, source)
    return convert.convert_biformer(source, out, overwrite=True), load_file(out), out


@pytest.mark.parametrize("refactored", [False, True])
def test_networks_laid_out_as_swin_convert(refactored, tmp_path):
    state = stl(refactored)
    name, tensors, out = converted(state, tmp_path)
    assert name == ("biformer_stl_nchw" if refactored else "biformer_stl")
    assert len(tensors) == len(state)
    theirs = state["stages.2.blocks.5.attn." + ("output_linear" if refactored else "wo") + ".weight"]
    assert torch.equal(tensors["stages.2.blocks.5.attn.proj.weight"], theirs.flatten(1))
    overlay = {"file": str(out)}
    model = timm.create_model(name, num_classes=5, pretrained=True, pretrained_cfg_overlay=overlay | {"num_classes": 5})
    assert torch.equal(model.state_dict()["stages.3.down.1.weight"], state["downsample_layers.3.1.weight"])
    assert torch.isfinite(model.eval()(torch.rand(1, 3, 70, 100))).all()


def test_the_two_of_them_differ_in_what_the_last_convolution_sees():
    torch.manual_seed(0)
    x = torch.rand(2, 5, 6, 32)
    of_input, of_values = FullAttention(32, 4), FullAttention(32, 4, "values")
    of_values.load_state_dict(of_input.state_dict())
    q, k, v = (x @ of_input.qkv.weight.T).reshape(2, 30, 3, 4, 8).permute(2, 0, 3, 1, 4)
    y = ((q @ k.transpose(-1, -2)) * 8**-0.5).softmax(-1) @ v
    y, values = (t.transpose(1, 2).reshape(2, 5, 6, 32) for t in (y, v))
    for attention, seen in ((of_input, x), (of_values, values)):
        beside = attention.lepe(seen.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        torch.testing.assert_close(attention(x), attention.proj(y + beside))


def detector(state):
    """As OpenMMLab keeps a detector: no classifier, a norm a map, and what comes after the backbone."""
    kept = {f"backbone.{k}": t for k, t in state.items() if not k.startswith(("norm.", "head."))}
    for i, c in enumerate((64, 128, 256, 512)):
        kept |= {f"backbone.extra_norms.{i}.weight": torch.rand(c), f"backbone.extra_norms.{i}.bias": torch.rand(c)}
    return kept | {"neck.fpn_convs.0.conv.weight": torch.ones(2), "bbox_head.retina_cls.bias": torch.ones(3)}


def test_a_detectors_backbone_converts_and_serves_a_detector_of_ours(tmp_path):
    state = detector(published())
    name, tensors, out = converted(state, tmp_path, state_dict=state, meta={"epoch": 12, "CLASSES": ("a", "b")})
    assert name == "biformer_tiny"
    assert torch.equal(tensors["norms.2.weight"], state["backbone.extra_norms.2.weight"])
    assert not [n for n in tensors if n.startswith(("neck", "bbox_head", "backbone", "head"))]
    model = build(as_begun(configure("backbone-yolo-n", classes=2, backbone=name), out))
    taken = begin(model, out)
    backbone = model.model[0].blocks["backbone"]
    assert taken.norms and set(taken.left) == {"norms.0.weight", "norms.0.bias"}
    assert torch.equal(backbone.norms[0].bias, state["backbone.extra_norms.1.bias"])
    # The classifier's maps, by timm, with the detector's norms: what the authors' own wrapper gives.
    overlay = {"file": str(out)}
    maps = timm.create_model(name, features_only=True, pretrained=True, pretrained_cfg_overlay=overlay).eval()
    image = torch.rand(1, 3, 64, 96)
    with torch.no_grad():
        expected = maps(normalize(image, IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD))[1:]
        for i, (x, y) in enumerate(zip(backbone.eval()(image), expected, strict=True), 1):
            w, b = (state[f"backbone.extra_norms.{i}.{part}"][:, None, None] for part in ("weight", "bias"))
            y = (y - y.mean(1, keepdim=True)) / (y.var(1, unbiased=False, keepdim=True) + 1e-6).sqrt()
            torch.testing.assert_close(x, y * w + b, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("key", ["state_dict", "model", "model_ema", "state_dict_ema"])
def test_weights_are_found_wherever_checkpoints_keep_them(key, tmp_path):
    state = published()
    name, tensors, _ = converted(state, tmp_path, **{key: {f"module.{k}": t for k, t in state.items()}, "epoch": 3})
    assert name == "biformer_tiny" and len(tensors) == len(state)


def test_of_several_the_average_over_steps_is_taken(tmp_path):
    last, average = published(), published()
    average["head.bias"] = average["head.bias"] + 1
    _, tensors, _ = converted(last, tmp_path, model=last, model_ema=average)
    assert torch.equal(tensors["head.bias"], average["head.bias"])


def test_what_a_checkpoint_has_beside_a_network_is_named(tmp_path):
    with pytest.raises(RejectedModelError, match=r"of a classifier or in a detector; nearest .* neck.x .* for nothing"):
        converted(None, tmp_path, model=published() | {"neck.x": torch.ones(2)})
