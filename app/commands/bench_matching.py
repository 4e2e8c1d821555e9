"""`palyno bench matching`: the encoder of grains and the matcher of words and grains, measured."""

from __future__ import annotations

import json
from pathlib import Path

import click

from . import options as shared
from .figures import Figures, keeps_figures


@click.command()
@click.argument("pictures", required=False, type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.argument("atlas", required=False, type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--keep", type=click.Path(file_okay=False, path_type=Path), help="Folder for vectors, to go on with.")
@click.option(
    "--unseen", metavar="FILE", help="Encoder trained without the ten taxa that are asked for; see docs/retrieval.md."
)
@click.option("--seeds", default=3, show_default=True, type=click.IntRange(2), help="Trainings of each matcher.")
@click.option(
    "--direction-seeds",
    default=10,
    show_default=True,
    type=click.IntRange(2),
    help="The same for each kind of wrong answers.",
)
@click.option("--steps", default=300, show_default=True, type=click.IntRange(1), help="Batches of each.")
@shared.device
@click.option(
    "--render",
    "document",
    metavar="FILE",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Measure nothing; fill the page from this file.",
)
@click.option(
    "--page",
    default="docs/retrieval.md",
    show_default=True,
    type=click.Path(dir_okay=False, path_type=Path),
    help="Page that --render fills.",
)
@shared.quiet
@keeps_figures
def matching(
    pictures: Path | None,
    atlas: Path | None,
    keep: Path | None,
    unseen: str | None,
    seeds: int,
    direction_seeds: int,
    steps: int,
    device: str,
    document: Path | None,
    page: Path,
    quiet: bool,
    figures: Figures,
) -> None:
    """Measure the encoder of grains beside what needs no grain, and the matcher's choices.

    PICTURES has train/TAXON and val/TAXON with pictures of single grains (POLLEN73S); ATLAS has pairs.csv with
    pictures and texts.
    """
    from ...errors import UsageError
    from ..matching_tables import read_figures, render, tables

    if document is not None:
        render(read_figures(document), page)
        click.echo(json.dumps({"page": str(page)}) if figures.as_json else str(page))
        return
    if pictures is None or atlas is None:
        raise UsageError("expected PICTURES and ATLAS to measure with, or --render FILE")
    from ..bench_matching import bench_matching, read_material

    def told(line: str) -> None:
        if not quiet:
            click.echo(line, err=True)

    with figures.measuring():
        material = read_material(
            pictures,
            atlas,
            kept=keep,
            unseen=unseen,
            device=device,
            on_picture=lambda done, of: told(f"{done} of {of} pictures"),
        )
        measured = bench_matching(material, seeds=seeds, direction_seeds=direction_seeds, steps=steps, on_row=told)
    figures.give(measured, lambda document: click.echo(tables(document)))
