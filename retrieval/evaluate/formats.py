"""Data sets and runs of retrieval as files.

BEIR (Thakur et al. 2021, arXiv 2104.08663): `corpus.jsonl` with `_id`, `title`, `text`; `queries.jsonl` with `_id`,
`text`; `qrels/SPLIT.tsv` with a header line, then query, document and grade. Multi-CPR (Long et al. 2022, arXiv
2203.03367): `corpus.tsv` with document and text, `SPLIT.query.txt` with query and text, `qrels.SPLIT.tsv` with query,
0, document and grade, no header. TREC runs: query, `Q0`, document, rank, score, name, apart by white space.

A first line of judgements is taken for a header only if it is one, so no judgement is lost.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...data.atomic import replacing
from ...errors import InputError, UsageError
from .measures import ranked

__all__ = ["Document", "Task", "read_beir", "read_multi_cpr", "read_qrels", "read_run", "read_task", "write_run"]

Qrels = dict[str, dict[str, int]]
Run = dict[str, dict[str, float]]


@dataclass(frozen=True)
class Document:
    """What is searched for."""

    text: str
    title: str = ""

    @property
    def whole(self) -> str:
        """Title and text, as BEIR joins them."""
        return f"{self.title} {self.text}".strip()


@dataclass(frozen=True)
class Task:
    """A data set: every judged document and query is there, and every query has a judgement.

    Attributes:
        corpus: Documents by id.
        queries: Texts by id, those with judgements.
        qrels: Query -> document -> grade.
        about: Further fields of the queries, by query; BEIR calls them metadata.
    """

    corpus: dict[str, Document]
    queries: dict[str, str]
    qrels: Qrels
    about: dict[str, dict[str, Any]]


def read_beir(folder: str | Path, split: str = "test") -> Task:
    """Reads a data set in BEIR's format.

    Args:
        folder: Holds `corpus.jsonl`, `queries.jsonl` and `qrels/`.
        split: Name of the file of judgements, without its ending.

    Raises:
        InputError: A file is missing, an id is there twice, a line is not what the format promises, or a judgement is
            of a query or document that is not there; the message names file and line.
    """
    folder = Path(folder)
    corpus: dict[str, Document] = {}
    for place, row in _json_lines(folder / "corpus.jsonl"):
        _new(corpus, row["_id"], place)
        corpus[row["_id"]] = Document(_text(row, "text", place), _text(row, "title", place, default=""))
    queries: dict[str, str] = {}
    about: dict[str, dict[str, Any]] = {}
    for place, row in _json_lines(folder / "queries.jsonl"):
        _new(queries, row["_id"], place)
        queries[row["_id"]] = _text(row, "text", place)
        about[row["_id"]] = row["metadata"] if isinstance(row.get("metadata"), dict) else {}
    return _task(corpus, queries, folder / "qrels" / f"{split}.tsv", about)


def read_multi_cpr(folder: str | Path, split: str = "dev") -> Task:
    """Reads one domain of Multi-CPR.

    Args:
        folder: Holds `corpus.tsv`, `SPLIT.query.txt` and `qrels.SPLIT.tsv`.
        split: `train` or `dev`.

    Raises:
        InputError: As `read_beir`.
    """
    folder = Path(folder)
    texts: list[dict[str, str]] = []
    for file in (folder / "corpus.tsv", folder / f"{split}.query.txt"):
        read: dict[str, str] = {}
        for place, line in _lines(file):
            name, tab, text = line.partition("\t")
            if not tab:
                raise InputError(f"{place}: expected an id, a tab and a text, got {line[:60]!r}")
            _new(read, name, place)
            read[name] = text
        texts.append(read)
    corpus = {name: Document(text) for name, text in texts[0].items()}
    return _task(corpus, texts[1], folder / f"qrels.{split}.tsv", {})


def read_task(folder: str | Path, split: str) -> Task:
    """Reads a data set in whichever of the two formats it is: one with `corpus.tsv` is a domain of Multi-CPR.

    Raises:
        InputError: As `read_beir`.
    """
    folder = Path(folder)
    return read_multi_cpr(folder, split) if (folder / "corpus.tsv").is_file() else read_beir(folder, split)


def read_qrels(file: str | Path) -> Qrels:
    """Reads judgements: query, document, grade (BEIR), or query, 0, document, grade (TREC, Multi-CPR).

    Raises:
        InputError: A line is neither, or a document is judged twice for a query.
    """
    qrels: Qrels = {}
    for number, (place, line) in enumerate(_lines(Path(file))):
        columns = line.split("\t") if "\t" in line else line.split()
        if len(columns) == 4:
            del columns[1]
        if len(columns) == 3 and number == 0 and not _whole(columns[2]) and "id" in columns[0].lower():
            continue
        if len(columns) != 3 or not _whole(columns[2]):
            raise InputError(f"{place}: expected query, document and a whole grade, apart by tabs; got {line[:80]!r}")
        query, document, grade = columns
        _new(qrels.setdefault(query, {}), document, place)
        qrels[query][document] = int(grade)
    if not qrels:
        raise InputError(f"{file}: expected judgements, found none")
    return qrels


def read_run(file: str | Path) -> Run:
    """Reads a TREC run; ranks are ignored, as trec_eval ignores them: the scores say the order.

    Raises:
        InputError: A line does not have six columns or a finite score, or a document is there twice for a query.
    """
    run: Run = {}
    for place, line in _lines(Path(file)):
        columns = line.split()
        if len(columns) != 6:
            raise InputError(f"{place}: expected query, Q0, document, rank, score and name, got {line[:80]!r}")
        query, _, document, _, score, _ = columns
        _new(run.setdefault(query, {}), document, place)
        try:
            run[query][document] = float(score)
        except ValueError:
            raise InputError(f"{place}: expected a number as score, got {score!r}") from None
        if not math.isfinite(run[query][document]):
            raise InputError(f"{place}: expected a finite score, got {score}")
    return run


def write_run(run: Mapping[str, Mapping[str, float]], file: str | Path, *, name: str = "palyno") -> Path:
    """Writes a TREC run, in trec_eval's order.

    Raises:
        UsageError: An id or the name is empty or has white space, which the format cannot hold, or a score is not
            finite.
    """
    lines = []
    for query, scores in run.items():
        for rank, document in enumerate(ranked(scores), 1):
            for word in (query, document, name):
                if len(word.split()) != 1:
                    raise UsageError(f"expected ids without white space, as TREC's format has them, got {word!r}")
            lines.append(f"{query} Q0 {document} {rank} {float(scores[document])!r} {name}\n")
    with replacing(file) as out:
        out.writelines(lines)
    return Path(file)


def _task(corpus: dict[str, Document], queries: dict[str, str], file: Path, about: dict[str, dict[str, Any]]) -> Task:
    qrels = read_qrels(file)
    for query, judged in qrels.items():
        if query not in queries:
            raise InputError(f"{file}: query {query!r}: expected to be among the queries, which do not have it")
        if missing := [document for document in judged if document not in corpus]:
            raise InputError(f"{file}: document {missing[0]!r}: expected to be in the corpus, which does not have it")
    return Task(
        corpus, {query: queries[query] for query in qrels}, qrels, {query: about.get(query, {}) for query in qrels}
    )


def _lines(file: Path) -> Iterator[tuple[str, str]]:
    """Lines that are not empty, each with the name of its place."""
    try:
        with file.open(encoding="utf-8-sig", newline="\n") as lines:
            for number, line in enumerate(lines, 1):
                if line.strip():
                    yield f"{file}:{number}", line.rstrip("\r\n")
    except OSError as error:
        raise InputError(f"{file}: expected a file of the data set, {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{file}: expected UTF-8, {error.reason} at byte {error.start}") from error


def _json_lines(file: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    for place, line in _lines(file):
        try:
            row = json.loads(line)
        except ValueError as error:
            raise InputError(f"{place}: expected a JSON object, {error}") from error
        if not isinstance(row, dict) or not isinstance(row.get("_id"), str):
            raise InputError(f"{place}: expected a JSON object with a text as _id, got {line[:60]!r}")
        yield place, row


def _text(row: Mapping[str, Any], name: str, place: str, default: str | None = None) -> str:
    value = row.get(name, default)
    if not isinstance(value, str):
        raise InputError(f"{place}: {name}: expected a text, got {value!r}")
    return value


def _new(known: Mapping[str, Any], name: str, place: str) -> None:
    if name in known:
        raise InputError(f"{place}: {name!r}: expected each id once, got it again")


def _whole(text: str) -> bool:
    return text.strip().lstrip("-").isascii() and text.strip().lstrip("-").isdigit()
