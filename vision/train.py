"""Training of detectors: one recipe on ultralytics' loop, from a YOLO data set to weights that `load` accepts."""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from dataclasses import replace
from itertools import zip_longest
from pathlib import Path
from typing import Any

from .. import __version__, offline
from ..data.annotations.yolo import read_classes
from ..data.training_set import read_training_set
from ..errors import InputError, UsageError
from .recipe import CACHES, DISTILLED, TrainSettings, as_begun, as_held, note, of_the_table
from .results import SlideResult
from .weights import Metadata

__all__ = ["CACHES", "TrainSettings", "known_classes", "train"]


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


def train(settings: TrainSettings, *, resume: bool = False, told: Callable[[str], None] | None = None) -> Path:
    """Trains a detector; the best checkpoint by validation mAP50-95 becomes the weights.

    How sure the weights are of names is then fitted to the validation images, see `palyno.vision.temperature`.

    Args:
        settings: The recipe.
        resume: Go on from `out/last.pt`, which must be a checkpoint of an unfinished run of this recipe made by you:
            it is a pickle, and loading one runs the code inside. Where only the weights are missing they are made.
        told: Is handed, before training starts, a line on what the network takes of `backbone_weights`, and one where
            pictures are scaled so much that grains on slides have another size.

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
        settings = as_begun(settings)
    _check_device(settings.device)
    # All of it, so that what is wrong with it is told now, and not when training ends.
    data = read_training_set(settings.data)
    names = data.classes
    if told and (scaling := data.scaling(settings.imgsz)):
        told(scaling)
    file, start = (None, None) if settings.weights is None else _trained(settings.weights)[:2]
    tutor, network = (None, None) if settings.teacher is None else _trained(settings.teacher)[1:]
    offline.switch_off()
    offline.provide_fonts()
    from .models.distill import Teaching
    from .models.trainer import PollenYOLO

    ended = False
    if resume:
        yolo = PollenYOLO(last)
        # At the end of training ultralytics takes out of a checkpoint what going on would need.
        ended = (yolo.ckpt or {}).get("epoch", 0) < 0
        if (begun := tuple(str(name) for _, name in sorted(yolo.model.names.items()))) != names:
            was, now = next(pair for pair in zip_longest(begun, names) if pair[0] != pair[1])
            raise UsageError(
                f"{settings.data}: expected the {len(begun)} classes that the run was begun with, in their order; got "
                f"{len(names)}, and {now} where {was} was; begin a new run with other classes"
            )
        here = ("data", "device", "workers")
        arguments = {"resume": str(last), **{name: _arguments(settings)[name] for name in here}}
    else:
        table = settings.model if start is None else start.config
        options = of_the_table(settings, len(names)) | {"backbone_weights": settings.backbone_weights}
        yolo = PollenYOLO(table, classes=names, start=file, **options)
        if told and yolo.taken:
            told(str(yolo.taken))
        arguments = _arguments(settings)
    if network is not None:
        teaching = Teaching(network, *(getattr(settings, name) for name in DISTILLED))
        teaching.teacher(yolo.model)  # Here, before anything is written, it is told if it cannot teach.
        yolo.add_callback("on_train_start", teaching)
    held = as_held(settings, yolo.model.yaml, start)
    if ended and (weights := run / f"{held['name']}.safetensors").is_file():
        raise UsageError(f"{run}: expected an unfinished run to resume, got one that is finished: {weights}")
    run.mkdir(parents=True, exist_ok=True)
    # Of a folder that has lost its recipe nobody knows what was asked for.
    noted = not resume or (run / "recipe.json").is_file()
    if noted:
        note(run, held)
    yolo.add_callback("on_train_epoch_start", _validate_when_due(settings.validate_every))
    if not ended:
        yolo.train(**arguments)
    if settings.hours is not None:
        settings = replace(settings, epochs=_passes(run))
    if noted:
        note(run, as_held(settings, yolo.model.yaml, start))
    best = run / "weights" / "best.pt"
    metrics = (PollenYOLO(best).ckpt or {}).get("train_metrics") if ended else getattr(yolo.trainer, "metrics", None)
    # A checkpoint has its losses beside them.
    metrics = {name: value for name, value in (metrics or {}).items() if name.startswith("metrics/")}
    largest = data.largest_grain(settings.imgsz)
    path = export_checkpoint(best, run, settings, metrics=metrics, max_grain_px=largest, start=start, tutor=tutor)
    return _fitted(path, settings)


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
    held = as_held(settings, model.yaml, start)
    recipe = {k: v for k, v in held.items() if k not in {"data", "out", "device", "workers", "cache"}}
    # Hashes and names, where the settings may have paths of this machine.
    recipe["model"] = Path(settings.model).stem if start is None else start.name
    recipe["weights"] = None if start is None else start.sha256
    if settings.backbone_weights is not None:
        recipe["backbone_weights"] = model.yaml["pretrained"]
    recipe["teacher"] = None if tutor is None else {"name": tutor.name, "sha256": tutor.sha256}
    path = out / f"{held['name']}.safetensors"
    training = {
        "palyno": __version__,
        "seed": settings.seed,
        "recipe": recipe,
        "validation": {k: round(float(v), 5) for k, v in metrics.items() if isinstance(v, int | float)},
    }
    save_weights(
        path,
        model,
        name=held["name"],
        classes=names,
        config=model.yaml,
        imgsz=settings.imgsz,
        naming_threshold=settings.naming_threshold,
        max_grain_px=max_grain_px,
        training=training,
    )
    return path


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
        "data": str(settings.data.absolute()),
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
        "multi_scale": settings.multi_scale,
        "mosaic": 0.6,
        "close_mosaic": min(12, max(1, settings.epochs // 6)),
        "augmentations": None if settings.cache in ("gpu", "host") else training_transforms(),
        "patience": settings.epochs,
        "plots": False,
        "pretrained": False,
        "verbose": True,
    }


def _passes(run: Path) -> int:
    """How many passes over the images a run's log tells of."""
    return int((run / "results.csv").read_text(encoding="utf-8").splitlines()[-1].split(",")[0])


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
