"""All vectors of a space in the memory of a GPU, where FAISS was built for one (faiss-gpu) and one is there.

Only for searches without a filter: FAISS's flat index on a GPU takes a selector and drops it in silence. What it finds
is scored again on the CPU; its own arithmetic may round to ten bits, so a wide margin decides whether what it left out
could be better.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ...errors import UsageError

__all__ = ["DEVICES", "MARGIN", "MOST", "GpuFlat", "gpu_for"]

DEVICES = ("auto", "cpu", "cuda")

# Of a cosine: TF32 keeps ten bits of each factor.
MARGIN = 4e-3

# Rows that FAISS returns of one search on a GPU.
MOST = 2048

# Below this a search on the CPU takes about as long as the way to the GPU and back.
_WORTH = 20_000
_CHUNK = 65_536


class GpuFlat:
    """The rows of a backend on the first GPU.

    Args:
        dim: Length of a vector.
    """

    def __init__(self, dim: int) -> None:
        import faiss

        config = faiss.GpuIndexFlatConfig()
        config.device = 0
        self._resources = faiss.StandardGpuResources()
        self._index = faiss.GpuIndexFlatIP(self._resources, dim, config)

    def add(self, vectors: np.ndarray) -> None:
        """Copies further rows, (n, dim), which may lie on the disk."""
        for start in range(0, len(vectors), _CHUNK):
            self._index.add(np.ascontiguousarray(vectors[start : start + _CHUNK], np.float32))

    def top(self, query: np.ndarray, wanted: int) -> tuple[np.ndarray, float]:
        """The rows nearest to a query, (dim,), and the lowest score among them; minus infinity if these are all."""
        scores, rows = self._index.search(np.ascontiguousarray(query[None], np.float32), min(wanted, MOST))
        rows, scores = rows[0][rows[0] >= 0], scores[0][rows[0] >= 0]
        return rows, float(scores.min()) if len(rows) < self._index.ntotal else -np.inf


def gpu_for(device: str, rows: int, dim: int) -> Any:
    """A `GpuFlat` where it is asked for, or is there and worth it; else None.

    Args:
        device: `auto`, `cpu` or `cuda`.
        rows: Rows that it has to hold.
        dim: Length of a vector.

    Raises:
        UsageError: `cuda` is asked for where there is none, or another device.
    """
    import faiss

    if device not in DEVICES:
        raise UsageError(f"device: expected {', '.join(DEVICES)}, got {device!r}")
    if device == "cpu" or (device == "auto" and rows < _WORTH):
        return None
    there = hasattr(faiss, "StandardGpuResources") and faiss.get_num_gpus() > 0
    if not there and device == "cuda":
        raise UsageError("device: expected a GPU and faiss-gpu for cuda, found none; use cpu")
    if not there:
        return None
    try:
        return GpuFlat(dim)
    except RuntimeError:
        # Without room for FAISS's own buffers; the CPU gives the same answers.
        if device == "cuda":
            raise
        return None
