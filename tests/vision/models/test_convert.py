"""The authors' checkpoints: read without being run, laid over our network, and the same function afterwards.

The files are of the authors' layout: a network of classes under their names, in modules under their paths, pickled
whole. The classes are made here, from what is known of the published network.
"""

import copy
import json
import os
import sys
import types
import zipfile
from pathlib import Path

import palyno
import pytest
import torch
import torch.nn.functional as F
from click.testing import CliRunner
from palyno import RejectedModelError, UsageError
from palyno.app.cli import cli
from palyno.vision import unpickle
from palyno.vision.checkpoint import Checkpoint
from palyno.vision.models import convert
from palyno.vision.models.convert import convert_hieraedge
from palyno.vision.models.detection import build
from palyno.vision.weights import load_weights
from safetensors import safe_open
from torch import nn
from ultralytics.nn.modules import A2C2f, C3k2, Conv, Detect, RTDETRDecoder

pytestmark = pytest.mark.usefixtures("one_thread")

CLASSES = ["Urtica", "Urticaceae_fam", "Betula"]
BLOCKS, PARTS, TASKS = (
    "ultralytics.nn.extra_modules.block",
    "ultralytics.nn.extra_modules.CTrans",
    "ultralytics.nn.tasks",
)


class SobelConv(nn.Module):
    def __init__(self, channels):
        super().__init__()
        for name in ("sobel_kernel_x_conv3d", "sobel_kernel_y_conv3d"):
            setattr(self, name, nn.Conv3d(channels, channels, 3, padding=1, groups=channels, bias=False))
        pair = torch.tensor([[1.0, 0, -1], [2, 0, -2], [1, 0, -1]])
        self.sobel_kernel_x_conv3d.weight = nn.Parameter(pair.expand(channels, 1, 1, 3, 3).clone())
        self.sobel_kernel_y_conv3d.weight = nn.Parameter(pair.T.expand(channels, 1, 1, 3, 3).clone())

    def forward(self, x):
        x = x[:, :, None]
        return self.sobel_kernel_x_conv3d(x)[:, :, 0] + self.sobel_kernel_y_conv3d(x)[:, :, 0]


class MutilScaleEdgeInfoGenetator(nn.Module):
    def __init__(self, channels, widths):
        super().__init__()
        self.sc, self.maxpool = SobelConv(channels), nn.MaxPool2d(2, 2)
        self.conv_1x1s = nn.ModuleList(Conv(channels, width, 1) for width in widths)

    def forward(self, x):
        maps, x = [], self.sc(x)
        for conv in self.conv_1x1s:
            x = self.maxpool(x)
            maps.append(conv(x))
        return maps


class GetIndexOutput(nn.Module):
    def __init__(self, index):
        super().__init__()
        self.index = index

    def forward(self, x):
        return x[self.index]


class ConvEdgeFusion(nn.Module):
    def __init__(self, inputs, out):
        super().__init__()
        self.conv_channel_fusion = Conv(sum(inputs), out // 2)
        self.conv_3x3_feature_extract = Conv(out // 2, out // 2, 3)
        self.conv_1x1 = Conv(out // 2, out)

    def forward(self, x):
        return self.conv_1x1(self.conv_3x3_feature_extract(self.conv_channel_fusion(torch.cat(x, 1))))


class SPDConv(nn.Module):
    def __init__(self, channels, out):
        super().__init__()
        self.d, self.conv = 1, Conv(4 * channels, out, 3)

    def forward(self, x):
        return self.conv(torch.cat([x[..., i::2, j::2] for j in (0, 1) for i in (0, 1)], 1))


class FGM(nn.Module):
    def __init__(self, d):
        super().__init__()
        self.conv = nn.Conv2d(d, 2 * d, 3, 1, 1, groups=d)
        self.dwconv1, self.dwconv2 = nn.Conv2d(d, d, 1), nn.Conv2d(d, d, 1)
        self.alpha, self.beta = nn.Parameter(torch.zeros(d, 1, 1)), nn.Parameter(torch.ones(d, 1, 1))

    def forward(self, s):
        g = torch.fft.ifft2(self.dwconv1(s) * torch.fft.fft2(self.dwconv2(s))).abs()
        return g * self.alpha + s * self.beta


class OmniKernel(nn.Module):
    def __init__(self, d, k=31):
        super().__init__()
        self.in_conv = nn.Sequential(nn.Conv2d(d, d, 1), nn.GELU())
        self.out_conv = nn.Conv2d(d, d, 1)
        for name, side in (("dw_13", (1, k)), ("dw_31", (k, 1)), ("dw_33", (k, k)), ("dw_11", (1, 1))):
            setattr(self, name, nn.Conv2d(d, d, side, padding=(side[0] // 2, side[1] // 2), groups=d))
        self.act, self.conv, self.fac_conv, self.fgm = nn.ReLU(), nn.Conv2d(d, d, 1), nn.Conv2d(d, d, 1), FGM(d)

    def forward(self, x):
        u = self.in_conv(x)
        f = torch.fft.ifft2(self.fac_conv(u.mean((2, 3), keepdim=True)) * torch.fft.fft2(u)).abs()
        g = self.fgm(self.conv(f.mean((2, 3), keepdim=True)) * f)
        return self.out_conv(F.relu(x + self.dw_13(u) + self.dw_31(u) + self.dw_33(u) + self.dw_11(u) + g))


class CSPOmniKernel(nn.Module):
    def __init__(self, d):
        super().__init__()
        self.e, self.cv1, self.cv2, self.m = 0.25, Conv(d, d), Conv(d, d), OmniKernel(d // 4)

    def forward(self, x):
        wide, rest = self.cv1(x).split((x.shape[1] // 4, x.shape[1] - x.shape[1] // 4), 1)
        return self.cv2(torch.cat((self.m(wide), rest), 1))


class Concat(nn.Module):
    def forward(self, x):
        return torch.cat(x, 1)


class DetectionModel(nn.Module):
    """Layers in the authors' order, each with the numbers of those that it takes maps from."""

    def forward(self, x):
        kept = []
        for layer in self.model:
            sources = [layer.f] if isinstance(layer.f, int) else layer.f
            inputs = [x if j == -1 else kept[j] for j in sources]
            x = layer(inputs[0] if isinstance(layer.f, int) else inputs)
            kept.append(x)
        return x


# What YOLO12's scales stand for: width, depth, most channels, C3k in every C3k2, A2C2f's further options.
SCALES = {
    "n": (0.25, 0.5, 1024, False, ()),
    "s": (0.5, 0.5, 1024, False, ()),
    "m": (1.0, 0.5, 512, True, ()),
    "l": (1.0, 1.0, 512, True, (True, 1.2)),
}


def published(scale="n", head=None):
    """The network at a scale, with weights off their start."""
    Detect.legacy = False
    up = lambda: nn.Upsample(scale_factor=2, mode="nearest")  # noqa: E731
    width, depth, most, c3k, more = SCALES[scale]
    c1, c2, c3, c4, c5 = (int(min(c, most) * width) for c in (64, 128, 256, 512, 1024))
    one, two = max(round(2 * depth), 1), round(4 * depth)
    joined = c3 + 2 * c4
    rows = [
        (-1, Conv(3, c1, 3, 2)),
        (-1, Conv(c1, c2, 3, 2)),
        (-1, C3k2(c2, c3, one, c3k, 0.25)),
        (-1, MutilScaleEdgeInfoGenetator(c3, (c2, c3, c4))),
        (3, GetIndexOutput(0)),
        (3, GetIndexOutput(1)),
        (3, GetIndexOutput(2)),
        (2, Conv(c3, c3, 3, 2)),
        (-1, C3k2(c3, c4, one, c3k, 0.25)),
        ([4, 8], ConvEdgeFusion((c2, c4), c4)),
        (-1, Conv(c4, c4, 3, 2)),
        (-1, A2C2f(c4, c4, two, True, 4, *more)),
        ([5, 11], ConvEdgeFusion((c3, c4), c4)),
        (-1, Conv(c4, c5, 3, 2)),
        (-1, A2C2f(c5, c5, two, True, 1, *more)),
        ([6, 14], ConvEdgeFusion((c4, c5), c5)),
        (-1, up()),
        ([16, 12], Concat()),
        (-1, A2C2f(c5 + c4, c4, one, False, -1, *more)),
        (-1, up()),
        (2, SPDConv(c3, c3)),
        ([20, 19, 9], Concat()),
        (-1, CSPOmniKernel(joined)),
        (-1, A2C2f(joined, c3, one, False, -1, *more)),
        (-1, Conv(c3, c3, 3, 2)),
        ([24, 18], Concat()),
        (-1, A2C2f(c3 + c4, c4, one, False, -1, *more)),
        (-1, Conv(c4, c4, 3, 2)),
        ([27, 15], Concat()),
        (-1, C3k2(c4 + c5, c5, one, True)),
        ([23, 26, 29], (head or (lambda *ch: Detect(len(CLASSES), 16, False, ch)))(c3, c4, c5)),
    ]
    model = DetectionModel()
    for i, (source, layer) in enumerate(rows):
        layer.i, layer.f, layer.type = i, source, type(layer).__name__
    model.model = nn.Sequential(*(layer for _, layer in rows))
    model.names, model.yaml, model.save = dict(enumerate(CLASSES)), {"nc": 3, "scale": "n"}, [2, 3]
    if head is None:
        model.model[-1].stride = model.stride = torch.tensor([8.0, 16.0, 32.0])
        model.model[-1].bias_init()
    generator = torch.Generator().manual_seed(0)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eps, module.momentum = 1e-3, 0.03
            for value, scale, shift in (
                (module.bias, 0.3, 0),
                (module.running_var, 0.1, 1),
                (module.running_mean, 0.1, 0),
            ):
                value.data = (torch.rand(value.shape, generator=generator) - 0.5) * 2 * scale + shift
    model.model[22].m.fgm.alpha.data = torch.randn((joined // 4, 1, 1), generator=generator)
    return model.half().eval()


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    return published()


PLACES = {
    **dict.fromkeys((SobelConv, MutilScaleEdgeInfoGenetator, ConvEdgeFusion, SPDConv, FGM, OmniKernel), BLOCKS),
    CSPOmniKernel: BLOCKS,
    GetIndexOutput: PARTS,
    DetectionModel: TASKS,
    Concat: "ultralytics.nn.modules.conv",
}


def save(model, path, **more):
    """Writes a checkpoint with the classes under the authors' names, under which nothing is found when it is read."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("ultralytics.nn.extra_modules", BLOCKS, PARTS):
            patch.setitem(sys.modules, name, types.ModuleType(name))
        for cls, module in PLACES.items():
            patch.setattr(cls, "__module__", module)
            patch.setattr(sys.modules[module], cls.__name__, cls, raising=False)
        content = {"epoch": -1, "model": model, "ema": None, "version": "8.3.107", "train_args": {"imgsz": 1280}}
        torch.save(content | more, path)
    return path


@pytest.fixture(scope="module")
def file(network, tmp_path_factory):
    return save(network, tmp_path_factory.mktemp("theirs") / "HieraEdgeNet.pt")


@pytest.fixture(scope="module")
def converted(file, tmp_path_factory):
    out = tmp_path_factory.mktemp("ours") / "ours.safetensors"
    assert convert_hieraedge(file, out) == "hieraedge-n-reference"
    return out


def test_the_detector_finds_what_their_network_finds(network, converted):
    detector = palyno.load(converted, device="cpu")
    images = torch.rand((1, 3, 96, 128), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        found, expected = detector.network.model(images)[0], copy.deepcopy(network).float()(images)[0]
    assert (found[:, :4] - expected[:, :4]).abs().max() < 0.01
    assert (found[:, 4:] - expected[:, 4:]).abs().max() < 1e-5
    assert detector.classes == tuple(CLASSES)
    assert detector.metadata.imgsz == 1280
    assert detector.metadata.config["options"] == {"edge": "reference", "gate": "published"}
    assert detector.metadata.training["converted_from"] == "HieraEdgeNet.pt"


def test_the_converted_network_is_the_same_function_to_the_last_digits(network, converted):
    ours, _ = load_weights(converted)
    images = torch.rand((1, 3, 64, 96), generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    with torch.no_grad():
        found, expected = ours.double()(images)[0], copy.deepcopy(network).double()(images)[0]
    assert (found - expected).abs().max() < 1e-9
    assert expected[:, 4:].std() > 0


# Parameters that were counted on the authors' code for 120 classes.
@pytest.mark.parametrize(
    ("scale", "counted"), [("n", 3_478_460), ("s", 12_474_872), ("m", 29_884_024), ("l", 36_135_640)]
)
def test_every_scale_is_of_the_size_of_theirs(scale, counted):
    ours = build(f"hieraedge-{scale}-reference", classes=120)
    width, _, most, *_ = SCALES[scale]
    c3, c4 = (int(min(c, most) * width) for c in (256, 512))
    omni = (c3 + 2 * c4) // 4
    unused = 2 * 9 * c3 + 2 * omni * (9 + 1)  # The Sobel pair, and a convolution that is never called.
    assert sum(p.numel() for p in ours.parameters()) == counted - unused


@pytest.mark.parametrize("scale", ["s", "m", "l"])
def test_larger_networks_convert_to_the_same_function(scale, tmp_path):
    torch.manual_seed(0)
    model = published(scale)
    file = save(model, tmp_path / "x.pt")
    out = tmp_path / "out.safetensors"
    assert convert.write_hieraedge(file, read(file), out) == f"hieraedge-{scale}-reference"
    images = torch.rand((1, 3, 64, 64), generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    with torch.no_grad():
        found, expected = load_weights(out)[0].double()(images)[0], model.double()(images)[0]
    assert (found - expected).abs().max() < 1e-8
    assert expected[:, 4:].std() > 0


def test_a_network_with_rtdetrs_head_converts_to_the_same_function(tmp_path):
    torch.manual_seed(0)
    model = published(head=lambda *ch: RTDETRDecoder(len(CLASSES), ch))
    file = save(model, tmp_path / "x.pt")
    out = tmp_path / "out.safetensors"
    assert convert.write_hieraedge(file, read(file), out) == "hieraedge-n-reference"
    ours, metadata = load_weights(out)
    assert metadata.config["head"] == "rtdetr"
    images = torch.rand((1, 3, 64, 96), generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        found = ours(images)[0]
        boxes, scores = (x[-1] for x in model.float()(images)[1][:2])
    sides = torch.tensor([96.0, 64, 96, 64])[:, None]
    assert found.shape == (1, 7, 8 * 12 + 4 * 6 + 2 * 3)
    torch.testing.assert_close(found[:, :4], boxes.transpose(1, 2) * sides, rtol=1e-3, atol=1e-2)
    torch.testing.assert_close(found[:, 4:], scores.sigmoid().transpose(1, 2), rtol=1e-3, atol=1e-4)
    model.half().model[-1].num_queries = 100
    file = save(model, tmp_path / "fewer.pt")
    with pytest.raises(RejectedModelError, match=r"model.30.num_queries 100 for 300"):
        convert.write_hieraedge(file, read(file), out)


def test_other_heads_are_refused_by_name(network, tmp_path):
    class Detect_TADDH(nn.Identity):
        __module__ = "ultralytics.nn.modules.head"

    class Blocks(nn.Identity):
        __module__ = BLOCKS

    model = copy.deepcopy(network)
    for place, layer, message in (
        (30, Detect_TADDH(), "its last layer is Detect_TADDH, ours Detect or RTDETRDecoder"),
        (8, Blocks(), r"layer 8 is Blocks, ours is C3k2 \(stage3\)"),
    ):
        changed = copy.deepcopy(model)
        layer.f, layer.i = changed.model[place].f, place
        changed.model[place] = layer
        made = Checkpoint(
            dict(changed.state_dict()),
            {
                name: {"class": f"ultralytics.x.{type(module).__name__}", **plain(module)}
                for name, module in changed.named_modules()
            },
            {},
        )
        with pytest.raises(RejectedModelError, match=message):
            convert.write_hieraedge(tmp_path / "x.pt", made, tmp_path / "out.safetensors")


def plain(module):
    kept = {k: v for k, v in vars(module).items() if k in ("f", "i", "index", "names")}
    return json.loads(json.dumps(kept))


def test_every_tensor_of_theirs_is_used_or_known_to_do_nothing(network, content):
    names = convert._laid_over(content, build("hieraedge-n-reference", classes=3))
    assert set(content.tensors) == set(network.state_dict())
    assert {name.rpartition(".")[0] for name in set(content.tensors) - set(names)} == {
        "model.3.sc.sobel_kernel_x_conv3d",
        "model.3.sc.sobel_kernel_y_conv3d",
        "model.22.m.fgm.conv",
    }


def test_the_command_tells_which_kind_a_file_is(file, tmp_path):
    out = tmp_path / "x.safetensors"
    line = ["models", "convert", str(file), "--out", str(out), "--json"]
    done = CliRunner().invoke(cli, line)
    assert done.exit_code == 0, done.output
    said = json.loads(done.stdout)
    assert said == {"architecture": "hieraedge-n-reference", "out": str(out), "bytes": out.stat().st_size}
    again = CliRunner().invoke(cli, line)
    assert again.exit_code == 2
    assert "already there" in again.stderr


def read(path):
    """As the program reads it, but in this process: nothing is run in either."""
    out = path.with_suffix(".out")
    unpickle.main(str(path), str(out))
    with safe_open(out, "pt") as opened:
        said = json.loads(opened.metadata()["content"])
        return Checkpoint({n: opened.get_tensor(n) for n in opened.keys()}, said["modules"], said["about"])  # noqa: SIM118


@pytest.fixture(scope="module")
def content(file):
    return read(file)


def test_the_average_is_taken_where_there_is_one(network, tmp_path):
    average = copy.deepcopy(network)
    average.model[0].conv.weight.data += 1
    found = read(save(network, tmp_path / "x.pt", ema=average))
    assert torch.equal(found.tensors["model.0.conv.weight"], average.model[0].conv.weight)


def missing(model):
    model.model[9].conv_1x1 = nn.Identity()


def wider(model):
    model.model[9].conv_1x1 = Conv(64, 136).half()


def another(model):
    model.model[20] = Conv(64, 64, 3, 2).half()
    model.model[20].f = 2


def extra(model):
    model.model[0].more = nn.Linear(2, 2)


def crossed(model):
    model.model[9].f = [5, 8]


def swapped(model):
    model.model[17].f = [12, 16]


def strided(model):
    model.model[7].conv.stride = (1, 1)


def rectified(model):
    model.model[9].conv_1x1.act = nn.ReLU()


def areas(model):
    model.model[11].m[0][0].attn.area = 1


def infinite(model):
    model.model[7].conv.weight.data[0] = torch.inf


def fused(model):
    for layer in model.model:
        if type(layer) is Conv:
            del layer.bn


def narrow(model):
    model.model[0].conv.weight.data = torch.ones(24, 3, 3, 3).half()


def nameless(model):
    model.names = {}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (missing, r"blocks.p3.expand.* missing for"),
        (wider, r"model.9.conv_1x1.* \(136,.* for \(128,"),
        (another, r"layer 20 is Conv, ours is SPDConv \(fine3\)"),
        (extra, r"model.0.more.bias \(2,\) for nothing|blocks.stem.more.bias|model.0.more.bias"),
        (crossed, r"layer 5 takes output 1 where ours has edge.p3"),
        (swapped, r"layer 16 \(Upsample\) is another one where ours is p4 again"),
        (strided, r"model.7.conv.stride \[1, 1\] for \[2, 2\]"),
        (rectified, r"model.9.conv_1x1.act ReLU for SiLU"),
        (areas, r"model.11.m.0.0.attn.area 1 for 4"),
        (infinite, "model.7.conv.weight not finite"),
        (fused, r"blocks.\w+.bn.* missing for"),
        (nameless, "expected the names of its classes"),
        (narrow, r"its first convolution has 24 channels, ours 16 \(hieraedge-n-reference\) or 32"),
    ],
)
def test_a_network_that_is_not_ours_is_refused_and_the_place_named(network, tmp_path, change, message):
    model = copy.deepcopy(network)
    change(model)
    file = save(model, tmp_path / "x.pt")
    with pytest.raises(RejectedModelError, match=message):
        convert.write_hieraedge(file, read(file), tmp_path / "out.safetensors")
    assert not (tmp_path / "out.safetensors").exists()


class Payload:
    def __init__(self, call, *arguments):
        self.made = call, arguments

    def __reduce__(self):
        return self.made


def test_a_hostile_pickle_runs_nothing(network, tmp_path):
    mark = tmp_path / "mark"
    mark.write_text("here")
    file = save(network, tmp_path / "evil.pt", train_results=Payload(os.system, f"rm {mark}"))
    with pytest.raises(RejectedModelError, match=r"evil.pt: .*calls for posix.system.*nothing in it was run"):
        convert_hieraedge(file, tmp_path / "out.safetensors")
    assert not (tmp_path / "out.safetensors").exists()
    assert mark.read_text() == "here"


@pytest.mark.parametrize(
    ("call", "arguments"),
    [(eval, ("1 / 0",)), (open, ("ran", "w")), (print, ("ran",)), (sys.exit, (3,)), (os.remove, ("mark",))],
)
def test_names_of_no_library_are_refused(tmp_path, monkeypatch, call, arguments):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mark").touch()
    torch.save({"model": {"a": torch.ones(1)}, "x": Payload(call, *arguments)}, tmp_path / "evil.pt")
    with pytest.raises(SystemExit, match="UnpicklingError: it calls for"):
        unpickle.main(str(tmp_path / "evil.pt"), str(tmp_path / "out"))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["evil.pt", "mark"]


@pytest.mark.parametrize(
    ("call", "arguments"), [(Path.unlink, ("mark",)), (torch.load, ("mark",)), (torch.hub.load, ("owner/name", "x"))]
)
def test_names_of_libraries_stand_for_empty_objects(tmp_path, monkeypatch, call, arguments):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mark").touch()
    torch.save({"model": {"a": torch.ones(1)}, "x": Payload(call, *arguments)}, tmp_path / "x.pt")
    assert set(read(tmp_path / "x.pt").tensors) == {"a"}
    assert (tmp_path / "mark").exists()


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"", "no zip archive"),
        (b"\x80\x04cposix\nsystem\n", "no zip archive"),
        (b"PK\x03\x04 but no more", "cut short; download it again"),
    ],
)
def test_other_files_are_refused(tmp_path, content, told):
    (tmp_path / "x.pt").write_bytes(content)
    with pytest.raises(SystemExit, match=told):
        unpickle.main(str(tmp_path / "x.pt"), str(tmp_path / "out"))


def test_a_tensor_without_its_numbers_is_refused(tmp_path):
    """Not filled with whatever lies in the memory."""
    torch.save({"model": {"a": torch.ones(4), "none": torch.empty(0, 3)}}, tmp_path / "x.pt")
    assert read(tmp_path / "x.pt").tensors["none"].shape == (0, 3)
    with zipfile.ZipFile(tmp_path / "x.pt") as old, zipfile.ZipFile(tmp_path / "y.pt", "w") as new:
        for name in old.namelist():
            new.writestr(name, b"" if name.endswith("/data/0") else old.read(name))
    with pytest.raises(SystemExit, match=r"a tensor of \(4,\) on 0 numbers"):
        unpickle.main(str(tmp_path / "y.pt"), str(tmp_path / "out"))


def test_a_compressed_archive_is_refused_as_it_could_fill_the_memory(file, tmp_path):
    with zipfile.ZipFile(file) as old, zipfile.ZipFile(tmp_path / "x.pt", "w", zipfile.ZIP_DEFLATED) as new:
        for name in old.namelist():
            new.writestr(name, old.read(name))
    with pytest.raises(SystemExit, match="compressed archive"):
        unpickle.main(str(tmp_path / "x.pt"), str(tmp_path / "out"))


def test_tensors_alone_are_no_network_of_theirs(tmp_path):
    torch.save({"model": {"a": torch.ones(2)}}, tmp_path / "x.pt")
    with pytest.raises(RejectedModelError, match="a pickled network of ultralytics; got 1 tensors without a network"):
        convert.write_hieraedge(tmp_path / "x.pt", read(tmp_path / "x.pt"), tmp_path / "out.safetensors")
    with pytest.raises(UsageError, match="got a folder"):
        convert_hieraedge(tmp_path / "x.pt", tmp_path)
    with pytest.raises(RejectedModelError, match="there is no such file"):
        convert_hieraedge(tmp_path / "y.pt", tmp_path / "out.safetensors")


def test_tensors_are_read_as_they_were_written(tmp_path):
    base = torch.arange(24, dtype=torch.float32)
    tensors = {
        "whole": base,
        "view": base.view(4, 6)[1:3, ::2],
        "turned": base.view(4, 6).T,
        "half": torch.randn(3).half(),
        "brain": torch.randn(3).bfloat16(),
        "whole_number": torch.tensor(7),
        "empty": torch.empty(0, 3),
        "truth": torch.tensor([True, False]),
    }
    torch.save(tensors, tmp_path / "x.pt")
    found = read(tmp_path / "x.pt").tensors
    assert set(found) == set(tensors)
    for name, tensor in tensors.items():
        assert found[name].dtype == tensor.dtype, name
        assert torch.equal(found[name], tensor), name
