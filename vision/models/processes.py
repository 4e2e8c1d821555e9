"""Training on several GPUs: a process for each, started by torch's launcher, and what they measured brought back.

ultralytics would empty the run's folder before it knows that there is anything to start. Here the start is written
first, and nothing is emptied.
"""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from ... import offline

offline.switch_off()
from ultralytics.utils.dist import ddp_cleanup, find_free_network_port, generate_ddp_file  # noqa: E402
from ultralytics.utils.torch_utils import unset_deterministic  # noqa: E402

__all__ = ["train_in_processes"]


@dataclass(frozen=True)
class Tell:
    """Called when training ends, in the first of the processes: writes down the figures on validation images."""

    file: Path

    def __call__(self, trainer: Any) -> None:
        figures = {key: float(value) for key, value in trainer.metrics.items()}
        self.file.write_text(json.dumps(figures), encoding="utf-8")


def train_in_processes(trainer: Any) -> dict[str, float]:
    """Trains in `trainer.world_size` processes, each with a copy of the trainer's arguments, network and callbacks.

    Args:
        trainer: ultralytics' trainer, of a process that does not train itself.

    Returns:
        What the trained network reaches on validation images, as `trainer.metrics` of a run in one process.

    Raises:
        subprocess.CalledProcessError: A process broke off; what it said is on stderr.
    """
    with TemporaryDirectory(prefix="palyno-") as folder:
        told = Path(folder) / "figures.json"
        trainer.add_callback("on_train_end", Tell(told))
        file = generate_ddp_file(trainer)
        try:
            launch = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", str(trainer.world_size)]
            subprocess.run([*launch, "--master_port", str(find_free_network_port()), file], check=True)
        finally:
            ddp_cleanup(trainer, file)
            # The trainer switched it on here, too, where nothing is trained.
            unset_deterministic()
        return dict(json.loads(told.read_text(encoding="utf-8")))
