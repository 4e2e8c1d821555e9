"""Tiles of a slide: who sees what, who counts what, and what happens at the seams.

A slide is read in overlapping *windows*. Each window has a *core*; the cores are half-open rectangles that share the
slide among them without gap or overlap, with their borders in the middle of the windows' overlaps. A grain is counted
by the tile in whose core its centre lies. Where the overlap is at least the diameter of the largest grain, that tile
sees the whole grain, so nothing has to be merged and touching grains stay two.

One thing is left: two windows do not give exactly the same box for the same grain, so that a centre on a core line may
be claimed by both tiles or by neither. `reconcile` settles just those pairs.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np

from ..errors import UsageError

__all__ = ["Grid", "Tile", "cut", "iou_matrix", "reading_order", "reconcile"]

Box = tuple[int, int, int, int]

# Two boxes from two tiles that overlap by more than this may be one grain.
SAME_GRAIN_IOU = 0.5

# Windows begin at multiples of the network's coarsest stride: it sees a grain on the same lattice from each of them.
STRIDE = 32


class Tile(NamedTuple):
    """One tile: what it sees and what it counts, `(x1, y1, x2, y2)` in pixels of the slide, half-open."""

    number: int
    window: Box
    core: Box


@dataclass(frozen=True)
class Grid:
    """The tiles of a picture, row by row.

    Windows are spread evenly, so most overlap by more than asked. None leaves the picture; one at the far border may be
    up to 31 pixels narrower than `tile`. A picture not larger than a tile is one window.

    Attributes:
        width: Pixels of the picture.
        height: Pixels of the picture.
        tile: Side of a window, pixels.
        overlap: Pixels that neighbouring windows share at least; at least the diameter of the largest grain.

    Raises:
        UsageError: No pixels, or not `0 <= overlap < tile`.
    """

    width: int
    height: int
    tile: int
    overlap: int

    def __post_init__(self) -> None:
        if min(self.width, self.height) < 1:
            raise UsageError(f"expected a picture of at least one pixel, got {self.width} x {self.height}")
        if not 0 <= self.overlap < self.tile:
            raise UsageError(f"expected an overlap from 0 to below the tile's {self.tile} pixels, got {self.overlap}")

    @cached_property
    def starts(self) -> tuple[np.ndarray, np.ndarray]:
        """Left edges of the columns and upper edges of the rows of windows."""
        return _starts(self.width, self.tile, self.overlap), _starts(self.height, self.tile, self.overlap)

    @cached_property
    def lines(self) -> tuple[np.ndarray, np.ndarray]:
        """Positions of the vertical and of the horizontal core lines, in the middle of the overlaps."""
        columns, rows = self.starts
        return (columns[1:] + columns[:-1] + self.tile) // 2, (rows[1:] + rows[:-1] + self.tile) // 2

    def __len__(self) -> int:
        return len(self.starts[0]) * len(self.starts[1])

    def __getitem__(self, index: int) -> Tile:
        row, column = divmod(range(len(self))[index], len(self.starts[0]))
        x1, y1 = int(self.starts[0][column]), int(self.starts[1][row])
        window = (x1, y1, min(x1 + self.tile, self.width), min(y1 + self.tile, self.height))
        left, right = _between(self.lines[0], column, self.width)
        top, bottom = _between(self.lines[1], row, self.height)
        return Tile(index, window, (left, top, right, bottom))

    def __iter__(self) -> Iterator[Tile]:
        return (self[i] for i in range(len(self)))

    def owner(self, boxes: np.ndarray) -> np.ndarray:
        """Index of the tile in whose core the centre of each box lies.

        Args:
            boxes: `xyxy`, (N, 4).

        Returns:
            (N,) integers.
        """
        column = np.searchsorted(self.lines[0], (boxes[:, 0] + boxes[:, 2]) / 2, side="right")
        row = np.searchsorted(self.lines[1], (boxes[:, 1] + boxes[:, 3]) / 2, side="right")
        return row * len(self.starts[0]) + column

    def touching(self) -> Iterator[tuple[int, int]]:
        """Pairs of tiles, the lower index first, whose windows share pixels."""
        # Even spreading can make a window meet the one after the next, too.
        columns, rows = (_met(starts, self.tile) for starts in self.starts)
        for row, (_, last_row) in enumerate(rows):
            for column, (first, last) in enumerate(columns):
                index = row * len(columns) + column
                for other_row in range(row, last_row):
                    for other in range(first, last):
                        if other_row * len(columns) + other > index:
                            yield index, other_row * len(columns) + other


def _starts(length: int, tile: int, overlap: int) -> np.ndarray:
    if length <= tile:
        return np.zeros(1, int)
    stride = STRIDE if tile - overlap >= STRIDE else 1
    step = (tile - overlap) // stride
    last = -(-(length - tile) // stride)
    count = -(-last // step) + 1
    return np.arange(count) * last // (count - 1) * stride


def _between(lines: np.ndarray, i: int, length: int) -> tuple[int, int]:
    return int(lines[i - 1]) if i else 0, int(lines[i]) if i < len(lines) else length


def _met(starts: np.ndarray, tile: int) -> list[tuple[int, int]]:
    """For each window the range of windows, itself included, that share pixels with it."""
    first = np.searchsorted(starts, starts - tile, side="right")
    last = np.searchsorted(starts, starts + tile, side="left")
    return list(zip(first.tolist(), last.tolist(), strict=True))


def iou_matrix(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Intersection over union of every box of `a` (N, 4) with every one of `b` (M, 4), as (N, M)."""
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    sides = np.minimum(a[:, None, 2:], b[None, :, 2:]) - np.maximum(a[:, None, :2], b[None, :, :2])
    shared = np.prod(np.clip(sides, 0, None), -1)
    total = np.prod(a[:, 2:] - a[:, :2], -1)[:, None] + np.prod(b[:, 2:] - b[:, :2], -1)[None] - shared
    return np.divide(shared, total, out=np.zeros_like(shared), where=total > 0)


def reading_order(boxes: np.ndarray) -> np.ndarray:
    """Indices that sort boxes by y, then x of their centres; equal centres by their corners."""
    x1, y1, x2, y2 = np.asarray(boxes, np.float64).reshape(-1, 4).T
    return np.lexsort((y1, x1, x1 + x2, y1 + y2))


def reconcile(grid: Grid, boxes: np.ndarray, scores: np.ndarray, tiles: np.ndarray) -> np.ndarray:
    """The boxes that count, from everything that the tiles found.

    A tile keeps the boxes whose centre lies in its core. Two boxes of two tiles are taken for one grain where their
    intersection over union is above 0.5 and neither tile has a box at least as sure as the less sure of the two that
    fits the other better: a tile that sees two touching grains bears witness that they are two. Then

    - a grain that two tiles kept is counted once, by the surer box;
    - a grain that none kept, as each tile puts its centre into another's core, is adopted once, by the less sure box:
      it counts only where both tiles see it.

    Every decision about a box rests on boxes at least as sure alone, so raising the threshold before or after gives the
    same grains. Neither the order of the tiles nor that of the boxes matters.

    Args:
        grid: The tiles.
        boxes: `xyxy` in pixels of the slide, (N, 4), already without duplicates inside each tile.
        scores: (N,).
        tiles: Index of the tile that found each box, (N,).

    Returns:
        Indices of the boxes that count, in reading order.
    """
    boxes, scores, tiles = np.asarray(boxes, np.float64).reshape(-1, 4), np.asarray(scores), np.asarray(tiles, int)
    owner = grid.owner(boxes)
    kept = owner == tiles
    order = np.lexsort((tiles, boxes[:, 2], boxes[:, 0], boxes[:, 3], boxes[:, 1], -scores))
    rank = np.empty(len(order), int)
    rank[order] = np.arange(len(order))
    same = _same_grains(grid, boxes, tiles, rank)
    # Boxes whose grain is counted, and the tile whose box counts for it.
    counted: dict[int, int] = {}
    for i in sorted(same, key=rank.__getitem__):
        owned, kept[i] = bool(kept[i]), False
        # A box of this very tile is another grain, as the tile sees both.
        if any(counted.get(j, tiles[i]) != tiles[i] for j in same[i]):
            continue
        partners = [
            j
            for j in same[i]
            if rank[j] < rank[i]
            and (owner[i] == tiles[j] or owner[j] == tiles[i])
            and all(counted.get(k, tiles[i]) == tiles[i] for k in same[j])
        ]
        if owned or partners:
            kept[i] = True
            counted |= dict.fromkeys([i] if owned else [i, partners[0]], int(tiles[i]))
    chosen = np.flatnonzero(kept)
    return chosen[reading_order(boxes[chosen])]


def _same_grains(grid: Grid, boxes: np.ndarray, tiles: np.ndarray, rank: np.ndarray) -> dict[int, list[int]]:
    """For each box the boxes of other tiles that are the same grain, surest first."""
    found = {int(t): np.flatnonzero(tiles == t) for t in np.unique(tiles)} if len(grid) > 1 else {}
    same: dict[int, list[int]] = defaultdict(list)
    for t, u in grid.touching():
        if t not in found or u not in found:
            continue
        a = found[t][_meets(boxes[found[t]], grid[u].window)]
        b = found[u][_meets(boxes[found[u]], grid[t].window)]
        iou = iou_matrix(boxes[a], boxes[b])
        for i, j in np.argwhere(iou > SAME_GRAIN_IOU):
            less_sure = max(rank[a[i]], rank[b[j]])
            rivals_a = (iou[:, j] > iou[i, j]) & (rank[a] <= less_sure)
            rivals_b = (iou[i] > iou[i, j]) & (rank[b] <= less_sure)
            if not rivals_a.any() and not rivals_b.any():
                same[int(a[i])].append(int(b[j]))
                same[int(b[j])].append(int(a[i]))
    return {i: sorted(others, key=rank.__getitem__) for i, others in same.items()}


def _meets(boxes: np.ndarray, window: Box) -> np.ndarray:
    x1, y1, x2, y2 = window
    return (boxes[:, 0] < x2) & (boxes[:, 2] > x1) & (boxes[:, 1] < y2) & (boxes[:, 3] > y1)


def cut(grid: Grid, boxes: np.ndarray, tiles: np.ndarray) -> np.ndarray:
    """Which boxes are of grains too large for the overlap, so that the tile that counts them did not see all of them.

    Such a box lies in its tile's core, reaches a border of the window inside the slide, and is about as long as the
    overlap or longer: a shorter one at that border would have its centre in another core. "About" is a tenth of its
    side, at least 4 pixels: the boxes are not more exact.

    Args:
        grid: The tiles.
        boxes: `xyxy` in pixels of the slide, (N, 4).
        tiles: Index of the tile that found each box, (N,).

    Returns:
        (N,) booleans.
    """
    boxes, tiles = np.asarray(boxes, np.float64).reshape(-1, 4), np.asarray(tiles, int)
    windows = np.array([grid[int(t)].window for t in tiles], float).reshape(-1, 4)
    sides = boxes[:, 2:] - boxes[:, :2]
    slack = np.maximum(4, 0.1 * sides)
    at_start = (windows[:, :2] > 0) & (boxes[:, :2] - windows[:, :2] < slack)
    at_end = (windows[:, 2:] < (grid.width, grid.height)) & (windows[:, 2:] - boxes[:, 2:] < slack)
    too_long = (at_start | at_end) & (sides > grid.overlap - slack)
    return too_long.any(1) & (grid.owner(boxes) == tiles)
