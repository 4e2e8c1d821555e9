"""`palyno bench detectors`: detectors trained in one way, scored with intervals, and shown on a page."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from .figures import Figures, keeps_figures


@click.group()
def detectors() -> None:
    """Train detectors side by side, score them on the same images, and show how they compare."""


@detectors.command()
@click.argument("data", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--runs", required=True, type=click.Path(file_okay=False, path_type=Path), help="Folder of the runs.")
@click.option("--model", "models", required=True, multiple=True, metavar="NAME[:SEEDS]", help="Repeat for each.")
@click.option("--set", "sets", multiple=True, metavar="NAME=DATA:SPLIT[:GLOB]", help="Images to find grains on.")
@click.option("--on", "devices", default="cpu", show_default=True, help="Devices, such as cuda:0,cuda:1.")
@click.option("--each", default=1, show_default=True, type=click.IntRange(1), help="Runs at a time on one device.")
@click.option("--start-within", type=float, help="No run begins after so many seconds.")
@click.argument("options", nargs=-1, type=click.UNPROCESSED)
def train(
    data: Path,
    runs: Path,
    models: tuple[str, ...],
    sets: tuple[str, ...],
    devices: str,
    each: int,
    start_within: float | None,
    options: tuple[str, ...],
) -> None:
    """Train on DATA, a data.yaml; OPTIONS after -- go to `palyno train`, the same for all.

    A model is one of `palyno models list`, or hieraedge-n with a part changed: edges-none, -scharr, -log, -learned;
    gate-published, -channel; kernel-7, -13, -21; turned-45; light-2; multi-scale; nwd-half; without-sef, -edges,
    -spdconv, -cspokm; neck-as-published and, two parts, neck-and-edges-as-published; hieraedge-n-plain-loss,
    hieraedge-n-quarter-loss and hieraedge-n-whole-loss, of names; on other scenes of docs/recipes/compare_detectors.sh,
    hard-cases and more-scenes. published-without-gate is hieraedge-published-n but for its frequency gate.
    biformer-nano-yolo-named and yolo11n-named have its loss.

    Called again, it goes on where it was broken off. Each detector's boxes on each set are kept in its run's folder.
    """
    from ...errors import InputError, UsageError
    from ..bench_detectors.runs import ImageSet, Run, train_all

    plan = []
    for text in models:
        name, _, seeds = text.partition(":")
        if seeds and not seeds.isdigit():
            raise UsageError(f"--model: expected NAME or NAME:SEEDS with a number of seeds, got {text!r}")
        plan += [Run(name, seed, options) for seed in range(int(seeds or 1))]
    plan.sort(key=lambda run: run.seed)
    left = train_all(
        plan,
        data,
        runs,
        [ImageSet.parse(text) for text in sets],
        devices=devices.split(","),
        each=each,
        start_within=start_within,
        told=lambda line: click.echo(line, err=True),
    )
    if left:
        raise InputError(f"{len(left)} of {len(plan)} runs are not whole: {', '.join(left)}")


@detectors.command()
@click.argument("runs", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--truth", "truths", required=True, multiple=True, metavar="NAME=FILE[:GLOB]", help="A set's COCO file.")
@click.option("--ours", default="hieraedge-n", show_default=True, help="The model that others are compared with.")
@click.option("--conf", default=0.25, show_default=True, type=click.FloatRange(0.05, 1), help="Threshold of counts.")
@click.option(
    "--choose", metavar="NAME", help="Choose each run's own threshold of counts on this set; replaces --conf."
)
@click.option("--draws", default=500, show_default=True, type=click.IntRange(10), help="Of the bootstrap.")
@keeps_figures(required=True)
def score(
    runs: Path, truths: tuple[str, ...], ours: str, conf: float, choose: str | None, draws: int, figures: Figures
) -> None:
    """Score what the detectors in RUNS found, with intervals over images and differences on the same draws."""
    from ..bench_detectors.score import Truth, score_all

    def told(line: str) -> None:
        click.echo(line, err=True)

    with figures.measuring():
        parsed = [Truth.parse(text) for text in truths]
        document = score_all(runs, parsed, ours=ours, conf=conf, choose=choose, number=draws, told=told)
    figures.give(document)


@detectors.command()
@click.option("--device", default="cpu", show_default=True, type=click.Choice(["cpu", "cuda"]))
@click.option("--model", "models", multiple=True, help="Only this model; may be repeated.")
@click.option("--threads", default=2, show_default=True, type=click.IntRange(1), help="On a CPU.")
@keeps_figures(required=True)
def latency(models: tuple[str, ...], figures: Figures, **options: Any) -> None:
    """Time the networks on an image of 640 px, all in one run."""
    from ..bench_detectors.latency import MODELS, measure_latency

    with figures.measuring():
        document = measure_latency(models or MODELS, **options)
    figures.give(document)


@detectors.command()
@click.argument("scores", nargs=-1, required=True, type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option(
    "--latency", "latencies", multiple=True, type=click.Path(exists=True, dir_okay=False, path_type=Path), help="JSON."
)
@click.option("--page", default="docs/detectors.md", show_default=True, type=click.Path(path_type=Path))
@click.option("--plot", default="docs/images/detectors.svg", show_default=True, type=click.Path(path_type=Path))
@click.option("--set", "name", default="composed", show_default=True, help="Set of images that the plot shows.")
def render(scores: tuple[Path, ...], latencies: tuple[Path, ...], page: Path, plot: Path, name: str) -> None:
    """Fill the page from the documents of `score`, and draw accuracy against latency, the first of each given."""
    from ..bench_detectors.plot import draw
    from ..bench_detectors.render import read_figures, render_page

    documents = [read_figures(file, "differences") for file in scores]
    times = [read_figures(file, "models") for file in latencies]
    render_page(page, documents, times)
    click.echo(page)
    if times:
        draw(documents[0], times[0], plot, name=name)
        click.echo(plot)
