"""ultralytics' trainer and front end, taught to build our models. Nothing of ultralytics is patched.

Mind the threads: importing ultralytics sets OMP_NUM_THREADS to 1 where it is not set, and each time one of its
trainers, validators or predictors picks the CPU (`ultralytics.utils.torch_utils.select_device`), torch's number of
threads becomes cores - 1, at most 8. Whoever runs a network afterwards sets the number again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import yaml

from ... import offline
from ...data.atomic import write_text
from ...data.training_set import training_document
from ..feed.geometry import Spread
from ..feed.light import HSV, Light
from ..feed.loader import DeviceLoader
from ..weights import load_weights
from .dataset import LabelledPictures
from .detection import PollenModel, assemble
from .distill import Teacher
from .peers import Peer
from .pretrained import Taken, as_begun, begin
from .processes import train_in_processes
from .tables import configure
from .transfer import transfer

offline.switch_off()
from ultralytics import YOLO  # noqa: E402
from ultralytics.engine.model import Model  # noqa: E402
from ultralytics.models.yolo.detect import DetectionPredictor, DetectionTrainer, DetectionValidator  # noqa: E402
from ultralytics.utils import DEFAULT_CFG, DEFAULT_CFG_DICT, RANK  # noqa: E402
from ultralytics.utils.torch_utils import unwrap_model  # noqa: E402

__all__ = ["PollenTrainer", "PollenYOLO"]


class PollenTrainer(DetectionTrainer):
    """ultralytics' detection trainer on what `build` builds.

    Args:
        cfg: ultralytics' defaults.
        overrides: Its arguments; `model` is a name from `model_names()` with the suffix `.yaml`, a YAML file or a
            `.pt` that was trained here.
        _callbacks: Its callbacks.
        config: A configuration to train instead of `overrides["model"]`; its keys `start` and `backbone_weights`, if
            there, are weights files to start from, see `transfer` and `begin`.

    Attributes:
        teacher: Who answers for each training batch before the network does, see `distill`; a callback sets it when
            training starts, which a distributed or resumed run is given, too.
    """

    model: Any
    metrics: Any
    listing: Path
    teacher: Teacher | None = None

    def __init__(
        self,
        cfg: Any = DEFAULT_CFG,
        overrides: Mapping[str, Any] | None = None,
        _callbacks: Any = None,
        *,
        config: Mapping[str, Any] | None = None,
    ):
        super().__init__(cfg, dict(overrides or {}), _callbacks)
        if config is not None:
            # Travels whole to the processes of a distributed run.
            self.model = dict(config)

    def train(self) -> None:
        """Trains here, or on several GPUs in a process for each, see `processes`."""
        if self.ddp:
            self.metrics = train_in_processes(self)
        else:
            super().train()

    def get_model(self, cfg: Any = None, weights: Any = None, verbose: bool = True) -> PollenModel | Peer:
        """The network for the data set's classes, with the weights of another where given."""
        start = backbone = None
        if isinstance(cfg, Mapping):
            cfg = dict(cfg)
            start, backbone = cfg.pop("start", None), cfg.pop("backbone_weights", None)
        model = assemble(configure(cfg, classes=self.data["nc"], channels=self.data["channels"]), verbose)
        self.set_model_names_for_load(model)
        if start is not None:
            transfer(model, load_weights(start)[0])
        if backbone is not None:
            begin(model, backbone)
        if weights:
            model.load(weights)
        return model

    def get_dataset(self) -> dict[str, Any]:
        """The data set as palyno reads it: found beside its data.yaml where it was moved, and nothing in it is run.

        It is kept as `data.yaml` of the run, for ultralytics' validator, which reads it again when training ends.
        """
        self.listing = Path(self.args.data)
        document = training_document(self.listing)
        # Whoever only starts the processes of a distributed run writes nothing; they come here themselves.
        if not self.ddp:
            file = self.save_dir / "data.yaml"
            if RANK in (-1, 0):
                write_text(file, yaml.safe_dump(document, allow_unicode=True, sort_keys=False))
            self.args.data = str(file)
        return document

    def build_dataset(self, img_path: str, mode: str = "train", batch: int | None = None) -> LabelledPictures:
        """The pictures and boxes of a split, as palyno reads them."""
        network: Any = unwrap_model(self.model)
        return LabelledPictures(
            self.listing,
            mode,
            data=self.data,
            imgsz=self.args.imgsz,
            batch_size=batch,
            augment=mode == "train",
            hyp=self.args,
            rect=mode == "val",
            cache=self.args.cache or None,
            stride=max(int(network.stride.max()), 32),
            pad=0.0 if mode == "train" else 0.5,
            prefix=f"{mode}: ",
        )

    def get_dataloader(self, dataset_path: str, batch_size: int = 16, rank: int = 0, mode: str = "train") -> Any:
        """ultralytics', or for training with `cache="gpu"` or `"host"` a `DeviceLoader`."""
        if mode != "train" or self.args.cache not in ("gpu", "host"):
            return super().get_dataloader(dataset_path, batch_size, rank, mode)
        args = self.args
        return DeviceLoader(
            self.build_dataset(dataset_path, mode, batch_size),
            size=args.imgsz,
            batch=batch_size,
            device=self.device,
            spread=Spread(
                scale=args.scale,
                translate=args.translate,
                mirrored=args.fliplr > 0,
                quarters=args.flipud > 0,
                degrees=args.degrees,
                mosaic=args.mosaic,
            ),
            # ultralytics knows no such argument; its own hue tells how much was asked for.
            light=Light().times(args.hsv_h / HSV["hsv_h"]),
            seed=args.seed,
            rank=max(rank, 0),
            world=max(self.world_size, 1),
            host=args.cache == "host",
        )

    def _model_train(self) -> None:
        super()._model_train()
        if isinstance(self.train_loader, DeviceLoader):
            self.train_loader.set_epoch(self.epoch)

    def preprocess_batch(self, batch: dict[str, Any]) -> dict[str, Any]:
        """ultralytics', of a batch for training; with what the teacher says of it, for the loss."""
        batch = super().preprocess_batch(batch)
        if self.teacher is not None:
            batch["lesson"] = self.teacher(batch["img"])
        return batch

    def set_model_attributes(self) -> None:
        """Gives the network the data set's class names, in its configuration too."""
        super().set_model_attributes()
        self.model.yaml["names"] = [str(name) for _, name in sorted(self.data["names"].items())]


class PollenYOLO(YOLO):
    """ultralytics' front end (train, val, predict, export) for what `build` builds.

    Args:
        model: A name from `model_names()`, a YAML file, a configuration, or a `.pt` that was trained here (a pickle:
            only from people you trust).
        classes: For a new network its number of classes or their names; training takes the data set's.
        verbose: Print a summary.
        start: For a new network the weights file that training starts from, see `transfer`.
        backbone_weights: For a new network the file that its backbone starts from, see `begin`.
        **options: For a new network, see `configure`.

    Attributes:
        taken: What of `backbone_weights` the network has.
    """

    taken: Taken | None = None

    model: Any
    cfg: Any
    task: Any
    model_name: Any
    overrides: dict[str, Any]

    def __init__(
        self,
        model: str | Path | Mapping[str, Any],
        *,
        classes: int | Sequence[str] = 1,
        verbose: bool = False,
        start: str | Path | None = None,
        backbone_weights: str | Path | None = None,
        **options: Any,
    ):
        name = str(model.get("name", "detector") if isinstance(model, Mapping) else model)
        self._config: dict[str, Any] = {}
        self._begin = {"start": start, "backbone_weights": backbone_weights}
        if not name.endswith(".pt"):
            self._config = configure(model, classes=classes, **options)
            if backbone_weights is not None:
                self._config = as_begun(self._config, backbone_weights)
        # Not YOLO's: it gives a network with RT-DETR's head to another front end, with its own trainer.
        Model.__init__(self, name if name.endswith((".pt", ".yaml", ".yml")) else f"{name}.yaml", "detect", verbose)

    def _new(self, cfg: str, task: str | None = None, verbose: bool = False) -> None:
        self.cfg, self.task, self.model_name = cfg, task, cfg
        self.model = assemble(self._config, verbose)
        if isinstance(self.model, PollenModel):
            body: Any = self.model.model[0]
            body.check_strides([int(stride) for stride in self.model.stride], self.model.yaml["channels"])
        if (file := self._begin["backbone_weights"]) is not None:
            self.taken = begin(self.model, file)
        self.overrides |= {"model": cfg, "task": task}
        self.model.args = {**DEFAULT_CFG_DICT, **self.overrides}
        self.model.task = task

    def train(self, trainer: Any = None, **kwargs: Any) -> Any:  # type: ignore[override]
        """Trains; see ultralytics' `Model.train`. A new network's weights are drawn after seeding."""
        if trainer is None and not self.ckpt and not kwargs.get("resume"):
            files = {key: str(file) for key, file in self._begin.items() if file is not None}
            trainer = partial(PollenTrainer, config=self.model.yaml | files)
            kwargs.setdefault("pretrained", False)
        return super().train(trainer=trainer, **kwargs)

    @property
    def task_map(self) -> dict[str, dict[str, Any]]:
        """The classes that ultralytics uses for detection."""
        return {
            "detect": {
                "model": PollenModel,
                "trainer": PollenTrainer,
                "validator": DetectionValidator,
                "predictor": DetectionPredictor,
            }
        }
