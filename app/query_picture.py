"""The grain of a picture to search with: all of the picture where one grain fills it, else one of those found in it.

A picture to search with is meant to show one grain. Where it shows a field, cutting takes what stands out, which may be
all grains together. So the detector looks: first at the picture made small, where a grain that fills it is seen whole;
then, where none fills it, at all of it. Of several grains one is taken, cut as `palyno index` cuts them, and told.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..data.slides import open_slide
from ..errors import NothingToDoError, UsageError
from ..vision.operating import USUAL
from .collecting import crop

if TYPE_CHECKING:
    from ..vision.detector import Detector
    from ..vision.results import Grain

__all__ = ["QueryPicture", "query_picture"]

# Longer side of the picture made small, as large as a grain is on a slide, and the share of picture and box together
# that both have where a grain fills it: a crop with a margin of 15 % on each side has 0.59.
_SMALL_PX, _FILLS = 160, 0.4
# Pixels above which a picture is no query: a field of a microscope has 5 to 20 million.
_MOST_PX = 100_000_000


@dataclass(frozen=True, eq=False)
class QueryPicture:
    """What of a picture is searched with.

    Attributes:
        pixels: uint8 RGB, (H, W, 3).
        grain: Which grain it is, where it was chosen among what the detector found; None for the whole picture.
        of: How many the detector found then.
        note: The same in words; empty for the whole picture.
    """

    pixels: np.ndarray
    grain: Grain | None = None
    of: int = 0
    note: str = ""

    def document(self) -> dict[str, Any]:
        """As JSON; nothing for the whole picture."""
        if self.grain is None:
            return {}
        grain = self.grain
        told = {"box": [round(side, 1) for side in grain.box], "taxon": grain.taxon}
        return {"grain": {**told, "confidence": round(grain.confidence, 4), "of": self.of}, "note": self.note}


def query_picture(path: Path, detector: Detector, at: tuple[float, float] | None = None) -> QueryPicture:
    """What of a picture to search with.

    Args:
        path: The picture.
        detector: What finds grains in it.
        at: The grain that lies here, or nearest to it, in pixels; None takes the whole picture, or where that holds
            several grains and none fills it, the one that is nearest to its middle, cut ones last.

    Raises:
        UsageError: The point is outside the picture, or the picture is a whole slide.
        NothingToDoError: There is no grain to choose by a point.
        SlideError: The picture cannot be read.
    """
    with open_slide(path) as slide:
        width, height = slide.width, slide.height
        if width * height > _MOST_PX:
            raise UsageError(
                f"{path}: expected a picture of a grain or a field, up to {_MOST_PX // 10**6} million pixels, got "
                f"{width} x {height}; add the slide with palyno index, or cut a grain out of it"
            )
        if at is not None and not (0 <= at[0] < width and 0 <= at[1] < height):
            raise UsageError(f"--at: expected a point inside {width} x {height} pixels, got {at[0]:g}, {at[1]:g}")
        picture = slide.read(0, 0, width, height)
        if at is None and _one_fills(picture, detector):
            return QueryPicture(picture)
        found = detector.detect(picture, conf=USUAL, name=path.name)
        if at is not None and not len(found):
            raise NothingToDoError(f"{path.name}: expected a grain to search with, found none; search without --at")
        if at is None and len(found) < 2:
            return QueryPicture(picture)
        x, y = at or (width / 2, height / 2)
        centres = (found.boxes[:, :2] + found.boxes[:, 2:]) / 2
        distance = np.hypot(*(centres - [x, y]).T)
        if at is None and not all(cut := ["edge" in flags for flags in found.grain_flags]):
            distance[cut] = np.inf
        grain = found[int(distance.argmin())]
        return QueryPicture(crop(slide, grain.box), grain, len(found), _told(path.name, grain, len(found), at))


def _one_fills(picture: np.ndarray, detector: Detector) -> bool:
    """Whether one grain fills a picture."""
    import cv2

    from ..vision.tiles import iou_matrix

    scale = _SMALL_PX / max(picture.shape[:2])
    if scale < 1:
        picture = cv2.resize(picture, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    height, width = picture.shape[:2]
    # Mirrored around it, so that a grain at its border is not one that is cut by the slide's.
    y, x = height // 2, width // 2
    around = np.pad(picture, ((y, y), (x, x), (0, 0)), mode="symmetric")
    found = detector.detect(around, conf=USUAL)
    whole = np.array([[x, y, x + width, y + height]], np.float32)
    return bool(len(found)) and float(iou_matrix(whole, found.boxes).max()) >= _FILLS


def _told(name: str, grain: Grain, of: int, at: tuple[float, float] | None) -> str:
    x1, y1, x2, y2 = grain.box
    which = f"nearest to {'its middle' if at is None else f'{at[0]:g}, {at[1]:g}'}"
    others = "; --at X Y takes another" if of > 1 else ""
    return (
        f"{name} shows {of:,} grain{'' if of == 1 else 's'}: searched with the one {which}, {grain.taxon} "
        f"{grain.confidence:.2f} at {x1:.0f}, {y1:.0f} to {x2:.0f}, {y2:.0f}{others}"
    )
