"""Traits as evidence: how much a grain's numbers speak for what a text asks for, in nats.

    reader = TraitReader()
    numbers, lengths_um = reader.read(crops, um_per_px=0.243)
    reader.score(["echinate, many pores, 30-40 µm"], numbers, lengths_um)   # (1, n)

Attributes in between, as in Lampert et al. 2014 (IEEE TPAMI 36, 453): each trait is read off a picture by itself, and a
text is the traits that it names, so that taxa and combinations of traits that were never trained on can be asked for.
Each trait's evidence was calibrated on taxa that its reading had not been trained on; what cannot be read there weighs
nothing. Size adds to it where the text gives one and the pixel size is known, see `sizes`.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from ...errors import RejectedModelError, UsageError
from ...vision.weights import find_encoder
from ..encoders.image.encoder import cut_crop, cut_scale
from ..encoders.image.grains import canvases
from ..encoders.image.weights import fill, read_encoder, write_encoder
from .columns import COLUMNS, asked
from .measures import measure
from .shapes import NUMBERS, describe
from .sizes import size_evidence, stated_size

__all__ = ["FORMAT", "NAME", "TraitModel", "TraitReader", "load_traits", "save_traits"]

FORMAT = "palyno-traits-1"
NAME = "grain-traits"


class TraitModel(nn.Module):
    """Numbers of grains to evidence of traits: standardised, then linear.

    Args:
        columns: The traits, of `COLUMNS`.
        features: Numbers a grain.
    """

    mean: torch.Tensor
    spread: torch.Tensor

    def __init__(self, columns: Sequence[str], features: int = NUMBERS):
        super().__init__()
        if not columns or not set(columns) <= set(COLUMNS):
            raise UsageError(f"columns: expected some of {', '.join(COLUMNS)}; got {', '.join(columns) or 'none'}")
        self.columns = tuple(columns)
        self.register_buffer("mean", torch.zeros(features))
        self.register_buffer("spread", torch.ones(features))
        self.linear = nn.Linear(features, len(columns))

    def forward(self, numbers: torch.Tensor) -> torch.Tensor:
        """(n, features) -> (n, columns), natural logarithms of likelihood ratios."""
        return self.linear((numbers - self.mean) / self.spread)

    @torch.inference_mode()
    def evidence(self, numbers: np.ndarray) -> np.ndarray:
        """The same for arrays, float32."""
        return self(torch.from_numpy(np.asarray(numbers, np.float32))).numpy()


def save_traits(path: str | Path, model: TraitModel, *, name: str, training: dict[str, Any]) -> Path:
    """Writes a model; `training` says how it was made, in plain values."""
    config = {"columns": list(model.columns), "features": model.linear.in_features}
    return write_encoder(path, model, format=FORMAT, name=name, config=config, training=training)


def load_traits(path: str | Path) -> TraitModel:
    """Reads a model.

    Raises:
        RejectedModelError: Not such a file.
    """
    tensors, about = read_encoder(path, FORMAT)
    try:
        model = TraitModel(**about.config)
    except (TypeError, ValueError, UsageError) as error:
        raise RejectedModelError(f"{path}: expected the configuration of traits, got {error}") from error
    fill(model, tensors, path)
    if not (model.spread > 0).all():
        raise RejectedModelError(f"{path}: expected spreads above 0, got others")
    return model


class TraitReader:
    """Scores grains by the traits, and the size, that texts name.

    Args:
        weights: A name from `palyno models list`, a file that `palyno train-encoder --of traits` wrote, or a model.

    Raises:
        UnknownModelError: No such name or file.
        RejectedModelError: The file is not what it should be.
    """

    def __init__(self, weights: str | Path | TraitModel = NAME):
        self._weights = weights if isinstance(weights, TraitModel) else find_encoder(weights)

    @cached_property
    def model(self) -> TraitModel:
        """What turns numbers into evidence."""
        return self._weights if isinstance(self._weights, TraitModel) else load_traits(self._weights)

    def read(
        self, crops: Sequence[np.ndarray], um_per_px: float | Sequence[float] | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """What `score` takes, of pictures of single grains.

        Args:
            crops: uint8 RGB, (H, W, 3), of any size, one grain in the middle of each.
            um_per_px: Pixel size of all, or of each; NaN or None where not known.

        Returns:
            Numbers, (n, NUMBERS) float32, and longest diameters in micrometres, (n,), NaN where not known.

        Raises:
            UsageError: Not such pictures, or a pixel size that is not above 0.
        """
        given = np.asarray(np.nan if um_per_px is None else um_per_px, float)
        if given.shape not in ((), (len(crops),)) or (given <= 0).any():
            raise UsageError(f"um_per_px: expected micrometres above 0 for all or each, got {um_per_px!r}")
        scale = np.broadcast_to(given, (len(crops),))
        cut = [cut_crop(crop) for crop in crops]
        length_px = [measure(g).length_px / cut_scale(*np.shape(c)[:2]) for g, c in zip(cut, crops, strict=True)]
        return describe(canvases(cut)), scale * np.array(length_px, float)

    def score(self, texts: Sequence[str], numbers: np.ndarray, length_um: np.ndarray | None = None) -> np.ndarray:
        """How much grains fit texts.

        Args:
            texts: Phrases or descriptions, in English, German, Spanish or French.
            numbers: Of the grains, (n, NUMBERS).
            length_um: Their longest diameters, (n,), micrometres, NaN where not known; None leaves size out.

        Returns:
            (texts, n) float64, sums of natural logarithms of likelihood ratios: 0 says nothing.

        Raises:
            UsageError: One text in place of a list, or lengths of another number of grains.
        """
        if isinstance(texts, str):
            raise UsageError("texts: expected a list of texts, got one; put it in a list")
        if length_um is not None and np.shape(length_um) != (len(numbers),):
            raise UsageError(f"length_um: expected one a grain, ({len(numbers)},), got {np.shape(length_um)}")
        evidence = self.model.evidence(numbers).astype(float)
        wanted = np.zeros((len(texts), len(self.model.columns)))
        for row, text in zip(wanted, texts, strict=True):
            row[[i for i, column in enumerate(self.model.columns) if column in asked(text)]] = 1
        score = wanted @ evidence.T
        if length_um is not None:
            score += np.array([size_evidence(stated_size(text), length_um) for text in texts]).reshape(score.shape)
        return score
