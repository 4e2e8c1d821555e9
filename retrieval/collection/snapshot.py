"""A copy of one generation in a folder of its own."""

from __future__ import annotations

import dataclasses
import hashlib
import os
from pathlib import Path

from ...data.atomic import sync_folder
from ...errors import RejectedModelError, UsageError
from .manifest import Manifest
from .store import BLOCK, HEADER

__all__ = ["copy_generation"]


def copy_generation(folder: Path, manifest: Manifest, target: Path) -> Path:
    """Copies the files that a manifest names, hashing what is written; the manifest comes last.

    Args:
        folder: The collection.
        manifest: Its generation.
        target: Folder of the copy, which must not be there, or be empty.

    Raises:
        UsageError: The folder is not empty.
        RejectedModelError: A file is not what was committed.
    """
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise UsageError(f"{target}: expected a folder that is empty or not there; give another one")
    target.mkdir(parents=True, exist_ok=True)
    files = [manifest.records, *(space.index.file for space in manifest.spaces if space.index)]
    for file in files:
        if _copy(folder / file.file, target / file.file, file.bytes)[1] != file.sha256:
            raise _changed(folder / file.file)
    for space in manifest.spaces:
        blocks, _ = _copy(folder / space.file, target / space.file, HEADER + 4 * space.dim * space.rows)
        if space.rows and tuple(blocks) != space.blocks:
            raise _changed(folder / space.file)
    sync_folder(target)
    dataclasses.replace(manifest, previous=()).write(target)
    return target


def _copy(source: Path, target: Path, size: int) -> tuple[list[str], str]:
    """Copies the first bytes of a file; the hash of each block and of all."""
    blocks, whole, left = [], hashlib.sha256(), size
    try:
        with source.open("rb") as reader, target.open("xb") as writer:
            while left:
                block = reader.read(min(BLOCK, left))
                if not block:
                    break
                writer.write(block)
                whole.update(block)
                blocks.append(hashlib.sha256(block).hexdigest())
                left -= len(block)
            writer.flush()
            os.fsync(writer.fileno())
    except FileNotFoundError as error:
        raise RejectedModelError(f"{source}: is missing; open the collection again, it was written since") from error
    return blocks, whole.hexdigest()


def _changed(path: Path) -> RejectedModelError:
    return RejectedModelError(f"{path}: expected the bytes that were committed, got others; take it from a snapshot")
