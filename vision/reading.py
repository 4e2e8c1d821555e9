"""One slide read in tiles, again where that could make its count wrong.

- A network that can return only so many boxes: a tile that is full is read again in tiles of half the side.
- A grain larger than the overlap of tiles, which no tile saw whole: the slide is read again with twice the overlap.
- A region that cannot be read: kept, to be left out of `fraction_read`.

Whether to read again depends on boxes with a confidence of at least 0.25, whatever threshold is asked for, so
`detect(conf=c)` and `detect(conf=lower).above(c)` are the same.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace

import numpy as np

from ..data.slides import Slide
from ..errors import SlideError, UsageError
from .maps import MapReader
from .naming import Name, Namer
from .network import Found, Network
from .tiles import Grid, Tile, cut, reconcile
from .views import VIEWS
from .weights import Metadata

__all__ = ["DECISIVE", "SMALLEST_TILE", "Pass", "Settings", "SlideReader"]

# Decisions to read again rest on boxes at least this sure, so that they do not depend on the threshold asked for.
DECISIVE = 0.25
SMALLEST_TILE = 64


@dataclass(frozen=True)
class Settings:
    """How a slide is read; refused where it cannot be meant. See `Detector.detect`."""

    conf: float
    iou: float
    tile: int
    imgsz: int | None
    overlap: int | str
    reader: MapReader | None = None
    views: int = 1

    def __post_init__(self) -> None:
        for name in ("conf", "iou"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int | float | np.floating) or not 0 <= value <= 1:
                raise UsageError(f"{name}: expected a number from 0 to 1, got {value!r}")
        for name, least in (("tile", SMALLEST_TILE), ("imgsz", 32)):
            value = getattr(self, name)
            if value is None and name == "imgsz":
                continue
            if not isinstance(value, int) or isinstance(value, bool) or value < least:
                raise UsageError(f"{name}: expected a whole number of pixels from {least}, got {value!r}")
        if self.views not in VIEWS or isinstance(self.views, bool):
            raise UsageError(f"views: expected one of {', '.join(map(str, VIEWS))}, got {self.views!r}")
        if self.views > 1 and self.reader is not None:
            raise UsageError("views: vectors are read off one pass; expected 1 view with them")
        if self.overlap != "auto":
            most = self.tile // 2
            if not isinstance(self.overlap, int) or isinstance(self.overlap, bool) or not 0 <= self.overlap <= most:
                raise UsageError(
                    f"overlap: expected auto or pixels from 0 to half the tile, {most}, got {self.overlap!r}; for "
                    "grains larger than that use a larger tile"
                )

    @property
    def scale(self) -> float:
        """Pixels of the network's input a pixel of the slide."""
        return 1.0 if self.imgsz is None else self.imgsz / self.tile

    @property
    def floor(self) -> float:
        """Least confidence of the boxes that are looked at."""
        return min(self.conf, DECISIVE)


@dataclass
class Pass:
    """What one pass over a slide with one grid found; lists have an entry a tile that was read, `names` one a grain.

    Attributes:
        grid: The tiles.
        boxes: `xyxy`, float32, (N, 4), pixels of the slide.
        confidence: float32, (N,).
        tiles: Number of the tile, (N,).
        names: Of each grain.
        vectors: Float32, (N, dim), where asked for.
        unread: Tiles that could not be read.
        failures: Why, one each.
        saturated: Some tile may hold more grains than the network can return.
    """

    grid: Grid
    boxes: list[np.ndarray] = field(default_factory=list)
    confidence: list[np.ndarray] = field(default_factory=list)
    tiles: list[np.ndarray] = field(default_factory=list)
    names: list[Name] = field(default_factory=list)
    vectors: list[np.ndarray] = field(default_factory=list)
    unread: list[Tile] = field(default_factory=list)
    failures: list[SlideError] = field(default_factory=list)
    saturated: bool = False

    def add(self, tile: Tile, here: Found, names: Sequence[Name]) -> None:
        """Takes the grains of a tile, `here` in pixels of its window."""
        self.boxes.append(here.boxes + np.tile(np.array(tile.window[:2], np.float32), 2))
        self.confidence.append(here.confidence)
        self.tiles.append(np.full(len(here.boxes), tile.number))
        self.names.extend(names)
        if here.vectors is not None:
            self.vectors.append(here.vectors)


class SlideReader:
    """Reads slides with one network and one set of settings.

    Args:
        network: Finds the grains of windows.
        namer: Names them.
        metadata: Tells the largest grain of the network's training, and its window.
        settings: How to read.
    """

    def __init__(self, network: Network, namer: Namer, metadata: Metadata, settings: Settings) -> None:
        self.network, self.namer, self.metadata, self.settings = network, namer, metadata, settings

    def read(self, slide: Slide, batch: int | None, on_tile: Callable[[int, int], None]) -> tuple[Pass, bool]:
        """Reads a slide.

        Args:
            slide: The slide, open.
            batch: Tiles at once; None takes what the device has room for.
            on_tile: Called with the tiles done and all tiles after each.

        Returns:
            The pass that counts, and whether a grain was too large for its overlap.

        Raises:
            SlideError: No tile can be read.
        """
        settings = self.settings
        most = settings.tile // 2
        auto = settings.overlap == "auto"
        overlap = min(most, math.ceil(self.metadata.max_grain_px / settings.scale)) if auto else int(settings.overlap)
        while True:
            side = settings.tile if settings.imgsz else min(settings.tile, max(self.metadata.imgsz, 2 * overlap))
            grid = Grid(slide.width, slide.height, side, overlap)
            last = not auto or overlap == most
            found, large = Pass(grid), False
            for done, tile in enumerate(self._tiles(slide, found, batch), 1):
                on_tile(done, len(grid))
                if tile is not None and not large:
                    sure = found.confidence[-1] >= DECISIVE
                    large = bool(cut(grid, found.boxes[-1][sure], found.tiles[-1][sure]).any())
                    if large and not last:
                        break
            if last or not large:
                break
            overlap = min(most, 2 * max(overlap, 1))
        if len(found.failures) == len(grid):
            raise found.failures[0]
        return found, large

    def _tiles(self, slide: Slide, found: Pass, batch: int | None) -> Iterator[Tile | None]:
        """Reads all tiles into `found`; yields each that was read, and None for each that was not."""
        size = batch or self.network.batch_for(found.grid.tile * self.settings.scale)
        indices = [range(i, min(i + size, len(found.grid))) for i in range(0, len(found.grid), size)]
        # The next tiles are decoded while the network is at work on these.
        with ThreadPoolExecutor(1) as reader:
            upcoming = reader.submit(_windows, slide, found.grid, indices[0])
            for following in [*indices[1:], None]:
                windows = upcoming.result()
                if following is not None:
                    upcoming = reader.submit(_windows, slide, found.grid, following)
                read = [(tile, window) for tile, window in windows if isinstance(window, np.ndarray)]
                boxes = self._find([window for _, window in read])
                for tile, window in windows:
                    if isinstance(window, SlideError):
                        found.unread.append(tile)
                        found.failures.append(window)
                        yield None
                        continue
                    here, full = self._complete(window, next(boxes), found.grid)
                    found.saturated |= full
                    found.add(tile, here, self.namer.names(here.probabilities))
                    yield tile

    def _find(self, windows: Sequence[np.ndarray]) -> Iterator[Found]:
        settings = self.settings
        return self.network.find(
            windows,
            scale=settings.scale,
            floor=settings.floor,
            decisive=DECISIVE,
            iou=settings.iou,
            views=settings.views,
            reader=settings.reader,
        )

    def _complete(self, window: np.ndarray, found: Found, grid: Grid) -> tuple[Found, bool]:
        """The boxes of a window, read again in tiles of half the side while it is full; and whether it still is."""
        half, overlap = grid.tile // 2, grid.overlap
        # A smaller tile would not see a whole grain and more.
        if not found.full or half < overlap + SMALLEST_TILE:
            return found, found.full
        grid = Grid(window.shape[1], window.shape[0], half, overlap)
        if len(grid) == 1:
            return self._complete(window, found, grid)
        parts: list[Found] = []
        tiles, full = [], False
        for tile in grid:
            x1, y1, x2, y2 = tile.window
            pixels = window[y1:y2, x1:x2]
            (part,) = self._find([pixels])
            part, still = self._complete(pixels, part, grid)
            full |= still
            parts.append(replace(part, boxes=part.boxes + np.tile(np.array((x1, y1), np.float32), 2)))
            tiles.append(np.full(len(part.boxes), tile.number))
        boxes = np.concatenate([part.boxes for part in parts])
        confidence = np.concatenate([part.confidence for part in parts])
        probabilities = np.concatenate([part.probabilities for part in parts])
        kept = reconcile(grid, boxes, confidence, np.concatenate(tiles))
        read = [part.vectors for part in parts if part.vectors is not None]
        vectors = np.concatenate(read)[kept] if read else None
        return Found(boxes[kept], confidence[kept], probabilities[kept], vectors=vectors), full


def _windows(slide: Slide, grid: Grid, indices: Iterable[int]) -> list[tuple[Tile, np.ndarray | SlideError]]:
    """The pixels of some tiles; for those that cannot be read, why."""
    windows: list[tuple[Tile, np.ndarray | SlideError]] = []
    for tile in (grid[i] for i in indices):
        x1, y1, x2, y2 = tile.window
        try:
            windows.append((tile, slide.read(x1, y1, x2 - x1, y2 - y1)))
        except SlideError as error:
            windows.append((tile, error))
    return windows
