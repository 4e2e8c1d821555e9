"""`Matcher`: an image tower and a text tower into one space, and `WordsEncoder`, its way into collections.

words = WordsEncoder()
words.encoder_id == ImageEncoder().encoder_id    # phrases in the space of the pictures
words.encode(["triporate, smooth, thin wall"])   # (1, 192)
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from ...errors import RejectedModelError, UsageError
from ..encoders.image.weights import fill, read_encoder, write_encoder
from ..glossary import Glossary
from .texts import TextTower

__all__ = ["FORMAT", "ImageTower", "Matcher", "load_matcher", "save_matcher"]

FORMAT = "palyno-matcher-1"


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

    def readable(self, texts: Sequence[str]) -> list[bool]:
        """Which texts `read` takes."""
        return self.texts.readable(texts)

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


def _mlp(features: int, width: int, dim: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(features, width), nn.ReLU(), nn.Dropout(0.2), nn.Linear(width, dim))
