"""depthwise_conv2d: every back end against PyTorch's convolution, on the shapes where transforms go wrong."""

import pytest
import torch
import torch.nn.functional as F
from palyno import UsageError
from palyno.kernels import depthwise, depthwise_conv2d
from palyno.kernels.depthwise import fft

SHAPES = [  # (batch, channels, height, width), kernel, stride
    ((1, 1, 1, 1), (31, 31), 1),
    ((2, 3, 40, 40), (31, 31), 1),
    ((1, 4, 37, 53), (31, 31), 1),
    ((1, 2, 13, 97), (31, 31), 2),
    ((2, 3, 9, 7), (31, 31), 1),
    ((1, 3, 1, 50), (15, 15), 1),
    ((1, 3, 50, 1), (15, 1), 1),
    ((2, 2, 16, 16), (1, 31), 1),
    ((1, 2, 17, 23), (3, 5), 3),
    ((1, 5, 15, 15), (1, 1), 1),
]


def tensors(shape, kernel, dtype=torch.float64, seed=0):
    generator = torch.Generator().manual_seed(seed)
    channels = shape[1]
    sizes = (shape, (channels, 1, *kernel), (channels,))
    return tuple(torch.randn(size, generator=generator, dtype=dtype, requires_grad=True) for size in sizes)


@pytest.mark.parametrize("backend", ["reference", "fft"])
@pytest.mark.parametrize(("shape", "kernel", "stride"), SHAPES)
def test_values_and_gradients_are_those_of_conv2d(backend, shape, kernel, stride):
    x, weight, bias = tensors(shape, kernel)
    y = depthwise_conv2d(x, weight, bias, stride=stride, backend=backend)
    padding = (kernel[0] // 2, kernel[1] // 2)
    expected = F.conv2d(x, weight, bias, stride, padding, groups=shape[1])
    assert y.shape == expected.shape
    torch.testing.assert_close(y, expected, rtol=0, atol=1e-12 * max(1, weight[0].numel()))
    up = torch.randn_like(expected)
    for got, want in zip(
        torch.autograd.grad(y, (x, weight, bias), up),
        torch.autograd.grad(expected, (x, weight, bias), up),
        strict=True,
    ):
        torch.testing.assert_close(got, want, rtol=0, atol=1e-10)


@pytest.mark.parametrize("backend", ["reference", "fft"])
def test_gradcheck(backend):
    tensors_ = tensors((2, 2, 5, 4), (3, 7))
    assert torch.autograd.gradcheck(lambda *t: depthwise_conv2d(*t, backend=backend), tensors_)


def test_float32_transform_is_within_rounding_of_the_convolution():
    x, weight, bias = (t.detach().float() for t in tensors((1, 4, 80, 80), (31, 31)))
    expected = depthwise_conv2d(x.double(), weight.double(), bias.double(), backend="reference")
    y = depthwise_conv2d(x, weight, bias, backend="fft")
    assert y.dtype == torch.float32
    assert (y - expected).abs().max() < 1e-5 * expected.abs().max()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("shape", [(1, 2, 40, 40), (1, 2, 48, 57)])
def test_half_precision_is_computed_in_float32_and_cast_back(dtype, shape):
    x, weight, bias = (t.detach().to(dtype) for t in tensors(shape, (31, 31)))
    y = depthwise_conv2d(x, weight, bias, backend="fft")
    exact = F.conv2d(x.double(), weight.double(), bias.double(), padding=15, groups=2)
    assert y.dtype == dtype
    # One rounding of the result, not of the 961 products: half a unit in the last place, and the transform's error.
    assert ((y.double() - exact).abs() <= torch.finfo(dtype).eps * exact.abs() + 1e-3).all()


@pytest.mark.parametrize("backend", ["reference", "fft"])
def test_autocast_takes_half_maps_with_float32_kernels(backend):
    x, weight, bias = (t.detach().float() for t in tensors((1, 2, 40, 40), (31, 31)))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = depthwise_conv2d(x.bfloat16(), weight, bias, backend=backend)
    assert y.dtype == torch.bfloat16
    torch.testing.assert_close(y.float(), depthwise_conv2d(x, weight, bias), rtol=0.05, atol=0.5)


def test_the_kept_spectrum_follows_the_weight():
    x, weight, _ = (t.detach() for t in tensors((1, 2, 40, 40), (31, 31), torch.float32))
    for change in (lambda: None, lambda: weight.mul_(2), lambda: weight.copy_(torch.randn_like(weight))):
        change()
        with torch.no_grad():
            y = depthwise_conv2d(x, weight, backend="fft")
        torch.testing.assert_close(y, depthwise_conv2d(x, weight, backend="reference"), rtol=1e-4, atol=1e-3)


def test_a_spectrum_kept_in_inference_mode_can_be_used_in_a_graph():
    x, weight, _ = (t.detach() for t in tensors((1, 2, 24, 24), (15, 15), torch.float32))
    with torch.inference_mode():
        depthwise_conv2d(x, weight, backend="fft")
    x.requires_grad_()
    depthwise_conv2d(x, weight, backend="fft").sum().backward()
    assert torch.isfinite(x.grad).all()


def test_kept_spectra_go_with_their_weight_and_stay_few():
    before = len(fft._spectra)
    weight = torch.randn(1, 1, 15, 15)
    for side in range(20, 40):
        depthwise_conv2d(torch.randn(1, 1, side, side), weight, backend="fft")
    assert len(fft._spectra) == before + 1
    assert len(fft._spectra[weight][1]) <= 4
    del weight
    assert len(fft._spectra) == before


@pytest.mark.parametrize(("n", "expected"), [(1, 1), (7, 8), (95, 96), (97, 100), (121, 125), (241, 243), (257, 270)])
def test_smooth_sizes(n, expected):
    assert fft.smooth(n) == expected


def test_choice_by_size_by_environment_and_when_traced(monkeypatch):
    def tensors_of(side, kernel):
        return torch.zeros(1, 64, side, side), torch.zeros(64, 1, kernel, kernel)

    assert depthwise.choose(*tensors_of(80, 31)) in ("native", "fft")
    assert depthwise.choose(*tensors_of(80, 3)) == "reference"
    assert depthwise.choose(*tensors_of(8, 5)) == "reference"
    with pytest.raises(UsageError, match=r"expected auto, reference, fft, native, toeplitz, hopper; got 'cudnn'"):
        monkeypatch.setenv("PALYNO_DEPTHWISE", "cudnn")
        depthwise_conv2d(*tensors_of(80, 31))
    monkeypatch.delenv("PALYNO_DEPTHWISE")
    traced = torch.jit.trace(lambda x: depthwise_conv2d(x, torch.ones(1, 1, 31, 31)), torch.zeros(1, 1, 80, 80))
    assert "fft" not in str(traced.graph)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"x": torch.zeros(3, 8, 8)}, r"x: expected a non-empty \(B, C, H, W\)"),
        ({"x": torch.zeros(1, 3, 0, 8)}, r"x: expected a non-empty"),
        ({"weight": torch.zeros(2, 1, 3, 3)}, r"weight: expected \(3, 1, kh, kw\)"),
        ({"weight": torch.zeros(3, 3, 3, 3)}, r"weight: expected \(3, 1, kh, kw\)"),
        ({"weight": torch.zeros(3, 1, 4, 3)}, r"weight: expected odd sides.*got \(4, 3\)"),
        ({"weight": torch.zeros(3, 1, 3, 3, dtype=torch.float64)}, r"weight: expected torch.float32 like x"),
        ({"weight": torch.zeros(3, 1, 3, 3, device="meta")}, r"weight: expected on cpu like x, got meta"),
        ({"bias": torch.zeros(4)}, r"bias: expected \(3,\)"),
        ({"x": torch.zeros(1, 3, 8, 8, dtype=torch.uint8)}, r"x: expected floating point, got torch.uint8"),
        ({"stride": 0}, r"stride: expected a whole number of at least 1"),
        ({"padding": "valid"}, r"padding: expected 'same'"),
        ({"backend": "triton"}, r"backend: expected auto, reference, fft"),
    ],
)
def test_what_cannot_be_meant_is_refused(arguments, message):
    valid = {"x": torch.zeros(1, 3, 8, 8), "weight": torch.zeros(3, 1, 3, 3)}
    with pytest.raises(UsageError, match=message):
        depthwise_conv2d(**(valid | arguments))
