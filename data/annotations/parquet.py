"""The grain table as Parquet: the typed columns of `grains.csv`, and in the metadata where they come from.

The metadata key `palyno` holds JSON: the table's `schema` number, the `provenance` of the grains (model, sha256,
version, arguments, runtime, device and `slides`; more than one where slides were read in different ways) and the
`slides` with their sizes and notes, also those without grains.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...errors import AnnotationError
from ..atomic import replacing
from . import LabelledImage
from .csv import GRAIN_COLUMNS, NUMBER_COLUMNS, boxes_of, grain_rows
from .provenance import add_source
from .reading import expecting, size

if TYPE_CHECKING:
    from ...vision.results import SlideResult

__all__ = ["SCHEMA", "open_parquet", "read_parquet", "write_parquet"]

# Raised when a column changes its name, type or meaning; a further column does not raise it.
SCHEMA = 1

_GROUP_ROWS = 65536


@contextmanager
def open_parquet(path: str | Path, *, overwrite: bool = False) -> Iterator[Callable[[SlideResult], None]]:
    """Opens a grain table that is written slide by slide, and is there when the block ends well.

    Args:
        path: The file.
        overwrite: Replace a file that is there.

    Yields:
        A function that adds the grains of a slide.

    Raises:
        UsageError: The file is there.
    """
    import pyarrow as pa
    from pyarrow import parquet

    schema = pa.schema(
        [(column, pa.float32() if column in NUMBER_COLUMNS else pa.string()) for column in GRAIN_COLUMNS]
    )
    rows: list[dict[str, Any]] = []
    slides: list[dict[str, Any]] = []
    provenance: list[dict[str, Any]] = []

    def add(result: SlideResult) -> None:
        add_source(provenance, result)
        slide = {"slide": _storable(result.slide), "width": result.width, "height": result.height}
        slides.append({**slide, "um_per_px": result.um_per_px, "grains": len(result), "notes": list(result.notes)})
        rows.extend(grain_rows(result))
        if len(rows) >= _GROUP_ROWS:
            flush()

    def flush() -> None:
        columns = {c: [_storable(row[c]) for row in rows] for c in GRAIN_COLUMNS}
        writer.write_table(pa.table(columns, schema=schema))
        rows.clear()

    with (
        replacing(path, "wb", overwrite=overwrite) as file,
        parquet.ParquetWriter(file, schema, compression="zstd") as writer,
    ):
        yield add
        flush()
        source = {"schema": SCHEMA, "provenance": provenance, "slides": slides}
        writer.add_key_value_metadata({"palyno": json.dumps(source, sort_keys=True, default=str)})


def write_parquet(results: Iterable[SlideResult], path: str | Path, *, overwrite: bool = False) -> Path:
    """Writes the grains of all slides, in the order given; see `open_parquet`."""
    with open_parquet(path, overwrite=overwrite) as add:
        for result in results:
            add(result)
    return Path(path)


def read_parquet(path: str | Path) -> list[LabelledImage]:
    """Reads a grain table.

    Args:
        path: The file.

    Returns:
        One entry a slide, in the order that they were written, also for slides without grains.

    Raises:
        AnnotationError: The file is no Parquet file, or not one of grains.
    """
    import pyarrow as pa
    from pyarrow import parquet

    try:
        # A single file, opened here: given a path, pyarrow would also take folders and addresses.
        with Path(path).open("rb") as file:
            content = parquet.ParquetFile(file)
            table, metadata = content.read(), content.metadata.metadata or {}
    except (OSError, pa.ArrowException) as error:
        raise AnnotationError(f"{path}: expected a Parquet file, got {error}") from error
    text = metadata.get(b"palyno", b"{}")
    with expecting(f"{path}", f"a grain table of schema {SCHEMA} in the metadata key palyno", text[:200]):
        source = json.loads(text)
        if source["schema"] != SCHEMA:
            raise ValueError("another schema")
        sizes = {slide["slide"]: (size(slide["width"]), size(slide["height"])) for slide in source["slides"]}
        rows = table.select(GRAIN_COLUMNS[:8]).to_pylist()
    return boxes_of(rows, sizes)


def _storable(value: Any) -> Any:
    """Text without the surrogates that stand for the bytes of an undecodable file name, which Arrow refuses."""
    return value.encode("utf-8", "backslashreplace").decode() if isinstance(value, str) else value
