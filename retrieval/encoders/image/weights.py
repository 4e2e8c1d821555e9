"""An encoder's weights as a file: safetensors, and in the header all that the network is built from."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ....data.atomic import replacing
from ....errors import RejectedModelError, UsageError

if TYPE_CHECKING:
    import torch
    from torch import nn

__all__ = ["FORMATS", "EncoderFile", "fill", "read_encoder", "read_header", "write_encoder"]

# What files of each format are, such as the one that ships.
FORMATS = {
    "palyno-grain-encoder-1": "an encoder of crops of grains, such as grain-encoder",
    "palyno-region-encoder-1": "an encoder of regions of slides, such as grain-regions",
    "palyno-matcher-1": "an encoder of words for grains, such as grain-words",
    "palyno-traits-1": "a reading of traits, such as grain-traits",
}


@dataclass(frozen=True, kw_only=True)
class EncoderFile:
    """What a weights file says about itself.

    Attributes:
        format: Kind of network, of `FORMATS`.
        name: Name of the encoder.
        config: Arguments that its network is built with.
        training: How it was made: data, settings, seeds, figures.
        sha256: Hash of the file; part of the `encoder_id`, as vectors of different weights must not be compared.
    """

    format: str
    name: str
    config: Mapping[str, Any]
    training: Mapping[str, Any] = field(default_factory=dict)
    sha256: str = ""

    @property
    def encoder_id(self) -> str:
        """Name and the beginning of the hash."""
        return f"{self.name}@{self.sha256[:12]}"


def write_encoder(
    path: str | Path,
    network: nn.Module,
    *,
    format: str,
    name: str,
    config: Mapping[str, Any],
    training: Mapping[str, Any],
) -> Path:
    """Writes a network in half precision; the same network gives the same bytes.

    Raises:
        UsageError: A format that there is not, or weights that half precision cannot hold.
    """
    import torch
    from safetensors.torch import save

    if format not in FORMATS:
        raise UsageError(f"format: expected one of {', '.join(FORMATS)}, got {format!r}")
    tensors = {}
    for key, tensor in network.state_dict().items():
        half = tensor.detach().cpu().half() if tensor.is_floating_point() else tensor.detach().cpu()
        if not torch.isfinite(half).all():
            raise UsageError(f"{key}: expected numbers that half precision can hold, got others; was training stable?")
        tensors[key] = half.contiguous().clone()
    said = {"format": format, "name": name, "config": dict(config), "training": dict(training)}
    with replacing(path, "wb") as file:
        file.write(save(tensors, {"palyno": json.dumps(said, sort_keys=True, ensure_ascii=False)}))
    return Path(path)


def read_header(path: str | Path, format: str) -> EncoderFile:
    """What a file that `write_encoder` wrote says about itself; the tensors are not looked at.

    Raises:
        RejectedModelError: Not such a file, or not of this format.
    """
    return _read(path, format)[1]


def read_encoder(path: str | Path, format: str) -> tuple[dict[str, torch.Tensor], EncoderFile]:
    """Reads what `write_encoder` wrote: float32 tensors on the CPU, and what the file says about itself.

    Raises:
        RejectedModelError: Not such a file, or not of this format.
    """
    import torch
    from safetensors import SafetensorError
    from safetensors.torch import load

    data, about = _read(path, format)
    try:
        tensors = load(data)
        for key, tensor in tensors.items():
            if not torch.isfinite(tensor).all():
                raise ValueError(f"numbers that are not finite in {key}")
    except (ValueError, KeyError, RuntimeError, SafetensorError) as error:
        raise _rejected(path, format, error) from error
    return {k: t.float() if t.is_floating_point() else t for k, t in tensors.items()}, about


def _read(path: str | Path, format: str) -> tuple[bytes, EncoderFile]:
    try:
        data = Path(path).read_bytes()
        size = int.from_bytes(data[:8], "little")
        header = json.loads(data[8 : 8 + size]) if len(data) > 8 and size <= len(data) - 8 else {}
        said = json.loads((header.get("__metadata__") or {}).get("palyno", "{}"))
        if (found := said.get("format")) != format:
            raise ValueError(FORMATS.get(found, f"format {found!r}"))
        return data, EncoderFile(**said, sha256=hashlib.sha256(data).hexdigest())
    except (OSError, ValueError, TypeError, AttributeError, RecursionError) as error:
        raise _rejected(path, format, error) from error


def _rejected(path: str | Path, format: str, error: Exception) -> RejectedModelError:
    return RejectedModelError(f"{path}: expected {FORMATS[format]}, as safetensors of palyno; got {error}")


def fill(network: nn.Module, tensors: Mapping[str, torch.Tensor], path: str | Path) -> nn.Module:
    """The network with the file's tensors, in evaluation mode.

    Raises:
        RejectedModelError: Not the tensors of this network.
    """
    try:
        network.load_state_dict(dict(tensors), strict=True)
    except RuntimeError as error:
        raise RejectedModelError(f"{path}: expected the tensors of its configuration; {error}") from error
    return network.eval()
