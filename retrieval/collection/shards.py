"""A space that is spread over several backends: `ShardedBackend`, and shards as Ray actors.

A record's vector lies in shard `id % n`. A search asks all shards at once and merges: the k nearest of the whole are
among the k nearest of its parts, so the answer is the one that a single backend gives, exact where the shards are.

Shards hold what they are given in memory, and are filled from the vectors that the collection keeps, so a lost shard is
filled again by opening the collection again. Twenty million vectors of 384 numbers are 31 GB: one machine is enough for
nearly everyone; this is for those whose it is not.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from ...errors import PalynoError, UsageError
from .backend import Found, VectorBackend, merge
from .local import FaissBackend

__all__ = ["RayShard", "ShardedBackend", "fill", "make_shards"]

_CHUNK = 65_536
_T = TypeVar("_T")


class ShardedBackend:
    """Several backends that share the vectors of a space; a `VectorBackend` itself.

    Args:
        shards: One or more, of the same length of vectors.
    """

    def __init__(self, shards: Sequence[VectorBackend]) -> None:
        if not shards or len({shard.dim for shard in shards}) != 1:
            raise UsageError(f"shards: expected one or more of the same dim, got {[shard.dim for shard in shards]}")
        self.shards = tuple(shards)
        self._pool = ThreadPoolExecutor(len(shards), thread_name_prefix="palyno-shard")

    @property
    def dim(self) -> int:
        """Length of a vector."""
        return self.shards[0].dim

    def __len__(self) -> int:
        return sum(self._each(lambda i, shard: len(shard)))

    def ids(self) -> np.ndarray:
        """The ids that have a vector, ascending."""
        return np.sort(np.concatenate(self._each(lambda i, shard: shard.ids())))

    def upsert(self, ids: np.ndarray, vectors: np.ndarray) -> None:
        """Adds vectors or replaces them."""
        owners = self._owners(ids)
        self._each(lambda i, shard: shard.upsert(ids[owners == i], vectors[owners == i]))

    def delete(self, ids: np.ndarray) -> None:
        """Removes the vectors of ids."""
        owners = self._owners(ids)
        self._each(lambda i, shard: shard.delete(ids[owners == i]))

    def select(self, ids: np.ndarray) -> list[Any]:
        """Each shard's selection."""
        owners = self._owners(ids)
        return self._each(lambda i, shard: shard.select(ids[owners == i]))

    def search(
        self, queries: np.ndarray, k: int, *, within: list[Any] | None = None, exact: bool = False
    ) -> list[Found]:
        """The nearest of all shards to each query."""
        answers = self._each(
            lambda i, shard: shard.search(queries, k, within=None if within is None else within[i], exact=exact)
        )
        return [merge(parts, k) for parts in zip(*answers, strict=True)]

    def vectors(self, ids: np.ndarray) -> np.ndarray:
        """The vectors of ids."""
        owners = self._owners(ids)
        out = np.empty((len(ids), self.dim), np.float32)
        for i, found in enumerate(self._each(lambda i, shard: shard.vectors(ids[owners == i]))):
            out[owners == i] = found
        return out

    def stats(self) -> Mapping[str, Any]:
        """Those of all shards."""
        told = self._each(lambda i, shard: dict(shard.stats()))
        return {
            "index": f"{len(told)} shards: {', '.join(dict.fromkeys(str(one['index']) for one in told))}",
            "vectors": sum(one["vectors"] for one in told),
            "exact": all(one["exact"] for one in told),
            "shards": told,
        }

    def verify(self) -> list[str]:
        """What is wrong, shard by shard."""
        faults = self._each(lambda i, shard: [f"shard {i}: {fault}" for fault in shard.verify()])
        for i, ids in enumerate(self._each(lambda i, shard: shard.ids())):
            if (self._owners(ids) != i).any():
                faults.append([f"shard {i}: holds vectors of another"])
        return [fault for part in faults for fault in part]

    def close(self) -> None:
        """Closes every shard."""
        self._each(lambda i, shard: shard.close())
        self._pool.shutdown()

    def _owners(self, ids: np.ndarray) -> np.ndarray:
        return np.asarray(ids, np.int64) % len(self.shards)

    def _each(self, call: Callable[[int, VectorBackend], _T]) -> list[_T]:
        """Calls for all shards at once; FAISS and Ray wait without holding the others up."""
        return list(self._pool.map(call, range(len(self.shards)), self.shards))


def fill(backend: VectorBackend, path: Path, dim: int, total: int, rows: np.ndarray, ids: np.ndarray) -> None:
    """Fills a backend from a vector store, whose bytes have been checked.

    Args:
        backend: An empty one.
        path: The store's file.
        dim: Length of a vector.
        total: Committed rows.
        rows: The rows to take.
        ids: The record of each.
    """
    if total == 0:
        return
    from .store import HEADER

    vectors = np.memmap(path, "<f4", "r", HEADER, (total, dim))
    for start in range(0, len(rows), _CHUNK):
        part = slice(start, start + _CHUNK)
        backend.upsert(ids[part], np.ascontiguousarray(vectors[rows[part]], np.float32))


def make_shards(dim: int, shards: int, engine: str) -> list[Any]:
    """Empty shards: `local` in this process, or `ray` as actors, started where Ray is not running yet.

    Raises:
        UsageError: There is no such engine, or no such number of shards.
        PalynoError: Ray is not installed.
    """
    if shards < 1:
        raise UsageError(f"shards: expected 1 or more, got {shards}")
    if engine == "local":
        return [FaissBackend(dim) for _ in range(shards)]
    if engine != "ray":
        raise UsageError(f"engine: expected local or ray, got {engine!r}")
    try:
        import ray
    except ImportError as error:
        raise PalynoError("ray is not installed: install palyno[ray], or use engine='local'") from error
    if not ray.is_initialized():
        ray.init(include_dashboard=False, log_to_driver=False)
    # Shards wait most of the time; a share of a core for each would keep others from starting on a small machine.
    actor = ray.remote(num_cpus=0, scheduling_strategy="SPREAD")(_Actor)
    return [RayShard(actor.remote(dim), dim) for _ in range(shards)]


class _Actor:
    """A backend in a process of Ray; ids travel instead of selections, which hold what belongs to one process."""

    def __init__(self, dim: int) -> None:
        self.backend = FaissBackend(dim)

    def call(self, name: str, *arguments: Any) -> Any:
        return getattr(self.backend, name)(*arguments)

    def fill(self, path: str, *arguments: Any) -> None:
        fill(self.backend, Path(path), self.backend.dim, *arguments)

    def search(self, queries: np.ndarray, k: int, ids: np.ndarray | None, exact: bool) -> list[Found]:
        within = None if ids is None else self.backend.select(ids)
        return self.backend.search(queries, k, within=within, exact=exact)


class RayShard:
    """A backend that lives in a Ray actor; a `VectorBackend`.

    Args:
        actor: Handle of an actor.
        dim: Length of a vector.
    """

    def __init__(self, actor: Any, dim: int) -> None:
        self._actor, self._dim = actor, dim

    @property
    def dim(self) -> int:
        """Length of a vector."""
        return self._dim

    def __len__(self) -> int:
        return int(self._call("__len__"))

    def ids(self) -> np.ndarray:
        """The ids that have a vector, ascending."""
        return self._call("ids")

    def upsert(self, ids: np.ndarray, vectors: np.ndarray) -> None:
        """Adds vectors or replaces them."""
        self._call("upsert", ids, vectors)

    def delete(self, ids: np.ndarray) -> None:
        """Removes the vectors of ids."""
        self._call("delete", ids)

    def fill(self, path: Path, total: int, rows: np.ndarray, ids: np.ndarray) -> None:
        """Fills it from a vector store that its machine can read."""
        self._get(self._actor.fill.remote(str(path), total, rows, ids))

    def select(self, ids: np.ndarray) -> Any:
        """The ids, where all of Ray can read them."""
        import ray

        return ray.put(np.asarray(ids, np.int64))

    def search(self, queries: np.ndarray, k: int, *, within: Any = None, exact: bool = False) -> list[Found]:
        """The nearest to each query."""
        return self._get(self._actor.search.remote(queries, k, within, exact))

    def vectors(self, ids: np.ndarray) -> np.ndarray:
        """The vectors of ids."""
        return self._call("vectors", ids)

    def stats(self) -> Mapping[str, Any]:
        """How it searches."""
        return self._call("stats")

    def verify(self) -> list[str]:
        """What is wrong with it."""
        return self._call("verify")

    def close(self) -> None:
        """Ends the actor."""
        import ray

        # Ray may have been shut down before.
        if ray.is_initialized():
            ray.kill(self._actor)

    def _call(self, name: str, *arguments: Any) -> Any:
        return self._get(self._actor.call.remote(name, *arguments))

    @staticmethod
    def _get(reference: Any) -> Any:
        import ray

        try:
            return ray.get(reference)
        except ray.exceptions.RayTaskError as error:
            # What the shard raised, not what Ray wraps it in.
            raise error.cause from None
        except ray.exceptions.RayActorError as error:
            raise PalynoError("a shard was lost; open the collection again to fill a new one") from error
