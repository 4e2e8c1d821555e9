"""Omni-kernel module and its cross-stage-partial form (CSPOKM): large context on a quarter of the channels.

Sources: Cui et al., Omni-Kernel Network for Image Restoration, AAAI 2024; HieraEdgeNet, arXiv 2506.07637. Two
exact identities make it cheaper than the published form without changing its function (the tests hold both to the
published form): the four depthwise branches read one map and are summed, so they are one convolution; and the
spectrum multiplied by a real number a channel is the map multiplied by it, so that step needs no transform.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from ...errors import UsageError
from ...kernels import depthwise_conv2d, omni
from ...kernels.omni_kernel import Gate
from .conv import ConvNormAct

GATES = ("published", "channel", "none")


class KernelSum(nn.Module):
    """1xK + Kx1 + KxK + 1x1 depthwise convolutions, applied as the one KxK convolution that they sum to.

    The branches keep their own parameters, which changes how they are trained but not what they can express.

    Args:
        channels: Channels of the map.
        kernel: K, odd.
    """

    weight: torch.Tensor
    bias: torch.Tensor

    def __init__(self, channels: int, kernel: int):
        super().__init__()
        self.kernel = kernel
        sides = ((1, kernel), (kernel, 1), (kernel, kernel), (1, 1))
        self.branches: Any = nn.ModuleList(nn.Conv2d(channels, channels, side, groups=channels) for side in sides)

    def merged(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Weight (C, 1, K, K) and bias (C,) of the sum; differentiable."""
        if self.branches is None:
            return self.weight, self.bias
        weights = []
        for branch in self.branches:
            rows, columns = ((self.kernel - side) // 2 for side in branch.weight.shape[-2:])
            weights.append(F.pad(branch.weight, (columns, columns, rows, rows)))
        return torch.stack(weights).sum(0), torch.stack([branch.bias for branch in self.branches]).sum(0)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, C, H, W) -> (B, C, H, W)."""
        return depthwise_conv2d(x, *self.merged())

    @torch.no_grad()
    def merge(self) -> None:
        """Replaces the branches by their sum, for inference."""
        if self.branches is None:
            return
        weight, bias = self.merged()
        self.weight = nn.Parameter(weight, requires_grad=False)
        self.bias = nn.Parameter(bias, requires_grad=False)
        self.branches = None


class ChannelGate(nn.Module):
    """Channel attention of the spectrum (FCA), then of the map (SCA): g = beta s.

    f = |a1 u| with a1 = W_f mean(u); s = a2 f with a2 = W_c mean(f). All frequencies of a channel have one factor, so
    it moves with the picture: what is left of `GlobalGate` without the part that does not. It starts with beta 1.

    Args:
        channels: Channels of the map.

    Attributes:
        still: Whether no transform is needed.
    """

    def __init__(self, channels: int):
        super().__init__()
        self.spectral = nn.Conv2d(channels, channels, 1)
        self.spatial = nn.Conv2d(channels, channels, 1)
        self.beta = nn.Parameter(torch.ones(channels, 1, 1))
        self.still = True

    def attended(self, u: torch.Tensor) -> torch.Tensor:
        """The map s of u, (B, C, H, W) -> (B, C, H, W)."""
        f = (self.spectral(u.mean((2, 3), keepdim=True)) * u).abs()
        return self.spatial(f.mean((2, 3), keepdim=True)) * f

    def forward(self, u: torch.Tensor) -> torch.Tensor:
        """(B, C, H, W) -> (B, C, H, W)."""
        return self.beta * self.attended(u)

    def parameters_of_inference(self) -> Gate:
        """What `palyno.kernels.omni` takes."""
        return Gate(_affine(self.spectral), _affine(self.spatial), self.beta)

    def merge(self) -> None:
        """Nothing is left to note for inference."""


class GlobalGate(ChannelGate):
    """The dual-domain gate: channel attention of the spectrum (FCA), of the map (SCA), then a spectral gate (FGM).

    g = alpha |F^-1(p . F(q))| + beta s with p = W_1 s, q = W_2 s. The map p multiplies a spectrum, so its position acts
    as a frequency: the gate does not move with the picture, and depends on the picture's size. It starts as g = s
    (alpha 0, beta 1).

    Args:
        channels: Channels of the map.
    """

    def __init__(self, channels: int):
        super().__init__(channels)
        self.p = nn.Conv2d(channels, channels, 1)
        self.q = nn.Conv2d(channels, channels, 1)
        self.alpha = nn.Parameter(torch.zeros(channels, 1, 1))
        self.still = False

    def forward(self, u: torch.Tensor) -> torch.Tensor:
        """(B, C, H, W) -> (B, C, H, W)."""
        s = self.attended(u)
        gate = super().parameters_of_inference()._replace(p=_affine(self.p), q=_affine(self.q))
        return self.alpha * gate.spectrum(s) + self.beta * s

    def parameters_of_inference(self) -> Gate:
        """What `palyno.kernels.omni` takes."""
        gate = super().parameters_of_inference()
        return gate if self.still else gate._replace(p=_affine(self.p), q=_affine(self.q), alpha=self.alpha)

    def merge(self) -> None:
        """Notes whether alpha is zero, for inference: then no transform is made."""
        self.still = not bool(self.alpha.any())


def _affine(layer: nn.Module) -> tuple[torch.Tensor, torch.Tensor]:
    return layer.weight, layer.bias  # type: ignore[return-value]


class OmniKernel(nn.Module):
    """W_out ReLU(x + D(u) + g(u)) with u = GELU(W_in x), D the sum of depthwise kernels, g the gate.

    Args:
        channels: Channels of the map.
        kernel: Side of the largest kernel, odd.
        gate: `published` (`GlobalGate`); `channel` (`ChannelGate`), which moves with the picture and is free of
            transforms; or `none` to leave g out, so that the block is local, too.

    Raises:
        UsageError: Unknown `gate` or an even kernel.
    """

    def __init__(self, channels: int, kernel: int = 31, gate: str = "published"):
        super().__init__()
        if gate not in GATES:
            raise UsageError(f"gate: expected one of {', '.join(GATES)}; got {gate!r}")
        if kernel < 1 or kernel % 2 == 0:
            raise UsageError(f"kernel: expected an odd number, got {kernel}")
        self.enter = nn.Sequential(nn.Conv2d(channels, channels, 1), nn.GELU())
        self.large = KernelSum(channels, kernel)
        self.gate: ChannelGate | None = None
        if gate != "none":
            self.gate = GlobalGate(channels) if gate == "published" else ChannelGate(channels)
        self.leave = nn.Conv2d(channels, channels, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, C, H, W) -> (B, C, H, W)."""
        if not self.training:
            gate = None if self.gate is None else self.gate.parameters_of_inference()
            return omni(x, _affine(self.enter[0]), self.large.merged(), _affine(self.leave), gate)
        u = self.enter(x)
        y = x + self.large(u)
        if self.gate is not None:
            y = y + self.gate(u)
        return self.leave(F.relu(y))


class CSPOKM(nn.Module):
    """Cross-stage-partial omni-kernel module: W_2 [OmniKernel(y_1) ; y_2] with [y_1 ; y_2] = W_1 x.

    Args:
        c_in: Channels of the input.
        ratio: Share of the output's channels that pass the omni-kernel.
        kernel: Side of the largest kernel, odd.
        gate: See `OmniKernel`.
        c_out: Channels of the output, and of y; as published those of the input. On joined maps fewer are far cheaper.

    Raises:
        UsageError: `ratio` that leaves no channel for the omni-kernel.
    """

    def __init__(
        self, c_in: int, ratio: float = 0.25, kernel: int = 31, gate: str = "published", c_out: int | None = None
    ):
        super().__init__()
        channels = c_in if c_out is None else c_out
        wide = int(ratio * channels)
        if not 1 <= wide <= channels:
            raise UsageError(
                f"ratio: expected a share of {channels} channels, at least one and at most all; got {ratio}"
            )
        self.split = (wide, channels - wide)
        self.before = ConvNormAct(c_in, channels)
        self.omni = OmniKernel(wide, kernel, gate)
        self.after = ConvNormAct(channels, channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, c_in, H, W) -> (B, c_out, H, W)."""
        wide, rest = self.before(x).split(self.split, 1)
        return self.after(torch.cat((self.omni(wide), rest), 1))
