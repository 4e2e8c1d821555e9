"""A searchable, crash-safe archive of grains and texts: `Collection`.

    from palyno.retrieval.collection import Collection, Record

A folder holds

    manifest.json               the present generation: names and hashes of all the rest; replacing it is a commit
    records-000007.sqlite       what each grain or text is; never changed once it is named
    vectors-00-000001.f32       the vectors of one encoder; only grows
    index-00-000007.faiss       lists for large spaces; derived, `rebuild` makes them anew
    .palyno/lock                who is writing

Below 100,000 vectors of an encoder every search compares all of them. Above, FAISS's inverted lists propose and the
stored vectors decide; filters that few records pass are always compared in full.
"""

from __future__ import annotations

from .backend import Found, VectorBackend, merge
from .collection import EXACT_BELOW, Collection
from .local import FaissBackend
from .record import Hit, Pair, Record
from .shards import ShardedBackend
from .verify import Check

__all__ = [
    "EXACT_BELOW",
    "Check",
    "Collection",
    "FaissBackend",
    "Found",
    "Hit",
    "Pair",
    "Record",
    "ShardedBackend",
    "VectorBackend",
    "merge",
]
