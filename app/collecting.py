"""What goes into a collection: the grains that a detection job found, and texts from files.

    sources = find_sources(["results", "literature.bib"])
    reports = collect(collection, sources, known="skip")

Grains are cut from their slides with a margin and encoded for every space of pictures that is at hand. Texts are
encoded for the spaces of texts, and for those of pictures where they say what a grain looks like. What cannot be read
is left out and told. Records that are there already are not encoded again, so a run that was broken off goes on.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from ..data.texts import TEXT_SUFFIXES, read_texts
from ..errors import InputError, NothingToDoError, PalynoError, RejectedModelError, SlideError, UsageError
from .progress import Progress

if TYPE_CHECKING:
    from ..data.slides import Slide
    from ..retrieval.collection import Collection, Record
    from ..retrieval.encoders import Encoder

__all__ = ["MARGIN", "Known", "SourceReport", "collect", "crop", "find_sources", "grain_key", "grain_record"]

# Share of a grain's box that is cut with it on every side: its outline, and some of what it lies on.
MARGIN = 0.15

# Items that are encoded at once; records that are committed at once, as each commit copies the records' file; seconds
# to wait for another process that commits, as to encode so many takes longer.
_ENCODED, _COMMITTED, PATIENCE = 128, 4096, 60.0

Known = Literal["skip", "update"]


@dataclass
class SourceReport:
    """What became of one source.

    Attributes:
        source: The folder or file.
        kind: `results`, `texts` or `slides`.
        added: Records that are new.
        known: Records that were there: left as they are, or replaced where that was asked for.
        by_words: Texts among these that no encoder can read: they have no vector and are found by their words.
        skipped: What was left out, with the reason.
    """

    source: str
    kind: Literal["results", "texts", "slides"]
    added: int = 0
    known: int = 0
    by_words: int = 0
    skipped: list[tuple[str, str]] = field(default_factory=list)

    def document(self) -> dict[str, Any]:
        """As JSON."""
        skipped = [{"what": what, "reason": reason} for what, reason in self.skipped]
        return {**vars(self), "skipped": skipped}


def find_sources(paths: Sequence[str | Path]) -> list[Path]:
    """The sources under some paths: results of `palyno detect`, files of texts, and folders of these.

    Raises:
        InputError: A path is neither.
        NothingToDoError: There are none.
    """
    found: dict[Path, None] = {}
    for path in map(Path, paths):
        if (path / "run.json").is_file() or (path.is_file() and path.suffix.lower() in TEXT_SUFFIXES):
            found[path] = None
        elif path.is_dir():
            inside = sorted(file for file in path.iterdir() if file.suffix.lower() in TEXT_SUFFIXES and file.is_file())
            if (path / "grains.csv").is_file():
                raise InputError(
                    f"{path}: expected run.json beside grains.csv; run palyno detect again into this folder"
                )
            found.update(dict.fromkeys(inside))
        else:
            got = f"got a {path.suffix or 'nameless'} file" if path.exists() else "there is nothing"
            raise InputError(
                f"{path}: expected the results of palyno detect, or texts in {', '.join(TEXT_SUFFIXES)}; {got}"
            )
    if not found:
        raise NothingToDoError(f"no results and no texts in {', '.join(map(str, paths))}")
    return list(found)


def collect(
    collection: Collection,
    sources: Sequence[Path],
    *,
    known: Known = "skip",
    images: Sequence[Encoder] | None = None,
    texts: Sequence[Encoder] | None = None,
    slides: Path | None = None,
    progress: Progress | None = None,
) -> list[SourceReport]:
    """Adds sources to a collection.

    Args:
        collection: Where to.
        sources: See `find_sources`.
        known: What to do with records that are there: leave them, or replace them.
        images: Encoders of pictures, a space each; None takes those that ship.
        texts: Encoders of texts; None takes those that ship.
        slides: Where to look for slides that are not where they were.
        progress: Is told how far it is, slide by slide.

    Raises:
        RejectedModelError: No encoder is at hand for what there is.
    """
    progress = progress or Progress()
    reports = []
    for source in sources:
        try:
            if source.is_dir():
                adding = _Adding(collection, _encoders("image", images), known, SourceReport(str(source), "results"))
                _add_results(adding, source, slides, progress)
            else:
                adding = _Adding(collection, _encoders("text", texts), known, SourceReport(str(source), "texts"))
                _add_texts(adding, source)
        except InputError as error:
            adding.report.skipped.append((str(source), str(error)))
        adding.commit()
        reports.append(adding.report)
    return reports


def crop(slide: Slide, box: Sequence[float]) -> np.ndarray:
    """A grain cut from its slide with a margin, uint8 RGB, (height, width, 3).

    Args:
        slide: Open.
        box: `xyxy`.

    Raises:
        SlideError: The box lies outside the slide, or the region is damaged.
    """
    x1, y1, x2, y2 = box
    more_x, more_y = MARGIN * (x2 - x1), MARGIN * (y2 - y1)
    left, top = max(0, int(x1 - more_x)), max(0, int(y1 - more_y))
    right, bottom = min(slide.width, int(np.ceil(x2 + more_x))), min(slide.height, int(np.ceil(y2 + more_y)))
    if right - left < 2 or bottom - top < 2:
        raise SlideError(f"expected a grain inside {slide.width} x {slide.height} pixels, got the box {tuple(box)}")
    return slide.read(left, top, right - left, bottom - top)


class _Adding:
    """Records on their way into a collection: encoded in small batches, committed in large ones."""

    def __init__(self, collection: Collection, encoders: Sequence[Encoder], known: Known, report: SourceReport) -> None:
        self.collection, self.encoders, self.known, self.report = collection, encoders, known, report
        self._waiting: list[tuple[Record, Any]] = []
        self._encoded: list[Record] = []
        # The places of the records that each encoder could read, and their vectors.
        self._vectors: list[list[tuple[np.ndarray, np.ndarray]]] = [[] for _ in encoders]

    def news(self, keys: Sequence[str]) -> set[str]:
        """The keys that have to be read; the others are counted as known, and left unless they are to be replaced."""
        # One picture may lie there under two names: its grains are known then, as they are from another source.
        taken = {record.key for record in (*self._encoded, *(record for record, _ in self._waiting))}
        if not taken.isdisjoint(keys):
            self.commit()
        there = self.collection.known(keys)
        self.report.known += len(there)
        self.report.added += len(set(keys)) - len(there)
        return set(keys) if self.known == "update" else set(keys) - there.keys()

    def add(self, record: Record, item: Any) -> None:
        """Takes a record and what is to be encoded for it."""
        self._waiting.append((record, item))
        if len(self._waiting) >= _ENCODED:
            self._encode()
        if len(self._encoded) >= _COMMITTED:
            self.commit()

    def skip(self, what: str, reason: str, key: str | None = None) -> None:
        """Leaves something out; with a key, something that `news` had counted."""
        self.report.skipped.append((what, reason))
        if key is not None:
            if self.collection.known([key]):
                self.report.known -= 1
            else:
                self.report.added -= 1

    def commit(self) -> None:
        """Brings what was taken to the disk."""
        self._encode()
        if not self._encoded:
            return
        with self.collection.batch(wait=PATIENCE):
            ids = self.collection.add(self._encoded, None, known=self.known)
            for encoder, parts in zip(self.encoders, self._vectors, strict=True):
                if parts:
                    places, vectors = (np.concatenate(column) for column in zip(*parts, strict=True))
                    self.collection.embed(ids[places], vectors, encoder)
        self._encoded, self._vectors = [], [[] for _ in self.encoders]

    def _encode(self) -> None:
        if not self._waiting:
            return
        items, read = [item for _, item in self._waiting], np.zeros(len(self._waiting), bool)
        for encoder, parts in zip(self.encoders, self._vectors, strict=True):
            fits = np.array(_worth(encoder, items), bool)
            if fits.any():
                vectors = encoder.encode([item for item, fit in zip(items, fits, strict=True) if fit])
                parts.append((len(self._encoded) + np.flatnonzero(fits), np.asarray(vectors, np.float32)))
            read |= fits
        self.report.by_words += int((~read).sum())
        self._encoded += [record for record, _ in self._waiting]
        self._waiting = []


def _worth(encoder: Encoder, items: Sequence[Any]) -> Sequence[bool]:
    """Which items an encoder can read; one for pictures that reads texts, too, takes those that describe a form."""
    from ..retrieval.hybrid import readable

    if encoder.modality == "image":
        return [True] * len(items)
    describes = encoder.describes(items) if hasattr(encoder, "describes") else [True] * len(items)
    return [bool(a and b) for a, b in zip(describes, readable(encoder, items), strict=True)]


def _encoders(modality: str, given: Sequence[Encoder] | None) -> Sequence[Encoder]:
    from ..retrieval.collection.query import shipped_encoders

    found = list(shipped_encoders(modality) if given is None else given)
    if not found:
        what = {"image": "pictures of grains", "text": "texts"}[modality]
        raise RejectedModelError(f"no encoder of {what} is at hand: this version of palyno does not ship one")
    return found


def _add_texts(adding: _Adding, path: Path) -> None:
    from ..retrieval.collection import Record

    texts = read_texts(path)
    adding.report.skipped += texts.skipped
    news = adding.news([passage.key for passage in texts.passages])
    for passage in texts.passages:
        if passage.key in news:
            try:
                record = Record(
                    kind="text",
                    text=passage.text,
                    taxon=passage.taxon,
                    slide=path.name,
                    key=passage.key,
                    extra=dict(passage.extra),
                )
            except UsageError as error:
                adding.skip(passage.key, str(error), passage.key)
                continue
            adding.add(record, passage.text)


def _add_results(adding: _Adding, folder: Path, slides: Path | None, progress: Progress) -> None:
    run, rows = _read_results(folder)
    read = [slide for slide in run["slides"] if slide["status"] == "ok" and rows.get(slide["slide"])]
    for slide in run["slides"]:
        if slide["status"] == "failed":
            adding.skip(slide["slide"], f"was not read by palyno detect: {slide['reason']}")
    with progress:
        progress.start(len(read))
        for index, slide in enumerate(read):
            progress.slide(index, slide["slide"])
            _add_slide(adding, run, slide, rows[slide["slide"]], slides, progress)
        progress.finish()


def _read_results(folder: Path) -> tuple[dict[str, Any], dict[str, list[dict[str, Any]]]]:
    """`run.json`, and the rows of `grains.csv` by slide."""
    from ..data.annotations.csv import read_grains

    path = folder / "run.json"
    try:
        run = json.loads(path.read_text(encoding="utf-8"))
        for slide in run["slides"]:
            _ = slide["slide"], slide["status"], slide["path"], slide["sha256"], slide["reason"]
        _ = run["model"]["name"], run["model"]["sha256"], run["timing"]["began"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path}: expected what palyno detect writes, got {type(error).__name__}: {error}") from error
    if run.get("finished") is not True:
        raise InputError(f"{folder}: expected a finished run, got one that was broken off; run palyno detect again")
    rows: dict[str, list[dict[str, Any]]] = {}
    for row in read_grains(folder / "grains.csv"):
        rows.setdefault(row["slide"], []).append(row)
    return run, rows


def _add_slide(
    adding: _Adding,
    run: dict[str, Any],
    about: dict[str, Any],
    rows: Sequence[dict[str, Any]],
    elsewhere: Path | None,
    progress: Progress,
) -> None:
    """The grains of one slide; a slide that moved, changed or cannot be read is told once, with its grains."""
    from ..data.slides import open_slide

    name = about["slide"]
    keys = [grain_key(about, row) for row in rows]
    news = adding.news(keys)
    if not news:
        return
    try:
        path = _find_slide(about, elsewhere)
        slide = open_slide(path, um_per_px=about.get("um_per_px"))
    except PalynoError as error:
        adding.report.skipped.append((name, f"{len(news)} grains left out: {error}"))
        old = len(adding.collection.known(list(news)))
        adding.report.known -= old
        adding.report.added -= len(news) - old
        return
    seen: set[str] = set()
    with slide:
        for done, (key, row) in enumerate(zip(keys, rows, strict=True), 1):
            if key in seen:
                adding.report.skipped.append((f"{name}, grain {row['grain_id']}", "has the box of another grain"))
            elif key in news:
                seen.add(key)
                try:
                    adding.add(
                        grain_record(run, about, row, key, path),
                        crop(slide, [row[c] for c in ("x1", "y1", "x2", "y2")]),
                    )
                except (SlideError, UsageError) as error:
                    adding.skip(f"{name}, grain {row['grain_id']}", str(error), key)
            progress.tile(done, len(rows))


def grain_key(about: Mapping[str, Any], row: Mapping[str, Any]) -> str:
    """The same for the same box on the same picture, whatever runs found it and wherever the picture lies."""
    return f"{about['sha256'][:16]}:{','.join(f'{row[c]:.1f}' for c in ('x1', 'y1', 'x2', 'y2'))}"


def _find_slide(about: dict[str, Any], elsewhere: Path | None) -> Path:
    """The slide's file, the very one that was read.

    Raises:
        SlideError: It is not where it was, nor below the other folder, or it is another picture now.
    """
    places = [Path(about["path"])]
    if elsewhere is not None:
        places += [elsewhere / about["slide"], elsewhere / Path(about["path"]).name]
    there = [place for place in places if place.is_file()]
    if not there:
        raise SlideError(f"is no longer at {about['path']}; give the folder that it is in now with --slides")
    for place in there:
        with place.open("rb") as file:
            if hashlib.file_digest(file, "sha256").hexdigest() == about["sha256"]:
                return place
    raise SlideError(f"{there[0]} is not the picture that was read; run palyno detect on it again")


def grain_record(
    run: Mapping[str, Any], about: Mapping[str, Any], row: Mapping[str, Any], key: str, path: Path
) -> Record:
    """The record of a grain.

    Args:
        run: Of `run.json`: model and timing.
        about: Of the same, the slide.
        row: Of `grains.csv`.
        key: See `grain_key`.
        path: Where the slide lies.

    Raises:
        UsageError: A value that no record can have.
    """
    from ..retrieval.collection import Record

    more = {name: row[name] for name in ("grain_id", "rank", "flags", "candidates") if row.get(name)}
    model = {"model": run["model"]["name"], "model_sha256": run["model"]["sha256"]}
    return Record(
        kind="grain",
        taxon=row["taxon"] or None,
        slide=about["slide"],
        box=(row["x1"], row["y1"], row["x2"], row["y2"]),
        width_um=row.get("width_um"),
        height_um=row.get("height_um"),
        confidence=row["confidence"],
        time=run["timing"]["began"],
        key=key,
        extra={**more, **model, "path": _escaped(path), "slide_sha256": about["sha256"]},
    )


def _escaped(path: Path) -> str:
    return str(path).encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
