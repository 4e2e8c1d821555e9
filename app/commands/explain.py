"""`palyno explain`: why grains were called what they were called."""

from __future__ import annotations

import contextlib
import json
import sys
from pathlib import Path
from typing import Any

import click

from . import options as shared


class Box(click.ParamType):
    """`x1,y1,x2,y2`: pixels of the slide."""

    name = "x1,y1,x2,y2"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[float, ...]:
        """The four numbers."""
        if isinstance(value, tuple):
            return value
        try:
            box = tuple(float(number) for number in value.split(","))
        except ValueError:
            box = ()
        if len(box) != 4 or not (box[0] < box[2] and box[1] < box[3]):
            self.fail(f"expected x1,y1,x2,y2 with x1 < x2 and y1 < y2, got {value!r}.", param, ctx)
        return box


@click.command(short_help="Show why grains were called what they were called.")
@click.argument("slide", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--out", required=True, metavar="DIR", type=click.Path(path_type=Path), help="Folder for the panels.")
@click.option("--grain", metavar="ID", help="One grain, as in grains.csv.")
@click.option("--box", type=Box(), help="A place instead, also one where no grain was counted.")
@click.option("--top", type=click.IntRange(1), metavar="N", help="The N surest grains instead.  [default: 4]")
@click.option(
    "--method",
    "method",
    default="all",
    show_default=True,
    type=click.Choice(["gradcam", "eigencam", "ig", "edges", "all"]),
    help="Grad-CAM, EigenCAM, integrated gradients, the edge path's answers, or all.",
)
@click.option(
    "--layer", default="fine", show_default=True, help="Of the first two: neck, backbone, fine, or a layer's name."
)
@click.option("--taxon", metavar="NAME", help="Explain this class instead of the grain's own.")
@click.option(
    "--context",
    default=3.0,
    show_default=True,
    type=shared.Finite(min=1),
    help="Sides of the grain that the network is shown; at least 256 pixels.",
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
@shared.overwrite
@shared.as_json
@shared.quiet
def explain(slide: Path, out: Path, method: str, as_json: bool, quiet: bool, **options: Any) -> None:
    """Show why grains of SLIDE were called what they were called.

    DIR receives a panel a grain (the grain, heat maps over it, what the edge path answers, the likeliest names) and
    explain.json (the numbers, and with what they were made). Integrated gradients take a while on a CPU.
    """
    from ...vision.explain import METHODS
    from ..explaining import ExplainOptions, explain_slide
    from ..progress import steps

    asked = ExplainOptions(methods=METHODS if method == "all" else (method,), **options)
    with contextlib.redirect_stdout(sys.stderr), steps("grains", quiet=quiet or as_json) as told:
        document = explain_slide(slide, out, asked, progress=told)
    if as_json:
        click.echo(json.dumps({"out": str(out), **document}, ensure_ascii=False))
        return
    if quiet:
        return
    for row in document["grains"]:
        name = f"{row['taxon']} {row['confidence']:.2f}"
        click.echo(f"{out / row['file']}: {name}, explained {row['explained']} {row['probability']:.2f}", err=True)
        for left_out, reason in row["left_out"].items():
            click.echo(f"  {left_out} left out: {reason}", err=True)
