"""A detector's backbone from a classifier's weights: `begin`, and `as_begun` for the configuration that goes with it.

    palyno models convert biformer_tiny_in1k.pth --out biformer_tiny.safetensors
    palyno train scenes/data.yaml --out run --backbone biformer_tiny --backbone-weights biformer_tiny.safetensors

Files are safetensors: BiFormer's as `palyno models convert` writes them, and of `timm:NAME` those that timm itself
keeps, with the names of its network. All of the backbone has to be in the file: none of it is left at random unseen.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from copy import deepcopy
from pathlib import Path
from typing import Any, NamedTuple

import torch

from ...errors import RejectedModelError, UsageError
from ..parts import Stored, read_stored
from ..weights import FORMAT
from .pyramid import Pyramid, pixels_of

__all__ = ["Taken", "as_begun", "begin"]


class Taken(NamedTuple):
    """What of a file went into a network.

    Attributes:
        backbone: Name of the backbone.
        file: Name of the file.
        sha256: Its hash.
        tensors: How many of its tensors were taken.
        left: The names of the others.
        norms: Whether the norms of the backbone's maps were in it, as they are in a detector's.
    """

    backbone: str
    file: str
    sha256: str
    tensors: int
    left: tuple[str, ...]
    norms: bool

    def __str__(self) -> str:
        parts = ", ".join(f"{part} ({n})" for part, n in Counter(name.partition(".")[0] for name in self.left).items())
        fresh = "neck and head start" if self.norms else "the norms of its maps, neck and head start"
        return (
            f"{self.backbone}: all of its {self.tensors} tensors are from {self.file}; not taken: {parts or 'none'}; "
            f"{fresh} from random numbers"
        )


def as_begun(config: Mapping[str, Any], path: str | Path) -> dict[str, Any]:
    """The configuration of a network whose backbone begins from a file.

    The backbone is given pixels as it learned to see them (`pixels` of its row, unless the table says it), and
    `pretrained` names the file and its hash.

    Raises:
        UsageError: The table has no backbone to choose.
        RejectedModelError: No such file, or not safetensors.
    """
    begun = deepcopy(dict(config))
    row, name = _row(begun)
    row[3].setdefault("pixels", pixels_of(name))
    stored = _read(path)
    begun["pretrained"] = {"file": Path(path).name, "sha256": stored.sha256}
    return begun


@torch.no_grad()
def begin(model: Any, path: str | Path) -> Taken:
    """Fills a network's backbone.

    Args:
        model: The network, of a configuration of `as_begun`.
        path: The file.

    Raises:
        UsageError: The network has no backbone to choose.
        RejectedModelError: The file is not of this backbone; the message says what differs.
    """
    row, name = _row(model.yaml)
    backbone: Pyramid = model.model[0].blocks[row[0]]
    stored = _read(path)
    tensors = stored.tensors()
    theirs = {_plain(key): key for key in tensors}
    places = {f"net.{key}": theirs.get(_plain(key)) for key in backbone.net.state_dict()}
    # Of detectors, one a stage; ours are of the stages that are picked.
    norms = {
        f"norms.{i}.{part}": f"norms.{pick}.{part}"
        for i, pick in enumerate(backbone.picks)
        for part in ("weight", "bias")
    }
    norms = norms if set(norms.values()) <= set(tensors) else {}
    places.update(norms)
    state = backbone.state_dict()
    odd = [
        f"{key} {tuple(tensors[place].shape) if place else 'missing'} for {tuple(state[key].shape)}"
        for key, place in places.items()
        if place is None or tensors[place].shape != state[key].shape
    ]
    made_for = _made_for(stored, name)
    if odd or len(theirs) != len(tensors) or made_for:
        raise RejectedModelError(
            f"{path}: expected the weights of {name}, {len(places)} tensors, of which {len(odd)} differ: "
            f"{', '.join(odd[:3]) or ('none' if made_for else 'two have one name')}{made_for}"
        )
    if infinite := [place for place in places.values() if place and not torch.isfinite(tensors[place]).all()]:
        raise RejectedModelError(f"{path}: expected finite weights, got others in {infinite[0]}")
    for key, place in places.items():
        state[key].copy_(tensors[str(place)])
    left = tuple(sorted(set(tensors) - {str(place) for place in places.values()}))
    return Taken(name, Path(path).name, stored.sha256, len(places), left, bool(norms))


def _row(config: Mapping[str, Any]) -> tuple[list[Any], str]:
    """The row of a table that is its backbone, and the backbone's name."""
    row = next((row for row in config.get("layers", ()) if row[2] == "Backbone"), None)
    if row is None:
        raise UsageError(
            f"backbone_weights: expected a model with a backbone to choose, got {config.get('name')}; choose one with "
            "--backbone, such as biformer_tiny, or leave the weights out"
        )
    name = row[3]["name"]
    return row, config["options"][name[1:]] if isinstance(name, str) and name.startswith("$") else name


def _read(path: str | Path) -> Stored:
    if not Path(path).is_file():
        raise RejectedModelError(f"{path}: expected a backbone's weights, there is no such file")
    stored = read_stored(path)
    try:
        stored.header()
    except RejectedModelError as error:
        raise RejectedModelError(f"{error} (of BiFormer's checkpoints, `palyno models convert` makes it)") from error
    return stored


def _plain(name: str) -> str:
    """Timm names the parts of a pyramid after those of its classifier: `stages_0.blocks` for `stages.0.blocks`."""
    return name.removeprefix("model.").replace("_", ".")


def _made_for(stored: Stored, name: str) -> str:
    said = stored.header().get("palyno", "")
    try:
        about = json.loads(said or "{}")
    except ValueError:
        return ""
    if about.get("format") == FORMAT:
        return "; it is a detector of palyno's, to start from whole: --weights"
    made = about.get("architecture")
    return f"; it is of {made}, as it says: --backbone {made}" if made and made != name.removeprefix("timm:") else ""
