"""Weights files: what goes in comes out, and what is not exactly that is refused before it can do harm."""

import hashlib
import io
import json
import os
import pickle
import struct
import subprocess
import sys

import palyno
import pytest
import torch
from palyno import RejectedModelError, UnknownModelError, UsageError
from palyno.vision import weights
from palyno.vision.parts import part_paths
from palyno.vision.weights import FORMAT, LOCK, LOCK_FORMAT, find_model, load_weights, save_weights, shipped_models
from safetensors.torch import load, save

CLASSES = ("Serjania erecta", "unknown")
ABOUT = {
    "name": "tiny",
    "classes": CLASSES,
    "imgsz": 640,
    "naming_threshold": 0.6,
    "max_grain_px": 150,
    "training": {"seed": 1, "recipe": {"epochs": 3}},
}


def write(path, model, **changes):
    return save_weights(path, model, **{**ABOUT, "config": model.yaml, **changes})


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    build = weights._builder()
    model = build("hieraedge-n", classes=CLASSES).eval()
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(module.running_mean, -0.2, 0.2)
            torch.nn.init.uniform_(module.running_var, 0.5, 2)
    return model


@pytest.fixture(scope="module")
def good(model, tmp_path_factory):
    return write(tmp_path_factory.mktemp("weights") / "tiny.safetensors", model)


def parts(path):
    """Tensors and the metadata of the header."""
    data = path.read_bytes()
    size = int.from_bytes(data[:8], "little")
    return load(data), json.loads(data[8 : 8 + size])["__metadata__"]


def test_a_network_comes_back_as_it_was_in_half_precision(model, good):
    again, about = load_weights(good)
    for name, tensor in model.state_dict().items():
        expected = tensor.half().float() if tensor.is_floating_point() else tensor
        assert torch.equal(again.state_dict()[name], expected), name
    assert {name: getattr(about, name) for name in ABOUT} == ABOUT
    assert about.sha256 == hashlib.sha256(good.read_bytes()).hexdigest()
    assert about.config == model.yaml and not again.training
    x = torch.rand(1, 3, 64, 64)
    with torch.inference_mode():
        assert torch.allclose(again(x)[0], model(x)[0], atol=0.05, rtol=0.01)


def test_the_same_network_is_the_same_bytes(model, good, tmp_path):
    assert write(tmp_path / "b.safetensors", model).read_bytes() == good.read_bytes()


def test_a_loaded_model_detects(good):
    detector = palyno.load(good, device="cpu")
    assert (detector.name, detector.classes, detector.device) == ("tiny", CLASSES, "cpu")
    result = detector.detect(torch.zeros(90, 70, 3, dtype=torch.uint8).numpy())
    assert (len(result), result.provenance.sha256) == (0, detector.sha256)


class Canary:
    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return (open, (self.path, "w"))


def torch_file(thing):
    buffer = io.BytesIO()
    torch.save(thing, buffer)
    return buffer.getvalue()


@pytest.mark.parametrize("suffix", [".safetensors", ".pt", ".pkl", ""])
@pytest.mark.parametrize("writer", [pickle.dumps, torch_file, lambda thing: pickle.dumps(thing, protocol=0)])
def test_pickles_are_refused_by_any_name_and_never_run(writer, suffix, tmp_path):
    canary = tmp_path / "canary"
    path = tmp_path / f"model{suffix}"
    path.write_bytes(writer(Canary(canary)))
    with pytest.raises(RejectedModelError, match="expected safetensors") as caught:
        palyno.load(path, device="cpu")
    assert caught.value.exit_code == 5
    assert not canary.exists()
    pickle.loads(path.read_bytes()) if writer is pickle.dumps else None
    assert canary.exists() == (writer is pickle.dumps), "the canary would have sung"


def test_a_pickle_is_called_one(tmp_path):
    path = tmp_path / "a.safetensors"
    path.write_bytes(torch_file({"a": torch.ones(1)}))
    with pytest.raises(
        RejectedModelError, match=r"a zip archive, as torch\.save writes: a pickle; loading a pickle runs"
    ):
        load_weights(path)


@pytest.mark.parametrize("keep", [0, 1, 7, 8, 9, 100, 5000, -1, -1000])
def test_cut_files_are_refused(good, tmp_path, keep):
    path = tmp_path / "cut.safetensors"
    path.write_bytes(good.read_bytes()[:keep])
    with pytest.raises(RejectedModelError, match=r"cut\.safetensors: expected"):
        load_weights(path)


@pytest.mark.parametrize(
    "data",
    [
        b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n",
        b"<html>not found</html>",
        b"\x1f\x8b\x08\x00",
        struct.pack("<Q", 2**62) + b"{",
        struct.pack("<Q", 2) + b"{}",
        struct.pack("<Q", 5) + b"{1:2}",
        struct.pack("<Q", 20) + b'{"__metadata__": [1]}'[:20],
        struct.pack("<Q", 100_000) + b'{"a":' * 20_000,
    ],
)
def test_other_files_are_refused(data, tmp_path):
    path = tmp_path / "other.safetensors"
    path.write_bytes(data)
    with pytest.raises(RejectedModelError, match=r"other\.safetensors: expected"):
        load_weights(path)


def without_one(tensors, about):
    tensors.pop(next(iter(tensors)))


def with_one_more(tensors, about):
    tensors["extra"] = torch.ones(1)


def of_another_shape(tensors, about):
    name = next(n for n, t in tensors.items() if t.ndim == 4 and len(t) > 1)
    tensors[name] = tensors[name][:1].contiguous()


def not_finite(tensors, about):
    next(t for t in tensors.values() if t.is_floating_point()).view(-1)[0] = float("nan")


def another_format(tensors, about):
    about["palyno"] = json.dumps({**json.loads(about["palyno"]), "format": "palyno-detector-999"})


def unknown_entry(tensors, about):
    about["palyno"] = json.dumps({**json.loads(about["palyno"]), "extra": 1})


def unknown_block(tensors, about):
    said = json.loads(about["palyno"])
    said["config"]["layers"][0][2] = "os.system"
    about["palyno"] = json.dumps(said)


def fewer_classes(tensors, about):
    said = json.loads(about["palyno"])
    said["classes"] = said["classes"][:1]
    about["palyno"] = json.dumps(said)


def no_threshold(tensors, about):
    about["palyno"] = json.dumps({**json.loads(about["palyno"]), "naming_threshold": 0})


def far_larger(tensors, about):
    said = json.loads(about["palyno"])
    said["config"]["scales"][said["config"]["scale"]] = [1.0, 40.0, 4096]
    about["palyno"] = json.dumps(said)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (without_one, "1 that differ.*missing"),
        (with_one_more, r"extra \(1,\) for nothing"),
        (of_another_shape, "1 that differ"),
        (not_finite, "expected finite weights"),
        (another_format, "got format 'palyno-detector-999'"),
        (unknown_entry, "entries .*extra"),
        (unknown_block, "expected a network that this version knows"),
        (fewer_classes, "classes: expected 2"),
        (no_threshold, "naming_threshold: expected"),
        (far_larger, "far larger network"),
    ],
)
def test_files_that_are_not_exactly_right_are_refused(good, tmp_path, damage, message):
    tensors, about = parts(good)
    damage(tensors, about)
    path = tmp_path / "odd.safetensors"
    path.write_bytes(save(tensors, about))
    with pytest.raises(RejectedModelError, match=message):
        load_weights(path)


def test_tensors_without_metadata_are_refused(good, tmp_path):
    path = tmp_path / "bare.safetensors"
    path.write_bytes(save(parts(good)[0]))
    with pytest.raises(RejectedModelError, match=f"expected weights of palyno .{FORMAT}., got format None"):
        load_weights(path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"name": ""}, "name: expected"),
        ({"classes": ("a", "a")}, "different names"),
        ({"classes": ("a",)}, "expected 2"),
        ({"naming_threshold": 1.5}, "naming_threshold: expected"),
        ({"max_grain_px": 0}, "max_grain_px: expected"),
        ({"imgsz": 640.0}, "imgsz: expected"),
    ],
)
def test_metadata_that_cannot_be_is_not_written(model, tmp_path, change, message):
    with pytest.raises(UsageError, match=message):
        write(tmp_path / "x.safetensors", model, **change)
    assert list(tmp_path.iterdir()) == []


def test_weights_that_half_precision_cannot_hold_are_not_written(tmp_path):
    class Large(torch.nn.Linear):
        yaml: dict = {}  # noqa: RUF012

    layer = Large(1, 1)
    torch.nn.init.constant_(layer.weight, 1e6)
    with pytest.raises(UsageError, match="weight: expected numbers that half precision can hold"):
        write(tmp_path / "x.safetensors", layer)


@pytest.fixture
def lock(good, tmp_path):
    """A list of models with one model in it."""
    data = good.read_bytes()
    (tmp_path / "tiny.safetensors").write_bytes(data)
    digest = hashlib.sha256(data).hexdigest()
    entry = {"file": "tiny.safetensors", "sha256": digest, "bytes": len(data), "licence": "AGPL-3.0", "source": "made"}
    path = tmp_path / "models.lock"
    path.write_text(json.dumps({"format": LOCK_FORMAT, "models": {"tiny": entry}}))
    return path


def test_a_shipped_model_is_found_by_name_and_checked(lock):
    path, shipped = find_model("tiny", lock)
    assert (path, shipped.licence) == (lock.parent / "tiny.safetensors", "AGPL-3.0")
    assert load_weights(path, shipped=shipped)[1].sha256 == shipped.sha256
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(RejectedModelError, match=f"with sha256 {shipped.sha256}, got"):
        load_weights(path, shipped=shipped)


def test_unknown_names_list_those_there_are(lock):
    with pytest.raises(UnknownModelError, match=r"the name of a model \(tiny\) or a weights file, got 'yolo'"):
        find_model("yolo", lock)


def test_a_list_of_models_that_is_damaged_is_refused(lock):
    text = lock.read_text()
    for bad in (
        "",
        "[]",
        text.replace(LOCK_FORMAT, "x"),
        text.replace("licence", "other"),
        text.replace("tiny.s", "../t.s"),
    ):
        lock.write_text(bad)
        with pytest.raises(RejectedModelError, match="expected a list of models"):
            shipped_models(lock)


def test_every_model_that_ships_is_what_the_list_says():
    for name, entry in shipped_models().items():
        parts = [path.read_bytes() for path in part_paths(LOCK.parent / entry.file)]
        data = b"".join(parts)
        assert (hashlib.sha256(data).hexdigest(), len(data)) == (entry.sha256, entry.bytes), name
        assert max(map(len, parts)) < 16 * 2**20
        assert entry.licence and entry.source


def test_no_weights_lie_beside_the_list_that_are_not_in_it():
    listed = {path for entry in shipped_models().values() for path in part_paths(LOCK.parent / entry.file)}
    assert set(LOCK.parent.glob("*.safetensors")) == listed


def test_loading_leaves_the_number_of_threads_alone(good):
    code = (
        "import os, sys, torch, palyno; torch.set_num_threads(2); palyno.load(sys.argv[1], device='cpu');"
        "print(torch.get_num_threads(), os.environ.get('OMP_NUM_THREADS'))"
    )
    environment = {k: v for k, v in os.environ.items() if k != "OMP_NUM_THREADS"}
    done = subprocess.run(
        [sys.executable, "-c", code, good], env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["2", "None"]


def test_the_detector_can_be_imported_without_torch_and_ultralytics():
    code = (
        "import sys, palyno.vision.detector, palyno.vision.tiles, palyno.vision.naming, palyno.vision.weights;"
        "sys.exit(any(m in sys.modules for m in ('torch', 'ultralytics', 'torchvision', 'cv2')))"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
