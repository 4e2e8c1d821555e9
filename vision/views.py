"""One window seen several ways: mirrored and turned, as pollen has no up, and the answers averaged place by place.

A network that answers for every cell of its grids is shown the window again as it is in a mirror, or on its side. Each
cell has its counterpart there, so boxes and probabilities are averaged cell by cell, before anything is taken out: a
grain is still found once.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from ..errors import UsageError

if TYPE_CHECKING:
    import torch

__all__ = ["STRIDES", "VIEWS", "averaged", "seen", "unseen"]

# As they are; and mirrored; and both again upside down; and all of these on their side.
VIEWS = (1, 2, 4, 8)
# Of the grids that a network answers for, in order.
STRIDES = (8, 16, 32)


def averaged(answer: Callable[[torch.Tensor], torch.Tensor], images: torch.Tensor, views: int) -> torch.Tensor:
    """The mean of what a network answers to several views.

    Args:
        answer: (B, 3, H, W) -> (B, 4 + classes, A), centre x, centre y, width, height and probabilities of each cell.
        images: (B, 3, H, W), sides multiples of 32.
        views: How many, one of `VIEWS`.

    Returns:
        (B, 4 + classes, A), as to the images themselves.

    Raises:
        UsageError: The network does not answer for every cell.
    """
    total = answer(images)
    for view in range(1, views):
        total = total + unseen(answer(seen(images, view)), view, (images.shape[-2], images.shape[-1]))
    return total / views


def seen(images: torch.Tensor, view: int) -> torch.Tensor:
    """View `view` of images: bit 0 mirrors left and right, bit 1 up and down, bit 2 then exchanges rows and columns."""
    sides = [axis for bit, axis in ((1, 3), (2, 2)) if view & bit]
    images = images.flip(sides) if sides else images
    return (images.transpose(2, 3) if view & 4 else images).contiguous()


def unseen(answers: torch.Tensor, view: int, size: tuple[int, int]) -> torch.Tensor:
    """What was answered to a view, said of the images themselves.

    Args:
        answers: (B, 4 + classes, A).
        view: Which, see `seen`.
        size: Height and width of the images themselves.

    Raises:
        UsageError: A is not the number of cells.
    """
    import torch

    height, width = size
    grids = [(height // stride, width // stride) for stride in STRIDES]
    if answers.shape[-1] != sum(rows * columns for rows, columns in grids):
        raise UsageError("views: expected a network that answers for every cell of its grids; use 1 view with this one")
    told, start = [], 0
    for rows, columns in grids:
        level = answers[..., start : start + rows * columns]
        start += rows * columns
        if view & 4:
            level = level.unflatten(-1, (columns, rows)).transpose(-1, -2)
            level = torch.cat((level[:, [1, 0, 3, 2]], level[:, 4:]), 1)
        else:
            level = level.unflatten(-1, (rows, columns))
        if view & 2:
            level = level.flip(-2)
            level = torch.cat((level[:, :1], height - level[:, 1:2], level[:, 2:]), 1)
        if view & 1:
            level = level.flip(-1)
            level = torch.cat((width - level[:, :1], level[:, 1:]), 1)
        told.append(level.flatten(-2))
    return torch.cat(told, -1)
