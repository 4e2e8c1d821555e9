"""Text models: from a phrase to the features that a tower turns into a vector.

`bag`, `bigram`, `trigram` and `trigram-skip` count words and runs of words, hashed into a fixed number of places, as
in Baqapuri 2015 (arXiv 1601.03478); `gru` and `mean` read the words in a row; `minilm` takes the sentence encoder
that ships, which knows what a text it was never taught may mean; `minilm-bag` takes both, the words for what they were
taught to mean and the sentence for the rest.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from functools import cache, lru_cache
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from ...errors import UsageError

if TYPE_CHECKING:
    from ..encoders.text import TextEncoder

__all__ = ["TEXT_MODELS", "TextTower", "ngrams", "words"]

TEXT_MODELS = ("bag", "bigram", "trigram", "trigram-skip", "gru", "mean", "minilm", "minilm-bag")
PLACES = 2048
SENTENCE = 384
LONGEST = 64
_WORD = re.compile(r"[^\W_]+(?:[-'][^\W_]+)*")


def words(text: str) -> list[str]:
    """Lower-case words and numbers; hyphens and apostrophes inside a word stay."""
    return _WORD.findall(text.lower())


def ngrams(text: str, model: str) -> list[str]:
    """What a counting model counts in a text: its words, and runs of up to two or three of them.

    Args:
        text: A phrase.
        model: `bag`, `bigram`, `trigram` or `trigram-skip`; the last adds pairs with one word left out between them.

    Example:
        >>> ngrams("large echinate grain", "bigram")
        ['large', 'echinate', 'grain', 'large echinate', 'echinate grain']
    """
    longest = {"bag": 1, "bigram": 2, "trigram": 3, "trigram-skip": 3}[model]
    row = words(text)
    found = [" ".join(row[i : i + n]) for n in range(1, longest + 1) for i in range(len(row) - n + 1)]
    if model == "trigram-skip":
        found += [f"{a} _ {b}" for a, b in zip(row, row[2:], strict=False)]
    return found


@cache
def _sentences() -> TextEncoder:
    # Its weights are read and hashed once, not for each phrase.
    from ..encoders.text import TextEncoder

    return TextEncoder()


@lru_cache(maxsize=65536)
def _place(gram: str) -> tuple[int, float]:
    """A place and a sign; signs make collisions cancel on average (Weinberger et al. 2009, arXiv 0902.2206)."""
    number = int.from_bytes(hashlib.blake2b(gram.encode(), digest_size=8).digest(), "little")
    return 1 + number % (PLACES - 1), 1.0 if number >> 63 else -1.0


def _counts(texts: Sequence[str], model: str) -> np.ndarray:
    rows = np.zeros((len(texts), PLACES), np.float32)
    for row, text in zip(rows, texts, strict=True):
        for gram in ngrams(text, model):
            place, sign = _place(gram)
            row[place] += sign
    return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)


def _rows(texts: Sequence[str]) -> np.ndarray:
    """Places of the words in order, 0 where the text has ended."""
    rows = np.zeros((len(texts), LONGEST), np.int64)
    for row, text in zip(rows, texts, strict=True):
        places = [_place(word)[0] for word in words(text)[:LONGEST]]
        row[: len(places)] = places
    return rows


class TextTower(nn.Module):
    """Phrases to unit vectors.

    Args:
        model: Of `TEXT_MODELS`.
        dim: Length of the vectors.
        width: Channels inside.
    """

    def __init__(self, model: str, dim: int = 192, width: int = 256):
        super().__init__()
        if model not in TEXT_MODELS:
            raise UsageError(f"text model: expected one of {', '.join(TEXT_MODELS)}, got {model!r}")
        self.model = model
        widths = {"minilm": SENTENCE, "minilm-bag": SENTENCE + PLACES, "gru": width, "mean": width}
        features = widths.get(model, PLACES)
        if model in ("gru", "mean"):
            self.table = nn.Embedding(PLACES, width, padding_idx=0)
        if model == "gru":
            self.reader = nn.GRU(width, width // 2, batch_first=True, bidirectional=True)
        first = nn.Linear(features, width)
        if model == "minilm-bag":
            # Words that training does not have then say nothing, as their columns stay nought.
            with torch.no_grad():
                first.weight[:, SENTENCE:] = 0
        self.mlp = nn.Sequential(first, nn.ReLU(), nn.Dropout(0.2), nn.Linear(width, dim))

    def features(self, texts: Sequence[str]) -> torch.Tensor:
        """What `forward` takes; depends on the texts alone, so that it can be kept.

        Returns:
            (n, PLACES) counts, (n, LONGEST) places of words, (n, 384) sentence vectors, or these and counts.
        """
        if self.model.startswith("minilm"):
            sentences = np.asarray(_sentences().encode(list(texts)), np.float32)
            if self.model == "minilm":
                return torch.from_numpy(sentences)
            return torch.from_numpy(np.concatenate([sentences, _counts(texts, "bag")], 1))
        return torch.from_numpy(_rows(texts) if self.model in ("gru", "mean") else _counts(texts, self.model))

    def readable(self, texts: Sequence[str]) -> list[bool]:
        """Which texts have something that `features` can read."""
        if self.model.startswith("minilm"):
            return _sentences().readable(list(texts)).tolist()
        return [bool(words(text)) for text in texts]

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Features -> (n, dim), unit length."""
        if self.model in ("gru", "mean"):
            there = (features > 0).unsqueeze(2)
            x = self.table(features)
            if self.model == "gru":
                lengths = there.sum(1).flatten().clamp(min=1).cpu()
                packed = nn.utils.rnn.pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
                x, _ = nn.utils.rnn.pad_packed_sequence(self.reader(packed)[0], True, total_length=x.shape[1])
            features = (x * there).sum(1) / there.sum(1).clamp(min=1)
        return functional.normalize(self.mlp(features), dim=1)
