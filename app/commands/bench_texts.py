"""`palyno bench texts`: what many texts cost a collection."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from .figures import Figures, keeps_figures, tell_terminal


@click.command()
@click.option("--texts", default=100_000, show_default=True, type=click.IntRange(10), help="Texts to make.")
@click.option("--seed", default=0, show_default=True, type=click.IntRange(0))
@click.option(
    "--folder",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Where there is room for 7 kB a text.  [default: the system's temporary folder]",
)
@keeps_figures
def texts(figures: Figures, **options: Any) -> None:
    """Time a collection of many texts: to index their words, to open it, to change one, to search."""
    from ..bench_texts import bench_texts

    with figures.measuring():
        measured = bench_texts(tell=tell_terminal, **options)
    figures.give(measured, lambda document: click.echo(table(document)))


def table(figures: dict[str, Any]) -> str:
    """The times as a table in Markdown."""
    lines = ["| what | processor, s | wall, s |", "|---|---:|---:|"]
    lines += [f"| {what} | {one['cpu_s']:.2f} | {one['wall_s']:.2f} |" for what, one in figures["times"].items()]
    return "\n".join(lines)
