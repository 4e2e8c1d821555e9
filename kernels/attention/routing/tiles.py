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
    """

    queries: int
    keys: int
    warps: int = 4
    stages: int = 2

    @staticmethod
    def depth(head: int) -> int:
        """Channels of a head, up to what a tensor core takes."""
        return max(16, _power_of_two(head))


def forward_tiles(tokens: int, topk: int, head: int, size: int) -> Tiles:
    """Blocks for regions of `tokens` tokens, heads of `head` channels and elements of `size` bytes."""
    if head * size > 128:
        return Tiles(_block(tokens, head, size), _block(tokens, head, size), stages=1 if head * size > 256 else 2)
    # One block of keys a region up to 128: nothing changes from region to region but where it begins.
    return Tiles(_block(tokens, head, size), min(128, max(16, _power_of_two(tokens))) if tokens <= 128 else 64)


def backward_tiles(tokens: int, topk: int, head: int, size: int) -> tuple[Tiles, Tiles]:
    """Blocks for the gradient of the queries, and for that of the keys and values."""
    block = _block(tokens, head, size)
    return Tiles(block, block, stages=1 if head * size > 256 else 2), Tiles(block, block, stages=1)


def _block(tokens: int, head: int, size: int) -> int:
    # Float32 of wide heads fills the shared memory (three tf32 parts of each operand).
    most = 64 if head * size <= 128 or size < 4 else 32 if head * size <= 256 else 16
    return min(most, max(16, _power_of_two(tokens)))


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
