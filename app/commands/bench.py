"""`palyno bench`: palyno beside other ways to detect, on the same images and weights."""

from __future__ import annotations

import contextlib
import json
import sys
from pathlib import Path
from typing import Any

import click

from . import options as shared


@click.group()
def bench() -> None:
    """Compare palyno with other ways to detect, on your images."""


@bench.command()
@click.argument("images", nargs=-1, required=True, type=click.Path(exists=True, path_type=Path))
@click.option(
    "--labels",
    type=click.Path(exists=True, path_type=Path),
    help="Folder of YOLO label files, one an image, or a COCO file, to score against.",
)
@shared.model
@shared.device
@click.option(
    "--out", type=click.Path(dir_okay=False, path_type=Path), help="Also write the figures to this JSON file."
)
@shared.overwrite
@shared.as_json
def detect(
    images: tuple[Path, ...],
    labels: Path | None,
    model: str,
    device: str,
    out: Path | None,
    overwrite: bool,
    as_json: bool,
) -> None:
    """Count with palyno, with ultralytics alone, and with SAHI.

    Shows grains found, count error and box score against the labels, seconds and peak memory of each.
    """
    from ...data.atomic import refuse_existing, write_text
    from ..bench_detect import bench_detect

    if out is not None:
        refuse_existing(out, overwrite=overwrite)
    with contextlib.redirect_stdout(sys.stderr):
        figures = bench_detect(images, labels, model, device=device)
    document = json.dumps(figures, ensure_ascii=False, indent=None if as_json else 1)
    if out is not None:
        write_text(out, json.dumps(figures, ensure_ascii=False, indent=1) + "\n", overwrite=overwrite)
    if as_json:
        click.echo(document)
    else:
        _show(figures)


@bench.command()
@click.argument("reference", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--scenes", default=150, show_default=True, type=click.IntRange(20), help="Scenes to compose.")
@click.option("--seed", default=0, show_default=True, type=click.IntRange(0))
@click.option("--workers", default=1, show_default=True, type=click.IntRange(1), help="Processes.")
@shared.as_json
def compose(reference: Path, scenes: int, seed: int, workers: int, as_json: bool) -> None:
    """Ask whether composed scenes give their grains away.

    Composes scenes from REFERENCE (one folder of single-grain pictures a taxon) with and without their grains, and
    trains a classifier on the rings around the grains. An AUC of 0.5 is chance.
    """
    from ..bench_compose import bench_compose

    rows = bench_compose(reference, scenes=scenes, seed=seed, workers=workers)
    if as_json:
        click.echo(json.dumps(rows))
        return
    click.echo("ring (px outside the outline)   rings   AUC of a grain being there   taxon right   by chance")
    for row in rows:
        click.echo(
            f"{row['inner']:>3} to {row['inner'] + row['width']:<3} {row['rings']:>28} {row['presence_auc']:>18.3f} "
            f"{row['taxon_accuracy']:>22.1%} {row['taxon_chance']:>11.1%}"
        )


def _show(figures: dict[str, Any]) -> None:
    """One line a method with its numbers; the whole document where it has no such lines."""
    from rich.console import Console
    from rich.table import Table

    rows = figures.get("methods") or figures.get("totals")
    if isinstance(rows, dict):
        rows = [{"method": name, **row} for name, row in rows.items()]
    if not rows:
        click.echo(json.dumps(figures, ensure_ascii=False, indent=1))
        return
    table = Table(title="palyno bench detect", title_justify="left")
    columns = list(
        dict.fromkeys(name for row in rows for name, value in row.items() if not isinstance(value, dict | list))
    )
    for column in columns:
        table.add_column(column.replace("_", " "), justify="left" if column == "method" else "right")
    for row in rows:
        values = (row.get(column) for column in columns)
        table.add_row(*("" if v is None else f"{v:.3g}" if isinstance(v, float) else str(v) for v in values))
    Console(width=None if sys.stdout.isatty() else 140).print(table)
