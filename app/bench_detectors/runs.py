"""Trains several detectors side by side, each a process of its own, and keeps what they find."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from ...errors import UsageError
from .variants import chosen

__all__ = ["ImageSet", "Run", "train_all"]


@dataclass(frozen=True)
class ImageSet:
    """Images that detectors are scored on: `NAME=DATA:SPLIT` or `NAME=DATA:SPLIT:GLOB`.

    Attributes:
        name: What the set is called in tables.
        data: `data.yaml` of a YOLO data set.
        split: Which of its splits.
        only: Only images whose name matches, or None.
    """

    name: str
    data: Path
    split: str
    only: str | None = None

    @classmethod
    def parse(cls, text: str) -> ImageSet:
        """Reads the form above.

        Raises:
            UsageError: It is another.
        """
        name, _, rest = text.partition("=")
        parts = rest.split(":", 2)
        if not name or len(parts) < 2 or not all(parts):
            raise UsageError(f"--set: expected NAME=DATA:SPLIT or NAME=DATA:SPLIT:GLOB, got {text!r}")
        return cls(name, Path(parts[0]), parts[1], parts[2] if len(parts) == 3 else None)


@dataclass(frozen=True)
class Run:
    """One training.

    Attributes:
        model: A name of `VARIANTS` or a model of `palyno models list`.
        seed: Its seed.
        options: For `palyno train`, the same for all that are compared.
    """

    model: str
    seed: int
    options: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """The run's folder."""
        return f"{self.model}-s{self.seed}"

    def training(self, data: Path, folder: Path) -> list[str]:
        """The command that trains it, or goes on where it was broken off."""
        out = folder / self.name
        command = ["train", str(data), "--out", str(out), *chosen(self.model), "--name", self.model]
        command += ["--seed", str(self.seed)]
        return [*command, *self.options, *(["--resume"] if (out / "weights" / "last.pt").is_file() else [])]


def train_all(
    runs: Sequence[Run],
    data: Path,
    folder: Path,
    sets: Sequence[ImageSet],
    *,
    devices: Sequence[str] = ("cpu",),
    each: int = 1,
    start_within: float | None = None,
    told: Callable[[str], None] = lambda line: None,
) -> list[str]:
    """Trains what is not trained yet and keeps what each detector finds on each set.

    Called again after it was broken off, it goes on where it was.

    Args:
        runs: In the order in which they begin.
        data: `data.yaml` of the training data.
        folder: Folder of the runs.
        sets: Images to find grains on.
        devices: Such as `cuda:0`; each trains `each` at a time.
        each: Runs at a time on one device. Small networks leave a large GPU idle between their launches.
        start_within: No run begins after so many seconds; None begins all.
        told: Called with a line on what was done.

    Returns:
        Names of the runs that are not whole.
    """
    folder.mkdir(parents=True, exist_ok=True)
    waiting, lock, begun = list(runs), threading.Lock(), time.monotonic()

    def work(device: str) -> None:
        while start_within is None or time.monotonic() - begun < start_within:
            with lock:
                if not waiting:
                    return
                run = waiting.pop(0)
            start = time.monotonic()
            outcome = _one(run, data, folder, sets, device)
            told(f"{run.name}: {outcome}, {time.monotonic() - start:.0f} s on {device}")

    workers = [threading.Thread(target=work, args=(device,)) for device in devices for _ in range(each)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    return [run.name for run in runs if not _whole(run, folder, sets)]


def _one(run: Run, data: Path, folder: Path, sets: Sequence[ImageSet], device: str) -> str:
    out = folder / run.name
    weights = out / f"{run.model}.safetensors"
    with (folder / f"{run.name}.log").open("a", encoding="utf-8") as log:
        if not weights.is_file() and _call([*run.training(data, folder), "--device", device], log):
            return f"not trained, see {log.name}"
        for images in sets:
            if not (out / f"{images.name}.json.gz").is_file():
                command = ["val", str(images.data), "--split", images.split, "--model", str(weights)]
                # Figures and their intervals are `score`'s.
                command += ["--device", device, "--save", str(out / f"{images.name}.json.gz"), "--json", "--draws", "0"]
                if _call(command + (["--only", images.only] if images.only else []), log):
                    return f"nothing found on {images.name}, see {log.name}"
    return "whole"


def _call(arguments: Sequence[str], log: IO[str]) -> int:
    environment = {**os.environ, "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "2")}
    command = [sys.executable, "-m", "palyno", *arguments]
    return subprocess.run(command, stdout=log, stderr=subprocess.STDOUT, env=environment, check=False).returncode


def _whole(run: Run, folder: Path, sets: Sequence[ImageSet]) -> bool:
    return (folder / run.name / f"{run.model}.safetensors").is_file() and all(
        (folder / run.name / f"{images.name}.json.gz").is_file() for images in sets
    )
