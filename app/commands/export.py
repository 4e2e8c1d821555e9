"""`palyno export`: a detector's network in a file for other runtimes."""

from __future__ import annotations

from pathlib import Path

import click

from . import options as shared


@click.command(short_help="Write a detector's network as ONNX, for other runtimes.")
@click.argument("model", metavar="MODEL")
@click.option("--out", required=True, type=click.Path(dir_okay=False, path_type=Path), help="File to write.")
@click.option(
    "--format", "format_", type=click.Choice(["onnx"]), default="onnx", show_default=True, help="Of the file."
)
@click.option(
    "--imgsz",
    type=click.IntRange(min=32),
    default=640,
    show_default=True,
    help="Side of the images that it will take, pixels; a multiple of 32.",
)
@click.option("--batch", type=click.IntRange(min=1), default=1, show_default=True, help="Images that it takes at once.")
@click.option(
    "--large-kernels",
    type=click.Choice(["auto", "conv", "dft"]),
    default="auto",
    show_default=True,
    help="Large depthwise convolutions as Conv, or as products of matrices; auto takes the faster on a CPU.",
)
@shared.overwrite
@shared.as_json
def export(
    model: str, out: Path, format_: str, imgsz: int, batch: int, large_kernels: str, overwrite: bool, as_json: bool
) -> None:
    """Write the network of MODEL, a name from `palyno models list` or weights, as ONNX.

    The file takes images in [0, 1] as float32, (batch, 3, imgsz, imgsz), and gives for each anchor a box (centre x,
    centre y, width, height, pixels) and a probability a class: what is found in a tile, before duplicates are taken
    out. It is written only once onnxruntime has given the network's own numbers with it. Needs the packages onnx and
    onnxruntime, which `uv sync --extra export` installs.
    """
    import contextlib
    import json
    import sys

    from ...vision.detector import load
    from ...vision.export import export_onnx

    with contextlib.redirect_stdout(sys.stderr):
        detector = load(model, device="cpu")
        export_onnx(detector, out, imgsz=imgsz, batch=batch, large_kernels=large_kernels, overwrite=overwrite)
    size = out.stat().st_size
    if as_json:
        about = {"out": str(out), "format": format_, "model": detector.metadata.name, "bytes": size}
        about |= {"sha256": detector.metadata.sha256, "imgsz": imgsz, "batch": batch, "large_kernels": large_kernels}
        click.echo(json.dumps(about))
    else:
        click.echo(f"{detector.metadata.name}, {size / 1e6:.1f} MB: {out}", err=True)
