from __future__ import annotations

import json

import numpy as np
import pytest
from click.testing import CliRunner
from palyno.app.cli import cli
from palyno.retrieval.collection import Collection, Record, query
from PIL import Image


class Letters:
    """Texts and pictures as directions: a text by how often it has a, b and c, a picture by its red, green and blue."""

    dim = 3

    def __init__(self, modality, encoder_id):
        self.modality, self.encoder_id = modality, encoder_id

    def encode(self, items):
        if self.modality == "text":
            rows = [[item.lower().count(letter) + 0.01 for letter in "abc"] for item in items]
        else:
            rows = [np.asarray(item, float).reshape(-1, 3).mean(0) + 0.01 for item in items]
        rows = np.array(rows, np.float32)
        return rows / np.linalg.norm(rows, axis=1, keepdims=True)


@pytest.fixture
def collection(tmp_path, monkeypatch):
    """Three grains and two texts in one space, and the texts in a second one."""
    both = [Letters("text", "shared"), Letters("image", "shared")]
    alone = Letters("text", "words only")
    monkeypatch.setattr(
        query, "shipped_encoders", lambda m: iter([one for one in (both[0], alone, both[1]) if one.modality == m])
    )
    colours = [(250, 0, 0), (0, 250, 0), (0, 0, 250)]
    with Collection.create(tmp_path / "c") as made:
        grains = [
            Record(kind="grain", taxon=taxon, slide="s.tif", box=(1, 2, 31, 42), width_um=w, height_um=20.0)
            for taxon, w in (("Abies", 60), ("Betula", 25), ("Salix × cinerea", 20))
        ]
        made.add(grains, both[1], items=[np.full((3, 3, 3), colour, np.uint8) for colour in colours])
        texts = [
            Record(kind="text", text="aaab: sacs and [bold] walls " + "a" * 300),
            Record(kind="text", text="bbc pores"),
        ]
        ids = made.add(texts, both[0])
        made.embed(ids, alone.encode([text.text for text in texts]), alone)
    Image.new("RGB", (8, 8), (0, 240, 10)).save(tmp_path / "green.png")
    return tmp_path / "c"


def run(*arguments, code=0):
    done = CliRunner().invoke(cli, ["search", *(str(argument) for argument in arguments)])
    assert done.exit_code == code, f"{done.exit_code}\n{done.output}"
    return json.loads(done.stdout) if "--json" in arguments else done.output


def test_each_space_has_a_list_of_its_own(collection):
    told = run(collection, "bbb pores", "--json")
    assert [space["encoder_id"] for space in told["spaces"]] == ["shared", "words only"]
    shared, alone = (space["hits"] for space in told["spaces"])
    assert [hit["id"] for hit in shared] == [2, 5, 4, 1, 3]
    assert [hit["id"] for hit in alone] == [5, 4]
    assert [hit["score"] for hit in shared] == sorted((hit["score"] for hit in shared), reverse=True)
    assert shared[1]["reasons"][0] == "shares pores"
    assert shared[0]["taxon"] == "Betula" and shared[0]["box"] == [1, 2, 31, 42]
    assert (told["words"], told["k"], told["where"]) == ("bbb pores", 10, None)


def test_a_picture_finds_its_like_in_the_spaces_of_pictures_only(collection, tmp_path):
    told = run(collection, "--image", tmp_path / "green.png", "-k", 1, "--json")
    assert [space["encoder_id"] for space in told["spaces"]] == ["shared"]
    assert told["spaces"][0]["hits"][0]["taxon"] == "Betula"


def test_filters_and_spaces_narrow_the_search(collection):
    arguments = (collection, "aaa", "--space", "shared", "--json")
    where = "kind = 'grain' and width_um < 30"
    assert [hit["id"] for hit in run(*arguments, "--where", where, "-k", 2)["spaces"][0]["hits"]] == [2, 3]
    assert run(*arguments, "--where", "taxon = 'Pinus'")["spaces"][0]["hits"] == []
    exact = run(*arguments, "--exact")
    assert exact == run(*arguments)


def test_the_table_shows_scores_places_and_reasons(collection):
    shown = run(collection, "bbb pores")
    for word in ("score", "1.000", "Betula", "s.tif", "at 1, 2", "25.0 x 20.0 µm", "shares pores", "[bold]", "…"):
        assert word in shown
    assert "near in shared: all 5 compared" in shown and "near in words only: all 2 compared" in shown
    assert "Salix × cinerea" in shown
    assert "nothing in shared passes" in run(collection, "a", "--where", "id > 99")


def test_what_cannot_be_meant_is_refused_with_its_code(collection, tmp_path):
    run(collection, code=2)
    run(collection, "x", "--image", tmp_path / "green.png", code=2)
    run(collection, "x", "-k", 0, code=2)
    run(collection, "x", "--where", "colour = 'red'", code=2)
    run(collection, "--image", tmp_path / "nothing.png", code=2)
    assert "vectors of other" in run(collection, "x", "--space", "other", code=5)
    run(tmp_path / "nowhere", "x", code=5)
    Collection.create(tmp_path / "empty").close()
    assert "none, as it is empty" in run(tmp_path / "empty", "x", code=5)
    (tmp_path / "text.png").write_text("no picture")
    assert run(collection, "--image", tmp_path / "text.png", "--json", code=3)["error"]["exit_code"] == 3


def test_the_shipped_encoders_meet_in_a_collection(samples, tmp_path):
    from palyno.app.collecting import crop
    from palyno.data.annotations.coco import read_coco
    from palyno.data.slides import open_slide
    from palyno.retrieval.collection.query import shipped_encoders

    pictures, words = list(shipped_encoders("image")), list(shipped_encoders("text"))
    if not pictures or pictures[0].encoder_id not in [one.encoder_id for one in words]:
        pytest.skip("the weights of the encoders are not installed")
    scene = next(image for image in read_coco(samples / "truth.json") if image.image == "composed.jpg")
    with open_slide(samples / "composed.jpg") as slide:
        crops = [crop(slide, box) for box in scene.boxes[:6].tolist()]
    grains = [Record(kind="grain", taxon=taxon, slide="composed.jpg") for taxon in scene.labels[:6]]
    with Collection.create(tmp_path / "c") as made:
        made.add(grains, pictures[0], items=crops)
        made.add([Record(kind="text", text="Betula has three pores.")], words[0])
        for i in (0, 5):
            assert made.search(crops[i], 1)[0].id == i + 1
    told = run(tmp_path / "c", "triporate grain with a smooth wall", "-k", 3, "--json")
    by_space = {space["encoder_id"]: space["hits"] for space in told["spaces"]}
    assert {hit["kind"] for hit in by_space[pictures[0].encoder_id]} == {"grain"}
    assert [hit["text"] for hit in by_space[words[0].encoder_id]] == ["Betula has three pores."]
