"""One generation of a collection in a folder: opened, worked on, committed, or given up.

A commit writes files that no manifest names yet, brings them and their names to the disk, and then replaces the
manifest. Killed before that, the last generation is as it was; killed after it, the new one is whole. Files that the
present generation and the one before it do not use are removed by the next writer.
"""

from __future__ import annotations

import re
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

from ... import __version__
from ...data.atomic import sync_folder
from ...errors import RejectedModelError, UsageError
from .manifest import FileEntry, Manifest
from .records import Records
from .space import Layout, Space

__all__ = ["Generation"]

_OWN = re.compile(r"(records|vectors|index)-[-\d]+\.(sqlite(-journal)?|f32|faiss)|\.palyno-[0-9a-f]+\.tmp")


class Generation:
    """What a collection holds at one time.

    Attributes:
        folder: Where it lies.
        manifest: The files that it was opened from.
        records: Its records; those being worked on, once `work` was called.
        spaces: Its spaces by encoder_id.
    """

    def __init__(self, folder: Path, manifest: Manifest, records: Records, spaces: list[Space], layout: Layout) -> None:
        """Use `create` or `open`."""
        self.folder, self.manifest, self.records, self.layout = folder, manifest, records, layout
        self.spaces = {space.entry.encoder_id: space for space in spaces}
        self.working = False

    @classmethod
    def create(cls, folder: Path, exact_below: int, layout: Layout) -> Generation:
        """Commits the first, empty generation."""
        records = Records.create(folder / _records_name(1))
        records.sync()
        sync_folder(folder)
        made = Manifest(1, _now(), __version__, exact_below, FileEntry.of(records.path), 0, ())
        made.write(folder)
        return cls.open(folder, layout)

    @classmethod
    def open(cls, folder: Path, layout: Layout) -> Generation:
        """The present generation.

        Raises:
            RejectedModelError: There is none, or a byte of its files was changed; the message names the file.
        """
        manifest = Manifest.read(folder)
        while True:
            try:
                return cls._open(folder, manifest, layout)
            except RejectedModelError:
                # A writer may have removed files of a generation that was two commits old by now.
                newer = Manifest.read(folder)
                if newer.generation == manifest.generation:
                    raise
                manifest = newer

    @classmethod
    def _open(cls, folder: Path, manifest: Manifest, layout: Layout) -> Generation:
        path = manifest.records.check(folder) if layout.check else folder / manifest.records.file
        records = Records(path)
        try:
            if len(records) != manifest.count:
                raise RejectedModelError(f"{path}: expected {manifest.count} records, got {len(records)}")
            spaces = [Space.open(folder, entry, records, layout) for entry in manifest.spaces]
        except BaseException:
            records.close()
            raise
        return cls(folder, manifest, records, spaces, layout)

    @property
    def next(self) -> int:
        """Number of the generation that a commit would make."""
        return self.manifest.generation + 1

    def work(self) -> None:
        """Takes a copy of the records to change."""
        if not self.working:
            old = self.records
            self.records = old.copy(self.folder / _records_name(self.next))
            old.close()
            self.working = True

    def space(self, encoder_id: str, dim: int, modality: str | None) -> Space:
        """The space of an encoder, made where there is none; call `work` before.

        Raises:
            UsageError: It is there with vectors of another length.
        """
        space = self.spaces.get(encoder_id)
        if space is None:
            number = len(self.spaces)
            space = Space.create(self.folder, number, self.next, encoder_id, dim, modality, self.layout)
            self.spaces[encoder_id] = space
        if space.entry.dim != dim:
            raise UsageError(f"{encoder_id}: expected vectors of {space.entry.dim} numbers, got {dim}")
        return space

    def commit(self, *, exact_below: int | None = None, rebuild: bool = False) -> None:
        """Makes what was worked on the present generation.

        Args:
            exact_below: From how many vectors on a space has an index; None leaves it.
            rebuild: Make the indexes anew.
        """
        self.work()
        old, number = self.manifest, self.next
        exact_below = old.exact_below if exact_below is None else exact_below
        for space in self.spaces.values():
            space.settle(self.folder, self.records, number, exact_below, rebuild=rebuild)
        count, path = len(self.records), self.records.path
        self.records.sync()
        entries = tuple(space.entry for space in self.spaces.values())
        sync_folder(self.folder)
        made = Manifest(
            number, _now(), __version__, exact_below, FileEntry.of(path), count, entries, tuple(sorted({*old.files}))
        )
        made.write(self.folder)
        self.manifest, self.records, self.working = made, Records(path), False

    def close(self) -> None:
        """Closes its files; what was not committed is dropped."""
        for space in self.spaces.values():
            space.store.rollback()
            space.backend.close()
        self.records.close()
        if self.working:
            with suppress(OSError):
                self.records.path.unlink()

    def sweep(self) -> None:
        """Removes what writers left that were killed, and files that no reader opens any more; hold the lock."""
        keep = {*self.manifest.files, *self.manifest.previous}
        for file in self.folder.iterdir():
            if _OWN.fullmatch(file.name) and file.name not in keep:
                with suppress(OSError):
                    file.unlink()


def _records_name(generation: int) -> str:
    return f"records-{generation:06d}.sqlite"


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
