"""`PollenModel`: a body of ours with ultralytics' detection head, where ultralytics expects a detection model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from ... import offline
from ..blocks import ConvNormAct
from ..blocks.omni import GlobalGate, KernelSum
from .graph import Body
from .heads import Decoder, make_head
from .loss import criterion
from .peers import Peer, peer
from .pyramid import Pyramid
from .rows import Scale
from .tables import configure, model_names

offline.switch_off()
from ultralytics.nn.tasks import (  # noqa: E402
    BaseModel,
    DetectionModel,
    RTDETRDetectionModel,
    initialize_weights,
)

__all__ = ["PollenDETR", "PollenModel", "assemble", "build", "model_names"]


class PollenModel(DetectionModel):
    """Body and head in a row, as ultralytics' losses, trainer, validator, predictor and exporters expect them.

    In eval mode `model(x)[0]` is (B, 4 + classes, A): for each of A anchors a box (centre x, centre y, width, height,
    pixels of `x`), then a probability a class. See `heads` for the heads that there are.

    Args:
        cfg: Name, YAML file or configuration, see `configure`.
        ch: Channels of the image; None keeps what `cfg` says, else 3.
        nc: Number of classes; None keeps what `cfg` says. Names are kept where the number agrees.
        verbose: Print a summary.

    Attributes:
        yaml: The full configuration, plain values: `PollenModel(model.yaml)` builds the same network again.
        names: Class names by index.
        duplicates: Whether several boxes can be of one grain.
        max_objects: Most boxes that it can give; None for one an anchor.
    """

    def __init__(
        self,
        cfg: str | Path | Mapping[str, Any],
        ch: int | None = None,
        nc: int | None = None,
        verbose: bool = True,
    ):
        # Not DetectionModel's: its parser knows ultralytics' own blocks only.
        BaseModel.__init__(self)
        config = self.yaml = configure(cfg, classes=nc, channels=ch)
        scale = Scale(*config["scales"][config["scale"]])
        body = Body(config["layers"], config["outputs"], scale, config["options"], config["channels"])
        head = make_head(config["head"], config["nc"], config["reg_max"], body.channels)
        self.duplicates = config["head"] == "detect"
        self.max_objects = head.num_queries if isinstance(head, Decoder) else None
        part: Any
        for i, part in enumerate((body, head)):
            part.i, part.f, part.type = i, -1, type(part).__name__
            part.np = sum(p.numel() for p in part.parameters())
        self.model, self.inplace = torch.nn.Sequential(body, head), True
        self.save: list[int] = []
        self.names = dict(enumerate(config["names"]))
        self.stride, self.nc = torch.tensor([8.0, 16.0, 32.0]), config["nc"]
        # What ultralytics sets for its own blocks (momentum of statistics, activations in place) others may not stand.
        for part in (*body.blocks.values(), head):
            if not isinstance(part, Pyramid):
                initialize_weights(part)
        if verbose:
            self.info()

    def init_criterion(self) -> Any:
        """The loss, with `naming_loss` and `nwd` of the configuration."""
        return criterion(self)

    def fuse(self, verbose: bool = False, imgsz: int = 640) -> PollenModel:
        """Folds normalisation into convolutions and branches into one kernel, for inference."""
        for module in self.modules():
            if isinstance(module, ConvNormAct | Pyramid):
                module.fuse()
            elif isinstance(module, KernelSum | GlobalGate):
                module.merge()
        return super().fuse(verbose=verbose, imgsz=imgsz)

    def _predict_once(self, x: torch.Tensor, profile: bool = False, embed: Sequence[int] | None = None) -> Any:
        if not embed:
            return super()._predict_once(x, profile)
        # The body returns several maps: an image's embedding is their means, one after the other.
        return torch.cat([maps.mean((2, 3)) for maps in self.model[0](x)], 1).unbind(0)


class PollenDETR(PollenModel):
    """A body of ours with RT-DETR's decoder and its loss; all else as `PollenModel`."""

    loss = RTDETRDetectionModel.loss
    init_criterion = RTDETRDetectionModel.init_criterion

    def predict(  # type: ignore[override]
        self,
        x: torch.Tensor,
        profile: bool = False,
        batch: dict[str, Any] | None = None,
        augment: bool = False,
        embed: Sequence[int] | None = None,
    ) -> Any:
        """As ultralytics' detectors; `batch` holds the true boxes in training."""
        if embed or profile:
            return self._predict_once(x, profile, embed)
        return self.model[1](self.model[0](x), batch)


def build(
    name_or_config: str | Path | Mapping[str, Any],
    *,
    classes: int | Sequence[str] | None = None,
    channels: int | None = None,
    **options: str | float | None,
) -> PollenModel | Peer:
    """A network with fresh weights: ours, or one of ultralytics' to compare with.

    Args:
        name_or_config: A name from `model_names()`, a YAML file, or the `yaml` of another model.
        classes: Number of classes, or their names in order; None keeps what the configuration says.
        channels: Channels of the image; None keeps what the configuration says, else 3.
        **options: Options of the table, such as `edge` (see `HEM`), `gate` and `kernel` (`OmniKernel`) or `backbone`
            (`pyramid`); `head` (`heads`), `naming_loss` (`loss`) and `nwd` (`wasserstein`). None keeps what the
            configuration says.

    Raises:
        UnknownModelError: No such name.
        UsageError: An unknown option, or no classes.
    """
    return assemble(configure(name_or_config, classes=classes, channels=channels, **options))


def assemble(config: Mapping[str, Any], verbose: bool = False) -> PollenModel | Peer:
    """The network of a full configuration, as `configure` gives it."""
    if "ultralytics" in config:
        return peer(config, verbose)
    return (PollenDETR if config.get("head") == "rtdetr" else PollenModel)(config, verbose=verbose)
