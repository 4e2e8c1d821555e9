"""What a CPU will run weights in, and what the cache of prepared networks holds: looked at, nothing is made or changed.

    for outlook in look({"hieraedge-n": sha256}).models: ...

`prepared` decides when a model is opened; this says beforehand what it will find.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from ...errors import PalynoError
from . import asked_runtime, prepared
from .graph import packages

__all__ = ["Kept", "Networks", "Outlook", "look"]


@dataclass(frozen=True)
class Kept:
    """A prepared network in the cache.

    Attributes:
        path: The file.
        bytes: Its size.
        sha256: Hash of its bytes, as they are now.
    """

    path: Path
    bytes: int
    sha256: str

    @property
    def whole(self) -> bool:
        """Whether its bytes are those that were checked against PyTorch, whose hash its name says."""
        return self.sha256 == prepared._named(self.path)


@dataclass(frozen=True)
class Outlook:
    """What a CPU will run a model's weights in.

    Attributes:
        model: Name of the model.
        state: `ready`; `unprepared`, `damaged`, which is prepared when the model is opened next; `refused`, which
            cannot be; or `unasked`, where PyTorch was chosen.
        runtime: What will run it, with its version; None where opening it is an error, as only onnxruntime was asked
            for. Of one that is still to be prepared, if that succeeds.
        kept: Its file.
        reason: Why it is refused.
    """

    model: str
    state: str
    runtime: str | None
    kept: Kept | None = None
    reason: str | None = None


@dataclass(frozen=True)
class Networks:
    """The cache of prepared networks, and what follows from it.

    Attributes:
        asked: `auto`, `torch` or `onnxruntime`: what `PALYNO_RUNTIME` says.
        folder: Where prepared networks lie; None where there is no place for them.
        files: All that lie there, also of other models, versions and weights.
        models: Of each model that was asked about.
        reason: Why no network can be kept here; None where they can.
    """

    asked: str
    folder: Path | None
    files: tuple[Kept, ...]
    models: tuple[Outlook, ...]
    reason: str | None = None

    @property
    def others(self) -> tuple[Kept, ...]:
        """Files of none of the models as they are now."""
        current = {outlook.kept.path for outlook in self.models if outlook.kept}
        return tuple(kept for kept in self.files if kept.path not in current)


def look(models: Mapping[str, str]) -> Networks:
    """What is there for some models.

    Args:
        models: The sha256 of their weights by name.

    Raises:
        UsageError: `PALYNO_RUNTIME` names no runtime.
    """
    import torch

    asked, pytorch = asked_runtime("auto"), f"torch {torch.__version__}"
    folder: Path | None = None
    files: tuple[Kept, ...] = ()
    onnxruntime, reason = "", None
    try:
        folder = prepared._place()
        files = _files(folder)
        (package,) = packages("onnxruntime")
        onnxruntime = f"onnxruntime {package.__version__}"
        if folder.is_dir():
            prepared._refuse_others(folder)
    except (PalynoError, OSError) as error:
        reason = str(error)
    # What opens a model when it cannot be had: an error where it was asked for.
    instead = None if asked == "onnxruntime" else pytorch
    found = []
    for name, sha256 in models.items():
        key = prepared._key(sha256)
        # One that is whole before those that are not.
        mine = [kept for kept in files if kept.path.name.startswith(f"{key}-")]
        kept = max(mine, key=lambda kept: kept.whole) if mine else None
        if asked == "torch":
            outlook = Outlook(name, "unasked", pytorch, kept)
        elif reason is not None or folder is None:
            outlook = Outlook(name, "refused", instead, kept, reason)
        else:
            outlook = _outlook(name, folder / f"{key}.txt", kept, onnxruntime, instead)
        found.append(outlook)
    return Networks(asked, folder, files, tuple(found), reason)


def _outlook(model: str, note: Path, kept: Kept | None, onnxruntime: str, instead: str | None) -> Outlook:
    """As `prepared` would find it: a note that it cannot be goes first, then a whole file, then preparing."""
    with suppress(OSError):
        reason = note.read_text(encoding="utf-8").strip()
        return Outlook(model, "refused", instead, kept, f"{reason} (as noted in {note}; delete it to try again)")
    if kept is not None and kept.whole:
        return Outlook(model, "ready", onnxruntime, kept)
    try:
        packages("onnx", "onnxruntime")
    except PalynoError as error:
        return Outlook(model, "refused", instead, kept, str(error))
    if not writable(note.parent):
        reason = f"{note.parent} cannot be written to; set PALYNO_CACHE to a folder that you may write to"
        return Outlook(model, "refused", instead, kept, reason)
    return Outlook(model, "damaged" if kept else "unprepared", onnxruntime, kept)


def writable(folder: Path) -> bool:
    """Whether files can be written there; of a folder that is not there yet, whether it can be made."""
    while not folder.exists():
        folder = folder.parent
    return folder.is_dir() and os.access(folder, os.W_OK)


def _files(folder: Path) -> tuple[Kept, ...]:
    found = []
    for path in sorted(folder.glob("*-*.onnx")):
        # Another process may just have removed it.
        with suppress(FileNotFoundError), path.open("rb") as file:
            found.append(Kept(path, path.stat().st_size, hashlib.file_digest(file, "sha256").hexdigest()))
    return tuple(found)
