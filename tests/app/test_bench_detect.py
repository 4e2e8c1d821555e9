"""The comparison: matches by hand, and each method in a process of its own on a real field."""

import numpy as np
import pytest
from palyno import InputError, NothingToDoError, PalynoError, UsageError
from palyno.app import bench_detect as bench
from palyno.app.bench_detect import METHODS, bench_detect, match
from palyno.data.annotations import LabelledImage
from palyno.data.annotations.yolo import label_lines
from PIL import Image

TRUTH = np.array([[0, 0, 10, 10], [20, 0, 30, 10]])


@pytest.mark.parametrize(
    ("boxes", "scores", "expected"),
    [
        ([[0, 0, 10, 10], [20, 0, 30, 10]], [0.9, 0.8], 2),
        ([[0, 0, 10, 10], [0, 0, 10, 9]], [0.9, 0.8], 1),  # a grain found twice is found once
        ([[0, 0, 10, 5]], [0.9], 1),  # exactly half
        ([[0, 0, 10, 4.9]], [0.9], 0),
        ([[0, 0, 30, 10]], [0.9], 0),  # one box over two grains
        ([], [], 0),
    ],
)
def test_matches_by_hand(boxes, scores, expected):
    assert match(np.array(boxes).reshape(-1, 4), np.array(scores), TRUTH) == expected
    assert match(np.array(boxes).reshape(-1, 4), np.array(scores), np.empty((0, 4))) == 0


@pytest.fixture
def labelled(tmp_path):
    """Two pictures of 100 pixels with the two grains of `TRUTH`, and their label files."""
    for name in ("a", "b"):
        Image.new("RGB", (100, 100), "white").save(tmp_path / f"{name}.png")
        image = LabelledImage(name, 100, 100, TRUTH, ("grain", "grain"))
        (tmp_path / f"{name}.txt").write_text(label_lines(image, ["grain"]))
    return [tmp_path / "a.png", tmp_path / "b.png"], tmp_path


def test_rows_sum_up_and_errors_of_count_do_not_cancel(labelled, monkeypatch):
    images, labels = labelled
    one, three = [[0, 0, 10, 10]], [[0, 0, 10, 10], [20, 0, 30, 10], [50, 50, 60, 60]]
    found = [{"boxes": b, "scores": [0.9] * len(b), "seconds": 1.5} for b in (one, three)]
    cost = {"threads": 2, "peak_mib": 7, "peak_gpu_mib": None}
    monkeypatch.setattr(bench, "_in_own_process", lambda task: {"slides": found, **cost})
    figures = bench_detect(images, labels, methods=["palyno"])
    assert figures["methods"] == [
        {
            "method": "palyno",
            "found": 4,
            "true": 4,
            "count_error_percent": 50.0,
            "precision": 0.75,
            "recall": 0.75,
            "seconds": 3.0,
            **cost,
        }
    ]
    assert [slide["matched"] for slide in figures["slides"]] == [1, 2]
    assert "true" not in bench_detect(images, methods=["palyno"])["methods"][0]


def test_arguments_that_cannot_be_meant_are_refused(labelled):
    images, labels = labelled
    with pytest.raises(NothingToDoError):
        bench_detect([])
    with pytest.raises(UsageError, match=r"methods: expected some of palyno, ultralytics, sahi; got yolo"):
        bench_detect(images, methods=["yolo"])
    (labels / "a.txt").unlink()
    with pytest.raises(InputError, match=r"a\.txt"):
        bench_detect(images, labels)


def test_a_method_that_fails_says_which_and_why(labelled):
    with pytest.raises(PalynoError, match=r"palyno: expected boxes, got exit code 1: expected the name of a model"):
        bench_detect(labelled[0], model="no-such-model", methods=["palyno"])


@pytest.mark.slow
def test_the_three_methods_on_a_real_field_of_more_than_300_grains(samples, shipped_model, tmp_path):
    """The whole image scaled down and cut at 300 boxes loses grains; tiles do not."""
    figures = bench_detect([samples / "rice_dense.jpg"], model=shipped_model, device="cpu")
    found = {row["method"]: row["found"] for row in figures["methods"]}
    assert tuple(found) == METHODS
    assert found["ultralytics"] <= 300 < found["palyno"]
    assert all(row["seconds"] > 0 and row["peak_mib"] > 100 for row in figures["methods"])


def test_truth_is_read_from_a_coco_file_too(samples):
    from palyno.app.bench_detect import _truth

    assert len(_truth(samples / "composed.jpg", samples / "truth.json")) == 22
    assert len(_truth(samples / "rice_dense.jpg", samples / "truth.json")) == 717
    with pytest.raises(UsageError, match=r"expected boxes of peat\.jpg"):
        _truth(samples / "peat.jpg", samples / "truth.json")
