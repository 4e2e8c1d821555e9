"""Writes to a collection without end, and says what is committed: `python writer.py FOLDER SEED`, to be killed."""

from __future__ import annotations

import sys

import numpy as np
from palyno.retrieval.collection import Collection, Record

DIM = 6


def vector_of(record_id):
    """The vector of a record, from its number: a reader needs no notes to know what must be there."""
    vector = np.random.default_rng(record_id).standard_normal(DIM).astype(np.float32)
    return vector / np.linalg.norm(vector)


def main(folder, seed):
    rng = np.random.default_rng(seed)
    with Collection.open(folder) as collection:
        print("ready", flush=True)
        while True:
            with collection.batch():
                n = int(rng.integers(1, 6))
                first = max((i for i, _ in collection.records()), default=0) + 1
                # Ids run on even where the last records were deleted, so they are asked for, not guessed.
                ids = collection.add([Record(kind="grain")] * n, "e", vectors=[vector_of(first)] * n)
                collection.embed(ids, [vector_of(i) for i in ids.tolist()], "e")
                collection.update(ids, taxon=f"added by {seed}", key=None)
                if len(collection) > 40:
                    collection.delete(where=f"id < {int(ids[0]) - 20}")
            if rng.random() < 0.1:
                collection.compact()
            print(collection.info()["generation"], len(collection), int(ids[-1]), flush=True)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
