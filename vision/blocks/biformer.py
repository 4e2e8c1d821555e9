"""BiFormer's pyramid: four stages of blocks at strides 4, 8, 16 and 32, and the networks of the family.

Plain PyTorch, so that a detector on it loads without timm; `palyno.vision.backbones` registers the family there.

Source: BiFormer, Zhu et al., CVPR 2023 (arXiv 2303.08810).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from ...errors import UsageError
from .routing import BiFormerBlock

# Published: 13.1, 25.5, 56.8 and, laid out as Swin-T, 28.4 million parameters with the classifier of 1000 classes.
_PUBLISHED: dict[str, Any] = {"regions": (7, 7, 7, 7), "topks": (1, 4, 16, None)}
_SWIN: dict[str, Any] = {"dims": (96, 192, 384, 768), "depths": (2, 2, 6, 2), "mlp_ratio": 4.0, "patches": True}
VARIANTS: dict[str, dict[str, Any]] = {
    "biformer_tiny": {"dims": (64, 128, 256, 512), "depths": (2, 2, 8, 2), **_PUBLISHED},
    "biformer_small": {"dims": (64, 128, 256, 512), "depths": (4, 4, 18, 4), **_PUBLISHED},
    "biformer_base": {"dims": (96, 192, 384, 768), "depths": (4, 4, 18, 4), **_PUBLISHED},
    # The authors wrote it twice; they differ in what the last stage's convolution sees.
    "biformer_stl": {**_SWIN, **_PUBLISHED},
    "biformer_stl_nchw": {**_SWIN, **_PUBLISHED, "lepe_of": "values"},
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
        patches: Halves by convolutions of patches that do not overlap, and without convolutional position, as Swin.
        lepe_of: See `FullAttention`.
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
        patches: bool = False,
        lepe_of: str = "input",
    ):
        super().__init__()
        for name, given in (("dims", dims), ("depths", depths), ("topks", topks), ("regions", regions)):
            if len(given) != len(STRIDES):
                raise UsageError(f"{name}: expected four values, one a stage; got {given}")
        rates = [drop_path_rate * i / max(1, sum(depths) - 1) for i in range(sum(depths))]
        half = dims[0] // 2
        stem: tuple[nn.Module, ...] = (Patches(in_chans, dims[0], 4), nn.BatchNorm2d(dims[0]))
        if not patches:
            stem = (*_halving(in_chans, half), nn.GELU(), *_halving(half, dims[0]))
        self.stem = nn.Sequential(*stem)
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
                    position=not patches,
                    lepe_of=lepe_of,
                )
                blocks.append(block)
            stage = nn.Sequential()
            if i:
                down = (nn.BatchNorm2d(dims[i - 1]), Patches(dims[i - 1], dim, 2))
                stage.add_module("down", nn.Sequential(*(down if patches else _halving(dims[i - 1], dim))))
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


class Patches(nn.Conv2d):
    """A convolution of patches side by side; zeros fill up the last ones.

    Args:
        c_in: Channels of the map.
        c_out: Channels of the answer.
        side: Of a patch.
    """

    def __init__(self, c_in: int, c_out: int, side: int):
        super().__init__(c_in, c_out, side, stride=side)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, c_in, H, W) -> (B, c_out, ceil(H / side), ceil(W / side))."""
        side = self.kernel_size[0]
        return super().forward(F.pad(x, (0, -x.shape[3] % side, 0, -x.shape[2] % side)))


def _halving(c_in: int, c_out: int) -> tuple[nn.Module, nn.Module]:
    return nn.Conv2d(c_in, c_out, 3, stride=2, padding=1), nn.BatchNorm2d(c_out)


def _initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
