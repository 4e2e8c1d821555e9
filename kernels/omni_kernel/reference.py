"""What the omni-kernel block is, step by step as published."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from .gate import Gate


def omni(
    x: torch.Tensor,
    enter: tuple[torch.Tensor, torch.Tensor],
    large: tuple[torch.Tensor, torch.Tensor],
    leave: tuple[torch.Tensor, torch.Tensor],
    gate: Gate | None,
) -> torch.Tensor:
    """W_out ReLU(x + D(u) + g(u)) + b with u = GELU(W_in x + b); arguments as `palyno.kernels.omni`."""
    weight, bias = large
    u = F.gelu(F.conv2d(x, *enter))
    y = x + F.conv2d(u, weight, bias, padding=(weight.shape[2] // 2, weight.shape[3] // 2), groups=x.shape[1])
    if gate is not None:
        a1 = F.conv2d(u.mean((2, 3), keepdim=True), *gate.spectral)
        f = (a1 * u).abs()
        s = F.conv2d(f.mean((2, 3), keepdim=True), *gate.spatial) * f
        if gate.alpha is not None:
            y = y + gate.alpha * gate.spectrum(s)
        y = y + gate.beta * s
    return F.conv2d(F.relu(y), *leave)
