"""BiFormer for timm: its pyramid with a classifier, as `biformer_tiny`, `_small`, `_base`, `_stl` and `_nano`.

    timm.create_model("biformer_tiny", features_only=True)  # maps at strides 4, 8, 16 and 32
    timm.create_model("biformer_tiny", num_classes=73, drop_path_rate=0.1, padding="official")

Published weights, once converted (`palyno.vision.backbones.convert`), load as timm's own do:
`timm.create_model("biformer_tiny", pretrained=True, pretrained_cfg_overlay={"file": "biformer_tiny.safetensors"})`.

Source: BiFormer, Zhu et al., CVPR 2023 (arXiv 2303.08810).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from ... import offline
from ...errors import UsageError
from ..blocks.biformer import STRIDES, VARIANTS, BiFormerPyramid, Patches
from ..blocks.routing import RoutingAttention

offline.switch_off()
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD  # noqa: E402
from timm.models import (  # noqa: E402
    build_model_with_cfg,
    generate_default_cfgs,
    register_model,
    register_notrace_module,
)

__all__ = [
    "BiFormer",
    "biformer_base",
    "biformer_nano",
    "biformer_small",
    "biformer_stl",
    "biformer_stl_nchw",
    "biformer_tiny",
]

# torch.fx would otherwise follow the checks of sizes inside, which it cannot.
register_notrace_module(RoutingAttention)
register_notrace_module(Patches)


class BiFormer(BiFormerPyramid):
    """Classifier: BN of the last map, mean over its tokens, one linear layer.

    Args:
        num_classes: Classes; 0 for none, then the means are returned.
        global_pool: `avg`, or empty to return the last map in place of classes.
        in_chans: Channels of the image.
        drop_rate: Share of the means that is dropped before the classifier in training.
        **layers: See `BiFormerPyramid`.

    Attributes:
        feature_info: Channels, stride and module of each map, as timm asks for them.
        num_features: Channels of the last map.

    Raises:
        UsageError: Unknown `global_pool`, or see `BiFormerPyramid`.
    """

    def __init__(
        self,
        num_classes: int = 1000,
        global_pool: str = "avg",
        in_chans: int = 3,
        drop_rate: float = 0.0,
        **layers: Any,
    ):
        super().__init__(in_chans, **layers)
        self.feature_info = [
            {"num_chs": dim, "reduction": stride, "module": f"stages.{i}"}
            for i, (dim, stride) in enumerate(zip(self.dims, STRIDES, strict=True))
        ]
        self.in_chans, self.num_features = in_chans, self.dims[-1]
        self.head_hidden_size = self.num_features
        self.norm = nn.BatchNorm2d(self.num_features)
        self.head_drop = nn.Dropout(drop_rate)
        self.reset_classifier(num_classes, global_pool)

    def forward_features(self, x: torch.Tensor) -> torch.Tensor:
        """(B, in_chans, H, W) -> (B, num_features, ceil(H / 32), ceil(W / 32))."""
        return self.norm(self.stages(self.stem(x)))

    def forward_head(self, x: torch.Tensor, pre_logits: bool = False) -> torch.Tensor:
        """The last map -> (B, num_classes); before the classifier with `pre_logits`."""
        if not self.global_pool:
            return x
        x = self.head_drop(x.mean((2, 3)))
        return x if pre_logits else self.head(x)

    def forward(self, x: torch.Tensor) -> torch.Tensor:  # type: ignore[override]
        """(B, in_chans, H, W), any size -> (B, num_classes)."""
        return self.forward_head(self.forward_features(x))

    def get_classifier(self) -> nn.Module:
        """The last layer."""
        return self.head

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """Gives it a new last layer; arguments as at the top, `global_pool` is kept if None."""
        if global_pool is not None:
            self.global_pool = global_pool
        if self.global_pool not in ("avg", "") or (num_classes and not self.global_pool):
            raise UsageError(f"global_pool: expected avg, or empty where num_classes is 0; got {self.global_pool!r}")
        self.num_classes = num_classes
        self.head: nn.Module = nn.Identity()
        if num_classes:
            self.head = nn.Linear(self.num_features, num_classes)
            nn.init.trunc_normal_(self.head.weight, std=0.02)
            nn.init.zeros_(self.head.bias)


_CFG = {
    "num_classes": 1000,
    "input_size": (3, 224, 224),
    "pool_size": (7, 7),
    "crop_pct": 0.875,
    "interpolation": "bicubic",
    "mean": IMAGENET_DEFAULT_MEAN,
    "std": IMAGENET_DEFAULT_STD,
    "first_conv": "stem.0",
    "classifier": "head",
    "paper_ids": "arXiv:2303.08810",
    "paper_name": "BiFormer: Vision Transformer with Bi-Level Routing Attention",
    "origin_url": "https://github.com/rayleizhu/BiFormer",
    "license": "mit",
}
# timm finds them in the module of the functions below, by this name.
default_cfgs = generate_default_cfgs({f"{name}.untrained": _CFG for name in VARIANTS})


def _create(variant: str, pretrained: bool, **kwargs: Any) -> nn.Module:
    feature_cfg = {"out_indices": (0, 1, 2, 3), "flatten_sequential": True}
    return build_model_with_cfg(BiFormer, variant, pretrained, feature_cfg=feature_cfg, **VARIANTS[variant] | kwargs)


@register_model
def biformer_nano(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """For small detectors, ours: half of tiny in width and depth."""
    return _create("biformer_nano", pretrained, **kwargs)


@register_model
def biformer_tiny(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """As published: 13.1 million parameters, 2.2 G multiply-adds at 224 pixels."""
    return _create("biformer_tiny", pretrained, **kwargs)


@register_model
def biformer_small(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """As published: 25.5 million parameters, 4.5 G multiply-adds at 224 pixels."""
    return _create("biformer_small", pretrained, **kwargs)


@register_model
def biformer_stl(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """As published, laid out as Swin-T: 28.4 million parameters, 4.6 G multiply-adds at 224 pixels."""
    return _create("biformer_stl", pretrained, **kwargs)


@register_model
def biformer_stl_nchw(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """As `biformer_stl`, in the authors' later code."""
    return _create("biformer_stl_nchw", pretrained, **kwargs)


@register_model
def biformer_base(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """As published: 56.8 million parameters, 9.8 G multiply-adds at 224 pixels."""
    return _create("biformer_base", pretrained, **kwargs)
