"""Vectors of grains out of the pass that finds them: `RegionEncoder`.

    encoder = RegionEncoder()
    result = encoder.detector.detect("slide.tif", vectors=encoder)
    result.vectors                     # (N, 192) float32, unit length: a row a grain, in the order of result.boxes

Nothing is cut and no second network runs: a small head reads the detector's own maps where the boxes are. It is trained
on the maps of one detector and refused with another. Pictures of single grains, to search with, go the same way.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from ....errors import RejectedModelError
from ....vision.detector import DECISIVE, Detector, load
from ....vision.maps import check_reader
from ....vision.tiles import iou_matrix
from ....vision.weights import find_encoder
from .encoder import checked_list, checked_picture
from .weights import fill, read_encoder

if TYPE_CHECKING:
    import torch

    from .regions import RegionHead

__all__ = ["FORMAT", "NAME", "RegionEncoder"]

FORMAT = "palyno-region-encoder-1"
NAME = "grain-regions"

# How regions are read: part of the id, as another way gives other vectors.
_READING = "roi1"
# Grains whose regions are in memory at once: 14 x 14 points of all maps each.
_AT_ONCE = 64

# A photograph of one grain whose longer side is above this is shrunk to the other, which brings the grain to a size
# that the head was trained on. Crops of slides stay as the slide's pass saw them.
_PHOTOGRAPH_PX, _SHRUNK_PX = 400, 160
# Least confidence of the box that is taken for the grain of a crop, and the least it must share with the crop.
_LIKELY, _SHARED = 0.05, 0.2
# Where there is none: share of the crop on each side of its grain, as `palyno index` cuts with 15 % of the box.
_INSET = 0.15 / 1.3
# Of the crop's sides: what is mirrored around it. A slide's pass sees what lies around a grain, and its vector says so.
_AROUND = 0.5


class RegionEncoder:
    """The head on the detector's maps that ships, or another weights file; it may be used from several threads.

    Args:
        weights: A name from `palyno models list`, or a file that `palyno train-encoder --of regions` wrote.
        detector: The detector whose maps it reads, loaded, or its name or file; None takes the one that ships under
            the name that the weights say. It is loaded when first needed.
        device: Of a detector that is loaded here: auto, cpu, cuda, cuda:N or mps.

    Raises:
        UnknownModelError: No such name or file.
        RejectedModelError: The file is not what it should be, or was trained on another detector.
        UsageError: The detector is an exported one, which does not give its maps.
    """

    modality: Literal["image"] = "image"

    def __init__(
        self,
        weights: str | Path = NAME,
        *,
        detector: Detector | str | Path | None = None,
        device: str = "auto",
    ):
        self.path = find_encoder(weights)
        self._tensors, self.about = read_encoder(self.path, FORMAT)
        config = _checked(self.about.config, self.path)
        self.dim, self.widths = int(config["dim"]), tuple(config["widths"])
        self.detector_name, self.detector_sha256 = str(config["detector"]), str(config["detector_sha256"])
        self._given, self._device = detector, device
        self._heads: dict[str, RegionHead] = {}
        self._lock = threading.Lock()
        if isinstance(detector, Detector):
            check_reader(self, detector.network.module, detector.metadata)

    @property
    def encoder_id(self) -> str:
        """Name, start of the weights' sha256, and how regions are read; the weights are of one detector alone."""
        return f"{self.about.encoder_id}/{_READING}"

    def __repr__(self) -> str:
        return f"RegionEncoder({self.encoder_id!r} on {self.detector_name!r})"

    @cached_property
    def detector(self) -> Detector:
        """The detector whose maps are read.

        Raises:
            UnknownModelError: It does not ship, and was not given.
            RejectedModelError: It is not the one that the weights were trained on.
        """
        given = self._given
        if isinstance(given, Detector):
            return given
        found = load(self.detector_name if given is None else given, device=self._device, runtime="torch")
        check_reader(self, found.network.module, found.metadata)
        return found

    def read(self, maps: Sequence[torch.Tensor], boxes: torch.Tensor, size: tuple[int, int]) -> np.ndarray:
        """See `palyno.vision.maps.MapReader`.

        Raises:
            RejectedModelError: The maps are not as wide as those of the detector that it was trained on.
        """
        import torch

        from .regions import pool_regions, squares

        if tuple(m.shape[1] for m in maps) != self.widths:
            raise RejectedModelError(
                f"{self.path}: expected maps of {self.widths} channels, as {self.detector_name} has, got "
                f"{tuple(m.shape[1] for m in maps)}"
            )
        head = self._head(maps[0].device)
        found = [np.empty((0, self.dim), np.float32)]
        with torch.inference_mode():
            for part in squares(boxes.to(maps[0].device)).split(_AT_ONCE):
                of = torch.zeros(len(part), dtype=torch.int64, device=part.device)
                found.append(head(pool_regions(maps, part, of, size)).cpu().numpy())
        return np.concatenate(found)

    def encode(self, items: Sequence[np.ndarray]) -> np.ndarray:
        """Vectors of grains by their crops, to look for them among those of slides.

        The detector looks for the grain, nearest to the middle; where it finds none, all but a margin is taken for it.

        Args:
            items: Crops, uint8 RGB, (H, W, 3), one grain in the middle of each, at the scale of the slides.

        Returns:
            (n, dim) float32, each row of unit length, in the order of the crops.

        Raises:
            UsageError: Not such arrays.
        """
        return np.concatenate([np.empty((0, self.dim), np.float32), *map(self._one, checked_list(items))])

    def _one(self, item: np.ndarray) -> np.ndarray:
        picture = checked_picture(item)
        height, width = picture.shape[:2]
        scale = _SHRUNK_PX / max(height, width) if max(height, width) > _PHOTOGRAPH_PX else 1.0
        x, y = int(_AROUND * width), int(_AROUND * height)
        around = np.pad(picture, ((y, y), (x, x), (0, 0)), mode="reflect" if min(height, width) > 1 else "edge")
        inset = (_INSET * width, _INSET * height, (1 - _INSET) * width, (1 - _INSET) * height)
        grain = np.array([inset], np.float32) + np.array([x, y, x, y], np.float32)
        network = self.detector.network
        (found,) = network.find([around], scale=scale, floor=_LIKELY, decisive=DECISIVE, iou=0.7, reader=self)
        if len(found.boxes) and found.vectors is not None:
            shared = iou_matrix(grain, found.boxes)[0]
            if shared.max() >= _SHARED:
                return found.vectors[[shared.argmax()]]
        return network.read(around, grain, reader=self, scale=scale)

    def _head(self, device: torch.device) -> RegionHead:
        from .regions import RegionHead

        with self._lock:
            if str(device) not in self._heads:
                head = RegionHead(sum(self.widths), self.dim, int(self.about.config["width"]))
                self._heads[str(device)] = fill(head, self._tensors, self.path).to(device)  # type: ignore[assignment]
            return self._heads[str(device)]


def _checked(config: Mapping[str, Any], path: Path) -> Mapping[str, Any]:
    """What the file says of its network and detector, which a head cannot be used without."""
    try:
        whole = [int(config["dim"]), int(config["width"]), *map(int, config["widths"])]
        named = all(isinstance(config[key], str) and config[key] for key in ("detector", "detector_sha256"))
        if not named or len(whole) < 3 or not all(0 < n <= 65536 for n in whole):
            raise ValueError(f"{dict(config)}")
    except (KeyError, TypeError, ValueError) as error:
        raise RejectedModelError(
            f"{path}: expected dim, width, widths, detector and detector_sha256 of a region head, got {error!r}"
        ) from error
    return config
