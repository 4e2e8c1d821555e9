"""The omni-kernel block of inference, fused as far as it pays: `omni`.

Published, the block is six passes over its map after the depthwise convolution, and four transforms. Here the four
depthwise branches are one kernel (merged by the caller), the two gates are one factor of |u| for each map, and
y = ReLU(x + D(u) + k |u|) is the epilogue of the depthwise convolution, which has |u| at hand: one pass. The means
that k needs are two reductions of u. The 1x1 convolutions are left to PyTorch's libraries. Only where alpha is not zero
does a transform remain, as p, a map, multiplies a spectrum.

Of a map of n bytes it moves 9 n (enter: 2, GELU: 2, depthwise and epilogue: 3, leave: 2), and 1 or 2 n for the means,
against 20 n published, transforms aside.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F

from ...errors import UsageError
from ..backends import asked_backend
from ..depthwise import depthwise_conv2d
from . import reference
from .gate import Gate

__all__ = ["BACKENDS", "Gate", "omni"]

BACKENDS = ("reference", "fused")

Affine = tuple[torch.Tensor, torch.Tensor]


def omni(
    x: torch.Tensor, enter: Affine, large: Affine, leave: Affine, gate: Gate | None = None, *, backend: str = "auto"
) -> torch.Tensor:
    """W_out ReLU(x + D(u) + g(u)) + b with u = GELU(W_in x + b).

    Sources: Cui et al., Omni-Kernel Network for Image Restoration, AAAI 2024; HieraEdgeNet, arXiv 2506.07637.

    Args:
        x: (B, C, H, W), floating point.
        enter: Weight (C, C, 1, 1) and bias (C,) of the 1x1 convolution before.
        large: Weight (C, 1, kh, kw), odd, and bias (C,) of the merged depthwise convolution D.
        leave: Weight and bias of the 1x1 convolution after.
        gate: Parameters of g, or None where there is no gate.
        backend: `auto`, `reference` or `fused`; `PALYNO_OMNI` decides where it is `auto`. How the depthwise convolution
            is computed, `PALYNO_DEPTHWISE` decides.

    Returns:
        (B, C, H, W), dtype of `x` or autocast's.

    Raises:
        UsageError: Shapes, dtypes or devices that do not fit together, or no such back end.
    """
    _check(x, enter, large, leave, gate)
    if asked_backend("omni", backend, BACKENDS) == "reference":
        return reference.omni(x, enter, large, leave, gate)
    u = F.gelu(F.conv2d(x, *enter))
    if x.dtype != u.dtype:
        x = x.to(u.dtype)
    factor = None
    if gate is not None:
        size = u.shape[2] * u.shape[3]
        a1 = F.conv2d(u.mean((2, 3), keepdim=True), *gate.spectral).abs()
        mean = torch.linalg.vector_norm(u, 1, (2, 3), keepdim=True, dtype=_wide(u)) / size
        a2 = F.conv2d((a1 * mean).to(u.dtype), *gate.spatial)
        # s = a2 |a1| |u|.
        factor = a2 * a1
        if gate.alpha is not None:
            x = x + (gate.alpha * gate.spectrum(factor * u.abs())).to(x.dtype)
        factor = (gate.beta * factor)[..., 0, 0].to(_wide(u))
    y = depthwise_conv2d(u, *large, residual=x, gate=factor, activation="relu")
    return F.conv2d(y, *leave)


def _wide(x: torch.Tensor) -> torch.dtype:
    return torch.promote_types(x.dtype, torch.float32)


def _check(x: torch.Tensor, enter: Affine, large: Affine, leave: Affine, gate: Gate | None) -> None:
    if x.ndim != 4 or min(x.shape) < 1 or not x.is_floating_point():
        raise UsageError(f"x: expected a non-empty floating (B, C, H, W), got {tuple(x.shape)} of {x.dtype}")
    channels = x.shape[1]
    pairs = {"enter": enter, "leave": leave}
    if gate is not None:
        pairs |= {"gate.spectral": gate.spectral, "gate.spatial": gate.spatial}
        if gate.alpha is not None:
            if gate.p is None or gate.q is None:
                raise UsageError("gate: expected p and q beside alpha, got none; give both, or leave alpha out")
            pairs |= {"gate.p": gate.p, "gate.q": gate.q}
    for name, (weight, bias) in pairs.items():
        if tuple(weight.shape) != (channels, channels, 1, 1) or tuple(bias.shape) != (channels,):
            raise UsageError(
                f"{name}: expected weight ({channels}, {channels}, 1, 1) and bias ({channels},), got "
                f"{tuple(weight.shape)} and {tuple(bias.shape)}"
            )
    if large[0].ndim != 4 or tuple(large[0].shape[:2]) != (channels, 1) or tuple(large[1].shape) != (channels,):
        raise UsageError(
            f"large: expected weight ({channels}, 1, kh, kw) and bias ({channels},), got "
            f"{tuple(large[0].shape)} and {tuple(large[1].shape)}"
        )
    for name, (weight, _) in (*pairs.items(), ("large", large)):
        if weight.device != x.device:
            raise UsageError(f"{name}: expected on {x.device} like x, got {weight.device}; move it there")
