"""From light to what the network sees: optical density without colour, without stain strength, grain of one size.

Stain and lamp name the taxon in reference collections, where each taxon is one preparation. What is left here cannot
tell: three channels become one, and its mean and spread are those of every other grain.
"""

from __future__ import annotations

import torch
from torch.nn import functional

__all__ = ["LUMA", "grey_density", "standardise", "turn"]

# ITU-R BT.601.
LUMA = (0.299, 0.587, 0.114)
_DARKEST = 0.02


def density(transmission: torch.Tensor) -> torch.Tensor:
    """Optical density, `-ln` of the transmission; 0 where nothing absorbs."""
    return -torch.log(transmission.clamp(min=_DARKEST))


def grey_density(transmission: torch.Tensor) -> torch.Tensor:
    """(B, 3, H, W) transmission -> (B, 1, H, W) density of its luma."""
    luma = transmission.new_tensor(LUMA).view(1, 3, 1, 1)
    return density((transmission * luma).sum(1, keepdim=True))


def standardise(x: torch.Tensor) -> torch.Tensor:
    """Each picture of (B, 1, H, W) with mean 0 and spread 1."""
    middle = x.mean((1, 2, 3), keepdim=True)
    return (x - middle) / (x.std((1, 2, 3), keepdim=True) + 1e-3)


def turn(x: torch.Tensor, side: int, angle: float, mirrored: bool = False) -> torch.Tensor:
    """Maps (B, 1, S, S) turned about their middle and resampled to `side`; what comes in at the edges is 0.

    Args:
        x: Densities, so that 0 is nothing.
        side: Pixels of the result; it shows the same square.
        angle: Radians, anticlockwise.
        mirrored: Mirror first.
    """
    angles = torch.full((len(x),), angle, device=x.device)
    c, s = torch.cos(angles), torch.sin(angles)
    flip = -1.0 if mirrored else 1.0
    zero = torch.zeros_like(c)
    frame = torch.stack([torch.stack([c * flip, -s, zero], 1), torch.stack([s * flip, c, zero], 1)], 1)
    grid = functional.affine_grid(frame, [len(x), 1, side, side], align_corners=False)
    return functional.grid_sample(x, grid.to(x.dtype), align_corners=False)
