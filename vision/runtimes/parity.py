"""Whether an exported network gives PyTorch's boxes: `compare`, on tiles of the slides that come with palyno."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ...errors import PalynoError, first_line
from ..network import padded
from ..tiles import STRIDE
from .exported import Exported

__all__ = ["BOX_ERROR", "SCORE_ERROR", "Parity", "compare", "tiles"]

# How far a runtime may be from the network: pixels of a box, and probability.
BOX_ERROR = 0.5
SCORE_ERROR = 1e-3

# A network that picks its boxes may pick others among those that are hardly any; those are not compared.
PICKED = 0.05

_SAMPLES = Path(__file__).parents[2] / "data" / "samples"


@dataclass(frozen=True)
class Parity:
    """How far an exported network is from PyTorch's.

    Attributes:
        box_px: Largest difference of a coordinate, centre or side, in pixels.
        probability: Largest difference of a probability.
        tiles: Tiles that were compared.
        boxes: Boxes that were compared on them.
    """

    box_px: float
    probability: float
    tiles: int
    boxes: int


def tiles(side: int, dynamic: bool, channels: int = 3) -> list[torch.Tensor]:
    """The middle of each sample slide, (1, channels, side, side) in [0, 1]; where sizes are open also narrower ones."""
    from ...data.slides import open_slide

    shapes = [(side, side)]
    if dynamic:
        shapes += [(side, max(STRIDE, side // 2 // STRIDE * STRIDE)), (side + STRIDE, side)]
    images = []
    for path in sorted(_SAMPLES.glob("*.jpg")):
        with open_slide(path) as slide:
            for height, width in shapes if path.stem == "composed" else shapes[:1]:
                w, h = min(width, slide.width), min(height, slide.height)
                window = slide.read((slide.width - w) // 2, (slide.height - h) // 2, w, h)
                pixels = torch.from_numpy(padded(window, (height, width))).permute(2, 0, 1)[None].float() / 255
                images.append(pixels if channels == 3 else pixels[:, :1].repeat(1, channels, 1, 1))
    return images


@torch.no_grad()
def compare(expected: Any, exported: Exported, images: Sequence[torch.Tensor]) -> Parity:
    """Compares on images, and on the fullest batch that the file takes.

    Args:
        expected: The network in PyTorch on the CPU: images to (B, 4 + classes, A).
        exported: The same network in another runtime.
        images: (1, C, H, W) each.

    Raises:
        PalynoError: The runtime cannot run the network, another shape, or boxes or probabilities further away than
            `BOX_ERROR` and `SCORE_ERROR`.
    """
    box, score, boxes = [0.0], [0.0], 0
    size = exported.about.batch if not exported.about.dynamic else 2
    for first in images:
        batch = torch.cat([first, *[first.flip(3)] * (size - 1)])
        there, here = _run(exported, batch), expected(batch)
        if here.shape != there.shape:
            raise PalynoError(
                f"expected an output of {tuple(here.shape)} from the exported network, got {tuple(there.shape)}; no "
                "file was written"
            )
        for ours, theirs in zip(here.transpose(1, 2).numpy(), there.transpose(1, 2).numpy(), strict=True):
            if exported.about.max_objects is not None:
                ours, theirs = _partners(ours, theirs)
            if len(ours):
                box.append(float(np.abs(ours[:, :4] - theirs[:, :4]).max()))
                score.append(float(np.abs(ours[:, 4:] - theirs[:, 4:]).max()))
            boxes += len(ours)
    # numpy's maximum passes NaN on, which the comparison then refuses.
    parity = Parity(float(np.max(box)), float(np.max(score)), len(images), boxes)
    if not (parity.box_px <= BOX_ERROR and parity.probability <= SCORE_ERROR):
        raise PalynoError(
            f"expected the exported network to give PyTorch's boxes to {BOX_ERROR} px and probabilities to "
            f"{SCORE_ERROR} on {len(images)} tiles, got differences of {parity.box_px:.3g} px and "
            f"{parity.probability:.3g}; no file was written. Use another version of the runtime, "
            'large_kernels="conv", or leave out half precision or --dynamic'
        )
    return parity


def _run(exported: Exported, batch: torch.Tensor) -> torch.Tensor:
    try:
        return exported(batch.to(exported.device)).float().cpu()
    except PalynoError:
        raise
    except Exception as error:
        # Runtimes have exceptions of their own.
        advice = "export without --dynamic, at one --imgsz" if exported.about.dynamic else "use another --format"
        raise PalynoError(
            f"expected the runtime to run the exported network on images {tuple(batch.shape)}, "
            f"got {first_line(error)}; no file was written, {advice}"
        ) from error


def _partners(ours: np.ndarray, theirs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The boxes of a network that picks them, and for each the nearest of the other's in place and probabilities."""
    sure = ours[:, 4:].max(1, initial=0)
    # The surest always: of a network that is sure of none, nothing would be compared.
    ours = ours[sure >= min(PICKED, sure.max(initial=0))]
    scale = np.r_[np.full(4, 1 / BOX_ERROR), np.full(ours.shape[1] - 4, 1 / SCORE_ERROR)]
    nearest = [int((np.abs(theirs - row) * scale).max(1).argmin()) for row in ours]
    return ours, theirs[nearest]
