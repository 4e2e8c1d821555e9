"""The whole report: its parts agree with one another, whatever there is to report."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from palyno.data.annotations import LabelledImage
from palyno.errors import InputError
from palyno.vision.predictions import as_kept, read_predictions, write_predictions
from palyno.vision.protocol import full_report, in_order
from palyno.vision.results import Provenance, SlideResult
from palyno.vision.validate import by_several_classes, evaluate

CLASSES = ("Betula pendula", "Corylus avellana", "Zea mays", "unknown")


def made(images=10, seed=0, classes=CLASSES):
    """Grains found a little beside where they are, some missed, some misnamed, and some boxes of nothing."""
    rng = np.random.default_rng(seed)
    truth, results = [], []
    for i in range(images):
        n = int(rng.integers(1, 9))
        corner = rng.uniform(0, 500, (n, 2))
        boxes = np.hstack([corner, corner + rng.uniform(20, 80, (n, 2))]).astype(np.float32)
        labels = [classes[k] for k in rng.integers(0, len(classes), n)]
        truth.append(LabelledImage(f"images/val/{i}.png", 640, 640, boxes, tuple(labels)))
        extra = rng.uniform(0, 500, (int(rng.integers(0, 3)), 2)).astype(np.float32)
        seen = np.vstack([boxes[1:] + rng.normal(0, 2, (n - 1, 1)), np.hstack([extra, extra + 30])])
        names = [name if rng.random() < 0.8 else classes[0] for name in labels[1:]] + [classes[-1]] * len(extra)
        score = rng.uniform(0.05, 1, len(seen)).astype(np.float32)
        results.append(
            SlideResult(
                f"{i}.png",
                640,
                640,
                seen,
                score,
                tuple(names),
                Provenance("m", "0" * 64, "1", {"conf": 0.05}),
                candidates=tuple(((n, float(c) * 0.9),) for n, c in zip(names, score, strict=True)),
                conf=0.05,
            )
        )
    return truth, results


def result(name, boxes, candidates):
    """What was found in an image, by the candidates of each box."""
    return SlideResult(
        name,
        640,
        640,
        np.array(boxes, np.float32).reshape(-1, 4),
        np.array([max(p for _, p in found) for found in candidates], np.float32),
        tuple(found[0][0] for found in candidates),
        Provenance("m", "0" * 64, "1", {"conf": 0.05}),
        candidates=tuple(candidates),
        conf=0.05,
    )


def test_a_box_can_be_of_several_names():
    """The second grain is Betula to the detector, and next to that Corylus, which it is: found, if that may count."""
    boxes = [[0, 0, 40, 40], [100, 100, 150, 150]]
    truth = [LabelledImage("a.png", 640, 640, np.array(boxes, np.float32), (CLASSES[0], CLASSES[1]))]
    found = [
        result("a.png", boxes, [((CLASSES[0], 0.9),), ((CLASSES[0], 0.5), (CLASSES[1], 0.4), ("Betula sp.", 0.3))])
    ]
    report = evaluate(truth, found, CLASSES)
    assert report["mAP50"] == pytest.approx(0.5)
    assert report["mAP50_multi_label"] == pytest.approx(1.0)
    both = by_several_classes(found[0], CLASSES)
    assert both.labels == (CLASSES[0], CLASSES[0], CLASSES[1])
    assert both.confidence.tolist() == pytest.approx([0.9, 0.5, 0.4])
    nothing = by_several_classes(result("b.png", [], []), CLASSES)
    assert nothing.boxes.shape == (0, 4)
    # A sure second name that is wrong costs.
    found = [result("a.png", boxes, [((CLASSES[0], 0.5), (CLASSES[1], 0.45)), ((CLASSES[1], 0.4),)])]
    report = evaluate(truth, found, CLASSES)
    assert report["mAP50"] == pytest.approx(1.0)
    assert report["mAP50_multi_label"] == pytest.approx(0.75, abs=0.01)


def test_several_names_a_box_count_as_ultralytics_counts_them():
    """Its matching and average precision on the same boxes; it reads precision off between recalls, COCO at them."""
    from ultralytics.utils.metrics import ap_per_class, box_iou

    truth, results = made(40)
    rng = np.random.default_rng(1)
    several = []
    for one in results:
        second = [CLASSES[k] for k in rng.integers(0, 3, len(one))]
        share = rng.uniform(0.1, 0.5, len(one))
        found = [
            ((n, float(c) * 0.9), *([(s, float(c * q))] if s != n else []))
            for n, c, s, q in zip(one.taxa, one.confidence, second, share, strict=True)
        ]
        several.append(result(one.slide, one.boxes, found))
    hits, scores, named, true = [], [], [], []
    levels = np.linspace(0.5, 0.95, 10)
    for image, one in zip(truth, several, strict=True):
        boxes = by_several_classes(one, CLASSES)
        labels, names = (np.array([CLASSES.index(n) for n in of]) for of in (image.labels, boxes.labels))
        overlap = box_iou(torch.from_numpy(image.boxes), torch.from_numpy(boxes.boxes)).numpy()
        overlap = overlap * (labels[:, None] == names)
        hit = np.zeros((len(names), 10), bool)
        for k, level in enumerate(levels):
            left = set(range(len(labels)))
            for j in np.argsort(-boxes.confidence, kind="stable"):
                best = max(left, key=lambda i: overlap[i, j], default=None)
                if best is not None and overlap[best, j] >= level:
                    hit[j, k] = True
                    left.remove(best)
        hits.append(hit)
        scores.append(boxes.confidence)
        named.append(names)
        true.append(labels)
    precision = ap_per_class(*(np.concatenate(part) for part in (hits, scores, named, true)))[5]
    report = evaluate(truth, several, CLASSES)
    assert report["mAP50_multi_label"] == pytest.approx(precision[:, 0].mean(), abs=0.01)
    assert report["mAP50-95_multi_label"] == pytest.approx(precision.mean(), abs=0.01)
    # Second names must count for this test to mean much.
    assert abs(report["mAP50_multi_label"] - report["mAP50"]) > 0.02


def test_the_report_holds_what_evaluate_says_and_its_parts_agree():
    truth, results = made()
    report = full_report(truth, results, CLASSES, draws=60)
    for key, value in evaluate(truth, results, CLASSES).items():
        if key == "per_class":
            assert {n: (r["AP50"], r["AP50-95"]) for n, r in report[key].items()} == {
                n: (r["AP50"], r["AP50-95"]) for n, r in value.items()
            }
        else:
            assert json.dumps(report[key]) == json.dumps(value)  # the same where there is no figure, too
    counts, table = report["counts"], np.array(report["confusion"]["counts"])
    assert table[:-1].sum() == counts["true"] == sum(image["true"] for image in report["images"])
    assert table[:, :-1].sum() == counts["found"] == sum(image["found"] for image in report["images"])
    assert table[:-1, -1].sum() == counts["true"] - round(counts["recall"] * counts["true"])
    assert sum(row["true"] for row in report["per_class"].values()) == counts["true"]
    assert report["calibration"]["grain"]["number"] == sum(len(r) for r in results)
    figures = {**report, **counts}
    for name in ("mAP50", "mAP50-95", "AP50_any", "precision", "recall", "f1", "count_error"):
        low, high = report["intervals"][name]
        assert low < figures[name] < high
    assert report["not_in_classes"] == {}
    for part, told in report["shares"].items():
        total = sum(report[part][kind] for kind in told)
        assert total == report["unknown"]["true"] if part == "unknown" else total > 0
        for kind, (share, low, high) in told.items():
            if total:
                assert share == pytest.approx(report[part][kind] / total)
            assert low < share < high or np.isnan([low, high]).all()
    assert not np.isnan(report["shares"]["names"]["right"]).any()


def test_the_figures_are_the_same_from_a_file(tmp_path):
    truth, results = made(seed=1)
    write_predictions(tmp_path / "p", results, CLASSES)
    again, classes = read_predictions(tmp_path / "p")
    kept = [as_kept(result) for result in results]
    one, other = (full_report(truth, r, classes, draws=20) for r in (kept, again))
    assert json.dumps(one) == json.dumps(other)
    assert kept[0].provenance is results[0].provenance


@pytest.mark.parametrize("draws", [0, 20])
def test_nothing_found_is_a_report_too(draws):
    truth, results = made(4)
    empty = [result.select(np.zeros(len(result), bool)) for result in results]
    report = full_report(truth, empty, CLASSES, draws=draws)
    assert report["mAP50"] == report["AP50_any"] == report["AP_small"] == 0
    assert {row["recall"] for row in report["per_class"].values()} == {0}
    assert report["calibration"]["grain"]["number"] == 0
    assert (report["intervals"] is None) == (draws == 0)
    # Every draw misses all grains: what no draw can change has no interval.
    assert draws == 0 or np.isnan(report["intervals"]["count_error"]).all()


def test_a_single_image_has_no_interval():
    truth, results = made(1)
    assert full_report(truth, results, CLASSES, draws=50)["intervals"] is None


def test_grains_of_names_that_the_detector_does_not_have_are_told():
    truth, results = made(4)
    report = full_report(truth, results, CLASSES[1:], draws=0)
    assert report["not_in_classes"] == {CLASSES[0]: sum(t.labels.count(CLASSES[0]) for t in truth)}


def test_predictions_find_their_images_by_name():
    truth, results = made(5)
    assert in_order(truth, results[::-1]) == results
    with pytest.raises(InputError, match=r"no prediction for 1 images such as 2\.png"):
        in_order(truth, [*results[:2], *results[3:]])
    with pytest.raises(InputError, match=r"1 predictions of other images such as 4\.png"):
        in_order(truth[:4], results)
    with pytest.raises(InputError, match="two of one name"):
        in_order(truth, [*results, results[0]])
