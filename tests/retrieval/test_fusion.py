"""Reciprocal rank fusion: the sum, for every id, of what its places are worth."""

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st
from palyno import UsageError
from palyno.retrieval.fusion import RRF_K, fuse

rankings = st.lists(st.permutations("abcdef").flatmap(lambda p: st.integers(0, 6).map(lambda n: p[:n])), max_size=4)


@given(rankings, st.sampled_from([0, 1, 60]))
def test_scores_are_sums_of_reciprocal_ranks(lists, k):
    found = fuse(lists, k=k)
    names = {name for one in lists for name in one}
    exact = {n: float(sum(Fraction(1, k + one.index(n) + 1) for one in lists if n in one)) for n in names}
    assert dict(found) == pytest.approx(exact, rel=1e-12)
    assert [score for _, score in found] == sorted((score for _, score in found), reverse=True)


def test_first_in_two_rankings_beats_first_in_one():
    assert fuse([["a", "b"], ["b", "c"], ["b", "a"]])[0] == ("b", pytest.approx(1 / 62 + 2 / 61))
    assert RRF_K == 60


def test_one_ranking_keeps_its_order_and_weights_choose():
    assert [name for name, _ in fuse([["c", "a", "b"]])] == ["c", "a", "b"]
    assert [name for name, _ in fuse([["a", "b"], ["b", "a"]], weights=[1, 0])] == ["a", "b"]
    assert fuse([]) == []


def test_what_cannot_be_meant_is_refused():
    with pytest.raises(UsageError, match="got 'a' twice"):
        fuse([["a", "b", "a"]])
    with pytest.raises(UsageError, match="weights: expected"):
        fuse([["a"]], weights=[1, 1])
    with pytest.raises(UsageError, match="k: expected"):
        fuse([["a"]], k=-1)
