"""`palyno export`: a detector's network in a file for other runtimes."""

from __future__ import annotations

from pathlib import Path

import click

from . import options as shared


@click.command(short_help="Write a detector's network as ONNX, OpenVINO or a TensorRT engine.")
@click.argument("model", metavar="MODEL")
@click.option(
    "--out", required=True, type=click.Path(path_type=Path), help="File to write; for openvino a folder of its own."
)
@click.option(
    "--format",
    "format_",
    type=click.Choice(["onnx", "openvino", "engine"]),
    default="onnx",
    show_default=True,
    help="engine is TensorRT's, made on the machine with the GPU that will use it.",
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
    "--dynamic",
    is_flag=True,
    help="Take any number of images of any size instead, as detection needs it. Not for BiFormer.",
)
@click.option("--half", is_flag=True, help="Half the size: store in half precision what loses nothing by it.")
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
    model: str,
    out: Path,
    format_: str,
    imgsz: int,
    batch: int,
    dynamic: bool,
    half: bool,
    large_kernels: str,
    overwrite: bool,
    as_json: bool,
) -> None:
    """Write the network of MODEL, a name from `palyno models list` or weights, for another runtime.

    The file takes images in [0, 1] as float32, (batch, 3, imgsz, imgsz), and gives for each anchor a box (centre x,
    centre y, width, height, pixels) and a probability a class: what is found in a tile, before duplicates are taken
    out. It is written only once its runtime has given PyTorch's boxes to 0.5 px and probabilities to 0.001 on tiles of
    the sample slides. `palyno detect --model OUT` runs it; with --dynamic it sees tiles just as the weights do. For
    onnxruntime on this machine nothing needs to be exported: palyno does it by itself, see `palyno detect --runtime`.
    openvino needs what `uv sync --extra export` installs, engine the package tensorrt.
    """
    import contextlib
    import json
    import sys

    from ...vision.export import export as write

    with contextlib.redirect_stdout(sys.stderr):
        done = write(
            model,
            out,
            format=format_,
            imgsz=imgsz,
            batch=batch,
            dynamic=dynamic,
            half=half,
            large_kernels=large_kernels,
            overwrite=overwrite,
        )
    if as_json:
        document = done.document()
        click.echo(json.dumps({**document, "format": format_, "large_kernels": large_kernels}, ensure_ascii=False))
        return
    parity = done.parity
    click.echo(
        f"{done.about.name}, {done.bytes / 1e6:.1f} MB: {done.path}\n"
        f"as in PyTorch to {parity.box_px:.2g} px and {parity.probability:.2g} of probability, {parity.boxes} boxes of "
        f"{parity.tiles} tiles",
        err=True,
    )
