"""What many texts cost a collection: to index their words, to open it, to change one, to search.

The texts are put together from the sentences of the shipped test set, each with a number of its own, so that their
words are as common and as rare as in descriptions of pollen. The vectors are drawn: encoding would take most of the
time, and how long a search takes does not depend on what they mean. Times are of the wall and of the processor; where
other work keeps a machine busy, the latter is the one to go by.
"""

from __future__ import annotations

import os
import platform
import random
import shutil
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

__all__ = ["QUERIES", "bench_texts"]

QUERIES = {
    "a name": "Betula",
    "a phrase": "triporate grain with a smooth wall",
    "in German, with a negation": "dreiporiger Pollen ohne Stacheln",
}
_DEEP = 1000
_T = TypeVar("_T")


def bench_texts(
    texts: int = 100_000,
    *,
    seed: int = 0,
    repeats: int = 5,
    folder: Path | None = None,
    tell: Callable[[str], None] = lambda line: None,
) -> dict[str, Any]:
    """Fills a collection with texts and times what is done with it.

    Args:
        texts: How many.
        seed: Of texts and vectors.
        repeats: Of each search; the middle one counts.
        folder: Where there is room for the collection, 7 kB a text; None takes the system's folder for such.
        tell: Is told what is being done.

    Returns:
        The settings, sizes in bytes, and `times`: what was done, with its seconds of the wall and of the processor.
    """
    from ..retrieval.collection import Collection
    from ..retrieval.encoders.text import TextEncoder
    from ..retrieval.glossary import Glossary
    from ..retrieval.hybrid import TextSearch
    from ..retrieval.words import terms

    made = _made(texts, seed)
    encoder = TextEncoder(threads=1)
    encoder.encode(["What is loaded once is not what is measured."])
    times: dict[str, dict[str, float]] = {}

    def timed(what: str, call: Callable[[], _T]) -> _T:
        tell(what)
        wall, cpu = time.perf_counter(), time.process_time()
        done = call()
        times[what] = {"wall_s": time.perf_counter() - wall, "cpu_s": time.process_time() - cpu}
        return done

    place = Path(tempfile.mkdtemp(prefix="palyno-texts-", dir=folder))
    try:
        with Collection.create(place / "c") as collection:
            timed("add the texts with their words", lambda: _add(collection, made))
            timed("add their vectors", lambda: _embed(collection, encoder, texts, seed))
            timed("change one text", lambda: collection.update([1], text=made[-1]))
            timed("delete one", lambda: collection.delete([2]))
        with timed("open", lambda: Collection.open(place / "c", encoders=[encoder])) as collection:
            for name, query in QUERIES.items():
                for k in (10, _DEEP):
                    what, runs = f"search: {name}, {k:,} best", []
                    for _ in range(repeats):
                        timed(what, partial(collection.search, query, k))
                        runs.append(times[what])
                    times[what] = sorted(runs, key=lambda run: run["cpu_s"])[repeats // 2]
            sizes = {"collection": collection.info()["bytes"], "text": sum(len(text.encode()) for text in made)}
            sizes["records"] = max(file.stat().st_size for file in (place / "c").glob("*.sqlite"))
        in_memory = TextSearch(None, glossary=Glossary.shipped())
        timed("read all in memory", lambda: in_memory.add(range(texts), made))
    finally:
        shutil.rmtree(place, ignore_errors=True)
    return {
        "texts": texts,
        "characters_each": round(sum(map(len, made)) / texts, 1),
        "words_each": round(sum(len(terms(text)) for text in made[:1000]) / len(made[:1000]), 1),
        "seed": seed,
        "machine": {"processor": platform.processor() or platform.machine(), "cores": os.cpu_count()},
        "load": [round(one, 1) for one in os.getloadavg()],
        "bytes": sizes,
        "times": {what: {key: round(s, 3) for key, s in one.items()} for what, one in times.items()},
    }


def _made(texts: int, seed: int) -> list[str]:
    from ..retrieval.evaluate.pollen import read_pollen

    rng = random.Random(seed)
    corpus = list(read_pollen("test").corpus.values())
    sentences = [sentence for document in corpus for sentence in document.text.split(". ")]
    return [
        f"{rng.choice(corpus).title}. {'. '.join(rng.choices(sentences, k=6))} Site {i}, {rng.randrange(900)} cm."
        for i in range(texts)
    ]


def _add(collection: Any, made: list[str]) -> None:
    from ..retrieval.collection import Record

    collection.add([Record(kind="text", text=text) for text in made], None)


def _embed(collection: Any, encoder: Any, texts: int, seed: int) -> None:
    vectors = np.random.default_rng(seed).standard_normal((texts, encoder.dim)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    collection.embed(np.arange(1, texts + 1), vectors, encoder)
