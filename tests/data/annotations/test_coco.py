from __future__ import annotations

import json

import numpy as np
import pytest
from palyno.data.annotations.coco import read_coco, write_coco
from palyno.data.annotations.yolo import read_yolo, write_yolo
from palyno.errors import AnnotationError, UsageError


@pytest.mark.parametrize("kind", ["truth", "detections"])
def test_what_is_written_is_read_back(kind, request, same, tmp_path):
    images = request.getfixturevalue(kind)
    same(read_coco(write_coco(images, tmp_path / "a.json")), images, px=0.02)


def test_pycocotools_reads_the_same_boxes(detections, tmp_path):
    from pycocotools.coco import COCO

    coco = COCO(write_coco(detections, tmp_path / "a.json"))
    for image_id, image in enumerate(detections, 1):
        assert coco.imgs[image_id]["file_name"] == image.image
        found = coco.loadAnns(coco.getAnnIds(image_id))
        assert [coco.cats[a["category_id"]]["name"] for a in found] == list(image.labels)
        boxes = np.array([a["bbox"] for a in found])
        boxes[:, 2:] += boxes[:, :2]
        np.testing.assert_allclose(boxes, image.boxes, atol=0.02)
        np.testing.assert_allclose([a["score"] for a in found], image.confidence, atol=1e-4)


def test_pycocotools_scores_a_file_against_itself_as_perfect(truth, detections, tmp_path):
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    coco = COCO(write_coco(truth, tmp_path / "truth.json"))
    found = json.loads(write_coco(detections[:1], tmp_path / "found.json").read_text())["annotations"]
    evaluation = COCOeval(coco, coco.loadRes(found), "bbox")
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    assert evaluation.stats[0] == pytest.approx(1)


def test_ids_start_at_1_and_name_their_image(truth, tmp_path):
    document = json.loads(write_coco(truth, tmp_path / "a.json").read_text())
    assert [image["id"] for image in document["images"]] == [1, 2]
    assert [a["id"] for a in document["annotations"]] == list(range(1, 41))
    assert [c["id"] for c in document["categories"]] == [1, 2, 3, 4]
    assert all(a["iscrowd"] == 0 and a["area"] > 0 and a["image_id"] == 1 for a in document["annotations"])


def test_boxes_drawn_by_a_person_come_from_no_model(truth, tmp_path):
    document = json.loads(write_coco(truth, tmp_path / "a.json").read_text())
    assert document["info"] == {"description": "Pollen grains"}


def test_categories_keep_the_order_given(truth, tmp_path):
    names = ["unknown", "Zea mays", "Poaceae >40 µm", "Isoëtes", "Oryza"]
    document = json.loads(write_coco(truth, tmp_path / "a.json", categories=names).read_text())
    assert [c["name"] for c in document["categories"]] == names
    with pytest.raises(UsageError, match="not one of the categories: Oryza"):
        write_coco(truth, tmp_path / "b.json", categories=["Oryza"])


def test_two_images_of_one_name_are_refused(truth, tmp_path):
    with pytest.raises(UsageError, match="different name"):
        write_coco([truth[0], truth[0]], tmp_path / "a.json")


def test_crowd_regions_are_left_out_with_a_warning(truth, tmp_path):
    path = write_coco(truth, tmp_path / "a.json")
    document = json.loads(path.read_text())
    document["annotations"][0] |= {"iscrowd": 1, "segmentation": {"counts": [0, 5], "size": [1, 5]}}
    path.write_text(json.dumps(document))
    with pytest.warns(UserWarning, match="left out 1 crowd"):
        assert len(read_coco(path)[0]) == 39


GOOD = {
    "images": [{"id": 7, "file_name": "a.png", "width": 10, "height": 10}],
    "categories": [{"id": 3, "name": "Oryza"}],
    "annotations": [{"id": 1, "image_id": 7, "category_id": 3, "bbox": [1, 2, 3, 4]}],
}


def test_ids_need_not_start_at_1_when_reading(tmp_path):
    (tmp_path / "a.json").write_text(json.dumps(GOOD))
    (image,) = read_coco(tmp_path / "a.json")
    assert image.boxes.tolist() == [[1, 2, 4, 6]] and image.labels == ("Oryza",)


def test_a_box_that_sticks_out_is_cut_so_that_its_labels_can_be_trained_on(tmp_path):
    """COCO boxes, and turned rectangles, often do; as shares they would be refused."""
    boxes = [[-2, 2, 5, 4], [7, 7, 6, 2.5], [0, 0, 10, 10]]
    annotations = [{**GOOD["annotations"][0], "id": i, "bbox": box} for i, box in enumerate(boxes)]
    (tmp_path / "a.json").write_text(json.dumps({**GOOD, "annotations": annotations}))
    images = read_coco(tmp_path / "a.json")
    assert images[0].boxes.tolist() == [[0, 2, 3, 6], [7, 7, 10, 9.5], [0, 0, 10, 10]]
    write_yolo(images, tmp_path / "yolo")
    np.testing.assert_allclose(read_yolo(tmp_path / "yolo")[0].boxes, images[0].boxes, atol=1e-4)


def test_a_box_beside_the_picture_tells_of_a_picture_of_another_size(tmp_path):
    annotations = [{**GOOD["annotations"][0], "bbox": [12, 2, 3, 4]}]
    (tmp_path / "a.json").write_text(json.dumps({**GOOD, "annotations": annotations}))
    with pytest.raises(
        AnnotationError, match=r"a\.png: expected boxes on its 10 x 10 pixels, got one from 12, 2 to 15, 6"
    ):
        read_coco(tmp_path / "a.json")


@pytest.mark.parametrize(
    ("change", "place"),
    [
        ({"annotations": [{**GOOD["annotations"][0], "bbox": [1, 2, 3]}]}, r"annotations\[0\]"),
        ({"annotations": [{**GOOD["annotations"][0], "bbox": [1, 2, -3, 4]}]}, r"annotations\[0\]"),
        ({"annotations": [{**GOOD["annotations"][0], "bbox": [1, 2, float("nan"), 4]}]}, r"annotations\[0\]"),
        ({"annotations": [{**GOOD["annotations"][0], "bbox": [1, 2, 1e300, 4]}]}, r"annotations\[0\]"),
        ({"annotations": [{**GOOD["annotations"][0], "category_id": 4}]}, r"annotations\[0\].*4 is missing"),
        ({"annotations": [{**GOOD["annotations"][0], "image_id": [7]}]}, r"annotations\[0\]"),
        ({"annotations": [{**GOOD["annotations"][0], "score": 7}]}, "0 to 1"),
        ({"annotations": ["x"]}, r"annotations\[0\]"),
        ({"annotations": None}, "images, annotations and categories"),
        ({"images": [{"id": 7, "file_name": "a.png", "width": 0, "height": 10}]}, r"images\[0\]"),
        ({"images": GOOD["images"] * 2}, r"images\[1\]"),
        ({"categories": [{"id": 3}]}, r"categories\[0\]"),
    ],
)
def test_a_fault_is_named_with_its_place(change, place, tmp_path):
    path = tmp_path / "a.json"
    path.write_text(json.dumps(GOOD | change))
    with pytest.raises(AnnotationError, match=rf"(?s)a\.json.*{place}"):
        read_coco(path)


@pytest.mark.parametrize("text", ["", "[]", "1", '{"images": []}', "[" * 100_000])
def test_another_document_is_refused(text, tmp_path):
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(AnnotationError, match=r"a\.json"):
        read_coco(tmp_path / "a.json")


def test_broken_json_is_named_with_its_line(tmp_path):
    (tmp_path / "a.json").write_text('{\n"images": [],\n"categories" []}')
    with pytest.raises(AnnotationError, match=r"a\.json:3: expected JSON"):
        read_coco(tmp_path / "a.json")
