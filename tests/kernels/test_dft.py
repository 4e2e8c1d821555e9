"""Depthwise convolution and the spectral gate by constant matrices: the same functions as by convolution and by FFT."""

import pytest
import torch
from palyno.kernels import depthwise_conv2d
from palyno.kernels.depthwise.dft import (
    DepthwiseDFT,
    GateDFT,
    OpenDepthwiseDFT,
    OpenGateDFT,
    multiply_adds,
    period,
)
from palyno.kernels.omni_kernel import Gate

SHAPES = [
    ((20, 20), (31, 31)),  # A kernel whose taps do not all meet the map.
    ((17, 23), (7, 7)),  # Primes.
    ((13, 8), (5, 31)),
    ((5, 64), (31, 31)),
    ((1, 37), (31, 31)),  # One row.
    ((37, 1), (9, 9)),
    ((1, 1), (3, 3)),
    ((24, 40), (1, 31)),
    ((24, 40), (31, 1)),
    ((9, 9), (1, 1)),
    ((2, 3), (51, 3)),
]


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 3e-6)])
@pytest.mark.parametrize("biased", [True, False])
@pytest.mark.parametrize(("size", "kernel"), SHAPES)
def test_products_of_matrices_are_the_convolution(size, kernel, biased, dtype, tolerance):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn((2, 3, *size), generator=generator, dtype=torch.float64)
    weight = torch.randn((3, 1, *kernel), generator=generator, dtype=torch.float64)
    bias = torch.randn(3, generator=generator, dtype=torch.float64) if biased else None
    expected = depthwise_conv2d(x, weight, bias, backend="reference")
    x, weight = x.to(dtype), weight.to(dtype)
    bias = None if bias is None else bias.to(dtype)
    for made in (DepthwiseDFT(weight, bias, size), OpenDepthwiseDFT(weight, bias)):
        y = made(x)
        assert y.dtype == dtype
        assert (y - expected).abs().max() < tolerance * expected.abs().max().clamp(min=1)


@pytest.mark.parametrize("size", [(20, 20), (17, 23), (1, 9), (9, 1), (1, 1), (6, 31)])
def test_the_gate_is_that_of_the_fourier_transform(size):
    generator = torch.Generator().manual_seed(0)

    def pair():
        return torch.randn((4, 4, 1, 1), generator=generator), torch.randn(4, generator=generator)

    ones = torch.ones(4, 1, 1)
    gate = Gate(pair(), pair(), ones, pair(), pair(), ones)
    s = torch.randn((2, 4, *size), generator=generator)
    expected = gate.spectrum(s)
    maps = [torch.nn.functional.conv2d(s, *affine) for affine in (gate.p, gate.q)]
    for made in (GateDFT(size), OpenGateDFT()):
        assert (made(*maps) - expected).abs().max() < 1e-5 * expected.abs().max()


def test_periods_leave_room_for_the_taps_that_meet_the_map():
    # 80 + 15, rounded up to 8; at 10 no more than 9 taps to a side meet the map.
    assert period(80, 31) == 96
    assert period(10, 31) == period(10, 99) == 24
    assert period(1, 31) == 8


def test_multiply_adds_by_hand():
    # Period 96 on both axes; 31 taps a place, less 1 + 2 + ... + 15 at either border.
    assert multiply_adds((80, 80), (31, 31)) == (2 * 80 * 96 * (80 + 96), (80 * 31 - 15 * 16) ** 2)
    # Of 3 places each meets all 3, however large the kernel.
    assert multiply_adds((3, 3), (31, 1))[1] == 9 * 3
