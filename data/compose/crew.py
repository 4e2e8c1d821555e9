"""Processes that share a task: it travels through a file, so that starting fifty takes no longer than starting one."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import lru_cache, partial
from itertools import count
from multiprocessing import get_context
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

import cv2

__all__ = ["Crew"]

Item = TypeVar("Item")
Made = TypeVar("Made")


class Crew:
    """`map` on several processes, which live from the first task to the last.

    A process is started when there is an item that no idle one can take. What it is sent fits into a pipe's buffer, and
    so the next one starts while it still imports; a task of megabytes would be written to one process after the other.

    Args:
        size: Processes; with one, everything runs in this process.
        folder: Where the tasks are kept; there already, and removed by the caller.
    """

    def __init__(self, size: int, folder: Path) -> None:
        self.folder = folder
        self._names = count()
        # A fork would copy OpenCV's thread pool in whatever state it is, and hang.
        self._pool = ProcessPoolExecutor(size, get_context("spawn"), initializer=_enter) if size > 1 else None

    def __enter__(self) -> Crew:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._pool:
            self._pool.shutdown(cancel_futures=True)

    def map(self, task: Callable[[Item], Made], items: Sequence[Item], *, chunk: int = 4) -> Iterator[Made]:
        """`map(task, items)`, in order; `chunk` items travel together."""
        if self._pool is None:
            return map(task, items)
        file = self.folder / f"task-{next(self._names)}.pickle"
        file.write_bytes(pickle.dumps(task))
        return self._pool.map(partial(_call, file), items, chunksize=chunk)


def _enter() -> None:
    cv2.setNumThreads(1)


@lru_cache(maxsize=1)
def _task(file: Path) -> Callable:
    return pickle.loads(file.read_bytes())


def _call(file: Path, item: Any) -> Any:
    return _task(file)(item)
