"""Detector weights as files: safetensors with all that a network is built from in the header, and nothing to run.

    model, metadata = load_weights("weights/hieraedge-n.safetensors")

A file is refused unless every tensor that its configuration asks for is there, finite, of the right shape, and nothing
else. Pickles are refused whatever their name, as loading one runs code; there is no way around it here. Where weights
lie in parts (`palyno.vision.parts`), the path of any part stands for all of them.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..data.atomic import replacing
from ..errors import PalynoError, RejectedModelError, UsageError
from .parts import LARGEST, Stored, is_part, read_stored, split_stored
from .shipped import LOCK, LOCK_FORMAT, Shipped, find_encoder, find_model, published, shipped_models

if TYPE_CHECKING:
    from .models.detection import PollenModel

__all__ = [
    "FORMAT",
    "LOCK",
    "LOCK_FORMAT",
    "Metadata",
    "Shipped",
    "find_encoder",
    "find_model",
    "load_weights",
    "read_metadata",
    "save_weights",
    "shipped_models",
    "split_weights",
]

FORMAT = "palyno-detector-1"


@dataclass(frozen=True, kw_only=True)
class Metadata:
    """What a weights file says about itself.

    Attributes:
        name: Name of the model.
        classes: Taxa in the order of the network's outputs.
        config: Configuration that `palyno.vision.models.detection.build` takes.
        imgsz: Side in pixels of the images that it was trained on.
        naming_threshold: See `palyno.vision.naming`.
        naming_temperature: See there; 1 in files that do not say it.
        max_grain_px: Diameter of the largest grains, in pixels of the network's input.
        training: How it was made: data, recipe, seeds, figures.
        sha256: Hash of the file; where it lies in parts, of their bytes one after the other.
    """

    name: str
    classes: tuple[str, ...]
    config: Mapping[str, Any]
    imgsz: int = 640
    naming_threshold: float = 0.5
    naming_temperature: float = 1.0
    max_grain_px: int = 160
    training: Mapping[str, Any] = field(default_factory=dict)
    sha256: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "classes", tuple(self.classes))
        for name, valid, expected in (
            ("name", isinstance(self.name, str) and self.name, "a name"),
            ("classes", self.classes and all(isinstance(c, str) and c for c in self.classes), "names"),
            ("classes", len(set(self.classes)) == len(self.classes), "different names"),
            ("config", isinstance(self.config, Mapping), "a configuration"),
            ("imgsz", _whole(self.imgsz) and self.imgsz >= 32, "a number of pixels from 32"),
            ("naming_threshold", _number(self.naming_threshold) and 0 < self.naming_threshold <= 1, "0 to 1, above 0"),
            ("naming_temperature", _number(self.naming_temperature) and self.naming_temperature > 0, "more than 0"),
            ("max_grain_px", _whole(self.max_grain_px) and self.max_grain_px >= 1, "a number of pixels from 1"),
            ("training", isinstance(self.training, Mapping), "a record"),
        ):
            if not valid:
                raise UsageError(f"{name}: expected {expected}, got {getattr(self, name)!r}")
        if self.config.get("nc", len(self.classes)) != len(self.classes):
            raise UsageError(
                f"classes: expected {self.config['nc']}, as the configuration says; got {len(self.classes)}"
            )


def save_weights(
    path: str | Path,
    model: PollenModel,
    *,
    name: str,
    classes: Sequence[str],
    config: Mapping[str, Any],
    imgsz: int,
    naming_threshold: float,
    max_grain_px: int,
    training: Mapping[str, Any],
    naming_temperature: float = 1.0,
) -> Path:
    """Writes a network's weights in half precision; the same network gives the same bytes.

    Args:
        path: The file; one that is there is replaced.
        model: The network, not fused.
        name: See `Metadata`, as all that follow.
        classes: Taxa in the order of the outputs.
        config: The network's configuration.
        imgsz: Side of the training images.
        naming_threshold: Least share of the confidence that a name must have.
        max_grain_px: Diameter of the largest grains.
        training: How it was made; plain values.
        naming_temperature: What log odds of names are divided by.

    Returns:
        The file.

    Raises:
        UsageError: A file named as a part, metadata that cannot be, or weights that half precision cannot hold.
    """
    import torch
    from safetensors.torch import save

    if is_part(path):
        raise UsageError(
            f"{path}: expected the name of a whole file, got that of a part; choose another, `palyno models split` "
            "makes parts of it"
        )
    metadata = Metadata(
        name=name,
        classes=tuple(classes),
        config=config,
        imgsz=imgsz,
        naming_threshold=naming_threshold,
        naming_temperature=naming_temperature,
        max_grain_px=max_grain_px,
        training=training,
    )
    tensors = {}
    for key, tensor in model.state_dict().items():
        half = tensor.detach().cpu().half() if tensor.is_floating_point() else tensor.detach().cpu()
        if not torch.isfinite(half).all():
            raise UsageError(f"{key}: expected numbers that half precision can hold, got others; was training stable?")
        tensors[key] = half.contiguous().clone()
    said = {"format": FORMAT, **asdict(metadata)}
    del said["sha256"]
    # One entry: safetensors writes several in any order, and the file would not be the same twice.
    header = {"palyno": json.dumps(said, sort_keys=True, ensure_ascii=False)}
    with replacing(path, "wb") as file:
        file.write(save(tensors, header))
    return Path(path)


def split_weights(
    path: str | Path, out: str | Path, *, largest: int = LARGEST, overwrite: bool = False
) -> tuple[Stored, Metadata]:
    """Writes a weights file again in parts, each a safetensors file; the same weights give the same bytes.

    To put parts together, load and save them: `palyno models calibrate` writes one file.

    Args:
        path: The file, or any part of one.
        out: Folder of the parts, which are named after the file.
        largest: Bytes that no part is larger than.
        overwrite: Replace parts that are there.

    Returns:
        The parts, and what they say about themselves.

    Raises:
        RejectedModelError: It is no weights file of palyno, or damaged.
        NothingToDoError: It fits into one file.
        UsageError: A tensor is larger than `largest`, or `out` holds other parts of this name.
    """
    stored = read_stored(path)
    _metadata(stored)
    parts = split_stored(stored, out, largest=largest, overwrite=overwrite)
    return parts, _metadata(parts)


def read_metadata(path: str | Path, *, shipped: Shipped | None = None) -> Metadata:
    """What a weights file says about itself, without building its network.

    Args:
        path: The file, or any part of one.
        shipped: Its entry in `models.lock`; size and hash must agree with it.

    Raises:
        RejectedModelError: It is no weights file of palyno, or not the one that was published.
    """
    stored = read_stored(path)
    if shipped is not None:
        published(stored, shipped)
    return _metadata(stored)


def load_weights(path: str | Path, *, shipped: Shipped | None = None) -> tuple[PollenModel, Metadata]:
    """Reads a weights file and builds its network.

    Args:
        path: The file, or any part of one.
        shipped: Its entry in `models.lock`; size and hash must agree with it.

    Returns:
        The network, float32, on the CPU, in evaluation mode; and what the file says about itself.

    Raises:
        RejectedModelError: The file is not what it should be; the message says what it is and what to do.
    """
    stored = read_stored(path)
    if shipped is not None:
        published(stored, shipped)
    metadata = _metadata(stored)
    return _network(stored, metadata), metadata


def _metadata(stored: Stored) -> Metadata:
    """What the header says, checked before anything else is read."""
    try:
        said = json.loads(stored.header().get("palyno", "{}"))
        if (found := said.pop("format", None)) != FORMAT:
            raise ValueError(
                f"format {found!r}; the tensors alone do not say what network they are of (those of a backbone are for "
                "palyno train --backbone-weights)"
            )
        names = {f.name for f in fields(Metadata)} - {"sha256"}
        if not names - {"naming_temperature"} <= set(said) <= names:
            raise ValueError(f"entries {sorted(said)}, not {sorted(names)}")
        return Metadata(**said, sha256=stored.sha256)
    except RejectedModelError:
        raise
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError, PalynoError) as error:
        path = stored.paths[0]
        raise RejectedModelError(f"{path}: expected weights of palyno ({FORMAT}), got {error}") from error


def _network(stored: Stored, metadata: Metadata) -> PollenModel:
    import torch

    path, tensors = stored.paths[0], stored.tensors()
    build = _builder()
    room = 2 * sum(tensor.numel() for tensor in tensors.values()) + 2**20

    def bounded(module: Any, name: str, parameter: torch.Tensor | None) -> None:
        nonlocal room
        room -= 0 if parameter is None else parameter.numel()
        if room < 0:
            raise ValueError(
                "a configuration of a far larger network than the file's tensors: damaged, or one of several parts "
                "under another name"
            )

    # A hostile table could ask for any amount of memory.
    guard = torch.nn.modules.module.register_module_parameter_registration_hook(bounded)
    try:
        model = build(metadata.config, classes=metadata.classes)
    except Exception as error:
        raise RejectedModelError(f"{path}: expected a network that this version knows, got {error}") from error
    finally:
        guard.remove()
    expected = {key: tuple(tensor.shape) for key, tensor in model.state_dict().items()}
    found = {key: tuple(tensor.shape) for key, tensor in tensors.items()}
    if found != expected:
        odd = sorted(k for k in found.keys() | expected.keys() if found.get(k) != expected.get(k))
        told = ", ".join(f"{k} {found.get(k, 'missing')} for {expected.get(k, 'nothing')}" for k in odd[:3])
        # All that differ are missing.
        part = "one of several parts under another name, " if all(key not in found for key in odd) else ""
        raise RejectedModelError(
            f"{path}: expected the {len(expected)} tensors of its configuration, got {len(odd)} that differ: {told}; "
            f"it is {part}made by another version, or damaged"
        )
    for key, tensor in tensors.items():
        if not torch.isfinite(tensor).all():
            raise RejectedModelError(f"{path}: expected finite weights, got others in {key}; training went wrong")
    model.load_state_dict(tensors, strict=True)
    return model.float().eval()


def _builder() -> Any:
    """`build`, imported without what importing ultralytics does to the number of threads."""
    import torch

    threads, variable = torch.get_num_threads(), os.environ.get("OMP_NUM_THREADS")
    from .models.detection import build

    torch.set_num_threads(threads)
    if variable is None:
        os.environ.pop("OMP_NUM_THREADS", None)
    return build


def _whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
