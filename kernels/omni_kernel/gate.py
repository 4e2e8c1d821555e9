"""The parameters of the omni-kernel's dual-domain gate, and its one part that needs transforms."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F


class Gate(NamedTuple):
    """g = alpha |F^-1(p . F(q))| + beta s, s = a2 |a1 u|; the pairs are weight (C, C, 1, 1) and bias (C,).

    Attributes:
        spectral: W_f of a1 = W_f mean(u) + b.
        spatial: W_c of a2 = W_c mean(|a1 u|) + b.
        beta: (C, 1, 1).
        p: W_1 of p = W_1 s + b; not needed without alpha, as q.
        q: W_2 of q = W_2 s + b.
        alpha: (C, 1, 1), or None where it is zero: then no transform is made.
    """

    spectral: tuple[torch.Tensor, torch.Tensor]
    spatial: tuple[torch.Tensor, torch.Tensor]
    beta: torch.Tensor
    p: tuple[torch.Tensor, torch.Tensor] | None = None
    q: tuple[torch.Tensor, torch.Tensor] | None = None
    alpha: torch.Tensor | None = None

    def spectrum(self, s: torch.Tensor) -> torch.Tensor:
        """|F^-1(p . F(q))| of s, (B, C, H, W), in its dtype."""
        assert self.p is not None and self.q is not None
        p, q = F.conv2d(s, *self.p), F.conv2d(s, *self.q)
        # Transforms of half precision exist on some devices for some sizes only: always float32 or float64.
        with torch.autocast(s.device.type, enabled=False):
            dtype = torch.promote_types(p.dtype, torch.float32)
            return torch.fft.ifft2(p.to(dtype) * torch.fft.fft2(q.to(dtype))).abs().to(s.dtype)
