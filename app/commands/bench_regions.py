"""`palyno bench regions`: vectors off the detector's maps beside vectors of crops."""

from __future__ import annotations

from pathlib import Path

import click

from . import options as shared
from .figures import Figures, keeps_figures


@click.command()
@click.argument("scenes", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--regions", default="grain-regions", show_default=True, help="Weights of regions: a name or file.")
@click.option("--crops", default="grain-encoder", show_default=True, help="Weights of the encoder of crops.")
@click.option("--model", metavar="NAME|FILE", help="Detector of the regions, where it does not ship.")
@click.option("--gallery", default="train", show_default=True, help="Split whose grains are known.")
@click.option("--queries", default="test", show_default=True, help="Split whose grains are looked up.")
@click.option("--grey", is_flag=True, help="Take the colour off the scenes first.")
@shared.device
@shared.quiet
@keeps_figures
def regions(
    scenes: Path,
    regions: str,
    crops: str,
    model: str | None,
    gallery: str,
    queries: str,
    grey: bool,
    device: str,
    quiet: bool,
    figures: Figures,
) -> None:
    """Look up grains of SCENES, which palyno compose wrote, by regions of the pass that found them, and by crops.

    Shows of how many the nearest known grain is of their taxon, and what either costs a grain.
    """
    from ...retrieval.encoders.image import ImageEncoder, RegionEncoder
    from ..bench_regions import bench_regions, tables

    with figures.measuring(quiet=quiet) as told:
        measured = bench_regions(
            scenes,
            RegionEncoder(regions, detector=model, device=device),
            ImageEncoder(crops, device=device),
            gallery=gallery,
            queries=queries,
            grey=grey,
            on_scene=told,
        )
    figures.give(measured, lambda document: click.echo(tables(document)), quiet=quiet)
