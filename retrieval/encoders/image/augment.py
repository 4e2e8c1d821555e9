"""Many pictures of one grain, made in batches on the device: turned, stained anew, out of focus, in company.

All of it happens to transmissions and densities, where light multiplies and dyes add (Beer and Lambert), as in
`data/scene.py`; here in batches of PyTorch, as an encoder sees hundreds of thousands of them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch.nn import functional

from ....errors import UsageError
from .grains import CLEAR
from .pixels import LUMA, density, standardise

__all__ = ["Augmentation", "augment", "restain"]


@dataclass(frozen=True, kw_only=True)
class Augmentation:
    """How strongly grains are changed; 0 switches a change off.

    Attributes:
        scale: Spread of the logarithm of the grain's size.
        stretch: Spread of the logarithm of width over height.
        shift: Largest shift of the middle, share of the picture.
        stain: Spread of the logarithm of the dyes' strengths.
        grey: Spread of the logarithm of the channels' weights when colour is removed.
        focus: Share of grains that are out of focus or sharpened.
        company: Share of grains with a part of another grain beside them.
        light: Slope of the lamp's light across the picture.
        noise: Largest standard deviation of the camera's noise, share of full light.
        erase: Share of grains of which a rectangle is blanked.
    """

    scale: float = 0.12
    stretch: float = 0.05
    shift: float = 0.05
    stain: float = 0.3
    grey: float = 0.7
    focus: float = 0.6
    company: float = 0.25
    light: float = 0.08
    noise: float = 0.03
    erase: float = 0.25

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if not 0 <= value <= 1:
                raise UsageError(f"{name}: expected 0 to 1, got {value!r}")


def restain(pixels: torch.Tensor, by: Augmentation, rng: torch.Generator) -> torch.Tensor:
    """Changes the stain: each dye's density by a factor of its own, and all of them by another.

    Args:
        pixels: uint8, (B, S, S, 3), see `GrainSet`.
        by: How strongly.
        rng: On the device of the pixels.

    Returns:
        Transmission, float32, (B, 3, S, S).
    """
    dyes = density(pixels.permute(0, 3, 1, 2).float() / CLEAR)
    n, device = len(pixels), pixels.device
    each = _normal((n, 3, 1, 1), rng, device) * by.stain
    strength = _normal((n, 1, 1, 1), rng, device) * 1.3 * by.stain
    return torch.exp(-dyes * torch.exp(each + strength))


def augment(pixels: torch.Tensor, side: int, by: Augmentation, rng: torch.Generator) -> torch.Tensor:
    """New pictures of cut grains, as the network sees them.

    Args:
        pixels: uint8, (B, S, S, 3), see `GrainSet`.
        side: Of the pictures, pixels.
        by: How strongly.
        rng: On the device of the pixels; the same state gives the same pictures.

    Returns:
        float32, (B, 1, side, side), standardised.
    """
    n, device = len(pixels), pixels.device
    light = restain(pixels, by, rng)
    weights = torch.log(torch.tensor(LUMA, device=device)) + by.grey * _normal((n, 3), rng, device)
    grey = density((light * weights.softmax(1).view(n, 3, 1, 1)).sum(1, keepdim=True))
    picture = functional.grid_sample(grey, _frames(n, side, by, rng, device), align_corners=False)
    beside = grey[torch.randperm(n, generator=rng, device=device)]
    beside = functional.grid_sample(beside, _frames(n, side, by, rng, device, away=True), align_corners=False)
    picture = picture + beside * _chance(n, by.company, rng, device)
    picture = _focus(picture, by, rng)
    through = torch.exp(-picture) * _lamp(n, side, by, rng, device)
    coarse = functional.interpolate(_normal((n, 1, side // 6, side // 6), rng, device), (side, side), mode="bilinear")
    level = _uniform((n, 2, 1, 1), rng, device) * by.noise
    through = through + level[:, :1] * _normal((n, 1, side, side), rng, device) + level[:, 1:] * coarse
    return standardise(_erase(density(through), by, rng))


def _frames(
    n: int, side: int, by: Augmentation, rng: torch.Generator, device: torch.device, away: bool = False
) -> torch.Tensor:
    """Sampling grids (N, side, side, 2) of turned, scaled, shifted frames; `away` shifts by about a grain."""
    angle = 2 * math.pi * _uniform((n,), rng, device)
    scale = torch.exp(by.scale * _normal((n,), rng, device))
    stretch = torch.exp(by.stretch * _normal((n,), rng, device))
    c, s = torch.cos(angle), torch.sin(angle)
    flip = torch.where(_uniform((n,), rng, device) < 0.5, -1.0, 1.0)
    shift = by.shift * 2 * (2 * _uniform((2, n), rng, device) - 1)
    if away:
        # Canvases are 2 wide here and grains 1.7: at 1.5 to 1.9 from the middle another grain's rim comes in.
        bearing = 2 * math.pi * _uniform((n,), rng, device)
        reach = 1.5 + 0.4 * _uniform((n,), rng, device)
        shift = torch.stack([reach * torch.cos(bearing), reach * torch.sin(bearing)])
    wide, high = scale * stretch, scale / stretch
    rows = [
        torch.stack([c * flip * wide, -s * high, shift[0]], 1),
        torch.stack([s * flip * wide, c * high, shift[1]], 1),
    ]
    return functional.affine_grid(torch.stack(rows, 1), [n, 1, side, side], align_corners=False)


def _focus(x: torch.Tensor, by: Augmentation, rng: torch.Generator) -> torch.Tensor:
    """Blurs or sharpens: a mix of the picture and three Gaussian blurs, drawn for each picture."""
    reach = 6
    at = torch.arange(-reach, reach + 1, device=x.device, dtype=x.dtype)
    kernels = []
    for sigma in (0.7, 1.4, 2.2):
        line = torch.exp(-(at**2) / (2 * sigma**2))
        kernels.append(torch.outer(line, line) / line.sum() ** 2)
    blurred = functional.conv2d(x, torch.stack(kernels)[:, None], padding=reach)
    n = len(x)
    share = (3 * _uniform((n, 3), rng, x.device)).softmax(1).view(n, 3, 1, 1)
    # Below 0 the blur is taken away instead: the picture gets sharper than it was.
    amount = (1.6 * _uniform((n, 1, 1, 1), rng, x.device) - 0.6) * _chance(n, by.focus, rng, x.device)
    return x + amount * ((blurred * share).sum(1, keepdim=True) - x)


def _lamp(n: int, side: int, by: Augmentation, rng: torch.Generator, device: torch.device) -> torch.Tensor:
    at = torch.linspace(-1, 1, side, device=device)
    slope = by.light * _normal((n, 2, 1, 1), rng, device)
    return 1 + slope[:, :1] * at.view(1, 1, 1, -1) + slope[:, 1:] * at.view(1, 1, -1, 1)


def _erase(x: torch.Tensor, by: Augmentation, rng: torch.Generator) -> torch.Tensor:
    n, side = len(x), x.shape[-1]
    at = torch.linspace(0, 1, side, device=x.device)
    middle, half = _uniform((n, 2), rng, x.device), 0.08 + 0.12 * _uniform((n, 2), rng, x.device)
    inside = (at[None, None] - middle[..., None]).abs() < half[..., None]
    gone = (inside[:, 0, :, None] & inside[:, 1, None, :])[:, None] * _chance(n, by.erase, rng, x.device)
    return x * (1 - gone)


def _chance(n: int, share: float, rng: torch.Generator, device: torch.device) -> torch.Tensor:
    return (_uniform((n, 1, 1, 1), rng, device) < share).float()


def _uniform(shape: tuple[int, ...], rng: torch.Generator, device: torch.device) -> torch.Tensor:
    return torch.rand(shape, generator=rng, device=device)


def _normal(shape: tuple[int, ...], rng: torch.Generator, device: torch.device) -> torch.Tensor:
    return torch.randn(shape, generator=rng, device=device)
