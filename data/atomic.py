"""Files that are there whole or not at all: written under a temporary name, flushed to the disk, then renamed.

A reader never sees half a table, and killing the process leaves at worst a hidden `.palyno-*.tmp` file behind.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any
from uuid import uuid4

from ..errors import UsageError

__all__ = ["refuse_existing", "replacing", "sync_folder", "write_bytes", "write_text"]


def refuse_existing(path: str | Path, *, overwrite: bool = False) -> None:
    """Refuses a path that must not be written.

    Raises:
        UsageError: The path is a folder, or a file is there and `overwrite` is off.
    """
    path = Path(path)
    if path.is_dir():
        raise UsageError(f"{path}: expected the name of a file to write, got a folder; give another name")
    if not overwrite and path.exists():
        raise UsageError(f"{path} is already there; add --overwrite to replace it, or choose another output folder")


@contextmanager
def replacing(path: str | Path, mode: str = "w", *, overwrite: bool = True) -> Iterator[IO[Any]]:
    r"""Opens a file that takes its name only when the block ends well.

    Text is UTF-8 with `\n` line ends; characters that UTF-8 cannot hold (bytes of an undecodable file name) are
    escaped.

    Args:
        path: The file; missing folders above it are made.
        mode: `w` for text, `wb` for bytes.
        overwrite: Replace a file that is there.

    Raises:
        UsageError: The path is a folder, or a file is there and `overwrite` is off.
    """
    path = Path(path)
    refuse_existing(path, overwrite=overwrite)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.parent / f".palyno-{uuid4().hex}.tmp"
    text: dict[str, Any] = {} if "b" in mode else {"encoding": "utf-8", "errors": "backslashreplace", "newline": ""}
    try:
        with temporary.open(mode.replace("w", "x"), **text) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        refuse_existing(path, overwrite=overwrite)
        temporary.replace(path)
    except BaseException:
        with suppress(OSError):
            temporary.unlink()
        raise
    sync_folder(path.parent)


def write_text(path: str | Path, text: str, *, overwrite: bool = True) -> Path:
    """Writes a whole text file; see `replacing`."""
    with replacing(path, overwrite=overwrite) as file:
        file.write(text)
    return Path(path)


def write_bytes(path: str | Path, data: bytes, *, overwrite: bool = True) -> Path:
    """Writes a whole binary file; see `replacing`."""
    with replacing(path, "wb", overwrite=overwrite) as file:
        file.write(data)
    return Path(path)


def sync_folder(folder: Path) -> None:
    """Makes new names in a folder last through a power cut."""
    if os.name != "posix":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        # Some network file systems cannot sync a folder; the file itself is on the disk already.
        with suppress(OSError):
            os.fsync(handle)
    finally:
        os.close(handle)
