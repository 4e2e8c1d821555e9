"""Masks of composed grains: one file for many images, in COCO's format with run lengths.

    for name, grains in read_masks("set/masks/test.json").items():
        grains[0].mask          # boolean, (H, W): where the grain shows

Grains that lie on each other share pixels, as light goes through both; a picture of labels could not hold that.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import InputError
from .atomic import write_text

__all__ = ["GrainMask", "packed", "read_masks", "write_masks"]


@dataclass(frozen=True)
class GrainMask:
    """Where one grain of an image shows.

    Attributes:
        label: Class name.
        box: The mask's extent, `xyxy`, pixels, half-open.
        run_lengths: The mask as COCO packs it: `size` and `counts`.
    """

    label: str
    box: tuple[float, float, float, float]
    run_lengths: dict[str, Any]

    @property
    def mask(self) -> np.ndarray:
        """Boolean, (H, W)."""
        from pycocotools import mask

        return mask.decode(self.run_lengths).astype(bool)


def packed(mask: np.ndarray) -> dict[str, Any]:
    """A boolean mask, (H, W), in COCO's run lengths."""
    from pycocotools import mask as coco

    runs = coco.encode(np.asfortranarray(mask.astype(np.uint8)))
    return {"size": [int(side) for side in runs["size"]], "counts": runs["counts"].decode("ascii")}


def write_masks(images: Iterable[tuple[str, Sequence[GrainMask]]], path: str | Path, categories: Sequence[str]) -> Path:
    """Writes the masks of images.

    Args:
        images: Name and masks of each; images without grains are kept.
        path: The file.
        categories: Names in the order of their ids.
    """
    document: dict[str, Any] = {
        "images": [],
        "categories": [{"id": i, "name": name} for i, name in enumerate(categories, 1)],
        "annotations": [],
    }
    ids = {name: i for i, name in enumerate(categories, 1)}
    for number, (name, grains) in enumerate(images, 1):
        document["images"].append({"id": number, "file_name": name})
        for grain in grains:
            x1, y1, x2, y2 = (float(v) for v in grain.box)
            document["annotations"].append(
                {
                    "id": len(document["annotations"]) + 1,
                    "image_id": number,
                    "category_id": ids[grain.label],
                    "bbox": [x1, y1, x2 - x1, y2 - y1],
                    "segmentation": grain.run_lengths,
                    "iscrowd": 0,
                }
            )
    return write_text(path, json.dumps(document, ensure_ascii=False) + "\n")


def read_masks(path: str | Path) -> dict[str, list[GrainMask]]:
    """The masks of each image by its name, in the order of the file.

    Raises:
        InputError: No such file, or not one with masks as run lengths.
    """
    path = Path(path)
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        names = {row["id"]: row["file_name"] for row in document["images"]}
        labels = {row["id"]: row["name"] for row in document["categories"]}
        found: dict[str, list[GrainMask]] = {name: [] for name in names.values()}
        for row in document["annotations"]:
            x, y, width, height = (float(v) for v in row["bbox"])
            runs = row["segmentation"]
            if not isinstance(runs, dict) or not isinstance(runs["counts"], str) or len(runs["size"]) != 2:
                raise ValueError(f"annotation {row['id']} without packed run lengths")
            found[names[row["image_id"]]].append(
                GrainMask(labels[row["category_id"]], (x, y, x + width, y + height), runs)
            )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{path}: expected masks as `palyno compose --masks` writes them, got {type(error).__name__}: {error}"
        ) from error
    return found
