"""What exported networks of all formats have in common: what they say about themselves, and images of any size."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F

from ...errors import PalynoError, RejectedModelError, UsageError
from ..network import PADDING
from ..views import STRIDES
from ..weights import Metadata

__all__ = ["FORMAT", "About", "Exported"]

FORMAT = "palyno-export-1"

Runner = Callable[[torch.Tensor], torch.Tensor]


@dataclass(frozen=True, kw_only=True)
class About:
    """What an exported file says about itself.

    Attributes:
        name: Name of the model.
        classes: Taxa in the order of its outputs.
        imgsz: Side in pixels of the images that it takes, or that it was made with where it takes any.
        trained_px: Side of the images that the weights were trained on.
        batch: Images at once, where that is fixed.
        dynamic: Whether it takes any number of images, with sides that are multiples of 32.
        half: Whether numbers are stored, or for an engine computed, in half precision.
        duplicates: Whether several boxes can be of one grain, so that suppression is needed.
        max_objects: Most boxes that it can return; None for one an anchor.
        naming_threshold: See `palyno.vision.naming`.
        naming_temperature: See there.
        max_grain_px: Diameter of the largest grains, in pixels of its input.
        sha256: Of the weights file that it was made from; None where there was none.
        licence: Of the weights, where known.
        version: Of palyno.
        format: What these entries are.
    """

    name: str
    classes: tuple[str, ...]
    imgsz: int
    trained_px: int
    batch: int
    dynamic: bool
    half: bool
    duplicates: bool
    max_objects: int | None
    naming_threshold: float
    naming_temperature: float
    max_grain_px: int
    sha256: str | None
    licence: str | None
    version: str
    format: str = FORMAT

    def metadata(self, sha256: str) -> Metadata:
        """As a detector takes it.

        Args:
            sha256: Of the exported file.
        """
        return Metadata(
            name=self.name,
            classes=self.classes,
            config={},
            imgsz=self.trained_px if self.dynamic else min(self.trained_px, self.imgsz),
            naming_threshold=self.naming_threshold,
            naming_temperature=self.naming_temperature,
            max_grain_px=self.max_grain_px,
            training={"exported_from": self.sha256, "exported_by": self.version},
            sha256=sha256,
        )

    @classmethod
    def read(cls, path: Path, text: str | None, what: str) -> About:
        """What a file said, checked.

        Args:
            path: The file, for messages.
            text: Its entry `palyno`; None where it has none.
            what: Kind of file, for messages.

        Raises:
            RejectedModelError: Another program's file, another version's, or entries that cannot be.
        """
        if not text:
            raise RejectedModelError(
                f"{path}: expected {what} that `palyno export` wrote, got one of another program; it does not say what "
                "its outputs mean, so export the weights with palyno"
            )
        try:
            said = json.loads(text)
            if said.get("format") != FORMAT:
                raise ValueError(f"format {said.get('format')!r}")
            if set(said) != (names := {f.name for f in fields(cls)}):
                raise ValueError(f"entries {sorted(said)}, not {sorted(names)}")
            about = cls(**said | {"classes": tuple(said["classes"])})
            about.metadata("")
            for name, kind in (("imgsz", int), ("batch", int), ("dynamic", bool), ("half", bool), ("duplicates", bool)):
                value = getattr(about, name)
                if type(value) is not kind or (kind is int and value < 1):
                    raise ValueError(f"{name} {getattr(about, name)!r}")
            if about.max_objects is not None and not (type(about.max_objects) is int and about.max_objects > 0):
                raise ValueError(f"max_objects {about.max_objects!r}")
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError, PalynoError) as error:
            raise RejectedModelError(
                f"{path}: expected {what} of this version of palyno ({FORMAT}), got {error}; export the weights again"
            ) from error
        return about


class Exported:
    """A network in another runtime, which takes images as `palyno.vision.network.Network` gives them.

    One of fixed size is given images of that size: smaller ones are filled up on the right and below with the grey that
    training fills borders with, and a batch that is not full with empty images. What answers for the rest is left out.

    Args:
        about: What its file says.
        prepare: Makes the runner for a number of threads; called again when PyTorch's number has changed, so that
            whatever sets that number sets it here, too.
        device: Where it runs, as PyTorch names it.
        most: Most images at once, where the file leaves their number open.
        runtime: What runs it, with its version.

    Attributes:
        about: What its file says.
        device: Where it runs.
        runtime: What runs it, such as `onnxruntime 1.32.0`.
        batch: Images at once that suit it; None for as many as suit the device.
    """

    def __init__(
        self,
        about: About,
        prepare: Callable[[int], Runner],
        device: str = "cpu",
        most: int | None = None,
        runtime: str = "",
    ):
        self.about, self.device, self.runtime = about, torch.device(device), runtime
        self.batch = most if about.dynamic else about.batch
        self._prepare = prepare
        self._threads, self._run = 0, None  # type: tuple[int, Runner | None]

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        """(B, 3, H, W) float32 in [0, 1], sides multiples of 32 -> (B, 4 + classes, A).

        Raises:
            UsageError: Images larger than a file of fixed size takes.
        """
        if (threads := torch.get_num_threads()) != self._threads or self._run is None:
            self._run, self._threads = self._prepare(threads), threads
        if self.about.dynamic:
            return torch.cat([self._run(part.contiguous()) for part in images.split(self.batch or len(images))])
        side, batch = self.about.imgsz, self.about.batch
        count, _, height, width = images.shape
        if max(height, width) > side:
            raise UsageError(
                f"tile: expected at most the {side} x {side} pixels that the exported file takes, got {width} x "
                f"{height}; use a smaller --tile or --overlap, or export with --dynamic or a larger --imgsz"
            )
        images = F.pad(images, (0, side - width, 0, side - height), value=PADDING / 255)
        images = torch.cat((images, images.new_zeros(-count % batch, 3, side, side)))
        found = torch.cat([self._run(part.contiguous()) for part in images.split(batch)])[:count]
        if height == width == side:
            return found
        # Of a network that answers for every cell of its grids: what it answers for those of the images themselves.
        own = []
        for stride in STRIDES:
            cells = torch.zeros((side // stride, side // stride), dtype=torch.bool)
            cells[: height // stride, : width // stride] = True
            own.append(cells.flatten())
        every = torch.cat(own).to(found.device)
        return found[..., every] if len(every) == found.shape[-1] else found


def plain(about: About) -> dict[str, Any]:
    """The entries as JSON holds them."""
    return {f.name: list(v) if isinstance(v := getattr(about, f.name), tuple) else v for f in fields(about)}
