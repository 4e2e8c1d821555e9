"""A network at work: windows of a slide in, boxes with class probabilities out. All torch of detection is here."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import partial
from itertools import groupby
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import PalynoError, UsageError
from .maps import MapReader, kept_maps
from .tiles import STRIDE, iou_matrix
from .views import averaged

if TYPE_CHECKING:
    import torch

__all__ = ["PADDING", "Found", "Network", "choose_device", "padded", "suppress"]

# What training fills the border of small images with.
PADDING = 114


@dataclass(frozen=True)
class Found:
    """The boxes of one window.

    Attributes:
        boxes: `xyxy`, float32, (N, 4), pixels of the window.
        confidence: Probability that there is a grain, float32, (N,).
        probabilities: Of each class, float32, (N, classes).
        full: The network returned as many boxes as it can; there may be more grains.
        vectors: Of each grain, float32, (N, dim), where a reader was given.
    """

    boxes: np.ndarray
    confidence: np.ndarray
    probabilities: np.ndarray
    full: bool = False
    vectors: np.ndarray | None = None


def choose_device(device: str) -> torch.device:
    """The device that a name stands for.

    Args:
        device: `auto` (an NVIDIA GPU, else Apple's, else the CPU), `cpu`, `cuda`, `cuda:N` or `mps`.

    Raises:
        UsageError: There is no such device here.
    """
    import torch

    cuda = torch.cuda.device_count() if torch.cuda.is_available() else 0
    mps = torch.backends.mps.is_available()
    if device == "auto":
        device = "cuda" if cuda else "mps" if mps else "cpu"
    if not isinstance(device, str) or not re.fullmatch(r"cpu|mps|cuda(:\d{1,3})?", device):
        raise UsageError(f"device: expected auto, cpu, cuda, cuda:N or mps, got {device!r}")
    if device == "mps" and not mps:
        raise UsageError("device: expected one that is here, got mps; this machine or this torch has none, use cpu")
    if device.startswith("cuda") and int(device.partition(":")[2] or 0) >= cuda:
        have = f"has only {', '.join(f'cuda:{i}' for i in range(cuda))}" if cuda else "has none that torch can use"
        raise UsageError(f"device: expected one that is here, got {device}; this machine {have}, use auto or cpu")
    return torch.device(device)


class Network:
    """A detection network on a device.

    Args:
        model: Takes float images in [0, 1], (B, 3, H, W) with sides that are multiples of 32; returns, or returns
            first, (B, 4 + classes, A): centre x, centre y, width, height in pixels, then a probability a class.
        device: Where it runs.
        max_objects: Most boxes that the network can return for an image; None for as many as it has outputs.
        duplicates: Whether it can return several boxes of one grain. Where training has taught it not to, none are
            taken out.
        build: Makes the same network in PyTorch, on the device, where another runtime runs it; called at most once, and
            only for what needs more of it than boxes.
    """

    def __init__(
        self,
        model: Any,
        device: torch.device,
        max_objects: int | None = None,
        duplicates: bool = True,
        *,
        build: Callable[[], torch.nn.Module] | None = None,
    ):
        import torch

        self.model, self.device, self.max_objects, self.duplicates = model, device, max_objects, duplicates
        self._build, self._module, self._building = build, None, threading.Lock()  # type: tuple[Any, Any, Any]
        # Most windows at once that the device's memory has turned out to hold.
        self._most: int | None = None
        if isinstance(model, torch.nn.Module):
            self.model = model.to(device).eval()

    @property
    def module(self) -> Any:
        """The network in PyTorch, for its maps and gradients; of a file of another runtime, which has none, that."""
        if self._build is None:
            return self.model
        with self._building:
            if self._module is None:
                self._module = self._build()
        return self._module

    def runtime(self, maps: bool = False) -> str:
        """What runs it, with its version, such as `onnxruntime 1.32.0`.

        Args:
            maps: Where its maps are read, too, which PyTorch alone gives.
        """
        import torch

        return getattr(self.module if maps else self.model, "runtime", None) or f"torch {torch.__version__}"

    def batch_for(self, side: float) -> int:
        """Windows at once that suit the device: on a GPU about as many as 16 of 640 pixels.

        Args:
            side: Of the network's input, pixels.
        """
        suits = 1 if self.device.type == "cpu" else max(1, int(16 * 640**2 / side**2))
        # A network of another runtime may be made for one number.
        return getattr(self.model, "batch", None) or suits

    def find(
        self,
        windows: Sequence[np.ndarray],
        *,
        scale: float,
        floor: float,
        decisive: float,
        iou: float,
        views: int = 1,
        reader: MapReader | None = None,
    ) -> Iterator[Found]:
        """The boxes of each window, without duplicates.

        Args:
            windows: uint8 RGB, (H, W, 3) each.
            scale: Factor from pixels of a window to pixels of the network's input.
            floor: Least confidence.
            decisive: Least confidence of the boxes that make a window full.
            iou: Two boxes that overlap more than this are one grain; not asked where the network gives no duplicates.
            views: Mirrored and turned views whose answers are averaged, see `palyno.vision.views`.
            reader: Makes a vector of each grain from the maps of the same pass; with one view.

        Yields:
            One `Found` a window, in order.

        Raises:
            PalynoError: The network gave numbers that are not finite, or the device's memory does not suffice.
        """
        import torch

        inputs = [_input(window, scale) for window in windows]
        start = 0
        while start < len(inputs):
            same = next(list(group) for _, group in groupby(inputs[start:][: self._most], key=np.shape))
            try:
                output, maps = self._run(np.stack(same), reader is not None, views)
            except torch.OutOfMemoryError as error:
                if len(same) == 1:
                    height, width = same[0].shape[:2]
                    raise PalynoError(
                        f"{self.device}: expected memory for a tile of {width} x {height} pixels, there is too little; "
                        "use a smaller --tile, or --device cpu"
                    ) from error
                self._most = len(same) // 2
                continue
            for i, (rows, window) in enumerate(zip(output, windows[start : start + len(same)], strict=True)):
                found = self._found(rows, window, scale, floor, decisive, iou)
                if reader is not None:
                    # At the places that are reported, not at those before rounding.
                    here = [level[i : i + 1] for level in maps]
                    found = replace(found, vectors=_read(reader, here, found.boxes, window, same[i], scale))
                yield found
            start += len(same)

    def read(self, window: np.ndarray, boxes: np.ndarray, *, reader: MapReader, scale: float = 1.0) -> np.ndarray:
        """Vectors of grains whose boxes are known, (N, dim) float32.

        Args:
            window: uint8 RGB, (H, W, 3).
            boxes: `xyxy`, float32, (N, 4), pixels of the window.
            reader: Makes the vectors.
            scale: As for `find`.
        """
        pixels = _input(window, scale)
        return _read(reader, self._run(pixels[None], True)[1], boxes, window, pixels, scale)

    def _run(self, pixels: np.ndarray, keep: bool, views: int = 1) -> tuple[torch.Tensor, list[torch.Tensor]]:
        """(B, H, W, 3) uint8 -> (B, A, 4 + classes) float32, on the device; and the head's maps where asked for."""
        import torch

        model = self.module if keep else self.model
        keeping = kept_maps(model) if keep else nullcontext(list[torch.Tensor]())
        with torch.inference_mode(), keeping as maps:
            images = torch.from_numpy(pixels).to(self.device).permute(0, 3, 1, 2)
            output = averaged(partial(_answer, model), images.float().div_(255), views).transpose(1, 2)
            if not torch.isfinite(output).all():
                raise PalynoError(
                    f"expected finite numbers from the network, got others on {self.device}; the weights or the device "
                    "are at fault: check with `palyno models verify`, or use --device cpu"
                )
        return output, maps

    def _found(
        self, rows: torch.Tensor, window: np.ndarray, scale: float, floor: float, decisive: float, iou: float
    ) -> Found:
        import torch

        with torch.inference_mode():
            p = rows[:, 4:]
            # At least one class is right. Four decimals, as tables have: rounding of the device then changes nothing.
            confidence = -torch.expm1(torch.log1p(-p.clamp(0, 1 - 1e-7)).sum(1))
            confidence = torch.round(confidence, decimals=4)
            likely = confidence >= floor
            ceiling = min(len(rows), self.max_objects or len(rows))
            full = int((confidence >= decisive).sum()) >= ceiling
            rows, confidence = rows[likely].cpu(), confidence[likely].cpu()
        height, width = window.shape[:2]
        fit = torch.tensor([width / _scaled(width, scale), height / _scaled(height, scale)])
        centre, half = rows[:, :2] * fit, rows[:, 2:4] * fit / 2
        limits = torch.tensor([width, height])
        corners = [(centre + sign * half).clamp(min=torch.zeros(2)).minimum(limits) for sign in (-1, 1)]
        boxes = torch.round(torch.cat(corners, 1), decimals=2)
        inside = (boxes[:, 2:] > boxes[:, :2]).all(1)
        boxes, confidence, rows = boxes[inside], confidence[inside], rows[inside]
        # Equal scores are taken from the top left, whatever the order of the network's outputs.
        x1, y1, x2, y2 = boxes.numpy().T
        order = np.lexsort((x2, y2, x1, y1, -confidence.numpy()))
        if self.duplicates:
            order = order[suppress(boxes.numpy()[order], iou)]
        return Found(boxes.numpy()[order], confidence.numpy()[order], rows[:, 4:].numpy()[order], full)


def suppress(boxes: np.ndarray, iou: float) -> np.ndarray:
    """Greedy non-maximum suppression, whatever the class. Importing torchvision for it takes seconds.

    Args:
        boxes: `xyxy`, (N, 4), surest first.
        iou: A box goes where its intersection over union with a surer one that stays is above this.

    Returns:
        Indices of those that stay, in order.
    """
    kept, left = [], np.arange(len(boxes))
    while len(left):
        kept.append(left[0])
        left = left[1:][iou_matrix(boxes[left[:1]], boxes[left[1:]])[0] <= iou]
    return np.array(kept, int)


def _answer(model: Any, images: torch.Tensor) -> torch.Tensor:
    import torch

    output = model(images)
    return (output if isinstance(output, torch.Tensor) else output[0]).float()


def _input(window: np.ndarray, scale: float) -> np.ndarray:
    """The window at the network's scale, filled up on the right and below to multiples of 32."""
    height, width = (_scaled(side, scale) for side in window.shape[:2])
    if (height, width) != window.shape[:2]:
        import cv2

        window = cv2.resize(window, (width, height), interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR)
    return padded(window, (-(-height // STRIDE) * STRIDE, -(-width // STRIDE) * STRIDE))


def padded(window: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """A window (H, W, 3) filled up with grey on the right and below to `size`, (height, width)."""
    filled = np.full((*size, 3), PADDING, np.uint8)
    filled[: window.shape[0], : window.shape[1]] = window
    return filled


def _read(
    reader: MapReader,
    maps: list[torch.Tensor],
    boxes: np.ndarray,
    window: np.ndarray,
    pixels: np.ndarray,
    scale: float,
) -> np.ndarray:
    """Vectors of the boxes of a window, from the maps of the pixels that were made of it."""
    import torch

    height, width = window.shape[:2]
    fit = np.array([_scaled(width, scale) / width, _scaled(height, scale) / height] * 2, np.float32)
    with torch.inference_mode():
        return reader.read(maps, torch.from_numpy(boxes * fit), (pixels.shape[0], pixels.shape[1]))


def _scaled(side: int, scale: float) -> int:
    return max(1, round(side * scale))
