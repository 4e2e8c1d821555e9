"""`palyno detect`: slides in, tables out."""

from __future__ import annotations

import contextlib
import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from . import options as shared


class Engine(click.Choice):
    """`local`; says what to do instead where `ray` is asked for."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """The engine, or a usage error."""
        if value == "ray":
            self.fail(
                "ray is not in this version; use `local`, and --shard I/N to split the slides over machines.",
                param,
                ctx,
            )
        return super().convert(value, param, ctx)


@click.command()
@shared.paths
@click.option(
    "--out",
    required=True,
    metavar="DIR",
    type=click.Path(path_type=Path),
    help="Folder for the results, made if missing.",
)
@shared.model
@shared.device
@shared.runtime
@shared.conf
@shared.iou
@shared.imgsz
@shared.tile
@shared.overlap
@shared.um_per_px
@shared.views
@shared.formats
@click.option("--overlays/--no-overlays", default=True, show_default=True, help="Draw the grains on each slide.")
@click.option(
    "--resume/--no-resume",
    default=True,
    show_default=True,
    help="Take over what DIR/.palyno keeps of slides read before with the same model, arguments and code.",
)
@click.option(
    "--on-error",
    type=click.Choice(["skip", "stop"]),
    default="skip",
    show_default=True,
    help="What to do about a slide that cannot be read.",
)
@click.option("--engine", type=Engine(["local"]), default="local", show_default=True, help="What runs the job.")
@click.option(
    "--shard",
    type=shared.Shard(),
    help="Read only part I of N of the slides; give each part its own DIR.",
)
@click.option("--workers", type=click.IntRange(min=1), help="CPU threads of the model.  [default: one a core]")
@shared.overwrite
@shared.as_json
@shared.quiet
def detect(paths: tuple[Path, ...], engine: str, as_json: bool, quiet: bool, **options: Any) -> int:
    """Find, name, measure and count the grains on slides.

    Each PATH is an image, a whole-slide scan, or a folder of them. DIR receives grains.csv (one row a grain),
    counts.csv (one row a taxon and slide, with intervals), run.json (what was done), the asked formats and overlays.
    A run that was broken off goes on where it stopped when the same command is given again.
    """
    from ..jobs import DetectOptions, detect_slides
    from ..progress import for_terminal
    from ..summary import show

    out = options.pop("out")
    # Libraries that print must not get between the JSON document and its reader.
    with contextlib.redirect_stdout(sys.stderr):
        report = detect_slides(paths, out, DetectOptions(**options), progress=for_terminal(quiet))
    if as_json:
        counts = [asdict(row) for row in report.counts()]
        click.echo(json.dumps({"out": str(report.out), **report.document(), "counts": counts}))
    show(report, errors_only=quiet or as_json)
    return report.exit_code
