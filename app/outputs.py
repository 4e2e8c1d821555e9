"""The output folder of a job: what must not be replaced, and what is said where it cannot be written."""

from __future__ import annotations

import errno
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ..errors import PalynoError, UsageError

__all__ = ["difference", "refuse_finished", "remove", "writing"]


def refuse_finished(out: Path, overwrite: bool) -> None:
    """Refuses a folder that holds results, unless they are of a run that was broken off."""
    if out.exists() and not out.is_dir():
        raise UsageError(f"{out}: expected a folder for the results, got a file; give another name")
    if overwrite:
        return
    run = out / "run.json"
    try:
        finished = run.exists() and json.loads(run.read_text(encoding="utf-8"))["finished"] is not False
    except (ValueError, KeyError, TypeError):
        finished = True
    begun = (out / ".palyno" / "key.json").exists()
    if finished or (not begun and any((out / table).exists() for table in ("grains.csv", "counts.csv"))):
        raise UsageError(f"{out} holds results; add --overwrite to replace them, or give another output folder")


def difference(old: Mapping[str, Any], new: Mapping[str, Any], prefix: str = "") -> str:
    """The entries in which two keys differ, such as `conf 0.25, now 0.5`."""
    parts = []
    for name in sorted(old.keys() | new.keys()):
        a, b = old.get(name), new.get(name)
        if isinstance(a, Mapping) and isinstance(b, Mapping):
            parts.append(difference(a, b, f"{name} " if name in ("model", "versions") else ""))
        elif a != b:
            parts.append(f"{prefix}{name} {a}, now {b}")
    return ", ".join(part for part in parts if part)


def remove(out: Path, name: str) -> None:
    """Removes a file that palyno wrote below `out`, and the folder it leaves empty."""
    file = out / name
    if not file.resolve().is_relative_to(out.resolve()):
        return
    file.unlink(missing_ok=True)
    if file.parent != out and file.parent.is_dir() and not any(file.parent.iterdir()):
        file.parent.rmdir()


@contextmanager
def writing(out: Path) -> Iterator[None]:
    """Says clearly what is wrong where the output folder cannot be written."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            advice = "free some space and run the same command again: the slides read so far are kept"
        elif error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            advice = "give an output folder that you may write to"
        else:
            raise
        raise PalynoError(f"{error.filename or out}: {error.strerror}; {advice}") from error
