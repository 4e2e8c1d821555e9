"""Measures of rankings: trec_eval's numbers to 1e-12, ties and gaps included."""

import math

import numpy as np
import pytest
import pytrec_eval
from hypothesis import given, settings
from hypothesis import strategies as st
from palyno import UsageError
from palyno.retrieval.evaluate import evaluate, ranked

CUTS = (1, 3, 10, 100)
THEIRS = {f"ndcg@{k}": f"ndcg_cut_{k}" for k in CUTS} | {f"recall@{k}": f"recall_{k}" for k in CUTS}
THEIRS |= {f"p@{k}": f"P_{k}" for k in CUTS} | {f"map@{k}": f"map_cut_{k}" for k in CUTS}
THEIRS |= {f"hit@{k}": f"success_{k}" for k in CUTS} | {"ndcg": "ndcg", "map": "map", "mrr": "recip_rank"}
FAMILIES = {
    "ndcg",
    "ndcg_cut.1,3,10,100",
    "recall.1,3,10,100",
    "P.1,3,10,100",
    "map",
    "map_cut.1,3,10,100",
    "recip_rank",
}


def theirs(run, qrels):
    # Grades below zero are left out of these tests: with them pytrec_eval writes outside its memory.
    families = FAMILIES | {"success.1,3,10,100"}
    return pytrec_eval.RelevanceEvaluator(qrels, families).evaluate(run)


def assert_equal_to_trec_eval(run, qrels):
    ours, expected = evaluate(run, qrels, list(THEIRS)), theirs(run, qrels)
    assert set(qrels) - set(expected) == set(ours.missing)
    for query, values in expected.items():
        for name, other in THEIRS.items():
            assert ours.values[name][query] == pytest.approx(values[other], rel=0, abs=1e-12), (query, name)
    for query in ours.missing:
        assert all(ours.values[name][query] == 0 for name in THEIRS)


@pytest.mark.parametrize("levels", [2, 5, 10**9], ids=["many ties", "ties", "few ties"])
def test_equal_to_trec_eval_on_random_runs(levels):
    rng = np.random.default_rng(levels)
    names = [f"d{i}" for i in rng.permutation(300)]
    run, qrels = {}, {}
    for q in range(70):
        judged = rng.choice(names, rng.integers(1, 40), replace=False)
        qrels[f"q{q}"] = {name: int(rng.integers(0, 4)) for name in judged}
        if q % 9:
            found = rng.choice(names, rng.integers(1, 200), replace=False)
            run[f"q{q}"] = {name: float(rng.integers(levels)) / 7 for name in found}
    run["unjudged"] = {"d1": 1.0}
    assert_equal_to_trec_eval(run, qrels)


@settings(max_examples=150, deadline=None)
@given(
    st.dictionaries(
        st.text("abÄ一z", min_size=1, max_size=3), st.sampled_from([0.0, 0.5, 1.0, -2.0, 1e30]), min_size=1
    ),
    st.dictionaries(st.text("abÄ一z", min_size=1, max_size=3), st.integers(0, 4), min_size=1),
)
def test_equal_to_trec_eval_on_odd_ids_scores_and_grades(scores, judged):
    assert_equal_to_trec_eval({"q": scores}, {"q": judged})


def test_scores_that_float32_cannot_tell_apart_are_a_tie():
    run = {"q": {"a": 0.10000000149, "b": 0.1000000014}}
    assert ranked(run["q"]) == ["b", "a"]
    assert_equal_to_trec_eval(run, {"q": {"a": 1}})


def test_a_grade_below_zero_counts_as_none():
    run = {"q": {"a": 3.0, "b": 2.0, "c": 1.0}}
    names = ["ndcg", "map", "mrr"]
    below, none = ({"q": {"a": grade, "b": 2, "c": 1}} for grade in (-2, 0))
    assert evaluate(run, below, names).values == evaluate(run, none, names).values


def test_values_by_hand():
    run = {"q": {"a": 4.0, "b": 3.0, "c": 2.0, "d": 1.0}}
    qrels = {"q": {"b": 2, "d": 1, "z": 1, "a": 0}}
    scores = evaluate(run, qrels, ["ndcg@10", "recall@3", "p@3", "map", "mrr", "mrr@1", "hit@1", "rank"])
    ideal = 2 + 1 / math.log2(3) + 1 / 2
    expected = {
        "ndcg@10": (2 / math.log2(3) + 1 / math.log2(5)) / ideal,
        "recall@3": 1 / 3,
        "p@3": 1 / 3,
        "map": (1 / 2 + 2 / 4) / 3,
        "mrr": 1 / 2,
        "mrr@1": 0,
        "hit@1": 0,
        "rank": 2,
    }
    assert {name: scores.mean(name) for name in expected} == pytest.approx(expected, abs=1e-15)


def test_a_query_that_was_not_answered_counts_zero_and_can_be_left_out_as_others_do():
    run = {"a": {"x": 1.0}}
    qrels = {"a": {"x": 1}, "b": {"x": 1}, "c": {"x": 1}}
    scores = evaluate(run, qrels, ["mrr", "rank"])
    assert (scores.mean("mrr"), scores.skipped("mrr"), scores.missing) == (1 / 3, 1.0, ("b", "c"))
    assert (scores.mean("rank"), scores.skipped("rank")) == (math.inf, 1)


@given(st.permutations(range(8)), st.lists(st.integers(0, 3), min_size=8, max_size=8), st.integers(0, 6))
def test_ndcg_is_in_the_unit_interval_and_rises_with_a_swap_for_the_better(order, grades, place):
    qrels = {"q": {f"d{i}": grade for i, grade in enumerate(grades)}}

    def ndcg(places):
        return evaluate({"q": {f"d{d}": 8.0 - i for i, d in enumerate(places)}}, qrels, ["ndcg"]).mean("ndcg")

    before = ndcg(order)
    assert 0 <= before <= 1 + 1e-12
    swapped = list(order)
    swapped[place : place + 2] = swapped[place : place + 2][::-1]
    change = grades[order[place + 1]] - grades[order[place]]
    assert np.sign(round(ndcg(swapped) - before, 12)) == np.sign(change)
    best = sorted(range(8), key=lambda i: -grades[i])
    assert ndcg(best) == pytest.approx(1 if any(grades) else 0)


@given(st.lists(st.integers(-5, 5), min_size=1, max_size=12))
def test_measures_depend_on_the_order_alone(levels):
    qrels = {"q": {"d0": 1, "d3": 2}}
    plain, moved = ({f"d{i}": f(level) for i, level in enumerate(levels)} for f in (float, lambda x: 3.0 * x - 7))
    names = ["ndcg", "map", "mrr"]
    assert evaluate({"q": plain}, qrels, names).values == evaluate({"q": moved}, qrels, names).values


@pytest.mark.parametrize("name", ["ndcg@0", "recall", "p", "mrr@-1", "rank@3", "nDCG", "hit", "f1"])
def test_a_measure_that_there_is_not_is_refused(name):
    with pytest.raises(UsageError, match="measure"):
        evaluate({}, {"q": {"d": 1}}, [name])


@pytest.mark.parametrize("score", [math.nan, math.inf])
def test_scores_that_are_not_numbers_are_refused(score):
    with pytest.raises(UsageError, match="document 'd': expected a finite score"):
        evaluate({"q": {"d": score}}, {"q": {"d": 1}})
    with pytest.raises(UsageError, match="at least one judged query"):
        evaluate({"q": {"d": 1.0}}, {})
