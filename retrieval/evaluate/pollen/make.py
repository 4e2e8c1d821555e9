"""Makes the test set from its tables: `python -m palyno.retrieval.evaluate.pollen.make`.

`taxa.csv` says what is known of each pollen type (tags, size) and describes it in words; `intents.csv` what is asked
(tags that must be there, after `!` not there, with `/` any of them; `=` one type by name) and how people put it. What
is relevant follows from the tags alone: nobody judged a document by its words, and no system had a part in it.
`atlas.csv` has texts by other hands, each on one type.
"""

from __future__ import annotations

import csv
import hashlib
import json
from collections.abc import Iterable, Iterator

from ....errors import InputError
from . import FOLDER

__all__ = ["SIZES", "build", "relevant", "split_of", "tags_of"]

LANGUAGES = ("la", "en", "de", "es", "fr")

# Classes of the mean size, µm, after Erdtman as PalDat has them.
SIZES = {"verysmall": (0, 10), "small": (10, 25), "medium": (25, 50), "large": (50, 100), "verylarge": (100, 1000)}


def build() -> dict[str, str]:
    """File name -> content, in BEIR's format.

    Raises:
        InputError: A question that no type answers, or one that names what is not there.
    """
    taxa, intents = list(_rows("taxa.csv")), list(_rows("intents.csv"))
    tags = {row["id"]: tags_of(row) for row in taxa}
    corpus = []
    for row in taxa:
        title = f"{row['taxon']}, {row['english']} ({row['family']})"
        text = f"{row['text']} {row['um_min']}–{row['um_max']} µm."
        corpus.append({"_id": row["id"], "title": title, "text": text, "metadata": {"sources": row["sources"].split()}})
    queries: list[dict[str, object]] = []
    qrels: dict[str, list[str]] = {"dev": [], "test": [], "atlas": []}
    for row in intents:
        found = relevant(row["asks"], tags)
        if not found:
            raise InputError(f"intents.csv: {row['asks']!r}: expected at least one type that answers, found none")
        for language in LANGUAGES:
            if row[language]:
                name = f"q{len(queries) + 1:03}"
                about = {"kind": row["kind"], "language": language, "asks": row["asks"]}
                queries.append({"_id": name, "text": row[language], "metadata": about})
                qrels[split_of(row["asks"])] += [f"{name}\t{document}\t1" for document in found]
    for number, row in enumerate(_rows("atlas.csv"), 1):
        name, about = f"a{number:02}", {"kind": row["kind"], "language": "en", "asks": row["asks"]}
        queries.append({"_id": name, "text": row["en"], "metadata": about})
        qrels["atlas"] += [f"{name}\t{document}\t1" for document in relevant(row["asks"], tags)]
    files = {f"{name}.jsonl": _lines(map(_json, rows)) for name, rows in (("corpus", corpus), ("queries", queries))}
    return files | {
        f"qrels/{split}.tsv": _lines(["query-id\tcorpus-id\tscore", *rows]) for split, rows in qrels.items()
    }


def relevant(asks: str, tags: dict[str, frozenset[str]]) -> list[str]:
    """The types that answer a question.

    Args:
        asks: As in `intents.csv`.
        tags: Tags by type.

    Raises:
        InputError: A tag that no type has, or a type that is not there.
    """
    if asks.startswith("="):
        if asks[1:] not in tags:
            raise InputError(f"{asks}: expected a type of taxa.csv")
        return [asks[1:]]
    known, found = frozenset().union(*tags.values()), set(tags)
    for part in asks.split():
        wanted = set(part.removeprefix("!").split("/"))
        if not wanted <= known:
            raise InputError(f"{asks!r}: {part}: expected a tag of taxa.csv")
        having = {name for name, own in tags.items() if own & wanted}
        found = found - having if part.startswith("!") else found & having
    return sorted(found)


def tags_of(row: dict[str, str]) -> frozenset[str]:
    """The tags of a row of `taxa.csv`, with the class of its mean size."""
    mean = (int(row["um_min"]) + int(row["um_max"])) / 2
    size = next(name for name, (low, high) in SIZES.items() if low <= mean < high)
    return frozenset([*row["tags"].split(), size])


def split_of(asks: str) -> str:
    """`dev` for two fifths of the questions, `test` for the rest; all wordings of a question are in one."""
    return "dev" if hashlib.sha256(asks.encode()).digest()[0] % 5 < 2 else "test"


def _rows(name: str) -> Iterator[dict[str, str]]:
    with (FOLDER / name).open(encoding="utf-8", newline="") as file:
        yield from csv.DictReader(file)


def _json(row: object) -> str:
    return json.dumps(row, ensure_ascii=False)


def _lines(rows: Iterable[str]) -> str:
    return "".join(f"{row}\n" for row in rows)


if __name__ == "__main__":
    for name, content in build().items():
        (FOLDER / name).parent.mkdir(exist_ok=True)
        (FOLDER / name).write_text(content, encoding="utf-8")
