"""`manifest.json`: which files are a collection's present generation, and what must be in them.

Replacing this one file is the commit. It hashes itself, so that a changed byte in it is seen as well:

    {"manifest": {"format": ..., "generation": 7, "records": {...}, "spaces": [...], ...}, "sha256": "..."}

The hashes find damage. They do not prove who made a collection: whoever can write the folder can write matching ones.
So whatever is read after them is still treated as a stranger's.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ...data.atomic import write_bytes
from ...errors import RejectedModelError

__all__ = ["FORMAT", "MANIFEST", "FileEntry", "IndexEntry", "Manifest", "SpaceEntry", "sha256_of"]

MANIFEST = "manifest.json"
FORMAT = "palyno-collection-1"

_LARGEST = 256 << 20
_NAME = re.compile(r"(records|vectors|index)(-\d{2,9}){1,2}\.(sqlite|f32|faiss)")
_HASH = re.compile(r"[0-9a-f]{64}")
_MOST_DIMENSIONS, _MOST_ROWS = 1 << 16, 1 << 40


@dataclass(frozen=True)
class FileEntry:
    """One file that never changes: its name, size and hash."""

    file: str
    bytes: int
    sha256: str

    @classmethod
    def of(cls, path: Path) -> FileEntry:
        """The entry of a file, hashed now."""
        return cls(path.name, path.stat().st_size, sha256_of(path))

    def check(self, folder: Path) -> Path:
        """The path of the file, once its content was found to be what it should.

        Raises:
            RejectedModelError: It is missing, or a byte of it was changed.
        """
        path = folder / self.file
        try:
            same = path.stat().st_size == self.bytes and sha256_of(path) == self.sha256
        except OSError as error:
            raise RejectedModelError(f"{path}: cannot be read: {error.strerror or error}") from error
        if not same:
            raise RejectedModelError(
                f"{path}: expected {self.bytes:,} bytes with the sha256 {self.sha256[:16]}..., got others: the "
                "file was changed; take it from a snapshot"
            )
        return path


@dataclass(frozen=True)
class IndexEntry:
    """A FAISS index of the first rows of a space.

    Attributes:
        file: The index.
        factory: FAISS's name of it, such as `IVF4000,SQ8`.
        rows: Rows that it covers, and vectors that it must hold.
        trained_rows: Rows of the space when its lists were laid out.
        nlist: Lists.
        nprobe: Lists that a search reads.
        recall: Share of the ten nearest that it found among vectors of its own at that many lists.
        seed: Seed of the clustering.
        faiss: Version that wrote it.
    """

    file: FileEntry
    factory: str
    rows: int
    trained_rows: int
    nlist: int
    nprobe: int
    recall: float
    seed: int
    faiss: str


@dataclass(frozen=True)
class SpaceEntry:
    """The vectors of one encoder.

    Attributes:
        number: Number of the space in this collection.
        encoder_id: The encoder, with everything that changes its vectors.
        modalities: What its encoders read: `text`, `image`.
        dim: Length of a vector.
        metric: `cosine`: the inner product of unit vectors.
        file: The vectors.
        rows: Committed rows.
        ntotal: Rows that are in use.
        blocks: sha256 of each block of the file.
        index: The index of its first rows; None where all are searched one by one.
    """

    number: int
    encoder_id: str
    modalities: tuple[str, ...]
    dim: int
    metric: str
    file: str
    rows: int
    ntotal: int
    blocks: tuple[str, ...]
    index: IndexEntry | None = None


@dataclass(frozen=True)
class Manifest:
    """One generation of a collection.

    Attributes:
        generation: Counts commits, from 1.
        created: When, ISO 8601.
        palyno: Version that wrote it.
        exact_below: Vectors of a space from which on it gets an index.
        records: The SQLite file.
        count: Records in it.
        spaces: The spaces, by number.
        previous: Files of the generation before, which its readers may still open.
    """

    generation: int
    created: str
    palyno: str
    exact_below: int
    records: FileEntry
    count: int
    spaces: tuple[SpaceEntry, ...]
    previous: tuple[str, ...] = ()

    @property
    def files(self) -> tuple[str, ...]:
        """Names of its files, without itself."""
        vectors = (space.file for space in self.spaces)
        indexes = (space.index.file.file for space in self.spaces if space.index)
        return (self.records.file, *vectors, *indexes)

    def write(self, folder: Path) -> None:
        """Commits: puts it in the place of the one before, whole or not at all."""
        write_bytes(folder / MANIFEST, _encode({"format": FORMAT, **asdict(self)}))

    @classmethod
    def read(cls, folder: Path) -> Manifest:
        """The present generation of a folder.

        Raises:
            RejectedModelError: There is none, a byte of it was changed, or it says what cannot be.
        """
        path = folder / MANIFEST
        try:
            size = path.stat().st_size
            data = path.read_bytes() if size <= _LARGEST else b""
        except OSError as error:
            raise RejectedModelError(
                f"{path}: expected a collection's manifest, got {error.strerror or error}; palyno index build makes one"
            ) from error
        try:
            content = json.loads(data)["manifest"]
            sound = _encode(content) == data
        except (ValueError, KeyError, TypeError, RecursionError):
            sound = False
        if not sound:
            raise RejectedModelError(
                f"{path}: expected a manifest with the sha256 it states, got another: the file was changed; take "
                "it from a snapshot"
            )
        try:
            return _manifest(content)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise RejectedModelError(f"{path}: expected a manifest of {FORMAT}, got {error}") from error


def sha256_of(path: Path) -> str:
    """Hash of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _encode(content: Mapping[str, Any]) -> bytes:
    """The bytes of a manifest: always the same for the same content, so that each of them is checked."""
    text = json.dumps(content, ensure_ascii=False, sort_keys=True)
    digest = hashlib.sha256(text.encode()).hexdigest()
    return (
        json.dumps({"manifest": content, "sha256": digest}, ensure_ascii=False, sort_keys=True, indent=1) + "\n"
    ).encode()


def _manifest(content: Mapping[str, Any]) -> Manifest:
    if content["format"] != FORMAT:
        raise ValueError(f"the format {content['format']!r}; open it with the version of palyno that made it")
    fields = {name: value for name, value in content.items() if name != "format"}
    spaces = tuple(_space(space) for space in fields["spaces"])
    if [space.number for space in spaces] != list(range(len(spaces))):
        raise ValueError("spaces that are not numbered from 0")
    if len({space.encoder_id for space in spaces}) < len(spaces):
        raise ValueError("one encoder with two spaces")
    made = Manifest(
        **{
            **fields,
            "generation": _whole(fields["generation"], 1),
            "exact_below": _whole(fields["exact_below"]),
            "count": _whole(fields["count"]),
            "records": _file(fields["records"]),
            "spaces": spaces,
            "previous": tuple(_name(name) for name in fields["previous"]),
        }
    )
    if len(set(made.files)) < len(made.files):
        raise ValueError("one file for two things")
    return made


def _space(fields: Mapping[str, Any]) -> SpaceEntry:
    rows, ntotal = _whole(fields["rows"]), _whole(fields["ntotal"])
    if fields["metric"] != "cosine" or ntotal > rows or not isinstance(fields["encoder_id"], str):
        raise ValueError(f"a space with {ntotal} of {rows} rows and the metric {fields['metric']!r}")
    if any(modality not in ("text", "image") for modality in fields["modalities"]):
        raise ValueError(f"the modalities {fields['modalities']!r}")
    index = fields["index"] and _index(fields["index"])
    if index and index.rows > rows:
        raise ValueError(f"an index of {index.rows} of {rows} rows")
    return SpaceEntry(
        **{
            **fields,
            "number": _whole(fields["number"]),
            "dim": _whole(fields["dim"], 1, _MOST_DIMENSIONS),
            "file": _name(fields["file"]),
            "modalities": tuple(fields["modalities"]),
            "blocks": tuple(_hash(block) for block in fields["blocks"]),
            "index": index or None,
        }
    )


def _index(fields: Mapping[str, Any]) -> IndexEntry:
    whole = {name: _whole(fields[name]) for name in ("rows", "trained_rows", "nlist", "nprobe", "seed")}
    if not 1 <= whole["nprobe"] <= whole["nlist"] or fields["factory"] != f"IVF{whole['nlist']},SQ8":
        raise ValueError(f"the index {fields['factory']!r} with {whole['nprobe']} of {whole['nlist']} lists read")
    return IndexEntry(**{**fields, **whole, "recall": float(fields["recall"]), "file": _file(fields["file"])})


def _file(fields: Mapping[str, Any]) -> FileEntry:
    return FileEntry(_name(fields["file"]), _whole(fields["bytes"]), _hash(fields["sha256"]))


def _whole(value: Any, least: int = 0, most: int = _MOST_ROWS) -> int:
    if type(value) is not int or not least <= value <= most:
        raise ValueError(f"{value!r} for a whole number from {least} to {most}")
    return value


def _name(value: Any) -> str:
    # Only names that palyno gives: no path leads out of the folder.
    if not isinstance(value, str) or not _NAME.fullmatch(value):
        raise ValueError(f"the file name {value!r}")
    return value


def _hash(value: Any) -> str:
    if not isinstance(value, str) or not _HASH.fullmatch(value):
        raise ValueError(f"the hash {value!r:.80}")
    return value
