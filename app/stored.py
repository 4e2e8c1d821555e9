"""A `SlideResult` as one file and back, exactly: what a job keeps of each slide until all are read.

The file is a numpy archive without pickles: boxes, confidences and vectors as float32, all else as JSON in UTF-8.
"""

from __future__ import annotations

import io
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import InputError
from ..vision.results import Provenance, SlideResult

__all__ = ["load", "pack"]

_PLAIN = ("slide", "width", "height", "um_per_px", "um_source", "fraction_read", "conf", "encoder_id")
_NESTED = ("taxa", "ranks", "candidates", "flags", "grain_flags", "notes", "unread")


def pack(result: SlideResult) -> bytes:
    """The result as the bytes of a file."""
    header: dict[str, Any] = {name: getattr(result, name) for name in _PLAIN + _NESTED}
    header["provenance"] = asdict(result.provenance)
    text = json.dumps(header, ensure_ascii=False, default=_plain).encode("utf-8", "surrogatepass")
    buffer = io.BytesIO()
    arrays: dict[str, Any] = {"boxes": result.boxes, "confidence": result.confidence}
    if result.vectors is not None:
        arrays["vectors"] = result.vectors
    np.savez_compressed(buffer, header=np.frombuffer(text, np.uint8), **arrays)
    return buffer.getvalue()


def load(path: Path) -> SlideResult:
    """The result that a file holds.

    Raises:
        InputError: The file is not one that `pack` made.
    """
    try:
        with np.load(path, allow_pickle=False) as archive:
            header = json.loads(archive["header"].tobytes().decode("utf-8", "surrogatepass"))
            header.update({name: _tuples(header[name]) for name in _NESTED})
            header["provenance"] = Provenance(**header["provenance"])
            vectors = archive.get("vectors")
            return SlideResult(boxes=archive["boxes"], confidence=archive["confidence"], vectors=vectors, **header)
    except (OSError, ValueError, KeyError, TypeError, EOFError) as error:
        raise InputError(f"{path}: expected a stored result, got {error}; run again with --no-resume") from error


def _plain(value: Any) -> Any:
    """What JSON lacks: scalars and arrays of numpy, and mappings."""
    if isinstance(value, np.generic | np.ndarray):
        return value.tolist()
    return dict(value) if hasattr(value, "keys") else str(value)


def _tuples(value: Any) -> Any:
    return tuple(_tuples(item) for item in value) if isinstance(value, list) else value
