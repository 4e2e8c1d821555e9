"""What the edge pyramid is: the Sobel pair by slices, and maxima over 2 x 2 pixels, again and again."""

from __future__ import annotations

import torch
import torch.nn.functional as F

with torch.inference_mode(False):  # Wherever this module is first imported: gradients may be asked for later.
    _ACROSS = torch.tensor([[-1.0, 0.0, 1.0], [-2.0, 0.0, 2.0], [-1.0, 0.0, 1.0]]) / 8
    # The kernels of gx and gy, (2, 1, 3, 3): [1 2 1]^T [-1 0 1] / 8 and its transpose.
    SOBEL = torch.stack((_ACROSS, _ACROSS.T))[:, None]


def sobel_magnitude(x: torch.Tensor, levels: int, eps: float) -> tuple[torch.Tensor, ...]:
    """E1 = maxpool(E), E2 = maxpool(E1), ... of E = sqrt(gx^2 + gy^2 + eps); half precision is computed in float32.

    Args:
        x: (B, C, H, W).
        levels: How many maps.
        eps: Added below the root.

    Returns:
        Level i of (B, C, ceil(H / 2^i), ceil(W / 2^i)), dtype of `x`.
    """
    maps = pyramid(squared_gradient(x), levels, eps)
    return tuple(level.to(x.dtype).contiguous(memory_format=order(x)) for level in maps)


def squared_gradient(x: torch.Tensor) -> torch.Tensor:
    """gx^2 + gy^2, change a pixel, squared: (B, C, H, W), at least float32. Borders are replicated."""
    x = x.to(torch.promote_types(x.dtype, torch.float32))
    x = replicated(x)
    across = x[..., 2:] - x[..., :-2]
    along = x[..., 2:] + 2 * x[..., 1:-1] + x[..., :-2]
    gx = (across[..., 2:, :] + 2 * across[..., 1:-1, :] + across[..., :-2, :]) / 8
    gy = (along[..., 2:, :] - along[..., :-2, :]) / 8
    return gx.square() + gy.square()


def replicated(x: torch.Tensor, margin: int = 1) -> torch.Tensor:
    """So many pixels more on each side, equal to the last one there: (B, C, H, W) -> (B, C, H + 2m, W + 2m)."""
    if not torch.compiler.is_compiling():
        return F.pad(x, (margin,) * 4, mode="replicate")
    # Inductor takes the gradient of PyTorch's own for row by row in any order of memory, and stops (2.11, 2.15).
    for side in (-1, -2):
        first, last = x.narrow(side, 0, 1), x.narrow(side, x.shape[side] - 1, 1)
        x = torch.cat((*(first,) * margin, x, *(last,) * margin), side)
    return x


def pyramid(squares: torch.Tensor, levels: int, eps: float) -> list[torch.Tensor]:
    """Roots of pooled squares: the pooled roots, as the root grows with its argument, at a third of the work."""
    maps = []
    for _ in range(levels):
        squares = F.max_pool2d(squares, 2, 2, ceil_mode=True)
        maps.append((squares + eps).sqrt())
    return maps


def order(x: torch.Tensor) -> torch.memory_format:
    """The order of memory of the maps that belong to `x`: its own if it is dense, else row by row."""
    last = x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous()
    return torch.channels_last if last else torch.contiguous_format
