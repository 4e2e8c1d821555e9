"""The options that several subcommands share, one decorator each: one spelling, one default, one help line."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import click

from ...vision.duplicates import IOU
from ...vision.runtimes import RUNTIMES
from ...vision.views import VIEWS


class Finite(click.FloatRange):
    """A float in a range; click's own lets `nan` and `inf` through."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """The number, or a usage error."""
        number = super().convert(value, param, ctx)
        if not math.isfinite(number):
            self.fail(f"{value} is not a finite number.", param, ctx)
        return number


class Input(click.Path):
    """A path that is not empty, which would be the folder that the command is given in, with all slides in it."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """The path, or a usage error."""
        if value == "":
            self.fail(
                "expected the path of a slide or folder, got an empty one; see what the script fills in.", param, ctx
            )
        return super().convert(value, param, ctx)


class Overlap(click.ParamType):
    """`auto`, or a number of pixels."""

    name = "auto|PX"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int | str:
        """`auto` or the pixels."""
        if value == "auto":
            return value
        if not str(value).isdecimal():
            self.fail(f"expected auto or a whole number of pixels, got {value!r}.", param, ctx)
        return int(value)


class Names(click.ParamType):
    """Names with commas between, without repetition."""

    name = "LIST"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, ...]:
        """The names, in the order given."""
        names = value.split(",") if isinstance(value, str) else value
        return tuple(dict.fromkeys(name.strip().lower() for name in names if name.strip()))


class Shard(click.ParamType):
    """`I/N`: part I of N, counted from 1."""

    name = "I/N"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, int]:
        """The pair (I, N)."""
        if isinstance(value, tuple):
            return value
        try:
            part, parts = (int(number) for number in value.split("/"))
        except ValueError:
            self.fail(f"expected I/N such as 1/4, got {value!r}.", param, ctx)
        if not 1 <= part <= parts:
            self.fail(f"expected I/N with 1 <= I <= N, got {value}.", param, ctx)
        return part, parts


paths = click.argument("paths", nargs=-1, required=True, metavar="PATH...", type=Input(path_type=Path))
model = click.option(
    "--model", default="hieraedge-n", show_default=True, metavar="NAME|FILE", help="Detector; see `palyno models list`."
)
device = click.option(
    "--device", default="auto", show_default=True, metavar="auto|cpu|cuda[:N]|mps", help="Where the model runs."
)
runtime = click.option(
    "--runtime",
    type=click.Choice(RUNTIMES),
    default="auto",
    show_default=True,
    help="What runs weights; auto: onnxruntime on a CPU if it can, for which they are prepared once, else torch.",
)
conf = click.option(
    "--conf", type=Finite(0, 1), default=0.25, show_default=True, help="Keep grains with at least this confidence."
)
iou = click.option(
    "--iou",
    type=Finite(0, 1),
    default=IOU,
    show_default=True,
    help="Two boxes of one tile that overlap more than this are one grain; lower it where grains are boxed twice.",
)
tile = click.option(
    "--tile",
    type=click.IntRange(min=64),
    default=640,
    show_default=True,
    help="Largest side of a tile, pixels of the slide; as large as grains need.",
)
imgsz = click.option(
    "--imgsz", type=click.IntRange(min=32), help="Side a tile is scaled to for the model.  [default: not scaled]"
)
overlap = click.option(
    "--overlap",
    type=Overlap(),
    default="auto",
    show_default=True,
    help="Pixels neighbouring tiles share: at least the largest grain's diameter.",
)
views = click.option(
    "--views",
    type=click.Choice([str(views) for views in VIEWS]),
    default="1",
    show_default=True,
    callback=lambda context, option, value: int(value),
    help="Average so many mirrored and turned views of each tile: names get surer, time is multiplied.",
)
um_per_px = click.option(
    "--um-per-px",
    type=Finite(min=0, min_open=True),
    metavar="F",
    help="Micrometres a pixel, over what the slide's file says.",
)
formats = click.option(
    "--formats",
    type=Names(),
    default="csv,yolo,coco,geojson",
    show_default=True,
    help="Files to write: csv, parquet, coco, geojson, labelstudio, yolo. csv is always written.",
)
overwrite = click.option("--overwrite", is_flag=True, help="Replace results that are there.")
as_json = click.option("--json", "as_json", is_flag=True, help="Print one JSON document on stdout.")
quiet = click.option("--quiet", is_flag=True, help="Print nothing but errors.")
