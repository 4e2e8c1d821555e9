"""The sentence encoder's network in plain PyTorch, made to be opened: `MiniLM`.

BERT (Devlin et al. 2019, arXiv 1810.04805) as distilled by MiniLM (Wang et al. 2020, arXiv 2002.10957): six layers of
width 384, twelve heads, normalised after each addition. For a text of pieces x with mask m,

    h_0 = LN(W[x] + P[position] + S[0])
    a   = LN(h + O(softmax(Q(h) K(h)^T / sqrt(32) + log m) V(h)))      twelve heads of 32
    h'  = LN(a + D(gelu(U(a))))                                        1536 inside
    t   = sum_i m_i h_i / sum_i m_i,   vector = t / |t|                (Reimers and Gurevych 2019, arXiv 1908.10084)

Each part is a module of its own with one call, so a method can take one out and put its own in its place.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
from torch import nn
from torch.nn import functional

from .text_graph import EPSILON, HEADS, INNER, LAYERS, PIECES, POSITIONS, WIDTH

if TYPE_CHECKING:
    import numpy as np

__all__ = ["Attention", "Embeddings", "FeedForward", "Layer", "MiniLM", "mean_pool"]

# Published name -> ours. What is left out: the pooler, which sentence vectors do not use, and the numbers 0 to 511.
_NAMES = (
    (r"^embeddings\.LayerNorm", "embeddings.norm"),
    (r"^embeddings\.(word|position)_embeddings", r"embeddings.\1s"),
    (r"^embeddings\.token_type_embeddings", "embeddings.segments"),
    (r"^encoder\.layer\.", "layers."),
    (r"attention\.self\.", "attention."),
    (r"attention\.output\.dense", "attention.output"),
    (r"attention\.output\.LayerNorm", "attention_norm"),
    (r"intermediate\.dense", "feed_forward.up"),
    (r"(?<=\d\.)output\.dense", "feed_forward.down"),
    (r"(?<=\d\.)output\.LayerNorm", "feed_forward_norm"),
)
_UNUSED = ("pooler.dense.weight", "pooler.dense.bias", "embeddings.position_ids")


class Embeddings(nn.Module):
    """Pieces to vectors: piece, position and (always the first) segment, added and normalised."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(PIECES, WIDTH)
        self.positions = nn.Embedding(POSITIONS, WIDTH)
        self.segments = nn.Embedding(2, WIDTH)
        self.norm = nn.LayerNorm(WIDTH, eps=EPSILON)

    def forward(self, pieces: torch.Tensor) -> torch.Tensor:
        """(B, L) int64 -> (B, L, 384)."""
        return self.norm(self.words(pieces) + self.positions.weight[: pieces.shape[1]] + self.segments.weight[0])


class Attention(nn.Module):
    """Each piece looks at all pieces of its text."""

    def __init__(self) -> None:
        super().__init__()
        self.query, self.key, self.value, self.output = (nn.Linear(WIDTH, WIDTH) for _ in range(4))

    def forward(self, x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """(B, L, 384) and (B, L) bool -> (B, L, 384)."""
        q, k, v = (f(x).unflatten(2, (HEADS, -1)).transpose(1, 2) for f in (self.query, self.key, self.value))
        y = functional.scaled_dot_product_attention(q, k, v, attn_mask=mask[:, None, None, :])
        return self.output(y.transpose(1, 2).flatten(2))


class FeedForward(nn.Module):
    """Each piece by itself through 1536 units."""

    def __init__(self) -> None:
        super().__init__()
        self.up = nn.Linear(WIDTH, INNER)
        self.down = nn.Linear(INNER, WIDTH)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(..., 384) -> (..., 384)."""
        return self.down(functional.gelu(self.up(x)))


class Layer(nn.Module):
    """Attention, then the feed-forward part, each added to what came and normalised after."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = Attention()
        self.attention_norm = nn.LayerNorm(WIDTH, eps=EPSILON)
        self.feed_forward = FeedForward()
        self.feed_forward_norm = nn.LayerNorm(WIDTH, eps=EPSILON)

    def forward(self, x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """(B, L, 384) and (B, L) bool -> (B, L, 384)."""
        x = self.attention_norm(x + self.attention(x, mask))
        return self.feed_forward_norm(x + self.feed_forward(x))


class MiniLM(nn.Module):
    """The whole encoder: pieces of texts to one unit vector a text.

    Example:
        >>> network = MiniLM.from_tensors(read_files().tensors())  # doctest: +SKIP
    """

    def __init__(self) -> None:
        super().__init__()
        self.embeddings = Embeddings()
        self.layers = nn.ModuleList(Layer() for _ in range(LAYERS))

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, np.ndarray]) -> MiniLM:
        """The network with published weights, in evaluation mode, float32 on the CPU; it may be trained.

        Args:
            tensors: Arrays by their published names; a missing or surplus one raises RuntimeError.
        """
        own = {_own_name(name): torch.tensor(value) for name, value in tensors.items() if name not in _UNUSED}
        with torch.device("meta"):
            network = cls()
        network.load_state_dict(own, assign=True)
        return network.requires_grad_(True).eval()

    def states(self, pieces: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """The last layer's vectors, one a piece: (B, L) int64 and (B, L) bool -> (B, L, 384)."""
        x = self.embeddings(pieces)
        for layer in self.layers:
            x = layer(x, mask)
        return x

    def forward(self, pieces: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """(B, L) int64 and (B, L) bool, each row with a true entry -> (B, 384), of unit length."""
        return functional.normalize(mean_pool(self.states(pieces, mask), mask), dim=1)


def mean_pool(states: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """The mean over the pieces that are there: (B, L, D) and (B, L) bool -> (B, D)."""
    weights = mask.to(states.dtype).unsqueeze(2)
    return (states * weights).sum(1) / weights.sum(1).clamp(min=1e-9)


def _own_name(name: str) -> str:
    for pattern, replacement in _NAMES:
        name = re.sub(pattern, replacement, name)
    return name
