"""Files of data sets and runs: read as their formats promise, or refused by file and line."""

import json

import pytest
from palyno import InputError, UsageError
from palyno.retrieval.evaluate import Document, read_beir, read_multi_cpr, read_qrels, read_run, write_run


def jsonl(file, *rows):
    file.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")


@pytest.fixture
def beir(tmp_path):
    jsonl(
        tmp_path / "corpus.jsonl",
        {"_id": "d1", "title": "Betula", "text": "three pores", "metadata": {}},
        {"_id": "d2", "text": "Größe 20 µm"},
    )
    jsonl(
        tmp_path / "queries.jsonl",
        {"_id": "q1", "text": "birch", "metadata": {"kind": "name"}},
        {"_id": "q2", "text": "x"},
    )
    (tmp_path / "qrels").mkdir()
    (tmp_path / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\nq1\td1\t1\nq1\td2\t0\n", encoding="utf-8")
    return tmp_path


def test_beir(beir):
    task = read_beir(beir)
    assert task.corpus == {"d1": Document("three pores", "Betula"), "d2": Document("Größe 20 µm")}
    assert [document.whole for document in task.corpus.values()] == ["Betula three pores", "Größe 20 µm"]
    assert (task.queries, task.qrels) == ({"q1": "birch"}, {"q1": {"d1": 1, "d2": 0}})
    assert task.about == {"q1": {"kind": "name"}}


def test_multi_cpr(tmp_path):
    (tmp_path / "corpus.tsv").write_text("1\t桦木 花粉\n2\t松\t花粉\n", encoding="utf-8")
    (tmp_path / "dev.query.txt").write_text("7\t桦木\n8\t松\n", encoding="utf-8")
    (tmp_path / "qrels.dev.tsv").write_text("7\t0\t1\t1\n", encoding="utf-8")
    task = read_multi_cpr(tmp_path)
    assert task.corpus == {"1": Document("桦木 花粉"), "2": Document("松\t花粉")}
    assert (task.queries, task.qrels) == ({"7": "桦木"}, {"7": {"1": 1}})


def test_judgements_with_and_without_a_header_lose_no_line(tmp_path):
    file = tmp_path / "q.tsv"
    for text in (
        "query-id\tcorpus-id\tscore\na\tb\t2\n",
        "a\tb\t2\n",
        "\ufeffa\tb\t2\r\n",
        "a 0 b 2\n",
        "a\t0\tb\t2\n\n",
    ):
        file.write_text(text, encoding="utf-8")
        assert read_qrels(file) == {"a": {"b": 2}}, text


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("corpus.jsonl", '{"_id": "d1", "text": "x"}\n{"_id": "d1", "text": "y"}\n', r"corpus\.jsonl:2: 'd1'.*once"),
        ("corpus.jsonl", '{"_id": "d1"}\n', r"corpus\.jsonl:1: text: expected a text"),
        ("corpus.jsonl", '{"_id": 1, "text": "x"}\n', "a text as _id"),
        ("corpus.jsonl", "{broken\n", r"corpus\.jsonl:1: expected a JSON object"),
        ("queries.jsonl", '{"_id": "other", "text": "x"}\n', "query 'q1'.*among the queries"),
        ("corpus.jsonl", '{"_id": "d1", "text": "x"}\n', "document 'd2'.*in the corpus"),
        ("qrels/test.tsv", "q1\td1\t1\nq1\td1\t2\n", r"test\.tsv:2: 'd1'.*once"),
        ("qrels/test.tsv", "q1\td1\t1\nq1\td2\tgood\n", r"test\.tsv:2: expected query, document and a whole grade"),
        ("qrels/test.tsv", "query-id\tcorpus-id\tscore\n", "expected judgements, found none"),
    ],
)
def test_what_the_format_does_not_allow_is_refused_by_its_line(beir, name, text, said):
    (beir / name).write_text(text, encoding="utf-8")
    with pytest.raises(InputError, match=said):
        read_beir(beir)


def test_missing_files_and_other_encodings_are_refused(beir):
    with pytest.raises(InputError, match=r"dev\.tsv: expected a file of the data set"):
        read_beir(beir, "dev")
    (beir / "corpus.jsonl").write_bytes('{"_id": "d1", "text": "ü"}'.encode("latin-1"))
    with pytest.raises(InputError, match="expected UTF-8"):
        read_beir(beir)


def test_a_run_comes_back_as_it_was_written(tmp_path):
    run = {"q": {"a": 0.1, "b": 1 / 3, "ü×": -2.5e-9}, "r": {"a": 0.0}}
    file = write_run(run, tmp_path / "run.txt", name="mine")
    assert read_run(file) == run
    assert file.read_text(encoding="utf-8").splitlines()[0] == f"q Q0 b 1 {1 / 3!r} mine"


def test_runs_that_cannot_be_meant_are_refused(tmp_path):
    file = tmp_path / "run.txt"
    for text, said in (
        ("q Q0 d 1 nan x\n", "finite score"),
        ("q Q0 d 1 high x\n", "a number as score"),
        ("q Q0 d 1 2.0\n", "run.txt:1: expected query, Q0"),
        ("q Q0 d 1 2.0 x\nq Q0 d 2 1.0 x\n", "run.txt:2: 'd'.*once"),
    ):
        file.write_text(text, encoding="utf-8")
        with pytest.raises(InputError, match=said):
            read_run(file)
    with pytest.raises(UsageError, match="without white space"):
        write_run({"q": {"a b": 1.0}}, file)
