"""`palyno val`: how good a detector is on labelled images."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from . import options as shared


@click.command(short_help="Score a detector on labelled images.")
@click.argument("data", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--split", default="val", show_default=True, type=click.Choice(["train", "val", "test"]))
@click.option(
    "--model", default="hieraedge-n", show_default=True, metavar="NAME|FILE", help="Model that ships, or weights."
)
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda, cuda:N or mps.")
@shared.runtime
@click.option("--conf", default=0.25, show_default=True, type=click.FloatRange(0, 1), help="Threshold of the counts.")
@click.option("--choose", type=click.Choice(["conf"]), help="Choose --conf: the least mean count error on this split.")
@shared.iou
@click.option("--tile", default=640, show_default=True, type=int, help="Side of a tile in pixels.")
@shared.imgsz
@shared.views
@click.option("--only", metavar="GLOB", help="Only images whose name matches, such as 'scene_*'.")
@click.option(
    "--draws", default=500, show_default=True, type=click.IntRange(0), help="Bootstrap draws; 0: no intervals."
)
@click.option(
    "--save",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Also keep what was found, down to confidence 0.05, in this file (gzipped JSON).",
)
@click.option(
    "--predictions",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Take the figures from a file that --save wrote, without a model.",
)
@click.option("--pictures", type=click.Path(file_okay=False, path_type=Path), help="Draw the figures into this folder.")
@click.option("--picture-format", default="png", show_default=True, type=click.Choice(["png", "svg"]))
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document on standard output.")
@click.pass_context
def val(
    context: click.Context,
    data: Path,
    split: str,
    model: str,
    device: str,
    runtime: str,
    conf: float,
    choose: str | None,
    iou: float,
    tile: int,
    imgsz: int | None,
    views: int,
    only: str | None,
    draws: int,
    save: Path | None,
    predictions: Path | None,
    pictures: Path | None,
    picture_format: str,
    as_json: bool,
) -> None:
    """Score a detector on a split of DATA: the data.yaml of a YOLO data set, or one COCO file (.json).

    The detector is called as `palyno detect` calls it. Average precision is pycocotools', without its cap of 100 boxes.
    With --choose conf, standard output is the threshold alone, to be given to --conf on the test split.
    """
    import json
    from dataclasses import replace
    from fnmatch import fnmatch

    from ...errors import NothingToDoError, UsageError
    from ...vision.operating import choose_conf
    from ...vision.predictions import read_predictions, write_predictions
    from ...vision.protocol import full_report, in_order
    from ...vision.validate import LOWEST, read_split
    from ..val_summary import finite, lines

    def given(option: str) -> bool:
        return context.get_parameter_source(option) is not click.core.ParameterSource.DEFAULT

    of_model = ("model", "device", "runtime", "iou", "tile", "imgsz", "views", "save")
    if predictions and (idle := [name for name in of_model if given(name)]):
        raise UsageError(f"--predictions runs no model: expected no --{idle[0]} with it")
    if choose and given("conf"):
        raise UsageError("expected --conf or --choose conf, got both")
    if conf < LOWEST and not predictions:
        raise UsageError(
            f"grains are looked for down to confidence {LOWEST}: expected --conf of at least that, got {conf:g}"
        )
    images, truth = read_split(data, split, only)
    if not any(len(image) for image in truth):
        click.echo(f"note: no image of {split} has a true grain; are the label files where {data} says?", err=True)
    if save:
        # Hours of a long reading would be lost where it cannot be kept.
        save.parent.mkdir(parents=True, exist_ok=True)
    if predictions:
        results, classes = read_predictions(predictions)
        wanted = [result for result in results if only is None or fnmatch(Path(result.slide).name, only)]
        results = in_order(truth, wanted)
    else:
        found, classes = _found(images, model, device, runtime, iou=iou, tile=tile, imgsz=imgsz, views=views)
        # As the data set names them: file names alone can be alike in its folders.
        results = [replace(result, slide=image.image) for result, image in zip(found, truth, strict=True)]
    if save:
        write_predictions(save, results, classes)
    choice = choose_conf(truth, results, draws) if choose else None
    if choice and not choice.f1:
        raise NothingToDoError(f"{split}: expected grains to be found to choose a threshold by, got none at any")
    source = results[0].provenance
    report = finite(
        {
            "model": source.model,
            "sha256": source.sha256,
            "version": source.version,
            "runtime": source.runtime,
            "device": source.device,
            "arguments": dict(source.arguments),
            "split": data.name if data.suffix == ".json" else split,
            **({"chosen": vars(choice)} if choice else {}),
            **full_report(truth, results, classes, conf=choice.conf if choice else conf, draws=draws),
        }
    )
    if pictures:
        from ..val_pictures import draw

        for file in draw(report, pictures, picture_format):
            click.echo(f"wrote {file}", err=True)
    if as_json:
        click.echo(json.dumps(report, ensure_ascii=False, allow_nan=False))
        return
    for line in lines(report):
        click.echo(line, err=True)
    if choice:
        click.echo(f"{choice.conf:g}")


def _found(
    images: list[Path], model: str, device: str, runtime: str, **arguments: Any
) -> tuple[list[Any], tuple[str, ...]]:
    """What a model finds on the images, and its classes."""
    import sys

    from ...vision.detector import load
    from ...vision.validate import predict

    told = (lambda text: click.echo(text, err=True)) if sys.stderr.isatty() else None
    detector = load(model, device=device, runtime=runtime, on_prepare=told)
    if detector.note:
        click.echo(f"note: {detector.note}", err=True)
    show = (lambda done, total: click.echo(f"\r{done}/{total}", nl=False, err=True)) if sys.stderr.isatty() else None
    results = predict(detector, images, progress=show, **arguments)
    if show:
        click.echo(err=True)
    return results, detector.classes
