"""`palyno bench retrieval`: figures that can be recomputed, and the page made of them."""

import json
from pathlib import Path

import numpy as np
import palyno
import pytest
from click.testing import CliRunner
from palyno import InputError, UsageError
from palyno.app.bench_retrieval import FUSED, SYSTEMS, bench_retrieval, tables
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


def test_chinese_in_the_format_of_multi_cpr_is_measured_by_characters_and_their_pairs(tmp_path):
    """A domain of three texts: the sentence encoder reads none of them and has no part in the fused answers."""
    texts = {"1": "桦木属花粉三孔,外壁光滑", "2": "松属花粉有两个气囊", "3": "禾本科花粉单孔"}
    (tmp_path / "corpus.tsv").write_text("".join(f"{n}\t{text}\n" for n, text in texts.items()), encoding="utf-8")
    (tmp_path / "dev.query.txt").write_text("a\t桦木属\nb\t气囊\nc\t单孔花粉\n", encoding="utf-8")
    (tmp_path / "qrels.dev.tsv").write_text("a\t0\t1\t1\nb\t0\t2\t1\nc\t0\t3\t1\n", encoding="utf-8")
    document = bench_retrieval("dev", folder=tmp_path)
    found = {row["system"]: row["mrr@10"]["mean"] for row in document["systems"]}
    assert {name: found[name] for name in ("BM25", "BM25 + MiniLM", FUSED)} == {"BM25": 1, "BM25 + MiniLM": 1, FUSED: 1}
    assert found["MiniLM"] == 0


@pytest.mark.parametrize("split", ["test", "atlas"])
def test_shipped_figures_are_of_this_set(split):
    root = Path(palyno.__file__).parent
    name = "retrieval_text.json" if split == "test" else f"retrieval_text_{split}.json"
    document, task = json.loads((root / "docs" / "results" / name).read_text(encoding="utf-8")), read_pollen(split)
    sizes = {"split": split, "queries": len(task.queries), "documents": len(task.corpus)}
    assert {key: document[key] for key in sizes} == sizes
    assert [row["system"] for row in document["systems"]] == list(SYSTEMS)


def test_wrong_use_is_told():
    with pytest.raises(UsageError, match="systems: expected some of"):
        bench_retrieval("dev", systems=["TF-IDF"], encoder=Letters())
    told = CliRunner().invoke(cli, ["bench", "retrieval", "--split", "train"], standalone_mode=False)
    assert isinstance(told.exception, InputError) and "train.tsv" in str(told.exception)
