"""The detection job: slides in, tables out, one process or many, resumable after a kill at any point.

Each slide's result is stored as soon as it is read; tables are made only from what is stored. So a run that was broken
off and taken up again writes the same bytes as one that was not.
"""

from __future__ import annotations

import json
import math
import os
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..data.annotations.names import slide_stems
from ..data.atomic import write_bytes, write_text
from ..data.lock import locked
from ..errors import InputError, NothingToDoError, PalynoError, RejectedModelError, SlideError, UsageError
from ..vision.duplicates import IOU
from ..vision.reading import Settings
from .inputs import absolute, gather, share
from .ledger import Content, Ledger, Reading
from .outputs import difference, refuse_finished, remove, writing
from .progress import Progress
from .report import RunReport, SlideReport, code_fingerprint, key_of, machine

if TYPE_CHECKING:
    from ..vision.detector import Detector
    from ..vision.results import SlideResult

__all__ = ["DetectOptions", "detect_slides"]


@dataclass(frozen=True, kw_only=True)
class DetectOptions:
    """How to detect, and what to write.

    Attributes:
        model: Name, or path of a weights file.
        device: `auto`, `cpu`, `cuda`, `cuda:N` or `mps`.
        runtime: `auto`, `torch` or `onnxruntime`, see `palyno.load`.
        conf: Lowest confidence, in [0, 1].
        iou: Overlap above which two boxes of a tile are one grain, in [0, 1].
        tile: Side of a tile, pixels of the slide.
        imgsz: Side a tile is scaled to for the model; None reads pixels one to one.
        overlap: Pixels that neighbouring tiles share, or `auto`.
        um_per_px: Micrometres a pixel, over what the file says.
        views: Mirrored and turned views of each tile that are averaged: 1, 2, 4 or 8.
        formats: Files to write besides `grains.csv` and `counts.csv`.
        overlays: Draw `overlays/<slide>.jpg`.
        resume: Take over slides that an earlier run read with the same model, arguments and code.
        on_error: `skip` a slide that cannot be read, or `stop`.
        shard: (I, N) reads part I of N, counted from 1.
        workers: CPU threads of the model; None leaves torch's own choice, one a core.
        overwrite: Replace a finished run's files.
    """

    model: str = "hieraedge-n"
    device: str = "auto"
    runtime: str = "auto"
    conf: float = 0.25
    iou: float = IOU
    tile: int = 640
    imgsz: int | None = None
    overlap: int | str = "auto"
    um_per_px: float | None = None
    views: int = 1
    formats: tuple[str, ...] = ("csv", "yolo", "coco", "geojson")
    overlays: bool = True
    resume: bool = True
    on_error: str = "skip"
    shard: tuple[int, int] | None = None
    workers: int | None = None
    overwrite: bool = False

    def __post_init__(self) -> None:
        # What no slide can be read with is refused here, before anything of an earlier run is removed.
        Settings(self.conf, self.iou, self.tile, self.imgsz, self.overlap, views=self.views)
        if self.um_per_px is not None and not (math.isfinite(self.um_per_px) and self.um_per_px > 0):
            raise UsageError(f"um_per_px must be a positive number of micrometres a pixel: got {self.um_per_px}")
        if self.on_error not in ("skip", "stop"):
            raise UsageError(f"on_error must be skip or stop: got {self.on_error!r}")
        if self.shard is not None and not 1 <= self.shard[0] <= self.shard[1]:
            raise UsageError(f"shard must be (I, N) with 1 <= I <= N: got {self.shard}")

    def arguments(self) -> dict[str, Any]:
        """The arguments of `Detector.detect`: those that can change what is found."""
        return {name: getattr(self, name) for name in ("conf", "iou", "tile", "imgsz", "overlap", "um_per_px", "views")}


def detect_slides(
    paths: Sequence[str | Path],
    out: str | Path,
    options: DetectOptions | None = None,
    *,
    detector: Detector | None = None,
    progress: Progress | None = None,
) -> RunReport:
    """Reads slides and writes what was found.

    Args:
        paths: Slides and folders of slides.
        out: Output folder, made if missing.
        options: How to detect and what to write.
        detector: A loaded detector, in place of the one that `options` names.
        progress: Is told how far the job is.

    Returns:
        What became of every input; the same is in `run.json`.

    Raises:
        NothingToDoError: There is no slide.
        UsageError: `out` holds results of another run, or another process writes there.
        RejectedModelError: The model was refused.
        InputError: A slide cannot be read and `on_error` is `stop`.
    """
    options, out = options or DetectOptions(), absolute(out)
    _check_formats(options.formats)
    slides, unread = gather(paths)
    # Of all slides, read or not, in this shard or not: the files of shards can then be put together.
    stems = slide_stems(slides)
    slides = share(slides, options.shard)
    with writing(out):
        refuse_finished(out, options.overwrite)
        with locked(out / ".palyno" / "lock"):
            refuse_finished(out, options.overwrite)
            return _Job(out, options, slides, stems, unread, detector, progress or Progress()).run()


class _Job:
    """One call of `detect_slides`, once the inputs are known and the folder is ours."""

    def __init__(
        self,
        out: Path,
        options: DetectOptions,
        slides: Mapping[str, Path],
        stems: Mapping[str, str],
        unread: Sequence[SlideReport],
        detector: Detector | None,
        progress: Progress,
    ) -> None:
        self.out, self.options, self.slides, self.stems, self.progress = out, options, slides, stems, progress
        self.reports = {report.slide: report for report in unread}
        self.readings: dict[str, Reading] = {}
        self.began, self.clock = datetime.now(UTC).isoformat(timespec="seconds"), time.monotonic()
        self.detector = detector or _load(options, progress)
        self.ledger = Ledger(out / ".palyno")
        self.key = key_of(self.detector, options.arguments(), code_fingerprint())

    def run(self) -> RunReport:
        """Reads, draws, writes."""
        self._open_ledger()
        with self.progress:
            self.progress.start(len(self.slides))
            for index, (name, path) in enumerate(self.slides.items()):
                self.progress.slide(index, name)
                self._slide(name, path)
            if not self.readings:
                self._write_run(self._report((), finished=False))
                reasons = "; ".join(f"{report.slide}: {report.reason}" for report in self.reports.values())
                several = f"none of the {len(self.reports)} inputs could be read"
                one = "the only input could not be read"
                raise NothingToDoError(f"{several if len(self.reports) > 1 else one}: {reasons}")
            if self.options.overlays:
                self._draw_overlays()
            self.progress.finish()
            report = self._report(self._write_tables(), finished=True)
        self._write_run(report)
        return report

    def _open_ledger(self) -> None:
        """Goes on with what is stored there, or starts anew."""
        for folder in (self.out, self.out / ".palyno", self.out / ".palyno" / "slides", self.out / "overlays"):
            for leftover in folder.glob(".palyno-*.tmp"):
                leftover.unlink(missing_ok=True)
        stored = self.ledger.key()
        if stored is not None and stored != self.key and self.options.resume and not self.options.overwrite:
            raise UsageError(
                f"{self.out} holds an unfinished run with other settings ({difference(stored, self.key)}); use the "
                "same settings to go on with it, --no-resume to start anew, or another output folder"
            )
        if stored != self.key or not self.options.resume:
            self.ledger.begin(self.key)
        (self.out / "run.json").unlink(missing_ok=True)

    def _slide(self, name: str, path: Path) -> None:
        """Reads one slide, or finds it read; failures of the slide are noted, failures to write are raised."""
        try:
            reading = self.ledger.find(path)
            reused = reading is not None
            if reading is None:
                content, began = Content.of(path), time.monotonic()
                result = self.detector.detect(path, name=name, on_tile=self.progress.tile, **self.options.arguments())
                seconds = time.monotonic() - began
                if not content.is_still(path):
                    raise SlideError("the file changed while it was read; run the same command again")
        except (UsageError, RejectedModelError):
            raise
        except Exception as error:
            if os.environ.get("PALYNO_DEBUG") and not isinstance(error, PalynoError):
                raise
            self._fail(name, path, error)
            return
        if reading is None:
            reading = self.ledger.add(path, content, result, seconds)
        result = replace(self.ledger.load(reading), slide=name)
        self.readings[name] = reading
        self.reports[name] = SlideReport.of(
            result, path=str(path), sha256=reading.content.sha256, seconds=reading.seconds, reused=reused
        )

    def _fail(self, name: str, path: Path, error: Exception) -> None:
        reason = str(error) if isinstance(error, PalynoError) else f"{type(error).__name__}: {error}"
        reason = " ".join(reason.split()).removeprefix(f"{path.name}: ").removeprefix(f"{name}: ")
        self.reports[name] = SlideReport(slide=name, path=str(path), status="failed", reason=reason)
        if self.options.on_error == "stop":
            self._write_run(self._report((), finished=False))
            raise InputError(
                f"{name}: {reason}. Stopped; the {len(self.readings)} slides before it are kept"
            ) from error

    def _draw_overlays(self) -> None:
        """Draws every slide that was read, unless its overlay is there; colours are shared by all slides."""
        from ..data.palette import colours

        palette = colours((result.taxa, result.confidence) for result in _Results(self.ledger, self.readings))
        for index, (name, reading) in enumerate(self.readings.items()):
            self.progress.drawing(index, name)
            file, report = self._overlay_file(name), self.reports[name]
            look = json.dumps([reading.path, name, {taxon: palette[taxon] for taxon in report.taxa}])
            if self.ledger.drawn.get(file) == look and (self.out / file).is_file():
                continue
            try:
                picture = self._overlay(name, reading, palette)
            except Exception as error:
                self.reports[name] = replace(report, reason=f"read, but not drawn: {error}")
                if file in self.ledger.wrote:
                    remove(self.out, file)
                continue
            self._claim([file])
            write_bytes(self.out / file, picture)
            self.ledger.draw(file, look)

    def _overlay(self, name: str, reading: Reading, palette: Mapping[str, tuple[int, int, int]]) -> bytes:
        from .overlay import draw, jpeg

        return jpeg(draw(replace(self.ledger.load(reading), slide=name), self.slides[name], palette=palette))

    def _overlay_file(self, name: str) -> str:
        return f"overlays/{self.stems[name]}.jpg"

    def _claim(self, names: Sequence[str]) -> None:
        """Makes names below `out` palyno's own, unless others' files have them."""
        taken = [name for name in names if name not in self.ledger.wrote and (self.out / name).exists()]
        if taken and not self.options.overwrite:
            raise UsageError(
                f"{self.out / taken[0]} is there and palyno did not write it; give another output folder, or "
                "--overwrite to replace it (what was read so far is kept)"
            )
        self.ledger.will_write(names)

    def _write_tables(self) -> tuple[str, ...]:
        """Writes the tables aside, moves them into place, and removes what an earlier run left; all written files."""
        from ..data.annotations.writers import write_results

        staging = self.out / ".palyno" / "staging"
        shutil.rmtree(staging, ignore_errors=True)
        staging.mkdir()
        formats = tuple(dict.fromkeys(("csv", *self.options.formats)))
        write_results(_Results(self.ledger, self.readings), staging, formats, stems=self.stems)
        tables = sorted(file.relative_to(staging).as_posix() for file in staging.rglob("*") if file.is_file())
        self._claim(tables)
        for table in tables:
            (self.out / table).parent.mkdir(parents=True, exist_ok=True)
            (staging / table).replace(self.out / table)
        shutil.rmtree(staging)
        overlays = [self._overlay_file(name) for name in self.readings if self.options.overlays]
        files = sorted({*tables, *(file for file in overlays if (self.out / file).is_file())})
        for stale in self.ledger.wrote - set(files):
            remove(self.out, stale)
        return tuple(files)

    def _report(self, files: tuple[str, ...], *, finished: bool) -> RunReport:
        options = {"formats": list(self.options.formats), "overlays": self.options.overlays}
        if self.options.shard:
            options["shard"] = "{}/{}".format(*self.options.shard)
        return RunReport(
            out=self.out,
            key=self.key,
            options=options,
            slides=tuple(report for _, report in sorted(self.reports.items())),
            files=files,
            began=self.began,
            seconds=time.monotonic() - self.clock,
            finished=finished,
            note=getattr(self.detector, "note", None),
            machine=machine(self.key["device"]),
        )

    def _write_run(self, report: RunReport) -> None:
        write_text(self.out / "run.json", json.dumps(report.document(), indent=1, ensure_ascii=False) + "\n")


class _Results(Sequence["SlideResult"]):
    """The stored results under their slides' names, loaded one at a time."""

    def __init__(self, ledger: Ledger, readings: Mapping[str, Reading]) -> None:
        self._ledger, self._readings = ledger, list(readings.items())

    def __len__(self) -> int:
        return len(self._readings)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        name, reading = self._readings[index]
        return replace(self._ledger.load(reading), slide=name)


def _check_formats(formats: Sequence[str]) -> None:
    from ..data.annotations.writers import FORMATS

    unknown = [name for name in formats if name not in FORMATS]
    if unknown:
        raise UsageError(f"expected formats among {', '.join(FORMATS)}, got {', '.join(unknown)}")


def _load(options: DetectOptions, progress: Progress) -> Detector:
    from ..vision.detector import load

    detector = load(options.model, device=options.device, runtime=options.runtime, on_prepare=progress.note)
    if options.workers is not None:
        import torch

        torch.set_num_threads(options.workers)
    return detector
