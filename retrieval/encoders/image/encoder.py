"""Pictures of single grains to vectors: `ImageEncoder`.

    encoder = ImageEncoder()
    encoder.encode([crop])   # (1, 192) float32, unit length; crop is uint8 RGB, (H, W, 3), one grain in its middle

A grain is cut from what surrounds it and brought to one size, its colour and the strength of its stain are taken away,
and the vectors of its turned pictures are averaged, as pollen has no up. What is left is outline, wall and sculpture.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from ....data.grains import CutGrain, corner_background, cut_grain
from ....errors import InputError, UsageError
from ....vision.weights import find_encoder
from .grains import canvases
from .weights import fill, read_encoder

if TYPE_CHECKING:
    from .network import GrainNet

__all__ = ["FORMAT", "NAME", "ImageEncoder", "checked_list", "checked_picture", "cut_crop"]

FORMAT = "palyno-grain-encoder-1"
NAME = "grain-encoder"

# Longer side of a crop when its grain is cut: grains are then as large as the network sees them, and cutting takes its
# time by the pixel.
_CUT_PX = 192
_SMALLEST = 32
# Of `cut_crop` and what follows: part of the id, as another way to cut gives other vectors.
_CUTTING = "cut1"


def checked_picture(picture: np.ndarray) -> np.ndarray:
    """The picture as it is.

    Raises:
        UsageError: It is not uint8 RGB, (H, W, 3), with pixels.
    """
    picture = np.asarray(picture)
    if picture.dtype != np.uint8 or picture.ndim != 3 or picture.shape[2] != 3 or not picture.size:
        raise UsageError(
            f"picture: expected uint8 RGB, (height, width, 3), got {picture.dtype} {picture.shape}; read it with "
            "palyno.data.slides"
        )
    return picture


def checked_list(pictures: Sequence[np.ndarray]) -> Sequence[np.ndarray]:
    """The pictures as they are.

    Raises:
        UsageError: They are one picture, which would be read as a list of its rows.
    """
    if getattr(pictures, "ndim", None) == 3:
        raise UsageError("pictures: expected a list of pictures, got one; put it in a list")
    return pictures


def cut_crop(crop: np.ndarray) -> CutGrain:
    """The grain in the middle of a crop; where none stands out, all of the crop over its own background.

    Args:
        crop: uint8, RGB, (H, W, 3), any size.

    Raises:
        UsageError: Another kind of array.
    """
    return _cut(crop)[0]


def _cut(crop: np.ndarray) -> tuple[CutGrain, bool]:
    """See `cut_crop`; and whether a grain stands out."""
    picture = _scaled(crop)
    try:
        return cut_grain(picture), True
    except InputError:
        light = picture.astype(np.float32) + 1.0
        whole = np.ones(picture.shape[:2], dtype=np.float32)
        return CutGrain(np.clip(light / corner_background(light), 0.0, 1.5), whole), False


def _scaled(crop: np.ndarray) -> np.ndarray:
    """A crop in the size in which its grain is cut."""
    import cv2

    picture = checked_picture(crop)
    scale = cut_scale(*picture.shape[:2])
    if scale != 1:
        height, width = (max(8, min(8 * _CUT_PX, round(side * scale))) for side in picture.shape[:2])
        how = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
        picture = cv2.resize(picture, (width, height), interpolation=how)
    return np.ascontiguousarray(picture)


def cut_scale(height: int, width: int) -> float:
    """Pixels of the cut grain to one of the crop."""
    longest = max(height, width)
    return _CUT_PX / longest if longest > _CUT_PX else max(1.0, _SMALLEST / min(height, width))


class ImageEncoder:
    """The encoder of grains that ships, or another weights file; it may be used from several threads.

    Args:
        weights: A name from `palyno models list`, or a file that `palyno train-encoder` wrote.
        device: auto, cpu, cuda, cuda:N or mps.
        turns: Turns by equal angles whose vectors are averaged; 4 makes quarter turns of a picture change nothing.
        batch: Grains at once; changes nothing but memory and time.

    Raises:
        UnknownModelError: No such name or file.
        RejectedModelError: The file is not what it should be.
        UsageError: An option that cannot be meant, or a device that is not here.
    """

    modality: Literal["image"] = "image"

    def __init__(self, weights: str | Path = NAME, *, device: str = "auto", turns: int = 4, batch: int = 64):
        for name, value in (("turns", turns), ("batch", batch)):
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise UsageError(f"{name}: expected a whole number above zero, got {value!r}")
        self.turns, self.batch, self.device = turns, batch, device
        self.path = find_encoder(weights)
        self._tensors, self.about = read_encoder(self.path, FORMAT)
        self.dim = int(self.about.config["dim"])
        self._lock = threading.Lock()

    @property
    def encoder_id(self) -> str:
        """Name, start of the weights' sha256, how grains are cut, and turns."""
        return f"{self.about.encoder_id}/{_CUTTING}/{self.turns}"

    @cached_property
    def network(self) -> GrainNet:
        """The network, on the device, in evaluation mode."""
        from ....vision.network import choose_device
        from .network import GrainNet

        config = self.about.config
        network = fill(GrainNet(config["dim"], config["widths"]), self._tensors, self.path)
        return network.to(choose_device(self.device))  # type: ignore[return-value]

    def encode(self, items: Sequence[np.ndarray]) -> np.ndarray:
        """Vectors of grains.

        Args:
            items: Crops, uint8 RGB, (H, W, 3), of any size, one grain in the middle of each.

        Returns:
            (n, dim) float32, each row of unit length, in the order of the crops.

        Raises:
            UsageError: Not such arrays.
        """
        return self.encode_seen(items)[0]

    def encode_seen(self, items: Sequence[np.ndarray]) -> tuple[np.ndarray, list[bool]]:
        """Vectors as `encode` gives them, and in which crops a grain stands out; of the others all is encoded."""
        items = checked_list(items)
        vectors, seen = [np.empty((0, self.dim), np.float32)], []
        for start in range(0, len(items), self.batch):
            cut = [_cut(item) for item in items[start : start + self.batch]]
            vectors.append(self.encode_cut([grain for grain, _ in cut]))
            seen += [stands_out for _, stands_out in cut]
        return np.concatenate(vectors), seen

    def encode_cut(self, grains: Sequence[CutGrain]) -> np.ndarray:
        """Vectors of grains that are cut already, (n, dim) float32."""
        return self.encode_canvases(canvases(grains)) if grains else np.empty((0, self.dim), np.float32)

    def encode_canvases(self, pixels: np.ndarray) -> np.ndarray:
        """Vectors of the pictures of a `GrainSet`, uint8 (n, S, S, 3)."""
        import torch

        from .evaluate import embed

        with self._lock:
            network = self.network
            device = next(network.parameters()).device
            side = int(self.about.config["side"])
            seen = torch.from_numpy(np.ascontiguousarray(pixels)).to(device)
            return embed(network, seen, side, turns=self.turns, mirror=False, batch=self.batch).cpu().numpy()
