"""The recipe of a training: its settings, refused where they cannot be meant, and how a run's folder keeps them."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..data.atomic import write_text
from ..errors import UsageError

if TYPE_CHECKING:
    from .weights import Metadata

__all__ = ["CACHES", "DISTILLED", "FEW_CLASSES", "TrainSettings", "as_begun", "as_held", "note", "of_the_table"]

CACHES = ("none", "ram", "host", "gpu")

# With a teacher, where nothing else is said.
DISTILLED = {"distill": 1.0, "distill_temperature": 2.0, "distill_boxes": 0.0}

# Of the images of a batch: on smaller ones the coarsest map has a single place.
LEAST_SIDE = 64

# What a layer table decides where the settings do not.
TABLE = ("edge", "gate", "backbone", "head", "options")

# The cross-entropy of names helps to tell dozens of taxa apart. With BCCD's three classes it takes from boxes
# (validation images, docs/detectors.md); where between 3 and 66 it turns was not measured.
FEW_CLASSES = 10


@dataclass(frozen=True)
class TrainSettings:
    """The recipe.

    Attributes:
        data: `data.yaml` of a YOLO data set, such as `palyno compose` writes.
        out: Folder of the run: logs, checkpoints, and at the end `NAME.safetensors`.
        model: Name of a layer table, or a YAML file; not asked for where there are `weights`.
        weights: Trained weights to start from, a name that ships or a file: their layers are taken, and what they know
            of the classes, see `palyno.vision.models.transfer`. None starts from random ones.
        name: Name of the weights that come out; the model's if None.
        epochs: Passes over the training images.
        hours: Time budget; replaces `epochs` and fits the learning rate's schedule into it.
        batch: Images a step.
        imgsz: Side of the network's input in pixels.
        device: `auto`, `cpu`, `cuda`, `cuda:N` or `mps`; `cuda:0,1` trains on several GPUs, each with its share of the
            batch.
        workers: Processes that load and augment.
        seed: Of initial weights, order and augmentation.
        lr: Peak learning rate of AdamW.
        weight_decay: Of AdamW, decoupled from the gradient; norms and biases have none.
        edge: Edge prior of HieraEdgeNet's blocks; the table's if None.
        gate: Frequency gate of its omni-kernel; the table's if None.
        backbone: Of models that have one to choose, `biformer_nano` or `timm:NAME`; the table's if None.
        backbone_weights: A file that the backbone starts from, see `palyno.vision.models.pretrained`; None starts it
            from random ones.
        head: See `palyno.vision.models.heads`; the table's if None.
        options: Values for further options of the table, such as `{"kernel": 13}`.
        naming_loss: Weight of the cross-entropy of names, see `palyno.vision.models.loss`; if None the
            table's, but 0 for fewer than `FEW_CLASSES` classes.
        nwd: Share of the normalised Wasserstein distance in the loss of boxes and in which anchors answer for a grain,
            0 to 1, see `palyno.vision.models.wasserstein`.
        teacher: Trained weights to learn names from beside the labels, a name that ships or a file, of any table with
            the same grid of anchors, see `palyno.vision.models.distill`. None learns from the labels alone.
        distill: Weight of what the teacher says of names, beside 1 of the labels' own loss; 1 if None.
        distill_temperature: What both networks' logits are divided by to compare them; 2 if None.
        distill_boxes: Weight of what it says of the boxes' sides; 0 if None.
        validate_every: Epochs between validations; the last fifth of the epochs, at most ten, are all validated.
        naming_threshold: Share of its confidence that a name must have, see `palyno.vision.naming`; to be chosen on
            validation data.
        deterministic: Bitwise repeatable on one machine, and slower.
        cache: Where decoded images stay: `none`, `ram`, or `gpu`, where they are augmented as well, which trains
            small networks several times faster; `host` augments them there and keeps them in main memory.
        light: How much stain, lamp, focus and noise vary from image to image, times the usual; 0 to 2. Without `cache`
            `gpu` or `host` it is hue, saturation and brightness that vary more or less.
        degrees: With `cache` `gpu` or `host`, turned by up to so many degrees beside mirroring and quarter turns.
        multi_scale: Share of `imgsz` by which the side of a batch varies at most, up and down, in steps of 32 pixels; 0
            trains at `imgsz` alone.
    """

    data: Path
    out: Path
    model: str = "hieraedge-n"
    weights: str | Path | None = None
    name: str | None = None
    epochs: int = 100
    hours: float | None = None
    batch: int = 16
    imgsz: int = 640
    device: str = "auto"
    workers: int = 4
    seed: int = 0
    lr: float = 0.002
    weight_decay: float = 5e-4
    edge: str | None = None
    gate: str | None = None
    backbone: str | None = None
    backbone_weights: str | Path | None = None
    head: str | None = None
    options: Mapping[str, str | int] = field(default_factory=dict)
    naming_loss: float | None = None
    nwd: float = 0.0
    teacher: str | Path | None = None
    distill: float | None = None
    distill_temperature: float | None = None
    distill_boxes: float | None = None
    validate_every: int = 1
    naming_threshold: float = 0.5
    deterministic: bool = False
    cache: str = "none"
    light: float = 1.0
    degrees: float = 0.0
    multi_scale: float = 0.0

    def __post_init__(self) -> None:
        for name, low in (("epochs", 1), ("batch", 1), ("imgsz", 32), ("workers", 0), ("validate_every", 1)):
            if getattr(self, name) < low:
                raise UsageError(f"{name} must be at least {low}, got {getattr(self, name)}")
        if self.name is not None and not re.fullmatch(r"[^/\\\0]+", self.name):
            raise UsageError(
                f"name: expected the name of a file, without folders, got {self.name!r}; the weights lie in the folder "
                "of the run, out"
            )
        if not 0 <= self.weight_decay <= 1:
            raise UsageError(f"weight_decay: expected 0 to 1, got {self.weight_decay}")
        if self.imgsz % 32:
            raise UsageError(f"imgsz must be a multiple of 32, got {self.imgsz}")
        if not re.fullmatch(r"auto|cpu|mps|cuda(:\d+(,\d+)*)?", self.device):
            raise UsageError(f"device: expected auto, cpu, cuda, cuda:N, cuda:N,M or mps, got {self.device!r}")
        if self.batch % (gpus := self.device.count(",") + 1):
            raise UsageError(f"batch: expected a multiple of {gpus}, the number of GPUs, got {self.batch}")
        if self.cache not in CACHES:
            raise UsageError(f"cache: expected one of {', '.join(CACHES)}, got {self.cache!r}")
        table = [key for key in (*TABLE, "backbone_weights") if getattr(self, key)]
        if self.weights is not None and table:
            raise UsageError(
                f"{', '.join(table)}: weights bring their layer table; leave out one of the two (the weights of a "
                "backbone alone are backbone_weights)"
            )
        if not 0 <= self.light <= 2:
            raise UsageError(f"light: expected 0 to 2, got {self.light}")
        if self.degrees and self.cache not in ("gpu", "host"):
            raise UsageError("degrees: only with cache='gpu' or 'host'")
        if not 0 <= self.multi_scale < 1:
            raise UsageError(f"multi_scale: expected 0 to below 1, got {self.multi_scale}")
        least = int(self.imgsz * (1 - self.multi_scale)) // 32 * 32
        if self.multi_scale and least < LEAST_SIDE:
            raise UsageError(
                f"multi_scale: expected sides of {LEAST_SIDE} pixels or more, got imgsz {self.imgsz} less a share of "
                f"{self.multi_scale}; make the one larger or the other smaller"
            )
        self._fill_distilled()

    def _fill_distilled(self) -> None:
        """Says what a teacher's word weighs, where there is one."""
        given = [name for name in DISTILLED if getattr(self, name) is not None]
        if self.teacher is None:
            if given:
                raise UsageError(f"{', '.join(given)}: expected a teacher too, got none; name one, or leave these out")
            return
        for name, value in DISTILLED.items():
            if name not in given:
                object.__setattr__(self, name, value)
            got = getattr(self, name)
            if not 0 <= got < math.inf or (name == "distill_temperature" and not got):
                raise UsageError(f"{name}: expected a number {'above' if 'temp' in name else 'from'} 0, got {got}")
        if not self.distill and not self.distill_boxes:
            raise UsageError("distill: expected more than 0, got 0 and no distill_boxes; leave the teacher out")


def of_the_table(settings: TrainSettings, classes: int) -> dict[str, Any]:
    """What of a model's table is not as it is written there, for a data set of so many classes."""
    chosen = {key: getattr(settings, key) for key in (*TABLE[:-1], "naming_loss", "nwd")}
    if settings.naming_loss is None and classes < FEW_CLASSES:
        chosen["naming_loss"] = 0.0
    return chosen | dict(settings.options)


def as_held(settings: TrainSettings, config: Mapping[str, Any], start: Metadata | None = None) -> dict[str, Any]:
    """The settings with what held where they left it to the model's table or the data set.

    Args:
        settings: What was asked for.
        config: The network's configuration, see `palyno.vision.models.tables`.
        start: The weights that training starts from.
    """
    options = dict(config.get("options", {}))
    table = {key: options.pop(key, None) for key in ("edge", "gate", "backbone")}
    table |= {"head": config.get("head"), "options": options, "naming_loss": config.get("naming_loss", 0.0)}
    model = settings.model if start is None else start.name
    name = settings.name or (Path(model).stem if start is None else Path(model).name)
    return asdict(settings) | table | {"model": model, "name": name}


def note(out: Path, held: Mapping[str, Any]) -> None:
    """Writes a recipe, see `as_held`, into a run's folder."""
    write_text(out / "recipe.json", json.dumps(held, default=str, indent=1) + "\n")


def as_begun(settings: TrainSettings) -> TrainSettings:
    """The recipe that an unfinished run was begun with, where its folder still has it.

    What an older recipe does not say is as it was when nobody could choose it: the default.
    """
    try:
        noted = json.loads((settings.out / "recipe.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        return settings
    here = {key: getattr(settings, key) for key in ("data", "out", "device", "workers")}
    own = {f.name for f in fields(TrainSettings)} - here.keys()
    if noted.get("weights") is not None:
        own -= set(TABLE)  # They bring their own.
    return TrainSettings(**here, **{key: value for key, value in noted.items() if key in own})
