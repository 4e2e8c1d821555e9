"""What a detector found on a set of images, kept in a file, so that figures can be taken again without the detector."""

from __future__ import annotations

import gzip
import json
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

from ..data.atomic import write_bytes
from ..errors import InputError
from .results import Provenance, SlideResult

__all__ = ["as_kept", "read_predictions", "write_predictions"]

SCHEMA = 1


def write_predictions(path: Path, results: Sequence[SlideResult], classes: Sequence[str]) -> None:
    """Writes results of one detector, read with one `conf`, as gzipped JSON.

    Boxes keep a hundredth of a pixel, probabilities six digits. The same results give the same bytes.

    Args:
        path: The file, replaced if it is there; missing folders above it are made.
        results: A result an image.
        classes: The detector's classes.
    """
    document = {
        "schema": SCHEMA,
        "classes": list(classes),
        "provenance": asdict(results[0].provenance) if results else None,
        "conf": results[0].conf if results else 0.0,
        "images": [_image(result) for result in results],
    }
    text = json.dumps(document, ensure_ascii=False, separators=(",", ":"), default=str)
    write_bytes(path, gzip.compress(text.encode(), mtime=0))


def read_predictions(path: Path) -> tuple[list[SlideResult], tuple[str, ...]]:
    """The results and the classes that `write_predictions` wrote.

    Raises:
        InputError: Not such a file.
    """
    try:
        document = json.loads(gzip.decompress(path.read_bytes()))
        provenance = Provenance(**(document["provenance"] or {"model": "", "sha256": "", "version": ""}))
        results = [_result(image, provenance, document["conf"]) for image in document["images"]]
        return results, tuple(document["classes"])
    except (OSError, EOFError, ValueError, KeyError, TypeError, IndexError) as error:
        raise InputError(f"{path}: expected predictions that `palyno val --save` wrote; {error}") from error


def as_kept(result: SlideResult) -> SlideResult:
    """The result with its numbers as short as a file keeps them: figures before and after are then the same."""
    kept = _result(_image(result), result.provenance, result.conf)
    return replace(result, boxes=kept.boxes, confidence=kept.confidence, candidates=kept.candidates)


def _image(result: SlideResult) -> dict[str, Any]:
    return {
        "slide": result.slide,
        "size": [result.width, result.height],
        "boxes": [[round(v, 2) for v in box] for box in result.boxes.tolist()],
        "confidence": [_short(c) for c in result.confidence.tolist()],
        "taxa": list(result.taxa),
        "ranks": list(result.ranks),
        "candidates": [[[name, _short(p)] for name, p in names] for names in result.candidates],
    }


def _result(image: dict[str, Any], provenance: Provenance, conf: float) -> SlideResult:
    width, height = image["size"]
    return SlideResult(
        slide=image["slide"],
        width=width,
        height=height,
        boxes=np.array(image["boxes"], np.float32),
        confidence=np.array(image["confidence"], np.float32),
        taxa=tuple(image["taxa"]),
        provenance=provenance,
        ranks=tuple(image["ranks"]),
        candidates=tuple(tuple((name, p) for name, p in names) for names in image["candidates"]),
        conf=conf,
    )


def _short(value: float) -> float:
    return float(f"{value:.6g}")
