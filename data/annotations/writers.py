"""All files of a run in the formats that were asked for, in one pass over the results."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...errors import UsageError
from ..atomic import refuse_existing
from ..palette import colours
from . import LabelledImage
from .coco import write_coco
from .csv import open_counts, open_grains
from .geojson import write_geojson
from .labelstudio import write_labelstudio
from .names import slide_stem, slide_stems
from .parquet import open_parquet
from .provenance import add_source
from .yolo import write_yolo

if TYPE_CHECKING:
    from ...vision.results import SlideResult

__all__ = ["FORMATS", "slide_stem", "slide_stems", "write_results"]

Images = list[LabelledImage]
Stems = Mapping[str, str]
Sources = list[dict[str, Any]]

FORMATS = ("csv", "parquet", "coco", "geojson", "labelstudio", "yolo")


def write_results(
    results: Iterable[SlideResult],
    out: str | Path,
    formats: Sequence[str] = ("csv",),
    *,
    level: float = 0.95,
    stems: Mapping[str, str] | None = None,
    overwrite: bool = False,
) -> list[Path]:
    """Writes results in the given formats.

    `csv` writes `grains.csv` and `counts.csv`; `parquet`, `grains.parquet`; `coco`, `coco.json`; `geojson`, a
    `geojson/STEM.geojson` for each slide; `labelstudio`, `labelstudio.json`; `yolo`, a `yolo/labels/STEM.txt` for each
    slide and `yolo/data.yaml`. Stems are those of `slide_stems`. Tables grow slide by slide; for the other formats the
    boxes are kept until the end. When a result cannot be read or two slides have one name, nothing is written.

    Args:
        results: The slides, in the order of the rows; any iterable, gone through once.
        out: Folder, made if missing.
        formats: Any of `FORMATS`.
        level: Confidence level of the limits in `counts.csv`.
        stems: File stem of each slide, where it must not depend on which of them have results; None makes them from the
            slides given.
        overwrite: Replace files that are there.

    Returns:
        The files written, in the order of the formats.

    Raises:
        UsageError: There is no such format, `formats` is no list, a file is there, or two slides have one name.
    """
    if isinstance(formats, str):
        raise UsageError(f"formats: expected a list, such as {formats.split(',')!r}, got {formats!r}")
    out, formats = Path(out), list(dict.fromkeys(formats))
    unknown = [name for name in formats if name not in FORMATS]
    if unknown:
        raise UsageError(f"unknown format {unknown[0]!r}: expected any of {', '.join(FORMATS)}")
    tables: dict[str, dict[str, Any]] = {
        "csv": {"grains.csv": open_grains, "counts.csv": partial(open_counts, level=level)},
        "parquet": {"grains.parquet": open_parquet},
    }
    documents = [name for name in formats if name not in tables]
    for name in documents:
        _refuse_results(out / _DOCUMENTS[name][0], overwrite)
    written: dict[str, list[Path]] = {}
    slides: dict[str, None] = {}
    images: Images = []
    sources: Sources = []
    with ExitStack() as stack:
        adders: list[Callable[[SlideResult], None]] = []
        for name in formats:
            for table, opened in tables.get(name, {}).items():
                adders.append(stack.enter_context(opened(out / table, overwrite=overwrite)))
                written.setdefault(name, []).append(out / table)
        for result in results:
            if result.slide in slides:
                raise UsageError(f"slide {result.slide!r} is there twice: give paths that tell them apart")
            slides[result.slide] = None
            for add in adders:
                add(result)
            if documents:
                images.append(result.to_annotations())
                add_source(sources, result)
        for name in documents:
            target, write = _DOCUMENTS[name]
            written[name] = write(images, out / target, stems or slide_stems(slides), sources, overwrite)
    return [path for name in formats for path in written[name]]


def _refuse_results(path: Path, overwrite: bool) -> None:
    """Refuses a file, or a folder that holds files of an earlier run."""
    for file in sorted(path.rglob("[!.]*")) if path.is_dir() else [path]:
        if not file.is_dir():
            refuse_existing(file, overwrite=overwrite)


def _coco(images: Images, path: Path, stems: Stems, sources: Sources, overwrite: bool) -> list[Path]:
    return [write_coco(images, path, provenance=sources, overwrite=overwrite)]


def _geojson(images: Images, folder: Path, stems: Stems, sources: Sources, overwrite: bool) -> list[Path]:
    palette = colours((image.labels, image.confidence) for image in images)
    made = {
        slide: {k: v for k, v in source.items() if k != "slides"} for source in sources for slide in source["slides"]
    }
    return [
        write_geojson(
            i, folder / f"{stems[i.image]}.geojson", palette=palette, provenance=made[i.image], overwrite=overwrite
        )
        for i in images
    ]


def _labelstudio(images: Images, path: Path, stems: Stems, sources: Sources, overwrite: bool) -> list[Path]:
    # As overlays call it: the name alone does not tell weights that were trained again.
    models = ", ".join(sorted({f"{source['model']} {source['sha256'][:8]}" for source in sources}))
    return [write_labelstudio(images, path, model_version=models or "palyno", overwrite=overwrite)]


def _yolo(images: Images, folder: Path, stems: Stems, sources: Sources, overwrite: bool) -> list[Path]:
    return write_yolo(images, folder, stems=stems, provenance=sources, overwrite=overwrite)


_DOCUMENTS: dict[str, tuple[str, Callable[[Images, Path, Stems, Sources, bool], list[Path]]]] = {
    "coco": ("coco.json", _coco),
    "geojson": ("geojson", _geojson),
    "labelstudio": ("labelstudio.json", _labelstudio),
    "yolo": ("yolo", _yolo),
}
