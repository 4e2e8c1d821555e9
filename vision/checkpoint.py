"""Checkpoints of PyTorch, which are pickles, read without running them: `read_checkpoint`.

The work is done by `unpickle.py`, a program in a process of its own.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from ..errors import RejectedModelError

if TYPE_CHECKING:
    import torch

__all__ = ["Checkpoint", "read_checkpoint"]


@dataclass(frozen=True)
class Checkpoint:
    """What a checkpoint holds.

    Attributes:
        tensors: Parameters and buffers by name.
        modules: Of a pickled network its modules by name, the network itself under the empty one: `class`, the full
            name of the class, and whatever attributes are plain values. Empty where the file holds tensors alone.
        about: What else is plain at the top of the file.
    """

    tensors: Mapping[str, torch.Tensor]
    modules: Mapping[str, Mapping[str, Any]]
    about: Mapping[str, Any]


def read_checkpoint(source: str | Path, what: str) -> Checkpoint:
    """Reads a checkpoint; of all that its pickle asks to be run, nothing is.

    Args:
        source: The file.
        what: What it should be, for messages.

    Raises:
        RejectedModelError: No such file, no checkpoint, or one that asks for what no network needs.
    """
    from safetensors import safe_open

    source = Path(source)
    if not source.is_file():
        raise RejectedModelError(f"{source}: expected {what}, there is no such file")
    with TemporaryDirectory(prefix="palyno-") as folder:
        out = Path(folder) / "tensors.safetensors"
        # -P: modules are not looked for beside the program.
        command = [sys.executable, "-P", str(Path(__file__).with_name("unpickle.py")), str(source.resolve()), str(out)]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            said = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
            raise RejectedModelError(
                f"{source}: expected {what} as its authors publish them, got {said[-1]}; nothing in it was run"
            )
        with safe_open(out, "pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            content = json.loads(file.metadata()["content"])
    return Checkpoint(tensors, content["modules"], content["about"])
