"""How far a job is: the events that a job tells, and a bar for terminals that shows them."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import TracebackType

__all__ = ["Progress", "TerminalProgress", "for_terminal", "steps"]


class Progress:
    """What a job tells while it runs; this one listens to nothing. Subclass it to show, or raise in it to cancel."""

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        return None

    def note(self, text: str) -> None:
        """Something takes its time before the job starts: what."""

    def start(self, slides: int) -> None:
        """The job has this many slides to read."""

    def slide(self, index: int, name: str) -> None:
        """Slide number `index`, from 0, is next."""

    def tile(self, done: int, total: int) -> None:
        """So many tiles of the current slide are done."""

    def drawing(self, index: int, name: str) -> None:
        """All slides are read; the overlay of number `index` is being drawn."""

    def finish(self) -> None:
        """The tables are being written."""


class TerminalProgress(Progress):
    """A bar on stderr: the slide, slides done, tiles a second, time left."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, TextColumn, TimeRemainingColumn
        from rich.progress import Progress as Bar

        self._bar = Bar(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=None),
            TextColumn("{task.fields[slides]}"),
            TextColumn("{task.fields[speed]}"),
            TimeRemainingColumn(),
            console=Console(stderr=True),
            transient=True,
            redirect_stdout=False,
        )
        self._task = self._bar.add_task("", total=None, slides="", speed="")
        self._slides = self._index = self._tiles = self._done = 0
        self._began = time.monotonic()

    def __enter__(self) -> TerminalProgress:
        self._bar.start()
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._bar.stop()

    def note(self, text: str) -> None:
        """Shows the line, which stays."""
        self._bar.console.print(text, markup=False, highlight=False, soft_wrap=True)

    def start(self, slides: int) -> None:
        """Sets the length of the bar."""
        self._slides, self._began = slides, time.monotonic()
        self._bar.update(self._task, total=slides)

    def slide(self, index: int, name: str) -> None:
        """Shows the slide's name."""
        self._index, self._done = index, 0
        self._show(name, index)

    def tile(self, done: int, total: int) -> None:
        """Moves the bar by the share of the slide that is done."""
        self._tiles += max(0, done - self._done)
        self._done = done
        speed = self._tiles / max(time.monotonic() - self._began, 1e-9)
        self._bar.update(self._task, completed=self._index + done / max(total, 1), speed=f"{speed:.1f} tiles/s")

    def drawing(self, index: int, name: str) -> None:
        """Shows the slide's name, and a bar of its own for the drawing."""
        if index == 0:
            self._bar.reset(self._task, total=self._slides, slides="", speed="drawing")
        self._show(name, index)

    def finish(self) -> None:
        """Shows that the tables are being written."""
        self._bar.update(self._task, description="tables", completed=self._slides, slides="", speed="writing")

    def _show(self, name: str, index: int) -> None:
        short = name if len(name) <= 32 else f"{name[:15]}…{name[-16:]}"
        self._bar.update(self._task, description=short, completed=index, slides=f"slide {index + 1} of {self._slides}")


def for_terminal(quiet: bool = False) -> Progress:
    """A bar if stderr is a terminal, else nothing."""
    return TerminalProgress() if not quiet and sys.stderr.isatty() else Progress()


@contextmanager
def steps(what: str, quiet: bool = False) -> Iterator[Callable[[int, int], None]]:
    """What to call with the steps done and to do, for a bar if stderr is a terminal, else nothing."""
    if quiet or not sys.stderr.isatty():
        yield lambda done, total: None
        return
    from rich.console import Console
    from rich.progress import Progress as Bar

    with Bar(console=Console(stderr=True), transient=True, redirect_stdout=False) as bar:
        task = bar.add_task(what, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)
