"""Where things lie: images turned, mirrored, scaled, shifted and put together in fours, boxes with them.

Everything is one affine map a *pane*, the part of an output image that one source image fills: output pixel p shows the
source at `turn (p - middle) / scale + anchor`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from .store import PAD, ImageStore

__all__ = ["Placement", "Spread", "lay_out", "paint"]

# What is left of a box that a pane cuts must show this share of it, as in composed scenes, and be this wide and high.
LEAST_VISIBLE, LEAST_SIDE = 0.35, 3.0


@dataclass(frozen=True)
class Spread:
    """How far training images are moved.

    Attributes:
        scale: Zoomed by 1 - scale to 1 + scale.
        translate: Shifted by up to this share of the side.
        mirrored: Mirrored half of the time.
        quarters: Turned by 0, 90, 180 or 270 degrees.
        degrees: Turned by up to so many degrees more. Boxes are then those of the ellipses that fill them.
        mosaic: Share of output images that show four sources in quarters, which meet at one point a batch.
    """

    scale: float = 0.4
    translate: float = 0.1
    mirrored: bool = True
    quarters: bool = True
    degrees: float = 0.0
    mosaic: float = 0.6


@dataclass(frozen=True)
class Placement:
    """Panes of one size and place, one in each of some output images.

    Attributes:
        outputs: (P,) index of the output image.
        sources: (P,) index of the source image.
        left, top, width, height: The pane in the output, pixels.
        maps: (P, 2, 3) from output pixels to source pixels.
    """

    outputs: torch.Tensor
    sources: torch.Tensor
    left: int
    top: int
    width: int
    height: int
    maps: torch.Tensor


def paint(
    store: ImageStore, panes: Sequence[Placement], pictures: Sequence[torch.Tensor]
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The batch that panes make.

    Args:
        store: Where the source images' boxes are.
        panes: What `lay_out` gave.
        pictures: Pixels of each pane's sources, as `store.gather` gives them.

    Returns:
        Images (B, 3, S, S) float32 in [0, 1]; boxes (n, 4) `xyxy` pixels; (n, 2) int64 output image and class of each.
    """
    size, device = store.pixels.shape[-1], store.boxes.device
    number = 1 + max(int(pane.outputs.max()) for pane in panes)
    images = torch.empty(number, 3, size, size, device=device)
    boxes, owners = [], []
    for pane, picture in zip(panes, pictures, strict=True):
        outputs, origin = pane.outputs.to(device), pane.sources.to(device)
        maps = pane.maps.to(device)
        images[outputs, :, pane.top : pane.top + pane.height, pane.left : pane.left + pane.width] = _sample(
            picture.to(device, non_blocking=True), maps, pane
        )
        found, index = _boxes(store.boxes[origin], store.classes[origin], maps, pane)
        boxes.append(found)
        owners.append(torch.stack([outputs[index[:, 0]], store.classes[origin][index[:, 0], index[:, 1]]], 1))
    return images, torch.cat(boxes), torch.cat(owners)


def lay_out(
    count: int, sources: torch.Tensor, size: int, spread: Spread, generator: torch.Generator
) -> list[Placement]:
    """Draws the panes of a batch of output images.

    Args:
        count: How many source images there are.
        sources: (B,) one for each output image; three more are drawn for a mosaic.
        size: Side of the images, sources and output.
        spread: How far the sources are moved.
        generator: Decides everything random, on the CPU.
    """
    four = torch.rand(len(sources), generator=generator) < spread.mosaic
    alone, together = (~four).nonzero()[:, 0], four.nonzero()[:, 0]
    panes = [_pane(alone, sources[alone], (0, 0, size, size), size, spread, generator)] if len(alone) else []
    if not len(together):
        return panes
    x, y = (round(float(v)) for v in (0.3 + 0.4 * torch.rand(2, generator=generator)) * size)
    for i, (left, top, right, bottom) in enumerate(
        ((0, 0, x, y), (x, 0, size, y), (0, y, x, size), (x, y, size, size))
    ):
        drawn = sources[together] if i == 0 else torch.randint(count, together.shape, generator=generator)
        panes.append(_pane(together, drawn, (left, top, right - left, bottom - top), size, spread, generator))
    return panes


def _pane(
    outputs: torch.Tensor,
    sources: torch.Tensor,
    where: tuple[int, int, int, int],
    size: int,
    spread: Spread,
    generator: torch.Generator,
) -> Placement:
    left, top, width, height = where
    n = len(outputs)

    def uniform(*shape: int) -> torch.Tensor:
        return torch.rand(n, *shape, generator=generator)

    scale = 1 + spread.scale * (2 * uniform() - 1)
    quarter = torch.randint(4, (n,), generator=generator) if spread.quarters else torch.zeros(n, dtype=torch.int64)
    # Of quarter turns exactly 0 and 1, so that nothing is interpolated that need not be.
    cos, sin = torch.tensor([1.0, 0, -1, 0])[quarter], torch.tensor([0.0, 1, 0, -1])[quarter]
    if spread.degrees:
        angle = math.radians(spread.degrees) * (2 * uniform() - 1)
        cos, sin = cos * angle.cos() - sin * angle.sin(), sin * angle.cos() + cos * angle.sin()
    mirror = 1 - 2 * (uniform() < 0.5).float() if spread.mirrored else torch.ones(n)
    turn = torch.stack([torch.stack([cos * mirror, -sin], 1), torch.stack([sin * mirror, cos], 1)], 1)
    linear = turn / scale[:, None, None]
    middle = torch.tensor([left + width / 2, top + height / 2])
    if (width, height) == (size, size):
        anchor = size / 2 + spread.translate * size * (2 * uniform(2) - 1)
    else:
        # As much of the pane as can be shows picture.
        reach = (linear.abs() @ torch.tensor([width / 2, height / 2])).clamp(max=size / 2)
        anchor = reach + (size - 2 * reach) * uniform(2)
    offset = anchor - linear @ middle
    return Placement(outputs, sources, left, top, width, height, torch.cat([linear, offset[..., None]], 2))


def _sample(pixels: torch.Tensor, maps: torch.Tensor, pane: Placement) -> torch.Tensor:
    """(P, 3, height, width) in [0, 1], grey where the source ends."""
    size = pixels.shape[-1]
    x = torch.arange(pane.left, pane.left + pane.width, device=maps.device) + 0.5
    y = torch.arange(pane.top, pane.top + pane.height, device=maps.device) + 0.5
    points = torch.stack([x.expand(pane.height, -1), y[:, None].expand(-1, pane.width)], -1)
    grid = (points.reshape(1, -1, 2) @ maps[..., :2].mT + maps[:, None, :, 2]) * (2 / size) - 1
    grid = grid.reshape(len(maps), pane.height, pane.width, 2)
    shade = (pixels.float() - PAD) / 255
    return F.grid_sample(shade, grid, mode="bilinear", padding_mode="zeros", align_corners=False) + PAD / 255


def _boxes(
    boxes: torch.Tensor, classes: torch.Tensor, maps: torch.Tensor, pane: Placement
) -> tuple[torch.Tensor, torch.Tensor]:
    """What a pane shows of the boxes (P, M, 4): (n, 4), and (n, 2) which they were."""
    inverse = torch.linalg.inv(maps[..., :2])
    middle = (boxes[..., :2] + boxes[..., 2:]) / 2
    middle = (middle - maps[:, None, :, 2]) @ inverse.mT
    # An ellipse in its box stays one; turned by quarters the box of it is the box turned.
    half = ((boxes[..., 2:] - boxes[..., :2]) / 2).square() @ inverse.square().mT
    half = half.sqrt()
    moved = torch.cat([middle - half, middle + half], -1)
    frame = moved.new_tensor([pane.left, pane.top, pane.left + pane.width, pane.top + pane.height])
    low, high = frame[[0, 1, 0, 1]], frame[[2, 3, 2, 3]]
    shown = torch.minimum(torch.maximum(moved, low), high)
    sides = shown[..., 2:] - shown[..., :2]
    share = sides.prod(-1) / (4 * half.prod(-1)).clamp(min=1e-6)
    kept = (classes >= 0) & (share >= LEAST_VISIBLE) & (sides.amin(-1) >= LEAST_SIDE)
    index = kept.nonzero()
    return shown[kept], index
