import json

import numpy as np
import pytest
from click.testing import CliRunner
from palyno.app.cli import cli
from palyno.errors import RejectedModelError, UnknownModelError, UsageError
from palyno.retrieval.collection import Collection, Record
from palyno.retrieval.encoders import Encoder
from palyno.retrieval.encoders.image import ImageEncoder
from palyno.retrieval.encoders.image import encoder as module
from palyno.retrieval.encoders.image.encoder import cut_crop
from palyno.vision.weights import LOCK, find_encoder, find_model, shipped_models
from PIL import Image


@pytest.fixture(scope="module")
def encoder():
    return ImageEncoder(device="cpu")


def crop(kind, seed=0, size=120, stain=(0.9, 0.35, 0.5), lamp=(225, 230, 235)):
    """A drawn grain in bright field: smooth and round, spiny, or three-cornered; stained, with the camera's noise."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[-1.3 : 1.3 : size * 1j, -1.3 : 1.3 : size * 1j]
    bearing, reach = np.arctan2(y, x) + rng.uniform(0, 6.28), np.hypot(x, y)
    rim = {
        "smooth": 0.85 + 0 * x,
        "spiny": 0.75 + 0.12 * np.abs(np.cos(9 * bearing)),
        "three": 0.75 + 0.12 * np.cos(3 * bearing),
    }[kind]
    wall = np.exp(-(((reach - 0.93 * rim) / 0.07) ** 2))
    density = (reach < rim) * (0.35 + 0.9 * wall)
    light = np.array(lamp) * np.exp(-density[..., None] * np.array(stain))
    return np.uint8(np.clip(light + rng.normal(0, 2, light.shape), 0, 255))


KINDS = ("smooth", "spiny", "three")


def test_it_is_an_encoder_of_pictures_whose_id_holds_the_weights_and_every_setting(encoder):
    assert isinstance(encoder, Encoder) and encoder.modality == "image" and encoder.dim == 192
    assert encoder.encoder_id.startswith(f"grain-encoder@{encoder.about.sha256[:12]}/")
    assert ImageEncoder(device="cpu", turns=1).encoder_id != encoder.encoder_id


def test_vectors_have_unit_length_and_do_not_depend_on_what_is_beside(encoder):
    crops = [crop(kind, size=size) for kind, size in zip(KINDS, (60, 300, 97), strict=True)]
    together = encoder.encode(crops)
    assert together.dtype == np.float32 and together.shape == (3, 192)
    assert np.linalg.norm(together, axis=1) == pytest.approx(np.ones(3), abs=1e-5)
    assert encoder.encode(crops[::-1])[::-1] == pytest.approx(together, abs=1e-5)
    assert encoder.encode(crops[1:2])[0] == pytest.approx(together[1], abs=1e-5)
    assert encoder.encode([]).shape == (0, 192)


def test_it_tells_where_no_grain_stands_out(encoder):
    blank = np.full((90, 120, 3), (230, 228, 235), np.uint8)
    field = np.pad(crop("spiny", size=60), ((400, 400), (400, 400), (0, 0)), mode="edge")
    crops = [*(crop(kind) for kind in KINDS), blank, field]
    vectors, seen = encoder.encode_seen(crops)
    assert seen == [True, True, True, False, False] and encoder.encode_seen([])[1] == []
    assert np.array_equal(vectors, encoder.encode(crops))


def test_stain_lamp_and_quarter_turns_change_little_and_the_kind_of_grain_much(encoder):
    one = encoder.encode([crop(kind) for kind in KINDS])
    other = encoder.encode(
        [crop(kind, seed=0, stain=(0.3, 0.8, 0.6), lamp=(240, 220, 190), size=200) for kind in KINDS]
    )
    turned = encoder.encode([np.rot90(crop(kind)) for kind in KINDS])
    assert np.diag(one @ other.T).min() > 0.9
    assert np.diag(one @ turned.T).min() > 0.97
    assert (one @ other.T).argmax(1).tolist() == [0, 1, 2]
    assert (one @ one.T)[1, [0, 2]].max() < 0.5


def test_where_no_grain_stands_out_all_of_the_crop_is_read(encoder):
    blank = np.full((40, 50, 3), 200, np.uint8)
    assert (cut_crop(blank).mask == 1).all()
    strange = [blank, np.zeros((3, 3, 3), np.uint8), np.full((1, 400, 3), 255, np.uint8)]
    assert np.isfinite(encoder.encode(strange)).all()


def test_other_things_than_pictures_are_refused(encoder):
    for wrong in (np.zeros((8, 8), np.uint8), np.zeros((8, 8, 3)), np.zeros((0, 8, 3), np.uint8)):
        with pytest.raises(UsageError, match="expected uint8 RGB"):
            encoder.encode([wrong])
    with pytest.raises(UsageError, match="put it in a list"):
        encoder.encode(crop("smooth"))
    with pytest.raises(UsageError, match="turns"):
        ImageEncoder(turns=0)
    with pytest.raises(UnknownModelError, match="grain-encoder"):
        ImageEncoder("hieraedge-n")


def test_weights_that_are_not_the_published_ones_are_refused(tmp_path):
    entry = json.loads(LOCK.read_text())["models"]["grain-encoder"]
    (tmp_path / entry["file"]).write_bytes(b"other")
    (tmp_path / "models.lock").write_text(json.dumps({"format": "palyno-models-1", "models": {"grain-encoder": entry}}))
    with pytest.raises(RejectedModelError, match="expected 5723154 bytes"):
        find_encoder("grain-encoder", tmp_path / "models.lock")
    (tmp_path / "x.safetensors").write_bytes(b"other")
    with pytest.raises(RejectedModelError, match="expected an encoder"):
        ImageEncoder(tmp_path / "x.safetensors")


def test_a_collection_takes_it_for_pictures_without_being_told(encoder, tmp_path):
    with Collection.create(tmp_path / "c") as made:
        records = [Record(kind="grain", taxon=kind, slide="drawn", box=(0, 0, 9, 9)) for kind in KINDS]
        made.add(records, encoder, items=[crop(kind) for kind in KINDS])
    asked = crop("spiny", seed=5, stain=(0.4, 0.8, 0.6))
    with Collection.open(tmp_path / "c") as opened:
        assert opened.search(asked, k=1)[0].record.taxon == "spiny"
    Image.fromarray(asked).save(tmp_path / "asked.png")
    done = CliRunner().invoke(cli, ["search", str(tmp_path / "c"), "--image", str(tmp_path / "asked.png"), "--json"])
    (found,) = json.loads(done.stdout)["lists"]
    assert (found["in"], found["encoder_id"]) == ("grains", encoder.encoder_id)
    assert found["hits"][0]["taxon"] == "spiny"


def test_a_picture_to_search_with_is_cut_once(encoder, tmp_path, monkeypatch):
    with Collection.create(tmp_path / "c") as made:
        made.add([Record(kind="grain", slide="drawn", box=(0, 0, 9, 9))], encoder, items=[crop("spiny")])
        cuts, cut = [], module.cut_grain
        monkeypatch.setattr(module, "cut_grain", lambda picture: (cuts.append(picture.shape), cut(picture))[1])
        (hit,) = made.search(crop("spiny", seed=5), encoder=encoder)
        (doubtful,) = made.search(np.full((90, 120, 3), (230, 228, 235), np.uint8), encoder=encoder)
    assert len(cuts) == 2 and hit.score > 0.5
    assert hit.reasons[-1].find("no grain stands out") == -1
    assert doubtful.reasons[-1].startswith("no grain stands out from the picture, so all of it was compared")


def test_models_verify_covers_it_and_detect_refuses_it():
    assert shipped_models()["grain-encoder"].kind == "encoder"
    verified = json.loads(CliRunner().invoke(cli, ["models", "verify", "--json"]).stdout)["models"]
    assert {row["name"]: row["status"] for row in verified}["grain-encoder"] == "ok"
    with pytest.raises(UnknownModelError, match="hieraedge-n"):
        find_model("grain-encoder")
