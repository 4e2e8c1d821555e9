"""Slides into a collection in one pass: the detector finds the grains, and its own maps give each of them a vector.

    reports = collect_slides(collection, ["slides"], RegionEncoder())

Records and their keys are those of `palyno detect` and `palyno index add` on the same slides, so a grain that is there
already, whatever encoder it came in with, is known again.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import InputError, SlideError, UsageError
from .collecting import PATIENCE, Known, SourceReport, grain_key, grain_record
from .inputs import gather
from .ledger import Content
from .progress import Progress

if TYPE_CHECKING:
    from ..retrieval.collection import Collection, Record
    from ..retrieval.encoders.image import RegionEncoder
    from ..vision.results import SlideResult

__all__ = ["collect_slides"]

# Records that are committed at once: each commit copies the records' file. A slide is never parted.
_COMMITTED = 4096


def collect_slides(
    collection: Collection,
    paths: Sequence[str | Path],
    encoder: RegionEncoder,
    *,
    known: Known = "skip",
    conf: float = 0.25,
    um_per_px: float | None = None,
    progress: Progress | None = None,
) -> list[SourceReport]:
    """Finds the grains of slides and adds them, each with its vector.

    Args:
        collection: Where to.
        paths: Slides and folders of slides.
        encoder: What reads the detector's maps; it brings the detector along.
        known: What to do with records that are there: leave them, or replace them and give them a vector here.
        conf: Least confidence of a grain.
        um_per_px: Micrometres a pixel, over what the files say.
        progress: Is told how far it is, slide by slide.

    Returns:
        What became of each path.

    Raises:
        NothingToDoError: There is no slide under a path.
        RejectedModelError: The detector is not the one that the encoder was trained on.
    """
    progress = progress or Progress()
    reports = []
    for path in paths:
        slides, unread = gather([path])
        report = SourceReport(str(path), "slides")
        report.skipped += [(one.slide, str(one.reason)) for one in unread if one.status == "failed"]
        adding = _Adding(collection, encoder, known, report)
        with progress:
            progress.start(len(slides))
            for index, (name, file) in enumerate(slides.items()):
                progress.slide(index, name)
                try:
                    adding.slide(name, file, progress, conf=conf, um_per_px=um_per_px)
                except InputError as error:
                    report.skipped.append((name, str(error)))
            progress.finish()
        adding.commit()
        reports.append(report)
    return reports


class _Adding:
    """Grains on their way into a collection, whole slides at a time."""

    def __init__(self, collection: Collection, encoder: RegionEncoder, known: Known, report: SourceReport) -> None:
        self.collection, self.encoder, self.known, self.report = collection, encoder, known, report
        self._records: dict[str, Record] = {}
        self._vectors: list[np.ndarray] = []

    def slide(self, name: str, path: Path, progress: Progress, **arguments: Any) -> None:
        """Reads a slide and takes its grains.

        Raises:
            SlideError: It cannot be read, or changed meanwhile.
        """
        content, began = _content(path), datetime.now(UTC).isoformat(timespec="seconds")
        detector = self.encoder.detector
        result = detector.detect(path, name=name, vectors=self.encoder, on_tile=progress.tile, **arguments)
        if not content.is_still(path):
            raise SlideError("the file changed while it was read; add it again")
        run = {"model": {"name": detector.name, "sha256": detector.sha256}, "timing": {"began": began}}
        about = {"slide": name, "sha256": content.sha256}
        rows = _rows(result)
        keys = [grain_key(about, row) for row in rows]
        there = self.collection.known(keys)
        for key, row, vector in zip(keys, rows, result.vectors if result.vectors is not None else (), strict=True):
            if key in self._records:
                self.report.skipped.append((f"{name}, grain {row['grain_id']}", "has the box of another grain"))
                continue
            try:
                record = grain_record(run, about, row, key, path)
            except UsageError as error:
                self.report.skipped.append((f"{name}, grain {row['grain_id']}", str(error)))
                continue
            self.report.known += key in there
            self.report.added += key not in there
            self._records[key] = record
            self._vectors.append(vector)
        if len(self._records) >= _COMMITTED:
            self.commit()

    def commit(self) -> None:
        """Brings what was taken to the disk."""
        if self._records:
            vectors = np.stack(self._vectors)
            with self.collection.batch(wait=PATIENCE):
                self.collection.add(list(self._records.values()), self.encoder, vectors=vectors, known=self.known)
        self._records, self._vectors = {}, []


def _content(path: Path) -> Content:
    try:
        return Content.of(path)
    except OSError as error:
        raise SlideError(f"cannot be read: {error.strerror or error}") from error


def _rows(result: SlideResult) -> list[Mapping[str, Any]]:
    """The rows that `palyno detect` would write, read back: the numbers of its table, to the last decimal."""
    from ..data.annotations.csv import read_grains, write_grains

    with tempfile.TemporaryDirectory() as folder:
        return list(read_grains(write_grains([result], Path(folder) / "grains.csv")))
