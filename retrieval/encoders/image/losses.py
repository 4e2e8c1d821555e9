"""Losses that draw grains of one taxon together and others apart."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn import functional

from ....errors import UsageError

__all__ = ["LOSSES", "CosineMargin", "ProxyAnchor", "SupervisedContrast", "build_loss"]


class SupervisedContrast(nn.Module):
    """Supervised contrastive loss, Khosla et al. 2020 (arXiv 2004.11362), eq. 2: positives averaged outside the log.

    For unit vectors z and the others of a batch A(i), of which P(i) share the taxon:
    `mean_i  -1/|P(i)| sum_{p in P(i)} log( exp(z_i z_p / t) / sum_{a in A(i)} exp(z_i z_a / t) )`.

    Args:
        dim: Length of the vectors; not used.
        taxa: Number of taxa; not used.
        temperature: t.
    """

    def __init__(self, dim: int = 0, taxa: int = 0, temperature: float = 0.1):
        super().__init__()
        self.temperature = temperature

    def forward(self, z: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Unit vectors (B, dim) and labels (B,) -> scalar; grains alone of their taxon in the batch do not count."""
        itself = torch.eye(len(z), dtype=torch.bool, device=z.device)
        similar = (z @ z.T / self.temperature).masked_fill(itself, float("-inf"))
        log_share = similar - similar.logsumexp(1, keepdim=True)
        positive = (labels[:, None] == labels[None]) & ~itself
        count = positive.sum(1)
        each = -log_share.masked_fill(~positive, 0).sum(1) / count.clamp(min=1)
        return each.sum() / (count > 0).sum().clamp(min=1)


class ProxyAnchor(nn.Module):
    """Proxy anchor loss, Kim et al. 2020 (arXiv 2003.13911), eq. 4: one learned vector a taxon is the anchor.

    Args:
        dim: Length of the vectors.
        taxa: Number of taxa.
        alpha: Scale.
        margin: delta.
    """

    def __init__(self, dim: int, taxa: int, alpha: float = 32.0, margin: float = 0.1):
        super().__init__()
        self.proxies = nn.Parameter(torch.randn(taxa, dim))
        self.alpha, self.margin = alpha, margin

    def forward(self, z: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Unit vectors (B, dim) and labels (B,) -> scalar."""
        cosine = z @ functional.normalize(self.proxies, dim=1).T
        mine = functional.one_hot(labels, len(self.proxies)).bool()
        nothing = torch.zeros(1, len(self.proxies), device=z.device)
        near = torch.cat([nothing, (-self.alpha * (cosine - self.margin)).masked_fill(~mine, float("-inf"))])
        far = torch.cat([nothing, (self.alpha * (cosine + self.margin)).masked_fill(mine, float("-inf"))])
        here = mine.any(0)
        pull = near.logsumexp(0)[here].sum() / here.sum().clamp(min=1)
        return pull + far.logsumexp(0).mean()


class CosineMargin(nn.Module):
    """Large margin cosine loss, Wang et al. 2018 (arXiv 1801.09414, "CosFace"), eq. 4, with smoothed labels.

    Args:
        dim: Length of the vectors.
        taxa: Number of taxa.
        scale: s.
        margin: m.
        smoothing: Share of each label that is spread over all taxa.
    """

    def __init__(self, dim: int, taxa: int, scale: float = 20.0, margin: float = 0.15, smoothing: float = 0.05):
        super().__init__()
        self.proxies = nn.Parameter(torch.randn(taxa, dim))
        self.scale, self.margin, self.smoothing = scale, margin, smoothing

    def forward(self, z: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Unit vectors (B, dim) and labels (B,) -> scalar."""
        cosine = z @ functional.normalize(self.proxies, dim=1).T
        mine = functional.one_hot(labels, len(self.proxies))
        scores = self.scale * (cosine - self.margin * mine)
        return functional.cross_entropy(scores, labels, label_smoothing=self.smoothing)


LOSSES: dict[str, type[nn.Module]] = {
    "supcon": SupervisedContrast,
    "proxy-anchor": ProxyAnchor,
    "cosine-margin": CosineMargin,
}


def build_loss(name: str, dim: int, taxa: int, **options: Any) -> nn.Module:
    """A loss by name.

    Raises:
        UsageError: There is none of that name.
    """
    if name not in LOSSES:
        raise UsageError(f"loss: expected one of {', '.join(LOSSES)}, got {name!r}")
    return LOSSES[name](dim, taxa, **options)
