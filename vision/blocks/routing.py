"""BiFormer's block: convolutional position, bi-level routing attention (BRA), perceptron; each added to the map.

    x = x + DWConv3(x);   x = x + g1 A(LN(x));   x = x + g2 W2 GELU(W1 LN(x))

A is `RoutingAttention`, or `FullAttention` where the map is small; g is 1, or a learned number a channel. Tokens are
(B, H, W, C), maps (B, C, H, W), which is a view of tokens.

Source: BiFormer, Zhu et al., CVPR 2023 (arXiv 2303.08810); details that the paper leaves open as in the authors' code,
github.com/rayleizhu/BiFormer.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from ...errors import UsageError
from ...kernels import bilevel_routing_attention

PADDINGS = ("mask", "official")


class RoutingAttention(nn.Module):
    """Attention of every token over the tokens of the few regions that its region chose, plus a 5x5 convolution.

    A(x) = W_o (softmax(C^-1/2 q k_r^T) v_r + DWConv5(v)) with [q ; k ; v] = W x, where r are the topk regions whose
    mean key agrees best with the mean query of the token's own region (equations 3 to 8). The factor is of all C
    channels and not of one head's, as in the published networks. The choice has no gradient and no parameters.

    Args:
        channels: C.
        heads: Heads, a divisor of C; all read the same regions.
        topk: Regions that a region reads; all, where there are fewer.
        regions: Regions a side, whatever the size of the map; as many as there are tokens where those are fewer.
        padding: What there is beyond the map where regions reach over it. `mask`: nothing. `official`: tokens of zeros,
            up to a multiple of `regions`, which like all others have a query, key and value (the biases), take a share
            of means and softmax, and are seen by the convolution, as in the authors' code.

    Raises:
        UsageError: Unknown `padding`, heads that do not divide the channels, or topk or regions below 1.
    """

    def __init__(self, channels: int, heads: int, topk: int, regions: int = 7, *, padding: str = "mask"):
        super().__init__()
        if padding not in PADDINGS:
            raise UsageError(f"padding: expected one of {', '.join(PADDINGS)}; got {padding!r}")
        if min(topk, regions) < 1:
            raise UsageError(f"topk, regions: expected whole numbers from 1, got {topk} and {regions}")
        self.heads, self.topk, self.regions, self.padding = _heads(channels, heads), topk, regions, padding
        self.qkv = nn.Linear(channels, 3 * channels)
        self.lepe = nn.Conv2d(channels, channels, 5, padding=2, groups=channels)
        self.proj = nn.Linear(channels, channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, H, W, C) -> (B, H, W, C)."""
        height, width, channels = (int(n) for n in x.shape[1:])
        if self.padding == "official":
            x = F.pad(x, (0, 0, 0, -width % self.regions, 0, -height % self.regions))
        grid = (min(self.regions, int(x.shape[1])), min(self.regions, int(x.shape[2])))
        q, k, v = self.qkv(x).permute(0, 3, 1, 2).chunk(3, 1)
        y = bilevel_routing_attention(q, k, v, grid, self.topk, heads=self.heads, scale=channels**-0.5)
        return self.proj((y + self.lepe(v)).permute(0, 2, 3, 1)[:, :height, :width])


class FullAttention(nn.Module):
    """Attention of every token over all tokens, plus a 5x5 convolution: the last stage of the published networks.

    A(x) = W_o (softmax(d^-1/2 q k^T) v + DWConv5(x)) with [q ; k ; v] = W x, without bias, and d channels a head.
    Unlike in `RoutingAttention` the convolution sees the input and the factor is of one head, as in the published
    networks.

    Args:
        channels: C.
        heads: Heads, a divisor of C.
        lepe_of: What the convolution sees: `input`, or `values` as in the authors' later code.

    Raises:
        UsageError: Heads that do not divide the channels.
    """

    def __init__(self, channels: int, heads: int = 8, lepe_of: str = "input"):
        super().__init__()
        self.heads, self.lepe_of = _heads(channels, heads), lepe_of
        self.qkv = nn.Linear(channels, 3 * channels, bias=False)
        self.lepe = nn.Conv2d(channels, channels, 5, padding=2, groups=channels)
        self.proj = nn.Linear(channels, channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, H, W, C) -> (B, H, W, C)."""
        q, k, v = self.qkv(x).flatten(1, 2).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        y = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(x.shape)
        if self.lepe_of == "values":
            x = v.transpose(1, 2).reshape(x.shape)
        return self.proj(y + self.lepe(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1))


class DropPath(nn.Module):
    """In training leaves a branch out for an image with this probability, and makes up for it in the others.

    Source: Huang et al., Deep Networks with Stochastic Depth, arXiv 1603.09382.

    Args:
        p: The probability, below 1.
    """

    def __init__(self, p: float):
        super().__init__()
        self.p = p

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, ...) -> (B, ...)."""
        if not self.training or self.p == 0:
            return x
        kept = x.new_empty((x.shape[0],) + (1,) * (x.ndim - 1)).bernoulli_(1 - self.p)
        return x * kept / (1 - self.p)


class BiFormerBlock(nn.Module):
    """One block of BiFormer, see the top of the file.

    Args:
        channels: Channels of the map, kept.
        heads: Heads of the attention.
        topk: Regions that a region reads; None for attention over all tokens (-2 in the authors' tables).
        regions: Regions a side.
        mlp_ratio: Width of the perceptron, in channels of the map.
        padding: See `RoutingAttention`.
        layer_scale: What g starts at; None for g = 1, as published.
        drop_path: Probability that an image skips a branch, in training.
        position: Whether there is the first of the three steps.
        lepe_of: See `FullAttention`.

    Raises:
        UsageError: See `RoutingAttention`.
    """

    gamma1: torch.Tensor | None
    gamma2: torch.Tensor | None

    def __init__(
        self,
        channels: int,
        *,
        heads: int,
        topk: int | None,
        regions: int = 7,
        mlp_ratio: float = 3.0,
        padding: str = "mask",
        layer_scale: float | None = None,
        drop_path: float = 0.0,
        position: bool = True,
        lepe_of: str = "input",
    ):
        super().__init__()
        self.position = nn.Conv2d(channels, channels, 3, padding=1, groups=channels) if position else None
        # A larger epsilon than PyTorch's, or attention was seen to collapse (the authors' remark).
        self.norm1, self.norm2 = nn.LayerNorm(channels, eps=1e-6), nn.LayerNorm(channels, eps=1e-6)
        self.attn: nn.Module
        if topk is None:
            self.attn = FullAttention(channels, heads, lepe_of)
        else:
            self.attn = RoutingAttention(channels, heads, topk, regions, padding=padding)
        wide = int(mlp_ratio * channels)
        self.mlp = nn.Sequential(nn.Linear(channels, wide), nn.GELU(), nn.Linear(wide, channels))
        for name in ("gamma1", "gamma2"):
            gamma = None if layer_scale is None else nn.Parameter(torch.full((channels,), float(layer_scale)))
            self.register_parameter(name, gamma)
        self.drop_path = DropPath(drop_path)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, C, H, W) -> (B, C, H, W), any size."""
        x = (x if self.position is None else x + self.position(x)).permute(0, 2, 3, 1)
        x = x + self.drop_path(_scaled(self.attn(self.norm1(x)), self.gamma1))
        x = x + self.drop_path(_scaled(self.mlp(self.norm2(x)), self.gamma2))
        return x.permute(0, 3, 1, 2)


def _heads(channels: int, heads: int) -> int:
    if heads < 1 or channels % heads:
        raise UsageError(f"heads: expected a divisor of the {channels} channels, got {heads}")
    return heads


def _scaled(x: torch.Tensor, gamma: torch.Tensor | None) -> torch.Tensor:
    return x if gamma is None else x * gamma
