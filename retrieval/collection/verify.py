"""Whether a collection's files are what was committed, and fit each other."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ...errors import PalynoError
from .local import FaissBackend
from .manifest import MANIFEST, Manifest, SpaceEntry
from .records import Records
from .store import VectorStore

__all__ = ["Check", "verify_files"]


@dataclass(frozen=True)
class Check:
    """One file of a collection.

    Attributes:
        file: Its name.
        faults: What is wrong with it; empty where it is sound.
        what: What was looked at.
    """

    file: str
    faults: tuple[str, ...]
    what: str

    @property
    def ok(self) -> bool:
        """Whether nothing is wrong."""
        return not self.faults


def verify_files(folder: Path) -> list[Check]:
    """Reads every file of the present generation.

    Args:
        folder: The collection.

    Returns:
        A check a file, the manifest first. Where the manifest is refused there is no other.
    """
    try:
        manifest = Manifest.read(folder)
    except PalynoError as error:
        return [Check(MANIFEST, (str(error),), "its own hash")]
    checks = [Check(MANIFEST, (), f"generation {manifest.generation}, its own hash")]
    checks.append(_records(folder, manifest))
    records = Records(folder / manifest.records.file) if checks[-1].ok else None
    for space in manifest.spaces:
        checks += _space(folder, space, records)
    if records:
        records.close()
    return checks


def _records(folder: Path, manifest: Manifest) -> Check:
    name, what = manifest.records.file, f"hash, pages, {manifest.count:,} records"
    try:
        records = Records(manifest.records.check(folder))
        faults = records.faults()
        if len(records) != manifest.count:
            faults.append(f"holds {len(records):,} records")
        records.close()
    except PalynoError as error:
        faults = [str(error)]
    return Check(name, tuple(faults), what)


def _space(folder: Path, entry: SpaceEntry, records: Records | None) -> list[Check]:
    """The vectors of a space, and its index."""
    from .ivf import read_ivf

    faults: list[str] = []
    try:
        store = VectorStore.open(folder / entry.file, entry.encoder_id, entry.dim, entry.rows, entry.blocks)
        if records:
            ids = records.rows(entry.number, entry.rows)
            if (ids >= 0).sum() != entry.ntotal:
                faults.append(f"{int((ids >= 0).sum()):,} of its vectors belong to records, not {entry.ntotal:,}")
            # Without an index, so that its lengths are looked at whatever state the index is in.
            faults += FaissBackend(entry.dim, ids, store.array()).verify()
    except PalynoError as error:
        faults.append(str(error))
    what = f"{len(entry.blocks)} hashes, {entry.ntotal:,} vectors of {entry.encoder_id}, their lengths and records"
    checks = [Check(entry.file, tuple(faults), what)]
    if entry.index:
        try:
            read_ivf(folder, entry.index, entry.dim)
            wrong: tuple[str, ...] = ()
        except PalynoError as error:
            wrong = (str(error),)
        what = f"hash, kind, {entry.index.rows:,} rows in {entry.index.nlist:,} lists"
        checks.append(Check(entry.index.file.file, wrong, what))
    return checks
