"""Contrastive losses to compare the ranking objective with: InfoNCE (multiple negatives ranking) and SigLIP."""

from __future__ import annotations

import math

import torch
from torch import nn
from torch.nn import functional

__all__ = ["InfoNCE", "SigLIP"]


def _spared(taxa: torch.Tensor, wrong: torch.Tensor | None, mask: bool) -> torch.Tensor | None:
    """Boolean (images, texts): pairs that are neither right nor wrong; None if there are none."""
    if wrong is None and not mask:
        return None
    neither = taxa[:, None] == taxa[None] if wrong is None else ~wrong.T
    return neither & ~torch.eye(len(taxa), dtype=torch.bool, device=taxa.device)


class InfoNCE(nn.Module):
    """Softmax over the batch, the mean of both directions (van den Oord et al. 2018, arXiv 1807.03748, eq. 4).

    `-1/2n sum_k [ log softmax_l(c S_kl)_k + log softmax_l(c S_lk)_k ]` for unit vectors, with a learned scale c:
    without one the loss of unit vectors cannot become small. This is multiple negatives ranking (Henderson et al.
    2017, arXiv 1705.00652) in both directions.

    Args:
        scale: c at the start.
        same_taxon_mask: Leave other pairs of the same taxon out of the sums.
    """

    def __init__(self, scale: float = 20.0, same_taxon_mask: bool = True):
        super().__init__()
        self.log_scale = nn.Parameter(torch.tensor(math.log(scale)))
        self.same_taxon_mask = same_taxon_mask

    def forward(
        self, images: torch.Tensor, texts: torch.Tensor, taxa: torch.Tensor, *, wrong: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Unit vectors (n, dim) twice, taxa (n,) -> scalar; `wrong` as in `RankingObjective`."""
        scores = self.log_scale.exp().clamp(max=100) * images @ texts.T
        if (spared := _spared(taxa, wrong, self.same_taxon_mask)) is not None:
            scores = scores.masked_fill(spared, float("-inf"))
        right = torch.arange(len(images), device=images.device)
        return (functional.cross_entropy(scores, right) + functional.cross_entropy(scores.T, right)) / 2


class SigLIP(nn.Module):
    """A yes or no for each pair (Zhai et al. 2023, arXiv 2303.15343, eq. 2).

    `-1/n sum_kl log sigmoid(z_kl (c S_kl + b))`, where z is 1 for right pairs and -1 for others; c and b are learned.

    Args:
        scale: c at the start.
        bias: b at the start; as most pairs are wrong, well below 0.
        same_taxon_mask: Leave other pairs of the same taxon out of the sum.
    """

    def __init__(self, scale: float = 10.0, bias: float = -10.0, same_taxon_mask: bool = True):
        super().__init__()
        self.log_scale = nn.Parameter(torch.tensor(math.log(scale)))
        self.bias = nn.Parameter(torch.tensor(bias))
        self.same_taxon_mask = same_taxon_mask

    def forward(
        self, images: torch.Tensor, texts: torch.Tensor, taxa: torch.Tensor, *, wrong: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Unit vectors (n, dim) twice, taxa (n,) -> scalar; `wrong` as in `RankingObjective`."""
        scores = self.log_scale.exp().clamp(max=100) * images @ texts.T + self.bias
        sign = 2 * torch.eye(len(images), device=images.device) - 1
        each = functional.logsigmoid(sign * scores)
        if (spared := _spared(taxa, wrong, self.same_taxon_mask)) is not None:
            each = each.masked_fill(spared, 0)
        return -each.sum() / max(len(images), 1)
