"""`palyno bench regions`: vectors off the detector's maps beside vectors of crops."""

from __future__ import annotations

import contextlib
import json
import sys
from pathlib import Path

import click

from . import options as shared


@click.command()
@click.argument("scenes", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--regions", default="grain-regions", show_default=True, help="Weights of regions: a name or file.")
@click.option("--crops", default="grain-encoder", show_default=True, help="Weights of the encoder of crops.")
@click.option("--model", metavar="NAME|FILE", help="Detector of the regions, where it does not ship.")
@click.option("--gallery", default="train", show_default=True, help="Split whose grains are known.")
@click.option("--queries", default="test", show_default=True, help="Split whose grains are looked up.")
@click.option("--grey", is_flag=True, help="Take the colour off the scenes first.")
@shared.device
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), help="Also write the document to this file.")
@shared.overwrite
@shared.quiet
@shared.as_json
def regions(
    scenes: Path,
    regions: str,
    crops: str,
    model: str | None,
    gallery: str,
    queries: str,
    grey: bool,
    device: str,
    out: Path | None,
    overwrite: bool,
    quiet: bool,
    as_json: bool,
) -> None:
    """Look up grains of SCENES, which palyno compose wrote, by regions of the pass that found them, and by crops.

    Shows of how many the nearest known grain is of their taxon, and what either costs a grain.
    """
    from ...data.atomic import refuse_existing, write_text
    from ...retrieval.encoders.image import ImageEncoder, RegionEncoder
    from ..bench_regions import bench_regions, tables

    if out is not None:
        refuse_existing(out, overwrite=overwrite)

    def told(line: str) -> None:
        if not quiet:
            click.echo(line, err=True)

    with contextlib.redirect_stdout(sys.stderr):
        document = bench_regions(
            scenes,
            RegionEncoder(regions, detector=model, device=device),
            ImageEncoder(crops, device=device),
            gallery=gallery,
            queries=queries,
            grey=grey,
            on_scene=told,
        )
    if out is not None:
        write_text(out, json.dumps(document, ensure_ascii=False, indent=1) + "\n", overwrite=overwrite)
    click.echo(json.dumps(document, ensure_ascii=False) if as_json else tables(document))
