"""Weights in onnxruntime on a CPU: PyTorch's grains, the same cold and warm, and never without it being said."""

import hashlib
import os
import re
import sys
import threading

import numpy as np
import onnxruntime
import palyno
import pytest
import torch
from palyno import PalynoError, RejectedModelError, UsageError
from palyno.data.slides import open_slide
from palyno.retrieval.encoders.image import RegionEncoder
from palyno.vision import detector as opening
from palyno.vision.models.detection import build
from palyno.vision.runtimes import parity, prepared
from palyno.vision.runtimes.kept import look
from palyno.vision.weights import save_weights

pytest.importorskip("onnx")
pytestmark = pytest.mark.usefixtures("one_thread")

TABLE = {
    "name": "tiny",
    "scale": "n",
    "scales": {"n": [1.0, 1.0, 64]},
    "options": {},
    "reg_max": 4,
    "layers": [
        ["stem", "image", "Conv", {"out": 16, "kernel": 3, "stride": 2}],
        ["down2", "stem", "Conv", {"out": 16, "kernel": 3, "stride": 2}],
        ["down3", "down2", "Conv", {"out": 16, "kernel": 3, "stride": 2}],
        ["down4", "down3", "Conv", {"out": 16, "kernel": 3, "stride": 2}],
        ["down5", "down4", "Conv", {"out": 16, "kernel": 3, "stride": 2}],
    ],
    "outputs": ["down3", "down4", "down5"],
}
RUNTIME = f"onnxruntime {onnxruntime.__version__}"
PICTURE = np.random.default_rng(0).integers(0, 255, (96, 128, 3), dtype=np.uint8)


def save(path, seed):
    torch.manual_seed(seed)
    model = build(TABLE, classes=["Betula", "Alnus"]).eval()
    for branch in model.model[-1].cv3:
        torch.nn.init.normal_(branch[-1].weight, 0, 0.5)
        torch.nn.init.zeros_(branch[-1].bias)
    about = {"name": "tiny", "imgsz": 128, "naming_threshold": 0.5, "max_grain_px": 40, "training": {}}
    return save_weights(path, model, classes=("Betula", "Alnus"), config=model.yaml, **about)


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    return save(tmp_path_factory.mktemp("weights") / "tiny.safetensors", 0)


@pytest.fixture(scope="module", autouse=True)
def small_tiles(prepared_detector):
    """Of noise, for the check of tiny networks; the one that ships is checked before."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("palyno.vision.export.tiles", lambda *asked: [torch.rand(1, 3, 96, 128)])
        yield


@pytest.fixture(scope="module")
def warm(weights, tmp_path_factory):
    """The file that stands in a cache after the weights were opened."""
    folder = tmp_path_factory.mktemp("warm")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PALYNO_CACHE", str(folder))
        palyno.load(weights, device="cpu", runtime="onnxruntime")
    (file,) = (folder / "networks").glob("*.onnx")
    return file


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """An empty cache, and no runtime chosen."""
    monkeypatch.setenv("PALYNO_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("PALYNO_RUNTIME")
    return tmp_path / "cache" / "networks"


@pytest.fixture
def filled(cache, warm):
    """A cache with the file of the weights in it."""
    cache.mkdir(parents=True, mode=0o700)
    file = cache / warm.name
    file.write_bytes(warm.read_bytes())
    return file


@pytest.fixture
def told():
    return []


@pytest.fixture
def open_tiny(weights, told):
    return lambda path=weights, **how: palyno.load(path, device="cpu", on_prepare=told.append, **how)


def equal(a, b):
    return a.taxa == b.taxa and np.array_equal(a.boxes, b.boxes) and np.array_equal(a.confidence, b.confidence)


@pytest.fixture(scope="module")
def in_torch(shipped_model):
    return palyno.load(shipped_model, device="cpu", runtime="torch")


@pytest.fixture(scope="module")
def field(samples):
    """Rice, with sides that are no multiples of 32; two tiles."""
    with open_slide(samples / "rice_dense.jpg") as slide:
        return slide.read(300, 200, 901, 500)


class TestShipped:
    """The model that ships, in the runtime that is taken by default."""

    @pytest.mark.parametrize(("what", "views"), [("field", 1), ("composed", 1), ("corner", 2)])
    def test_slides_have_the_grains_that_they_have_in_pytorch(
        self, prepared_detector, in_torch, field, samples, what, views
    ):
        slide = {"field": field, "composed": samples / "composed.jpg", "corner": field[:250, :250]}[what]
        found, expected = (d.detect(slide, views=views) for d in (prepared_detector, in_torch))
        assert found.taxa == expected.taxa and len(found) > 3
        assert np.abs(found.boxes - expected.boxes).max() < 0.5
        assert np.abs(found.confidence - expected.confidence).max() < 1e-3
        assert found.provenance.runtime == RUNTIME
        assert expected.provenance.runtime == f"torch {torch.__version__}"
        assert found.provenance.arguments == expected.provenance.arguments
        assert found.provenance.sha256 == expected.provenance.sha256

    def test_vectors_are_those_of_pytorch_which_then_runs_all(self, prepared_detector, in_torch, field):
        found, expected = (d.detect(field[:250, :250], vectors=RegionEncoder()) for d in (prepared_detector, in_torch))
        assert equal(found, expected) and len(found) > 3
        assert np.array_equal(found.vectors, expected.vectors)
        assert found.provenance == expected.provenance

    def test_grains_are_explained(self, prepared_detector, in_torch, field):
        corner = field[:250, :250]
        grain = prepared_detector.detect(corner)[0]
        why, expected = (d.explain(corner, grain, methods=["gradcam"]) for d in (prepared_detector, in_torch))
        assert np.array_equal(why.maps[0].values, expected.maps[0].values)
        assert why.provenance == expected.provenance


def test_a_warm_cache_gives_what_a_cold_one_gave_and_builds_nothing(cache, open_tiny, told, monkeypatch):
    cold = open_tiny()
    assert cold.runtime == RUNTIME and cold.note is None
    assert len(told) == 1 and told[0].startswith("preparing tiny for this processor, once")

    def build(*_, **__):
        raise AssertionError("the network was built in PyTorch")

    monkeypatch.setattr(opening, "load_weights", build)
    again = open_tiny()
    assert len(told) == 1
    assert equal(again.detect(PICTURE), cold.detect(PICTURE)) and len(cold.detect(PICTURE)) > 5
    assert again.metadata == cold.metadata


def test_exporting_again_gives_the_same_bytes(cache, open_tiny, warm):
    open_tiny()
    (file,) = cache.glob("*.onnx")
    assert (file.name, file.read_bytes()) == (warm.name, warm.read_bytes())


def test_the_network_in_pytorch_is_built_once_and_of_the_same_weights(filled, open_tiny, weights, tmp_path):
    copy = tmp_path / "copy.safetensors"
    copy.write_bytes(weights.read_bytes())
    detector = open_tiny(copy)
    assert isinstance(detector.network.module, torch.nn.Module)
    assert detector.network.module is detector.network.module is not detector.network.model
    detector = open_tiny(copy)
    save(copy, 1)
    with pytest.raises(RejectedModelError, match="expected the weights that were opened, it has changed"):
        detector.network.module  # noqa: B018


@pytest.mark.parametrize("damage", ["one byte", "a part", "nothing"])
def test_a_damaged_file_is_made_again(filled, open_tiny, told, warm, damage):
    whole = warm.read_bytes()
    changed = bytearray(whole)
    changed[len(whole) // 2] ^= 1
    filled.write_bytes({"one byte": changed, "a part": whole[:1000], "nothing": b""}[damage])
    assert open_tiny().runtime == RUNTIME
    assert len(told) == 1 and "again, as" in told[0] and f"{filled.name} is damaged" in told[0]
    assert [file.read_bytes() for file in filled.parent.glob("*.onnx")] == [whole]
    open_tiny()
    assert len(told) == 1


def test_two_at_once_prepare_it_once(cache, open_tiny, told):
    found = []
    threads = [threading.Thread(target=lambda: found.append(open_tiny().detect(PICTURE))) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(told) == 1 and len(found) == 3
    assert equal(found[0], found[1]) and equal(found[1], found[2])
    assert len(list(cache.glob("*.onnx"))) == 1


@pytest.mark.parametrize(
    "change", [("_sources", lambda: "edited"), ("_processor", lambda: "another"), ("__version__", "9")]
)
def test_what_was_made_by_others_is_not_taken(filled, open_tiny, told, monkeypatch, change):
    monkeypatch.setattr(prepared, *change)
    open_tiny()
    assert len(told) == 1 and "once" in told[0]
    assert len(list(filled.parent.glob("*.onnx"))) == 2


def test_another_networks_file_is_refused(filled, tmp_path, told):
    other = save(tmp_path / "other.safetensors", 1)
    key = prepared._key(hashlib.sha256(other.read_bytes()).hexdigest())
    filled.rename(filled.with_name(f"{key}-{filled.stem.partition('-')[2]}.onnx"))
    with pytest.raises(RejectedModelError, match=r"expected the network of .*other\.safetensors, got another's"):
        palyno.load(other, device="cpu", runtime="onnxruntime")


def test_weights_that_change_while_they_are_exported_leave_nothing(cache, weights, tmp_path, monkeypatch):
    from palyno.vision import export as exporting

    copy, export = tmp_path / "copy.safetensors", exporting.export
    copy.write_bytes(weights.read_bytes())

    def meddled(path, *arguments, **options):
        save(path, 1)
        return export(path, *arguments, **options)

    monkeypatch.setattr(exporting, "export", meddled)
    with pytest.raises(RejectedModelError, match="expected the weights that were opened, it has changed"):
        palyno.load(copy, device="cpu", runtime="onnxruntime")
    assert not list(cache.glob("[!.]*")) and not (cache / ".making.onnx").exists()


class TestWithoutIt:
    """Where it cannot be had PyTorch runs, and says so; unless it was asked for."""

    def falls_back(self, open_tiny, reason):
        detector = open_tiny()
        assert detector.runtime == f"torch {torch.__version__}"
        assert re.search(f"^PyTorch runs tiny, not onnxruntime, .*{reason}", detector.note), detector.note
        result = detector.detect(PICTURE)
        assert equal(result, open_tiny(runtime="torch").detect(PICTURE))
        assert result.provenance.runtime == detector.runtime
        with pytest.raises(PalynoError, match=reason):
            open_tiny(runtime="onnxruntime")

    def test_the_cache_cannot_be_made(self, open_tiny, monkeypatch, cache, tmp_path, told):
        (tmp_path / "file").touch()
        monkeypatch.setenv("PALYNO_CACHE", str(tmp_path / "file" / "deeper"))
        self.falls_back(open_tiny, "the cache cannot keep the network .*Not a directory.*; set PALYNO_CACHE to a")
        assert not told

    def test_the_cache_can_be_read_but_not_written(self, open_tiny, monkeypatch, filled, told):
        def refuse(*_):
            raise PermissionError(30, "Read-only file system", str(filled.parent / ".lock"))

        monkeypatch.setattr(os, "open", refuse)
        monkeypatch.setattr(os, "utime", refuse)
        assert open_tiny().runtime == RUNTIME
        filled.unlink()
        self.falls_back(open_tiny, r"\.lock: Read-only file system\); set PALYNO_CACHE")
        assert not told

    def test_others_can_write_to_the_cache(self, open_tiny, filled):
        filled.parent.chmod(0o777)
        self.falls_back(open_tiny, "can be changed by other users, and with it what is counted")

    @pytest.mark.parametrize("package", ["onnx", "onnxruntime"])
    def test_a_package_is_missing(self, open_tiny, monkeypatch, cache, told, package):
        with monkeypatch.context() as patch:
            patch.setitem(sys.modules, package, None)
            self.falls_back(open_tiny, f"{package}: expected to be installed")
        assert not told
        # It was installed since.
        assert open_tiny().runtime == RUNTIME

    def test_only_exporting_needs_onnx(self, open_tiny, monkeypatch, filled):
        monkeypatch.setitem(sys.modules, "onnx", None)
        assert open_tiny().runtime == RUNTIME

    def test_its_boxes_are_others_which_is_tried_once(self, open_tiny, monkeypatch, cache, told):
        with monkeypatch.context() as patch:
            patch.setattr(parity, "BOX_ERROR", -1.0)
            self.falls_back(open_tiny, "expected the exported network to give PyTorch's boxes to -1.0 px")
        assert len(told) == 1 and not list(cache.glob("*.onnx"))
        assert "delete it to try again" in open_tiny().note
        (note,) = cache.glob("*.txt")
        note.unlink()
        assert open_tiny().runtime == RUNTIME and len(told) == 2

    def test_the_exporter_fails(self, open_tiny, monkeypatch, cache):
        def fail(*_, **__):
            raise MemoryError("too little")

        monkeypatch.setattr("palyno.vision.export.export", fail)
        self.falls_back(open_tiny, "the network could not be exported: too little")
        assert not list(cache.glob("*.txt"))

    def test_the_network_takes_one_size(self, cache):
        detector = palyno.load("biformer-nano-yolo", device="cpu")
        assert detector.note.endswith("biformer-nano-yolo cannot be exported for images of any size")
        assert detector.runtime.startswith("torch ")


class TestChoice:
    def test_the_environment_decides_where_no_one_does(self, filled, open_tiny, monkeypatch):
        monkeypatch.setenv("PALYNO_RUNTIME", "torch")
        assert open_tiny().runtime.startswith("torch ") and open_tiny().note is None
        assert open_tiny(runtime="onnxruntime").runtime == RUNTIME
        monkeypatch.setenv("PALYNO_RUNTIME", "onnx")
        with pytest.raises(UsageError, match="PALYNO_RUNTIME: expected one of auto, torch, onnxruntime; got 'onnx'"):
            open_tiny()
        with pytest.raises(UsageError, match=r"^runtime: expected one of .* got 'openvino'"):
            open_tiny(runtime="openvino")

    def test_a_gpu_keeps_pytorch(self, filled, weights, monkeypatch):
        monkeypatch.setattr(opening, "choose_device", lambda name: torch.device("cpu" if name == "cpu" else "meta"))
        assert palyno.load(weights).runtime.startswith("torch ")
        # Asked for alone it means the CPU.
        asked = palyno.load(weights, runtime="onnxruntime")
        assert (asked.runtime, asked.device) == (RUNTIME, "cpu")
        with pytest.raises(UsageError, match="runtime: expected torch or auto on meta, got onnxruntime"):
            palyno.load(weights, device="cuda", runtime="onnxruntime")

    def test_an_exported_file_has_its_own(self, filled, tmp_path):
        file = tmp_path / "x.onnx"
        file.write_bytes(filled.read_bytes())
        assert palyno.load(file, runtime="onnxruntime").runtime == RUNTIME
        with pytest.raises(UsageError, match=f"which {RUNTIME} runs, got torch"):
            palyno.load(file, runtime="torch")


def test_what_was_not_used_for_longest_goes(filled, open_tiny, monkeypatch, tmp_path):
    monkeypatch.setattr(prepared, "MOST_KEPT", 2)
    for age, name in ((30, "a-0.onnx"), (20, "b.txt"), (10, filled.name)):
        (filled.parent / name).touch()
        os.utime(filled.parent / name, (10**9 - age, 10**9 - age))
    # Used now.
    open_tiny()
    open_tiny(save(tmp_path / "other.safetensors", 1))
    left = {file.name for file in filled.parent.glob("[!.]*")}
    assert filled.name in left and len(left) == 2


class TestOutlook:
    """What `look` says beforehand is what opening the weights then does; looking changes nothing."""

    @pytest.fixture
    def foreseen(self, weights, open_tiny, cache):
        def check(state):
            before = {file: file.read_bytes() for file in cache.glob("*")}
            networks = look({"tiny": hashlib.sha256(weights.read_bytes()).hexdigest()})
            assert {file: file.read_bytes() for file in cache.glob("*")} == before
            (outlook,) = networks.models
            assert outlook.state == state, outlook
            try:
                runtime, note = (detector := open_tiny()).runtime, detector.note
            except PalynoError as error:
                runtime, note = None, str(error)
            assert outlook.runtime == runtime
            if state == "refused":
                assert outlook.reason in note
            return networks

        return check

    def test_nothing_is_there_then_it_is(self, foreseen, cache):
        assert not foreseen("unprepared").files
        networks = foreseen("ready")
        (file,) = cache.glob("*.onnx")
        assert [(kept.path, kept.bytes, kept.whole) for kept in networks.files] == [(file, file.stat().st_size, True)]
        assert networks.models[0].kept is networks.files[0] and not networks.others

    def test_it_is_damaged_then_whole_again(self, foreseen, filled, warm):
        other = filled.with_name("ab-cd.onnx")
        other.write_bytes(b"of another version")
        filled.write_bytes(warm.read_bytes()[:-1])
        networks = foreseen("damaged")
        assert not networks.models[0].kept.whole and [kept.path for kept in networks.others] == [other]
        assert foreseen("ready").models[0].kept.path == filled

    @pytest.mark.parametrize("asked", ["auto", "onnxruntime"])
    def test_it_cannot_be_had(self, foreseen, filled, monkeypatch, asked):
        monkeypatch.setenv("PALYNO_RUNTIME", asked)
        filled.parent.chmod(0o777)
        assert "can be changed by other users" in foreseen("refused").reason
        filled.parent.chmod(0o700)
        note = filled.with_name(f"{filled.stem.partition('-')[0]}.txt")
        note.write_text("tiny cannot be exported\n")
        networks = foreseen("refused")
        assert networks.reason is None and str(note) in networks.models[0].reason
        note.unlink()
        with monkeypatch.context() as patch:
            patch.setitem(sys.modules, "onnx", None)
            foreseen("ready")
            filled.unlink()
            foreseen("refused")
            patch.setitem(sys.modules, "onnxruntime", None)
            assert "onnxruntime: expected to be installed" in foreseen("refused").reason

    def test_pytorch_was_chosen(self, foreseen, filled, monkeypatch):
        monkeypatch.setenv("PALYNO_RUNTIME", "torch")
        assert foreseen("unasked").models[0].kept.path == filled
        monkeypatch.setenv("PALYNO_RUNTIME", "onnx")
        with pytest.raises(UsageError, match="PALYNO_RUNTIME: expected one of"):
            look({})
