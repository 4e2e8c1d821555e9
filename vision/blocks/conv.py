"""Convolution, batch normalisation, SiLU: the unit that every other block is made of."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_weights


class ConvNormAct(nn.Module):
    """SiLU(BN(Conv(x))), 'same' padding, no bias in the convolution.

    Args:
        c_in: Channels of the input.
        c_out: Channels of the output.
        kernel: Side of the kernel, odd.
        stride: Step of the output grid.
        groups: Groups of the convolution.
    """

    def __init__(self, c_in: int, c_out: int, kernel: int = 1, stride: int = 1, groups: int = 1):
        super().__init__()
        self.conv = nn.Conv2d(c_in, c_out, kernel, stride, kernel // 2, groups=groups, bias=False)
        self.norm: nn.Module = nn.BatchNorm2d(c_out, eps=1e-3, momentum=0.03)
        self.act = nn.SiLU(inplace=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, c_in, H, W) -> (B, c_out, ceil(H / stride), ceil(W / stride))."""
        return self.act(self.norm(self.conv(x)))

    @torch.no_grad()
    def fuse(self) -> None:
        """Folds the normalisation's running statistics into the convolution: same values in eval mode."""
        if isinstance(self.norm, nn.Identity):
            return
        norm: Any = self.norm
        self.conv.weight, self.conv.bias = fuse_conv_bn_weights(
            self.conv.weight, None, norm.running_mean, norm.running_var, norm.eps, norm.weight, norm.bias
        )
        self.norm = nn.Identity()
