"""What an audit asks of a run: all that a count depends on, in every file, in the same words."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

import numpy as np
import palyno
import pytest
import tifffile
import torch
import yaml
from palyno.app import jobs, report
from palyno.app.jobs import DetectOptions, detect_slides
from palyno.app.web.files import make
from palyno.app.web.session import Session
from palyno.data.annotations.writers import FORMATS
from palyno.data.slides import open_slide
from PIL import Image, ImageDraw
from pyarrow import parquet

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def detector(shipped_model):
    return palyno.load(shipped_model, device="cpu", runtime="torch")


@pytest.fixture(scope="module")
def corners(samples, tmp_path_factory):
    """Slides; the grains of the last are larger than the overlap that is tried first."""
    folder = tmp_path_factory.mktemp("corners")
    scene = Image.open(samples / "composed.jpg")
    scene.crop((0, 0, 352, 256)).save(folder / "plain.png")
    scene.resize((1408, 1408)).crop((0, 616, 1000, 996)).save(folder / "scaled.png")
    # Of 16 bits, the upper half of which is empty: what they are shown as is a decision of the reader.
    deep = np.asarray(scene.crop((0, 0, 352, 256))).astype(np.uint16) * 128
    tifffile.imwrite(folder / "deep.tif", deep, photometric="rgb")
    return [folder / "deep.tif", folder / "plain.png", folder / "scaled.png"]


@pytest.fixture(scope="module")
def page(detector, corners, tmp_path_factory):
    """A visitor's session that has read them."""
    session = Session(tmp_path_factory.mktemp("page") / "session")
    list(session.read(detector, corners, 0.4))
    return session


@pytest.fixture(scope="module")
def run(detector, corners, tmp_path_factory):
    """Folder, `run.json`, and the texts on the overlays, of the command's run."""
    out, texts = tmp_path_factory.mktemp("run") / "out", []
    with pytest.MonkeyPatch.context() as patch:
        # The fake detector of other tests, once imported, gives jobs a fingerprint of its own.
        patch.setattr(jobs, "code_fingerprint", report.code_fingerprint)
        real = ImageDraw.ImageDraw.text
        patch.setattr(ImageDraw.ImageDraw, "text", lambda *a, **k: texts.append(a[2]) or real(*a, **k))
        detect_slides(corners, out, DetectOptions(formats=FORMATS, um_per_px=0.4), detector=detector)
    return out, json.loads((out / "run.json").read_text(encoding="utf-8")), texts


def test_every_file_of_a_run_says_the_same_of_how_each_slide_was_read(run, detector):
    out, told, texts = run
    coco = json.loads((out / "coco.json").read_text(encoding="utf-8"))["info"]["provenance"]
    table = json.loads(parquet.read_metadata(out / "grains.parquet").metadata[b"palyno"])["provenance"]
    labels = yaml.safe_load((out / "yolo" / "data.yaml").read_text(encoding="utf-8"))["provenance"]
    assert coco == table == labels
    assert len({json.dumps(slide["arguments"]) for slide in told["slides"]}) == len(coco) == 2
    for slide in told["slides"]:
        expected = {
            "model": told["model"]["name"],
            "sha256": told["model"]["sha256"],
            "version": told["versions"]["palyno"],
            "arguments": slide["arguments"],
            "runtime": told["runtime"],
            "device": told["device"],
        }
        (source,) = [source for source in coco if slide["slide"] in source["slides"]]
        assert {name: value for name, value in source.items() if name != "slides"} == expected
        stem = Path(slide["slide"]).stem
        file = next(name for name in told["files"] if name.startswith(f"geojson/{stem}"))
        assert json.loads((out / file).read_text(encoding="utf-8"))["provenance"] == expected
        # What was asked stands there as it does above; `imgsz` is then that of the slide.
        asked = {name: value for name, value in told["arguments"].items() if name != "imgsz"}
        assert asked.items() <= slide["arguments"].items()
    about = detector.metadata
    assert told["slides"][0]["arguments"]["naming_threshold"] == about.naming_threshold
    assert told["slides"][0]["arguments"]["naming_temperature"] == about.naming_temperature
    foot = " ".join(texts)
    assert f"{detector.name} {detector.sha256[:8]}, confidence ≥ 0.25" in foot
    assert f"torch {torch.__version__} on cpu" in foot and f"palyno {palyno.__version__}" in foot


def test_what_was_decided_in_reading_a_slide_is_told_with_its_counts(run, corners):
    out, told, texts = run
    with open_slide(corners[0]) as slide:
        # Decided when pixels are read.
        slide.read(0, 0, 8, 8)
        (note,) = slide.notes
    assert [slide["notes"] for slide in told["slides"]] == [[note], [], []]
    assert note in " ".join(texts), texts
    table = json.loads(parquet.read_metadata(out / "grains.parquet").metadata[b"palyno"])
    assert [slide["notes"] for slide in table["slides"]] == [[note], [], []]


def test_what_decodes_slides_and_runs_networks_has_its_version_in_run_json(run):
    import imagecodecs
    import onnxruntime
    import openslide
    import PIL

    told = run[1]["versions"]
    names = {"PIL": "pillow", "openslide": "openslide-python"}
    for package in (torch, np, PIL, imagecodecs, onnxruntime, openslide, tifffile):
        assert package.__version__.partition("+")[0] == told[names.get(package.__name__, package.__name__)], package
    assert told.get("opencv-python") or told.get("opencv-python-headless")
    machine = run[1]["timing"]["machine"]
    assert machine["threads"] == 1 and machine["processor"] and "gpu" not in machine


@pytest.mark.parametrize("allowed", [True, False])
def test_of_a_gpu_its_name_and_its_precision_are_told(monkeypatch, allowed):
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: f"the GPU at {device}")
    before, torch.backends.cudnn.allow_tf32 = torch.backends.cudnn.allow_tf32, allowed
    try:
        told = report.machine("cuda:1")
    finally:
        torch.backends.cudnn.allow_tf32 = before
    assert (told["gpu"], told["tf32_convolutions"]) == ("the GPU at cuda:1", allowed)


def test_the_page_hands_out_what_the_command_writes(run, page, corners):
    out, told, _ = run
    with zipfile.ZipFile(make(page, "all", 0.25)) as archive:
        assert set(archive.namelist()) == {*told["files"], "run.json"}
        for name in told["files"]:
            assert archive.read(name) == (out / name).read_bytes(), name
        also = json.loads(archive.read("run.json"))
    # The server's folders are none of the visitor's business.
    assert [slide.pop("path") for slide in also["slides"]] == [path.name for path in corners]
    expected = {**told, "slides": [{k: v for k, v in s.items() if k != "path"} for s in told["slides"]]}
    timing, expected_timing = also.pop("timing"), expected.pop("timing")
    assert also == expected
    assert timing.keys() == expected_timing.keys() and timing["machine"] == expected_timing["machine"]


@pytest.mark.parametrize("choice", ["csv", "yolo", "geojson", "pictures"])
def test_an_archive_of_one_format_says_how_it_was_made_too(run, page, choice):
    with zipfile.ZipFile(make(page, choice, 0.5)) as archive:
        told = json.loads(archive.read("run.json"))
        assert set(told["files"]) == set(archive.namelist()) - {"run.json"}
    assert all(told[name] == run[1][name] for name in ("model", "runtime", "device", "versions"))
    assert told["arguments"] == {**run[1]["arguments"], "conf": 0.5}
    assert {slide["arguments"]["conf"] for slide in told["slides"]} == {0.5}


def test_an_exported_file_says_which_weights_it_is_of(detector):
    class Exported:
        name, sha256, device, runtime = "x", "a" * 64, "cpu", "openvino 2026.0"

        class metadata:
            training = {"exported_from": detector.sha256}  # noqa: RUF012

    assert report.key_of(Exported, {}, "")["model"] == {
        "name": "x", "sha256": "a" * 64, "exported_from": detector.sha256
    }  # fmt: skip
    assert "exported_from" not in report.key_of(detector, {}, "")["model"]
