"""`palyno bench collection`: a large collection beside comparing every vector."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from .figures import Figures, keeps_figures, tell_terminal


@click.command()
@click.option("--vectors", default=1_000_000, show_default=True, type=click.IntRange(1000), help="Vectors to draw.")
@click.option("--dim", default=384, show_default=True, type=click.IntRange(8), help="Numbers each.")
@click.option("--queries", default=200, show_default=True, type=click.IntRange(1), help="Searches of each kind.")
@click.option("--threads", default=2, show_default=True, type=click.IntRange(1), help="Of FAISS.")
@click.option("--seed", default=0, show_default=True, type=click.IntRange(0))
@click.option(
    "--folder",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Where there is room for 2.5 kB a vector.  [default: the system's temporary folder]",
)
@keeps_figures
def collection(figures: Figures, **options: Any) -> None:
    """Time searches in a large collection against comparing every vector.

    Draws clustered vectors, fills a collection with them, and asks both the same, with filters and without: time of a
    search in the middle of all, and the share of the true ten nearest among the ten returned.
    """
    from ..bench_collection import bench_collection

    with figures.measuring():
        measured = bench_collection(tell=tell_terminal, **options)
    figures.give(measured, lambda document: click.echo(table(document)))


def table(figures: dict[str, Any]) -> str:
    """The searches as a table in Markdown."""
    lines = [
        "| search | records passing | every vector, ms | collection, ms | first time, ms | times faster | Recall@10 |",
        "|---|---:|---:|---:|---:|---:|---:|",
    ]
    for row in figures["searches"]:
        first = f"{row['first_p50_ms']:.1f}" if "first_p50_ms" in row else ""
        lines.append(
            f"| {row['search']} | {row['passing']:,} | {row['flat_p50_ms']:.1f} | {row['p50_ms']:.1f} | {first} | "
            f"{row['times_faster']:.1f} | {row['recall_at_10']:.3f} |"
        )
    return "\n".join(lines)
