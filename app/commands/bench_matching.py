"""`palyno bench matching`: the encoder of grains and the matcher of words and grains, measured."""

from __future__ import annotations

from pathlib import Path

import click

from . import options as shared
from .figures import Figures, keeps_figures


@click.command()
@click.argument("pictures", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.argument("atlas", type=click.Path(exists=True, file_okay=False, path_type=Path))
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
@shared.quiet
@keeps_figures
def matching(
    pictures: Path,
    atlas: Path,
    keep: Path | None,
    unseen: str | None,
    seeds: int,
    direction_seeds: int,
    steps: int,
    device: str,
    quiet: bool,
    figures: Figures,
) -> None:
    """Measure the encoder of grains beside what needs no grain, and the matcher's choices.

    PICTURES has train/TAXON and val/TAXON with pictures of single grains (POLLEN73S); ATLAS has pairs.csv with
    pictures and texts.
    """
    from ..bench_matching import bench_matching, read_material
    from ..matching_tables import tables

    with figures.measuring(quiet=quiet) as told:
        material = read_material(
            pictures,
            atlas,
            kept=keep,
            unseen=unseen,
            device=device,
            on_picture=lambda done, of: told(f"{done} of {of} pictures"),
        )
        measured = bench_matching(material, seeds=seeds, direction_seeds=direction_seeds, steps=steps, on_row=told)
    figures.give(measured, lambda document: click.echo(tables(document)), quiet=quiet)
