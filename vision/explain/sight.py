"""What an opened network is shown of a slide to explain a grain, and the place of it that answers for the grain."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import cv2
import numpy as np

from ...data.slides import Slide
from ...errors import UsageError
from ..naming import at_least_one
from ..network import _input
from ..tiles import STRIDE, Grid, iou_matrix
from .opened import Opened

if TYPE_CHECKING:
    import torch

__all__ = ["Place", "Sight", "cells_of", "field_colour", "find_place", "sight_of"]

# Less is no field for a network that was trained on fields.
LEAST_SIGHT = 256
# A box of the network's is the grain's from this intersection over union on.
SAME_BOX = 0.5


class Sight(NamedTuple):
    """What the network is shown of a slide.

    Attributes:
        pixels: uint8, RGB, (H, W, 3): the network's input.
        window: The same in pixels of the slide, `xyxy`.
        scale: Pixels of the input a pixel of the slide.
    """

    pixels: np.ndarray
    window: tuple[int, int, int, int]
    scale: float

    def to_slide(self, points: np.ndarray) -> np.ndarray:
        """Points (..., 2) of the input as points of the slide."""
        return points / self.scale + np.array(self.window[:2], float)

    def spread(self, values: np.ndarray, stride: int, crop: Sequence[int]) -> np.ndarray:
        """A map of cells as a value a pixel of a crop of the slide, bilinear between the cells' middles."""
        x1, y1, x2, y2 = crop
        step = self.scale / stride
        x = ((np.arange(x1, x2) + 0.5 - self.window[0]) * step - 0.5).astype(np.float32)
        y = ((np.arange(y1, y2) + 0.5 - self.window[1]) * step - 0.5).astype(np.float32)
        grid = np.meshgrid(x, y)
        return cv2.remap(values.astype(np.float32), *grid, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)

    def tensor(self, device: torch.device) -> torch.Tensor:
        """(1, 3, H, W) in [0, 1]."""
        import torch

        return torch.from_numpy(self.pixels).to(device).permute(2, 0, 1)[None].float().div_(255)


def sight_of(slide: Slide, box: np.ndarray, grid: Grid, scale: float, context: float) -> Sight:
    """The grain's surroundings, cut out of the tile that counts it on the lattice of the network's coarsest stride."""
    window = np.array(grid[int(grid.owner(box[None])[0])].window)
    unit = STRIDE / scale
    side = max(context * float((box[2:] - box[:2]).max()), LEAST_SIGHT / scale)
    limits: list[tuple[int, int]] = []
    for low, high, middle in zip(window[:2], window[2:], (box[:2] + box[2:]) / 2, strict=True):
        every = math.ceil((high - low) / unit)
        cells = math.ceil(min(side / unit, every))
        first = min(max(round((middle - low) / unit - cells / 2), 0), every - cells)
        start = int(low) + round(first * unit)
        limits.append((start, min(start + round(cells * unit), int(high))))
    (x1, x2), (y1, y2) = limits
    return Sight(_input(slide.read(x1, y1, x2 - x1, y2 - y1), scale), (x1, y1, x2, y2), scale)


class Place(NamedTuple):
    """The place of the network that answers for a grain.

    Attributes:
        number: Among all.
        level: Of the head, from the finest.
        centre: Pixels of the slide.
        box: Its box, `xyxy`, pixels of the slide.
        probabilities: (classes,).
    """

    number: int
    level: int
    centre: np.ndarray
    box: np.ndarray
    probabilities: np.ndarray


def find_place(opened: Opened, sight: Sight, box: np.ndarray, least: float = 0.1) -> Place:
    """The surest place among those whose box is the grain's; where none is, the one whose box comes nearest.

    Raises:
        UsageError: No place has a box that overlaps the grain by `least`.
    """
    boxes, probabilities = (x.cpu().numpy() for x in opened.boxes(sight.tensor(opened.device)))
    limits = np.array(sight.window, float)
    boxes = sight.to_slide(boxes.reshape(-1, 2, 2)).clip(limits[:2], limits[2:]).reshape(-1, 4)
    overlap = iou_matrix(box[None], boxes)[0]
    confidence = at_least_one(probabilities.clip(0, 1 - 1e-7))
    # Not a surer neighbour's that overlaps this grain, too.
    same = overlap >= max(SAME_BOX, 0.9 * float(overlap.max()))
    index = int(np.where(same, confidence, -1).argmax()) if same.any() else int(overlap.argmax())
    if overlap[index] < least:
        raise UsageError(
            f"expected a box of the network's near {np.round(box).astype(int).tolist()}; the nearest overlaps it by "
            f"{overlap[index]:.2f}: give the box of a grain"
        )
    height, width = sight.pixels.shape[:2]
    shapes = [(-(-height // s), -(-width // s)) for s in opened.strides]
    level, cell = 0, index
    while cell >= shapes[level][0] * shapes[level][1]:
        cell -= shapes[level][0] * shapes[level][1]
        level += 1
    row, column = divmod(cell, shapes[level][1])
    centre = sight.to_slide((np.array([column, row]) + 0.5) * opened.strides[level])
    return Place(index, level, centre, boxes[index], probabilities[index])


def field_colour(sight: Sight, box: np.ndarray) -> np.ndarray:
    """The field's own colour beside a grain: of a ring around its box, the median of each channel, float32 (3,)."""
    height, width = sight.pixels.shape[:2]
    half, middle = (box[2:] - box[:2]) / 2, (box[:2] + box[2:]) / 2
    x = np.abs((np.arange(width) + 0.5) / sight.scale + sight.window[0] - middle[0])
    y = np.abs((np.arange(height) + 0.5) / sight.scale + sight.window[1] - middle[1])
    reach = 0.4 * float(half.max())
    outer = (y < half[1] + reach)[:, None] & (x < half[0] + reach)[None]
    inner = (y < 1.1 * half[1])[:, None] & (x < 1.1 * half[0])[None]
    # Not the grey that fills the network's input up.
    shown = np.zeros((height, width), bool)
    shown[: round((sight.window[3] - sight.window[1]) * sight.scale), :] = True
    shown[:, round((sight.window[2] - sight.window[0]) * sight.scale) :] = False
    ring = outer & ~inner & shown
    chosen = sight.pixels[ring if ring.any() else shown]
    return np.median(chosen.reshape(-1, 3), axis=0).astype(np.float32)


def cells_of(sight: Sight, crop: Sequence[int], stride: int, shape: Sequence[int]) -> tuple[slice, slice]:
    """The rows and columns of a layer whose cells meet the crop."""
    corners = (np.array(crop, float).reshape(2, 2) - np.array(sight.window[:2])) * sight.scale / stride
    first, last = np.floor(corners[0]).astype(int), np.ceil(corners[1]).astype(int)
    columns = slice(max(int(first[0]), 0), min(int(last[0]), int(shape[1])))
    return slice(max(int(first[1]), 0), min(int(last[1]), int(shape[0]))), columns
