"""Measures of rankings, equal to trec_eval's to the last digits, ties included: `evaluate`.

For a query, g_i is the grade of the i-th document of the ranking (a grade below one, or no judgement, is 0) and R the
number of documents with a grade of one or more:

    nDCG@k    = sum_{i<=k} g_i / log2(i + 1)  over the same sum for the judged documents in the best order
    Recall@k  = |relevant in the first k| / R
    P@k       = |relevant in the first k| / k
    MAP@k     = (1/R) sum_{i<=k, relevant} P@i
    MRR@k     = 1 / rank of the first relevant document, 0 if it is beyond k
    hit@k     = 1 if a relevant document is in the first k
    rank      = rank of the first relevant document, infinite if there is none; its average is the median

Gains are linear (Järvelin and Kekäläinen 2002, ACM TOIS 20, 422, without their exponent). The order is trec_eval's:
scores as float32, falling; equal ones by document id, falling as bytes. A stable sort in its place can change the nDCG
of a query by a fifth. A query without a ranking counts 0 here; pytrec_eval and BEIR leave it out: `skipped` does so.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ...errors import UsageError

__all__ = ["DEFAULT", "Scores", "evaluate", "ranked"]

DEFAULT = ("ndcg@10", "recall@10", "mrr@10", "map", "rank")

_NAME = re.compile(r"(ndcg|recall|p|map|mrr|hit|rank)(?:@([1-9]\d*))?")

# Grades along the ranking, judged grades (best first) and cut -> value; grades are clipped at 0.
_Measure = Callable[[np.ndarray, np.ndarray, int], float]


@dataclass(frozen=True)
class Scores:
    """What came out.

    Attributes:
        values: Measure -> query -> value; for every judged query.
        missing: Judged queries that the run does not have; their values are 0, and infinite for `rank`.
    """

    values: dict[str, dict[str, float]]
    missing: tuple[str, ...] = ()

    def mean(self, measure: str) -> float:
        """The mean over all judged queries, a missing one as 0; of `rank`, the median."""
        return _average(measure, list(self.values[measure].values()))

    def skipped(self, measure: str) -> float:
        """The same over the queries that the run has, as pytrec_eval and BEIR would have it."""
        missing = set(self.missing)
        return _average(measure, [value for query, value in self.values[measure].items() if query not in missing])

    def array(self, measure: str, queries: Sequence[str] | None = None) -> np.ndarray:
        """The values of some queries (None: all) in that order, for paired tests."""
        values = self.values[measure]
        return np.array([values[query] for query in (values if queries is None else queries)], float)


def evaluate(
    run: Mapping[str, Mapping[str, float]],
    qrels: Mapping[str, Mapping[str, int]],
    measures: Sequence[str] = DEFAULT,
) -> Scores:
    """Scores a run.

    Args:
        run: Query -> document -> score, the higher the better. Queries without judgements are ignored.
        qrels: Query -> document -> grade.
        measures: Of `ndcg`, `recall`, `p`, `map`, `mrr`, `hit`, each with `@k` or without a cut, and `rank`.

    Raises:
        UsageError: There is no such measure, nothing is judged, or a score is not finite.

    Example:
        >>> evaluate({"q": {"a": 2.0, "b": 1.0}}, {"q": {"b": 1}}, ["mrr"]).mean("mrr")
        0.5
    """
    if not qrels:
        raise UsageError("qrels: expected at least one judged query, got none")
    asked = {name: _parse(name) for name in measures}
    values: dict[str, dict[str, float]] = {name: {} for name in asked}
    for query, judged in qrels.items():
        order = ranked(run.get(query, {}))
        along = np.array([max(judged.get(document, 0), 0) for document in order], float)
        best = np.array(sorted((grade for grade in judged.values() if grade > 0), reverse=True), float)
        for name, (measure, cut) in asked.items():
            values[name][query] = measure(along, best, cut)
    return Scores(values, tuple(query for query in qrels if query not in run))


def ranked(scores: Mapping[str, float]) -> list[str]:
    """Documents in trec_eval's order.

    Raises:
        UsageError: A score is not finite.
    """
    for document, score in scores.items():
        if not math.isfinite(score):
            raise UsageError(f"document {document!r}: expected a finite score, got {score!r}")
    return sorted(scores, key=lambda document: (np.float32(scores[document]), document.encode()), reverse=True)


def _parse(name: str) -> tuple[_Measure, int]:
    match = _NAME.fullmatch(name)
    if match is None or (match[1] == "rank" and match[2]) or (match[1] in ("recall", "p", "hit") and not match[2]):
        raise UsageError(
            f"measure {name!r}: expected ndcg, map or mrr, with or without @k, recall@k, p@k, hit@k or rank"
        )
    return _MEASURES[match[1]], int(match[2] or np.iinfo(np.int64).max)


def _discounted(grades: np.ndarray) -> float:
    return float((grades / np.log2(np.arange(2, len(grades) + 2))).sum())


def _ndcg(along: np.ndarray, best: np.ndarray, cut: int) -> float:
    return _discounted(along[:cut]) / _discounted(best[:cut]) if len(best) else 0.0


def _recall(along: np.ndarray, best: np.ndarray, cut: int) -> float:
    return float((along[:cut] > 0).sum() / len(best)) if len(best) else 0.0


def _precision(along: np.ndarray, best: np.ndarray, cut: int) -> float:
    return float((along[:cut] > 0).sum() / cut)


def _average_precision(along: np.ndarray, best: np.ndarray, cut: int) -> float:
    relevant = along[:cut] > 0
    precision = np.cumsum(relevant) / np.arange(1, len(relevant) + 1)
    return float(precision[relevant].sum() / len(best)) if len(best) else 0.0


def _rank(along: np.ndarray, best: np.ndarray, cut: int) -> float:
    places = np.flatnonzero(along[:cut])
    return float(places[0] + 1) if len(places) else math.inf


def _reciprocal(along: np.ndarray, best: np.ndarray, cut: int) -> float:
    return 1 / _rank(along, best, cut)


def _hit(along: np.ndarray, best: np.ndarray, cut: int) -> float:
    return float((along[:cut] > 0).any())


_MEASURES: dict[str, _Measure] = {
    "ndcg": _ndcg,
    "recall": _recall,
    "p": _precision,
    "map": _average_precision,
    "mrr": _reciprocal,
    "hit": _hit,
    "rank": _rank,
}


def _average(measure: str, values: Sequence[float]) -> float:
    if not values:
        return math.nan
    return float(np.median(values) if measure == "rank" else np.mean(values))
