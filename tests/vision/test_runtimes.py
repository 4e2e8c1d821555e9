"""Exported files in the detector: the same grains as from the weights, and no file of unknown origin is believed."""

import hashlib
import json
import sys
from dataclasses import replace

import numpy as np
import palyno
import pytest
import torch
import torch.nn.functional as F
from palyno import PalynoError, RejectedModelError, UnknownModelError, UsageError
from palyno.data.slides import open_slide
from palyno.vision.export import export
from palyno.vision.runtimes import is_exported, open_exported, tensorrt
from palyno.vision.runtimes.exported import About, Exported, plain
from palyno.vision.views import STRIDES, VIEWS, averaged

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

pytestmark = pytest.mark.usefixtures("one_thread")

ABOUT = About(
    name="x",
    classes=("Betula", "Alnus"),
    imgsz=64,
    trained_px=64,
    batch=2,
    dynamic=False,
    half=False,
    duplicates=True,
    max_objects=None,
    naming_threshold=0.5,
    naming_temperature=1.0,
    max_grain_px=40,
    sha256=None,
    licence=None,
    version="0",
)


@pytest.fixture(scope="module")
def weights(shipped_model):
    return palyno.load(shipped_model, device="cpu")


@pytest.fixture(scope="module")
def files(shipped_model, tmp_path_factory):
    """For any size in half the size, and for 640 px."""
    pytest.importorskip("openvino")
    folder = tmp_path_factory.mktemp("exported")
    return {
        "onnx": export(shipped_model, folder / "open.onnx", imgsz=96, dynamic=True, half=True).path,
        "openvino": export(
            shipped_model, folder / "x_openvino_model", format="openvino", imgsz=96, dynamic=True, half=True
        ).path.parent,
        "fixed": export(shipped_model, folder / "fixed.onnx").path,
    }


def close(a, b):
    assert a.taxa == b.taxa
    assert np.abs(a.boxes - b.boxes).max(initial=0) < 0.5
    assert np.abs(a.confidence - b.confidence).max(initial=0) < 1e-3


@pytest.mark.parametrize("kind", ["onnx", "openvino", "fixed"])
def test_the_same_grains_as_from_the_weights(weights, files, samples, kind):
    detector = palyno.load(files[kind])
    assert (detector.name, detector.device, detector.classes) == (weights.name, "cpu", weights.classes)
    for name in ("composed.jpg", "peat.jpg"):
        with open_slide(samples / name) as slide:
            # Two tiles beside each other, of a width that is no multiple of 32.
            pixels = slide.read(0, 0, min(slide.width, 900), 640)
        found, expected = detector.detect(pixels), weights.detect(pixels)
        close(found, expected)
        assert len(expected) or name != "composed.jpg"


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["onnx", "openvino", "fixed"])
def test_the_counts_of_every_sample_slide_are_those_of_the_weights(weights, files, samples, kind):
    detector = palyno.load(files[kind])
    for path in sorted(samples.glob("*.jpg")):
        close(detector.detect(path), weights.detect(path))


@pytest.mark.parametrize("kind", ["onnx", "openvino"])
def test_images_of_sizes_that_no_one_named_are_read_as_from_the_weights(weights, files, samples, kind):
    with open_slide(samples / "composed.jpg") as slide:
        pixels = slide.read(100, 50, 301, 190)
    close(palyno.load(files[kind]).detect(pixels), weights.detect(pixels))


def test_a_result_says_which_file_it_is_from(files):
    blank = np.full((64, 64, 3), 200, np.uint8)
    for kind, file in files.items():
        file = next(file.glob("*.xml")) if file.is_dir() else file
        provenance = palyno.load(file).detect(blank).provenance
        assert provenance.sha256 == hashlib.sha256(file.read_bytes()).hexdigest(), kind
        assert provenance.model == "hieraedge-n"


def test_the_weights_that_a_file_was_made_from_are_known(weights, files):
    for file in files.values():
        assert palyno.load(file).metadata.training["exported_from"] == weights.sha256


def test_a_folder_its_xml_and_its_bin_name_the_same_model(files):
    folder = files["openvino"]
    xml = next(folder.glob("*.xml"))
    hashes = {open_exported(path)[1].sha256 for path in (folder, xml, xml.with_suffix(".bin"))}
    assert len(hashes) == 1
    assert is_exported(folder)
    assert not is_exported(folder.parent)
    assert not is_exported("hieraedge-n")
    assert not is_exported("hieraedge-n.safetensors")


def test_the_threads_of_pytorch_are_those_of_the_runtime():
    asked = []

    def prepare(threads):
        asked.append(threads)
        return lambda images: images

    exported = Exported(ABOUT, prepare)
    images = torch.zeros(2, 3, 64, 64)
    before = torch.get_num_threads()
    try:
        for threads in (1, 1, 2, 1):
            torch.set_num_threads(threads)
            exported(images)
    finally:
        torch.set_num_threads(before)
    assert asked == [1, 2, 1]


def test_a_file_of_fixed_size_is_given_full_images_and_full_batches():
    seen = []

    def run(images):
        seen.append(images)
        return images[:, 0, 0, :3]

    exported = Exported(ABOUT, lambda threads: run)
    images = torch.rand(3, 3, 32, 64)
    assert torch.equal(exported(images), images[:, 0, 0, :3])
    assert [tuple(x.shape) for x in seen] == [(2, 3, 64, 64)] * 2
    assert torch.equal(seen[0][:, :, :32], images[:2])
    assert (seen[0][:, :, 32:] == 114 / 255).all()
    with pytest.raises(UsageError, match=r"at most the 64 x 64 pixels .* got 96 x 32; use a smaller --tile"):
        exported(torch.zeros(1, 3, 32, 96))


@pytest.mark.parametrize("shape", [(32, 64), (64, 32), (32, 32), (64, 64)])
def test_a_file_of_fixed_size_answers_for_the_cells_of_smaller_images_in_any_view(shape):
    def run(images):
        """Each cell answers by its own pixels."""
        levels = [F.avg_pool2d(images, stride).flatten(2) for stride in STRIDES]
        return torch.cat(levels, 2).repeat(1, 2, 1)

    exported, images = Exported(ABOUT, lambda threads: run), torch.rand(1, 3, *shape)
    assert torch.equal(exported(images), run(images))
    for views in VIEWS:
        torch.testing.assert_close(averaged(exported, images, views), averaged(run, images, views))


def foreign_onnx(path, **properties):
    node = onnx.helper.make_node("Identity", ["images"], ["output0"])
    values = [
        onnx.helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, [1, 3, 32, 32]) for n in ("images", "output0")
    ]
    model = onnx.helper.make_model(
        onnx.helper.make_graph([node], "g", values[:1], values[1:]),
        opset_imports=[onnx.helper.make_opsetid("", 17)],
        ir_version=8,
    )
    onnx.helper.set_model_props(model, properties)
    onnx.save(model, path)
    return path


def test_an_onnx_file_of_another_program_is_refused(tmp_path):
    file = foreign_onnx(tmp_path / "x.onnx", names="{0: 'person'}")
    with pytest.raises(
        RejectedModelError, match=r"x\.onnx: expected an ONNX file that `palyno export` wrote, got one of"
    ):
        palyno.load(file)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": "palyno-export-9"}, "format 'palyno-export-9'"),
        ({"classes": []}, "classes: expected names"),
        ({"batch": 0}, "batch 0"),
        ({"dynamic": "yes"}, "dynamic 'yes'"),
        ({"max_objects": -1}, "max_objects -1"),
        ({"surprise": 1}, "entries .*surprise"),
    ],
)
def test_entries_that_cannot_be_are_refused(tmp_path, change, message):
    file = foreign_onnx(tmp_path / "x.onnx", palyno=json.dumps({**plain(ABOUT), **change}))
    with pytest.raises(RejectedModelError, match=message):
        palyno.load(file)


@pytest.mark.parametrize("content", [b"", b"not a graph", b"\x80\x05cos\nsystem\n(S'touch pwned'\ntR."])
@pytest.mark.parametrize("suffix", [".onnx", ".xml", ".engine"])
def test_other_files_are_refused_and_run_nothing(tmp_path, monkeypatch, content, suffix):
    pytest.importorskip("openvino")
    monkeypatch.chdir(tmp_path)
    file = tmp_path / f"x{suffix}"
    file.write_bytes(content)
    file.with_suffix(".bin").write_bytes(b"")
    with pytest.raises(RejectedModelError, match=r"x\.(onnx|xml|engine)"):
        palyno.load(file)
    assert not (tmp_path / "pwned").exists()


def test_weights_kept_in_other_files_are_not_followed(tmp_path):
    """An ONNX file can name any file of the machine as the place of its numbers."""
    (tmp_path / "numbers").write_bytes(b"\0" * 4096)
    value = onnx.numpy_helper.from_array(np.zeros((32, 32), np.float32), "w")
    onnx.external_data_helper.set_external_data(value, "numbers")
    value.ClearField("raw_data")
    node = onnx.helper.make_node("MatMul", ["images", "w"], ["output0"])
    values = [
        onnx.helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, [1, 3, 32, 32]) for n in ("images", "output0")
    ]
    model = onnx.helper.make_model(
        onnx.helper.make_graph([node], "g", values[:1], values[1:], [value]),
        opset_imports=[onnx.helper.make_opsetid("", 17)],
        ir_version=8,
    )
    onnx.helper.set_model_props(model, {"palyno": json.dumps(plain(ABOUT))})
    (tmp_path / "x.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(RejectedModelError, match="onnxruntime refuses"):
        palyno.load(tmp_path / "x.onnx")


def test_an_openvino_model_with_another_bin_is_refused(files, tmp_path):
    xml = next(files["openvino"].glob("*.xml"))
    (tmp_path / "m.xml").write_bytes(xml.read_bytes())
    numbers = bytearray(xml.with_suffix(".bin").read_bytes())
    numbers[1000] ^= 1
    (tmp_path / "m.bin").write_bytes(numbers)
    with pytest.raises(RejectedModelError, match=r"m\.bin: expected the file that was written with m\.xml"):
        palyno.load(tmp_path / "m.xml")
    (tmp_path / "m.bin").unlink()
    with pytest.raises(RejectedModelError, match=r"the \.xml with its \.bin beside it"):
        palyno.load(tmp_path)


def test_a_detector_looks_at_no_more_at_once_than_the_weights_were_trained_on():
    """An open file may be made with any size; a fixed one may be smaller, and is then not shown more than it takes."""
    for dynamic, imgsz, seen in ((True, 96, 640), (True, 1280, 640), (False, 320, 320), (False, 1280, 640)):
        assert replace(ABOUT, dynamic=dynamic, imgsz=imgsz, trained_px=640).metadata("").imgsz == seen


def test_what_is_not_there_or_not_one_is_said(tmp_path):
    with pytest.raises(UnknownModelError, match="there is none"):
        palyno.load(tmp_path / "x.onnx")
    for name in ("a.xml", "b.xml"):
        (tmp_path / name).touch()
    with pytest.raises(UsageError, match=r"one \.xml of OpenVINO, it holds 2"):
        palyno.load(tmp_path)


def test_a_device_that_cannot_run_a_file_is_refused(files):
    for kind in ("onnx", "openvino"):
        with pytest.raises(UsageError, match="device: expected"):
            palyno.load(files[kind], device="cuda")


def test_a_missing_runtime_is_named(files, monkeypatch):
    for package, kind in (("onnxruntime", "onnx"), ("openvino", "openvino")):
        monkeypatch.setitem(sys.modules, package, None)
        with pytest.raises(PalynoError, match=f"^{package}: expected to be installed"):
            palyno.load(files[kind])


def test_openvino_reports_nothing(files, run_python):
    code = "import sys, palyno; palyno.load(sys.argv[1]); print(sys.modules.get('openvino_telemetry', 'absent'))"
    assert run_python("-c", code, files["openvino"]).strip() == "None"


class TinyTensorRT:
    """As much of the package as reading a file asks for."""

    __version__ = "11.0"


def test_an_engine_is_refused_where_it_is_damaged_or_of_another_version(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorrt", TinyTensorRT)
    monkeypatch.setattr(tensorrt, "choose_device", lambda device: torch.device("cuda", 0))
    file = tmp_path / "x.engine"
    data = tensorrt.pack(b"the engine", plain(ABOUT))
    file.write_bytes(data + b"!")
    with pytest.raises(RejectedModelError, match="got another or a part"):
        open_exported(file)
    file.write_bytes(data)
    monkeypatch.setattr(TinyTensorRT, "__version__", "12.0")
    with pytest.raises(RejectedModelError, match=r"installed tensorrt 12\.0, got one of 11\.0"):
        open_exported(file)
    monkeypatch.setattr(TinyTensorRT, "__version__", "11.0")
    monkeypatch.setattr(tensorrt, "run_engine", lambda engine, device: lambda images: (engine, device))
    exported, metadata = open_exported(file)
    assert metadata.classes == ABOUT.classes
    assert exported.device.type == "cuda"
    assert exported._prepare(1)(None) == (b"the engine", torch.device("cuda", 0))
    assert exported.runtime == "tensorrt 11.0"
    file.write_bytes(tensorrt.pack(b"the engine", plain(replace(ABOUT, half=True))))
    assert open_exported(file)[0].runtime == "tensorrt 11.0, half precision"
