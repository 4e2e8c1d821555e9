"""COCO instances: one JSON file for many images, boxes as `[x, y, width, height]` in pixels, ids from 1."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ...errors import UsageError
from ..atomic import write_text
from . import LabelledImage
from .reading import Row, box, expecting, labelled, left_out, read_json, size

__all__ = ["read_coco", "write_coco"]


def write_coco(
    images: Iterable[LabelledImage],
    path: str | Path,
    *,
    categories: Sequence[str] | None = None,
    provenance: Sequence[Mapping[str, Any]] = (),
    overwrite: bool = False,
) -> Path:
    """Writes images and their boxes.

    Detections carry their confidence as `score`; `grain_id` keeps the identifier of a grain.

    Args:
        images: Images with different names, as the name is what ties an image to its `image_id`.
        path: The file.
        categories: Names in the order of their ids; None takes the names that occur, sorted.
        provenance: Where detections come from, see `palyno.data.annotations.provenance`, for `provenance` in `info`.
        overwrite: Replace a file that is there.

    Returns:
        The file.

    Raises:
        UsageError: Two images have one name, a label is not in `categories`, or the file is there.
    """
    images = list(images)
    if categories is None:
        categories = sorted({label for image in images for label in image.labels})
    category_ids = {name: i for i, name in enumerate(categories, 1)}
    if len({image.image for image in images}) < len(images):
        raise UsageError("COCO needs a different name for every image: give paths that tell them apart")
    annotations: list[dict[str, Any]] = []
    for image_id, image in enumerate(images, 1):
        for i, (x1, y1, x2, y2) in enumerate(image.boxes.tolist()):
            label = image.labels[i]
            if label not in category_ids:
                raise UsageError(
                    f"{image.image}: label {label!r} is not one of the categories: {', '.join(categories)}"
                )
            x, y, width, height = round(x1, 2), round(y1, 2), round(x2 - x1, 2), round(y2 - y1, 2)
            annotation = {
                "id": len(annotations) + 1,
                "image_id": image_id,
                "category_id": category_ids[label],
                "bbox": [x, y, width, height],
                "area": round(width * height, 2),
                "iscrowd": 0,
                "segmentation": [],
            }
            if image.confidence is not None:
                annotation["score"] = round(float(image.confidence[i]), 4)
            if image.ids is not None:
                annotation["grain_id"] = image.ids[i]
            annotations.append(annotation)
    document = {
        "info": {"description": "Pollen grains"} | ({"provenance": list(provenance)} if provenance else {}),
        "licenses": [],
        "images": [
            {"id": i, "file_name": image.image, "width": image.width, "height": image.height}
            for i, image in enumerate(images, 1)
        ],
        "annotations": annotations,
        "categories": [{"id": i, "name": name, "supercategory": "grain"} for name, i in category_ids.items()],
    }
    return write_text(
        path, json.dumps(document, ensure_ascii=False, allow_nan=False, default=str) + "\n", overwrite=overwrite
    )


def read_coco(path: str | Path) -> list[LabelledImage]:
    """Reads an instances file.

    Crowd regions (`iscrowd: 1`) stand for an uncounted heap and are left out with a warning.

    Args:
        path: The file.

    Returns:
        One entry an image, in the file's order, also for images without boxes.

    Raises:
        AnnotationError: The file is not COCO; the message names the entry.
    """
    document = read_json(path)
    with expecting(f"{path}", "a COCO object with images, annotations and categories", document):
        lists = {key: list(document[key]) for key in ("images", "annotations", "categories")}
    names: dict[int, str] = {}
    for i, category in enumerate(lists["categories"]):
        with expecting(f"{path}: categories[{i}]", "an id and a name", category):
            names[_new(category["id"], names)] = str(category["name"])
    found: dict[int, list[Row]] = {}
    sizes: dict[int, tuple[str, int, int]] = {}
    for i, image in enumerate(lists["images"]):
        with expecting(f"{path}: images[{i}]", "an id of its own, file_name, width and height", image):
            key = _new(image["id"], sizes)
            sizes[key] = str(image["file_name"]), size(image["width"]), size(image["height"])
            found[key] = []
    crowds = 0
    for i, annotation in enumerate(lists["annotations"]):
        what = "bbox [x, y, width, height] with the image_id and category_id of the file"
        with expecting(f"{path}: annotations[{i}]", what, annotation):
            if annotation.get("iscrowd"):
                crowds += 1
                continue
            x, y, width, height = (float(v) for v in annotation["bbox"])
            score = annotation.get("score")
            found[annotation["image_id"]].append(
                Row(
                    box(x, y, x + width, y + height),
                    names[annotation["category_id"]],
                    None if score is None else float(score),
                    str(annotation.get("grain_id", annotation.get("id", i + 1))),
                )
            )
    left_out(path, crowds, "crowd regions")
    return [labelled(path, *sizes[key], found[key]) for key in sizes]


def _new(key: int, taken: dict[int, Any]) -> int:
    """An id that no earlier entry has."""
    if key in taken:
        raise ValueError("an id that is there twice")
    return key
