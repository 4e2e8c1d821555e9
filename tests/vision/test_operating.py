"""The threshold is the one that a search through all of them finds; the curve's mean is average precision."""

from __future__ import annotations

import numpy as np
import pytest
from palyno.data.annotations import LabelledImage
from palyno.errors import NothingToDoError, UsageError
from palyno.vision import metrics
from palyno.vision.intervals import ranked
from palyno.vision.metrics import average_precision, count_quality
from palyno.vision.operating import choose_conf, how_it_counts, precision_recall
from palyno.vision.results import Provenance, SlideResult


def made(images=25, seed=0, conf=0.05):
    """Grains are surer than debris, with an overlap."""
    rng = np.random.default_rng(seed)
    truth, results = [], []
    for i in range(images):
        n = int(rng.integers(0, 9)) if i else 0
        corner = rng.uniform(0, 500, (n, 2))
        boxes = np.hstack([corner, corner + 40]).astype(np.float32)
        truth.append(LabelledImage(f"{i}", 640, 640, boxes, ("grain",) * n))
        extra = rng.uniform(0, 500, (int(rng.integers(0, 6)), 2)).astype(np.float32)
        score = np.round(np.r_[rng.beta(5, 3, n), rng.beta(2, 5, len(extra))], 2).clip(conf, 1)
        seen = np.vstack([boxes, np.hstack([extra, extra + 30])])
        taxa = ("grain",) * len(seen)
        results.append(SlideResult(f"{i}", 640, 640, seen, score, taxa, Provenance("m", "0", "0"), conf=conf))
    return truth, results


def test_a_detector_that_is_nearly_as_sure_of_dirt_counts_well_at_a_threshold_of_its_own():
    """Two grains at 0.9 and eight specks at 0.3 an image: none wrong at 0.9, four times too many at the usual one."""
    corners = np.arange(10, dtype=np.float32)[:, None] * 50 + np.zeros(2, np.float32)
    boxes = np.hstack([corners, corners + 30])
    sure = np.where(np.arange(10) < 2, 0.9, 0.3).astype(np.float32)
    truth = [LabelledImage(f"{i}.jpg", 600, 600, boxes[:2], ("a", "b")) for i in range(3)]
    results = [
        SlideResult(f"{i}.jpg", 600, 600, boxes, sure, ("a",) * 10, Provenance("m", "0" * 64, "1"), conf=0.05)
        for i in range(3)
    ]
    assert how_it_counts(truth, results) == {"conf": 0.9, "count_error": 0.0, "count_error_at_usual": 4.0}
    assert how_it_counts([LabelledImage("a.jpg", 600, 600, np.empty((0, 4), np.float32), ())], results[:1]) is None


@pytest.mark.parametrize("seed", range(4))
def test_how_it_counts_is_what_a_count_at_both_thresholds_is_worth_and_boxes_are_matched_once(seed, monkeypatch):
    truth, results = made(seed=seed)
    matched, overlaps = [], metrics.iou_matrix
    monkeypatch.setattr(metrics, "iou_matrix", lambda *boxes: matched.append(1) or overlaps(*boxes))
    told = how_it_counts(truth, results)
    assert len(matched) == sum(bool(len(t) and len(r)) for t, r in zip(truth, results, strict=True)) > 15
    found = [result.to_annotations() for result in results]
    for conf, error in ((told["conf"], told["count_error"]), (0.25, told["count_error_at_usual"])):
        # As `SlideResult.above` compares.
        assert count_quality(truth, found, np.float32(conf)).count_error == pytest.approx(error, abs=5e-5)


def test_images_that_were_read_from_a_higher_confidence_do_not_say_how_the_usual_one_counts():
    with pytest.raises(UsageError, match=r"read with conf 0\.4: expected at least that, got 0\.25"):
        how_it_counts(*made(conf=0.4))


@pytest.mark.parametrize("seed", range(4))
def test_the_threshold_is_the_best_of_all(seed):
    truth, results = made(seed=seed)
    choice = choose_conf(truth, results)
    table = []
    for hundredths in range(5, 100):
        quality = count_quality(truth, [r.above(hundredths / 100).to_annotations() for r in results])
        table.append((round(quality.count_error, 12), -round(quality.f1, 12), -hundredths / 100))
    error, f1, conf = min(table)
    assert (choice.conf, choice.count_error, choice.f1) == (-conf, pytest.approx(error), pytest.approx(-f1))


def test_the_choice_is_the_same_each_time_and_lies_in_its_interval():
    truth, results = made(seed=5)
    choice = choose_conf(truth, results, draws=200)
    assert choice == choose_conf(truth, results, draws=200)
    assert choice.interval[0] <= choice.conf <= choice.interval[1]
    assert choose_conf(truth, results).interval is None


def test_draws_break_ties_as_the_choice_does():
    # Two grains an image, all surer than 0.85, and nothing else: every threshold up to there counts right.
    boxes = np.array([[0, 0, 40, 40], [100, 100, 140, 140]], np.float32)
    truth = [LabelledImage(f"{i}", 640, 640, boxes, ("grain",) * 2) for i in range(5)]
    made_by = Provenance("m", "0", "0")
    results = [
        SlideResult(f"{i}", 640, 640, boxes, np.full(2, 0.86), ("grain",) * 2, made_by, conf=0.05) for i in range(5)
    ]
    choice = choose_conf(truth, results, draws=50)
    assert (choice.conf, choice.interval) == (0.86, (0.86, 0.86))


def test_no_threshold_below_that_of_the_detector_is_chosen():
    truth, results = made(conf=0.4)
    assert choose_conf(truth, results).conf >= 0.4


def test_there_must_be_grains():
    truth, results = made(1)
    with pytest.raises(NothingToDoError, match="images with grains"):
        choose_conf(truth, results)


@pytest.mark.parametrize("seed", range(3))
def test_the_mean_of_the_curve_is_average_precision(seed):
    truth, results = made(seed=seed)
    found = [r.to_annotations() for r in results]
    recall, precision = precision_recall(ranked(truth, found, ["grain"])[0])
    assert precision.mean() == pytest.approx(average_precision(truth, found, ["grain"])["mAP50"], abs=1e-12)
    assert (np.diff(precision) <= 0).all() and recall[[0, -1]].tolist() == [0, 1]


def test_the_curve_of_nothing_is_nought():
    truth, _ = made(3)
    empty = [LabelledImage(t.image, 640, 640, np.zeros((0, 4)), (), np.zeros(0)) for t in truth]
    assert not precision_recall(ranked(truth, empty, ["grain"])[0])[1].any()
