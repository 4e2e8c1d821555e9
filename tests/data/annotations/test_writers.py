from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace

import pytest
from palyno.data.annotations.coco import read_coco
from palyno.data.annotations.geojson import read_geojson
from palyno.data.annotations.labelstudio import read_labelstudio
from palyno.data.annotations.parquet import read_parquet
from palyno.data.annotations.writers import FORMATS, slide_stems, write_results
from palyno.data.annotations.yolo import read_yolo
from palyno.data.palette import colours
from palyno.errors import UsageError


def tree(folder):
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_every_format_lies_where_it_is_promised(results, tmp_path):
    stems = slide_stems(result.slide for result in results)
    written = write_results(results, tmp_path, FORMATS)
    names = [path.relative_to(tmp_path).as_posix() for path in written]
    assert names == [
        "grains.csv",
        "counts.csv",
        "grains.parquet",
        "coco.json",
        *(f"geojson/{stem}.geojson" for stem in stems.values()),
        "labelstudio.json",
        *(f"yolo/labels/{stem}.txt" for stem in stems.values()),
        "yolo/data.yaml",
    ]
    assert set(tree(tmp_path)) == set(names)


def test_all_formats_tell_the_same_grains(results, same, tmp_path):
    write_results(iter(results), tmp_path, FORMATS)
    expected = [result.to_annotations() for result in results]
    same(read_parquet(tmp_path / "grains.parquet"), expected, px=0)
    same(read_coco(tmp_path / "coco.json"), expected, px=0.02)
    same(read_labelstudio(tmp_path / "labelstudio.json"), expected, px=0.01)
    same(read_yolo(tmp_path / "yolo"), expected, px=0.01, ids=False, confidence=False)
    stems = slide_stems(result.slide for result in results)
    same([read_geojson(tmp_path / "geojson" / f"{stem}.geojson") for stem in stems.values()], expected, px=0.01)


def test_a_taxon_has_one_colour_on_all_slides(results, tmp_path):
    write_results(results, tmp_path, ("geojson",))
    palette = colours((result.taxa, result.confidence) for result in results)
    seen = set()
    for path in (tmp_path / "geojson").iterdir():
        for feature in json.loads(path.read_text(encoding="utf-8"))["features"]:
            told = feature["properties"]["classification"]
            seen.add(told["name"])
            assert tuple(told["color"]) == palette[told["name"]]
    assert seen == set(palette)


def test_coco_says_where_the_grains_come_from(results, tmp_path):
    other = replace(results[1].provenance, model="other", sha256="cd" * 32)
    write_results([results[0], replace(results[1], provenance=other), results[2]], tmp_path, ("coco",))
    info = json.loads((tmp_path / "coco.json").read_text(encoding="utf-8"))["info"]
    assert [(one["model"], one["sha256"]) for one in info["provenance"]] == [
        ("hieraedge-n", "ab" * 32),
        ("other", "cd" * 32),
    ]
    assert info["provenance"][0]["arguments"] == {"conf": 0.25, "imgsz": 640}


def test_formats_say_of_each_slide_where_its_grains_come_from_in_the_same_words(results, tmp_path):
    import yaml
    from pyarrow import parquet

    first = replace(results[0].provenance, runtime="onnxruntime 1.32.0", device="cpu")
    second = replace(first, arguments={"conf": 0.25, "imgsz": 960, "overlap_px": 304})
    made = [first, second, first]
    results = [replace(result, provenance=one) for result, one in zip(results, made, strict=True)]
    write_results(results, tmp_path, FORMATS)
    coco = json.loads((tmp_path / "coco.json").read_text(encoding="utf-8"))["info"]["provenance"]
    assert [source["slides"] for source in coco] == [["site A/slide 1.tif", "empty.tif"], ["=SUM(A1).png"]]
    table = json.loads(parquet.read_metadata(tmp_path / "grains.parquet").metadata[b"palyno"])
    assert table["provenance"] == coco
    assert yaml.safe_load((tmp_path / "yolo" / "data.yaml").read_text(encoding="utf-8"))["provenance"] == coco
    stems = slide_stems(result.slide for result in results)
    for result, one in zip(results, made, strict=True):
        told = json.loads((tmp_path / "geojson" / f"{stems[result.slide]}.geojson").read_text(encoding="utf-8"))
        (source,) = [source for source in coco if result.slide in source["slides"]]
        assert told["provenance"] == {name: value for name, value in source.items() if name != "slides"}
        assert (source["runtime"], source["device"], source["sha256"]) == (one.runtime, one.device, one.sha256)
        assert source["arguments"]["imgsz"] == one.arguments["imgsz"]
    for task in json.loads((tmp_path / "labelstudio.json").read_text(encoding="utf-8")):
        assert task["predictions"][0]["model_version"] == "hieraedge-n abababab"


def test_the_same_results_are_the_same_bytes(results, tmp_path):
    write_results(results, tmp_path / "a", FORMATS)
    write_results(iter(results), tmp_path / "b", tuple(reversed(FORMATS)))
    assert tree(tmp_path / "a") == tree(tmp_path / "b")


def test_stems_may_be_given(results, tmp_path):
    stems = {result.slide: f"s{i}" for i, result in enumerate(results)}
    write_results(results, tmp_path, ("geojson", "yolo"), stems=stems)
    assert {f"geojson/s{i}.geojson" for i in range(3)} | {f"yolo/labels/s{i}.txt" for i in range(3)} < set(
        tree(tmp_path)
    )


def test_formats_are_a_list_and_not_the_letters_of_a_name(results, tmp_path):
    with pytest.raises(UsageError, match=r"expected a list, such as \['csv', 'coco'\], got 'csv,coco'"):
        write_results(results, tmp_path, "csv,coco")
    with pytest.raises(UsageError, match=r"such as \['csv'\]"):
        results[0].save(tmp_path, formats="csv")
    assert not list(tmp_path.iterdir())


def test_an_unknown_format_lists_those_there_are(results, tmp_path):
    with pytest.raises(UsageError, match=r"'tilia': expected any of csv, parquet, coco, geojson, labelstudio, yolo"):
        write_results(results, tmp_path / "out", ("csv", "tilia"))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", FORMATS)
def test_nothing_is_replaced_without_overwrite(name, results, tmp_path):
    write_results(results, tmp_path, (name,))
    before = tree(tmp_path)
    with pytest.raises(UsageError, match="--overwrite"):
        write_results(results[:1], tmp_path, FORMATS)
    assert tree(tmp_path) == before
    write_results([replace(results[0], slide="other.tif")], tmp_path, (name,), overwrite=True)
    assert tree(tmp_path) != before


def test_what_a_killed_run_left_is_no_result(results, tmp_path):
    (tmp_path / "geojson").mkdir()
    (tmp_path / "geojson" / ".palyno-0.tmp").write_text("half")
    assert len(write_results(results, tmp_path, ("geojson",))) == 3


def test_a_failing_slide_leaves_nothing(results, tmp_path):
    def stream():
        yield from results[:2]
        raise RuntimeError

    with pytest.raises(RuntimeError):
        write_results(stream(), tmp_path, FORMATS)
    assert tree(tmp_path) == {}


def test_two_slides_of_one_name_are_refused(results, tmp_path):
    with pytest.raises(UsageError, match="there twice"):
        write_results([results[0], results[0]], tmp_path, ("csv",))
    assert tree(tmp_path) == {}


def test_no_slides_give_empty_tables(tmp_path):
    write_results([], tmp_path, FORMATS)
    assert (tmp_path / "grains.csv").read_text().count("\n") == 1
    assert read_parquet(tmp_path / "grains.parquet") == read_coco(tmp_path / "coco.json") == []


def test_writers_need_neither_the_detector_nor_heavy_libraries():
    code = (
        "import sys, palyno.data.annotations.writers\n"
        "heavy = {'torch', 'pandas', 'pyarrow', 'cv2', 'yaml', 'PIL', 'palyno.vision.results'} & set(sys.modules)\n"
        "sys.exit(', '.join(sorted(heavy)) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
