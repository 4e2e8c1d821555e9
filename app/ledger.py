"""Which slides of a job have been read: the record that lets a killed job go on where it stopped.

In the output folder's `.palyno`:

    key.json       what the results depend on besides the slides: model, arguments, code
    ledger.jsonl   one line for each thing done, appended and flushed after the thing itself is on the disk
    slides/        one stored result a slide

A line says `read` (a slide and its stored result), `drawn` (an overlay) or `wrote` (names that palyno is about to
write, so that it knows its own files from others'). A line cut short by a kill is dropped and its work done again.
JSON lines, as they are readable, append-only and work on network file systems where a database's locks do not.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ..data.atomic import write_bytes, write_text
from ..vision.results import SlideResult
from . import stored

__all__ = ["Content", "Ledger", "Reading"]


@dataclass(frozen=True)
class Content:
    """What is in a file, and how to see quickly that it is still so.

    Attributes:
        size: Bytes.
        mtime_ns: Time of the last change.
        sha256: Hash.
    """

    size: int
    mtime_ns: int
    sha256: str

    @classmethod
    def of(cls, path: Path) -> Content:
        """The content of a file, read now."""
        status = path.stat()
        return cls(status.st_size, status.st_mtime_ns, _sha256(path))

    def is_still(self, path: Path) -> bool:
        """Whether the file has this content; it is read only where its time differs."""
        status = path.stat()
        if status.st_size != self.size:
            return False
        return status.st_mtime_ns == self.mtime_ns or _sha256(path) == self.sha256


@dataclass(frozen=True)
class Reading:
    """One slide that was read.

    Attributes:
        path: Absolute path of the slide.
        content: What was in it.
        file: Stored result, below `slides/`.
        file_sha256: Its hash.
        seconds: Time the detector took.
    """

    path: str
    content: Content
    file: str
    file_sha256: str
    seconds: float


class Ledger:
    """The record of one output folder; hold the folder's lock while it is open."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._readings: dict[str, Reading] = {}
        self.drawn: dict[str, str] = {}
        self.wrote: set[str] = set()
        self._lines = folder / "ledger.jsonl"
        self._replay()

    def key(self) -> dict[str, Any] | None:
        """What the stored results depend on, or None where there are none."""
        try:
            return json.loads((self.folder / "key.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None

    def begin(self, key: Mapping[str, Any]) -> None:
        """Forgets what was read and starts anew under this key; what palyno wrote stays known."""
        for name in ("key.json", "ledger.jsonl"):
            (self.folder / name).unlink(missing_ok=True)
        shutil.rmtree(self.folder / "slides", ignore_errors=True)
        self._readings, self.drawn = {}, {}
        if self.wrote:
            self.will_write(self.wrote)
        write_text(self.folder / "key.json", json.dumps(key, indent=1, sort_keys=True))

    def find(self, path: Path) -> Reading | None:
        """The reading of this very slide, if its content is still the same and its stored result is sound."""
        reading = self._readings.get(os.fspath(path))
        if reading is None or not reading.content.is_still(path):
            return None
        file = self.folder / "slides" / reading.file
        return reading if file.is_file() and _sha256(file) == reading.file_sha256 else None

    def add(self, path: Path, content: Content, result: SlideResult, seconds: float) -> Reading:
        """Keeps the result of a slide; when this returns it survives a kill."""
        data = stored.pack(result)
        file = f"{hashlib.sha256(os.fsencode(path)).hexdigest()[:24]}.npz"
        write_bytes(self.folder / "slides" / file, data)
        reading = Reading(os.fspath(path), content, file, hashlib.sha256(data).hexdigest(), seconds)
        self._append({"read": asdict(reading)})
        return reading

    def load(self, reading: Reading) -> SlideResult:
        """The stored result of a reading."""
        return stored.load(self.folder / "slides" / reading.file)

    def will_write(self, names: Iterable[str]) -> None:
        """Notes names below the output folder as palyno's own, before they are written."""
        self._append({"wrote": sorted(names)})

    def draw(self, name: str, look: str) -> None:
        """Notes that an overlay was drawn, and from what."""
        self._append({"drawn": {name: look}})

    def _append(self, line: Mapping[str, Any]) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        with self._lines.open("ab") as file:
            file.write(json.dumps(line).encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())
        self._take(line)

    def _replay(self) -> None:
        if not self._lines.is_file():
            return
        data = self._lines.read_bytes()
        whole = data[: data.rfind(b"\n") + 1]
        if len(whole) < len(data):
            os.truncate(self._lines, len(whole))
        for line in whole.splitlines():
            try:
                self._take(json.loads(line))
            except (ValueError, TypeError, AttributeError, KeyError):
                continue

    def _take(self, line: Mapping[str, Any]) -> None:
        if "read" in line:
            reading = Reading(**{**line["read"], "content": Content(**line["read"]["content"])})
            self._readings[reading.path] = reading
            # A slide that was read again needs its overlay drawn again.
            self.drawn = {name: look for name, look in self.drawn.items() if json.loads(look)[0] != reading.path}
        self.drawn.update(line.get("drawn", {}))
        self.wrote.update(line.get("wrote", ()))


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
