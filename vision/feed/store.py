"""All images of a split, decoded once, on a device."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from ...errors import InputError

__all__ = ["PAD", "ImageStore"]

# Grey beside images that are not square, as in ultralytics.
PAD = 114
_CHUNK = 256


@dataclass(frozen=True)
class ImageStore:
    """Images with their boxes.

    Attributes:
        pixels: (N, 3, S, S) uint8 RGB: an image's longer side is S, grey fills the rest. They may lie in main memory,
            while boxes and classes lie on the device.
        boxes: (N, M, 4) float32 `xyxy` in these pixels; M is the most that an image has.
        classes: (N, M) int64, -1 where there is no box.
    """

    pixels: torch.Tensor
    boxes: torch.Tensor
    classes: torch.Tensor

    def __len__(self) -> int:
        return len(self.pixels)

    @property
    def apart(self) -> bool:
        """Whether pixels lie elsewhere than boxes, so that each batch's must be sent."""
        return self.pixels.device != self.boxes.device

    def gather(self, chosen: torch.Tensor) -> torch.Tensor:
        """Pixels of the chosen images (n,), where they lie; those of main memory ready to be sent to a GPU."""
        if not (self.apart and self.boxes.is_cuda):
            return self.pixels[chosen.to(self.pixels.device)]
        there = torch.empty((len(chosen), *self.pixels.shape[1:]), dtype=torch.uint8, pin_memory=True)
        return torch.index_select(self.pixels, 0, chosen, out=there)

    @classmethod
    def read(
        cls,
        labels: Sequence[Mapping[str, Any]],
        size: int,
        device: torch.device | str,
        *,
        host: bool = False,
        threads: int = 8,
    ) -> ImageStore:
        """Decodes images.

        Args:
            labels: As ultralytics' data sets list them, an image each: `im_file`, `cls` (n, 1) and `bboxes` (n, 4),
                centre and sides as shares of the image.
            size: Side S.
            device: Where the images are kept, 3 S^2 bytes each.
            host: Keep the pixels in main memory; each batch's are sent to the device.
            threads: Threads that decode.

        Raises:
            InputError: There are no images, or one cannot be read.
        """
        if not labels:
            raise InputError("expected training images, found none")
        most = max(1, *(len(label["cls"]) for label in labels))
        pixels = torch.empty(len(labels), 3, size, size, dtype=torch.uint8, device="cpu" if host else device)
        boxes, classes = np.zeros((len(labels), most, 4), np.float32), np.full((len(labels), most), -1, np.int64)
        with ThreadPoolExecutor(threads) as pool:
            for start in range(0, len(labels), _CHUNK):
                chunk = labels[start : start + _CHUNK]
                read = list(pool.map(lambda label: _fit(label["im_file"], size), chunk))
                stacked = torch.from_numpy(np.stack([picture for picture, _ in read]))
                pixels[start : start + len(chunk)] = stacked.to(pixels.device).permute(0, 3, 1, 2)
                for i, (label, (_, sides)) in enumerate(zip(chunk, read, strict=True), start):
                    n = len(label["cls"])
                    centre, half = label["bboxes"][:, :2] * sides, label["bboxes"][:, 2:] * sides / 2
                    boxes[i, :n], classes[i, :n] = np.hstack([centre - half, centre + half]), label["cls"].ravel()
        return cls(pixels, torch.from_numpy(boxes).to(device), torch.from_numpy(classes).to(device))


def _fit(path: str, size: int) -> tuple[np.ndarray, np.ndarray]:
    """A picture in the upper left of a square of `size`, and the sides (width, height) that it has there."""
    import cv2

    data = np.fromfile(path, np.uint8)
    picture = cv2.imdecode(data, cv2.IMREAD_COLOR) if data.size else None
    if picture is None:
        raise InputError(f"{path}: expected a picture, but it cannot be decoded; mend or remove it")
    height, width = picture.shape[:2]
    scale = size / max(height, width)
    if scale != 1:
        sides = (max(1, round(width * scale)), max(1, round(height * scale)))
        picture = cv2.resize(picture, sides, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR)
    height, width = picture.shape[:2]
    square = np.full((size, size, 3), PAD, np.uint8)
    square[:height, :width] = picture[..., ::-1]
    return square, np.array([width, height], np.float32)
