"""The images of a composed data set with their labels: scenes of cut grains, tiles of labelled fields."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from ...errors import InputError
from ..annotations import LabelledImage
from ..annotations.yolo import label_lines
from ..masks import GrainMask, packed
from ..references import SPLITS
from ..scene import Scene, compose_scene
from .cuts import Shelf
from .fields import KeptField, background
from .recipe import Recipe

__all__ = ["MadeImage", "Writer"]


@dataclass(frozen=True)
class MadeImage:
    """One image that was written.

    Attributes:
        split: The split that it belongs to.
        annotation: Its name, size and boxes.
        told: What the manifest tells of it, as JSON with one indent a level: many processes format faster than one.
        masks: Where each grain shows; None where masks are not asked for, or the image has none.
    """

    split: str
    annotation: LabelledImage
    told: str
    masks: list[GrainMask] | None = None


class Writer:
    """Makes the images of a data set; called with one job, a scene or the tiles of a field."""

    def __init__(
        self,
        recipe: Recipe,
        out: Path,
        classes: tuple[str, ...],
        shelves: dict[str, Shelf],
        fields: Sequence[KeptField],
        labelled: dict[str, list[KeptField]],
        masks: bool,
    ) -> None:
        self.recipe, self.out, self.classes = recipe, out, classes
        self.shelves, self.fields, self.labelled, self.masks = shelves, fields, labelled, masks

    def jobs(self) -> list[tuple[str, str, int, int]]:
        """Kind, split, index and repeat of everything there is to make."""
        scenes = [
            ("scene", split, index, 0)
            for split, shelf in self.shelves.items()
            if shelf.taxa
            for index in range(self.recipe.scenes.get(split, 0))
        ]
        tiles = [
            ("tiles", split, index, repeat)
            for split in SPLITS
            for index in range(len(self.labelled.get(split, ())))
            for repeat in range(self.recipe.tile_repeats if split == "train" else 1)
        ]
        return scenes + tiles

    def __call__(self, job: tuple[str, str, int, int]) -> list[MadeImage]:
        """Writes the images of one of `jobs`, with their labels."""
        kind, split, index, repeat = job
        return self._scene(split, index) if kind == "scene" else self._tiles(split, index, repeat)

    def _scene(self, split: str, index: int) -> list[MadeImage]:
        recipe = self.recipe
        rng = np.random.default_rng([recipe.seed, SPLITS.index(split), index])
        light, source = background(rng, self.fields, recipe.scene.size)
        scene = compose_scene(rng, self.shelves[split].pick, light, source, recipe.scene, keep_masks=self.masks)
        annotation = scene_annotation(scene, f"scene_{index:06d}")
        self._write(split, scene.picture, annotation, quality=int(rng.integers(70, 97)))
        masks = None
        if self.masks:
            pairs = zip(scene.grains, scene.masks, strict=True)
            masks = [GrainMask(grain.label, grain.box, packed(mask)) for grain, mask in pairs]
        grains = [asdict(grain) for grain in scene.grains]
        return [MadeImage(split, annotation, _told(split, annotation, background=source, grains=grains), masks)]

    def _tiles(self, split: str, index: int, repeat: int) -> list[MadeImage]:
        """The tiles of a labelled field; from the second repeat on at another scale and offset."""
        recipe, one = self.recipe, self.labelled[split][index].open()
        rng = np.random.default_rng([recipe.seed, len(SPLITS), repeat, *one.name.encode()])
        size = recipe.scene.size
        scale = 1.0 if repeat == 0 else float(np.exp(rng.uniform(np.log(0.5), np.log(1.6))))
        picture = one.picture
        if scale != 1.0:
            how = cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
            picture = cv2.resize(picture, None, fx=scale, fy=scale, interpolation=how)
        height, width = picture.shape[:2]
        left, top = rng.integers(0, size // 2, 2).tolist() if repeat else (0, 0)
        made = []
        for y in range(top, max(1, height - size + 1), size):
            for x in range(left, max(1, width - size + 1), size):
                tile = picture[y : y + size, x : x + size]
                # Smaller than a tile where the field is.
                high, wide = tile.shape[:2]
                boxes = one.grains * scale - np.array([x, y, x, y], np.float32)
                clipped = boxes.clip(0, [wide, high, wide, high])
                keep = _areas(clipped) > 0.35 * _areas(boxes)
                labels = (recipe.labelled_class,) * int(keep.sum())
                name = f"{Path(one.name).stem}_{repeat}_{x}_{y}.jpg"
                annotation = LabelledImage(name, wide, high, clipped[keep], labels)
                self._write(split, tile, annotation, quality=92)
                told = _told(split, annotation, background=one.name, scale=round(scale, 4), silver=True)
                made.append(MadeImage(split, annotation, told))
        return made

    def _write(self, split: str, picture: np.ndarray, annotation: LabelledImage, quality: int) -> None:
        path = self.out / "images" / split / annotation.image
        if not cv2.imwrite(str(path), picture[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality]):
            raise InputError(f"{path}: cannot be written; is the disk full?")
        label = self.out / "labels" / split / f"{path.stem}.txt"
        label.write_text(label_lines(annotation, self.classes))


def _told(split: str, annotation: LabelledImage, **rest: Any) -> str:
    return json.dumps({"split": split, "image": annotation.image, **rest}, ensure_ascii=False, indent=1)


def scene_annotation(scene: Scene, stem: str) -> LabelledImage:
    """The boxes of a scene."""
    size = scene.picture.shape[0]
    boxes = np.array([g.box for g in scene.grains], np.float32).reshape(-1, 4)
    return LabelledImage(f"{stem}.jpg", size, size, boxes, tuple(g.label for g in scene.grains))


def _areas(boxes: np.ndarray) -> np.ndarray:
    return (boxes[:, 2:] - boxes[:, :2]).prod(1)
