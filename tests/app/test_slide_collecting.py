"""Slides into a collection in one pass: the grains and keys of `palyno detect`, with the vectors of that very pass."""

import json

import numpy as np
import pytest
from click.testing import CliRunner
from palyno.app.cli import cli
from palyno.app.collecting import collect
from palyno.app.jobs import DetectOptions, detect_slides
from palyno.app.slide_collecting import collect_slides
from palyno.data.slides import open_slide
from palyno.retrieval.collection import Collection
from palyno.retrieval.encoders.image import RegionEncoder
from PIL import Image


@pytest.fixture(scope="module")
def encoder(shipped_model, one_thread):
    return RegionEncoder(device="cpu")


@pytest.fixture(scope="module")
def folder(samples, tmp_path_factory):
    """Two slides with grains, one without, and a file that is no slide."""
    folder = tmp_path_factory.mktemp("slides")
    with open_slide(samples / "composed.jpg") as slide:
        for name, x in (("a.png", 0), ("b.png", 256)):
            Image.fromarray(slide.read(x, 0, 256, 256)).save(folder / name)
    Image.new("RGB", (70, 90), (230, 230, 230)).save(folder / "empty.png")
    return folder


class Mean:
    """A picture is its mean colour."""

    encoder_id, dim, modality = "mean colour", 3, "image"

    def encode(self, items):
        rows = np.array([np.reshape(item, (-1, 3)).mean(0) + 1 for item in items], np.float32).reshape(-1, 3)
        return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def run(*arguments, code=0):
    done = CliRunner().invoke(cli, ["index", *map(str, arguments)])
    assert done.exit_code == code, done.output
    return json.loads(done.stdout) if "--json" in arguments else done.output


def test_the_vectors_are_those_of_the_pass_and_the_records_those_of_detect(folder, encoder, tmp_path):
    with Collection.create(tmp_path / "c", encoders=[encoder]) as collection:
        (report,) = collect_slides(collection, [folder], encoder)
        assert report.kind == "slides" and report.skipped == [] and report.known == 0
        assert collection.spaces == (encoder.encoder_id,) and report.added == len(collection) > 8
        for name in ("a.png", "b.png"):
            result = encoder.detector.detect(folder / name, vectors=encoder)
            there = list(collection.records({"slide": name}))
            assert [record.taxon for _, record in there] == list(result.taxa)
            np.testing.assert_allclose([record.box for _, record in there], result.boxes, atol=0.01)
            np.testing.assert_allclose(collection.vectors([i for i, _ in there]), result.vectors, atol=1e-6)
        # The same slides by way of detect's tables: each grain is known, whatever encoder it comes in with.
        detect_slides([folder], tmp_path / "results", DetectOptions(overlays=False), detector=encoder.detector)
        (known,) = collect(collection, [tmp_path / "results"], images=[Mean()])
        assert (known.added, known.known) == (0, report.added)
        (again,) = collect_slides(collection, [folder], encoder)
        assert (again.added, again.known, len(collection)) == (0, report.added, report.added)


def test_records_of_other_encoders_stay_and_get_a_vector_where_they_are_updated(folder, encoder, tmp_path):
    detect_slides([folder / "a.png"], tmp_path / "results", DetectOptions(overlays=False), detector=encoder.detector)
    with Collection.create(tmp_path / "c", encoders=[encoder]) as collection:
        (first,) = collect(collection, [tmp_path / "results"], images=[Mean()])
        (kept,) = collect_slides(collection, [folder / "a.png"], encoder)
        assert (kept.added, kept.known) == (0, first.added) and encoder.encoder_id not in collection.spaces
        (updated,) = collect_slides(collection, [folder / "a.png"], encoder, known="update")
        assert updated.known == first.added and set(collection.spaces) == {"mean colour", encoder.encoder_id}
        ids = [i for i, _ in collection.records()]
        assert collection.vectors(ids, "mean colour").shape == (len(ids), 3)
        hits = collection.search(collection.vectors(ids[:1], encoder.encoder_id)[0], 1, encoder=encoder.encoder_id)
        assert hits[0].id == ids[0]


def test_the_command_builds_adds_and_finds_a_crop(folder, encoder, tmp_path):
    told = run(
        "build", tmp_path / "c", folder, "--encoder", "grain-regions", "--device", "cpu", "--um-per-px", 0.5, "--json"
    )
    assert told["records"] == told["sources"][0]["added"] > 8 and told["sources"][0]["kind"] == "slides"
    assert "0 added" in run("add", tmp_path / "c", folder, "--encoder", "grain-regions", "--device", "cpu")
    with Collection.open(tmp_path / "c", encoders=[encoder]) as collection:
        i, record = max(collection.records({"slide": "a.png"}), key=lambda one: one[1].width_um)
        assert record.width_um == pytest.approx((record.box[2] - record.box[0]) / 2, abs=0.01)
        assert record.extra["model_sha256"] == encoder.detector_sha256
        with open_slide(folder / "a.png") as slide:
            x1, y1, x2, y2 = (int(v) for v in record.box)
            found = collection.search(slide.read(x1, y1, x2 - x1, y2 - y1), 1)
        assert found[0].id == i
    # The encoder that ships is at hand for queries without being named.
    with Collection.open(tmp_path / "c") as collection:
        assert [one.encoder_id for one in collection.encoders("image")] == [encoder.encoder_id]


def test_a_slide_that_cannot_be_read_is_told_and_the_others_are_kept(folder, encoder, tmp_path):
    (tmp_path / "broken.png").write_bytes((folder / "a.png").read_bytes()[:900])
    options = ("--encoder", "grain-regions", "--device", "cpu", "--json")
    told = run("build", tmp_path / "c", folder / "b.png", tmp_path / "broken.png", *options, code=3)
    good, bad = told["sources"]
    assert good["added"] == told["records"] > 0 and good["skipped"] == []
    assert bad["added"] == 0 and bad["skipped"][0]["what"] == "broken.png"


def test_what_cannot_be_meant_is_refused_before_a_collection_is_made(folder, encoder, tmp_path):
    from palyno.vision.weights import find_model, load_weights, save_weights

    (tmp_path / "t.txt").write_text("Words.")
    assert "--conf is for slides" in run("build", tmp_path / "c", tmp_path / "t.txt", "--conf", 0.5, code=2)
    assert "--slides is for results" in run(
        "build", tmp_path / "c", folder, "--encoder", "grain-regions", "--slides", folder, code=2
    )
    assert "no slide in" in run("build", tmp_path / "c", tmp_path / "t.txt", "--encoder", "grain-regions", code=4)
    assert "got an encoder of crops" in run("build", tmp_path / "c", folder, "--encoder", "grain-encoder", code=5)
    model, about = load_weights(find_model(encoder.detector_name)[0])
    said = {name: getattr(about, name) for name in ("classes", "config", "imgsz", "naming_threshold", "max_grain_px")}
    other = save_weights(tmp_path / "other.safetensors", model, name="other", training={"another": 1}, **said)
    told = run(
        "build", tmp_path / "c", folder, "--encoder", "grain-regions", "--model", other, "--device", "cpu", code=5
    )
    assert "got other with" in told
    assert not (tmp_path / "c").exists()
