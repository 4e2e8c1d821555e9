"""Grains cut from their reference pictures: each once, into a file, and drawn from there."""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path

import numpy as np

from ...errors import InputError
from ..grains import CutGrain, cut_grain
from ..references import Reference, read_picture, shrink
from .hardness import Hardness, shares, times

__all__ = ["Shelf", "cut_to_file"]

_CUT_PX = 256


class Shelf:
    """The cut grains of one split, drawn taxon by taxon so that rare taxa are as frequent as common ones.

    Args:
        references: Their pictures; those that could not be cut are left out.
        labels: The label of each taxon.
        cuts: Folder of the cuts.
        hardness: Draw hard ones more often, see `hardness`.
    """

    def __init__(
        self, references: Sequence[Reference], labels: dict[str, str], cuts: Path, hardness: Hardness | None = None
    ) -> None:
        self.cuts, self.labels = cuts, labels
        self.by_taxon: dict[str, list[Reference]] = {}
        for reference in references:
            if _cut_path(cuts, reference).exists():
                self.by_taxon.setdefault(reference.taxon, []).append(reference)
        self.taxa = sorted(self.by_taxon)
        self.weighted: list[Reference] = []
        if hardness is not None and self.taxa:
            self.weighted = [reference for taxon in self.taxa for reference in self.by_taxon[taxon]]
            chances = shares(self.weighted) * times(self.weighted, hardness)
            self.up_to = chances.cumsum() / chances.sum()

    def draw(self, rng: np.random.Generator) -> Reference:
        """A picture at random."""
        if self.weighted:
            at = int(np.searchsorted(self.up_to, rng.random(), side="right"))
            return self.weighted[min(at, len(self.weighted) - 1)]
        taxon = self.taxa[int(rng.integers(len(self.taxa)))]
        return self.by_taxon[taxon][int(rng.integers(len(self.by_taxon[taxon])))]

    def pick(self, rng: np.random.Generator) -> tuple[str, str, str, CutGrain, float]:
        """A grain at random: its name, label, taxon, the cut, and its longer side at the microscope's scale."""
        reference = self.draw(rng)
        cut, native = _read_cut(_cut_path(self.cuts, reference))
        return reference.name, self.labels[reference.taxon], reference.taxon, cut, native


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
