"""BiFormer's published checkpoints, pickles, as safetensors that timm loads into ours: `convert_biformer`.

    convert_biformer("biformer_tiny_in1k.pth", "biformer_tiny.safetensors")
    timm.create_model("biformer_tiny", pretrained=True, pretrained_cfg_overlay={"file": "biformer_tiny.safetensors"})

The names of the authors' tensors become ours; their values stay. `padding="official"` gives the authors' figures for
images whose maps regions do not tile too.
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

# From the authors' names to ours, in this order, each at most once.
_NAMES = (
    (r"^downsample_layers\.0\.", "stem."),
    (r"^downsample_layers\.(\d)\.", r"stages.\1.down."),
    (r"^stages\.(\d)\.(\d+)\.", r"stages.\1.blocks.\2."),
    (r"\.pos_embed\.", ".position."),
    (r"\.attn\.qkv\.qkv\.", ".attn.qkv."),
    (r"\.attn\.wo\.", ".attn.proj."),
    (r"\.mlp\.3\.", ".mlp.2."),
)


def convert_biformer(source: str | Path, out: str | Path, *, overwrite: bool = False) -> str:
    """Converts a checkpoint of the authors' code, with any number of classes.

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
    theirs = checkpoint.tensors
    names = {_ours(name): name for name in theirs}
    tensors = {ours: theirs[name] for ours, name in names.items()}
    variant = _variant(source, tensors, names)
    for name, tensor in tensors.items():
        if not torch.isfinite(tensor).all():
            raise RejectedModelError(f"{source}: expected finite weights, got others in {names[name]}")
    metadata = {"format": "pt", "palyno": json.dumps({"architecture": variant, "source": source.name})}
    with replacing(out, "wb") as file:
        file.write(save(tensors, metadata))
    return variant


def _ours(name: str) -> str:
    for theirs, ours in _NAMES:
        name = re.sub(theirs, ours, name, count=1)
    return name


def _variant(source: Path, tensors: Mapping[str, torch.Tensor], names: Mapping[str, str]) -> str:
    """The network that has exactly these tensors."""
    found = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    classes = found.get("head.bias", (0,))[0]
    odd: dict[str, list[str]] = {}
    for variant, layers in VARIANTS.items():
        with torch.device("meta"):
            state = BiFormer(classes, **layers).state_dict()
        expected = {name: tuple(tensor.shape) for name, tensor in state.items()}
        odd[variant] = [
            f"{names.get(name, name)} {found.get(name, 'missing')} for {expected.get(name, 'nothing')}"
            for name in sorted(found.keys() | expected.keys())
            if found.get(name) != expected.get(name)
        ]
        if not odd[variant]:
            return variant
    nearest = min(odd, key=lambda variant: len(odd[variant]))
    raise RejectedModelError(
        f"{source}: expected the tensors of one of {', '.join(VARIANTS)}; nearest is {nearest}, from which "
        f"{len(odd[nearest])} differ: {', '.join(odd[nearest][:3])}"
    )
