"""The global ranking objective: the right pair scores higher than wrong ones by a margin, in both directions.

For vectors of images x and texts y with scores S_kl = x_k y_l (Karpathy et al. 2014, arXiv 1406.5679, eq. 8, as used
for image and text matching by Baqapuri 2015, arXiv 1601.03478):

    L = 1/n sum_k [ w_s sum_{l in N_s(k)} max(0, d + S_kl - S_kk)  +  w_i sum_{l in N_i(k)} max(0, d + S_lk - S_kk) ]

N_s(k) are wrong sentences for image k and train annotation, image to text; N_i(k) are wrong images for sentence k and
train search, text to image. Which wrong ones are drawn is a switch. Pairs of one taxon are never wrong for each
other.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch

from ...errors import UsageError

__all__ = ["Corpus", "RankingObjective"]

_SIDES = ("both", "sentences", "images")
_DRAWS = ("batch", "random", "hard", "semi-hard")


@dataclass(frozen=True)
class Corpus:
    """Where negatives come from if not from the batch.

    Attributes:
        images: Vectors, (M, dim).
        texts: Vectors, (M, dim).
        taxa: int64, (M,), of both.
    """

    images: torch.Tensor
    texts: torch.Tensor
    taxa: torch.Tensor


@dataclass(frozen=True, kw_only=True)
class RankingObjective:
    """The objective with its switches; call it with vectors.

    Attributes:
        margin: d.
        negatives: `sentences` (N_i is empty), `images` (N_s is empty), or `both`.
        draw: Of the wrong ones, `batch`: all; `random`: `count` of them; `hard`: the highest score; `semi-hard`:
            the highest that is still below the right pair's, and none where all are above.
        count: Of random negatives for each image and each sentence.
        sentence_weight: w_s.
        image_weight: w_i.
        same_taxon_mask: Pairs of one taxon are not negatives. Without it only the pair itself is spared.
    """

    margin: float = 0.2
    negatives: Literal["both", "sentences", "images"] = "both"
    draw: Literal["batch", "random", "hard", "semi-hard"] = "batch"
    count: int = 16
    sentence_weight: float = 1.0
    image_weight: float = 1.0
    same_taxon_mask: bool = True

    def __post_init__(self) -> None:
        for name, valid, expected in (
            ("margin", self.margin > 0, "above 0"),
            ("negatives", self.negatives in _SIDES, f"one of {', '.join(_SIDES)}"),
            ("draw", self.draw in _DRAWS, f"one of {', '.join(_DRAWS)}"),
            ("count", self.count >= 1, "1 or more"),
            ("sentence_weight", self.sentence_weight >= 0, "0 or more"),
            ("image_weight", self.image_weight >= 0, "0 or more"),
        ):
            if not valid:
                raise UsageError(f"{name}: expected {expected}, got {getattr(self, name)!r}")

    def __call__(
        self,
        images: torch.Tensor,
        texts: torch.Tensor,
        taxa: torch.Tensor,
        *,
        corpus: Corpus | None = None,
        wrong: torch.Tensor | None = None,
        rng: torch.Generator | None = None,
    ) -> torch.Tensor:
        """The loss of n pairs.

        Args:
            images: (n, dim); pair k is image k and text k.
            texts: (n, dim).
            taxa: int64, (n,).
            corpus: Draw negatives from here instead of the batch.
            wrong: Boolean (n, n), whether text k is known to be wrong for image l: what counts as a negative within
                the batch, in place of the taxa. `same_taxon_mask` is not asked then.
            rng: For random draws, on the device of the vectors.

        Returns:
            Scalar.

        Raises:
            UsageError: Shapes that do not fit.
        """
        if images.shape != texts.shape or images.ndim != 2 or taxa.shape != images.shape[:1]:
            raise UsageError(
                f"expected images and texts (n, dim) and taxa (n,), got {tuple(images.shape)}, {tuple(texts.shape)}, "
                f"{tuple(taxa.shape)}"
            )
        right = (images * texts).sum(1, keepdim=True)
        other_images, other_texts = (images, texts) if corpus is None else (corpus.images, corpus.texts)
        if wrong is None:
            sentences = pictures = self._wrong(taxa, None if corpus is None else corpus.taxa)
        elif corpus is None and wrong.shape == (len(images), len(images)):
            sentences, pictures = wrong.T, wrong
        else:
            raise UsageError(f"wrong: expected (n, n) and no corpus, got {tuple(wrong.shape)}")
        total = right.new_zeros(())
        if self.negatives != "images":
            total = total + self.sentence_weight * self._hinges(right, images @ other_texts.T, sentences, rng)
        if self.negatives != "sentences":
            total = total + self.image_weight * self._hinges(right, texts @ other_images.T, pictures, rng)
        return total / max(len(images), 1)

    def _wrong(self, taxa: torch.Tensor, others: torch.Tensor | None) -> torch.Tensor:
        """Boolean (n, M): whose pair with whom is a negative."""
        if self.same_taxon_mask:
            return taxa[:, None] != (taxa if others is None else others)[None]
        if others is not None:
            return torch.ones((len(taxa), len(others)), dtype=torch.bool, device=taxa.device)
        return ~torch.eye(len(taxa), dtype=torch.bool, device=taxa.device)

    def _hinges(
        self, right: torch.Tensor, scores: torch.Tensor, wrong: torch.Tensor, rng: torch.Generator | None
    ) -> torch.Tensor:
        lowest = torch.finfo(scores.dtype).min
        if self.draw == "random":
            lots = torch.rand(scores.shape, generator=rng, device=scores.device).masked_fill(~wrong, -1)
            drawn = lots.topk(min(self.count, scores.shape[1]), 1).indices
            wrong = wrong & torch.zeros_like(wrong).scatter(1, drawn, True)
        elif self.draw != "batch":
            if self.draw == "semi-hard":
                wrong = wrong & (scores < right)
            highest = scores.masked_fill(~wrong, lowest).argmax(1, keepdim=True)
            wrong = wrong & torch.zeros_like(wrong).scatter(1, highest, True)
        return (self.margin + scores - right).clamp(min=0).masked_fill(~wrong, 0).sum()
