"""`palyno bench`: palyno beside other ways to detect, and its operators beside other libraries'."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import click

from . import options as shared
from .bench_collection import collection
from .bench_detectors import detectors
from .bench_matching import matching
from .bench_regions import regions
from .bench_texts import texts
from .figures import Figures, keeps_figures


@click.group()
def bench() -> None:
    """Compare palyno, and its operators, with other ways to do the same."""


bench.add_command(collection)
bench.add_command(detectors)
bench.add_command(matching)
bench.add_command(regions)
bench.add_command(texts)


@bench.command()
@click.argument("images", nargs=-1, required=True, type=click.Path(exists=True, path_type=Path))
@click.option(
    "--labels",
    type=click.Path(exists=True, path_type=Path),
    help="Folder of YOLO label files, one an image, or a COCO file, to score against.",
)
@shared.model
@shared.device
@keeps_figures
def detect(
    images: tuple[Path, ...],
    labels: Path | None,
    model: str,
    device: str,
    figures: Figures,
) -> None:
    """Count with palyno, with ultralytics alone, and with SAHI.

    Shows grains found, count error and box score against the labels, seconds and peak memory of each.
    """
    from ..bench_detect import bench_detect

    with figures.measuring():
        document = bench_detect(images, labels, model, device=device)
    figures.give(document, _show)


@bench.command()
@shared.model
@click.option("--threads", multiple=True, type=click.IntRange(1), help="Threads; may be repeated.  [default: 1, and 2]")
@click.option("--imgsz", type=click.IntRange(64), default=640, show_default=True, help="Side of the tile, pixels.")
@click.option("--rounds", type=click.IntRange(4), default=40, show_default=True, help="Tiles of each that count.")
@click.option("--runtime", "chosen", multiple=True, metavar="NAME", help="Only PyTorch and this; may be repeated.")
@click.option(
    "--slides",
    multiple=True,
    type=click.Path(exists=True, path_type=Path),
    help="Also time `palyno detect` on these slides; may be repeated.",
)
@click.option("--runs", type=click.IntRange(1), default=5, show_default=True, help="Runs of that which count.")
@keeps_figures
def runtimes(
    model: str,
    threads: tuple[int, ...],
    imgsz: int,
    rounds: int,
    chosen: tuple[str, ...],
    slides: tuple[Path, ...],
    runs: int,
    figures: Figures,
) -> None:
    """Time the whole network on a CPU in PyTorch, onnxruntime and OpenVINO.

    One tile a call, each runtime in a process of its own, all in turn; with --slides also whole runs of `palyno detect`
    in PyTorch and in onnxruntime. Needs what `uv sync --extra export` installs.
    """
    from ..bench_runtimes import RUNTIMES, bench_runtimes

    def told(row: dict[str, Any]) -> None:
        click.echo(
            f"{row['threads']} thread(s), {row['runtime']}: {row['median_ms']:.1f} ms "
            f"({row['lower_quartile_ms']:.1f} to {row['upper_quartile_ms']:.1f}), {row['faster']:.2f} times as fast as "
            f"PyTorch, first tile after {row['first_s']:.1f} s, {row['peak_mib']} MiB",
            err=True,
        )

    with figures.measuring():
        document = bench_runtimes(
            model,
            threads=threads or (1, 2),
            imgsz=imgsz,
            rounds=rounds,
            runtimes=chosen or tuple(RUNTIMES),
            slides=slides,
            runs=runs,
            on_row=told,
        )
    for row in document.get("detect", ()):
        click.echo(
            f"{row['threads']} thread(s), palyno detect --runtime {row['runtime']}: {row['median_s']:.1f} s "
            f"({min(row['seconds']):.1f} to {max(row['seconds']):.1f}), {row['faster']:.2f} times as fast as torch, "
            f"with an empty cache {row['first_s']:.1f} s, {row['grains']} grains",
            err=True,
        )
    figures.give(document)


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


@bench.command()
@click.option(
    "--device", default="auto", show_default=True, type=click.Choice(["auto", "cpu", "cuda"]), help="Where to measure."
)
@click.option("--operator", "operators", multiple=True, metavar="NAME", help="Only this operator; may be repeated.")
@click.option("--threads", type=click.IntRange(1), help="Threads on a CPU.  [default: as many as PyTorch takes]")
@click.option("--quick", is_flag=True, help="Tiny shapes, to see that everything runs; the numbers mean nothing.")
@click.option(
    "--render",
    "documents",
    multiple=True,
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="Measure nothing; fill the page and draw the plot from this file; may be repeated.",
)
@click.option(
    "--page",
    default="docs/kernels.md",
    show_default=True,
    type=click.Path(dir_okay=False, path_type=Path),
    help="Page that --render fills.",
)
@click.option(
    "--plot",
    default="docs/images/kernels.svg",
    show_default=True,
    type=click.Path(dir_okay=False, path_type=Path),
    help="Plot that --render draws.",
)
@keeps_figures
def kernels(
    device: str,
    operators: tuple[str, ...],
    threads: int | None,
    quick: bool,
    documents: tuple[Path, ...],
    page: Path,
    plot: Path,
    figures: Figures,
) -> None:
    """Measure every operator against its peers and against what the machine can do."""
    from ..bench_kernels import bench_kernels, render

    if documents:
        from ..bench_kernels.plot import draw

        read = render.read_documents(documents)
        places = render.render_page(page, read)
        draw(read, plot)
        done = {"page": str(page), "places": places, "plot": str(plot)}
        click.echo(json.dumps(done) if figures.as_json else f"{page}\n{plot}")
        return
    with figures.measuring():
        measured = bench_kernels(device, operators, threads=threads, quick=quick, on_case=_tell_case)

    def show(document: dict[str, Any]) -> None:
        for name, text in render.render_sections([document]).items():
            if text != render.NOTHING:
                click.echo(f"{name}\n\n{text}\n")

    figures.give(measured, show)


@bench.command()
@click.argument("folder", required=False, type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option(
    "--split", default="test", show_default=True, help="Of the judgements; the shipped set has dev, test, atlas."
)
@click.option(
    "--render",
    "documents",
    metavar="FILE|FOLDER",
    multiple=True,
    type=click.Path(exists=True, path_type=Path),
    help="Measure nothing; fill the page from these figures, those of bench matching and bench regions among them.",
)
@click.option(
    "--page",
    default="docs/retrieval.md",
    show_default=True,
    type=click.Path(dir_okay=False, path_type=Path),
    help="Page that --render fills.",
)
@keeps_figures
def retrieval(
    folder: Path | None,
    split: str,
    documents: tuple[Path, ...],
    page: Path,
    figures: Figures,
) -> None:
    """Measure search in texts beside its own parts: words, vectors, glossary.

    Takes the shipped questions on pollen types, or FOLDER, a data set in BEIR's format or a domain of Multi-CPR.
    """
    if documents:
        from ..retrieval_page import fill

        places = fill(documents, page)
        click.echo(json.dumps({"page": str(page), "places": places}) if figures.as_json else str(page))
        return
    from ..bench_retrieval import bench_retrieval, tables

    with figures.measuring():
        measured = bench_retrieval(
            split, folder=folder, on_system=lambda name, value: click.echo(f"{name}: nDCG@10 {value:.3f}", err=True)
        )
    figures.give(measured, lambda document: click.echo(tables(document)))


def _tell_case(row: dict[str, Any]) -> None:
    """One line a case on stderr, as it is done."""
    if "failed" in row:
        click.echo(f"{row['operator']}: {row['case']}: {row['failed']}", err=True)
        return
    told = [
        f"{entry['name']} {entry['median_ms']:.4g}" if "median_ms" in entry else f"{entry['name']} unsupported"
        for entry in row["contenders"]
    ]
    shape = "x".join(str(side) for side in row["shape"])
    click.echo(f"{row['operator']}: {row['case']}, {shape}, {row['dtype']}, ms: {', '.join(told)}", err=True)


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


@bench.command()
@click.argument("scenes", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option(
    "--model",
    "models",
    multiple=True,
    metavar="NAME|FILE",
    default=["hieraedge-n"],
    show_default=True,
    help="Repeat it: each later model is compared with the first, grain by grain.",
)
@click.option("--split", default="test", show_default=True, type=click.Choice(["train", "val", "test"]))
@click.option(
    "--map", "maps", multiple=True, metavar="NAME", help="Only this attribution, such as gradcam/fine; may be repeated."
)
@click.option("--scenes", "most_scenes", type=click.IntRange(1), help="Only so many scenes.")
@click.option("--grains", "most_grains", type=click.IntRange(1), help="Of each scene only so many grains.")
@shared.conf
@shared.device
@click.option("--seed", default=0, show_default=True, type=click.IntRange(0))
@keeps_figures
def boundary(
    scenes: Path,
    models: tuple[str, ...],
    maps: tuple[str, ...],
    figures: Figures,
    **options: Any,
) -> None:
    """Ask whether networks look at the outlines of grains.

    SCENES is a folder that `palyno compose --masks` wrote. Shows the share of each attribution within a band along the
    outline, against chance and between models, with 95 % intervals over scenes.
    """
    from ..bench_boundary import MAPS, bench_boundary
    from ..progress import steps

    with figures.measuring(), steps("scenes", quiet=figures.as_json) as told:
        document = bench_boundary(scenes, models, maps=maps or MAPS, progress=told, **options)
    figures.give(document, _show_boundary)


def _show_boundary(figures: dict[str, Any]) -> None:
    """One line a map and band over grains of all sizes."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    measured, names = figures["measured"], [model["name"] for model in figures["models"]]
    rows = [row for row in figures["rows"] if row["size"] == "all"]
    plain = {row["band"]: _limits(row["models"]["picture"]["share"]) for row in rows if "picture" in row["models"]}
    title = f"{measured['grains']} grains in {measured['scenes']} scenes; shares along the outline in %, 95 % limits"
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    differences = [f"{names[0]} - {name}" for name in names[1:]]
    for column in ("map", "band", "chance", "picture's edges", *names, *differences):
        table.add_column(column, justify="left" if column in ("map", "band") else "right")
    for row in rows:
        if "picture" in row["models"]:
            continue
        shares = {name: _limits(told["share"]) for name, told in row["models"].items()}
        apart = {one["minus"]: _limits(one["share"]) for one in row["differences"]}
        table.add_row(
            row["map"],
            row["band"],
            f"{100 * row['chance']:.1f}",
            plain.get(row["band"], ""),
            *(shares.get(name, "") for name in names),
            *(apart.get(name, "") for name in names[1:]),
        )
    Console(width=None if sys.stdout.isatty() else 160, highlight=False).print(table)


def _limits(interval: dict[str, float]) -> str:
    return f"{100 * interval['mean']:.1f} ({100 * interval['low']:.1f} to {100 * interval['high']:.1f})"
