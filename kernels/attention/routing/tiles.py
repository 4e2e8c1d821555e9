"""Sizes of the blocks that the kernels work in, chosen by measurement, and how tensors are laid out for them."""

from __future__ import annotations

from dataclasses import dataclass

import torch

__all__ = ["Tiles", "backward_tiles", "forward_tiles", "like", "precision"]


@dataclass(frozen=True)
class Tiles:
    """Blocks of a program.

    Args:
        queries: Queries in a block.
        keys: Keys in a block.
        warps: Warps of a program.
        stages: Blocks on their way from memory at once.
        flat: Whether blocks of keys run over the ends of regions (no waste where a region is no whole number of
            blocks) or begin anew with each (simpler addresses).
    """

    queries: int
    keys: int
    warps: int = 4
    stages: int = 2
    mode: int = 0
    together: int = 1
    registers: int | None = None

    @staticmethod
    def depth(head: int) -> int:
        """Channels of a head, up to what a tensor core takes."""
        return max(16, _power_of_two(head))


def forward_tiles(tokens: int, topk: int, head: int, size: int) -> Tiles:
    """Blocks for regions of `tokens` tokens, heads of `head` channels and elements of `size` bytes."""
    queries = min(128 if head * size <= 64 else 64, max(16, _power_of_two(tokens)))
    return Tiles(queries, min(64, max(16, _power_of_two(tokens))), warps=4 if queries <= 64 else 8, stages=2)


def backward_tiles(tokens: int, topk: int, head: int, size: int) -> tuple[Tiles, Tiles]:
    """Blocks for the gradient of the queries, and for that of the keys and values."""
    block = min(64, max(16, _power_of_two(tokens)))
    return Tiles(block, block, warps=4, stages=2), Tiles(block, block, warps=4, stages=2)


def like(x: torch.Tensor) -> torch.Tensor:
    """An empty map of the shape of `x`, channels last where its channels are, and else contiguous."""
    last = x.stride(1) == 1 and x.shape[1] > 1
    return torch.empty(
        x.shape,
        dtype=x.dtype,
        device=x.device,
        memory_format=torch.channels_last if last else torch.contiguous_format,
    )


def precision(dtype: torch.dtype) -> str:
    """How float32 is multiplied: as PyTorch's own matrix products are allowed to be, and never below tf32x3 if not."""
    return "tf32" if dtype != torch.float32 or torch.backends.cuda.matmul.allow_tf32 else "tf32x3"


def _power_of_two(n: int) -> int:
    return 1 << (n - 1).bit_length()
