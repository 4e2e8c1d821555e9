"""A backbone's maps at the strides that a detector works at: BiFormer's own, or those of any pyramid in timm."""

from __future__ import annotations

from collections.abc import Sequence
from difflib import get_close_matches
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

from ... import offline
from ...errors import UsageError
from ..blocks.biformer import STRIDES, VARIANTS, BiFormerPyramid, Patches

__all__ = ["PIXELS", "Pyramid", "pixels_of", "pyramid"]

TIMM = "timm:"

# What is taken from red, green and blue, each 0 to 1, and what that is divided by, before pretrained networks see them.
PIXELS = {
    "plain": ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0)),
    "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "inception": ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
    "clip": ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)),
    "dpn": ((124 / 255, 117 / 255, 104 / 255), (1 / (0.0167 * 255),) * 3),
}


class Pyramid(nn.Module):
    """Some of a backbone's maps, each normalised over its channels, as BiFormer's authors do for dense tasks.

    Args:
        net: Image to list of maps.
        picks: Which of the maps.
        channels: Of the maps picked.
        last: Whether the net's maps have their channels last.

    Attributes:
        pixels: How the net is given pixels, one of `PIXELS`.
        multiple: What the sides of the net's image have to be multiples of: it is padded with zeros to the right and
            below, and what lies there is cut off the maps.
        strides: Of the maps picked.
    """

    pixels = "plain"
    multiple = 1
    strides: tuple[int, ...] = ()

    def __init__(self, net: nn.Module, picks: Sequence[int], channels: Sequence[int], last: bool = False):
        super().__init__()
        self.net, self.picks, self.last = net, tuple(picks), last
        self.norms = nn.ModuleList(nn.LayerNorm(c, eps=1e-6) for c in channels)

    def forward(self, image: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """(B, channels, H, W) -> (B, C_i, ceil(H / s_i), ceil(W / s_i)), finest first."""
        if self.pixels != "plain":
            # Numbers and no buffers: a checkpoint would keep those in half precision.
            scaled = [
                (image[:, i] - mean) / scale for i, (mean, scale) in enumerate(zip(*PIXELS[self.pixels], strict=True))
            ]
            image = torch.stack(scaled, 1)
        height, width = image.shape[-2:]
        if self.multiple > 1:
            image = F.pad(image, (0, -width % self.multiple, 0, -height % self.multiple))
        maps = self.net(image)
        tokens = [maps[i] if self.last else maps[i].permute(0, 2, 3, 1) for i in self.picks]
        if self.multiple > 1:
            tokens = [x[:, : -(-height // s), : -(-width // s)] for x, s in zip(tokens, self.strides, strict=True)]
        return tuple(norm(x).permute(0, 3, 1, 2) for norm, x in zip(self.norms, tokens, strict=True))

    @torch.no_grad()
    def fuse(self) -> None:
        """Folds batch normalisation into the convolution before it where the two stand in a row: all of BiFormer's."""
        for row in [module for module in self.net.modules() if type(module) is nn.Sequential]:
            for i, (conv, norm) in enumerate(pairwise(list(row))):
                # Not of other classes, which do more with their weights.
                if not isinstance(conv, nn.Conv2d) or type(conv) not in (nn.Conv2d, Patches):
                    continue
                if type(norm) is nn.BatchNorm2d and norm.track_running_stats:
                    mean, variance = norm.get_buffer("running_mean"), norm.get_buffer("running_var")
                    conv.weight, conv.bias = fuse_conv_bn_weights(
                        conv.weight, conv.bias, mean, variance, norm.eps, norm.weight, norm.bias
                    )
                    row[i + 1] = nn.Identity()


def pixels_of(name: str) -> str:
    """How a backbone's published weights are given pixels, one of `PIXELS`; of timm's by its first published ones.

    Raises:
        UsageError: In a way that is not among them.
    """
    if not name.startswith(TIMM):
        return "imagenet"
    offline.switch_off()
    from timm.models import get_pretrained_cfg

    from .. import backbones  # noqa: F401

    about = get_pretrained_cfg(name.removeprefix(TIMM))
    told = (tuple(about.mean), tuple(about.std)) if about else None
    for pixels, numbers in PIXELS.items():
        if numbers == told:
            return pixels
    raise UsageError(
        f"backbone: {name} is given pixels in a way of its own ({told}); say `pixels` in the backbone's row, one of "
        f"{', '.join(PIXELS)}"
    )


def pyramid(
    name: str | None, strides: Sequence[int], channels: int = 3, pixels: str = "plain"
) -> tuple[Pyramid, list[int]]:
    """A backbone with fresh weights.

    Args:
        name: `biformer_nano`, `_tiny`, `_small` or `_base`; or `timm:NAME` with a name that `timm.list_models()` has.
        strides: Of the maps to return, finest first.
        channels: Of the image.
        pixels: One of `PIXELS`.

    Returns:
        The backbone and the channels of its maps.

    Raises:
        UsageError: An unknown name, or a network that is not a pyramid for images of any size.
    """
    if pixels not in PIXELS:
        raise UsageError(f"pixels: expected one of {', '.join(PIXELS)}; got {pixels!r}")
    if pixels != "plain" and channels != 3:
        raise UsageError(f"pixels: {pixels} is of red, green and blue, got an image of {channels} channels; use plain")
    made, widths = _made(name, strides, channels)
    made.pixels = pixels
    return made, widths


def _made(name: str | None, strides: Sequence[int], channels: int) -> tuple[Pyramid, list[int]]:
    if name in VARIANTS:
        net: nn.Module = BiFormerPyramid(channels, **VARIANTS[name])
        return _picked(net, name, strides, STRIDES, VARIANTS[name]["dims"])
    if not isinstance(name, str) or not name.startswith(TIMM):
        raise UsageError(
            f"backbone: expected one of {', '.join(sorted(VARIANTS))}, or {TIMM}NAME with a name of timm's such as "
            f"{TIMM}convnext_tiny; got {name!r}"
        )
    offline.switch_off()
    import timm

    from .. import backbones  # noqa: F401

    plain = name.removeprefix(TIMM)
    # Not is_model, which takes tags of weights too; other forms would fetch from a hub or read a folder.
    if plain not in (known := timm.list_models()):
        close = ", ".join(get_close_matches(plain, known, 3)) or "one of timm.list_models()"
        raise UsageError(f"backbone: timm {timm.__version__} has no network {plain!r}; expected {close}")
    return _of_timm(timm, plain, strides, channels)


def _of_timm(timm: Any, plain: str, strides: Sequence[int], channels: int) -> tuple[Pyramid, list[int]]:
    """A network of timm's in the way in which it takes images of any size.

    Most do as they are. Swin has to be told so. Windows that must tile the maps do on multiples of the size that the
    network was made for.
    """
    name, about = TIMM + plain, timm.models.get_pretrained_cfg(plain)
    own = -(-max(about.input_size[1:]) // 32) * 32 if about else 224

    def build(**options: Any) -> tuple[Pyramid, list[int]]:
        net = timm.create_model(plain, features_only=True, in_chans=channels, num_classes=0, **options)
        info: Any = net.feature_info
        made, widths = _picked(net, name, strides, info.reduction(), info.channels())
        made.last = getattr(net, "output_fmt", None) == "NHWC"
        return made, widths

    # Each of a thousand networks refuses in its own way.
    first: Exception | None = None
    for options in ({}, {"strict_img_size": False}):
        try:
            made, widths = build(**options)
        except UsageError:
            raise
        except Exception as error:
            first = first or error
            break
        for made.multiple, size in ((1, (64, 96)), (own, (own, 2 * own))):
            if (failed := _refusal(made, strides, widths, channels, size)) is None:
                return made, widths
            first = first or failed
        made.multiple = 1
        alone = _refusal(made, strides, widths, channels, (own, own))
        if alone is None:
            first = _Shape(f"it works on images of {own} x {own} px alone, which tiles need not be")
        elif isinstance(alone, _Shape):
            first = alone
    told = first if isinstance(first, _Shape) else f"{type(first).__name__}: {first}"
    raise UsageError(f"backbone: {name} is not a pyramid for images of any size: {told}; take another") from first


def _picked(
    net: nn.Module, name: str, strides: Sequence[int], have: Sequence[int], widths: Sequence[int]
) -> tuple[Pyramid, list[int]]:
    if missing := [stride for stride in strides if stride not in have]:
        raise UsageError(
            f"backbone: {name} has maps of strides {', '.join(map(str, have))}; the layer table also asks for "
            f"{', '.join(map(str, missing))}; take a pyramid such as {TIMM}convnext_tiny"
        )
    # The last of a stride has seen most.
    picks = [max(i for i, reduction in enumerate(have) if reduction == stride) for stride in strides]
    chosen = [widths[i] for i in picks]
    made = Pyramid(net, picks, chosen)
    made.strides = tuple(strides)
    return made, chosen


class _Shape(ValueError):
    """The message says in words why a network's maps are not what is needed."""


@torch.no_grad()
def _refusal(
    made: Pyramid, strides: Sequence[int], widths: Sequence[int], channels: int, size: tuple[int, int]
) -> Exception | None:
    """What keeps a network from giving maps of the shapes that it announces of an image of this size."""
    height, width = size
    try:
        maps = made.eval()(torch.zeros(1, channels, height, width))
        made.train()
        for x, stride, c in zip(maps, strides, widths, strict=True):
            if x.shape != (1, c, height // stride, width // stride):
                raise _Shape(f"its map at stride {stride} of an image {height} x {width} is {tuple(x.shape)}")
    except Exception as error:
        return error
    return None
