"""The models that come with palyno, as `weights/models.lock` lists them, and where their files are."""

from __future__ import annotations

import json
from pathlib import Path
from typing import NamedTuple

from ..errors import RejectedModelError, UnknownModelError
from .parts import Stored, read_stored

__all__ = ["LOCK", "LOCK_FORMAT", "Shipped", "find_encoder", "find_model", "published", "shipped_models"]

LOCK = Path(__file__).parent.parent / "weights" / "models.lock"
LOCK_FORMAT = "palyno-models-1"


class Shipped(NamedTuple):
    """An entry of `models.lock`: one model that comes with palyno.

    Attributes:
        file: Name of the file beside `models.lock`; of a detector in parts, of the first.
        sha256: Its hash; of a detector in parts, of their bytes one after the other.
        bytes: Its size; of all parts together.
        licence: Of the weights.
        source: Of the training data.
        kind: `detector`, or `encoder`: of grains or of words, see `palyno.retrieval`.
        about: What it is taken for, in a few words.
    """

    file: str
    sha256: str
    bytes: int
    licence: str
    source: str
    kind: str = "detector"
    about: str = ""


def shipped_models(lock: str | Path = LOCK) -> dict[str, Shipped]:
    """The models that come with palyno, by name.

    Raises:
        RejectedModelError: The list does not say what it should.
    """
    lock = Path(lock)
    if not lock.exists():
        return {}
    try:
        document = json.loads(lock.read_text(encoding="utf-8"))
        if document["format"] != LOCK_FORMAT:
            raise ValueError(f"format {document['format']!r}")
        models = {name: Shipped(**entry) for name, entry in document["models"].items()}
        if any(Path(entry.file).name != entry.file for entry in models.values()):
            raise ValueError("a file that is not beside the list")
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise RejectedModelError(f"{lock}: expected a list of models ({LOCK_FORMAT}), got {error}") from error
    return models


def find_model(name_or_path: str | Path, lock: str | Path = LOCK) -> tuple[Path, Shipped | None]:
    """Where a model's weights are.

    Args:
        name_or_path: A name from `shipped_models()`, or a weights file, or any part of one.
        lock: The list of models.

    Returns:
        The file, and its entry in the list if it was found by name.

    Raises:
        UnknownModelError: Neither a name nor a file.
    """
    models = {name: entry for name, entry in shipped_models(lock).items() if entry.kind == "detector"}
    if str(name_or_path) in models:
        entry = models[str(name_or_path)]
        return Path(lock).parent / entry.file, entry
    path = Path(name_or_path)
    if not path.is_file():
        listed = ", ".join(sorted(models)) or "none is installed"
        raise UnknownModelError(f"expected the name of a model ({listed}) or a weights file, got {str(name_or_path)!r}")
    return path, None


def find_encoder(name_or_path: str | Path, lock: str | Path = LOCK) -> Path:
    """Where an encoder's weights are; those that ship are compared with the list first.

    Args:
        name_or_path: A name from `shipped_models()`, or a weights file.
        lock: The list of models.

    Raises:
        UnknownModelError: Neither a name nor a file.
        RejectedModelError: The file is not the one that was published.
    """
    encoders = {name: entry for name, entry in shipped_models(lock).items() if entry.kind == "encoder"}
    if (entry := encoders.get(str(name_or_path))) is None:
        path = Path(name_or_path)
        if not path.is_file():
            listed = ", ".join(sorted(encoders)) or "none is installed"
            raise UnknownModelError(
                f"expected the name of an encoder ({listed}) or a weights file, got {str(name_or_path)!r}"
            )
        return path
    path = Path(lock).parent / entry.file
    published(read_stored(path), entry)
    return path


def published(stored: Stored, entry: Shipped) -> None:
    """Compares a file with its entry in the list.

    Raises:
        RejectedModelError: It is not the one that was published.
    """
    if (stored.sha256, stored.size) != (entry.sha256, entry.bytes):
        raise RejectedModelError(
            f"{stored.paths[0]}: expected {entry.bytes} bytes with sha256 {entry.sha256}, got {stored.size} bytes with "
            f"{stored.sha256}; it is not what was published, install palyno again"
        )
