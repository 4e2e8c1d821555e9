"""What one visitor has read: slides and what was found on them. Knows nothing of Gradio."""

from __future__ import annotations

import logging
import queue
import secrets
import shutil
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ...errors import PalynoError, UsageError
from ...vision.results import Grain, SlideResult

if TYPE_CHECKING:
    from ...vision.detector import Detector

__all__ = ["LOWEST", "Reading", "Session", "Sessions", "Step"]

# Slides are read once at this confidence; the slider then only filters.
LOWEST = 0.05

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Reading:
    """One slide that was read.

    Attributes:
        path: The slide's file.
        result: All grains with a confidence of at least `LOWEST`.
        picture: The slide as a JPEG that a browser can show.
        seconds: Time the detector took.
    """

    path: Path
    result: SlideResult
    picture: Path
    seconds: float = 0.0


@dataclass(frozen=True)
class Step:
    """How far a run is.

    Attributes:
        slide: Name of the slide in work.
        index: Its number, from 0.
        slides: Slides of the run.
        done: Tiles done of this slide.
        tiles: Tiles of this slide; 0 before they are known.
        seconds: Time since this slide was begun.
    """

    slide: str
    index: int
    slides: int
    done: int = 0
    tiles: int = 0
    seconds: float = 0.0


class _Cancelled(Exception):
    """Raised inside the detector, between two tiles."""


class Session:
    """The state of one open page.

    Args:
        folder: Where its files go; made if missing.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.readings: dict[str, Reading] = {}
        self.failures: dict[str, str] = {}
        self.seconds = 0.0
        self.detector: Detector | None = None
        self.um_per_px: float | None = None
        self.began = ""
        self._stop, self._closed = threading.Event(), False

    @property
    def cancelled(self) -> bool:
        """Whether the visitor has stopped the run."""
        return self._stop.is_set()

    def begin(self) -> None:
        """Forgets an earlier cancel; call when the visitor asks for a run, before it waits for its turn."""
        self._stop.clear()

    def cancel(self) -> None:
        """Stops the run after the tile in work; slides that are read are kept."""
        self._stop.set()

    def close(self) -> None:
        """Stops, and removes the files."""
        self._closed = True
        self.cancel()
        shutil.rmtree(self.folder, ignore_errors=True)

    def read(self, detector: Detector, paths: Sequence[str | Path], um_per_px: float | None = None) -> Iterator[Step]:
        """Reads slides, in place of those read before.

        Args:
            detector: What reads them.
            paths: Their files.
            um_per_px: Micrometres a pixel, over what the files say.

        Yields:
            A step at most ten times a second. Afterwards `readings` and `failures` hold what became of the slides.
        """
        self.readings, self.failures, self.detector, self.um_per_px = {}, {}, detector, um_per_px
        self.began = datetime.now(UTC).isoformat(timespec="seconds")
        self._clear()
        slides = dict(zip(_names(paths), map(Path, paths), strict=True))
        steps: queue.SimpleQueue[Step | None] = queue.SimpleQueue()
        worker = threading.Thread(target=self._work, args=(detector, slides, um_per_px, steps), daemon=True)
        began = time.monotonic()
        worker.start()
        try:
            ended = False
            while not ended:
                batch = [steps.get()]
                while not steps.empty():
                    batch.append(steps.get())
                ended = batch[-1] is None
                if told := [step for step in batch if step is not None]:
                    yield told[-1]
                if not ended:
                    time.sleep(0.1)
        except GeneratorExit:
            self.cancel()
            raise
        finally:
            worker.join()
            self.seconds = time.monotonic() - began
            if self._closed:
                # A slide whose last tile was done is still drawn.
                self.close()

    def _work(
        self,
        detector: Detector,
        slides: dict[str, Path],
        um_per_px: float | None,
        steps: queue.SimpleQueue[Step | None],
    ) -> None:
        try:
            for index, (name, path) in enumerate(slides.items()):
                began = time.monotonic()

                def on_tile(done: int, total: int, name: str = name, index: int = index, began: float = began) -> None:
                    steps.put(Step(name, index, len(slides), done, total, time.monotonic() - began))
                    if self.cancelled:
                        raise _Cancelled

                try:
                    on_tile(0, 0)
                    result = detector.detect(path, conf=LOWEST, um_per_px=um_per_px, name=name, on_tile=on_tile)
                    seconds = time.monotonic() - began
                    self.readings[name] = Reading(path, result, self._show(result, path, index), seconds)
                except _Cancelled:
                    return
                except PalynoError as error:
                    # The message may begin with the path, which on this machine means nothing to the visitor.
                    self.failures[name] = str(error).replace(str(path), name).removeprefix(f"{name}: ")
                except Exception:
                    fault = secrets.token_hex(3)
                    log.exception("internal fault %s on %s", fault, name)
                    self.failures[name] = (
                        f"an internal fault; the terminal that serves this page tells more under {fault}"
                    )
        finally:
            steps.put(None)

    def _show(self, result: SlideResult, path: Path, index: int) -> Path:
        """The slide, without boxes, as a file for the browser."""
        from ..overlay import draw, jpeg

        bare = draw(result.select(np.zeros(0, int)), path, palette={})
        scale = min(1.0, 2560 / max(result.width, result.height))
        picture = bare.crop((0, 0, max(1, round(result.width * scale)), max(1, round(result.height * scale))))
        file = self._folder("pictures") / f"{index}-{secrets.token_hex(4)}.jpg"
        file.write_bytes(jpeg(picture))
        return file

    def grain(self, slide: str, conf: float, place: int) -> Grain:
        """One of the grains that are shown.

        Args:
            slide: Its name.
            conf: The confidence that the grains are shown from.
            place: Among those.

        Raises:
            UsageError: There is no such grain.
        """
        shown = self.readings[slide].result.above(conf) if slide in self.readings else ()
        if not 0 <= place < len(shown):
            raise UsageError("this grain is not there any more: click another")
        return shown[place]

    def explain(self, grain: Grain) -> Path:
        """Why a grain was called what it was called by the detector that read its slide, as a picture for the browser.

        Args:
            grain: One that `grain` gave.
        """
        from ..explanation import draw, png

        assert self.detector is not None, "no grain without one"
        reading = self.readings[grain.slide]
        made = reading.result.provenance.arguments
        # Without integrated gradients, which take a while on a CPU.
        why = self.detector.explain(
            reading.path,
            grain,
            methods=("gradcam", "eigencam", "edges"),
            tile=made["tile_px"],
            overlap=made["overlap_px"],
            um_per_px=grain.um_per_px if reading.result.um_source == "caller" else None,
        )
        file = self._folder("pictures") / f"why-{secrets.token_hex(8)}.png"
        file.write_bytes(png(draw(why, self.found())))
        return file

    def found(self) -> list[tuple[tuple[str, ...], np.ndarray]]:
        """The names of all grains of each slide, and how sure each is: what decides the colours."""
        return [(reading.result.taxa, reading.result.confidence) for reading in self.readings.values()]

    def results(self, conf: float) -> list[SlideResult]:
        """What was found, at this confidence or above.

        Raises:
            UsageError: Nothing has been read, or `conf` is out of bounds.
        """
        if not self.readings:
            raise UsageError("there is nothing yet: read a slide first")
        return [reading.result.above(conf) for reading in self.readings.values()]

    def _folder(self, name: str) -> Path:
        folder = self.folder / name
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        return folder

    def _clear(self) -> None:
        for name in ("pictures", "files"):
            shutil.rmtree(self.folder / name, ignore_errors=True)


class Sessions:
    """The sessions of all open pages, by the key that Gradio gives each.

    Args:
        folder: Below it every session has a folder with a name that cannot be guessed.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._open: dict[str, Session] = {}

    def __getitem__(self, key: str | None) -> Session:
        key = key or ""
        if key not in self._open:
            self._open[key] = Session(self.folder / secrets.token_hex(16))
        return self._open[key]

    def close(self, key: str | None) -> None:
        """Ends a session and removes its files."""
        session = self._open.pop(key or "", None)
        if session is not None:
            session.close()


def _names(paths: Sequence[str | Path]) -> list[str]:
    """File names, told apart where two are the same."""
    names: list[str] = []
    for path in paths:
        name, number = Path(path).name, 2
        while name in names:
            name = f"{Path(path).stem} ({number}){Path(path).suffix}"
            number += 1
        names.append(name)
    return names
