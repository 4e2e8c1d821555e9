"""The convolution in C for CPUs against PyTorch's in float64, in every width of vectors that the processor has."""

import platform
import threading
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from palyno import UsageError
from palyno.kernels import compiler, depthwise, depthwise_conv2d
from palyno.kernels.depthwise import fft, native

if native.lanes() == 0:
    pytest.skip("needs gcc on Linux", allow_module_level=True)

HALF, BRAIN, FULL = torch.float16, torch.bfloat16, torch.float32
MOST = {HALF: 4e-4, BRAIN: 3e-3, FULL: 1e-6}

CASES = [  # (batch, channels, height, width), kernel
    ((1, 1, 1, 1), (31, 31)),
    ((2, 5, 1, 1), (1, 1)),
    ((2, 3, 13, 17), (5, 7)),
    ((1, 16, 37, 29), (13, 11)),  # as many channels as lanes
    ((3, 17, 11, 23), (3, 5)),  # one more
    ((2, 24, 20, 20), (7, 7)),
    ((1, 3, 9, 7), (31, 31)),  # maps smaller than half the kernel
    ((1, 33, 8, 9), (3, 3)),
    ((5, 1, 40, 41), (13, 13)),
    ((1, 3, 1, 50), (1, 31)),
    ((1, 3, 50, 1), (31, 1)),
    ((3, 2, 1, 29), (15, 15)),
    ((1, 2, 30, 33), (61, 61)),
    ((2, 5, 15, 16), (1, 1)),
    ((1, 2, 384, 5), (1, 1)),  # the longest transform
    ((1, 2, 385, 5), (3, 3)),  # two tiles
    ((2, 1, 7, 800), (5, 31)),
    ((1, 1, 390, 400), (9, 9)),
    ((1, 2, 400, 9), (191, 3)),  # three tiles for kernels that take half of the transform
]
SMALL = ((2, 16, 12, 19), (5, 9))


@pytest.fixture(autouse=True)
def threads():
    """Sets how many threads work until the test ends; one at first, as others wait where the processor is busy."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield torch.set_num_threads
    torch.set_num_threads(before)


@pytest.fixture(autouse=True)
def memory_is_full_of_nan(threads):
    """What is left unwritten shows: new tensors are filled with NaN, and so is the memory that threads keep."""
    torch.use_deterministic_algorithms(True, warn_only=True)
    nothing = torch.full((1, native.lanes(), 60, 60), torch.nan)
    native.weight_gradient(nothing, nothing, (3, 3))
    yield
    torch.use_deterministic_algorithms(False)


def tensors(case, dtype=FULL, stride=1):
    (batch, channels, height, width), kernel = case
    generator = torch.Generator().manual_seed(0)
    out = (batch, channels, -(-height // stride), -(-width // stride))
    sizes = ((batch, channels, height, width), (channels, 1, *kernel), (channels,), out)
    return tuple(torch.randn(size, generator=generator).to(dtype) for size in sizes)


def conv(x, weight, bias=None, stride=1):
    x, weight, bias = (None if t is None else t.double() for t in (x, weight, bias))
    return F.conv2d(x, weight, bias, stride, (weight.shape[2] // 2, weight.shape[3] // 2), groups=x.shape[1])


def relative(got, expected):
    assert got.shape == expected.shape
    return ((got.double() - expected).norm() / expected.norm()).item()


def everything(x, weight, bias, grad, stride=1):
    """The result and all gradients, through the public call."""
    leaves = [t.detach().requires_grad_() for t in (x, weight, bias)]
    y = depthwise_conv2d(*leaves, stride=stride, backend="native")
    return y.detach(), *torch.autograd.grad(y, leaves, grad)


def check(case, dtype=FULL, stride=1):
    x, weight, bias, grad = tensors(case, dtype, stride)
    leaves = [t.double().requires_grad_() for t in (x, weight, bias)]
    expected = conv(*leaves, stride)
    wanted = (expected.detach(), *torch.autograd.grad(expected, leaves, grad.double()))
    # A transform has the rounding of all taps; one pixel meets one of them.
    most = MOST[dtype] * (20 if x.shape[2:] == (1, 1) else 1)
    *convolutions, for_bias = zip(everything(x, weight, bias, grad, stride), wanted, strict=True)
    for got, want in convolutions:
        assert got.dtype == dtype
        assert got.is_contiguous()
        assert relative(got, want) < most
    got, want = for_bias
    assert (got.double() - want).norm() < most * (want.norm() + grad.double().norm())


@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_values_and_gradients_are_those_of_conv2d(case, stride):
    check(case, stride=stride)


@pytest.mark.parametrize("dtype", [HALF, BRAIN])
@pytest.mark.parametrize("case", [*CASES[2:7], SMALL], ids=str)
def test_half_precision_is_rounded_once(case, dtype):
    check(case, dtype)


@pytest.mark.skipif(platform.machine() != "x86_64", reason="other processors have vectors of one width")
@pytest.mark.parametrize(("without", "lanes"), [("-mno-avx512f", 8), ("-mno-avx", 4)])
def test_narrower_vectors_give_the_same(without, lanes, monkeypatch, tmp_path):
    source = Path(native.__file__).parent / "native" / "depthwise.c"
    monkeypatch.setenv("PALYNO_CACHE", str(tmp_path))
    monkeypatch.setattr(compiler, "OPTIONS", (*compiler.OPTIONS, "-O1", "-mno-avx512f", without))
    code = compiler.library.__wrapped__(source)
    monkeypatch.setattr(native, "_code", lambda: code)
    if native.lanes() != lanes:
        pytest.skip(f"this processor has {native.lanes()} lanes")
    for case in (*CASES[:10], CASES[14], CASES[15]):
        check(case)
    check(CASES[4], stride=2)


VIEWS = {
    "channels last": lambda x: x.contiguous(memory_format=torch.channels_last),
    "channels": lambda x: torch.cat([x, x], 1)[:, x.shape[1] :],
    "channels of channels last": lambda x: torch.cat([x, x], 1).contiguous(memory_format=torch.channels_last)[
        :, x.shape[1] :
    ],
    "columns": lambda x: F.pad(x, (3, 2))[..., 3:-2],
    "every other": lambda x: x.repeat_interleave(2, 3)[..., ::2],
    "transposed": lambda x: x.transpose(2, 3).contiguous().transpose(2, 3),
    "unaligned": lambda x: torch.cat([x.new_zeros(1), x.flatten()])[1:].view(x.shape),
}


@pytest.mark.parametrize("case", [SMALL, ((3, 5, 12, 19), (5, 9))], ids=["full vectors", "others"])
@pytest.mark.parametrize("view", VIEWS.values(), ids=VIEWS)
def test_views_give_the_same_bits(view, case):
    x, weight, bias, grad = tensors(case)
    # PyTorch sums the gradient of the bias in the order of memory.
    *got, _ = everything(view(x), view(weight), bias, view(grad))
    *wanted, _ = everything(x, weight, bias, grad)
    assert all(torch.equal(a, b) for a, b in zip(got, wanted, strict=True))


def test_maps_that_share_their_memory_are_read_where_they_are():
    x, weight, bias, grad = tensors(SMALL)
    for shared in (x[:1], x[:, :1], x[:, :, :1], x[..., :1], x[:1, :1, :1, :1]):
        wide = shared.expand_as(x)
        for got, want in zip(
            everything(wide, weight, bias, grad), everything(wide.contiguous(), weight, bias, grad), strict=True
        ):
            assert torch.equal(got, want)
    leaf = x.clone().requires_grad_()
    # The gradient of a sum is one number, expanded.
    depthwise_conv2d(leaf, weight, backend="native").sum().backward()
    assert torch.equal(leaf.grad, native.input_gradient(torch.ones_like(x), weight, x.shape[2:]))


@pytest.mark.parametrize("case", [CASES[3], CASES[4], CASES[7], CASES[15], ((7, 48, 20, 20), (7, 7))], ids=str)
def test_the_number_of_threads_does_not_change_a_bit(case, threads):
    made = tensors(case)
    results = []
    for number in (1, 2, 3):
        threads(number)
        results.append(everything(*made))
    for one, *others in zip(*results, strict=True):
        assert all(torch.equal(one, other) for other in others)


def test_calls_at_the_same_time_do_not_meet():
    made = [tensors(case) for case in CASES[2:6]]
    expected = [everything(*some) for some in made]
    got = [[] for _ in made]

    def work(index):
        got[index].extend(everything(*made[index]) for _ in range(5))

    workers = [threading.Thread(target=work, args=(index,)) for index in range(len(made))]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    for many, want in zip(got, expected, strict=True):
        assert len(many) == 5
        assert all(torch.equal(a, b) for one in many for a, b in zip(one, want, strict=True))


def test_a_thread_that_ends_gives_its_memory_back():
    def resident():
        return int(Path("/proc/self/statm").read_text().split()[1]) * 4096

    x = torch.zeros(1, 1, 380, 380)
    after = []
    for _ in range(12):
        worker = threading.Thread(target=native.weight_gradient, args=(x, x, (3, 3)))
        worker.start()
        worker.join()
        after.append(resident())
    # Each one had 3 half spectra of 384 x 384 for every lane.
    each = 3 * 384 * 384 * 4 * native.lanes()
    assert after[-1] - after[1] < 4 * each


def test_images_and_channels_do_not_meet():
    x, weight, bias, grad = tensors(((3, 5, 12, 19), (5, 9)))
    clean = everything(x, weight, bias, grad)
    for bad in (torch.nan, torch.inf):
        x[1, 2, 3, 4] = bad
        y, for_x, for_weight, _ = everything(x, weight, bias, grad)
        others = torch.ones(3, 5, dtype=torch.bool)
        others[1, 2] = False
        assert torch.equal(y[others], clean[0][others])
        assert not y[1, 2].isfinite().any()
        assert torch.equal(for_x, clean[1])
        assert torch.equal(for_weight[[0, 1, 3, 4]], clean[2][[0, 1, 3, 4]])
        assert not for_weight[2].isfinite().any()


def test_zeros_of_the_weights_gradient_where_the_kernel_never_meets_the_map():
    x, _, _, grad = tensors(((2, 1, 3, 4), (9, 15)))
    got = native.weight_gradient(grad, x, (9, 15))[0, 0]
    outside = torch.ones(9, 15, dtype=torch.bool)
    outside[2:7, 4:11] = False
    assert (got[outside].abs() < 1e-6).all()
    assert (got[2:7, 4:11] != 0).all()


@pytest.mark.parametrize("kind", ["float64", "float16", "meta"])
def test_the_callers_defaults_do_not_matter(kind, monkeypatch):
    case = ((1, 3, 20, 31), (7, 5))
    made, expected = tensors(case), everything(*tensors(case))
    for kept in (native._forward, native._axis):
        monkeypatch.setattr(native, kept.__name__, kept.__wrapped__)
    # Tables belong to what keeps them.
    alive, axis = [], native._axis
    monkeypatch.setattr(native, "_axis", lambda n: alive.append(axis(n)) or alive[-1])
    before = torch.get_default_dtype()
    try:
        if kind == "meta":
            torch.set_default_device("meta")
        else:
            torch.set_default_dtype(getattr(torch, kind))
        got = everything(*made)
        # Operators put a default device out of force.
        direct = native.forward(*made[:3])
    finally:
        torch.set_default_device(None)
        torch.set_default_dtype(before)
    assert torch.equal(direct, expected[0])
    assert all(torch.equal(a, b) for a, b in zip(got, expected, strict=True))


def test_spectra_are_kept_until_the_weight_changes(monkeypatch):
    made = []
    spectra = native._spectra
    monkeypatch.setattr(native, "_spectra", lambda *a: made.append(a) or spectra(*a))
    x, weight, _, _ = tensors(SMALL)
    changes = (
        lambda: None,
        lambda: weight.mul_(2),
        lambda: weight[3].zero_(),
        lambda: weight.copy_(torch.randn(weight.shape)),
        lambda: weight.set_(torch.randn(weight.shape)),
    )
    for count, change in enumerate(changes, 1):
        change()
        for stride in (1, 1, 2):
            y = depthwise_conv2d(x, weight, stride=stride, backend="native")
            assert relative(y, conv(x, weight, stride=stride)) < MOST[FULL]
        assert len(made) == count
    weight.requires_grad_()
    for _ in range(2):
        depthwise_conv2d(x, weight, backend="native")
    assert len(made) == len(changes) + 2


def test_kept_spectra_go_with_their_weight_and_stay_few():
    before = len(fft._spectra)
    weight = torch.randn(3, 1, 5, 5)
    for side in range(20, 40):
        depthwise_conv2d(torch.randn(1, 3, side, side), weight, backend="native")
    assert len(fft._spectra[weight][1]) <= 4
    del weight
    assert len(fft._spectra) == before


def test_a_few_maps_need_the_spectra_of_their_own_channels_alone():
    weight = torch.randn(17, 1, 3, 3)
    x = torch.randn(1, 17, 10, 10)
    depthwise_conv2d(x, weight, backend="native")
    ((cuts, patterns, _),) = fft._spectra[weight][1]
    assert patterns == -(-17 // native.lanes())
    assert [cut.n for cut in cuts] == [12, 12]
    # Over many images every channel comes to lie in every lane.
    many = torch.randn(2 * native.lanes(), 17, 10, 10)
    assert relative(depthwise_conv2d(many, weight, backend="native"), conv(many, weight)) < MOST[FULL]
    assert max(patterns for _, patterns, _ in fft._spectra[weight][1]) == 17


def test_inference_mode_leaves_spectra_that_a_graph_can_use():
    x, weight, _, grad = tensors(SMALL)
    with torch.inference_mode():
        y = depthwise_conv2d(x, weight, backend="native")
    x.requires_grad_()
    again = depthwise_conv2d(x, weight, backend="native")
    assert torch.equal(again, y)
    assert torch.autograd.grad(again, x, grad)[0].isfinite().all()


def test_autocast_decides_the_type():
    x, weight, bias, _ = tensors(SMALL)
    with torch.autocast("cpu", dtype=BRAIN):
        y = depthwise_conv2d(x, weight, bias, backend="native")
    assert y.dtype == BRAIN
    assert relative(y, conv(x.bfloat16(), weight.bfloat16(), bias.bfloat16())) < MOST[BRAIN]


def test_every_axis_is_covered_by_tiles_within_the_longest_transform():
    for k in (1, 3, 31, 61, 191):
        for side in (1, 7, 97, 353, 384, 385, 1000, 4096, 10007):
            cut, _ = native.plan((side, 1), (k, 1))
            margin = k // 2 if cut.tiles == 1 else k // 2 * 2
            assert cut.tiles * cut.tile >= side
            assert max(k, cut.tile + margin) <= cut.n
            # A length with few primes may lie a little above.
            assert cut.n <= native.LONGEST * 1.25
            assert cut.tiles == 1 or side + k // 2 > native.LONGEST


def test_what_is_not_taken_is_named():
    x, weight, _, _ = tensors(SMALL)
    assert native.supports(x, weight) is None
    assert native.supports(x.half(), weight.half()) is None
    assert native.supports(x, weight.new_empty(16, 1, 191, 191)) is None
    for made, why in (
        ((x.double(), weight.double()), "too coarse for torch.float64"),
        ((x.to("meta"), weight.to("meta")), "x is on meta"),
        ((x, torch.zeros(16, 1, 193, 3)), r"up to 192 pixels, not (193, 3)"),
        ((x, torch.zeros(16, 1, 3, 193)), r"up to 192 pixels, not (3, 193)"),
    ):
        assert why in native.supports(*made)
        with pytest.raises(UsageError, match="backend: 'native' cannot take these tensors: it"):
            depthwise_conv2d(*made, backend="native")


def test_without_a_compiler_the_transform_of_pytorch_does_the_work(monkeypatch):
    x, weight = torch.randn(1, 64, 80, 80), torch.randn(64, 1, 31, 31)
    assert depthwise.choose(x, weight) == "native"
    assert depthwise.choose(x.double(), weight.double()) == "fft"
    with_one = depthwise_conv2d(x, weight)
    monkeypatch.setattr(native, "_code", lambda: None)
    assert native.lanes() == 0
    assert "install one (Debian: apt install gcc)" in native.supports(x, weight)
    assert depthwise.choose(x, weight) == "fft"
    torch.testing.assert_close(depthwise_conv2d(x, weight), with_one, rtol=1e-4, atol=1e-3)
    with pytest.raises(UsageError, match="it needs gcc on Linux"):
        depthwise_conv2d(x, weight, backend="native")


def test_a_failure_to_get_memory_is_an_error(monkeypatch):
    class Full:
        lanes = staticmethod(native._code().lanes)

        def convolve(self, *_):
            return 1

        def kernel_spectra(self, *_):
            return 0

    x, weight, _, _ = tensors(SMALL)
    monkeypatch.setattr(native, "_code", Full)
    with pytest.raises(MemoryError, match="convolve: no memory for the transforms"):
        native.forward(x, weight.clone())
