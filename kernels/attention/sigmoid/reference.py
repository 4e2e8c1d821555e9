"""Sigmoid attention in plain PyTorch: the whole matrix of weights, as the equation says."""

from __future__ import annotations

import torch

__all__ = ["attend"]


def attend(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, bias: torch.Tensor | float | None, causal: bool
) -> torch.Tensor:
    """`sigmoid(q k^T / sqrt(d) + bias) v`, with weights of 0 above the diagonal where causal.

    Args:
        q: (B, H, N, d).
        k: (B, H, M, d).
        v: (B, H, M, d).
        bias: A number, (H,) or (); None for -log M.
        causal: Whether query i sees keys up to i.

    Returns:
        (B, H, N, d).
    """
    # Half precision has too few digits for logits of -log M.
    wide = torch.promote_types(q.dtype, torch.float32)
    if bias is None:
        bias = -torch.full((), k.shape[2], dtype=wide, device=q.device).log()
    if isinstance(bias, torch.Tensor):
        bias = bias.to(wide)[..., None, None]
    weights = torch.sigmoid((q @ k.mT).to(wide) * q.shape[-1] ** -0.5 + bias).to(q.dtype)
    return (weights.tril() if causal else weights) @ v
