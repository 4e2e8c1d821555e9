"""Grains cut from their reference pictures: each once, into a file, and drawn from there."""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path

import numpy as np

from ...errors import InputError
from ..grains import CutGrain, cut_grain
from ..references import Reference, read_picture, shrink

__all__ = ["Shelf", "cut_to_file"]

_CUT_PX = 256


class Shelf:
    """The cut grains of one split, drawn taxon by taxon so that rare taxa are as frequent as common ones."""

    def __init__(self, references: Sequence[Reference], labels: dict[str, str], cuts: Path) -> None:
        self.cuts, self.labels = cuts, labels
        self.by_taxon: dict[str, list[Reference]] = {}
        for reference in references:
            if _cut_path(cuts, reference).exists():
                self.by_taxon.setdefault(reference.taxon, []).append(reference)
        self.taxa = sorted(self.by_taxon)

    def pick(self, rng: np.random.Generator) -> tuple[str, str, str, CutGrain, float]:
        """A grain at random: its name, label, taxon, the cut, and its longer side at the microscope's scale."""
        taxon = self.taxa[int(rng.integers(len(self.taxa)))]
        reference = self.by_taxon[taxon][int(rng.integers(len(self.by_taxon[taxon])))]
        cut, native = _read_cut(_cut_path(self.cuts, reference))
        return reference.name, self.labels[taxon], taxon, cut, native


def _cut_path(cuts: Path, reference: Reference) -> Path:
    return cuts / f"{sha256(str((reference.path, reference.window)).encode()).hexdigest()[:24]}.npz"


def cut_to_file(reference: Reference, cuts: Path) -> str:
    """Cuts one reference grain; returns why it could not be cut, or nothing."""
    path = _cut_path(cuts, reference)
    if path.exists():
        return ""
    try:
        picture = read_picture(reference.path)
        if reference.window:
            x1, y1, x2, y2 = reference.window
            picture = picture[y1:y2, x1:x2]
        cut = cut_grain(shrink(picture, _CUT_PX))
    except InputError as error:
        return f"{reference.name}: {error}"
    np.savez(
        path,
        transmission=np.round(cut.transmission * 170).astype(np.uint8),
        mask=np.round(cut.mask * 255).astype(np.uint8),
        native=reference.native_px or max(picture.shape[:2]),
    )
    return ""


def _read_cut(path: Path) -> tuple[CutGrain, float]:
    with np.load(path) as stored:
        transmission = stored["transmission"].astype(np.float32) / 170
        return CutGrain(transmission, stored["mask"].astype(np.float32) / 255), float(stored["native"])
