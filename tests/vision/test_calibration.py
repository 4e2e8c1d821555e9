"""Calibration: cases worked out by hand, scikit-learn's Brier score, a detector that is right as often as it says."""

from __future__ import annotations

import numpy as np
import pytest
from palyno.data.annotations import LabelledImage
from palyno.errors import UsageError
from palyno.vision.calibration import calibration, grain_events, name_events
from palyno.vision.results import Provenance, SlideResult


def test_a_case_worked_out_by_hand():
    # Bins of a tenth: 0.35 and 0.40 in (0.3, 0.4], one right: |0.5 - 0.375|; 0.8 three times in (0.7, 0.8], two right.
    made = calibration(np.array([0.35, 0.40, 0.8, 0.8, 0.8]), np.array([1, 0, 1, 1, 0], bool), bins=10)
    assert made.ece == pytest.approx(2 / 5 * 0.125 + 3 / 5 * (0.8 - 2 / 3))
    assert made.brier == pytest.approx((0.65**2 + 0.4**2 + 0.2**2 + 0.2**2 + 0.8**2) / 5)
    filled = {round(b.high, 9): (b.number, b.right) for b in made.bins if b.number}
    assert filled == {0.4: (2, 0.5), 0.8: (3, pytest.approx(2 / 3))}


def test_a_limit_belongs_to_the_bin_below_in_single_precision_too():
    p = np.array([0.0, 0.1, 0.2, 0.3, 0.6, 0.7, 0.8, 0.9, 1.0])
    for kind in (np.float64, np.float32):
        numbers = [b.number for b in calibration(p.astype(kind), np.ones(9, bool), bins=10).bins]
        assert numbers == [2, 1, 1, 0, 0, 1, 1, 1, 1, 1]


def test_the_error_of_a_calibrated_detector_goes_to_nought_with_the_number_of_boxes():
    rng = np.random.default_rng(0)
    errors = []
    for number in (100, 10_000, 1_000_000):
        p = rng.uniform(0, 1, number)
        errors.append(calibration(p, rng.uniform(0, 1, number) < p).ece)
    assert errors[0] > errors[1] > errors[2]
    assert errors[2] < 0.002


def test_a_detector_that_is_too_sure_has_just_that_error():
    rng = np.random.default_rng(1)
    p = rng.uniform(0.5, 1, 200_000)
    assert calibration(p, rng.uniform(0, 1, len(p)) < p - 0.2).ece == pytest.approx(0.2, abs=0.005)


def test_the_brier_score_is_scikit_learns():
    metrics = pytest.importorskip("sklearn.metrics")
    rng = np.random.default_rng(2)
    p, y = rng.uniform(0, 1, 500), rng.random(500) < 0.4
    assert calibration(p, y).brier == pytest.approx(metrics.brier_score_loss(y, p), abs=1e-6)


def test_the_table_sums_to_all_boxes_and_without_boxes_there_is_no_figure():
    rng = np.random.default_rng(3)
    made = calibration(rng.uniform(0, 1, 321), rng.random(321) < 0.5, bins=7)
    assert sum(b.number for b in made.bins) == made.number == 321
    none = calibration(np.zeros(0), np.zeros(0, bool))
    assert np.isnan(none.ece) and np.isnan(none.brier) and {b.probability for b in none.bins} == {None}


@pytest.mark.parametrize(("p", "y", "bins"), [([1.2], [True], 5), ([np.nan], [True], 5), ([0.5], [], 5), ([], [], 0)])
def test_what_is_no_probability_is_refused(p, y, bins):
    with pytest.raises(UsageError, match="expected at least one bin"):
        calibration(np.array(p), np.array(y), bins)


def test_events_of_boxes():
    """A right species, a right genus, a wrong name, an unsure one, and a box where there is nothing."""
    boxes = np.array([[x, 0, x + 10, 10] for x in (0, 20, 40, 60, 80)], np.float32)
    labels = ("Betula pendula", "Serjania erecta", "Corylus avellana", "Zea mays")
    truth = [LabelledImage("a", 100, 10, boxes[:4], labels)]
    result = SlideResult(
        "a",
        100,
        10,
        boxes,
        np.array([0.9, 0.8, 0.5, 0.4, 0.2]),
        ("Betula pendula", "Serjania", "Zea mays", "unknown", "Zea mays"),
        Provenance("m", "0", "0"),
        ranks=("species", "genus", "species", "unknown", "species"),
        candidates=(
            (("Betula pendula", 0.81),),
            (("Serjania", 0.6), ("Serjania erecta", 0.4)),
            (("Zea mays", 0.3),),
            (("Betula pendula", 0.2),),
            (("Zea mays", 0.15),),
        ),
    )
    p, right = grain_events(truth, [result])
    assert p.tolist() == pytest.approx([0.9, 0.8, 0.5, 0.4, 0.2])
    assert right.tolist() == [True] * 4 + [False]
    p, right = name_events(truth, [result])
    assert p.tolist() == pytest.approx([0.81, 0.6, 0.3, 0.15])
    assert right.tolist() == [True, True, False, False]
    p, right = name_events(truth, [result], given_grain=True)
    assert p.tolist() == pytest.approx([0.9, 0.75, 0.6])
    assert right.tolist() == [True, True, False]
