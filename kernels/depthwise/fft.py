"""Depthwise convolution through the Fourier transform: its cost does not grow with the kernel.

Correlation is a product of spectra: y = F^-1(F(x) . conj(F(w))). With the map moved k // 2 down and right, and a
period of at least H + k // 2, whatever wraps around is zero, so the first H rows and W columns are the padded
convolution exactly. Autograd passes through the transforms; no backward pass is written here.
"""

from __future__ import annotations

from functools import cache

import torch
import torch.nn.functional as F
from torch.utils.weak import WeakTensorKeyDictionary

_KEPT_SIZES = 4
_spectra: WeakTensorKeyDictionary = WeakTensorKeyDictionary()


def depthwise(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, stride: int) -> torch.Tensor:
    """Same as `reference.depthwise`; computed in float32 (float64 for float64 maps) and cast back.

    Args:
        x: (B, C, H, W).
        weight: (C, 1, kh, kw), odd.
        bias: (C,) or None.
        stride: Step of the output grid.

    Returns:
        (B, C, ceil(H / stride), ceil(W / stride)), dtype of `x`.
    """
    height, width = x.shape[-2:]
    top, left = weight.shape[-2] // 2, weight.shape[-1] // 2
    # A period below the kernel's own size would cut the kernel off.
    rows = smooth(max(height + top, weight.shape[-2]))
    columns = smooth(max(width + left, weight.shape[-1]))
    dtype = torch.promote_types(x.dtype, torch.float32)
    moved = F.pad(x.to(dtype), (left, columns - width - left, top, rows - height - top))
    spectrum = torch.fft.rfft2(moved) * _conjugate_spectrum(weight, dtype, (rows, columns))
    y = torch.fft.irfft2(spectrum, s=(rows, columns))[..., :height:stride, :width:stride]
    if bias is not None:
        y = y + bias.to(dtype).view(-1, 1, 1)
    return y.to(x.dtype, memory_format=torch.contiguous_format)


@cache
def smooth(n: int) -> int:
    """The smallest number of at least `n` with no prime factor above 5, where transforms are fast."""
    while True:
        rest = n
        for prime in (2, 3, 5):
            while rest % prime == 0:
                rest //= prime
        if rest == 1:
            return n
        n += 1


def _conjugate_spectrum(weight: torch.Tensor, dtype: torch.dtype, size: tuple[int, int]) -> torch.Tensor:
    if weight.requires_grad or weight.is_inference():
        return torch.fft.rfft2(weight[:, 0].to(dtype), s=size).conj()
    # A kernel that is not trained keeps its spectrum. The stamp tells when its values were replaced in place.
    stamp = (weight._version, weight.data_ptr(), weight.dtype, weight.device)
    entry = _spectra.get(weight)
    if entry is None or entry[0] != stamp:
        entry = _spectra[weight] = (stamp, {})
    kept = entry[1]
    if (dtype, size) not in kept:
        if len(kept) >= _KEPT_SIZES:
            kept.clear()
        # Made as an ordinary tensor even in inference mode, as a later call may need it in a graph.
        with torch.inference_mode(False), torch.no_grad():
            kept[dtype, size] = torch.fft.rfft2(weight[:, 0].to(dtype), s=size).conj().resolve_conj()
    return kept[dtype, size]
