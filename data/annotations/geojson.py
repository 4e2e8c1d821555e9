"""GeoJSON as QuPath reads and writes it: a FeatureCollection of closed polygons in full-resolution pixels.

Each grain is a `detection` with its taxon as classification, and its confidence and sizes as measurements. The name and
size of the slide, and where detections come from, which GeoJSON has no place for, are in the members `slide` and
`provenance`, which QuPath passes over.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from uuid import NAMESPACE_URL, uuid5

import numpy as np

from ...errors import UsageError
from ..atomic import write_text
from ..palette import RGB, colours
from . import LabelledImage
from .reading import Box, Row, box, expecting, labelled, read_json, size

__all__ = ["read_geojson", "write_geojson"]


def write_geojson(
    image: LabelledImage,
    path: str | Path,
    *,
    palette: Mapping[str, RGB] | None = None,
    provenance: Mapping[str, Any] | None = None,
    overwrite: bool = False,
) -> Path:
    """Writes the grains of one slide.

    Args:
        image: The slide.
        path: The file.
        palette: Colour of each taxon, to keep colours over several slides; made from the slide's taxa if None.
        provenance: Where detections come from, see `palyno.data.annotations.provenance`.
        overwrite: Replace a file that is there.

    Returns:
        The file. A grain keeps its `id` as long as the slide's name and the grain's identifier stay.

    Raises:
        UsageError: The file is there.
    """
    palette = palette or colours([(image.labels, image.confidence)])
    document = {
        "type": "FeatureCollection",
        "slide": {"image": image.image, "width": image.width, "height": image.height},
        **({"provenance": dict(provenance)} if provenance else {}),
        "features": list(_features(image, palette)),
    }
    return write_text(path, json.dumps(document, ensure_ascii=False, allow_nan=False) + "\n", overwrite=overwrite)


def _features(image: LabelledImage, palette: Mapping[str, RGB]) -> Iterator[dict[str, Any]]:
    columns = dict(image.measurements)
    if image.confidence is not None:
        columns = {"confidence": image.confidence, **columns}
    for i, corners in enumerate(image.boxes.tolist()):
        x1, y1, x2, y2 = (round(v, 2) for v in corners)
        grain_id = image.ids[i] if image.ids else f"{i + 1:04d}"
        key = f"{image.image}\n{grain_id}".encode("utf-8", "backslashreplace").decode()
        values = {name: round(float(column[i]), 4) for name, column in columns.items()}
        yield {
            "type": "Feature",
            "id": str(uuid5(NAMESPACE_URL, key)),
            "geometry": {"type": "Polygon", "coordinates": [[[x1, y1], [x2, y1], [x2, y2], [x1, y2], [x1, y1]]]},
            "properties": {
                "objectType": "detection",
                "name": grain_id,
                "classification": {"name": image.labels[i], "color": list(palette[image.labels[i]])},
                "measurements": {name: value for name, value in values.items() if math.isfinite(value)},
            },
        }


def read_geojson(
    path: str | Path, *, image: str | None = None, width: int | None = None, height: int | None = None
) -> LabelledImage:
    """Reads the grains of one slide, from here or from QuPath.

    An outline is read as its bounding box. A measurement that only some grains have is NaN for the others. Where a
    person has added grains, which have no confidence, none has one.

    Args:
        path: A file with a FeatureCollection, or with a list of features.
        image: The slide's name; None takes the file's own word, else the file's name.
        width: Pixels of the slide; None takes the file's own word.
        height: Pixels of the slide; None takes the file's own word.

    Raises:
        UsageError: Neither the file nor the caller says how large the slide is.
        AnnotationError: A feature is no polygon or has no classification; the message names it.
    """
    document = read_json(path)
    with expecting(f"{path}", "a FeatureCollection or a list of features", document):
        features = document if isinstance(document, list) else document["features"]
        slide = {} if isinstance(document, list) else document.get("slide") or {}
        if not isinstance(features, list):
            raise ValueError("no list")
        image = image or slide.get("image") or Path(path).stem
        width, height = width or slide.get("width"), height or slide.get("height")
        if width is None or height is None:
            raise UsageError(
                f"{path}: does not say how large the slide is, as files of QuPath's do not; give palyno convert the "
                "folder of the slides (--pictures), or read_geojson a width and height"
            )
        width, height = size(width), size(height)
    rows, measurements = [], []
    for i, feature in enumerate(features):
        with expecting(
            f"{path}: features[{i}]", "a polygon with a classification (give it a class in QuPath)", feature
        ):
            properties = feature["properties"]
            values = _measurements(properties.get("measurements") or {})
            confidence = values.pop("confidence", None)
            identifier = properties.get("name") or feature.get("id")
            rows.append(
                Row(
                    _bounds(feature["geometry"]),
                    str(properties["classification"]["name"]),
                    confidence,
                    None if identifier is None else str(identifier),
                )
            )
            measurements.append(values)
    if any(row.confidence is None for row in rows):
        rows = [row._replace(confidence=None) for row in rows]
    found = labelled(path, image, width, height, rows)
    names = sorted({name for values in measurements for name in values})
    columns = {name: np.array([values.get(name, np.nan) for values in measurements]) for name in names}
    return LabelledImage(
        found.image, found.width, found.height, found.boxes, found.labels, found.confidence, found.ids, columns
    )


def _bounds(geometry: dict[str, Any]) -> Box:
    if geometry["type"] not in ("Polygon", "MultiPolygon"):
        raise ValueError("no polygon")
    polygons = geometry["coordinates"] if geometry["type"] == "MultiPolygon" else [geometry["coordinates"]]
    points = [point for polygon in polygons for point in polygon[0]]
    xs, ys = [float(point[0]) for point in points], [float(point[1]) for point in points]
    return box(min(xs), min(ys), max(xs), max(ys))


def _measurements(values: Any) -> dict[str, float]:
    """Measurements as names with numbers; older QuPath writes them as a list of name and value."""
    if isinstance(values, list):
        values = {entry["name"]: entry["value"] for entry in values}
    return {str(name): float(value) for name, value in values.items() if value is not None}
