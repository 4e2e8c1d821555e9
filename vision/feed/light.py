"""What changes from slide to slide and camera to camera: stain, lamp, white balance, contrast, focus, noise.

Stain is changed in optical density, where dyes add (Ruifrok and Johnston 2001): a picture's density, the logarithm of
the light that came through, is multiplied by a matrix near the identity and scaled.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import torch
import torch.nn.functional as F

__all__ = ["HSV", "Light", "vary"]

# What ultralytics does to hue, saturation and value where it augments.
HSV = {"hsv_h": 0.02, "hsv_s": 0.5, "hsv_v": 0.25}
_GREY = (0.299, 0.587, 0.114)
# No light at all would be an infinite density.
_DARKEST = 2 / 255
_BLUR_REACH = 9


@dataclass(frozen=True)
class Light:
    """How much light varies; each change falls on a share of the images.

    Attributes:
        stain: Standard deviation of a density matrix's entries about the identity, for half of the images.
        density: Standard deviation of the logarithm of the density's factor, for the same.
        balance: The same of a channel's gain, for three in ten.
        brightness, contrast: Largest change, for three in ten.
        grey: Share of the images that lose their colour.
        blur: Largest standard deviation in pixels, for one in ten.
        noise: Largest standard deviation, of a range of 1, for one in ten.
    """

    stain: float = 0.08
    density: float = 0.2
    balance: float = 0.06
    brightness: float = 0.15
    contrast: float = 0.25
    grey: float = 0.05
    blur: float = 1.5
    noise: float = 0.04

    def times(self, factor: float) -> Light:
        """All of it so many times as strong, and as often without colour."""
        return Light(**{each.name: getattr(self, each.name) * factor for each in fields(self)})


def vary(images: torch.Tensor, light: Light, generator: torch.Generator) -> torch.Tensor:
    """Changes each image of a batch in its own way.

    Args:
        images: (B, 3, H, W), [0, 1].
        light: How much.
        generator: Decides everything random but the grain of the noise, on the CPU.

    Returns:
        The same shape and range.
    """
    n, device = len(images), images.device

    def chosen(share: float) -> torch.Tensor:
        return (torch.rand(n, generator=generator) < share).float()

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(n, *shape, generator=generator)

    def uniform() -> torch.Tensor:
        return torch.rand(n, generator=generator)

    stained = chosen(0.5)
    matrix = torch.eye(3) * (stained * light.density * normal()).exp()[:, None, None]
    matrix = matrix + (stained * light.stain)[:, None, None] * normal(3, 3)
    gain = ((chosen(0.3) * light.balance)[:, None] * normal(3)).exp()
    shift = chosen(0.3) * light.brightness * (2 * uniform() - 1)
    slope = 1 + chosen(0.3) * light.contrast * (2 * uniform() - 1)
    grey = chosen(light.grey)
    weights = torch.tensor(_GREY).expand(3, 3)
    mix = torch.where(grey[:, None, None] > 0, weights, torch.eye(3))
    matrix, gain, shift, slope, mix = (t.to(device) for t in (matrix, gain, shift, slope, mix))

    through = -images.clamp(min=_DARKEST).log()
    images = torch.einsum("nij,njhw->nihw", matrix, through).neg_().exp_()
    images = torch.einsum("nij,njhw->nihw", mix * gain[:, None], images)
    images = (images - 0.5) * slope[:, None, None, None] + (0.5 + shift)[:, None, None, None]
    blurred = chosen(0.1 if light.blur else 0).nonzero()[:, 0]
    if len(blurred):
        images[blurred.to(device)] = _blur(images[blurred.to(device)], 0.3 + (light.blur - 0.3) * uniform()[blurred])
    strength = (chosen(0.1) * light.noise * uniform()).to(device)
    if light.noise:
        images = images + strength[:, None, None, None] * torch.randn_like(images)
    return images.clamp(0, 1)


def _blur(images: torch.Tensor, sigmas: torch.Tensor) -> torch.Tensor:
    """Gaussian blur, an image its own width."""
    n, channels = images.shape[:2]
    offsets = torch.arange(-_BLUR_REACH, _BLUR_REACH + 1).float()
    kernels = (-(offsets**2) / (2 * sigmas[:, None] ** 2)).exp()
    kernels = (kernels / kernels.sum(1, keepdim=True)).repeat_interleave(channels, 0).to(images)[:, None]
    flat = images.reshape(1, n * channels, *images.shape[2:])
    flat = F.pad(flat, (_BLUR_REACH,) * 4, mode="reflect")
    flat = F.conv2d(flat, kernels[:, :, None], groups=n * channels)
    return F.conv2d(flat, kernels[..., None], groups=n * channels).reshape_as(images)
