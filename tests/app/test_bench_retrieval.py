"""`palyno bench retrieval`: figures that can be recomputed, and the page made of them."""

import json
from pathlib import Path

import numpy as np
import palyno
import pytest
from click.testing import CliRunner
from palyno import InputError, UsageError
from palyno.app.bench_retrieval import FUSED, SYSTEMS, bench_retrieval, read_figures, render, tables
from palyno.app.cli import cli
from palyno.retrieval.evaluate import evaluate
from palyno.retrieval.evaluate.pollen import read_pollen
from palyno.retrieval.lexical import Lexicon

LEXICAL = ("BM25", "glossary + BM25")


class Letters:
    """An encoder of no meaning at all: counts of letters."""

    encoder_id, dim, modality = "letters", 27, "text"

    def encode(self, texts):
        counts = np.array([[1, *(text.lower().count(chr(97 + i)) for i in range(26))] for text in texts], np.float32)
        return counts / np.linalg.norm(counts, axis=1, keepdims=True)


@pytest.fixture(scope="module")
def document():
    return bench_retrieval("dev", encoder=Letters(), systems=[*LEXICAL, FUSED])


def test_bm25_is_what_a_plain_loop_gives(document):
    task = read_pollen("dev")
    names = list(task.corpus)
    lexicon = Lexicon()
    lexicon.add(range(len(names)), [f"{one.title} {one.text}" for one in task.corpus.values()])
    run = {q: {names[n]: score for n, score in lexicon.search(text, 999)} for q, text in task.queries.items()}
    mean = evaluate(run, task.qrels, ["recall@10"]).mean("recall@10")
    row = next(row for row in document["systems"] if row["system"] == "BM25")
    assert row["recall@10"]["mean"] == pytest.approx(mean, abs=0.002)


def test_groups_add_up_to_the_whole(document):
    for row in document["systems"]:
        for field in ("kind", "language"):
            groups = row[field].values()
            total = sum(group["queries"] * group["ndcg@10"] for group in groups) / document["queries"]
            assert total == pytest.approx(row["ndcg@10"]["mean"], abs=2e-4)
            assert sum(group["queries"] for group in groups) == document["queries"]


def test_pairs_are_over_questions_and_corrected(document):
    assert [(pair["b"], pair["measure"]) for pair in document["pairs"][:2]] == [
        ("BM25", "ndcg@10"),
        ("BM25", "recall@10"),
    ]
    for pair in document["pairs"]:
        over = pair["questions"]
        assert over["wins"] + over["losses"] + over["ties"] == document["questions"] < document["queries"]
        assert over["low"] <= over["difference"] <= over["high"] and over["p_holm"] >= over["p"]


def test_the_page_has_every_system_and_only_the_marked_place_changes(document, tmp_path):
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- bench:text-dev -->\nold\n<!-- /bench:text-dev -->\nafter\n", encoding="utf-8")
    render(document, page)
    text = page.read_text(encoding="utf-8")
    assert text.startswith("before\n") and text.endswith("after\n") and "old" not in text and tables(document) in text
    render(document, page)
    assert page.read_text(encoding="utf-8") == text
    page.write_text("no marks", encoding="utf-8")
    with pytest.raises(UsageError, match="expected places such as <!-- bench:text-dev -->"):
        render(document, page)


def test_a_data_set_of_ones_own_is_measured(tmp_path):
    (tmp_path / "qrels").mkdir()
    (tmp_path / "corpus.jsonl").write_text(
        '{"_id": "a", "text": "spiny"}\n{"_id": "b", "text": "net"}\n', encoding="utf-8"
    )
    (tmp_path / "queries.jsonl").write_text('{"_id": "q", "text": "spiny"}\n', encoding="utf-8")
    (tmp_path / "qrels" / "test.tsv").write_text("q\ta\t1\n", encoding="utf-8")
    document = bench_retrieval("test", folder=tmp_path, systems=["BM25"], encoder=Letters())
    assert document["systems"][0]["mrr@10"]["mean"] == 1 and document["pairs"] == []
    assert "| BM25 | 1.000 |" in tables(document)


@pytest.mark.parametrize("split", ["test", "atlas"])
def test_shipped_figures_are_of_this_set_and_on_the_page(split):
    root = Path(palyno.__file__).parent
    name = "retrieval_text.json" if split == "test" else f"retrieval_text_{split}.json"
    document, task = read_figures(root / "docs" / "results" / name), read_pollen(split)
    sizes = {"split": split, "queries": len(task.queries), "documents": len(task.corpus)}
    assert {key: document[key] for key in sizes} == sizes
    assert [row["system"] for row in document["systems"]] == list(SYSTEMS)
    assert tables(document) in (root / "docs" / "retrieval.md").read_text(encoding="utf-8")


def test_wrong_use_is_told(tmp_path):
    with pytest.raises(UsageError, match="systems: expected some of"):
        bench_retrieval("dev", systems=["TF-IDF"], encoder=Letters())
    file = tmp_path / "x.json"
    file.write_text(json.dumps({"format": "other"}), encoding="utf-8")
    with pytest.raises(InputError, match="expected figures of `palyno bench retrieval`"):
        read_figures(file)
    told = CliRunner().invoke(cli, ["bench", "retrieval", "--split", "train"], standalone_mode=False)
    assert isinstance(told.exception, InputError) and "train.tsv" in str(told.exception)
