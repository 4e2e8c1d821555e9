"""ultralytics' own detectors under the contract of ours, to compare with: same training, same files, same calls.

In eval mode `model(x)[0]` is what `PollenModel` gives, (B, 4 + classes, A): a box an anchor in pixels, then a
probability a class. Two of them answer otherwise by themselves and are asked for this:

- YOLO26 has two heads. The one for use without non-maximum suppression returns at most 300 boxes, each with one class;
  here the other one is used, which returns every anchor with every class. Both are trained.
- RT-DETR returns boxes as shares of the image. Its anchors are its 300 queries, of which training takes one a grain.
"""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
import yaml

from ... import offline
from .heads import in_pixels
from .loss import criterion
from .tables import PEERS, configure

offline.switch_off()
from ultralytics.nn.tasks import DetectionModel, RTDETRDetectionModel  # noqa: E402
from ultralytics.utils import DEFAULT_CFG, ROOT  # noqa: E402

__all__ = ["Peer", "PeerDETR", "backbone_rows", "peer"]


class Peer(DetectionModel):
    """A YOLO of ultralytics.

    Args:
        cfg: A name or a configuration, see `configure`.
        ch: Channels of the image; None keeps what `cfg` says, else 3.
        nc: Number of classes; None keeps what `cfg` says.
        verbose: Print a summary.

    Attributes:
        yaml: The configuration, plain values: `build(model.yaml)` builds the same network again.
        names: Class names by index.
        args: Weights of the losses, ultralytics' defaults; a trainer sets its own.
        duplicates: Whether several boxes of one grain come out, which have to be taken out.
        max_objects: Most boxes that come out, or None for one an anchor.
    """

    duplicates = True
    max_objects: int | None = None

    yaml: dict[str, Any]
    model: Any

    def __init__(
        self,
        cfg: str | Path | Mapping[str, Any],
        ch: int | None = None,
        nc: int | None = None,
        verbose: bool = True,
    ):
        config = configure(cfg, classes=nc, channels=ch)
        super().__init__(_table(config), ch=config["channels"], nc=config["nc"], verbose=verbose)
        self.yaml, self.nc, self.args = config, config["nc"], deepcopy(DEFAULT_CFG)
        self.names = dict(enumerate(config["names"]))
        # Of two heads the one that gives every anchor.
        self.end2end = False

    def init_criterion(self) -> Any:
        """The loss, with `naming_loss` and `nwd` of the configuration."""
        return criterion(self)

    def fuse(self, verbose: bool = False, imgsz: int = 640) -> Peer:
        """As ultralytics', which otherwise prints a summary."""
        return super().fuse(verbose=verbose, imgsz=imgsz)


class PeerDETR(RTDETRDetectionModel, Peer):
    """RT-DETR of ultralytics; arguments and attributes as `Peer`'s."""

    duplicates = False
    init_criterion = RTDETRDetectionModel.init_criterion

    def __init__(
        self,
        cfg: str | Path | Mapping[str, Any],
        ch: int | None = None,
        nc: int | None = None,
        verbose: bool = True,
    ):
        super().__init__(cfg, ch, nc, verbose)
        self.model[-1].postprocess, self.max_objects = _all_classes, self.model[-1].num_queries

    def predict(self, x: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        """As ultralytics', but in eval mode first (B, 4 + classes, queries), boxes in pixels of `x`."""
        made = super().predict(x, *args, **kwargs)
        if self.training or kwargs.get("embed"):
            return made
        # Alone where it is exported, else before what the losses need.
        found, *raw = (made,) if isinstance(made, torch.Tensor) else made
        found = in_pixels(found, *x.shape[-2:])
        return (found, *raw) if raw else found


def peer(config: Mapping[str, Any], verbose: bool = True) -> Peer:
    """The network of a configuration that names a table of ultralytics."""
    return (PeerDETR if config["ultralytics"].startswith("rtdetr") else Peer)(config, verbose=verbose)


def backbone_rows(config: Mapping[str, Any]) -> int:
    """How many of a network's first layers are its backbone."""
    return len(_table(config)["backbone"])


def _table(config: Mapping[str, Any]) -> dict[str, Any]:
    # From the package itself: ultralytics would take a file of that name in the working folder first.
    file, scale = PEERS[config["ultralytics"]]
    table = yaml.safe_load((ROOT / "cfg" / "models" / file).read_text(encoding="utf-8"))
    return table | {"scale": scale, "nc": config["nc"]}


def _all_classes(boxes: torch.Tensor, probabilities: torch.Tensor) -> torch.Tensor:
    """Every query with all its classes, where ultralytics' head lists the 300 surest pairs of query and class."""
    return torch.cat((boxes, probabilities), 2)
