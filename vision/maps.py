"""The maps that a detector's boxes come from, kept for one more reader: vectors of grains out of the same pass.

What reads them is not known here. `MapReader` says what it has to be, so that `palyno.retrieval` can bring one along.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from threading import get_ident
from typing import TYPE_CHECKING, Any, Protocol

from ..errors import RejectedModelError, UsageError

if TYPE_CHECKING:
    import numpy as np
    import torch

    from .weights import Metadata

__all__ = ["MapReader", "check_reader", "kept_maps"]


class MapReader(Protocol):
    """Turns what a detector's maps hold of grains into vectors; trained on the maps of one detector."""

    @property
    def encoder_id(self) -> str:
        """What its vectors are stored under, see `palyno.retrieval.encoders`."""
        ...

    @property
    def dim(self) -> int:
        """Length of a vector."""
        ...

    @property
    def detector_name(self) -> str:
        """Name of the detector that it was trained on."""
        ...

    @property
    def detector_sha256(self) -> str:
        """Hash of that detector's weights file."""
        ...

    def read(self, maps: Sequence[torch.Tensor], boxes: torch.Tensor, size: tuple[int, int]) -> np.ndarray:
        """Vectors of the grains of one window.

        Args:
            maps: What the detector's head was given, (1, C, H, W) each.
            boxes: `xyxy`, float32, (N, 4), pixels of the network's input.
            size: Height and width of that input, all of which each map covers.

        Returns:
            (N, dim) float32, each row of unit length.
        """
        ...


def check_reader(reader: MapReader, model: Any, metadata: Metadata) -> None:
    """Refuses vectors that would mean nothing.

    Args:
        reader: What is to read the maps.
        model: The network.
        metadata: What its weights say about themselves.

    Raises:
        UsageError: A network of another runtime, which does not give its maps.
        RejectedModelError: The reader was trained on another detector's maps.
    """
    _head(model)
    if reader.detector_sha256 != metadata.sha256:
        raise RejectedModelError(
            f"{reader.encoder_id} reads the maps of {reader.detector_name} with sha256 {reader.detector_sha256[:12]}; "
            f"expected that detector, got {metadata.name} with {metadata.sha256[:12] or 'no file'}. Use that one, or "
            "train a reader for this one: palyno train-encoder --of regions --detector"
        )


@contextmanager
def kept_maps(model: Any) -> Iterator[list[torch.Tensor]]:
    """The maps that a network's head was given in this thread's latest pass, (B, C, H, W) each, finest first.

    Args:
        model: A network of `palyno.vision.models`, ours or one of ultralytics'.

    Raises:
        UsageError: A network of another runtime.
    """
    maps: list[torch.Tensor] = []
    thread = get_ident()

    def keep(head: Any, inputs: tuple[Any, ...]) -> None:
        # Other threads' passes go through the same head.
        if get_ident() == thread:
            maps[:] = inputs[0]

    handle = _head(model).register_forward_pre_hook(keep)
    try:
        yield maps
    finally:
        handle.remove()


def _head(model: Any) -> Any:
    """What reads the maps: the last of a network's modules."""
    import torch

    layers = getattr(model, "model", None)
    if not isinstance(model, torch.nn.Module) or not isinstance(layers, torch.nn.Sequential):
        raise UsageError(
            f"vectors: expected a detector's weights (safetensors), which PyTorch runs; got {type(model).__name__}: "
            "exported networks do not give their maps. Load the weights, or encode crops of the grains"
        )
    return layers[-1]
