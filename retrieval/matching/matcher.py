"""`Matcher`: an image tower and a text tower into one space, and `WordsEncoder`, its way into collections.

words = WordsEncoder()
words.encoder_id == ImageEncoder().encoder_id    # phrases in the space of the pictures
words.encode(["triporate, smooth, thin wall"])   # (1, 192)
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from ...data.traits import TERMS
from ...errors import RejectedModelError, UsageError
from ...vision.weights import find_encoder
from ..encoders.image.weights import fill, read_encoder, write_encoder
from ..glossary import Glossary
from .captions import apertures, say
from .texts import TextTower

__all__ = ["FORMAT", "NAME", "ImageTower", "Matcher", "WordsEncoder", "load_matcher", "save_matcher"]

FORMAT = "palyno-matcher-1"
NAME = "grain-words"

# A grain is said to look like a term that fits it better than the other terms of its field, by this cosine.
_LEAD = 0.02


class ImageTower(nn.Module):
    """Features of grains to unit vectors.

    Args:
        features: Length of what it reads.
        dim: Length of the vectors.
        width: Channels inside; 0 lets the features through as they are, so that phrases come into their space.
    """

    def __init__(self, features: int, dim: int, width: int = 256):
        super().__init__()
        if width == 0 and features != dim:
            raise UsageError(f"image tower: expected {features} numbers out as nothing is in between, got {dim}")
        self.mlp = nn.Identity() if width == 0 else _mlp(features, width, dim)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """(n, features) -> (n, dim), unit length."""
        return functional.normalize(self.mlp(features), dim=1)


class Matcher(nn.Module):
    """Both towers.

    Args:
        text_model: Of `texts.TEXT_MODELS`.
        features: Length of a grain's features.
        dim: Length of the common vectors.
        image_width: See `ImageTower`.
        text_width: Channels of the text tower.
        glossary: Put the glossary's terms after each text, so that other wordings and languages are read.
    """

    def __init__(
        self,
        text_model: str = "minilm",
        features: int = 192,
        dim: int = 192,
        image_width: int = 0,
        text_width: int = 256,
        glossary: bool = True,
    ):
        super().__init__()
        self.config: dict[str, Any] = {
            "text_model": text_model,
            "features": features,
            "dim": dim,
            "image_width": image_width,
            "text_width": text_width,
            "glossary": glossary,
        }
        self.images = ImageTower(features, dim, image_width)
        self.texts = TextTower(text_model, dim, text_width)

    def read(self, texts: Sequence[str]) -> torch.Tensor:
        """What the text tower takes of texts; depends on the texts alone."""
        if self.config["glossary"]:
            glossary = Glossary.shipped()
            # A text that only negates leaves nothing, and is read as it is.
            texts = [glossary.query(text).words or text for text in texts]
        return self.texts.features(texts)

    @torch.inference_mode()
    def embed_texts(self, texts: Sequence[str]) -> np.ndarray:
        """Unit vectors of texts, (n, dim) float32."""
        return self.eval().texts(self.read(texts)).numpy()

    @torch.inference_mode()
    def embed_grains(self, features: np.ndarray) -> np.ndarray:
        """Unit vectors of grains' features, (n, dim) float32."""
        return self.eval().images(torch.from_numpy(np.asarray(features, np.float32))).numpy()


def save_matcher(path: str | Path, matcher: Matcher, *, name: str, space: str, training: dict[str, Any]) -> Path:
    """Writes a matcher.

    Args:
        path: The file.
        matcher: The matcher.
        name: Its name.
        space: `encoder_id` of the pictures' vectors that it was trained on.
        training: How it was made; plain values.
    """
    config = {**matcher.config, "space": space}
    return write_encoder(path, matcher, format=FORMAT, name=name, config=config, training=training)


def load_matcher(path: str | Path) -> tuple[Matcher, str]:
    """Reads a matcher; it, and the `encoder_id` of the vectors that it reads.

    Raises:
        RejectedModelError: Not such a file.
    """
    tensors, about = read_encoder(path, FORMAT)
    try:
        config = dict(about.config)
        space = str(config.pop("space"))
        matcher = Matcher(**config)
    except (TypeError, KeyError, ValueError, UsageError) as error:
        raise RejectedModelError(f"{path}: expected the configuration of a matcher, got {error}") from error
    return fill(matcher, tensors, path), space  # type: ignore[return-value]


class WordsEncoder:
    """Phrases as vectors in the space of the pictures of grains.

    Args:
        weights: A name from `palyno models list`, or a file.

    Raises:
        UnknownModelError: No such name or file.
        RejectedModelError: The file is not what it should be, or its image tower changes the pictures' vectors.
    """

    modality: Literal["text"] = "text"

    def __init__(self, weights: str | Path = NAME):
        path = find_encoder(weights)
        self.matcher, self.encoder_id = load_matcher(path)
        if self.matcher.config["image_width"]:
            raise RejectedModelError(
                f"{path}: expected a matcher in the space of the pictures, got one with a space of its own; train it "
                "with image_width=0"
            )
        self.dim = int(self.matcher.config["dim"])

    def encode(self, items: Sequence[str]) -> np.ndarray:
        """Vectors of phrases, (n, dim) float32, each row of unit length."""
        return self.matcher.embed_texts(list(items)) if len(items) else np.empty((0, self.dim), np.float32)

    def explain(self, query: str, vectors: np.ndarray) -> list[tuple[str, ...]]:
        """For each grain, which of the traits that a query asks for it looks like: best of the terms of their kind.

        Args:
            query: A phrase.
            vectors: Of grains, (n, dim).

        Returns:
            For each grain `looks triporate, psilate`, or nothing.
        """
        asked = self._asked(query)
        looks = np.zeros((len(vectors), len(asked)), bool)
        for column, (field, term) in enumerate(asked):
            fit = np.asarray(vectors) @ self._terms(field).T
            at = _TERMS[field].index(term)
            others = np.delete(fit, at, axis=1).max(1)
            looks[:, column] = fit[:, at] > others - _LEAD
        said = [", ".join(term for (_, term), is_so in zip(asked, row, strict=True) if is_so) for row in looks]
        return [(f"looks {terms}",) if terms else () for terms in said]

    def _asked(self, query: str) -> list[tuple[str, str]]:
        terms = Glossary.shipped().query(query).terms
        return [(field, term) for term in terms for field, known in _TERMS.items() if term in known]

    @cached_property
    def _vectors(self) -> dict[str, np.ndarray]:
        return {}

    def _terms(self, field: str) -> np.ndarray:
        if field not in self._vectors:
            self._vectors[field] = self.encode([f"{term} grain" for term in _TERMS[field]])
        return self._vectors[field]


@lru_cache(maxsize=1)
def _aperture_terms() -> tuple[str, ...]:
    kinds = [("0", "none"), *((n, k) for k in ("pore", "colpus", "colporus") for n in ("3", "4")), ("1", "pore")]
    return tuple(apertures(number, kind)[0] for number, kind in [*kinds, ("1", "sulcus"), ("many", "pore")])


_TERMS: dict[str, tuple[str, ...]] = {
    "apertures": _aperture_terms(),
    **{field: tuple(say(field, term) for term in TERMS[field]) for field in ("ornamentation", "shape")},
}


def _mlp(features: int, width: int, dim: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(features, width), nn.ReLU(), nn.Dropout(0.2), nn.Linear(width, dim))
