"""Training of detectors: one recipe on ultralytics' loop, from a YOLO data set to weights that `load` accepts."""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from .. import __version__, offline
from ..data.annotations.yolo import read_classes
from ..data.training_set import read_training_set
from ..errors import InputError, UsageError
from .results import SlideResult
from .weights import Metadata

__all__ = ["CACHES", "TrainSettings", "backbone_taken", "known_classes", "train"]

CACHES = ("none", "ram", "host", "gpu")

# With a teacher, where nothing else is said.
DISTILLED = {"distill": 1.0, "distill_temperature": 2.0, "distill_boxes": 0.0}

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

    def __post_init__(self) -> None:
        for name, low in (("epochs", 1), ("batch", 1), ("imgsz", 32), ("workers", 0), ("validate_every", 1)):
            if getattr(self, name) < low:
                raise UsageError(f"{name} must be at least {low}, got {getattr(self, name)}")
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
        table = [
            key for key in ("edge", "gate", "backbone", "backbone_weights", "head", "options") if getattr(self, key)
        ]
        if self.weights is not None and table:
            raise UsageError(
                f"{', '.join(table)}: weights bring their layer table; leave out one of the two (the weights of a "
                "backbone alone are backbone_weights)"
            )
        if not 0 <= self.light <= 2:
            raise UsageError(f"light: expected 0 to 2, got {self.light}")
        if self.degrees and self.cache not in ("gpu", "host"):
            raise UsageError("degrees: only with cache='gpu' or 'host'")
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


def known_classes(data: Path, weights: str | Path) -> tuple[list[str], list[str]]:
    """A data set's classes that trained weights know by the same name, and those that they do not.

    Raises:
        InputError: No such data set.
        UnknownModelError: No such weights.
        RejectedModelError: They are not what they should be.
    """
    from .weights import find_model, read_metadata

    # Without its network: that is built when training starts.
    taught = set(read_metadata(find_model(weights)[0]).classes)
    names = _classes(data)
    return [name for name in names if name in taught], [name for name in names if name not in taught]


def backbone_taken(settings: TrainSettings) -> str:
    """What the network takes of `backbone_weights`, in a line.

    Raises:
        UsageError: The model has no backbone to choose.
        RejectedModelError: The file is not of its backbone.
    """
    from .models.trainer import PollenYOLO

    chosen: dict[str, Any] = {"backbone": settings.backbone, **settings.options}
    return str(PollenYOLO(settings.model, backbone_weights=settings.backbone_weights, **chosen).taken)


def train(settings: TrainSettings, *, resume: bool = False) -> Path:
    """Trains a detector; the best checkpoint by validation mAP50-95 becomes the weights.

    How sure the weights are of names is then fitted to the validation images, see `palyno.vision.temperature`.

    Args:
        settings: The recipe.
        resume: Go on from `out/last.pt`, which must be a checkpoint of an unfinished run of this recipe made by you:
            it is a pickle, and loading one runs the code inside.

    Returns:
        The weights, `out/NAME.safetensors`.

    Raises:
        InputError: Something is wrong with the data set; see `palyno.data.training_set.read_training_set`.
        UsageError: `out` holds a finished or unfinished run and `resume` was not asked for, or there is none to resume;
            the device is not here; or teacher and model cannot be compared anchor by anchor.
        UnknownModelError: No such weights to start from or to learn from.
        RejectedModelError: They are not what they should be.
    """
    run = settings.out
    last = run / "weights" / "last.pt"
    if resume and not last.is_file():
        raise UsageError(f"{run}: expected an unfinished run to resume ({last.name} in its weights folder), found none")
    if not resume and run.exists() and any(run.iterdir()):
        raise UsageError(f"{run}: expected a new or empty folder; it holds files; give another, or --resume")
    if resume:
        settings = _as_begun(settings)
    _check_device(settings.device)
    # All of it, so that what is wrong with it is told now, and not when training ends.
    data = read_training_set(settings.data)
    names = data.classes
    file, start = (None, None) if settings.weights is None else _trained(settings.weights)[:2]
    tutor, network = (None, None) if settings.teacher is None else _trained(settings.teacher)[1:]
    offline.switch_off()
    offline.provide_fonts()
    from .models.distill import Teaching
    from .models.trainer import PollenYOLO

    if resume:
        yolo = PollenYOLO(last)
        arguments: dict[str, Any] = {"resume": str(last)}
    else:
        table = settings.model if start is None else start.config
        options = _of_the_table(settings, len(names)) | {"backbone_weights": settings.backbone_weights}
        yolo = PollenYOLO(table, classes=names, start=file, **options)
        arguments = _arguments(settings)
    if network is not None:
        teaching = Teaching(network, *(getattr(settings, name) for name in DISTILLED))
        teaching.teacher(yolo.model)  # Here, before anything is written, it is told if it cannot teach.
        yolo.add_callback("on_train_start", teaching)
    run.mkdir(parents=True, exist_ok=True)
    if not resume:
        _note(settings)
    yolo.add_callback("on_train_epoch_start", _validate_when_due(settings.validate_every))
    yolo.train(**arguments)
    if not resume:
        _note(settings)  # Again: a distributed run empties its folder when it starts.
    metrics = dict(getattr(yolo.trainer, "metrics", None) or {})
    largest = data.largest_grain(settings.imgsz)
    path = export_checkpoint(
        run / "weights" / "best.pt", run, settings, metrics=metrics, max_grain_px=largest, start=start, tutor=tutor
    )
    return _fitted(path, settings)


def _of_the_table(settings: TrainSettings, classes: int) -> dict[str, Any]:
    """What of a model's table is not as it is written there, for a data set of so many classes."""
    chosen = {k: getattr(settings, k) for k in ("edge", "gate", "backbone", "head", "naming_loss")}
    if settings.naming_loss is None and classes < FEW_CLASSES:
        chosen["naming_loss"] = 0.0
    return chosen | dict(settings.options)


def _fitted(path: Path, settings: TrainSettings) -> Path:
    """Fits the temperature of names to the validation images, and writes down how the detector counts there."""
    from .detector import load
    from .operating import how_it_counts
    from .temperature import fit_temperature, with_temperature
    from .validate import read_split

    device = "cuda" if settings.device.startswith("cuda") else settings.device
    detector = load(path, device=device, runtime="torch")
    images, truth = read_split(settings.data, "val")
    found: list[SlideResult] = []
    fit = fit_temperature(detector, images, truth, seen=found.append)
    training = {**detector.metadata.training, "counts": how_it_counts(truth, found)}
    return with_temperature(path, path, round(fit.temperature, 3), training=training)


def export_checkpoint(
    checkpoint: Path,
    out: Path,
    settings: TrainSettings,
    metrics: dict[str, Any],
    max_grain_px: int,
    start: Metadata | None = None,
    tutor: Metadata | None = None,
) -> Path:
    """Turns a checkpoint of one's own run (a pickle) into weights that `load` accepts.

    Args:
        checkpoint: The checkpoint.
        out: Folder of the weights.
        settings: The recipe, which the weights keep.
        metrics: Figures on validation images, which they keep too.
        max_grain_px: Diameter of the largest grains, in pixels of the network's input.
        start: The weights that training started from.
        tutor: The teacher's.

    Returns:
        `out/NAME.safetensors`.
    """
    from .models.trainer import PollenYOLO
    from .weights import save_weights

    model = PollenYOLO(checkpoint).model.float()
    names = tuple(str(n) for _, n in sorted(model.names.items()))
    name = settings.name or (Path(settings.model).stem if start is None else Path(start.name).name)
    recipe = {k: v for k, v in asdict(settings).items() if k not in {"data", "out", "device", "workers", "cache"}}
    if start is not None:
        recipe |= {"model": start.name, "weights": start.sha256}
    if settings.backbone_weights is not None:
        recipe["backbone_weights"] = model.yaml["pretrained"]
    recipe["teacher"] = None if tutor is None else {"name": tutor.name, "sha256": tutor.sha256}
    path = out / f"{name}.safetensors"
    training = {
        "palyno": __version__,
        "seed": settings.seed,
        "recipe": recipe,
        "validation": {k: round(float(v), 5) for k, v in metrics.items() if isinstance(v, int | float)},
    }
    save_weights(
        path,
        model,
        name=name,
        classes=names,
        config=model.yaml,
        imgsz=settings.imgsz,
        naming_threshold=settings.naming_threshold,
        max_grain_px=max_grain_px,
        training=training,
    )
    return path


def _as_begun(settings: TrainSettings) -> TrainSettings:
    """The recipe that an unfinished run was begun with, where its folder still has it."""
    try:
        noted = json.loads((settings.out / "recipe.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        return settings
    own = {f.name for f in fields(TrainSettings)} - {"data", "out", "device", "workers"}
    return replace(settings, **{key: value for key, value in noted.items() if key in own})


def _trained(weights: str | Path) -> tuple[Path, Metadata, Any]:
    """The file of trained weights, checked where it ships, what it says about itself, and its network."""
    from .weights import find_model, load_weights

    path, shipped = find_model(weights)
    network, metadata = load_weights(path, shipped=shipped)
    return path, metadata, network


def _arguments(settings: TrainSettings) -> dict[str, Any]:
    from ..data.augment import training_transforms
    from .feed.light import HSV

    device = {"auto": None, "cuda": 0}.get(settings.device, settings.device.removeprefix("cuda:"))
    return {
        "data": str(settings.data.resolve()),
        "project": str(settings.out.resolve().parent),
        "name": settings.out.resolve().name,
        "exist_ok": True,
        "epochs": settings.epochs,
        "time": settings.hours,
        "batch": settings.batch,
        # Steps are taken on every batch: small sets would otherwise see few steps.
        "nbs": settings.batch,
        "imgsz": settings.imgsz,
        "device": device,
        "workers": settings.workers,
        "seed": settings.seed,
        "deterministic": settings.deterministic,
        "optimizer": "AdamW",
        "lr0": settings.lr,
        "lrf": 0.01,
        "cos_lr": True,
        "warmup_epochs": min(2.0, 0.05 * settings.epochs),
        "weight_decay": settings.weight_decay,
        # Below the range of fp16 but not of bf16 lie the FFT sums of the omni-kernel.
        "amp": "bf16" if _has_cuda(settings.device) else False,
        "cache": False if settings.cache == "none" else settings.cache,
        # Pollen has no up.
        "fliplr": 0.5,
        "flipud": 0.5,
        "scale": 0.4,
        "translate": 0.1,
        **{name: amount * settings.light for name, amount in HSV.items()},
        "degrees": settings.degrees,
        "mosaic": 0.6,
        "close_mosaic": min(12, max(1, settings.epochs // 6)),
        "augmentations": None if settings.cache in ("gpu", "host") else training_transforms(),
        "patience": settings.epochs,
        "plots": False,
        "pretrained": False,
        "verbose": True,
    }


def _validate_when_due(every: int) -> Callable[[Any], None]:
    """A callback that validates every few epochs, and in all of the last ones, where the best checkpoint falls."""

    def on_train_epoch_start(trainer: Any) -> None:
        last = min(10, max(1, trainer.epochs // 5))
        due = (trainer.epoch + 1) % every == 0 or trainer.epoch >= trainer.epochs - last
        trainer.args.val = due
        if not due:
            # Else the trainer takes the last validation's figure for this epoch's, and saves it as the best.
            trainer.fitness = None
            trainer.best_fitness = -math.inf if trainer.best_fitness is None else trainer.best_fitness

    return on_train_epoch_start


def _note(settings: TrainSettings) -> None:
    recipe = json.dumps(asdict(settings), default=str, indent=1)
    (settings.out / "recipe.json").write_text(recipe + "\n", encoding="utf-8")


def _classes(data: Path) -> list[str]:
    if not data.is_file():
        raise InputError(f"{data}: expected the data.yaml of a YOLO data set; there is no such file")
    return read_classes(data)


def _check_device(device: str) -> None:
    """Refuses a device that is not here before anything is written."""
    from .network import choose_device

    first, *others = device.split(",")
    for one in (first, *(f"cuda:{number}" for number in others)):
        choose_device(one)


def _has_cuda(device: str) -> bool:
    import torch

    return device != "cpu" and torch.cuda.is_available() and os.environ.get("CUDA_VISIBLE_DEVICES") != ""
