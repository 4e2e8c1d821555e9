"""Search in texts beside its own parts, on the shipped palynological questions or on others, BEIR's or Multi-CPR's.

Every system ranks every document. A question is put in several languages and wordings, which are not independent of
each other: the paired tests are over questions, each with the mean of its wordings; those over queries stand beside.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from .. import __version__
from ..errors import UsageError
from ..retrieval.encoders import Encoder
from ..retrieval.encoders.text import TextEncoder
from ..retrieval.evaluate import Scores, Task, compare, evaluate, holm, interval, read_task
from ..retrieval.evaluate.pollen import read_pollen
from ..retrieval.fusion import RRF_K
from ..retrieval.glossary import Glossary
from ..retrieval.hybrid import VECTOR_WEIGHT, TextSearch
from ..retrieval.lexical import K1, B
from .markdown import table

__all__ = ["FORMAT", "FUSED", "MEASURES", "SYSTEMS", "bench_retrieval", "tables"]

FORMAT = "palyno-bench-retrieval-text-1"

MEASURES = ("ndcg@10", "recall@10", "mrr@10")
LABELS = dict(zip(MEASURES, ("nDCG@10", "Recall@10", "MRR@10"), strict=True))

# Name -> (vectors, words, glossary).
SYSTEMS = {
    "MiniLM": (True, False, False),
    "BM25": (False, True, False),
    "BM25 + MiniLM": (True, True, False),
    "glossary + MiniLM": (True, False, True),
    "glossary + BM25": (False, True, True),
    "glossary + BM25 + MiniLM": (True, True, True),
}
FUSED = "glossary + BM25 + MiniLM"

Document = Mapping[str, Any]


def bench_retrieval(
    split: str = "test",
    *,
    folder: str | Path | None = None,
    systems: Sequence[str] = tuple(SYSTEMS),
    encoder: Encoder | None = None,
    on_system: Callable[[str, float], None] = lambda name, value: None,
) -> dict[str, Any]:
    """Measures search in texts.

    Args:
        split: Of the judgements; of the shipped set `dev`, `test` or `atlas`.
        folder: A data set in BEIR's format, or a domain of Multi-CPR; None takes the shipped one.
        systems: Which of `SYSTEMS`.
        encoder: Of sentences; None takes the shipped one.
        on_system: Told the name and nDCG@10 of each system once it is done.

    Returns:
        Settings; `systems`, each with means, limits and means by kind and language of the queries; `pairs`, the fused
        system against each other one.

    Raises:
        UsageError: There is no such system.
        InputError: The data set cannot be read.
    """
    if unknown := sorted(set(systems) - set(SYSTEMS)):
        raise UsageError(f"systems: expected some of {', '.join(SYSTEMS)}; got {', '.join(unknown)}")
    task = read_pollen(split) if folder is None else read_task(folder, split)
    encoder = encoder or TextEncoder()
    scores, rows = {}, []
    for name in systems:
        started = time.perf_counter()
        scores[name] = evaluate(_run(task, name, encoder), task.qrels, MEASURES)
        seconds = time.perf_counter() - started
        rows.append({"system": name, **_summary(scores[name], task), "seconds": round(seconds, 2)})
        on_system(name, scores[name].mean(MEASURES[0]))
    return {
        "format": FORMAT,
        "when": datetime.now(UTC).isoformat(timespec="seconds"),
        "palyno": __version__,
        "data": "shipped" if folder is None else Path(folder).name,
        "split": split,
        "documents": len(task.corpus),
        "queries": len(task.queries),
        "questions": len(set(_questions(task).values())),
        "settings": {
            "encoder_id": encoder.encoder_id,
            "bm25": {"k1": K1, "b": B},
            "rrf_k": RRF_K,
            "vector_weight": VECTOR_WEIGHT,
        },
        "systems": rows,
        "pairs": _pairs(scores, task),
    }


def _run(task: Task, name: str, encoder: Encoder) -> dict[str, dict[str, float]]:
    vectors, words, glossary = SYSTEMS[name]
    # Without a glossary the two rankings count alike, as RRF was published.
    search = TextSearch(
        encoder if vectors else None,
        words=words,
        glossary=Glossary.shipped() if glossary else None,
        vector_weight=VECTOR_WEIGHT if glossary else 1.0,
    )
    names = list(task.corpus)
    search.add(range(len(names)), [task.corpus[name].whole for name in names])
    run = {}
    for query, text in task.queries.items():
        # Ranks as scores: documents that are not wanted come last whatever their score.
        found = search.search(text, len(names))
        run[query] = {names[one.number]: 1.0 / (1 + rank) for rank, one in enumerate(found)}
    return run


def _questions(task: Task) -> dict[str, str]:
    """The question that each query is a wording of; a query of a foreign set is its own."""
    return {query: str(task.about[query].get("asks", query)) for query in task.queries}


def _by_question(values: Mapping[str, float], task: Task) -> np.ndarray:
    groups: dict[str, list[float]] = {}
    for query, question in _questions(task).items():
        groups.setdefault(question, []).append(values[query])
    return np.array([np.mean(group) for group in groups.values()])


def _summary(scores: Scores, task: Task) -> dict[str, Any]:
    row: dict[str, Any] = {"missing": len(scores.missing)}
    for measure in MEASURES:
        limits = interval(_by_question(scores.values[measure], task))
        row[measure] = {
            "mean": round(scores.mean(measure), 4),
            "by_question": [round(value, 4) for value in (limits.mean, limits.low, limits.high)],
        }
    for field in ("kind", "language"):
        groups: dict[str, list[str]] = {}
        for query, about in task.about.items():
            if field in about:
                groups.setdefault(str(about[field]), []).append(query)
        row[field] = {
            group: {"queries": len(queries)}
            | {measure: round(float(scores.array(measure, queries).mean()), 4) for measure in MEASURES}
            for group, queries in groups.items()
        }
    return row


def _pairs(scores: Mapping[str, Scores], task: Task) -> list[dict[str, Any]]:
    if FUSED not in scores:
        return []
    pairs: list[dict[str, Any]] = []
    for name in (name for name in scores if name != FUSED):
        for measure in MEASURES:
            a, b = scores[FUSED].values[measure], scores[name].values[measure]
            over = {
                "questions": compare(_by_question(a, task), _by_question(b, task)),
                "queries": compare(list(a.values()), list(b.values())),
            }
            pairs.append({"a": FUSED, "b": name, "measure": measure} | {key: vars(one) for key, one in over.items()})
    for pair, p in zip(pairs, holm([pair["questions"]["p"] for pair in pairs]), strict=True):
        pair["questions"] = pair["questions"] | {"p_holm": p}
    return pairs


def tables(document: Document) -> str:
    """The figures as Markdown."""
    systems = document["systems"]
    first = MEASURES[0]
    parts = [
        f"{document['data'].capitalize()} set, split `{document['split']}`: {document['queries']} queries, wordings of "
        f"{document['questions']} questions, {document['documents']} documents. Limits: 95 %, by bootstrap.",
        table(
            ["", "nDCG@10", "by question (limits)", "Recall@10", "MRR@10"],
            [
                [row["system"], f"{row[first]['mean']:.3f}", _limits(row[first]["by_question"])]
                + [f"{row[measure]['mean']:.3f}" for measure in MEASURES[1:]]
                for row in systems
            ],
        ),
    ]
    for field in ("kind", "language"):
        if len(groups := systems[0][field]) > 1:
            header = ["nDCG@10 by " + field, *(f"{name} ({group['queries']})" for name, group in groups.items())]
            lines = [[row["system"], *(f"{group[first]:.3f}" for group in row[field].values())] for row in systems]
            parts.append(table(header, lines))
    if document["pairs"]:
        header = [
            f"{FUSED} against",
            "measure",
            "difference (limits)",
            "better / worse / same",
            "p",
            "Holm",
            "by query",
        ]
        parts.append(table(header, [_pair(pair) for pair in document["pairs"]]))
    return "\n\n".join(parts)


def _pair(pair: Mapping[str, Any]) -> list[str]:
    over = pair["questions"]
    difference = f"{over['difference']:+.3f} ({over['low']:+.3f} to {over['high']:+.3f})"
    counts = " / ".join(str(over[key]) for key in ("wins", "losses", "ties"))
    ps = (over["p"], over["p_holm"], pair["queries"]["p"])
    return [pair["b"], LABELS[pair["measure"]], difference, counts, *(f"{p:.4f}" for p in ps)]


def _limits(values: Sequence[float]) -> str:
    return f"{values[0]:.3f} ({values[1]:.3f} to {values[2]:.3f})"
