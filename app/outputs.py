"""The output folder of a job: what must not be replaced, and what is said where it cannot be written."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ..errors import PalynoError, UsageError

__all__ = ["difference", "refuse_finished", "remove", "unwritable", "writing"]

_FULL = (errno.ENOSPC, errno.EDQUOT)
_FORBIDDEN = (errno.EACCES, errno.EPERM, errno.EROFS)
# A folder is asked for where a file lies, or the reverse.
_IN_THE_WAY = (errno.ENOTDIR, errno.EEXIST, errno.EISDIR)


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
        raise UsageError(
            f"{out} holds results; add --overwrite to replace them (a slide that was read with the same settings is "
            "not read again), or give another output folder"
        )


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


def unwritable(error: OSError, out: str | Path | None = None, kept: str = "") -> PalynoError | None:
    """What to tell the user where a file cannot be written, or read, for want of room or of rights.

    Args:
        error: Any error of the system.
        out: What to name where the error names no file.
        kept: What is not lost where there is no room.

    Returns:
        None where something else is wrong, which may be a fault of palyno's.
    """
    place = error.filename or out
    if not isinstance(place, str | bytes | os.PathLike):
        return None
    # Files are written under a name of palyno's first; the user knows the folder.
    path = Path(os.fsdecode(place))
    path = path.parent if path.name.startswith(".palyno-") else path
    if error.errno in _FULL:
        return PalynoError(f"{path}: {error.strerror}; free some space and run the same command again{kept}")
    if error.errno in _FORBIDDEN:
        return UsageError(f"{path}: {error.strerror}; give an input that you may read, an output that you may write to")
    if error.errno in _IN_THE_WAY:
        return UsageError(f"{path}: {error.strerror}; something of that name is in the way, give another name")
    return None


@contextmanager
def writing(out: Path) -> Iterator[None]:
    """Says clearly what is wrong where the output folder cannot be written."""
    try:
        yield
    except OSError as error:
        told = unwritable(error, out, ": the slides read so far are kept")
        if told is None:
            raise
        raise told from error
