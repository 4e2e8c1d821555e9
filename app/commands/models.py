"""`palyno models`: what ships, and whether it is what it should be."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import click

from ...errors import NothingToDoError, RejectedModelError
from . import options as shared

_NUMBERS = ("classes", "M params", "GFLOPs", "weights", "float16")


@click.group()
def models() -> None:
    """List and verify the models that ship with palyno; convert, calibrate and split weights."""


@models.command("list")
@shared.as_json
def list_models(as_json: bool) -> None:
    """List the models: those whose weights ship first, then the detectors that can be trained; and the backbones.

    Parameters and GFLOPs (multiplications and additions on a tile of 640 px) are for the classes that are named, else
    for 80; those of backbones are without a classifier. Weights ship where their size is shown. The two columns of
    figures are mAP50-95 / mAP50 of different images: under `validated` of the weights that ship, on those that chose
    them in training; under `short training` of the layout, on test scenes (docs/detectors.md).
    """
    from ..zoo import list_backbones, list_zoo

    rows, backbones = list_zoo(), list_backbones()
    if as_json:
        click.echo(json.dumps({"models": rows, "backbones": backbones}, ensure_ascii=False))
        return
    shown = []
    for row in rows:
        options = row["options"] if row["head"] in ("detect", None) else {**row["options"], "head": row["head"]}
        # A name can come to stand for another table than its weights were trained with.
        options = {**({} if row.get("layout") in (None, row["name"]) else {"layout": row["layout"]}), **options}
        shown.append(
            {
                "name": row["name"],
                "kind": row["kind"],
                "weights": f"{row['bytes'] / 1e6:.1f} MB" if row["ships"] else "",
                "classes": len(row["classes"]) if row.get("classes") else "",
                "M params": f"{row['parameters'] / 1e6:.2f}" if row["parameters"] else "",
                "GFLOPs": f"{row['gflops']:.1f}" if row["gflops"] else "",
                "options": ", ".join(f"{k} {'to choose' if v is None else v}" for k, v in options.items()),
                "licence": row["licence"],
                "validated": _figures(row["validation"]),
                "short training": _figures(row["short_training"]),
            }
        )
    _show(shown, tuple(shown[0]) if shown else ())
    for row in rows:
        if row["ships"]:
            click.echo(f"{row['name']} was trained on {row['source']}.")
    click.echo(
        "Figures are mAP50-95 / mAP50. Validated: the weights that ship, on the images that chose them in training;\n"
        "what they do on test scenes, which is less, is in their cards: weights/NAME.md. Short training: what the\n"
        "layout reaches on composed test scenes after a short one, the same for all: docs/detectors.md."
    )
    shown = [
        {
            "backbone": row["name"],
            "M params": f"{row['parameters'] / 1e6:.2f}",
            "GFLOPs": f"{row['gflops']:.1f}",
            "float16": f"{row['bytes'] / 1e6:.1f} MB",
            "maps (channels at stride)": ", ".join(map("{} at {}".format, row["channels"], row["strides"])),
            "licence": row["licence"],
        }
        for row in backbones
    ]
    click.echo()
    _show(shown, tuple(shown[0]))
    name, layouts = backbones[0]["name"], backbones[0]["models"]
    click.echo(
        "A detector on one of them, or on any pyramid of timm's, trained from random numbers, or from a classifier's\n"
        "weights (--backbone-weights):\n"
        f"  palyno train scenes/data.yaml --out run --backbone {name}\n"
        f"  palyno train scenes/data.yaml --out run --backbone timm:convnext_tiny --model {layouts[0]}\n"
        "timm's networks are under Apache-2.0, its weights each under a licence of its own.\n"
        f"What --model puts them into: {', '.join(layouts)}. In Python the maps alone:\n"
        f'  import timm, palyno.vision.backbones; timm.create_model("{name}", features_only=True)\n'
        "Weights that BiFormer's authors published, for both: palyno models convert."
    )


def _figures(figures: dict[str, float] | None) -> str:
    if figures is None or not {"mAP50", "mAP50-95"} <= set(figures):
        return ""
    return f"{figures['mAP50-95']:.3f} / {figures['mAP50']:.3f}"


@models.command()
@shared.as_json
def verify(as_json: bool) -> int:
    """Hash every file and compare it with the list. Exits with 5 where one differs or is missing."""
    rows = verified()
    if not rows:
        raise NothingToDoError("no models are installed; install palyno again")
    _tell(rows, as_json, ("name", "status", "sha256"))
    return 0 if all(row["status"] == "ok" for row in rows) else 5


@models.command(short_help="Convert a published checkpoint of HieraEdgeNet or BiFormer to safetensors.")
@click.argument("checkpoint", type=click.Path(dir_okay=False, path_type=Path))
@click.option("--out", required=True, type=click.Path(dir_okay=False, path_type=Path), help="File to write.")
@shared.overwrite
@shared.as_json
def convert(checkpoint: Path, out: Path, overwrite: bool, as_json: bool) -> None:
    """Convert CHECKPOINT, weights that the authors of HieraEdgeNet or BiFormer published, to safetensors.

    Such a file is a pickle; it is read in a process of its own, which takes what it holds and runs nothing. A detector
    of HieraEdgeNet's authors (a .pt of their fork of ultralytics; scales n, s, m and l, with the head Detect or
    RTDETRDecoder) then is a --model for all commands. A backbone of BiFormer's (tiny, small, base and both STL, of a
    classifier or in a detector) is for palyno train --backbone NAME --backbone-weights OUT, and for timm:
    timm.create_model(NAME, pretrained=True, pretrained_cfg_overlay={"file": OUT}).
    """
    from ...data.atomic import refuse_existing
    from ...vision.checkpoint import read_checkpoint

    refuse_existing(out, overwrite=overwrite)
    content = read_checkpoint(checkpoint, "a checkpoint of HieraEdgeNet or BiFormer")
    if content.modules:
        from ...vision.models.convert import write_hieraedge as write
    else:
        from ...vision.backbones.convert import write_biformer as write
    name = write(checkpoint, content, out)
    if as_json:
        click.echo(json.dumps({"architecture": name, "out": str(out), "bytes": out.stat().st_size}))
    else:
        click.echo(f"{name}: {out}", err=True)


class Size(click.ParamType):
    """Bytes, as 15MB, 16MiB or 15000000."""

    name = "size"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """The number of bytes."""
        if isinstance(value, int):
            return value
        units = {"": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30}
        read = re.fullmatch(r"([1-9][0-9]*) ?([kmg]i?b|)", value, re.IGNORECASE)
        if read is None:
            self.fail(f"expected bytes such as 15MB, 16MiB or 15000000, got {value!r}", param, ctx)
        return int(read[1]) * units[read[2].upper()]


@models.command(short_help="Write weights again in parts, for places that take no large files.")
@click.argument("weights")
@click.option("--out", required=True, type=click.Path(file_okay=False, path_type=Path), help="Folder of the parts.")
@click.option(
    "--largest", default="15MB", show_default=True, type=Size(), help="What no part is larger than, as 15MB or 16MiB."
)
@shared.overwrite
@shared.as_json
def split(weights: str, out: Path, largest: int, overwrite: bool, as_json: bool) -> None:
    """Write WEIGHTS, a detector's, again as NAME-00001-of-00002.safetensors and so on.

    Any of the parts then is a --model for all commands, as long as the others lie beside it. The hash is that of the
    parts one after the other, not that of the whole file: what was made for one, such as a grain-regions, is refused
    with the other.
    """
    from ...vision.weights import find_model, split_weights

    parts, about = split_weights(find_model(weights)[0], out, largest=largest, overwrite=overwrite)
    sizes = [(str(path), len(data)) for path, data in zip(parts.paths, parts.parts, strict=True)]
    if as_json:
        files = [{"file": path, "bytes": size} for path, size in sizes]
        click.echo(json.dumps({"name": about.name, "parts": files, "bytes": parts.size, "sha256": parts.sha256}))
        return
    for path, size in sizes:
        click.echo(f"{path}: {size:,} bytes", err=True)
    click.echo(f"{about.name}: {parts.size:,} bytes in all, sha256 {parts.sha256}", err=True)


@models.command(short_help="Fit how sure a detector is of names to labelled images.")
@click.argument("weights")
@click.argument("data", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--out", required=True, type=click.Path(dir_okay=False, path_type=Path), help="Weights file to write.")
@click.option("--split", default="val", show_default=True, help="Images that the detector was not trained on.")
@click.option("--only", metavar="PATTERN", help="Only images whose name matches, such as 'scene_*'.")
@click.option("--conf", default=0.25, show_default=True, type=float, help="Least confidence of the grains looked at.")
@click.option(
    "--naming-threshold",
    type=click.FloatRange(0, 1, min_open=True),
    help="Write this one, too: the probability that a name must have, given a grain.",
)
@shared.device
@shared.overwrite
@shared.as_json
def calibrate(
    weights: str,
    data: Path,
    out: Path,
    split: str,
    only: str | None,
    conf: float,
    naming_threshold: float | None,
    device: str,
    overwrite: bool,
    as_json: bool,
) -> None:
    """Write WEIGHTS again so that the probabilities of names agree with what comes true on DATA's split.

    `palyno train` does the same at its end. The order of names does not change, but which are sure enough does.
    """
    from dataclasses import asdict

    from ...data.atomic import refuse_existing
    from ...vision.detector import load
    from ...vision.temperature import fit_temperature, with_temperature
    from ...vision.validate import read_split
    from ...vision.weights import find_model

    refuse_existing(out, overwrite=overwrite)
    fit = fit_temperature(load(weights, device=device, runtime="torch"), *read_split(data, split, only), conf=conf)
    if not fit.grains:
        raise NothingToDoError(f"{data}: no grain of {split} was found whose name the detector has")
    changes = {} if naming_threshold is None else {"naming_threshold": naming_threshold}
    with_temperature(find_model(weights)[0], out, round(fit.temperature, 3), **changes)
    if as_json:
        click.echo(json.dumps({**asdict(fit), "out": str(out)}))
    else:
        before, after = (f"{100 * value:.1f} %" for value in fit.ece)
        click.echo(
            f"{fit.grains:,} grains, temperature {fit.temperature:.3f}; calibration error of names {before} at 1, "
            f"{after} at this one: {out}",
            err=True,
        )


def verified() -> list[dict[str, Any]]:
    """The models with a `status`: `ok`, `missing`, `not readable`, or `differs` from what was published."""
    from ...vision.parts import part_paths, read_stored
    from ...vision.weights import LOCK, shipped_models

    rows = []
    for name, entry in sorted(shipped_models().items()):
        path = LOCK.parent / entry.file
        try:
            stored = read_stored(path)
        except RejectedModelError:
            status = "not readable" if all(file.exists() for file in part_paths(path)) else "missing"
        else:
            status = "ok" if (stored.size, stored.sha256) == (entry.bytes, entry.sha256) else "differs"
        rows.append({"name": name, "file": entry.file, "status": status, "sha256": entry.sha256})
    return rows


def _tell(rows: list[dict[str, Any]], as_json: bool, columns: tuple[str, ...]) -> None:
    if as_json:
        click.echo(json.dumps({"models": rows}))
    else:
        _show(rows, columns)


def _show(rows: list[dict[str, Any]], columns: tuple[str, ...]) -> None:
    import sys

    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for column in columns:
        justify: Any = "right" if column in _NUMBERS else "left"
        table.add_column(column, justify=justify, overflow="fold", no_wrap=column in ("name", "backbone"))
    for row in rows:
        table.add_row(*(Text(str(row[column])) for column in columns))
    # As wide as the terminal; in a file as wide as it takes.
    console = Console(highlight=False, width=None if sys.stdout.isatty() else 150)
    console.print(table if rows else "no models are installed")
