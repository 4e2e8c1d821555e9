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


def lists(told):
    return {one["in"]: one["hits"] for one in told["lists"]}


def ids(told):
    return {name: [hit["id"] for hit in hits] for name, hits in lists(told).items()}


def test_grains_and_texts_have_lists_of_their_own(collection):
    told = run(collection, "bbb pores", "--json")
    # The texts are in a space of their own, too, which is theirs.
    assert [(one["in"], one["encoder_id"]) for one in told["lists"]] == [("grains", "shared"), ("texts", "words only")]
    assert ids(told) == {"grains": [2, 1, 3], "texts": [5, 4]}
    first, second = lists(told)["texts"]
    assert (first["score"], first["words"]["rank"], first["vectors"]["rank"]) == (1, 1, 1)
    assert "words" not in second and second["vectors"]["rank"] == 2
    assert second["score"] == pytest.approx(0.5 / 62 / (1.5 / 61), abs=1e-6)
    assert first["reasons"] == ["says porate (pores)", "1st by words, 1st by meaning", told["lists"][1]["how"]]
    grain = lists(told)["grains"][0]
    assert grain["taxon"] == "Betula" and grain["box"] == [1, 2, 31, 42] and "vectors" not in grain
    assert (told["words"], told["k"], told["where"], told["not_searched"]) == ("bbb pores", 10, None, {})


def test_in_a_narrow_window_the_place_stands_below_what_is_there(collection, monkeypatch):
    for width, beside in (("80", False), ("120", True)):
        monkeypatch.setenv("COLUMNS", width)
        told = run(collection, "bbb", "--in", "grains", "-k", 1).splitlines()
        row = next(line for line in told if "Betula" in line)
        assert ("s.tif" in row, "where" in told[2]) == (beside, beside)
        assert any("s.tif" in line for line in told) and any("25.0 x 20.0 µm" in line for line in told)
        assert max(map(len, told[:-2])) <= int(width)


def test_only_what_is_asked_for_is_searched(collection, tmp_path):
    assert ids(run(collection, "bbb", "--in", "texts", "--json")) == {"texts": [5, 4]}
    assert ids(run(collection, "bbb", "--in", "grains", "-k", 1, "--json")) == {"grains": [2]}
    assert ids(run(collection, "pores", "--by", "words", "--json")) == {"texts": [5]}
    by_meaning = run(collection, "bbb", "--by", "vectors", "--json")
    assert ids(by_meaning) == {"grains": [2, 1, 3], "texts": [5, 4]}
    assert lists(by_meaning)["texts"][0]["score"] == lists(by_meaning)["texts"][0]["vectors"]["score"]
    assert ids(run(collection, "bbb", "--where", "id < 3", "--json")) == {"grains": [2, 1]}
    assert ids(run(collection, "bbb", "--space", "words only", "--json")) == {"texts": [5, 4]}
    assert ids(run(collection, "bbb", "--where", "taxon = 'Pinus'", "--json")) == {}
    assert "no record passes the filter" in run(collection, "bbb", "--where", "taxon = 'Pinus'")


def test_an_answer_of_nothing_says_why(collection, tmp_path):
    assert "nothing found in texts: none has a word of the query" in run(collection, "oaks", "--by", "words")
    sizes = run(collection, "--image", tmp_path / "green.png", "--where", "width_um > 900")
    assert "nothing found in grains: none passes the filter; what is not known" in sizes


def test_a_picture_finds_grains_and_where_asked_descriptions(collection, tmp_path):
    told = run(collection, "--image", tmp_path / "green.png", "-k", 1, "--json")
    assert ids(told) == {"grains": [2]} and told["lists"][0]["encoder_id"] == "shared"
    assert ids(run(collection, "--image", tmp_path / "green.png", "--in", "texts", "--json")) == {"texts": [5, 4]}


def test_filters_and_spaces_narrow_the_search(collection):
    arguments = (collection, "aaa", "--space", "shared", "--json")
    where = "kind = 'grain' and width_um < 30"
    assert ids(run(*arguments, "--where", where, "-k", 2)) == {"grains": [2, 3]}
    assert [one["encoder_id"] for one in run(*arguments)["lists"]] == ["shared", "shared"]
    assert run(*arguments, "--exact") == run(*arguments)


def test_a_kind_that_cannot_be_searched_does_not_hide_the_other(collection, monkeypatch):
    alone = Letters("text", "words only")
    monkeypatch.setattr(query, "shipped_encoders", lambda modality: iter([alone] if modality == "text" else []))
    told = run(collection, "bbb", "--json")
    assert ids(told) == {"texts": [5, 4]}
    assert "expected grains with vectors that text can be compared with" in told["not_searched"]["grains"]
    assert "grains were not searched: expected grains with vectors" in run(collection, "bbb")
    assert "expected grains with vectors" in run(collection, "bbb", "--in", "grains", code=5)


def test_the_tables_show_scores_places_and_reasons(collection):
    shown = run(collection, "bbb pores")
    for word in ("Grains", "Texts", "score", "1.000", "Betula", "s.tif", "at 1, 2", "25.0 x 20.0 µm", "[bold]", "…"):
        assert word in shown
    for word in ("BM25", "cosine", "says porate", "1st by words", "2nd by meaning", "-   "):
        assert word in shown
    assert "near in shared: all 3 compared" in shown and "Salix × cinerea" in shown
    assert (
        "read as porate (pores); by words: BM25 over 2 texts; by meaning: near in words only: all 2 compared" in shown
    )
    assert "BM25 " not in run(collection, "bbb pores", "--by", "vectors")


def test_what_cannot_be_meant_is_refused_with_its_code(collection, tmp_path):
    run(collection, code=2)
    run(collection, "x", "--image", tmp_path / "green.png", code=2)
    run(collection, "x", "-k", 0, code=2)
    run(collection, "x", "--where", "colour = 'red'", code=2)
    run(collection, "--image", tmp_path / "nothing.png", code=2)
    run(collection, "x", "--in", "slides", code=2)
    run(collection, "x", "--by", "words", "--in", "grains", code=2)
    run(collection, "--image", tmp_path / "green.png", "--by", "words", code=2)
    assert "without a letter or digit" in run(collection, " ", code=2)
    assert "at most 10,000 characters" in run(collection, "x" * 10_001, code=2)
    assert "spaces shared, words only, got other" in run(collection, "x", "--space", "other", code=5)
    run(tmp_path / "nowhere", "x", code=5)
    Collection.create(tmp_path / "empty").close()
    assert "palyno index add puts some in" in run(tmp_path / "empty", "x", code=4)
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
    assert [(one["in"], one["encoder_id"]) for one in told["lists"]] == [
        ("grains", pictures[0].encoder_id),
        ("texts", words[0].encoder_id),
    ]
    assert {hit["kind"] for hit in lists(told)["grains"]} == {"grain"}
    assert [hit["text"] for hit in lists(told)["texts"]] == ["Betula has three pores."]


def test_a_grain_finds_the_descriptions_that_say_what_it_looks_like(samples, tmp_path):
    from palyno.app.collecting import collect
    from palyno.data.annotations.coco import read_coco
    from palyno.data.slides import open_slide
    from palyno.retrieval.collection.query import shipped_encoders
    from palyno.retrieval.matching.words import WordsEncoder

    pictures = list(shipped_encoders("image"))
    if not pictures or pictures[0].encoder_id not in [one.encoder_id for one in shipped_encoders("text")]:
        pytest.skip("the weights of the encoders are not installed")
    said = ["Tricolporate, reticulate, prolate.", "Spherical, periporate, with long spines.", "On honey and its trade."]
    (tmp_path / "texts.txt").write_text("\n\n".join(said))
    scene = next(image for image in read_coco(samples / "truth.json") if image.image == "composed.jpg")
    x1, y1, x2, y2 = map(int, scene.boxes[list(scene.labels).index("Sida cerradoensis")])
    with open_slide(samples / "composed.jpg") as slide:
        grain = slide.read(x1, y1, x2 - x1, y2 - y1)
    Image.fromarray(grain).save(tmp_path / "sida.png")
    with Collection.create(tmp_path / "c") as made:
        collect(made, [tmp_path / "texts.txt"])
        # What says nothing of a form is no description.
        assert made.info()["spaces"][1]["vectors"] == 2
    # Words go to the texts' own space also where there are no pictures yet.
    found = run(tmp_path / "c", "spiny", "--json")["lists"]
    assert [(one["in"], one["encoder_id"].split("/")[0]) for one in found] == [("texts", "all-MiniLM-L6-v2")]
    told = run(tmp_path / "c", "--image", tmp_path / "sida.png", "--in", "texts", "--json")
    first = lists(told)["texts"][0]
    assert first["text"] == said[1]
    looks = WordsEncoder().looks(pictures[0].encode([grain]))[0]
    assert first["reasons"][0] == f"says {', '.join(term for term in looks if term != 'oblate')}, as the grain looks"
    assert told["lists"][0]["how"].startswith(f"the picture looks {', '.join(looks)}; near in")
    assert told["lists"][0]["how"].endswith("what grains look to have is a guess by the taxa that were trained on")
    assert (told["lists"][0]["guessed"], found[0]["guessed"]) == (True, False)
