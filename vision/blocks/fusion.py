"""Synergistic Edge Fusion (SEF), and plain concatenation.

Source: HieraEdgeNet, arXiv 2506.07637.
"""

from __future__ import annotations

import torch
from torch import nn

from .conv import ConvNormAct


class SEF(nn.Module):
    """Fuses an edge map with the semantic map of its scale.

    W_2 Conv3x3(W_1 [edge ; semantic]), each with normalisation and SiLU; W_1 gives half of the output's
    channels.

    Args:
        c_edge: Channels of the edge map.
        c_semantic: Channels of the semantic map.
        c_out: Channels of the output.
    """

    def __init__(self, c_edge: int, c_semantic: int, c_out: int):
        super().__init__()
        hidden = c_out // 2
        self.reduce = ConvNormAct(c_edge + c_semantic, hidden)
        self.mix = ConvNormAct(hidden, hidden, 3)
        self.expand = ConvNormAct(hidden, c_out)

    def forward(self, edge: torch.Tensor, semantic: torch.Tensor) -> torch.Tensor:
        """(B, c_edge, H, W), (B, c_semantic, H, W) -> (B, c_out, H, W)."""
        return self.expand(self.mix(self.reduce(torch.cat((edge, semantic), 1))))


class Concat(nn.Module):
    """Maps of one size, one after the other along the channels."""

    def forward(self, *maps: torch.Tensor) -> torch.Tensor:
        """(B, C_i, H, W) each -> (B, sum C_i, H, W)."""
        return torch.cat(maps, 1)
