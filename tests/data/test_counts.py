from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from palyno.data.counts import Tally, tally, wilson
from palyno.errors import UsageError
from scipy import optimize, stats

shares = st.integers(1, 5000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n)))
levels = st.floats(0.5, 0.999)


@pytest.mark.parametrize(
    ("x", "n", "low", "high"),
    [(30, 300, 0.07095, 0.13917), (0, 300, 0.0, 0.01264), (135, 300, 0.39469, 0.50658)],
)
def test_printed_values_at_z_1_96(x, n, low, high):
    assert wilson(x, n, z=1.96) == pytest.approx((low, high), abs=5e-6)


@pytest.mark.parametrize(("x", "n"), [(0, 1), (1, 1), (3, 7), (30, 300), (299, 300), (1, 100_000)])
@pytest.mark.parametrize("level", [0.8, 0.95, 0.99])
def test_limits_equal_those_of_scipy(x, n, level):
    oracle = stats.binomtest(x, n).proportion_ci(level, "wilson")
    assert wilson(x, n, level) == pytest.approx((oracle.low, oracle.high), abs=1e-12)


@pytest.mark.parametrize(("x", "n"), [(1, 5), (30, 300), (135, 300), (299, 300)])
def test_limits_are_the_shares_that_the_score_test_just_accepts(x, n):
    z = stats.norm.ppf(0.975)

    def score(p):
        return (x - n * p) ** 2 - z**2 * n * p * (1 - p)

    low = optimize.brentq(score, 0, x / n)
    high = optimize.brentq(score, x / n, 1)
    assert wilson(x, n) == pytest.approx((low, high), abs=1e-10)


@given(shares, levels)
def test_limits_enclose_the_share_and_stay_in_range(xn, level):
    x, n = xn
    low, high = wilson(x, n, level)
    assert 0 <= low <= x / n <= high <= 1
    assert (low == 0) == (x == 0)
    assert (high == 1) == (x == n)


@given(shares, levels)
def test_a_share_and_its_complement_have_mirrored_limits(xn, level):
    x, n = xn
    low, high = wilson(x, n, level)
    assert wilson(n - x, n, level) == pytest.approx((1 - high, 1 - low), abs=1e-12)


@given(st.integers(2, 2000).flatmap(lambda n: st.tuples(st.integers(0, n - 1), st.just(n))), levels)
def test_limits_grow_with_the_count_and_widen_with_the_level(xn, level):
    x, n = xn
    here, more = wilson(x, n, level), wilson(x + 1, n, level)
    assert here[0] < more[0] and here[1] < more[1]
    wider = wilson(x, n, (1 + level) / 2)
    assert (wider[0] <= here[0] and wider[1] > here[1]) or wider[1] == 1


def test_counting_more_grains_narrows_the_limits():
    widths = [np.ptp(wilson(n // 10, n)) for n in (10, 100, 300, 1000, 10_000)]
    assert widths == sorted(widths, reverse=True)


def test_limits_hold_the_truth_as_often_as_they_say():
    rng = np.random.default_rng(7)
    held = []
    for p in (0.02, 0.1, 0.3, 0.5, 0.9):
        for n in (50, 300, 1000):
            limits = [wilson(x, n) for x in range(n + 1)]
            held.append(np.mean([limits[x][0] <= p <= limits[x][1] for x in rng.binomial(n, p, 4000)]))
    assert np.mean(held) == pytest.approx(0.95, abs=0.01)
    assert min(held) > 0.92


def test_without_grains_nothing_is_known():
    assert wilson(0, 0) == (0.0, 1.0)


@pytest.mark.parametrize(("x", "n"), [(-1, 10), (11, 10), (math.nan, 10), (1, math.nan), (1, math.inf)])
def test_impossible_counts_are_refused(x, n):
    with pytest.raises(UsageError, match="0 <= x <= n"):
        wilson(x, n)


@pytest.mark.parametrize("level", [0, 1, -0.5, 95, math.nan])
def test_impossible_levels_are_refused(level):
    with pytest.raises(UsageError, match="level"):
        wilson(1, 10, level)
    with pytest.raises(UsageError, match="level"):
        tally([], level)


@pytest.mark.parametrize("z", [0, -1.96, math.inf, math.nan])
def test_impossible_quantiles_are_refused(z):
    with pytest.raises(UsageError, match="z must"):
        wilson(1, 10, z=z)


def test_tally_is_most_frequent_first_with_ties_by_name():
    names = ["Zea mays", "unknown", "Oryza", "Zea mays", "indeterminable", "Oryza", "Alnus"]
    rows = tally(names)
    assert [(row.taxon, row.n) for row in rows] == [
        ("Oryza", 2),
        ("Zea mays", 2),
        ("Alnus", 1),
        ("indeterminable", 1),
        ("unknown", 1),
    ]
    assert {row.sum for row in rows} == {7}


@given(st.lists(st.sampled_from(["Oryza", "Alnus", "unknown"]), min_size=1, max_size=60), levels)
def test_tally_accounts_for_every_grain(names, level):
    rows = tally(names, level)
    assert sum(row.n for row in rows) == len(names)
    assert sum(row.percent for row in rows) == pytest.approx(100)
    for row in rows:
        assert row.n == names.count(row.taxon)
        assert (row.low, row.high) == pytest.approx([100 * v for v in wilson(row.n, len(names), level)])


def test_tally_gives_a_missing_taxon_an_upper_limit():
    rows = tally(["Oryza"] * 300, taxa=["Secale", "Oryza"])
    assert [row.taxon for row in rows] == ["Oryza", "Secale"]
    assert rows[1] == Tally("Secale", 0, 300, 0.0, 0.0, rows[1].high)
    assert rows[1].high == pytest.approx(1.264, abs=1e-3)


def test_tally_of_nothing_is_empty():
    assert tally([]) == []
    assert tally([], taxa=["Oryza"]) == []
