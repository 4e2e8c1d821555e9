"""`palyno models`: what ships, and whether it is what it should be."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import click

from ...errors import NothingToDoError
from . import options as shared


@click.group()
def models() -> None:
    """List and verify the models that ship with palyno; convert published weights."""


@models.command("list")
@shared.as_json
def list_models(as_json: bool) -> None:
    """List the models: name, size, licence, what they were trained on."""
    from ...vision.weights import shipped_models

    rows = [{"name": name, **entry._asdict()} for name, entry in sorted(shipped_models().items())]
    _tell(rows, as_json, ("name", "bytes", "licence", "source"))


@models.command()
@shared.as_json
def verify(as_json: bool) -> int:
    """Hash every file and compare it with the list. Exits with 5 where one differs or is missing."""
    rows = verified()
    if not rows:
        raise NothingToDoError("no models are installed; install palyno again")
    _tell(rows, as_json, ("name", "status", "sha256"))
    return 0 if all(row["status"] == "ok" for row in rows) else 5


@models.command(short_help="Convert a published checkpoint of BiFormer to safetensors.")
@click.argument("checkpoint", type=click.Path(dir_okay=False, path_type=Path))
@click.option("--out", required=True, type=click.Path(dir_okay=False, path_type=Path), help="File to write.")
@shared.overwrite
@shared.as_json
def convert(checkpoint: Path, out: Path, overwrite: bool, as_json: bool) -> None:
    """Convert CHECKPOINT, weights that BiFormer's authors published, to safetensors under our names.

    Such a file is a pickle; it is read in a process of its own, which takes tensors and runs nothing. timm then loads
    the result: timm.create_model(NAME, pretrained=True, pretrained_cfg_overlay={"file": OUT}).
    """
    from ...vision.backbones.convert import convert_biformer

    name = convert_biformer(checkpoint, out, overwrite=overwrite)
    if as_json:
        click.echo(json.dumps({"architecture": name, "out": str(out), "bytes": out.stat().st_size}))
    else:
        click.echo(f"{name}: {out}", err=True)


def verified() -> list[dict[str, Any]]:
    """The models with a `status`: `ok`, `missing`, `not readable`, or `differs` from what was published."""
    from ...vision.weights import LOCK, shipped_models

    rows = []
    for name, entry in sorted(shipped_models().items()):
        try:
            data = (LOCK.parent / entry.file).read_bytes()
        except FileNotFoundError:
            status = "missing"
        except OSError:
            status = "not readable"
        else:
            same = (len(data), hashlib.sha256(data).hexdigest()) == (entry.bytes, entry.sha256)
            status = "ok" if same else "differs"
        rows.append({"name": name, "file": entry.file, "status": status, "sha256": entry.sha256})
    return rows


def _tell(rows: list[dict[str, Any]], as_json: bool, columns: tuple[str, ...]) -> None:
    if as_json:
        click.echo(json.dumps({"models": rows}))
        return
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for column in columns:
        table.add_column(column, justify="right" if column == "bytes" else "left", overflow="fold")
    for row in rows:
        table.add_row(*(Text(str(row[column])) for column in columns))
    Console(highlight=False).print(table if rows else "no models are installed")
