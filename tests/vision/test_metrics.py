"""Figures of boxes against cases counted by hand, and against ultralytics' own average precision."""

from __future__ import annotations

import numpy as np
import pytest
from palyno.data.annotations import LabelledImage
from palyno.vision.metrics import average_precision, count_quality, match


def image(boxes, labels=None, confidence=None, name="a.jpg"):
    boxes = np.array(boxes, np.float32).reshape(-1, 4)
    labels = tuple(labels or ["grain"] * len(boxes))
    confidence = None if confidence is None else np.array(confidence, np.float32)
    return LabelledImage(name, 1000, 1000, boxes, labels, confidence)


def square(x, y=0, side=10):
    return [x, y, x + side, y + side]


def test_perfect_boxes_score_one_and_none_score_nothing():
    truth = [image([square(0), square(50)])]
    assert average_precision(truth, [image([square(0), square(50)], None, [0.9, 0.8])], ["grain"])["mAP50-95"] == 1
    assert average_precision(truth, [image([], None, [])], ["grain"])["mAP50"] == 0


@pytest.mark.parametrize("found", [0, 1])
def test_where_no_grain_is_of_a_size_there_is_no_figure_whether_or_not_anything_was_found(found):
    figures = average_precision([image([square(0)])], [image([square(200)] * found, None, [0.9] * found)], ["grain"])
    assert figures["AP_small"] == figures["mAP50"] == figures["AR"] == 0
    assert np.isnan([figures["AP_medium"], figures["AP_large"]]).all()


def test_a_shifted_box_counts_up_to_its_own_overlap_only():
    shifted = image([[0, 0, 10, 8]], None, [0.9])  # IoU 0.8: right at 0.50 .. 0.80, wrong at 0.85, 0.90, 0.95
    figures = average_precision([image([square(0)])], [shifted], ["grain"])
    assert figures["mAP50"] == pytest.approx(1)
    assert figures["mAP50-95"] == pytest.approx(0.7)


def test_a_field_of_more_than_100_grains_is_scored_whole():
    boxes = [square(20 * i, 20 * j) for i in range(30) for j in range(30)]
    found = image(boxes, None, np.linspace(0.9, 0.5, len(boxes)))
    assert average_precision([image(boxes)], [found], ["grain"])["mAP50"] == 1


def test_average_precision_agrees_with_ultralytics():
    from palyno import offline

    offline.switch_off()
    from ultralytics.utils.metrics import ap_per_class

    rng = np.random.default_rng(0)
    truth, found, hits, scores = [], [], [], []
    for n in range(20):
        true = [square(40 * i, 40 * j) for i, j in rng.integers(0, 20, (15, 2))]
        true = [list(b) for b in {tuple(b) for b in true}]
        boxes = [
            [x1 + d, y1, x2 + d, y2] for (x1, y1, x2, y2), d in zip(true, rng.integers(0, 7, len(true)), strict=True)
        ]
        score = rng.permutation(1000)[: len(boxes)] / 1000 + n / 1e6
        truth.append(image(true, name=f"{n}.jpg"))
        found.append(image(boxes, None, score, name=f"{n}.jpg"))
        hits += list(match(np.array(true), np.array(boxes), score) >= 0)
        scores += list(score)
    ours = average_precision(truth, found, ["grain"])["mAP50"]
    total = sum(len(t) for t in truth)
    theirs = ap_per_class(
        np.array(hits)[:, None], np.array(scores), np.zeros(len(hits)), np.zeros(total), names={0: "grain"}
    )[5]
    assert ours == pytest.approx(float(theirs[0, 0]), abs=0.01)


def test_each_true_box_is_matched_once_by_the_surest():
    truth = np.array([square(0)], float)
    boxes = np.array([square(1), square(0)], float)
    assert match(truth, boxes, np.array([0.9, 0.8])).tolist() == [0, -1]
    assert match(truth, boxes, np.array([0.8, 0.9])).tolist() == [-1, 0]
    assert match(truth, np.empty((0, 4)), np.empty(0)).tolist() == []
    assert match(np.empty((0, 4)), boxes, np.array([0.9, 0.8])).tolist() == [-1, -1]


def test_counts_at_a_threshold():
    truth = [image([square(0), square(50)]), image([square(0)], name="b.jpg"), image([], name="c.jpg")]
    found = [
        image([square(0), square(51), square(200)], None, [0.9, 0.6, 0.3]),
        image([], None, [], name="b.jpg"),
        image([square(9)], None, [0.2], name="c.jpg"),
    ]
    low, high = count_quality(truth, found), count_quality(truth, found, conf=0.5)
    assert (low.true, low.found, low.precision, low.recall) == (3, 4, 0.5, pytest.approx(2 / 3))
    assert (high.found, high.precision, high.recall) == (2, 1.0, pytest.approx(2 / 3))
    assert low.count_error == pytest.approx((1 / 2 + 1) / 2)
    assert high.f1 == pytest.approx(0.8)


def test_a_class_that_is_not_asked_for_is_left_out_on_both_sides():
    truth = [image([square(0), square(50)], ["a", "b"])]
    found = [image([square(0), square(90)], ["a", "b"], [0.9, 0.8])]
    assert average_precision(truth, found, ["a"])["mAP50"] == pytest.approx(1)
    assert average_precision(truth, found, ["a", "b"])["mAP50"] == pytest.approx(0.5)
