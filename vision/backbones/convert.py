"""BiFormer's published checkpoints, pickles, as safetensors that timm loads into ours: `convert_biformer`.

    convert_biformer("biformer_tiny_in1k.pth", "biformer_tiny.safetensors")
    timm.create_model("biformer_tiny", pretrained=True, pretrained_cfg_overlay={"file": "biformer_tiny.safetensors"})

The names of the authors' tensors become ours; their values stay. `padding="official"` gives the authors' figures for
images whose maps regions do not tile too.

Taken are the classifiers and, of the authors' detectors and segmenters, the backbone with the norms of its maps
(`extra_norms`, here `norms`); their necks and heads are left out.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import save

from ...data.atomic import refuse_existing, replacing
from ...errors import RejectedModelError
from ..blocks.biformer import VARIANTS
from ..checkpoint import Checkpoint, read_checkpoint
from .biformer import BiFormer

__all__ = ["convert_biformer", "write_biformer"]

WHAT = "a checkpoint of BiFormer"

# What detectors and segmenters of OpenMMLab have beside a backbone.
_OTHERS = re.compile(r"(neck|\w*head)\.")

# From the authors' names to ours, in this order, each at most once.
_NAMES = (
    (r"^downsample_layers\.0\.", "stem."),
    (r"^downsample_layers\.(\d)\.", r"stages.\1.down."),
    (r"^stages\.(\d)\.(\d+)\.", r"stages.\1.blocks.\2."),
    (r"^extra_norms\.", "norms."),
    (r"\.pos_embed\.", ".position."),
    (r"\.attn\.(qkv\.qkv|qkv_linear)\.", ".attn.qkv."),
    (r"\.attn\.(wo|output_linear)\.", ".attn.proj."),
    (r"\.mlp\.3\.", ".mlp.2."),
)


def convert_biformer(source: str | Path, out: str | Path, *, overwrite: bool = False) -> str:
    """Converts a checkpoint of the authors' code: a classifier's, with any number of classes, or a detector's.

    The file is a pickle. It is read in a process of its own, which takes tensors and plain values and runs nothing.

    Args:
        source: The checkpoint.
        out: The safetensors file to write.
        overwrite: Replace a file that is there.

    Returns:
        The name of the network whose weights they are, such as `biformer_tiny`; also in the file's metadata.

    Raises:
        RejectedModelError: Not such a checkpoint, or not one of a network of the family.
        UsageError: `out` is there already and `overwrite` is off.
    """
    refuse_existing(out, overwrite=overwrite)
    return write_biformer(Path(source), read_checkpoint(source, WHAT), out)


def write_biformer(source: Path, checkpoint: Checkpoint, out: str | Path) -> str:
    """As `convert_biformer`, of a checkpoint that has been read."""
    theirs = _backbone(checkpoint.tensors)
    names = {_ours(name): name for name in theirs}
    tensors = {ours: _as_linear(ours, theirs[name]) for ours, name in names.items()}
    variant = _variant(source, tensors, names)
    for name, tensor in tensors.items():
        if not torch.isfinite(tensor).all():
            raise RejectedModelError(f"{source}: expected finite weights, got others in {names[name]}")
    metadata = {"format": "pt", "palyno": json.dumps({"architecture": variant, "source": source.name})}
    with replacing(out, "wb") as file:
        file.write(save(tensors, metadata))
    return variant


def _backbone(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Without what distributed training and detectors put before names, and without what detectors have besides."""
    bare = {name.removeprefix("module."): tensor for name, tensor in tensors.items()}
    inside = {name.removeprefix("backbone."): t for name, t in bare.items() if name.startswith("backbone.")}
    return inside | {n: t for n, t in bare.items() if not (n.startswith("backbone.") or (inside and _OTHERS.match(n)))}


def _as_linear(name: str, tensor: torch.Tensor) -> torch.Tensor:
    """Some of theirs are convolutions of one pixel, which are linear layers."""
    if tensor.ndim == 4 and tensor.shape[2:] == (1, 1) and re.search(r"\.(qkv|proj|mlp\.\d)\.weight$", name):
        return tensor.flatten(1)
    return tensor


def _ours(name: str) -> str:
    for theirs, ours in _NAMES:
        name = re.sub(theirs, ours, name, count=1)
    return name


def _variant(source: Path, tensors: Mapping[str, torch.Tensor], names: Mapping[str, str]) -> str:
    """The network that has exactly these tensors."""
    found = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    dense = any(name.startswith("norms.") for name in found)
    # Two of the same tensors, which are not the same function.
    refactored = any(".qkv_linear." in name for name in names.values())
    classes = found.get("head.bias", (0,))[0]
    odd: dict[str, list[str]] = {}
    for variant, layers in VARIANTS.items():
        if ("values" in layers.values()) != refactored:
            continue
        with torch.device("meta"):
            state = BiFormer(classes, **layers).state_dict()
        expected = {name: tuple(tensor.shape) for name, tensor in state.items()}
        if dense:
            expected = {name: shape for name, shape in expected.items() if not name.startswith(("norm.", "head."))}
            expected |= {f"norms.{i}.{p}": (c,) for i, c in enumerate(layers["dims"]) for p in ("weight", "bias")}
        odd[variant] = [
            f"{names.get(name, name)} {found.get(name, 'missing')} for {expected.get(name, 'nothing')}"
            for name in sorted(found.keys() | expected.keys())
            if found.get(name) != expected.get(name)
        ]
        if not odd[variant]:
            return variant
    nearest = min(odd, key=lambda variant: len(odd[variant]))
    raise RejectedModelError(
        f"{source}: expected the tensors of one of {', '.join(VARIANTS)}, of a classifier or in a detector; nearest is "
        f"{nearest}, from which {len(odd[nearest])} differ: {', '.join(odd[nearest][:3])}"
    )
