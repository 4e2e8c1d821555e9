"""One process at a time in a folder that is written: an output folder, a collection."""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from ..errors import UsageError

__all__ = ["locked"]


@contextmanager
def locked(path: Path, *, wait: float = 0.0) -> Iterator[None]:
    """Holds a lock file that names its owner; it lies in a folder of the folder that it guards.

    The kernel gives the lock back when its owner dies, however it dies, so a file left by a killed process does not
    block. Where the file system has no locks, the owner's process id decides, on the owner's own host.

    Args:
        path: The lock file.
        wait: Seconds to wait for another process to end what it does.

    Raises:
        UsageError: Another process that is alive holds the lock, or its folder cannot be made.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(
            f"{path.parent.parent}: expected a folder that can be written, got {error.strerror}; give another one"
        ) from error
    # Not opened with "w": another owner's name must survive being refused.
    with os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT, 0o644), "r+", encoding="utf-8") as file:
        until = time.monotonic() + wait
        while not _take(file.fileno(), owner := _said(file)):
            if time.monotonic() >= until:
                raise UsageError(
                    f"{path.parent.parent} is being written by {_name(owner)}; wait until it ends, or give another "
                    f"folder. If that process is gone, delete {path}"
                )
            time.sleep(0.1)
        _write(file, json.dumps({"pid": os.getpid(), "host": socket.gethostname()}))
        try:
            yield
        finally:
            _write(file, "")


def _said(file: IO[str]) -> str:
    file.seek(0)
    return file.read()


def _write(file: IO[str], text: str) -> None:
    file.seek(0)
    file.truncate()
    file.write(text)
    file.flush()


def _take(descriptor: int, owner: str) -> bool:
    """Whether the lock is ours now."""
    try:
        import fcntl

        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return True
    except BlockingIOError:
        return False
    except (ImportError, OSError):
        return not _alive(owner)


def _read(owner: str) -> dict[str, Any]:
    try:
        return dict(json.loads(owner))
    except (ValueError, TypeError):
        return {}


def _alive(owner: str) -> bool:
    """Whether the named process may be running; one on another host may."""
    who = _read(owner)
    if not who or who.get("pid") == os.getpid():
        return False
    if who.get("host") != socket.gethostname():
        return True
    try:
        os.kill(int(who["pid"]), 0)
    except (ProcessLookupError, KeyError, ValueError):
        return False
    except PermissionError:
        return True
    return True


def _name(owner: str) -> str:
    who = _read(owner)
    return f"process {who['pid']} on {who['host']}" if {"pid", "host"} <= who.keys() else "another process"
