"""Depthwise convolution through the Fourier transform: its cost does not grow with the kernel.

Transforms turn convolution into a product: with a period of at least H + kh // 2, whatever wraps around the end of the
map falls on rows that are cut off. What runs in the three directions, with F(a) the spectrum of `a`:

    y  = rows and columns kh // 2, kw // 2 onwards of F^-1(F(x) . F(w turned by 180 degrees))
    dx = the same of F^-1(F(dy) . F(w))
    dw = F^-1(conj F(dy) . F(x)) at shifts -(kh // 2) to kh // 2, summed over the batch

so neither the map nor the result is moved: the cut that is needed anyway does it. Forward takes two transforms of the
map, backward four, and each kernel one, which is kept where the kernel is not trained. A plane of N x N costs about
5 N^2 log2 N operations a transform and 4 N^2 for the product, against 2 kh kw H W. On a CPU channels go through in
blocks whose spectra fit its cache.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator
from functools import cache

import torch
from torch.utils.weak import WeakTensorKeyDictionary

__all__ = ["forward", "input_gradient", "kept_spectrum", "period", "smooth", "spread", "weight_gradient"]

_KEPT_SIZES = 4
# Bytes of spectra in flight on a CPU: about what its caches hold.
_BLOCK = 4 * 2**20
_spectra: WeakTensorKeyDictionary = WeakTensorKeyDictionary()


def forward(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None, stride: int = 1) -> torch.Tensor:
    """Correlates each channel with its own kernel; zeros outside the map. No graph is recorded.

    Computed in float32 (float64 for float64 maps) and cast back.

    Args:
        x: (B, C, H, W).
        weight: (C, 1, kh, kw), odd.
        bias: (C,) or None.
        stride: Step of the output grid.

    Returns:
        (B, C, ceil(H / stride), ceil(W / stride)), contiguous, dtype of `x`.
    """
    return _convolve(x, weight, bias, stride, turned=True)


def input_gradient(grad: torch.Tensor, weight: torch.Tensor, shape: tuple[int, int], stride: int = 1) -> torch.Tensor:
    """Gradient of the maps.

    Args:
        grad: Of the result, (B, C, ceil(H / stride), ceil(W / stride)).
        weight: (C, 1, kh, kw), odd.
        shape: (H, W) of the maps.
        stride: Step of the output grid.

    Returns:
        (B, C, H, W), contiguous, dtype of `grad`.
    """
    return _convolve(spread(grad, shape, stride), weight, None, 1, turned=False)


def weight_gradient(grad: torch.Tensor, x: torch.Tensor, kernel: tuple[int, int], stride: int = 1) -> torch.Tensor:
    """Gradient of the kernels.

    Args:
        grad: Of the result, (B, C, ceil(H / stride), ceil(W / stride)).
        x: The maps, (B, C, H, W).
        kernel: (kh, kw), odd.
        stride: Step of the output grid.

    Returns:
        (C, 1, kh, kw), dtype of `grad`.
    """
    size, dtype = _size(x, kernel), torch.promote_types(grad.dtype, torch.float32)
    grad = spread(grad, (x.shape[-2], x.shape[-1]), stride)
    shifts = [torch.arange(-(k // 2), k // 2 + 1, device=x.device) % n for k, n in zip(kernel, size, strict=True)]
    sums = grad.new_empty((x.shape[1], 1, *kernel), dtype=dtype)
    with torch.no_grad():
        for some in _blocks(x, size, dtype):
            product = _spectrum(grad[:, some], dtype, size).conj_physical_().mul_(_spectrum(x[:, some], dtype, size))
            whole = torch.fft.irfft2(product.sum(0), s=size)
            sums[some, 0] = whole[:, shifts[0][:, None], shifts[1]]
    return sums.to(grad.dtype)


@torch.no_grad()
def _convolve(
    x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, stride: int, *, turned: bool
) -> torch.Tensor:
    size, dtype = _size(x, (weight.shape[-2], weight.shape[-1])), torch.promote_types(x.dtype, torch.float32)
    kernels = _kernel_spectrum(weight, dtype, size, turned)
    top, left = weight.shape[-2] // 2, weight.shape[-1] // 2
    rows, columns = slice(top, top + x.shape[-2], stride), slice(left, left + x.shape[-1], stride)
    shape = (*x.shape[:2], *(-(-side // stride) for side in x.shape[-2:]))
    y = torch.empty(shape, dtype=x.dtype, device=x.device)
    for some in _blocks(x, size, dtype):
        product = _spectrum(x[:, some], dtype, size).mul_(kernels[some])
        cut = torch.fft.irfft2(product, s=size)[..., rows, columns]
        y[:, some] = cut if bias is None else cut.add_(bias[some].to(dtype).view(-1, 1, 1))
    return y


def _spectrum(maps: torch.Tensor, dtype: torch.dtype, size: tuple[int, int]) -> torch.Tensor:
    """(..., H, W) -> (..., rows, columns // 2 + 1), zeros below and right of the map."""
    maps = maps.to(dtype, memory_format=torch.contiguous_format)
    # Rows of zeros need no transform: only the other axis is filled up before the second step.
    return torch.fft.fft(torch.fft.rfft(maps, n=size[1]), n=size[0], dim=-2)


def _kernel_spectrum(weight: torch.Tensor, dtype: torch.dtype, size: tuple[int, int], turned: bool) -> torch.Tensor:
    def make() -> torch.Tensor:
        kernels = weight.detach()[:, 0]
        return _spectrum(kernels.flip((-2, -1)) if turned else kernels, dtype, size)

    return kept_spectrum(weight, (dtype, size, turned), make)


def kept_spectrum(weight: torch.Tensor, key: Hashable, make: Callable[[], torch.Tensor]) -> torch.Tensor:
    """What `make` gives, kept with a weight that is not trained for as long as its values stay.

    Args:
        weight: The kernels.
        key: What else the spectrum depends on.
        make: Computes it.
    """
    if weight.requires_grad or weight.is_inference():
        return make()
    # The stamp tells when values were replaced in place.
    stamp = (weight._version, weight.data_ptr(), weight.dtype, weight.device)
    entry = _spectra.get(weight)
    if entry is None or entry[0] != stamp:
        entry = _spectra[weight] = (stamp, {})
    kept = entry[1]
    spectrum: torch.Tensor | None = kept.get(key)
    if spectrum is None:
        # Made as an ordinary tensor even in inference mode, as a later call may need it in a graph.
        with torch.inference_mode(False), torch.no_grad():
            spectrum = make()
        if len(kept) >= _KEPT_SIZES:
            kept.clear()
        kept[key] = spectrum
    return spectrum


def spread(grad: torch.Tensor, shape: tuple[int, int], stride: int) -> torch.Tensor:
    """The gradient at full resolution, zeros where the output grid has no point."""
    if stride == 1:
        return grad
    full = grad.new_zeros((*grad.shape[:2], *shape))
    full[..., ::stride, ::stride] = grad
    return full


def _blocks(x: torch.Tensor, size: tuple[int, int], dtype: torch.dtype) -> Iterator[slice]:
    """The channels in blocks; on a GPU all at once."""
    channels = x.shape[1]
    plane = x.shape[0] * size[0] * (size[1] // 2 + 1) * 2 * dtype.itemsize
    step = channels if x.device.type != "cpu" else max(1, min(channels, _BLOCK // plane))
    return (slice(start, start + step) for start in range(0, channels, step))


def _size(x: torch.Tensor, kernel: tuple[int, int]) -> tuple[int, int]:
    return period((x.shape[-2], x.shape[-1]), kernel, x.device.type == "cpu")


def period(size: tuple[int, int], kernel: tuple[int, int], cpu: bool = True) -> tuple[int, int]:
    """Lengths of the transforms for maps of (H, W) and kernels of (kh, kw)."""
    # A period below the kernel's own size would cut the kernel off.
    least = [max(side + k // 2, k) for side, k in zip(size, kernel, strict=True)]
    # Measured with MKL: odd lengths take up to twice as long a point.
    rows, columns = (1 if n == 1 else smooth(n, 4 if cpu else 1) for n in least)
    return rows, columns


@cache
def smooth(n: int, step: int = 1) -> int:
    """The smallest multiple of `step` from `n` on with no prime factor above 5, where transforms are fast."""
    n = -(-n // step) * step
    while True:
        rest = n
        for prime in (2, 3, 5):
            while rest % prime == 0:
                rest //= prime
        if rest == 1:
            return n
        n += step
