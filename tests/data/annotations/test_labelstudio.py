from __future__ import annotations

import dataclasses
import json

import pytest
from palyno.data.annotations.labelstudio import read_labelstudio, write_labelstudio
from palyno.errors import AnnotationError


@pytest.mark.parametrize("kind", ["truth", "detections"])
@pytest.mark.parametrize("prefix", ["", "/data/local-files/?d="])
def test_what_is_written_is_read_back(kind, prefix, request, same, tmp_path):
    images = request.getfixturevalue(kind)
    same(
        read_labelstudio(write_labelstudio(images, tmp_path / "a.json", prefix=prefix), prefix=prefix), images, px=0.01
    )


def test_detections_are_predictions_in_percent(detections, tmp_path):
    task, _ = json.loads(write_labelstudio(detections, tmp_path / "a.json", model_version="hieraedge-n").read_text())
    assert "annotations" not in task
    (prediction,) = task["predictions"]
    assert prediction["model_version"] == "hieraedge-n"
    assert 0 < prediction["score"] < 1
    region = prediction["result"][1]
    assert (region["type"], region["original_width"], region["original_height"]) == ("rectanglelabels", 2560, 1920)
    value = region["value"]
    assert value["x"] + value["width"] == pytest.approx(100, abs=1e-4)
    assert value["y"] + value["height"] == pytest.approx(100, abs=1e-4)


def test_boxes_drawn_by_a_person_are_annotations(truth, tmp_path):
    task, empty = json.loads(write_labelstudio(truth, tmp_path / "a.json").read_text())
    assert "predictions" not in task and len(task["annotations"][0]["result"]) == 40
    assert empty["annotations"] == [{"result": []}]


def region(label="Oryza", **value):
    value = {"x": 10, "y": 20, "width": 30, "height": 40, "rotation": 0, "rectanglelabels": [label]} | value
    return {"id": "r", "type": "rectanglelabels", "original_width": 200, "original_height": 100, "value": value}


def write(path, *results, **task):
    made = {"data": {"image": "a.png"}, "annotations": [{"result": list(results)}]} | task
    path.write_text(json.dumps([made]))
    return path


def test_the_last_annotation_wins_over_cancelled_ones_and_predictions(tmp_path):
    annotations = [
        {"result": [region("first")]},
        {"result": [region("corrected")]},
        {"result": [region("cancelled")], "was_cancelled": True},
    ]
    predictions = [{"result": [region("predicted") | {"score": 0.5}]}]
    path = write(tmp_path / "a.json", annotations=annotations, predictions=predictions)
    (image,) = read_labelstudio(path)
    assert (image.labels, image.confidence) == (("corrected",), None)
    assert image.boxes.tolist() == [[20, 20, 80, 60]]


def test_a_turned_rectangle_is_read_as_its_bounds(tmp_path):
    path = write(tmp_path / "a.json", region(x=50, y=20, width=10, height=40, rotation=90))
    # 20 x 40 px from (100, 20), turned a quarter clockwise about that corner.
    assert read_labelstudio(path)[0].boxes.tolist()[0] == pytest.approx([60, 20, 100, 40], abs=1e-4)


def test_other_regions_are_left_out_with_a_warning(tmp_path):
    path = write(tmp_path / "a.json", region(), {"type": "choices", "value": {"choices": ["good"]}})
    with pytest.warns(UserWarning, match=r"a\.json: left out 1 regions"):
        assert len(read_labelstudio(path)[0]) == 1


@pytest.mark.parametrize(
    ("bad", "place"),
    [
        (region(width=-1), r"\[0\]\.result\[1\]"),
        (region(x="left"), r"\[0\]\.result\[1\]"),
        (region(rectanglelabels=[]), r"\[0\]\.result\[1\]"),
        (region(rectanglelabels=["a", "b"]), r"\[0\]\.result\[1\]"),
        ("x", r"\[0\]: expected a task"),
    ],
)
def test_a_fault_is_named_with_its_place(bad, place, tmp_path):
    with pytest.raises(AnnotationError, match=rf"a\.json: {place}"):
        read_labelstudio(write(tmp_path / "a.json", region(), bad))


@pytest.mark.parametrize("text", ["{}", "[1]", '[{"data": {}}]', '[{"data": {"image": "a"}}]', "[\n\n"])
def test_another_document_is_refused(text, tmp_path):
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(AnnotationError, match=r"a\.json"):
        read_labelstudio(tmp_path / "a.json")


def test_a_slide_on_which_nothing_was_detected_is_not_told_to_be_annotated(results, truth, tmp_path):
    (empty,) = [result.to_annotations() for result in results if not len(result)]
    found = [result.to_annotations() for result in results]
    # As formats without a word on slides without boxes read it back.
    bare = dataclasses.replace(empty, confidence=None)
    for number, images in enumerate((found, [*found[:-1], bare])):
        tasks = json.loads(write_labelstudio(images, tmp_path / f"{number}.json").read_text())
        assert all("annotations" not in task and len(task["predictions"]) == 1 for task in tasks)
    tasks = json.loads(write_labelstudio(truth, tmp_path / "truth.json").read_text())
    assert all("predictions" not in task and len(task["annotations"]) == 1 for task in tasks)
