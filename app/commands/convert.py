"""`palyno convert`: boxes from one annotation format to another."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import click

from . import options as shared

FORMATS = ("yolo", "coco", "voc", "geojson", "labelstudio")


@click.command()
@click.argument("source", metavar="SRC", type=click.Path(exists=True, path_type=Path))
@click.argument("target", metavar="DST", type=click.Path(path_type=Path))
@click.option("--from", "read_as", required=True, type=click.Choice([*FORMATS, "parquet"]), help="Format of SRC.")
@click.option(
    "--to",
    "write_as",
    required=True,
    type=click.Choice([*FORMATS, "counts"]),
    help="Format of DST; counts: a table as counts.csv of palyno detect.",
)
@click.option(
    "--splits",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="With --to yolo: folder with train.txt, val.txt and test.txt; DST becomes a data set to train on.",
)
@click.option(
    "--pictures",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Folder of the pictures: with --splits they are copied into DST; with --from geojson they say how large they "
    "are, which QuPath's files do not.",
)
@click.option(
    "--address",
    default="",
    metavar="TEXT",
    help="What stands before a picture's name in Label Studio's tasks, such as /data/local-files/?d=slides/.",
)
@shared.overwrite
@shared.as_json
def convert(
    source: Path,
    target: Path,
    read_as: str,
    write_as: str,
    splits: Path | None,
    pictures: Path | None,
    address: str,
    overwrite: bool,
    as_json: bool,
) -> None:
    """Convert boxes from one annotation format to another.

    SRC and DST are a folder for yolo, voc and geojson (one file a slide), else a file.
    Names, identifiers and confidences are kept where DST's format has a place for them.
    """
    from ...data.annotations import LabelledImage
    from ...data.annotations.coco import read_coco, write_coco
    from ...data.annotations.csv import write_label_counts
    from ...data.annotations.geojson import read_geojson, write_geojson
    from ...data.annotations.labelstudio import read_labelstudio, write_labelstudio
    from ...data.annotations.names import slide_stems
    from ...data.annotations.parquet import read_parquet
    from ...data.annotations.voc import read_voc, write_voc
    from ...data.annotations.yolo import read_yolo, write_yolo
    from ...data.folders import find_slides
    from ...data.palette import colours
    from ...data.slides import open_slide
    from ...data.training_set import read_split_lists, write_training_set
    from ...errors import AnnotationError, UsageError

    if splits and (pictures is None or write_as != "yolo" or overwrite):
        raise UsageError("--splits: expected --pictures, too, with --to yolo and a new folder as DST")
    if pictures and splits is None and read_as != "geojson":
        raise UsageError("--pictures: expected --splits or --from geojson beside it")
    if address and "labelstudio" not in (read_as, write_as):
        raise UsageError("--address: expected labelstudio as --from or --to beside it")

    def read_geojsons(path: Path) -> list[LabelledImage]:
        files = sorted(path.glob("*.geojson")) if path.is_dir() else [path]
        if not files:
            raise AnnotationError(f"{path}: expected a folder with .geojson files, got none")
        slides = find_slides(pictures, recursive=False)[0] if pictures else []
        return [read_one_geojson(file, slides) for file in files]

    def read_one_geojson(file: Path, slides: Sequence[Path]) -> LabelledImage:
        try:
            return read_geojson(file)
        except UsageError:
            if pictures is None:
                raise
        found = [slide for slide in slides if file.stem in (slide.stem, slide.name)]
        if len(found) != 1:
            got = " and ".join(slide.name for slide in found) or "none"
            raise AnnotationError(
                f"{file}: expected one picture of its name in {pictures}, to know its size, got {got}"
            )
        with open_slide(found[0]) as slide:
            return read_geojson(file, image=slide.name, width=slide.width, height=slide.height)

    def write_geojsons(images: Sequence[LabelledImage], folder: Path, *, overwrite: bool) -> None:
        stems = slide_stems(image.image for image in images)
        palette = colours((image.labels, image.confidence) for image in images)
        for image in images:
            write_geojson(image, folder / f"{stems[image.image]}.geojson", palette=palette, overwrite=overwrite)

    readers: dict[str, Callable[[Path], list[LabelledImage]]] = {
        "yolo": read_yolo,
        "coco": read_coco,
        "voc": read_voc,
        "geojson": read_geojsons,
        "labelstudio": partial(read_labelstudio, prefix=address),
        "parquet": read_parquet,
    }
    writers: dict[str, Callable[..., object]] = {
        "yolo": write_yolo,
        "coco": write_coco,
        "voc": write_voc,
        "geojson": write_geojsons,
        "labelstudio": partial(write_labelstudio, prefix=address),
        "counts": write_label_counts,
    }
    images = readers[read_as](source)
    if splits and pictures:
        write_training_set(images, pictures, read_split_lists(splits), target)
        # Of the images, those that are listed.
        images = read_yolo(target)
    else:
        writers[write_as](images, target, overwrite=overwrite)
    boxes = sum(len(image) for image in images)
    if as_json:
        import json

        click.echo(json.dumps({"out": str(target), "images": len(images), "boxes": boxes}))
    else:
        click.echo(f"{boxes} boxes on {len(images)} images: {target}", err=True)
