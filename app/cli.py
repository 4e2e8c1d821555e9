"""The `palyno` command: which subcommands there are, how faults are told, and the exit codes.

A subcommand's module is imported only when it is called, so `palyno --help` needs neither torch nor pandas.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import traceback
from collections.abc import Sequence
from datetime import datetime
from difflib import get_close_matches
from importlib import import_module
from types import FrameType
from typing import Any

import click

from .. import __version__
from ..errors import PalynoError
from ..offline import cache_dir, switch_off

# name -> (module:attribute below palyno.app.commands, the first line of its help)
COMMANDS = {
    "detect": ("detect:detect", "Find, name, measure and count the grains on slides."),
    "explain": ("explain:explain", "Show why grains were called what they were called."),
    "serve": ("serve:serve", "Open the web page on this machine."),
    "index": ("index:index", "Keep a searchable collection of grains and texts."),
    "search": ("search:search", "Find grains and texts in a collection, by words or by a picture."),
    "models": (
        "models:models",
        "List and verify the models that ship with palyno; convert, calibrate and split weights.",
    ),
    "convert": ("convert:convert", "Convert boxes from one annotation format to another."),
    "compose": ("compose:compose", "Make training scenes with exact boxes from reference pictures of single grains."),
    "train": ("train:train", "Train a detector on a YOLO data set."),
    "train-encoder": ("train_encoder:train_encoder", "Train an encoder of grains, or of words for grains."),
    "val": ("val:val", "Score a detector on labelled images."),
    "export": ("export:export", "Write a detector's network as ONNX, OpenVINO or a TensorRT engine."),
    "bench": ("bench:bench", "Compare palyno, and its operators, with other ways to do the same."),
    "doctor": ("doctor:doctor", "Say whether this machine can run palyno, and with what."),
}

EXIT_CODES = {
    0: "all done",
    1: "internal fault",
    2: "wrong usage",
    3: "some inputs failed, the rest is kept",
    4: "nothing was processed",
    5: "a model or an index was refused",
    130: "interrupted; the same command goes on where it stopped",
}

_SAME = "What was finished is kept; the same command goes on from there."
# Where work that was broken off goes on, by the first words of the command; what the others began is begun anew.
GO_ON = {
    ("detect",): _SAME,
    ("index", "build"): "What was added is kept; palyno index add goes on from there.",
    ("index", "add"): _SAME,
    ("train",): "--resume goes on from the last checkpoint, if there is one yet.",
    ("train-encoder",): "Of grains --resume goes on from the last checkpoint, if there is one yet.",
    ("bench", "detectors", "train"): _SAME,
}


class Commands(click.Group):
    """A group that imports a subcommand only when it is called, and tells faults in one line."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The names, in the order they are shown."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The subcommand, imported now."""
        if cmd_name not in COMMANDS:
            return None
        module, attribute = COMMANDS[cmd_name][0].split(":")
        return getattr(import_module(f"{__package__}.commands.{module}"), attribute)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """The subcommand that is asked for; one that is nearly so is named."""
        try:
            return super().resolve_command(ctx, args)
        except click.UsageError as error:
            near = get_close_matches(args[0], COMMANDS, n=1)
            if not near:
                raise
            raise click.UsageError(f"{error.message} Did you mean '{near[0]}'?", error.ctx) from error

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Lists the subcommands without importing them."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, line) for name, (_, line) in COMMANDS.items()])

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Says what the exit codes mean."""
        with formatter.section("Exit codes"):
            formatter.write_dl([(str(code), meaning) for code, meaning in EXIT_CODES.items()])

    def main(
        self,
        args: Sequence[str] | None = None,
        prog_name: str | None = None,
        complete_var: str | None = None,
        standalone_mode: bool = True,
        **extra: Any,
    ) -> Any:
        """Runs a command line and exits with the code that its outcome has."""
        if not standalone_mode:
            return super().main(args, prog_name, complete_var, standalone_mode=False, **extra)
        switch_off()
        args = list(sys.argv[1:] if args is None else args)
        try:
            outcome = super().main(args, prog_name or "palyno", complete_var, standalone_mode=False, **extra)
            code = outcome if isinstance(outcome, int) else 0
        except click.ClickException as error:
            code = _tell(error.format_message(), error.exit_code, args, error=error)
        except PalynoError as error:
            code = _tell(str(error), error.exit_code, args)
        except click.Abort:
            on = [told for words, told in GO_ON.items() if tuple(args[: len(words)]) == words]
            code = _tell(" ".join(["Interrupted.", *on]), 130, args)
        except OSError as error:
            code = _told(error, args)
        except Exception as error:
            code = _tell(_fault(error), 1, args)
        sys.exit(code)


def _tell(message: str, code: int, args: Sequence[str], *, error: click.ClickException | None = None) -> int:
    """Puts a fault on stderr, and with `--json` as the one document on stdout."""
    if error is not None:
        error.show()
    else:
        click.echo(message if code == 130 else f"Error: {message}", err=True)
    if "--json" in args:
        click.echo(json.dumps({"error": {"message": message, "exit_code": code}}))
    return code


def _told(error: OSError, args: Sequence[str]) -> int:
    """Tells what the system refused: what the user can put right in a line, all else as a fault."""
    from .outputs import unwritable

    known = None if os.environ.get("PALYNO_DEBUG") else unwritable(error)
    return _tell(_fault(error), 1, args) if known is None else _tell(str(known), known.exit_code, args)


def _fault(error: Exception) -> str:
    """The message for a fault nobody foresaw, with its traceback kept in a file or shown."""
    trace = "".join(traceback.format_exception(error))
    summary = f"an internal fault, {type(error).__name__}: {error}."
    if os.environ.get("PALYNO_DEBUG"):
        return f"{summary}\n{trace}"
    try:
        folder = cache_dir() / "faults"
        folder.mkdir(parents=True, exist_ok=True)
        file = folder / f"{datetime.now():%Y%m%d-%H%M%S}-{os.getpid()}.txt"
        file.write_text(trace, encoding="utf-8")
    except OSError:
        return f"{summary} Set PALYNO_DEBUG=1 to see where."
    return f"{summary} Where it happened is written in {file}; PALYNO_DEBUG=1 shows it here."


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="palyno", message="%(prog)s %(version)s")
def cli() -> None:
    """Find, name, count and explain pollen grains on microscope slides."""


def _interrupt(signum: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def main() -> None:
    """The console script. Batch schedulers end a job with SIGTERM: it is told and resumed like Ctrl-C."""
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, _interrupt)
    cli.main()
