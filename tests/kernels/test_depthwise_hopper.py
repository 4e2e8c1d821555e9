"""Depthwise convolution on Hopper: its plans and addresses anywhere, the kernels themselves on such a GPU."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from palyno import UsageError
from palyno.kernels import depthwise_conv2d
from palyno.kernels.backends import hopper_runs
from palyno.kernels.depthwise import hopper
from palyno.kernels.depthwise.hopper.plan import SHARED, plan_convolution, plan_weights, rows_each

EVERYWHERE = [  # shape, kernel, bytes of an element
    ((2, 1, 20, 20), (31, 31), 2),
    ((3, 1, 17, 23), (31, 31), 2),
    ((2, 1, 40, 48), (31, 31), 4),
    ((1, 1, 33, 70), (5, 7), 2),
    ((5, 1, 9, 9), (1, 31), 2),
    ((2, 1, 9, 9), (31, 1), 2),
    ((1, 1, 50, 13), (3, 3), 4),
    ((1, 1, 7, 130), (61, 61), 2),
    ((1, 1, 1, 1), (1, 1), 2),
]


class Descriptors:
    """What `convolve.cu` and the tensor cores do, in numpy: every operand is read by address as descriptors say."""

    def __init__(self, kernel, size):
        self.kernel, self.e = kernel, 16 // size
        self.py = 64 // self.e
        self.side = -(-(kernel[1] // 2) // self.e)
        self.chunks, self.rows = 2 * self.side + 1, kernel[0] + self.py - 1

    def table(self, taps):
        kh, kw = self.kernel
        wide, rows = self.e * (self.chunks + 1), kh + 2 * self.py - 2
        scratch = np.zeros((rows + 1, wide))
        first = kw // 2 - self.e * self.side - (self.e - 1)
        for r in range(rows + 1):
            for t in range(wide):
                ky, kx = r - (self.py - 1), t + first
                if 0 <= ky < kh and 0 <= kx < kw:
                    scratch[r, t] = taps[ky, kx]
        table = np.zeros((rows * self.chunks * 8, self.e))
        for i in range(len(table)):
            row, block = i % 8, i // 8
            start = self.e * (block % self.chunks) - row % self.e + self.e - 1
            table[i] = scratch[block // self.chunks + row // self.e, start : start + self.e]
        return table

    def picture(self, plan, load):
        pitch, rows = plan.units * plan.pitch_unit, self.py * plan.groups
        # What no one wrote must not matter.
        picture = np.full((plan.room // 16, self.e), np.nan)
        for row in range(rows):
            for column in range(pitch):
                y = row % plan.groups * self.py + row // plan.groups - self.kernel[0] // 2
                picture[row * pitch + column] = load(column // plan.pitch_unit, y, column % plan.pitch_unit - self.side)
        picture[rows * pitch : rows * pitch + self.side] = 0
        return picture

    def products(self, plan, table, picture):
        pitch = plan.units * plan.pitch_unit
        slab, line = plan.groups * pitch, 8 * self.chunks
        d = np.zeros((64, plan.patches))

        def multiply(a, a_step, b, b_step):
            for half in range(2):
                blocks = np.arange(8)[:, None] * (8 // self.e * line) + np.arange(8)
                with np.errstate(invalid="ignore"):
                    d[:] += table[(a + half * a_step + blocks).ravel()] @ picture[b + half * b_step :][: plan.patches].T

        for row in range(0, self.rows, 2):
            b, a = row % self.py * slab + row // self.py * pitch, row * line
            for j in range(0, self.chunks - 1, 2):
                multiply(a + j * 8, 8, b + j, 1)
                multiply(a + j * 8 + line, 8, b + j + slab, 1)
            multiply(a + (self.chunks - 1) * 8, line, b + self.chunks - 1, slab)
        return d


def convolve(x, weight, size):
    """One channel, by the plan and the addresses of the kernel."""
    batch, _, height, width = x.shape
    kernel = weight.shape
    plan = plan_convolution(batch, 1, height, width, kernel, size, 4)
    machine = Descriptors(kernel, size)
    e, py = machine.e, machine.py
    table, y = machine.table(weight), np.full(x.shape, np.nan)
    tiles = plan.tiles_x * plan.tiles_y
    for number in range(plan.passes):
        units = []
        for unit in range(number * plan.units, (number + 1) * plan.units):
            picture, tile = divmod(unit, tiles)
            left, top = tile % plan.tiles_x * plan.tile_w * e, tile // plan.tiles_x * plan.tile_h * py
            units.append((picture, left, top))

        def load(unit, y, chunk, units=units):
            picture, left, top = units[unit]
            x0, y0 = left + chunk * e, top + y
            values = np.zeros(e)
            if picture < batch and 0 <= x0 < width and 0 <= y0 < height:
                pixels = x[picture, 0, y0, x0 : x0 + e]
                values[: len(pixels)] = pixels
            return values

        d = machine.products(plan, table, machine.picture(plan, load))
        for unit, (picture, left, top) in enumerate(units):
            if picture >= batch:
                continue
            for py_, px in np.ndindex(plan.tile_h, plan.tile_w):
                n = py_ * plan.units * plan.pitch_unit + unit * plan.pitch_unit + px
                for yo, xo in np.ndindex(py, e):
                    y0, x0 = top + py_ * py + yo, left + px * e + xo
                    if y0 < height and x0 < width:
                        y[picture, 0, y0, x0] = d[(py - 1 - yo) * e + xo, n]
    return y


@pytest.mark.parametrize(("shape", "kernel", "size"), EVERYWHERE)
def test_reading_the_plain_picture_by_descriptors_is_the_convolution(shape, kernel, size):
    rng = np.random.default_rng(0)
    x, weight = rng.normal(size=shape), rng.normal(size=kernel)
    expected = F.conv2d(torch.tensor(x), torch.tensor(weight)[None, None], padding=(kernel[0] // 2, kernel[1] // 2))
    np.testing.assert_allclose(convolve(x, weight, size), expected.numpy(), rtol=0, atol=1e-11)


@pytest.mark.parametrize("kernel", [(1, 1), (3, 3), (1, 61), (61, 1), (31, 31), (61, 61)])
@pytest.mark.parametrize(
    "shape", [(1, 1, 1, 1), (2, 3, 7, 640), (16, 64, 80, 80), (64, 384, 32, 32), (1, 2, 999, 1001)]
)
def test_plans_fit_the_device_and_cover_every_picture(shape, kernel):
    batch, _, height, width = shape
    plans = [plan_convolution(*shape, kernel, 2, 132), plan_weights(*shape, kernel, 132)[0]]
    for plan in plans:
        assert plan.shared <= SHARED
        assert plan.tile_w * plan.tiles_x * 8 >= width and plan.tile_h * plan.tiles_y * 8 >= height
        assert plan.passes * plan.units >= batch * plan.tiles_x * plan.tiles_y
        assert plan.patches >= plan.tile_h * plan.units * plan.pitch_unit
        assert 1 <= plan.blocks <= plan.passes
    parts = plan_weights(*shape, kernel, 132)[1]
    assert parts * 2 * rows_each(kernel) >= kernel[0] + 7


def test_it_is_refused_where_there_is_no_such_gpu():
    x, weight = torch.zeros(1, 1, 8, 8), torch.zeros(1, 1, 3, 3)
    assert not hopper_runs(x, weight)
    with pytest.raises(UsageError, match=r"backend: 'hopper' cannot take .* compute capability 9\.0 .* x is on cpu"):
        depthwise_conv2d(x, weight, backend="hopper")


ON_THE_GPU = [
    ((2, 3, 80, 80), (31, 31)),
    ((3, 2, 20, 20), (31, 31)),
    ((2, 3, 17, 23), (31, 31)),
    ((1, 2, 33, 70), (5, 7)),
    ((5, 1, 9, 9), (1, 31)),
    ((2, 2, 9, 9), (31, 1)),
    ((1, 1, 7, 130), (61, 61)),
    ((1, 1, 1, 1), (1, 1)),
    ((1, 3, 50, 1), (15, 15)),
    ((1, 2, 90, 300), (31, 31)),
    ((33, 5, 32, 32), (31, 31)),
    ((2, 4, 41, 56), (13, 13)),
    ((2, 4, 48, 56), (51, 7)),
    ((16, 64, 80, 80), (31, 31)),
    ((4, 64, 160, 160), (31, 31)),
    ((1, 2, 640, 640), (31, 31)),
]
BOUND = {torch.float16: 5e-4, torch.bfloat16: 4e-3, torch.float32: 2e-3}


@pytest.fixture
def gpu():
    if not torch.cuda.is_available() or not hopper_runs(torch.empty(1, device="cuda")):
        pytest.skip("needs a GPU of compute capability 9.0")
    return torch.device("cuda")


def error(y, expected):
    return ((y.double() - expected).norm() / expected.norm()).item()


def poison(like):
    """Leaves memory full of NaN for the next tensor of this size."""
    for _ in range(3):
        torch.full_like(like, float("nan"))


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize(("shape", "kernel"), ON_THE_GPU)
def test_values_and_gradients_on_the_gpu(gpu, shape, kernel, dtype):
    torch.manual_seed(0)
    made = [torch.randn(s, device=gpu, dtype=dtype) for s in (shape, (shape[1], 1, *kernel), (shape[1],))]
    if hopper.supports(made[0], made[1]):
        assert dtype == torch.float32 and max(kernel) > 41
        return
    up = torch.randn(shape, device=gpu, dtype=dtype)
    tensors = [t.clone().requires_grad_() for t in made]
    poison(up)
    y = depthwise_conv2d(*tensors, backend="hopper")
    wide = [t.double().requires_grad_() for t in made]
    expected = F.conv2d(*wide, padding=(kernel[0] // 2, kernel[1] // 2), groups=shape[1])
    assert y.dtype == dtype
    assert error(y.detach(), expected.detach()) < BOUND[dtype]
    poison(up)
    for got, want in zip(
        torch.autograd.grad(y, tensors, up), torch.autograd.grad(expected, wide, up.double()), strict=True
    ):
        assert error(got, want) < BOUND[dtype]
    again = depthwise_conv2d(*tensors, backend="hopper")
    assert torch.equal(again, y)
    first, second = (
        torch.autograd.grad(out, tensors, up) for out in (again, depthwise_conv2d(*tensors, backend="hopper"))
    )
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


@pytest.mark.gpu
def test_views_layouts_and_strides_on_the_gpu(gpu):
    base = torch.randn(4, 6, 50, 66, device=gpu, dtype=torch.float16)
    weight = torch.randn(3, 1, 9, 9, device=gpu, dtype=torch.float16)
    views = (
        base[:, ::2],
        base[:, :3, 3:43, 5:61],
        base[1:, :3].transpose(2, 3),
        base[:, :3].to(memory_format=torch.channels_last),
        base[:, 2:5, :, 1:],
    )
    for x in views:
        for stride in (1, 2, 3):
            y = depthwise_conv2d(x, weight, stride=stride, backend="hopper")
            expected = F.conv2d(x.double(), weight.double(), stride=stride, padding=4, groups=3)
            assert y.shape == expected.shape
            assert error(y, expected) < 5e-4


@pytest.mark.gpu
@pytest.mark.parametrize("activation", [None, "relu", "gelu"])
@pytest.mark.parametrize("width", [40, 37])
def test_the_epilogue_on_the_gpu(gpu, activation, width):
    torch.manual_seed(0)
    x, residual = (torch.randn(2, 3, 33, width, device=gpu, dtype=torch.float16) for _ in range(2))
    weight, bias = torch.randn(3, 1, 31, 31, device=gpu).mul(0.05).half(), torch.randn(3, device=gpu).half()
    gate = torch.randn(2, 3, device=gpu)
    parts = {"residual": residual, "gate": gate, "activation": activation}
    y = depthwise_conv2d(x, weight, bias, backend="hopper", **parts)
    wide = {name: value.double() if isinstance(value, torch.Tensor) else value for name, value in parts.items()}
    expected = depthwise_conv2d(x.double(), weight.double(), bias.double(), backend="reference", **wide)
    assert error(y, expected) < 1e-3


@pytest.mark.gpu
def test_auto_takes_it_on_such_a_gpu_and_obeys_tf32(gpu):
    from palyno.kernels.depthwise import choose

    x, weight = torch.zeros(1, 2, 40, 40, device=gpu), torch.zeros(2, 1, 31, 31, device=gpu)
    assert choose(x.half(), weight.half()) == "hopper"
    assert choose(x.double(), weight.double()) == "fft"
    before = torch.backends.cudnn.allow_tf32
    try:
        torch.backends.cudnn.allow_tf32 = True
        assert choose(x, weight) == "hopper"
        torch.backends.cudnn.allow_tf32 = False
        assert choose(x, weight) == "fft"
    finally:
        torch.backends.cudnn.allow_tf32 = before


@pytest.mark.gpu
@pytest.mark.parametrize(("side", "for_weights"), [(14, "toeplitz"), (31, "hopper")])
def test_auto_leaves_many_small_maps_to_toeplitz(gpu, side, for_weights):
    from palyno.kernels import depthwise

    torch.manual_seed(0)
    x = torch.randn(32, 64, side, side, device=gpu, dtype=torch.float16, requires_grad=True)
    weight = torch.randn(64, 1, 13, 13, device=gpu).mul(0.05).half().requires_grad_()
    assert depthwise.choose(x, weight) == "toeplitz"
    assert depthwise.choose(x[:8], weight) == depthwise.choose(x, weight, gated=True) == "hopper"
    assert depthwise._for_weights("toeplitz", x, weight, "auto") == for_weights
    assert depthwise._for_weights("toeplitz", x, weight, "toeplitz") == "toeplitz"
    wide = [t.detach().double().requires_grad_() for t in (x, weight)]
    y, expected = depthwise_conv2d(x, weight), depthwise_conv2d(*wide, backend="reference")
    assert error(y, expected) < 5e-4
    up = torch.randn_like(y)
    for grad, exact in zip(
        torch.autograd.grad(y, (x, weight), up), torch.autograd.grad(expected, wide, up.double()), strict=True
    ):
        assert error(grad, exact) < 1e-3
