"""What every `palyno bench` command does with its figures: options, a file that is not replaced, what is printed."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import Any

import click

from . import options as shared

__all__ = ["Figures", "keeps_figures", "tell_terminal"]


def tell_terminal(line: str) -> None:
    """Says what is being measured, where somebody watches."""
    if sys.stderr.isatty():
        click.echo(line, err=True)


@dataclass(frozen=True)
class Figures:
    """Where the figures of one call go.

    Attributes:
        out: JSON file; None keeps none.
        overwrite: Replace it where it is there.
        as_json: Print the figures as one JSON document.
    """

    out: Path | None
    overwrite: bool = False
    as_json: bool = False

    @contextlib.contextmanager
    def measuring(self, *, quiet: bool = False) -> Iterator[Callable[[str], None]]:
        """Around what takes long: a file that must not be replaced is told before, and libraries print on stderr.

        Args:
            quiet: Nothing is said but errors, and `give` does not show the figures.

        Yields:
            What to tell how far it is: `tell_terminal`, or nothing.

        Raises:
            UsageError: The file is there, and `overwrite` is off; or `quiet` would leave nothing of the figures.
        """
        from ...data.atomic import refuse_existing
        from ...errors import UsageError

        if quiet and self.out is None and not self.as_json:
            raise UsageError(
                "--quiet: expected --out or --json with it, got neither, so that the figures would be lost"
            )
        if self.out is not None:
            refuse_existing(self.out, overwrite=self.overwrite)
        with contextlib.redirect_stdout(sys.stderr):
            yield (lambda line: None) if quiet else tell_terminal

    def give(self, figures: Any, show: Callable[[Any], None] = lambda figures: None, *, quiet: bool = False) -> None:
        """Writes the figures to the file, if any, and prints them: as JSON, or unless `quiet` as `show` does."""
        from ...data.atomic import write_text

        if self.out is not None:
            write_text(self.out, json.dumps(figures, ensure_ascii=False, indent=1) + "\n", overwrite=self.overwrite)
        if self.as_json:
            click.echo(json.dumps(figures, ensure_ascii=False))
        elif not quiet:
            show(figures)


def keeps_figures(command: Callable[..., None] | None = None, *, required: bool = False) -> Callable[..., Any]:
    """Adds --out, --overwrite and --json to a command, which is given them as `figures`.

    Args:
        command: The command.
        required: The file must be named; then nothing is printed, and there is no --json.
    """
    if command is None:
        return lambda command: keeps_figures(command, required=required)

    @wraps(command)
    def wrapped(*, out: Path | None, overwrite: bool, as_json: bool = False, **options: Any) -> None:
        command(figures=Figures(out, overwrite, as_json), **options)

    file = click.Path(dir_okay=False, path_type=Path)
    about = "JSON file." if required else "Also write the figures to this JSON file."
    decorated = wrapped if required else shared.as_json(wrapped)
    return click.option("--out", required=required, type=file, help=about)(shared.overwrite(decorated))
