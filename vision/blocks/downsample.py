"""SPDConv: halves the resolution without dropping a pixel.

Source: Sunkara and Luo, No More Strided Convolutions or Pooling, arXiv 2208.03641; used by
HieraEdgeNet, arXiv 2506.07637.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from .conv import ConvNormAct


class SPDConv(nn.Module):
    """Space to depth, then a convolution: the four pixels of each 2x2 square become four sets of channels.

    Args:
        c_in: Channels of the input.
        c_out: Channels of the output.
        kernel: Side of the convolution, odd; published is 3. With 1 it is a 2x2 convolution of step 2.
    """

    def __init__(self, c_in: int, c_out: int, kernel: int = 3):
        super().__init__()
        self.conv = ConvNormAct(4 * c_in, c_out, kernel)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, c_in, H, W) -> (B, c_out, ceil(H / 2), ceil(W / 2)); an odd last row or column is repeated."""
        height, width = x.shape[-2:]
        if height % 2 or width % 2:
            x = F.pad(x, (0, width % 2, 0, height % 2), mode="replicate")
        squares = [x[..., row::2, column::2] for column in (0, 1) for row in (0, 1)]
        return self.conv(torch.cat(squares, 1))
