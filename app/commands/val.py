"""`palyno val`: how good a detector is on labelled images."""

from __future__ import annotations

from pathlib import Path

import click


@click.command(short_help="Score a detector on labelled images.")
@click.argument("data", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--split", default="val", show_default=True, type=click.Choice(["train", "val", "test"]))
@click.option(
    "--model", default="hieraedge-n", show_default=True, metavar="NAME|FILE", help="Model that ships, or weights."
)
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda, cuda:N or mps.")
@click.option("--conf", default=0.25, show_default=True, type=click.FloatRange(0, 1), help="Threshold of the counts.")
@click.option("--tile", default=640, show_default=True, type=int, help="Side of a tile in pixels.")
@click.option("--only", metavar="GLOB", help="Only images whose name matches, such as 'scene_*'.")
@click.option(
    "--save",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Also keep what was found, down to confidence 0.05, in this file (gzipped JSON).",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document on standard output.")
def val(
    data: Path,
    split: str,
    model: str,
    device: str,
    conf: float,
    tile: int,
    only: str | None,
    save: Path | None,
    as_json: bool,
) -> None:
    """Score a detector on the split of DATA, the data.yaml of a YOLO data set.

    The detector is called as `palyno detect` calls it. Average precision is pycocotools', without its cap of 100 boxes.
    """
    import json
    import sys
    from fnmatch import fnmatch

    from ...errors import NothingToDoError
    from ...vision.detector import load
    from ...vision.predictions import write_predictions
    from ...vision.validate import evaluate, predict, read_split

    images, truth = read_split(data, split)
    chosen = [i for i, image in enumerate(images) if only is None or fnmatch(image.name, only)]
    if not chosen:
        raise NothingToDoError(f"no image of the split {split} matches {only!r}")
    images, truth = [images[i] for i in chosen], [truth[i] for i in chosen]
    detector = load(model, device=device)
    show = (lambda done, total: click.echo(f"\r{done}/{total}", nl=False, err=True)) if sys.stderr.isatty() else None
    results = predict(detector, images, tile=tile, progress=show)
    if save:
        write_predictions(save, results, detector.classes)
    report = {
        "model": detector.name,
        "sha256": detector.sha256,
        **evaluate(truth, results, detector.classes, conf=conf),
    }
    if as_json:
        click.echo(json.dumps(report, ensure_ascii=False))
        return
    counts, names = report["counts"], report["names"]
    for line in (
        f"{detector.name} on {len(images)} images of {split}, {counts['true']} grains",
        f"mAP50 {report['mAP50']:.3f}   mAP50-95 {report['mAP50-95']:.3f}   AP50 of any grain {report['AP50_any']:.3f}",
        f"at conf {conf}: precision {counts['precision']:.3f}, recall {counts['recall']:.3f}, F1 {counts['f1']:.3f}, "
        f"mean count error {counts['count_error']:.1%}",
        f"names of matched grains: {names}",
        f"unknown grains: {report['unknown']}",
    ):
        click.echo(line, err=True)
