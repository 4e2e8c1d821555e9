from __future__ import annotations

import json
import shutil
import subprocess
import sys

import numpy as np
import pytest
from click.testing import CliRunner
from palyno.app import collecting
from palyno.app.cli import cli
from palyno.data.annotations.csv import read_grains
from palyno.data.slides import open_slide
from palyno.retrieval.collection import Collection, Record, query
from PIL import Image


class Thumbnail:
    """A picture is its colours on a grid of 3 x 3; a text counts its letters a to z."""

    def __init__(self, modality):
        self.modality, self.encoder_id, self.dim = modality, f"{modality} thumbnails", 27
        self.encoded = 0

    def encode(self, items):
        self.encoded += len(items)
        rows = [self._picture(item) if self.modality == "image" else self._text(item) for item in items]
        rows = np.array(rows, np.float32).reshape(-1, self.dim) + 1e-3
        return rows / np.linalg.norm(rows, axis=1, keepdims=True)

    def _picture(self, item):
        assert item.dtype == np.uint8 and item.ndim == 3
        return np.asarray(Image.fromarray(item).resize((3, 3), Image.Resampling.BOX), float).ravel() - 128

    def _text(self, item):
        return [item.lower().count(chr(97 + i)) for i in range(26)] + [0]


@pytest.fixture
def encoders(monkeypatch):
    """The encoders that ship, replaced."""
    made = {modality: Thumbnail(modality) for modality in ("text", "image")}
    monkeypatch.setattr(query, "shipped_encoders", lambda modality: iter([made[modality]]))
    return made


@pytest.fixture
def results(job, slides, tmp_path):
    """Results of `palyno detect` on three slides."""
    job(slides, tmp_path / "results", conf=0.1)
    return tmp_path / "results"


def run(*arguments, code=0):
    done = CliRunner().invoke(cli, [str(argument) for argument in arguments])
    assert done.exit_code == code, f"{done.exit_code}\n{done.output}"
    return json.loads(done.stdout) if "--json" in arguments else done.output


@pytest.fixture
def built(results, encoders, tmp_path):
    run("index", "build", tmp_path / "c", results)
    return tmp_path / "c"


def test_every_grain_is_found_again_by_its_own_picture(built, results, slides):
    rows = read_grains(results / "grains.csv")
    with Collection.open(built) as collection:
        assert len(collection) == len(rows) > 10
        for (i, record), row in zip(collection.records(), rows, strict=True):
            assert record.kind == "grain" and record.slide == row["slide"] and record.taxon == row["taxon"]
            assert record.box == pytest.approx([row[c] for c in ("x1", "y1", "x2", "y2")])
            assert record.confidence == row["confidence"] and record.extra["grain_id"] == row["grain_id"]
            assert record.extra["path"] == str(slides / row["slide"])
            with open_slide(slides / row["slide"]) as slide:
                cut = collecting.crop(slide, record.box)
            hit = collection.search(cut, 1)[0]
            assert hit.id == i and hit.score == pytest.approx(1)
        assert collection.count({"slide": "upper/a.png"}) == sum(row["slide"] == "upper/a.png" for row in rows)
        assert all(check.ok for check in collection.verify())


def test_a_crop_has_a_margin_and_stays_inside_the_slide(slides):
    with open_slide(slides / "a.png") as slide:
        whole = slide.read(0, 0, slide.width, slide.height)
        assert np.array_equal(collecting.crop(slide, (40, 30, 60, 50)), whole[27:53, 37:63])
        assert np.array_equal(collecting.crop(slide, (0, 0, 10, 10)), whole[:12, :12])
        assert np.array_equal(collecting.crop(slide, (110, 80, 120, 90)), whole[78:, 108:])
        with pytest.raises(Exception, match="expected a grain inside 120 x 90 pixels"):
            collecting.crop(slide, (300, 300, 320, 320))


def test_adding_again_encodes_nothing_and_changes_nothing(built, results, encoders):
    before, encoded = run("index", "info", built, "--json"), encoders["image"].encoded
    told = run("index", "add", built, results, "--json")
    assert (told["sources"][0]["added"], told["sources"][0]["known"]) == (0, told["records"])
    assert encoders["image"].encoded == encoded
    assert run("index", "info", built, "--json") == before
    run("index", "add", built, results, "--update")
    assert encoders["image"].encoded == 2 * encoded
    assert run("index", "info", built, "--json")["records"] == before["records"]


def test_slides_that_moved_or_changed_are_told_and_found_elsewhere(results, encoders, slides, tmp_path):
    rows = read_grains(results / "grains.csv")
    moved = tmp_path / "moved"
    moved.mkdir()
    shutil.move(slides / "a.png", moved / "a.png")
    Image.new("RGB", (120, 90), "white").save(slides / "b.png")
    told = run("index", "build", tmp_path / "c", results, "--json", code=3)
    source = told["sources"][0]
    assert {entry["what"] for entry in source["skipped"]} == {"a.png", "b.png"}
    reasons = " ".join(entry["reason"] for entry in source["skipped"])
    assert "no longer at" in reasons and "--slides" in reasons and "not the picture that was read" in reasons
    left = [row for row in rows if row["slide"] == "upper/a.png"]
    assert source["added"] == told["records"] == len(left)
    # Another picture of that name is not taken for it.
    shutil.copy(slides / "upper" / "a.png", moved / "b.png")
    told = run("index", "add", tmp_path / "c", results, "--slides", moved, "--json", code=3)
    assert told["records"] == sum(row["slide"] != "b.png" for row in rows)
    assert [entry["what"] for entry in told["sources"][0]["skipped"]] == ["b.png"]


def test_no_slide_at_all_is_nothing_done(results, encoders, slides, tmp_path):
    shutil.rmtree(slides)
    run("index", "build", tmp_path / "c", results, code=4)
    run("index", "build", tmp_path / "c", results, code=4)


def test_unfinished_and_damaged_results_are_refused(results, encoders, tmp_path):
    document = json.loads((results / "run.json").read_text())
    for change, said in (({"finished": False}, "broken off"), ({"slides": None}, "what palyno detect writes")):
        (results / "run.json").write_text(json.dumps(document | change))
        assert said in run("index", "build", tmp_path / "c", results, code=4)
    (results / "run.json").unlink()
    assert "expected run.json beside grains.csv" in run("index", "build", tmp_path / "c", results, code=3)
    assert "no results and no texts" in run("index", "build", tmp_path / "c", tmp_path / "slides", code=4)


def test_a_grain_outside_its_slide_is_left_out_and_the_others_kept(results, encoders, tmp_path):
    table = results / "grains.csv"
    header, first, *rest = table.read_text().splitlines()
    cells = first.split(",")
    cells[2:6] = ["500", "500", "520", "520"]
    table.write_text("\n".join([header, ",".join(cells), *rest, rest[0]]) + "\n")
    told = run("index", "build", tmp_path / "c", results, "--json", code=3)
    assert told["records"] == told["sources"][0]["added"] == len(rest)
    reasons = [entry["reason"] for entry in told["sources"][0]["skipped"]]
    assert "got the box (500.0, 500.0, 520.0, 520.0)" in reasons[0] and reasons[1] == "has the box of another grain"


def test_texts_of_every_kind_come_in_and_broken_entries_are_counted(encoders, tmp_path):
    folder = tmp_path / "texts"
    folder.mkdir()
    (folder / "notes.txt").write_text("Betula has three pores.\n\nPinus has two sacs.\n")
    (folder / "c.jsonl").write_text('{"_id": 1, "text": "Alnus has arcs.", "taxon": "Alnus"}\n{broken\n')
    (folder / "l.bib").write_text("@article{a, title={Key to pollen}, year=1991}\n@book{b, title={open\n")
    (folder / "r.ris").write_text("TY  - JOUR\nTI  - Honey\nER  -\n")
    (folder / "t.csv").write_text("text,depth\nPeat,12\n")
    (folder / "other.pdf").write_bytes(b"%PDF")
    told = run("index", "build", tmp_path / "c", folder, "--json", code=3)
    assert told["records"] == 6
    skipped = [entry["what"] for source in told["sources"] for entry in source["skipped"]]
    assert skipped == ["c.jsonl:2", "l.bib:2"]
    with Collection.open(tmp_path / "c") as collection:
        assert collection.count("kind = 'text' and taxon = 'Alnus'") == 1
        assert collection.count("extra.year = '1991' and slide = 'l.bib'") == 1
        assert collection.count("extra.depth = '12'") == 1
    assert run("index", "add", tmp_path / "c", folder / "notes.txt", "--json")["sources"][0]["known"] == 2


def test_a_file_that_cannot_be_read_at_all_does_not_stop_the_others(encoders, tmp_path):
    (tmp_path / "a.txt").write_bytes("Füße".encode("latin-1"))
    (tmp_path / "b.txt").write_text("Füße", encoding="utf-8")
    told = run("index", "build", tmp_path / "c", tmp_path / "a.txt", tmp_path / "b.txt", "--json", code=3)
    assert told["records"] == 1
    assert "save the file as UTF-8" in told["sources"][0]["skipped"][0]["reason"]


def test_a_path_that_is_no_source_is_named(encoders, tmp_path):
    (tmp_path / "a.pdf").write_bytes(b"%PDF")
    assert "got a .pdf file" in run("index", "build", tmp_path / "c", tmp_path / "a.pdf", code=3)
    assert not (tmp_path / "c").exists()


def test_without_an_encoder_it_is_said_what_is_missing(results, monkeypatch, tmp_path):
    monkeypatch.setattr(query, "shipped_encoders", lambda modality: iter(()))
    assert "no encoder of pictures of grains" in run("index", "build", tmp_path / "c", results, code=5)


def test_build_replaces_only_when_told_to(built, results, encoders, tmp_path):
    (tmp_path / "notes.txt").write_text("One text.\n")
    assert "has records" in run("index", "build", built, tmp_path / "notes.txt", code=2)
    run("index", "build", built, tmp_path / "notes.txt", "--overwrite")
    with Collection.open(built) as collection:
        assert [record.text for _, record in collection.records()] == ["One text."]


def test_a_build_that_brings_nothing_in_leaves_what_was_there(built, results, slides):
    before = run("index", "info", built, "--json")["records"]
    shutil.rmtree(slides)
    told = run("index", "build", built, results, "--overwrite", "--json", code=4)
    assert told["records"] == before == run("index", "info", built, "--json")["records"]


def test_one_picture_under_two_names_is_in_once(job, encoders, slides, tmp_path):
    shutil.copy(slides / "upper" / "a.png", slides / "twin.png")
    job(slides, tmp_path / "results", conf=0.1)
    rows = read_grains(tmp_path / "results" / "grains.csv")
    twice = sum(row["slide"] == "twin.png" for row in rows)
    told = run("index", "build", tmp_path / "c", tmp_path / "results", "--json")
    (source,) = told["sources"]
    assert (told["records"], source["added"], source["known"]) == (len(rows) - twice, len(rows) - twice, twice)
    told = run("index", "add", tmp_path / "c", tmp_path / "results", "--update", "--json")
    (source,) = told["sources"]
    assert (told["records"], source["added"], source["known"]) == (len(rows) - twice, 0, len(rows))


def test_grains_that_were_encoded_wait_for_another_writer(built, encoders, tmp_path):
    (tmp_path / "notes.txt").write_text("One text.\n")
    code = "import sys, time; from pathlib import Path; from palyno.data.lock import locked\n"
    code += "with locked(Path(sys.argv[1])): print(flush=True); time.sleep(1)"
    with subprocess.Popen([sys.executable, "-c", code, built / ".palyno" / "lock"], stdout=subprocess.PIPE) as other:
        other.stdout.readline()
        assert run("index", "add", built, tmp_path / "notes.txt", "--json")["sources"][0]["added"] == 1


def test_records_are_removed_by_id_or_filter(built):
    total = run("index", "info", built, "--json")["records"]
    assert run("index", "remove", built, "--id", 1, "--id", 2, "--json") == {"removed": 2, "records": total - 2}
    told = run("index", "remove", built, "--where", "slide = 'b.png'", "--json")
    assert told["removed"] > 0 and told["records"] == total - 2 - told["removed"]
    for arguments in ((), ("--id", 3, "--where", "id = 3"), ("--id", 1), ("--where", "nonsense")):
        run("index", "remove", built, *arguments, code=2)
    assert run("index", "info", built, "--json")["records"] == told["records"]


def test_housekeeping(built, tmp_path):
    run("index", "remove", built, "--where", "id > 5")
    assert "rows are no longer used; palyno index compact" in run("index", "info", built)
    told = run("index", "compact", built, "--json")
    assert told["bytes"] < told["bytes_before"]
    assert "no longer used" not in run("index", "info", built)
    told = run("index", "rebuild", built, "--exact-below", 2, "--json")
    assert told["spaces"][0]["index"].startswith("IVF")
    assert "searched by IVF" in run("index", "info", built)
    told = run("index", "snapshot", built, tmp_path / "s", "--json")
    assert told["records"] == 5 == run("index", "info", tmp_path / "s", "--json")["records"]
    run("index", "snapshot", built, tmp_path / "s", code=2)
    assert "0 pairs" in run("index", "duplicates", built, "--threshold", 1)
    pairs = run("index", "duplicates", built, "--threshold", 0.000001, "--json")["pairs"]
    assert [pair["score"] for pair in pairs] == sorted((pair["score"] for pair in pairs), reverse=True)
    run("index", "duplicates", built, "--threshold", 0, code=2)


def test_duplicates_are_those_of_grains_where_there_are_texts_too(built, tmp_path):
    (tmp_path / "t.txt").write_text("Betula.\n\nBetula, too.\n")
    grains = run("index", "info", built, "--json")["kinds"]["grain"]
    run("index", "add", built, tmp_path / "t.txt")
    told = run("index", "duplicates", built, "--threshold", 0.9, "--json")
    assert (told["encoder_id"], told["kind"], told["compared"]) == ("image thumbnails", "grain", grains)
    among = f" among {grains} grains in image thumbnails"
    assert f"0 pairs{among}\n" in run("index", "duplicates", built, "--threshold", 1)
    texts = run("index", "duplicates", built, "--threshold", 0.5, "--where", "kind = 'text'")
    assert "(text, t.txt)" in texts and "\n1 pair among 2 texts in text thumbnails\n" in texts
    assert "nothing that passes has a vector" in run("index", "duplicates", built, "--where", "taxon = 'Pinus'")
    with Collection.open(built) as collection:
        collection.add([Record(kind="grain", slide="later.png")], None)
    assert "\n1 grain without a vector there not compared\n" in run("index", "duplicates", built)


def test_damage_is_refused_by_name_with_code_5(built, tmp_path):
    files = run("index", "verify", built, "--json")["files"]
    assert len(files) == 3 and all(entry["ok"] for entry in files)
    for entry in files:
        file = built / entry["file"]
        sound = file.read_bytes()
        file.write_bytes(sound[:-2] + bytes([sound[-2] ^ 4]) + sound[-1:])
        assert f"REFUSED  {file.name}" in run("index", "verify", built, code=5)
        assert file.name in run("index", "info", built, code=5)
        file.write_bytes(sound)
    run("index", "info", tmp_path / "nowhere", code=5)


def test_a_run_that_was_killed_between_commits_goes_on(results, encoders, monkeypatch, tmp_path):
    monkeypatch.setattr(collecting, "_ENCODED", 2)
    monkeypatch.setattr(collecting, "_COMMITTED", 4)
    whole = Thumbnail.encode

    def tires(self, items):
        if self.encoded >= 10:
            raise KeyboardInterrupt
        return whole(self, items)

    monkeypatch.setattr(Thumbnail, "encode", tires)
    run("index", "build", tmp_path / "c", results, code=130)
    with Collection.open(tmp_path / "c") as collection:
        kept = len(collection)
    assert 4 <= kept <= 10
    monkeypatch.setattr(Thumbnail, "encode", whole)
    told = run("index", "add", tmp_path / "c", results, "--json")
    assert told["sources"][0]["known"] == kept
    assert told["records"] == len(read_grains(results / "grains.csv"))


def test_texts_that_no_encoder_reads_come_in_and_are_found_by_their_words(encoders, tmp_path, monkeypatch):
    monkeypatch.setattr(Thumbnail, "readable", lambda self, items: [item.isascii() for item in items], raising=False)
    (tmp_path / "t.jsonl").write_text(
        '{"_id": 1, "text": "松属花粉"}\n{"_id": 2, "text": "Pinus"}\n{"_id": 3, "text": "松"}\n'
    )
    told = run("index", "build", tmp_path / "c", tmp_path / "t.jsonl", "--json")
    assert (told["records"], told["sources"][0]["added"], told["sources"][0]["by_words"]) == (3, 3, 2)
    info = run("index", "info", tmp_path / "c", "--json")
    assert (info["texts_by_words"], [one["vectors"] for one in info["spaces"]]) == (3, [1])
    assert "those of 3 texts, searched by BM25" in run("index", "info", tmp_path / "c")
    assert "2 of them to be found by words alone" in run("index", "build", tmp_path / "d", tmp_path / "t.jsonl")
    assert [hit["id"] for hit in run("search", tmp_path / "c", "松属", "--json")["lists"][0]["hits"]] == [1, 3]
    # What is no longer said is no longer found, by words or by meaning.
    (tmp_path / "t.jsonl").write_text('{"_id": 1, "text": "Betula"}\n{"_id": 2, "text": "桦"}\n')
    run("index", "add", tmp_path / "c", tmp_path / "t.jsonl", "--update")
    found = {
        asked: run("search", tmp_path / "c", asked, "--json")["lists"][0]["hits"] for asked in ("Pinus", "桦", "松")
    }
    assert {asked: [hit["id"] for hit in hits] for asked, hits in found.items()} == {"Pinus": [1], "桦": [2], "松": [3]}
    assert [one["vectors"] for one in run("index", "info", tmp_path / "c", "--json")["spaces"]] == [1]


def test_only_texts_that_describe_are_encoded_for_pictures(tmp_path, monkeypatch):
    plain, phrases = Thumbnail("text"), Thumbnail("text")
    phrases.encoder_id, phrases.describes = "image thumbnails", lambda items: ["pore" in item for item in items]
    monkeypatch.setattr(
        query,
        "shipped_encoders",
        lambda modality: iter([plain, phrases] if modality == "text" else [Thumbnail("image")]),
    )
    (tmp_path / "t.txt").write_text("Betula has pores.\n\nOn honey.\n")
    run("index", "build", tmp_path / "c", tmp_path / "t.txt")
    spaces = run("index", "info", tmp_path / "c", "--json")["spaces"]
    assert {one["encoder_id"]: one["vectors"] for one in spaces} == {"text thumbnails": 2, "image thumbnails": 1}
    (one,) = run("search", tmp_path / "c", "honey", "--json")["lists"]
    assert (one["in"], one["encoder_id"]) == ("texts", "text thumbnails")
    with Collection.open(tmp_path / "c") as collection:
        collection.add([Record(kind="grain")], Thumbnail("image"), items=[np.zeros((9, 9, 3), np.uint8)])
    assert "image thumbnails: 2 vectors of texts and images, 27 numbers" in run("index", "info", tmp_path / "c")
    Image.new("RGB", (9, 9), "red").save(tmp_path / "red.png")
    (one,) = run("search", tmp_path / "c", "--image", tmp_path / "red.png", "--in", "texts", "--json")["lists"]
    assert [hit["id"] for hit in one["hits"]] == [1]
