"""Label Studio tasks: one JSON file for many images, boxes in percent of the image.

Detections are `predictions`, which a person accepts or corrects; boxes drawn by a person are `annotations`.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ..atomic import write_text
from . import LabelledImage
from .reading import Box, Row, box, expecting, labelled, left_out, read_json, size

__all__ = ["read_labelstudio", "write_labelstudio"]


def write_labelstudio(
    images: Iterable[LabelledImage],
    path: str | Path,
    *,
    model_version: str = "palyno",
    prefix: str = "",
    overwrite: bool = False,
) -> Path:
    """Writes one task an image.

    Args:
        images: The images.
        path: The file.
        model_version: What the predictions are by.
        prefix: Put before each image's name, such as `/data/local-files/?d=slides/`, so that Label Studio finds it.
        overwrite: Replace a file that is there.

    Returns:
        The file.

    Raises:
        UsageError: The file is there.
    """
    images, tasks = list(images), []
    detected = any(image.confidence is not None for image in images)
    for image in images:
        result = [_region(image, i) for i in range(len(image))]
        scores = image.confidence
        task: dict[str, Any] = {
            "data": {"image": f"{prefix}{image.image}", "width": image.width, "height": image.height}
        }
        # Beside detections a slide without boxes is one where nothing was detected, not one that a person looked at.
        if scores is None and (len(image) or not detected):
            task["annotations"] = [{"result": result}]
        else:
            score = 0.0 if scores is None or not len(image) else round(float(scores.mean()), 4)
            task["predictions"] = [{"model_version": model_version, "score": score, "result": result}]
        tasks.append(task)
    return write_text(path, json.dumps(tasks, ensure_ascii=False, allow_nan=False) + "\n", overwrite=overwrite)


def _region(image: LabelledImage, i: int) -> dict[str, Any]:
    x1, y1, x2, y2 = image.boxes[i].tolist()
    region: dict[str, Any] = {
        "id": image.ids[i] if image.ids else f"{i + 1:04d}",
        "type": "rectanglelabels",
        "from_name": "taxon",
        "to_name": "image",
        "original_width": image.width,
        "original_height": image.height,
        "image_rotation": 0,
        "value": {
            "x": round(100 * x1 / image.width, 6),
            "y": round(100 * y1 / image.height, 6),
            "width": round(100 * (x2 - x1) / image.width, 6),
            "height": round(100 * (y2 - y1) / image.height, 6),
            "rotation": 0,
            "rectanglelabels": [image.labels[i]],
        },
    }
    if image.confidence is not None:
        region["score"] = round(float(image.confidence[i]), 4)
    return region


def read_labelstudio(path: str | Path, *, prefix: str = "") -> list[LabelledImage]:
    """Reads tasks, from here or exported as JSON by Label Studio.

    Of a task the last annotation that was not cancelled counts, or else its last prediction. A turned rectangle is read
    as its bounding box. Regions that are no rectangle are left out with a warning.

    Args:
        path: The file.
        prefix: Taken off the front of each image's name.

    Returns:
        One entry a task.

    Raises:
        AnnotationError: A task does not say what it should; the message names it.
    """
    tasks = read_json(path)
    images, others = [], 0
    with expecting(f"{path}", "a list of Label Studio tasks", tasks):
        if not isinstance(tasks, list):
            raise ValueError("no list")
    for i, task in enumerate(tasks):
        place = f"{path}: [{i}]"
        with expecting(place, "a task with data.image, and annotations or predictions", task):
            data = task["data"]
            name = str(data["image"]).removeprefix(prefix)
            drawn = [a for a in task.get("annotations") or [] if not a.get("was_cancelled")]
            chosen = (drawn or task.get("predictions") or [{"result": []}])[-1]
            regions = [r for r in chosen["result"] if r.get("type") == "rectanglelabels"]
            others += len(chosen["result"]) - len(regions)
            sides = [regions[0][f"original_{s}"] if regions else data[s] for s in ("width", "height")]
            width, height = size(sides[0]), size(sides[1])
        rows = []
        for j, region in enumerate(regions):
            with expecting(f"{place}.result[{j}]", "a rectangle in percent with one label", region):
                (label,) = region["value"]["rectanglelabels"]
                score = None if drawn else region.get("score")
                rows.append(
                    Row(
                        _bounds(region["value"], width, height),
                        str(label),
                        None if score is None else float(score),
                        None if region.get("id") is None else str(region["id"]),
                    )
                )
        images.append(labelled(place, name, width, height, rows))
    left_out(path, others, "regions that are no rectangle")
    return images


def _bounds(value: dict[str, Any], width: int, height: int) -> Box:
    """The box of a rectangle in percent, turned by `rotation` degrees clockwise about its top left corner."""
    x, y = float(value["x"]) * width / 100, float(value["y"]) * height / 100
    w, h = float(value["width"]) * width / 100, float(value["height"]) * height / 100
    turn = math.radians(float(value.get("rotation") or 0))
    cos, sin = math.cos(turn), math.sin(turn)
    xs = [x + a * cos - b * sin for a, b in ((0, 0), (w, 0), (w, h), (0, h))]
    ys = [y + a * sin + b * cos for a, b in ((0, 0), (w, 0), (w, h), (0, h))]
    return box(min(xs), min(ys), max(xs), max(ys)) if turn else box(x, y, x + w, y + h)
