"""BiFormer's pyramid: four stages of blocks at strides 4, 8, 16 and 32, and the networks of the family.

Plain PyTorch, so that a detector on it loads without timm; `palyno.vision.backbones` registers the family there.

Source: BiFormer, Zhu et al., CVPR 2023 (arXiv 2303.08810).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from ...errors import UsageError
from .routing import BiFormerBlock

# Published: 13.1, 25.5 and 56.8 million parameters with the classifier of 1000 classes.
_PUBLISHED: dict[str, Any] = {"regions": (7, 7, 7, 7), "topks": (1, 4, 16, None)}
VARIANTS: dict[str, dict[str, Any]] = {
    "biformer_tiny": {"dims": (64, 128, 256, 512), "depths": (2, 2, 8, 2), **_PUBLISHED},
    "biformer_small": {"dims": (64, 128, 256, 512), "depths": (4, 4, 18, 4), **_PUBLISHED},
    "biformer_base": {"dims": (96, 192, 384, 768), "depths": (4, 4, 18, 4), **_PUBLISHED},
    # Ours, for small detectors: half of tiny in width and depth. At 640 px the regions of the first three stages are of
    # 8 x 8 tokens, which suits the kernels, and tile the maps; a token reads 64, 128, 256 and in the last stage all of
    # 400 tokens.
    "biformer_nano": {
        "dims": (32, 64, 128, 256),
        "depths": (1, 1, 4, 1),
        "regions": (20, 10, 5, 1),
        "topks": (1, 2, 4, None),
    },
}

STRIDES = (4, 8, 16, 32)


class BiFormerPyramid(nn.Module):
    """Image to four maps. Each stage halves the resolution (the first quarters it) by strided 3x3 convolutions.

    Args:
        in_chans: Channels of the image.
        dims: Channels of the stages.
        depths: Blocks of the stages.
        topks: Regions that a region reads, by stage; None for attention over all tokens, with eight heads.
        regions: Regions a side, by stage.
        head_dim: Channels a head where attention is routed.
        mlp_ratio: Width of the perceptrons, in channels.
        padding: See `RoutingAttention`.
        layer_scale: See `BiFormerBlock`.
        drop_path_rate: Probability of leaving out a branch of the last block; from block to block it grows from 0.

    Raises:
        UsageError: Not four stages, or see `RoutingAttention`.
    """

    def __init__(
        self,
        in_chans: int = 3,
        dims: Sequence[int] = (64, 128, 256, 512),
        depths: Sequence[int] = (2, 2, 8, 2),
        topks: Sequence[int | None] = (1, 4, 16, None),
        regions: Sequence[int] = (7, 7, 7, 7),
        head_dim: int = 32,
        mlp_ratio: float = 3.0,
        padding: str = "mask",
        layer_scale: float | None = None,
        drop_path_rate: float = 0.0,
    ):
        super().__init__()
        for name, given in (("dims", dims), ("depths", depths), ("topks", topks), ("regions", regions)):
            if len(given) != len(STRIDES):
                raise UsageError(f"{name}: expected four values, one a stage; got {given}")
        rates = [drop_path_rate * i / max(1, sum(depths) - 1) for i in range(sum(depths))]
        half = dims[0] // 2
        self.stem = nn.Sequential(*_halving(in_chans, half), nn.GELU(), *_halving(half, dims[0]))
        self.stages = nn.Sequential()
        for i, (dim, depth, topk, side) in enumerate(zip(dims, depths, topks, regions, strict=True)):
            blocks = nn.Sequential()
            for _ in range(depth):
                heads = 8 if topk is None else dim // head_dim
                block = BiFormerBlock(
                    dim,
                    heads=heads,
                    topk=topk,
                    regions=side,
                    mlp_ratio=mlp_ratio,
                    padding=padding,
                    layer_scale=layer_scale,
                    drop_path=rates.pop(0),
                )
                blocks.append(block)
            stage = nn.Sequential()
            if i:
                stage.add_module("down", nn.Sequential(*_halving(dims[i - 1], dim)))
            stage.add_module("blocks", blocks)
            self.stages.append(stage)
        self.dims = tuple(dims)
        self.apply(_initialise)

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        """(B, in_chans, H, W), any size -> (B, dims[i], ceil(H / s), ceil(W / s)) for s in 4, 8, 16, 32."""
        x, maps = self.stem(x), []
        for stage in self.stages:
            x = stage(x)
            maps.append(x)
        return maps


def _halving(c_in: int, c_out: int) -> tuple[nn.Module, nn.Module]:
    return nn.Conv2d(c_in, c_out, 3, stride=2, padding=1), nn.BatchNorm2d(c_out)


def _initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
