"""Toeplitz products in Triton against PyTorch's convolution in float64: small maps in the interpreter, real on GPUs."""

import pytest
import torch
import torch.nn.functional as F
from palyno.kernels.backends import triton_runs

pytest.importorskip("triton")

from palyno.kernels.depthwise import toeplitz
from palyno.kernels.depthwise.toeplitz_plan import Plan, WeightPlan, Window, plan_convolution, plan_weights

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
if not triton_runs(torch.empty(0, device=DEVICE)):
    pytest.skip("needs an NVIDIA GPU from Ampere on, or Triton's interpreter", allow_module_level=True)

MOST = {torch.float16: 4e-4, torch.bfloat16: 3e-3, torch.float32: 2e-6}
HALF, BRAIN, FULL = MOST

CASES = [  # (batch, channels, height, width), kernel, dtype
    ((1, 1, 1, 1), (31, 31), HALF),
    ((2, 3, 13, 17), (5, 7), FULL),
    ((1, 2, 9, 7), (31, 31), FULL),  # a map smaller than half the kernel
    ((3, 1, 1, 50), (1, 31), HALF),
    ((1, 3, 50, 1), (31, 1), HALF),
    ((2, 2, 11, 20), (3, 3), FULL),  # rows begin on 8 bytes in half precision
    ((1, 1, 33, 48), (31, 31), HALF),
    ((5, 1, 7, 33), (13, 5), HALF),
    ((1, 1, 5, 6), (61, 61), HALF),
    ((2, 5, 15, 16), (1, 1), FULL),
]
REAL = [
    ((16, 64, 80, 80), (31, 31), HALF),
    ((3, 16, 160, 160), (31, 31), HALF),
    ((64, 48, 32, 32), (31, 31), BRAIN),
    ((1, 16, 80, 80), (31, 31), HALF),
    ((16, 80, 20, 20), (31, 31), HALF),
    ((2, 7, 97, 83), (31, 31), BRAIN),
    ((1, 13, 61, 127), (61, 61), HALF),
    ((2, 3, 200, 211), (61, 61), FULL),
    ((4, 64, 80, 80), (31, 31), FULL),
    ((2, 5, 80, 80), (1, 31), FULL),
    ((2, 5, 79, 80), (31, 1), HALF),
    ((2, 5, 41, 44), (3, 3), BRAIN),
    ((2, 5, 41, 44), (5, 7), HALF),
    ((33, 3, 1, 640), (13, 13), HALF),
    ((1, 1, 1031, 1), (21, 41), HALF),
    ((1, 2, 640, 640), (17, 61), BRAIN),
    ((2, 1000, 5, 3), (9, 9), FULL),
]
SMALL = ((2, 2, 10, 24), (5, 9), HALF)


@pytest.fixture(autouse=True)
def memory_is_full_of_nan():
    """What a kernel leaves unwritten shows: new tensors are filled with NaN."""
    torch.use_deterministic_algorithms(True, warn_only=True)
    yield
    torch.use_deterministic_algorithms(False)


def tensors(case, seed=0):
    (batch, channels, height, width), kernel, dtype = case
    generator = torch.Generator().manual_seed(seed)
    sizes = ((batch, channels, height, width), (channels, 1, *kernel), (channels,), (batch, channels, height, width))
    return tuple(torch.randn(size, generator=generator).to(DEVICE, dtype) for size in sizes)


def conv(x, weight, bias=None):
    x, weight, bias = (None if t is None else t.double() for t in (x, weight, bias))
    return F.conv2d(x, weight, bias, padding=(weight.shape[2] // 2, weight.shape[3] // 2), groups=x.shape[1])


def relative(got, expected):
    assert got.shape == expected.shape
    return ((got.double() - expected).norm() / expected.norm()).item()


def check(case, allow_tf32=False):
    x, weight, bias, grad = tensors(case)
    most = MOST[case[2]] if not allow_tf32 else 2e-3
    y = toeplitz.forward(x, weight, bias, allow_tf32=allow_tf32)
    assert y.dtype == x.dtype
    assert y.is_contiguous()
    assert relative(y, conv(x, weight, bias)) < most
    leaves = [x.double().requires_grad_(), weight.double().requires_grad_()]
    for_x, for_weight = torch.autograd.grad(conv(*leaves), leaves, grad.double())
    assert relative(toeplitz.forward(grad, weight, turned=True, allow_tf32=allow_tf32), for_x) < most
    got = toeplitz.weight_gradient(grad, x, case[1], allow_tf32=allow_tf32)
    assert got.dtype == torch.float32
    assert relative(got, for_weight) < (2e-6 if not allow_tf32 else 2e-3)
    assert torch.equal(y, toeplitz.forward(x, weight, bias, allow_tf32=allow_tf32))
    assert torch.equal(got, toeplitz.weight_gradient(grad, x, case[1], allow_tf32=allow_tf32))


@pytest.mark.parametrize("case", CASES, ids=str)
def test_values_and_gradients_are_those_of_conv2d_and_the_same_each_time(case):
    check(case)


@pytest.mark.gpu
@pytest.mark.parametrize("case", REAL, ids=str)
def test_real_shapes(case):
    check(case)


@pytest.mark.gpu
def test_tf32_is_as_near_as_its_ten_bits():
    check(((2, 5, 80, 80), (31, 31), FULL), allow_tf32=True)


@pytest.mark.parametrize("activation", [None, "relu", "gelu"])
@pytest.mark.parametrize("more", ["bias", "residual", "both"])
def test_epilogue(activation, more):
    x, weight, bias, residual = tensors(SMALL)
    bias = None if more == "residual" else bias
    residual = None if more == "bias" else 4 * residual
    expected = conv(x, weight, bias)
    if residual is not None:
        expected = expected + residual.double()
    if activation is not None:
        expected = {"relu": F.relu, "gelu": F.gelu}[activation](expected)
    y = toeplitz.forward(x, weight, bias, residual=residual, activation=activation)
    assert relative(y, expected) < MOST[HALF]


@pytest.mark.parametrize(
    "view",
    [
        lambda x: x.contiguous(memory_format=torch.channels_last),
        lambda x: torch.cat([x, x], 1)[:, x.shape[1] :],
        lambda x: F.pad(x, (3, 2))[..., 3:-2],
        lambda x: x.repeat_interleave(2, 3)[..., ::2],
        lambda x: x.transpose(2, 3).contiguous().transpose(2, 3),
        lambda x: torch.cat([x.new_zeros(1), x.flatten()])[1:].view(x.shape),  # begins on 2 bytes
    ],
    ids=["channels last", "channels", "columns", "every other", "transposed", "unaligned"],
)
def test_views_give_the_same_bits(view):
    x, weight, bias, grad = tensors(SMALL)
    kernel = SMALL[1]
    expected = toeplitz.forward(x, weight, bias, residual=grad, activation="relu")
    assert torch.equal(toeplitz.forward(view(x), weight, bias, residual=view(grad), activation="relu"), expected)
    assert torch.equal(toeplitz.weight_gradient(view(grad), view(x), kernel), toeplitz.weight_gradient(grad, x, kernel))


def test_a_channel_without_a_step_between_images_is_read_where_it_is():
    x, weight, _, _ = tensors(SMALL)
    one = x[:1].expand(3, -1, -1, -1)
    assert torch.equal(toeplitz.forward(one, weight)[2], toeplitz.forward(x[:1], weight)[0])


@pytest.mark.parametrize("patch", [(1, 16), (2, 32), (4, 16), (8, 8)])
def test_how_the_work_is_cut_does_not_matter(patch):
    x, weight, _, grad = tensors(SMALL)
    y = toeplitz.forward(x, weight, plan=Plan(patch, 16, 32, 4, 2))
    assert relative(y, conv(x, weight)) < MOST[HALF]
    leaf = weight.double().requires_grad_()
    (expected,) = torch.autograd.grad(conv(x, leaf), leaf, grad.double())
    for splits in (1, 3):
        plan = WeightPlan(patch, 64, 16, 4, 2, splits)
        assert relative(toeplitz.weight_gradient(grad, x, SMALL[1], plan=plan), expected) < 2e-6


def test_images_and_channels_do_not_meet():
    x, weight, _, grad = tensors(SMALL)
    clean = toeplitz.forward(x, weight)
    x[1, 0] = torch.nan
    y = toeplitz.forward(x, weight)
    assert torch.equal(y[0], clean[0])
    assert torch.equal(y[1, 1], clean[1, 1])
    assert y[1, 0].isnan().all()
    assert toeplitz.weight_gradient(grad, x, SMALL[1])[1].isfinite().all()


def test_zeros_of_the_weights_gradient_where_the_kernel_never_meets_the_map():
    x, _, _, grad = tensors(((2, 1, 3, 4), (9, 15), FULL))
    got = toeplitz.weight_gradient(grad, x, (9, 15))[0, 0]
    assert (got[[0, 1, 7, 8]] == 0).all()
    assert (got[:, [0, 1, 2, 3, 11, 12, 13, 14]] == 0).all()
    assert (got[2:7, 4:11] != 0).all()


@pytest.mark.parametrize("shared", [227 << 10, 163 << 10, 99 << 10, 64 << 10])
@pytest.mark.parametrize("size", [2, 4])
@pytest.mark.parametrize("kernel", [(1, 1), (3, 3), (31, 31), (1, 31), (61, 1), (61, 61)])
def test_plans_fit_every_device(kernel, size, shared):
    for shape in ((16, 64, 80, 80), (1, 1, 1, 1), (64, 384, 32, 32), (1, 3, 2000, 3), (300, 1, 7, 2000)):
        assert plan_convolution(shape[3], size, shared).shared(size) <= shared
        assert plan_weights(*shape, kernel, size, 100, shared).shared(size) <= shared


def test_windows_are_as_wide_as_they_must_be():
    assert Window.of((31, 31), 80, 2).columns((8, 16)) == (16, 48)
    assert Window.of((31, 31), 80, 4).columns((8, 8)) == (16, 40)
    assert Window.of((31, 1), 80, 2).columns((8, 8)) == (0, 8)
    assert Window.of((31, 31), 20, 2).columns((4, 32)) == (0, 24)


def test_what_is_not_taken_is_named():
    x, weight, _, _ = tensors(SMALL)
    assert toeplitz.supports(x, weight) is None
    assert "float64" in toeplitz.supports(x.double(), weight.double())
    assert "61" in toeplitz.supports(x, weight.new_empty(2, 1, 63, 3))
