"""Measures of where: each definition by hand, and what must not change them."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from palyno import UsageError
from palyno.retrieval.evaluate import cnr, iou, iou_over_thresholds, iou_with_background, pointing_game

TRUTH = np.zeros((4, 5), bool)
TRUTH[1:3, 1:3] = True
maps = arrays(np.float64, (4, 5), elements=st.integers(-8, 8).map(float))


def test_overlaps_by_hand():
    found = np.zeros_like(TRUTH)
    found[1:3, 2:4] = True
    assert iou(found, TRUTH) == pytest.approx(2 / 6)
    assert iou_with_background(found, TRUTH) == pytest.approx((2 / 6 + 14 / 18) / 2)
    empty = np.zeros_like(TRUTH)
    assert (iou(empty, TRUTH), iou(empty, empty)) == (0, 1)
    assert iou_with_background(empty, TRUTH) == pytest.approx((0 + 16 / 20) / 2)


def test_overlap_over_thresholds_is_the_mean_of_the_cuts():
    scores = np.where(TRUTH, 0.35, 0.0)
    scores[0, 0] = 0.25
    # 4 of 5 at 0.1 and 0.2, all at 0.3, nothing at 0.4 and 0.5.
    assert iou_over_thresholds(scores, TRUTH) == pytest.approx((0.8 + 0.8 + 1 + 0 + 0) / 5)


def test_contrast_to_noise_by_hand():
    scores = np.zeros((1, 4))
    scores[0] = [1, 3, 0, 2]
    truth = np.array([[True, True, False, False]])
    # Means 2 and 1; unbiased variances 2 and 2, biased 1 and 1.
    assert cnr(scores, truth) == pytest.approx(1 / 2)
    assert cnr(-scores, truth, signed=False) == pytest.approx(1 / np.sqrt(2))
    assert cnr(np.where(truth, 1.0, 0.0), truth) == np.inf
    assert cnr(np.ones((1, 4)), truth) == 0


@given(maps, st.floats(0.1, 10), st.floats(-5, 5))
def test_contrast_to_noise_ignores_scale_and_shift_and_mirrors_under_a_change_of_sign(scores, a, b):
    value = cnr(scores, TRUTH)
    assert cnr(-scores, TRUTH) == -value and cnr(scores, ~TRUTH) == -value
    if np.isfinite(value):
        assert cnr(a * scores + b, TRUTH) == pytest.approx(value, rel=1e-6, abs=1e-9)


@given(maps)
def test_pointing_game_is_the_share_of_highest_pixels_inside(scores):
    places = np.argwhere(scores == scores.max())
    assert pointing_game(scores, TRUTH) == pytest.approx(np.mean([TRUTH[y, x] for y, x in places]))
    assert pointing_game(np.ones((4, 5)), TRUTH) == TRUTH.mean()


def test_bad_input_is_refused():
    with pytest.raises(UsageError, match="expected a bool mask"):
        iou(TRUTH, TRUTH.astype(int))
    with pytest.raises(UsageError, match="expected a bool mask"):
        iou(TRUTH, TRUTH[:2])
    with pytest.raises(UsageError, match="finite numbers"):
        pointing_game(np.full((4, 5), np.nan), TRUTH)
    with pytest.raises(UsageError, match="pixels inside and outside"):
        cnr(np.zeros((4, 5)), np.zeros_like(TRUTH))
