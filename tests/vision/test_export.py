"""Exported files: a runtime gives the network's numbers with them, they say what they are, or they are not there."""

import copy
import json
import sys

import numpy as np
import palyno
import pytest
import torch
from palyno import PalynoError, UsageError
from palyno.kernels.depthwise.table import RULES
from palyno.vision.export import export, export_onnx
from palyno.vision.models.detection import build
from palyno.vision.runtimes import graph
from palyno.vision.runtimes.graph import Distances
from PIL import Image

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")

# Two maps of 8 x 8 and 4 x 4 pass omni-kernels, at an image of 64.
TABLE = {
    "name": "tiny",
    "scale": "n",
    "scales": {"n": [1.0, 1.0, 64]},
    "options": {"gate": "published"},
    "reg_max": 4,
    "layers": [
        ["stem", "image", "Conv", {"out": 16, "kernel": 3, "stride": 2}],
        ["down2", "stem", "Conv", {"out": 16, "kernel": 3, "stride": 2}],
        ["down3", "down2", "Conv", {"out": 16, "kernel": 3, "stride": 2}],
        ["omni3", "down3", "CSPOKM", {"ratio": 0.5, "gate": "$gate"}],
        ["down4", "omni3", "Conv", {"out": 16, "kernel": 3, "stride": 2}],
        ["omni4", "down4", "CSPOKM", {"ratio": 0.5, "gate": "$gate"}],
        ["down5", "omni4", "Conv", {"out": 16, "kernel": 3, "stride": 2}],
    ],
    "outputs": ["omni3", "omni4", "down5"],
}


pytestmark = pytest.mark.usefixtures("one_thread")


def tiny(gate):
    """A network with weights off their start: a fresh one hides mistakes."""
    torch.manual_seed(0)
    model = build(TABLE, classes=["corylus", "Pinus à crochets", "x'y"], gate=gate).eval()
    for part in model.modules():
        if isinstance(part, torch.nn.BatchNorm2d):
            torch.nn.init.normal_(part.bias, 0, 0.5)
            torch.nn.init.uniform_(part.running_var, 0.5, 1.5)
    if gate == "published":
        for name in ("omni3", "omni4"):
            torch.nn.init.normal_(model.model[0].blocks[name].omni.gate.alpha, 0, 3)
    for branch in model.model[-1].cv3:
        torch.nn.init.normal_(branch[-1].weight, 0, 0.5)
        torch.nn.init.zeros_(branch[-1].bias)
    return model


def run(file, images):
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    return torch.from_numpy(session.run(None, {"images": images.numpy()})[0])


def pictures(batch, side):
    return torch.rand((batch, 3, side, side), generator=torch.Generator().manual_seed(1))


def large_convolutions(file):
    """Groups and kernel of each."""
    nodes = [node for node in onnx.load(file).graph.node if node.op_type == "Conv"]
    attributes = [{a.name: onnx.helper.get_attribute_value(a) for a in node.attribute} for node in nodes]
    return [(a["group"], a["kernel_shape"]) for a in attributes if max(a["kernel_shape"]) > 7]


@torch.no_grad()
def same(got, expected):
    assert got.shape == expected.shape
    assert (got[:, :4] - expected[:, :4]).abs().max() < 0.5
    assert (got[:, 4:] - expected[:, 4:]).abs().max() < 1e-3
    assert expected[:, 4:].max() - expected[:, 4:].min() > 0.2, "scores must differ for this test to mean much"


@pytest.fixture(scope="module", params=["published", "none"])
def network(request):
    return tiny(request.param)


@pytest.fixture(scope="module")
def open_sized(network, tmp_path_factory):
    """One file a way to write large kernels, for images of any size."""
    folder = tmp_path_factory.mktemp("open")
    options = {"imgsz": 64, "dynamic": True}
    return [export_onnx(network, folder / f"{k}.onnx", large_kernels=k, **options) for k in ("conv", "dft")]


@pytest.fixture(scope="module", params=["conv", "dft"])
def exported(request, network, tmp_path_factory):
    file = tmp_path_factory.mktemp("tiny") / "tiny.onnx"
    assert export_onnx(network, str(file), imgsz=64, batch=2, large_kernels=request.param) == file
    return request.param, file


@pytest.fixture(scope="module")
def shipped(shipped_model):
    return palyno.load(shipped_model, device="cpu")


@pytest.fixture(scope="module")
def files(shipped, tmp_path_factory):
    folder = tmp_path_factory.mktemp("shipped")
    return {
        kind: export_onnx(shipped, folder / f"{kind}.onnx", imgsz=96, large_kernels=kind) for kind in ("conv", "dft")
    }


def test_onnxruntime_gives_the_networks_numbers(network, exported):
    images = pictures(2, 64)
    with torch.no_grad():
        same(run(exported[1], images), network(images)[0])


@pytest.mark.parametrize("shape", [(1, 32, 32), (3, 64, 96), (1, 160, 32)])
def test_a_file_of_open_size_gives_the_networks_numbers_at_sizes_that_it_was_not_made_with(network, open_sized, shape):
    batch, height, width = shape
    images = torch.rand((batch, 3, height, width), generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        expected = network(images)[0]
    for file in open_sized:
        same(run(file, images), expected)


def test_half_the_size_costs_no_precision(tmp_path, shipped_model):
    """The published weights are half precision: what is not folded into them is stored as it was."""
    files = {}
    for half in (False, True):
        done = export(shipped_model, tmp_path / f"{half}.onnx", imgsz=64, dynamic=True, half=half)
        assert done.parity.probability < 1e-4
        files[half] = done.path
    assert files[True].stat().st_size < 0.6 * files[False].stat().st_size
    images = pictures(1, 96)
    assert (run(files[True], images) - run(files[False], images)).abs().max() < 1e-2
    stored = {t.name: t for t in onnx.load(files[True]).graph.initializer}
    halves = [t for t in stored.values() if t.data_type == onnx.TensorProto.FLOAT16]
    assert sum(np.prod(t.dims) for t in halves) > 3_000_000


def test_large_kernels_are_convolutions_or_matrices_as_asked(exported):
    kind, file = exported
    assert large_convolutions(file) == ([] if kind == "dft" else [(8, [31, 31])] * 2)


def test_the_shipped_model_finds_the_same_boxes(shipped, files, samples):
    # A whole grain and a part of another.
    pixels = np.asarray(Image.open(samples / "composed.jpg").crop((225, 90, 321, 186)))
    images = torch.from_numpy(pixels.copy()).permute(2, 0, 1)[None].float() / 255
    with torch.no_grad():
        expected = shipped.network.model(images)[0]
    outputs = {kind: run(file, images) for kind, file in files.items()}
    for output in outputs.values():
        same(output, expected)
    assert (outputs["dft"] - outputs["conv"]).abs().max() < 1e-3
    assert large_convolutions(files["conv"]) == [(32, [31, 31])]
    assert large_convolutions(files["dft"]) == []


def test_the_file_says_what_it_is(shipped, files):
    properties = {p.key: p.value for p in onnx.load(files["dft"]).metadata_props}
    about = json.loads(properties.pop("palyno"))
    names = dict(enumerate(shipped.classes))
    assert properties == {
        "task": "detect",
        "names": repr(names),
        "imgsz": "[96, 96]",
        "stride": "32",
        "batch": "1",
        "license": about["licence"],
    }
    assert about == {
        "name": "hieraedge-n",
        "classes": list(shipped.classes),
        "imgsz": 96,
        "batch": 1,
        "naming_threshold": shipped.metadata.naming_threshold,
        "naming_temperature": shipped.metadata.naming_temperature,
        "max_grain_px": shipped.metadata.max_grain_px,
        "sha256": shipped.metadata.sha256,
        "licence": about["licence"],
        "version": palyno.__version__,
        "format": "palyno-export-1",
        "trained_px": 640,
        "dynamic": False,
        "half": False,
        "duplicates": True,
        "max_objects": None,
    }
    assert about["licence"]


def test_a_network_without_a_file_is_described_as_far_as_known(exported):
    graph = onnx.load(exported[1])
    properties = {p.key: p.value for p in graph.metadata_props}
    about = json.loads(properties["palyno"])
    assert about["classes"] == ["corylus", "Pinus à crochets", "x'y"]
    assert (about["sha256"], about["licence"], properties["license"]) == (None, None, "")
    assert properties["batch"] == "2"
    sizes = [
        [d.dim_value for d in value.type.tensor_type.shape.dim] for value in (*graph.graph.input, *graph.graph.output)
    ]
    assert sizes == [[2, 3, 64, 64], [2, 4 + 3, 64 + 16 + 4]]


def test_the_network_is_left_as_it_was_and_the_file_is_the_same_each_time(tmp_path):
    model = tiny("published").train()
    before, keys = copy.deepcopy(model.state_dict()), set(map(type, model.modules()))
    files = [export_onnx(model, tmp_path / name, imgsz=64) for name in ("a.onnx", "b.onnx")]
    assert files[0].read_bytes() == files[1].read_bytes()
    assert model.training
    assert set(map(type, model.modules())) == keys
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]), name


@pytest.mark.parametrize(("least", "large"), [(0.0, 0), (1e9, 2)])
def test_auto_follows_the_measured_rule(tmp_path, monkeypatch, least, large):
    monkeypatch.setitem(RULES, "onnx", {"direct_over_matrices": least})
    assert len(large_convolutions(export_onnx(tiny("none"), tmp_path / "x.onnx", imgsz=64))) == large


def test_a_back_end_that_the_environment_asks_for_does_not_reach_the_file(tmp_path, monkeypatch):
    monkeypatch.setenv("PALYNO_DEPTHWISE", "fft")
    file = export_onnx(tiny("none"), tmp_path / "x.onnx", imgsz=64, large_kernels="conv")
    assert len(large_convolutions(file)) == 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"imgsz": 100}, "imgsz: expected a multiple of 32 above zero, got 100"),
        ({"imgsz": 0}, "imgsz: expected a multiple of 32"),
        ({"imgsz": 64.0}, "imgsz: expected a multiple of 32 above zero, got 64.0"),
        ({"batch": 0}, "batch: expected a whole number above zero, got 0"),
        ({"batch": True}, "batch: expected a whole number above zero, got True"),
        ({"large_kernels": "fft"}, "large_kernels: expected one of auto, conv, dft; got 'fft'"),
        ({"format": "coreml"}, "format: expected one of onnx, openvino, engine; got 'coreml'"),
        ({"dynamic": True, "batch": 2}, "batch: expected none with dynamic"),
    ],
)
def test_options_that_cannot_be_meant_are_refused(tmp_path, options, message):
    with pytest.raises(UsageError, match=message):
        export(None, tmp_path / "x.onnx", **options)
    assert not list(tmp_path.iterdir())


def test_a_file_that_is_there_is_kept_unless_it_may_be_replaced(tmp_path):
    file = tmp_path / "x.onnx"
    file.write_text("mine")
    with pytest.raises(UsageError, match="already there"):
        export_onnx(None, file, overwrite=False)
    with pytest.raises(UsageError, match="got a folder"):
        export_onnx(None, tmp_path)
    assert file.read_text() == "mine"


@pytest.mark.parametrize("format", ["onnx", "openvino"])
@pytest.mark.parametrize("wrong", [lambda y: y + 1, lambda y: y * torch.nan])
def test_a_file_with_other_numbers_is_not_written(tmp_path, monkeypatch, wrong, format):
    if format == "openvino":
        pytest.importorskip("openvino")
    right = Distances.forward
    monkeypatch.setattr(Distances, "forward", lambda self, x: wrong(right(self, x)))
    file = tmp_path / "x.onnx"
    file.write_text("mine")
    target = file if format == "onnx" else tmp_path / "folder"
    with pytest.raises(PalynoError, match=r"to 0\.5 px and probabilities to 0\.001 on 4 tiles, got diff.*no file was"):
        export(tiny("none"), target, format=format, imgsz=64)
    assert file.read_text() == "mine"
    assert list(tmp_path.iterdir()) == [file]


def test_other_shapes_are_not_written_either(tmp_path, monkeypatch):
    rewrite = graph._rewrite

    def flat(network, *others):
        rewrite(network, *others)
        forward = network.forward
        network.forward = lambda images: forward(images).flatten(1)

    monkeypatch.setattr(graph, "_rewrite", flat)
    with pytest.raises(
        PalynoError, match=r"expected an output of \(1, 7, 84\) from the exported network, got \(1, 588"
    ):
        export_onnx(tiny("none"), tmp_path / "x.onnx", imgsz=64)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("forward", "message"),
    [
        (
            lambda y, x: y.reshape(1, 7, 84),
            r"expected the runtime to run .*got \[ONNXRuntimeError\].*without --dynamic",
        ),
        (lambda y, x: torch.fft.fft2(x).abs(), r"palyno: expected a network that ONNX 17 can say, got .*fft_fft2"),
    ],
)
def test_a_network_that_the_runtime_cannot_run_is_refused_and_says_so(tmp_path, monkeypatch, forward, message):
    rewrite = graph._rewrite

    def other(network, *others):
        rewrite(network, *others)
        right = network.forward
        network.forward = lambda images: forward(right(images), images)

    monkeypatch.setattr(graph, "_rewrite", other)
    with pytest.raises(PalynoError, match=message):
        export_onnx(tiny("none"), tmp_path / "x.onnx", imgsz=64, dynamic=True)
    assert not list(tmp_path.iterdir())


def test_regions_of_routing_attention_are_laid_out_for_one_size(tmp_path):
    model = build("biformer-nano-yolo", classes=2).eval()
    with pytest.raises(UsageError, match="dynamic: palyno has routing attention"):
        export_onnx(model, tmp_path / "x.onnx", imgsz=64, dynamic=True)
    done = export(model, tmp_path / "x.onnx", imgsz=64)
    assert done.parity.boxes > 0 and done.parity.probability < 1e-5


@pytest.mark.parametrize("name", [pytest.param("hieraedge-rtdetr", marks=pytest.mark.slow), "rtdetr-l"])
def test_the_boxes_of_queries_are_in_pixels_of_images_of_any_size(tmp_path, name):
    """Of the decoder's, which are shares of the image. Before a file is written, it is tried on other sizes, too."""
    torch.manual_seed(0)
    model = build(name, classes=2).eval()
    head = model.model[-1]
    for boxes in (head.enc_bbox_head, *head.dec_bbox_head):
        torch.nn.init.normal_(boxes.layers[-1].weight, 0, 0.1)
    done = export(model, tmp_path / "x.onnx", imgsz=64, dynamic=True)
    assert done.parity.boxes > 800 and done.parity.box_px < 0.01 and done.parity.probability < 1e-4
    images = torch.rand((3, 3, 160, 96), generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        expected = model(images)[0]
    got = run(done.path, images)
    assert got.shape == expected.shape == (3, 4 + 2, 300)
    assert expected[:, :2].amax((0, 2)).tolist() == pytest.approx([96, 160], rel=0.15)
    assert (got[:, :4].amax(2) - expected[:, :4].amax(2)).abs().max() < 0.5


def test_a_detector_is_not_stored_in_halves_as_its_weights_are_folded(tmp_path, shipped):
    with pytest.raises(UsageError, match="half: expected the name of a model or a weights file"):
        export(shipped, tmp_path / "x.onnx", half=True)


def test_what_was_exported_is_not_exported_again(tmp_path, files):
    with pytest.raises(UsageError, match="exported already"):
        export(palyno.load(files["conv"]), tmp_path / "x.onnx")


@pytest.mark.parametrize(
    ("package", "format", "advice"),
    [
        ("onnx", "onnx", "uv sync --extra export"),
        ("onnxruntime", "onnx", "uv sync --extra export"),
        ("openvino", "openvino", "uv sync --extra export"),
        ("tensorrt", "engine", "pip install tensorrt"),
    ],
)
def test_a_missing_package_is_named_with_what_to_do(tmp_path, monkeypatch, package, format, advice):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(PalynoError, match=rf"^{package}: expected to be installed.*{advice}"):
        export(None, tmp_path / "x", format=format)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("bins", [2, 16])
def test_distances_are_the_expectation_of_the_softmax(bins):
    x = torch.randn((2, 4 * bins, 9), generator=torch.Generator().manual_seed(0)) * 50
    expected = (x.view(2, 4, bins, 9).softmax(2) * torch.arange(bins)[:, None]).sum(2)
    assert (Distances(bins)(x) - expected).abs().max() < 1e-5
