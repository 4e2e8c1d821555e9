"""`palyno train`: train a detector."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from ...errors import UsageError


@click.command(short_help="Train a detector on a YOLO data set.")
@click.argument("data", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--out", required=True, type=click.Path(file_okay=False, path_type=Path), help="Folder of the run.")
@click.option(
    "--model", help="Name or YAML file of a layer table.  [default: hieraedge-n; with --backbone, backbone-yolo-n]"
)
@click.option(
    "--weights",
    metavar="NAME|FILE",
    help="Start from a trained detector instead of random weights: its layers, and what it knows of your classes.",
)
@click.option("--name", help="Name of the weights; the model's if not given.")
@click.option("--epochs", default=100, show_default=True, type=int)
@click.option("--hours", type=click.FloatRange(0, min_open=True), help="Time budget; replaces --epochs.")
@click.option("--batch", default=16, show_default=True, type=int, help="Images a step.")
@click.option("--imgsz", default=640, show_default=True, type=int, help="Side of the network's input in pixels.")
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda, cuda:N, mps; cuda:0,1 for several.")
@click.option("--workers", default=4, show_default=True, type=int, help="Processes that load and augment.")
@click.option("--seed", default=0, show_default=True, type=int)
@click.option("--lr", default=0.002, show_default=True, type=float, help="Peak learning rate of AdamW.")
@click.option(
    "--weight-decay", default=5e-4, show_default=True, type=click.FloatRange(0, 1), help="Weight decay of AdamW."
)
@click.option(
    "--edge",
    type=click.Choice(["magnitude", "scharr", "log", "learned", "reference", "none"]),
    help="Edge prior; the model's if not given.",
)
@click.option(
    "--gate", type=click.Choice(["published", "channel", "none"]), help="Frequency gate; the model's if not given."
)
@click.option(
    "--backbone", metavar="NAME", help="Of models that have one to choose: biformer_nano, timm:convnext_tiny, ..."
)
@click.option(
    "--backbone-weights",
    metavar="FILE",
    help="Start the backbone from a classifier's weights, safetensors of timm's or of `palyno models convert`.",
)
@click.option("--head", help="Head: detect, one2one or rtdetr; the model's if not given.")
@click.option(
    "--option", "options", multiple=True, metavar="NAME=VALUE", help="Further option of the model's table. Repeatable."
)
@click.option(
    "--naming-loss",
    type=click.FloatRange(0),
    help="Weight of the cross-entropy of names; if not given the model's, and 0 for fewer than ten classes.",
)
@click.option(
    "--nwd",
    default=0.0,
    show_default=True,
    type=click.FloatRange(0, 1),
    help="Share of the normalised Wasserstein distance in the loss of boxes and in which anchors answer for a grain.",
)
@click.option(
    "--teacher",
    metavar="NAME|FILE",
    help="Learn names from a trained detector, too, mostly a larger one: what it says of every grain.",
)
@click.option("--distill", type=click.FloatRange(0), help="Weight of what the teacher says of names.  [default: 1]")
@click.option(
    "--distill-temperature",
    type=click.FloatRange(0, min_open=True),
    help="What logits are divided by to compare names.  [default: 2]",
)
@click.option(
    "--distill-boxes",
    type=click.FloatRange(0),
    help="Weight of what the teacher says of the sides of boxes.  [default: 0]",
)
@click.option("--validate-every", default=1, show_default=True, type=int, help="Epochs between validations.")
@click.option(
    "--naming-threshold",
    default=0.5,
    show_default=True,
    type=click.FloatRange(0, 1, min_open=True),
    help="Share of its confidence that a name must have, else a coarser name or unknown is given.",
)
@click.option("--deterministic", is_flag=True, help="Bitwise repeatable on one machine, and slower.")
@click.option(
    "--cache",
    is_flag=False,
    flag_value="ram",
    default="none",
    show_default=True,
    type=click.Choice(["none", "ram", "host", "gpu"]),
    help="Keep decoded images in memory (ram), on the GPU and augment them there (gpu), or in memory and augment them "
    "on the GPU (host).  [without a value: ram]",
)
@click.option(
    "--light",
    default=1.0,
    show_default=True,
    type=click.FloatRange(min=0, max=2),
    help="How much stain, lamp, focus and noise vary from image to image, times the usual.",
)
@click.option(
    "--degrees",
    default=0.0,
    show_default=True,
    type=float,
    help="With --cache gpu or host: turn by so many degrees more.",
)
@click.option(
    "--multi-scale",
    default=0.0,
    show_default=True,
    type=click.FloatRange(0, 1, max_open=True),
    help="Share of --imgsz by which the side of a batch varies at most, up and down, in steps of 32 pixels; 0 is off.",
)
@click.option("--resume", is_flag=True, help="Go on with your own unfinished run in --out.")
def train(model: str | None, resume: bool, options: tuple[str, ...], **settings: Any) -> None:
    """Train on DATA, the data.yaml of a YOLO data set such as `palyno compose` writes.

    The best checkpoint by validation mAP50-95 becomes OUT/NAME.safetensors, which every command takes as --model.
    """
    from ...vision.operating import USUAL
    from ...vision.train import TrainSettings, known_classes
    from ...vision.train import train as run
    from ...vision.weights import read_metadata

    if model and settings["weights"]:
        raise UsageError("--model and --weights: weights bring their layer table; leave out one of the two")
    model = model or ("backbone-yolo-n" if settings["backbone"] else "hieraedge-n")
    asked = TrainSettings(model=model, options=dict(map(_option, options)), **settings)
    if settings["weights"]:
        known, new = known_classes(settings["data"], settings["weights"])
        named = f"; new to it: {', '.join(new)}" if new else ""
        click.echo(f"{settings['weights']} knows {len(known)} of {len(known) + len(new)} classes{named}", err=True)
    if settings["teacher"]:
        known, new = known_classes(settings["data"], settings["teacher"])
        named = f"; not {', '.join(new)}" if new else ""
        click.echo(f"{settings['teacher']} teaches {len(known)} of {len(known) + len(new)} classes{named}", err=True)
    path = run(asked, resume=resume, told=lambda text: click.echo(text, err=True))
    click.echo(f"weights: {path}", err=True)
    counts = read_metadata(path).training.get("counts")
    if counts and counts["count_error"] >= 1:
        click.echo(
            "counts validation images at no threshold better than by finding nothing: train longer, or from trained "
            "weights (--weights)",
            err=True,
        )
    elif counts:
        click.echo(
            f"counts validation images best at --conf {counts['conf']:g}: mean error {counts['count_error']:.1%}, "
            f"{counts['count_error_at_usual']:.1%} at the default {USUAL:g}",
            err=True,
        )


def _option(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not (name and equals and value):
        raise UsageError(f"--option: expected NAME=VALUE, such as kernel=13, got {text!r}")
    return name, value
