"""The vectors of one space in a file that only grows.

    64 bytes    `PALYVEC1`, the length d of a vector and the element type as little-endian uint32, the sha256 of the
                space's encoder_id, zeros
    4 d bytes   a vector: float32, little-endian, and so on

The manifest says how many rows are committed and has the sha256 of every 4 MiB up to there. What lies behind belongs to
a writer that is at work, or that was killed; it is ignored, and cut off by the next one. A reader's rows never change.
"""

from __future__ import annotations

import hashlib
import os
import struct
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import IO

import numpy as np

from ...errors import RejectedModelError

__all__ = ["BLOCK", "HEADER", "VectorStore"]

BLOCK = 4 << 20
HEADER = 64
_MAGIC, _FLOAT32 = b"PALYVEC1", 1


class VectorStore:
    """The committed rows of a file, and those that are being added.

    Attributes:
        path: The file.
        dim: Length of a vector.
        rows: Rows, those being added included.
    """

    def __init__(self, path: Path, encoder_id: str, dim: int, rows: int, blocks: Sequence[str]) -> None:
        """Use `create` or `open`.

        Args:
            path: The file.
            encoder_id: The space.
            dim: Length of a vector.
            rows: Committed rows.
            blocks: sha256 of every block up to the last committed row.
        """
        self.path, self.dim, self.rows = path, dim, rows
        self._encoder_id, self._committed, self._blocks = encoder_id, rows, list(blocks)
        self._file: IO[bytes] | None = None
        self._map: np.ndarray | None = None

    @classmethod
    def create(cls, path: Path, encoder_id: str, dim: int) -> VectorStore:
        """A new file without rows."""
        path.write_bytes(_header(encoder_id, dim))
        return cls(path, encoder_id, dim, 0, ())

    @classmethod
    def open(
        cls, path: Path, encoder_id: str, dim: int, rows: int, blocks: Sequence[str], *, check: bool = True
    ) -> VectorStore:
        """A file that a manifest names.

        Raises:
            RejectedModelError: It is missing, too short, of another space, or a byte of it was changed.
        """
        store = cls(path, encoder_id, dim, rows, blocks)
        store._check_size()
        if check:
            store.check()
        return store

    @property
    def nbytes(self) -> int:
        """Bytes up to the last row."""
        return HEADER + 4 * self.dim * self.rows

    @property
    def blocks(self) -> tuple[str, ...]:
        """sha256 of every block up to the last row that was synced."""
        return tuple(self._blocks)

    def check(self) -> None:
        """Hashes every committed block.

        Raises:
            RejectedModelError: One differs; the message names the file and the bytes.
        """
        end = HEADER + 4 * self.dim * self._committed
        starts = range(0, end, BLOCK)
        if len(starts) != len(self._blocks):
            raise RejectedModelError(f"{self.path}: expected {len(starts)} hashes of blocks, got {len(self._blocks)}")

        def differs(start: int) -> bool:
            return self._hash(start, min(start + BLOCK, end)) != self._blocks[start // BLOCK]

        with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
            for start, wrong in zip(starts, pool.map(differs, starts), strict=True):
                if wrong:
                    raise self._changed(start, min(start + BLOCK, end))

    def append(self, vectors: np.ndarray) -> int:
        """Adds rows; they count once the manifest says so.

        Args:
            vectors: (n, dim) float32.

        Returns:
            The first new row.
        """
        first = self.rows
        if self._file is None:
            # The last block is hashed anew with the rows that come; a byte that changed in it must not be taken over.
            end = self.nbytes
            if self._blocks and self._hash((end - 1) // BLOCK * BLOCK, end) != self._blocks[-1]:
                raise self._changed((end - 1) // BLOCK * BLOCK, end)
            self._file = self.path.open("r+b")
            self._file.truncate(end)
        self._file.seek(self.nbytes)
        self._file.write(np.ascontiguousarray(vectors, "<f4").data)
        self.rows += len(vectors)
        self._map = None
        return first

    def cut(self, rows: int) -> None:
        """Forgets the rows from a number on, none of which is committed."""
        self.rows, self._map = rows, None

    def sync(self) -> None:
        """Brings new rows to the disk and hashes the blocks that they changed."""
        # A new file has to reach the disk even where it has no rows.
        with self._file or self.path.open("rb") as file:
            file.flush()
            os.fsync(file.fileno())
        self._file = None
        whole = (HEADER + 4 * self.dim * self._committed) // BLOCK if self._blocks else 0
        del self._blocks[whole:]
        for start in range(whole * BLOCK, self.nbytes, BLOCK):
            self._blocks.append(self._hash(start, min(start + BLOCK, self.nbytes)))
        self._committed = self.rows

    def rollback(self) -> None:
        """Forgets the rows that were not committed."""
        if self._file is not None:
            self._file.truncate(HEADER + 4 * self.dim * self._committed)
            self._file.close()
            self._file = None
        self.rows, self._map = self._committed, None

    def flush(self) -> None:
        """Puts new rows into the file, where others can read them."""
        if self._file is not None:
            self._file.flush()

    def array(self) -> np.ndarray:
        """All rows, (rows, dim) float32, read from the disk as they are used."""
        self.flush()
        if self.rows == 0:
            return np.empty((0, self.dim), np.float32)
        if self._map is None:
            self._map = np.memmap(self.path, "<f4", "r", HEADER, (self.rows, self.dim))
        return self._map

    def _changed(self, start: int, end: int) -> RejectedModelError:
        return RejectedModelError(
            f"{self.path}: expected the vectors that were committed, got other bytes between {start:,} and {end:,}; "
            "take the file from a snapshot"
        )

    def _check_size(self) -> None:
        try:
            with self.path.open("rb") as file:
                head, size = file.read(HEADER), os.fstat(file.fileno()).st_size
        except OSError as error:
            raise RejectedModelError(f"{self.path}: cannot be read: {error.strerror or error}") from error
        if head != _header(self._encoder_id, self.dim):
            raise RejectedModelError(
                f"{self.path}: expected the header of {self.dim} numbers a vector of {self._encoder_id}, got another"
            )
        if size < self.nbytes:
            raise RejectedModelError(f"{self.path}: expected at least {self.nbytes:,} bytes, got {size:,}")

    def _hash(self, start: int, end: int) -> str:
        with self.path.open("rb") as file:
            file.seek(start)
            return hashlib.sha256(file.read(end - start)).hexdigest()


def _header(encoder_id: str, dim: int) -> bytes:
    return struct.pack("<8sII32s16x", _MAGIC, dim, _FLOAT32, hashlib.sha256(encoder_id.encode()).digest())
