"""Intervals and paired tests: scipy's numbers, exact ones where they can be counted, and honest coverage."""

import itertools

import numpy as np
import pytest
from palyno import UsageError
from palyno.retrieval.evaluate import compare, holm, interval
from scipy import stats


def test_the_randomisation_test_counts_every_signing_of_few_queries():
    a, b = np.array([0.5, 0.7, 0.2, 0.9, 0.4, 0.3]), np.array([0.4, 0.6, 0.2, 0.5, 0.5, 0.1])
    d = a - b
    signings = [
        abs(sum(s * x for s, x in zip(signs, d, strict=True))) for signs in itertools.product((1, -1), repeat=6)
    ]
    expected = np.mean([total >= abs(d.sum()) - 1e-12 for total in signings])
    assert compare(a, b).p == pytest.approx(expected, abs=1e-12)
    peer = stats.permutation_test((a, b), lambda x, y: np.mean(x - y), permutation_type="samples")
    assert compare(a, b).p == pytest.approx(peer.pvalue, abs=1e-12)


def test_of_many_queries_it_is_scipys_within_what_drawing_allows():
    rng = np.random.default_rng(3)
    a = rng.random(80)
    b = a - rng.normal(0.02, 0.1, 80)
    peer = stats.permutation_test(
        (a, b), lambda x, y, axis: np.mean(x - y, axis), vectorized=True, permutation_type="samples", rng=1
    )
    assert compare(a, b).p == pytest.approx(peer.pvalue, abs=0.02)


def test_no_difference_is_no_evidence_and_a_plain_one_is():
    values = np.linspace(0, 1, 50)
    same = compare(values, values)
    assert (same.difference, same.p, same.wins, same.losses, same.ties) == (0, 1, 0, 0, 50)
    better = compare(values + 0.1, values)
    assert better.p == pytest.approx(1 / 10_001) and better.low == pytest.approx(0.1) and better.wins == 50


def test_swapping_the_systems_mirrors_the_answer():
    rng = np.random.default_rng(0)
    a, b = rng.random((2, 30))
    there, back = compare(a, b), compare(b, a)
    assert (there.difference, there.wins, there.losses) == (-back.difference, back.losses, back.wins)
    assert there.p == pytest.approx(back.p, abs=0.02)
    assert (there.low, there.high) == pytest.approx((-back.high, -back.low), abs=0.01)


def test_the_interval_is_scipys_percentile_bootstrap():
    values = np.random.default_rng(5).beta(2, 1, 60)
    peer = stats.bootstrap((values,), np.mean, method="percentile", n_resamples=20_000, rng=2).confidence_interval
    ours = interval(values, samples=20_000)
    assert ours.mean == pytest.approx(values.mean())
    assert (ours.low, ours.high) == pytest.approx((peer.low, peer.high), abs=0.005)
    assert interval(values) == interval(values) != interval(values, seed=1)


def test_false_alarms_are_as_rare_as_asked():
    rng = np.random.default_rng(11)
    alarms = sum(compare(*rng.random((2, 25)), samples=400).p <= 0.05 for _ in range(400))
    assert stats.binom(400, 0.05).cdf(alarms) > 0.001 and stats.binom(400, 0.05).sf(alarms - 1) > 0.001


def test_intervals_hold_the_true_mean_about_as_often_as_asked():
    rng = np.random.default_rng(12)
    held = [(i := interval(rng.beta(2, 1, 100), samples=400)).low <= 2 / 3 <= i.high for _ in range(300)]
    assert 0.90 < np.mean(held) < 0.985


def test_holm_adjusts_in_order():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.9, 0.8]) == [1.0, 1.0] and holm([]) == []


def test_bad_values_are_refused():
    for wrong in ([], [0.1, np.nan], [[0.1]]):
        with pytest.raises(UsageError, match="expected at least one finite number"):
            interval(wrong)
    with pytest.raises(UsageError, match="same queries"):
        compare([0.1, 0.2], [0.1])
