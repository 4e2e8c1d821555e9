"""Reference pictures, one grain each, as numbers: vectors, measures, and what tells a taxon without a grain.

Cutting and encoding take about a third of a second a picture on one core, so what was done is kept in a file.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np

from ..data.atomic import replacing
from ..errors import NothingToDoError
from ..retrieval.encoders.image.encoder import ImageEncoder, cut_crop, cut_scale
from ..retrieval.encoders.image.grains import canvases
from ..retrieval.matching.measures import Measures, measure
from ..retrieval.matching.shapes import describe

__all__ = ["GrainPictures", "gather"]

_SUFFIXES = (".jpg", ".jpeg", ".png", ".tif", ".tiff", ".bmp")
_TINY = 16
# Raised when what is kept of a picture changes.
_KEPT = 2


@dataclass(frozen=True)
class GrainPictures:
    """Pictures as numbers, a row each.

    Attributes:
        names: Files, relative to the folder.
        vectors: Of the encoder, (N, dim).
        untrained: Of a network of the same kind with weights as they are drawn, (N, dim).
        corners: Median grey of the four corners, (N, 4).
        sizes: Logarithms of the pictures' width and height, (N, 2).
        tiny: The pictures in grey, 16 x 16 pixels, (N, 256).
        shown: `Measures` as numbers: diameters, five harmonics, three densities, (N, 10).
        numbers: What `palyno.retrieval.matching.shapes` reads, (N, 148).
        scales: Pixels of the picture to one of those that `shown` counts in, (N,).
    """

    names: np.ndarray
    vectors: np.ndarray
    untrained: np.ndarray
    corners: np.ndarray
    sizes: np.ndarray
    tiny: np.ndarray
    shown: np.ndarray
    numbers: np.ndarray
    scales: np.ndarray

    def select(self, kept: np.ndarray) -> GrainPictures:
        """The rows for which `kept`, Boolean (N,), is true."""
        return GrainPictures(*(getattr(self, field.name)[kept] for field in fields(self)))

    @property
    def measures(self) -> tuple[Measures, ...]:
        """The measures of each."""
        return tuple(Measures(row[0], row[1], tuple(row[2:7]), (row[7], row[8], row[9])) for row in self.shown.tolist())


def gather(
    folder: str | Path,
    encoder: ImageEncoder,
    kept: str | Path | None = None,
    *,
    on_picture: Callable[[int, int], None] = lambda done, of: None,
) -> GrainPictures:
    """Reads the pictures below a folder.

    Args:
        folder: Where they are.
        encoder: For the vectors.
        kept: File that holds what was done for the same pictures and encoder, and will.
        on_picture: Is told how far it is.

    Raises:
        NothingToDoError: There are none.
    """
    folder = Path(folder)
    files = sorted(p for p in folder.rglob("*") if p.suffix.lower() in _SUFFIXES)
    if not files:
        raise NothingToDoError(f"no pictures below {folder}: expected {', '.join(_SUFFIXES)}")
    names = [str(path.relative_to(folder)) for path in files]
    key = hashlib.sha256(json.dumps([names, [p.stat().st_size for p in files], encoder.encoder_id, _KEPT]).encode())
    if kept is not None and Path(kept).is_file():
        with np.load(kept, allow_pickle=False) as file:
            if str(file["key"]) == key.hexdigest():
                return GrainPictures(*(file[field.name] for field in fields(GrainPictures)))
    columns: dict[str, list[np.ndarray]] = {field.name: [] for field in fields(GrainPictures)}
    untrained = _untrained(encoder)
    for start in range(0, len(files), 64):
        for name, values in _read(files[start : start + 64], encoder, untrained).items():
            columns[name].append(values)
        on_picture(min(start + 64, len(files)), len(files))
    columns["names"] = [np.array(names)]
    found = GrainPictures(*(np.concatenate(columns[field.name]) for field in fields(GrainPictures)))
    if kept is not None:
        with replacing(kept, "wb") as out:
            np.savez(out, key=np.array(key.hexdigest()), **vars(found))
    return found


def _read(files: Sequence[Path], encoder: ImageEncoder, untrained: ImageEncoder) -> dict[str, np.ndarray]:
    import cv2
    from PIL import Image

    cut, corners, sizes, tiny, scales = [], [], [], [], []
    for path in files:
        with Image.open(path) as image:
            picture = np.asarray(image.convert("RGB"))
        grey = cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY)
        side = max(3, round(0.07 * min(grey.shape)))
        patches = (grey[:side, :side], grey[:side, -side:], grey[-side:, :side], grey[-side:, -side:])
        corners.append([float(np.median(patch)) for patch in patches])
        sizes.append(np.log(grey.shape[::-1]))
        tiny.append(cv2.resize(grey, (_TINY, _TINY), interpolation=cv2.INTER_AREA).ravel())
        scales.append(1 / cut_scale(*grey.shape))
        cut.append(cut_crop(picture))
    placed = canvases(cut)
    return {
        "vectors": encoder.encode_canvases(placed),
        "untrained": untrained.encode_canvases(placed),
        "corners": np.array(corners, np.float32),
        "sizes": np.array(sizes, np.float32),
        "tiny": np.array(tiny, np.float32),
        "shown": np.array([_numbers(measure(grain)) for grain in cut], np.float32),
        "numbers": describe(placed),
        "scales": np.array(scales, np.float32),
    }


def _numbers(m: Measures) -> list[float]:
    return [m.length_px, m.width_px, *m.harmonics, *m.density]


def _untrained(encoder: ImageEncoder) -> ImageEncoder:
    """The same encoder with weights as they are drawn, one picture a grain."""
    import copy

    import torch

    from ..retrieval.encoders.image.network import GrainNet

    fresh = copy.copy(encoder)
    config = encoder.about.config
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = GrainNet(config["dim"], config["widths"])
    fresh.__dict__["network"] = network.to(next(encoder.network.parameters()).device).eval()
    fresh.turns = 1
    return fresh
