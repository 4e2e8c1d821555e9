"""sobel_magnitude: every back end against the stencil written out, on the shapes and orders of memory that go wrong."""

import shutil

import pytest
import torch
import torch.nn.functional as F
from palyno import UsageError
from palyno.kernels import sobel_magnitude
from palyno.kernels.backends import interpreting
from palyno.kernels.edge import choose
from palyno.kernels.edge.reference import replicated
from palyno.vision.blocks import HEM

OFF = pytest.mark.skipif(not interpreting(), reason="Triton's interpreter is off")
GPU = pytest.param("cuda", marks=pytest.mark.gpu)
DEVICES = [pytest.param("cpu"), GPU]
PLAIN = ["reference", "convolution"]
TRITON = pytest.importorskip("triton") and ["triton"]
# Bounds of ||out - ref|| / ||ref||: a rounding of the result, with room for those before it.
BOUND = {torch.float64: 1e-13, torch.float32: 5e-7, torch.float16: 1e-3, torch.bfloat16: 8e-3}

SMALL = [(2, 2, 16, 24), (1, 3, 13, 17), (1, 2, 3, 40), (2, 1, 9, 1), (1, 1, 1, 1)]
LARGE = [(16, 64, 160, 160), (2, 128, 160, 160), (3, 7, 101, 211), (1, 3, 640, 8), (65, 1, 1, 37)]


@pytest.fixture(autouse=True)
def triton_runs_where_the_map_is(request):
    """Triton takes maps of the CPU in its interpreter only, which is off where there is a GPU."""
    asked = getattr(request.node, "callspec", None)
    asked = {} if asked is None else asked.params
    if asked.get("backend") == "triton" and asked.get("device", "cpu") == "cpu" and not interpreting():
        pytest.skip("Triton's interpreter is off")


def written_out(x, levels=3, eps=1e-6):
    """The definition in float64: correlation with both kernels, the root, and max-pooling of the root."""
    x = x.double()
    pair = x.new_tensor([[[-1, 0, 1], [-2, 0, 2], [-1, 0, 1]], [[-1, -2, -1], [0, 0, 0], [1, 2, 1]]]) / 8
    weight = pair[:, None].repeat(x.shape[1], 1, 1, 1)
    g = F.conv2d(F.pad(x, (1, 1, 1, 1), mode="replicate"), weight, groups=x.shape[1])
    edges = (g[:, 0::2] ** 2 + g[:, 1::2] ** 2 + eps).sqrt()
    maps = []
    for _ in range(levels):
        edges = F.max_pool2d(edges, 2, 2, ceil_mode=True)
        maps.append(edges)
    return maps


def relative(got, want):
    return float((got.double() - want).norm() / want.norm().clamp_min(1e-30))


def check(x, backend, levels=3):
    """Values and gradients of one call against the definition."""
    x = x.detach().requires_grad_()
    exact = x.detach().double().requires_grad_()
    expected = written_out(exact, levels)
    maps = sobel_magnitude(x, levels=levels, backend=backend)
    assert isinstance(maps, tuple)
    bound = BOUND[x.dtype]
    for got, want in zip(maps, expected, strict=True):
        assert (got.shape, got.dtype, got.device) == (want.shape, x.dtype, x.device)
        assert relative(got, want) < bound
    up = [torch.randn_like(level) for level in maps]
    (slope,) = torch.autograd.grad(maps, x, up)
    (want,) = torch.autograd.grad(expected, exact, [u.double() for u in up])
    assert (slope.shape, slope.dtype) == (x.shape, x.dtype)
    assert (slope - want).norm() <= bound * want.norm()


@pytest.mark.parametrize("backend", PLAIN + TRITON)
@pytest.mark.parametrize("order", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("shape", SMALL)
def test_values_and_gradients_are_those_of_the_definition(shape, order, backend):
    torch.manual_seed(0)
    check(torch.randn(shape).contiguous(memory_format=order), backend)


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("order", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("shape", SMALL + LARGE)
def test_values_and_gradients_on_the_gpu(shape, order, dtype):
    torch.manual_seed(0)
    check(torch.randn(shape, device="cuda").to(dtype).contiguous(memory_format=order), "triton")


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("backend", ["reference", *TRITON])
def test_half_precision_is_computed_in_float32_and_rounded_once(backend, dtype):
    torch.manual_seed(0)
    x = torch.randn(1, 2, 16, 24).to(dtype)
    check(x, backend)
    # Half a unit in the last place; Triton's interpreter cuts bfloat16 off instead of rounding it.
    units = 1.01 if (backend, dtype) == ("triton", torch.bfloat16) else 0.51
    for got, want in zip(sobel_magnitude(x, backend=backend), written_out(x), strict=True):
        assert ((got - want).abs() <= units * torch.finfo(dtype).eps * want + 1e-7).all()


@pytest.mark.parametrize("backend", PLAIN + TRITON)
@pytest.mark.parametrize("levels", [1, 2])
def test_fewer_levels_are_the_first_ones(levels, backend):
    torch.manual_seed(0)
    check(torch.randn(1, 2, 11, 16), backend, levels)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("backend", PLAIN + TRITON)
def test_of_equal_pixels_the_first_row_by_row_gets_the_gradient(backend, device):
    # Whole numbers: the squares are exact, so ties are ties in any precision. Their slopes are compared one by one.
    x = torch.randint(0, 2, (2, 2, 16, 24), device=device, generator=torch.Generator(device).manual_seed(0)).float()
    check(x, backend)
    check(torch.ones(1, 1, 16, 16, device=device), backend)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("backend", PLAIN + TRITON)
@pytest.mark.parametrize(
    "view",
    [
        lambda t: t[:, 1:3],
        lambda t: t[..., 1:-1, 2:-3],
        lambda t: t[:, :, ::2, ::2],
        lambda t: t[:, :1].expand(-1, 4, -1, -1),
        lambda t: t.flatten()[1 : 1 + 2 * 4 * 8 * 16].view(2, 4, 8, 16),
    ],
    ids=["channels", "window", "steps", "expanded", "unaligned"],
)
def test_views_need_not_be_contiguous(view, backend, device):
    torch.manual_seed(0)
    check(view(torch.randn(2, 4, 16, 24, device=device)), backend)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("order", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("backend", PLAIN + TRITON)
def test_the_order_of_memory_is_kept(backend, order, device):
    x = torch.randn(2, 3, 16, 17, device=device).contiguous(memory_format=order).requires_grad_()
    maps = sobel_magnitude(x, backend=backend)
    assert all(level.is_contiguous(memory_format=order) for level in maps)
    if backend == "triton":
        (slope,) = torch.autograd.grad([level.sum() for level in maps], x)
        assert slope.is_contiguous(memory_format=order)


@pytest.mark.parametrize("device", [pytest.param("cpu", marks=OFF), GPU])
@pytest.mark.parametrize("shape", [(1, 2, 16, 16), (1, 3, 13, 9)])
def test_every_element_is_written_and_runs_agree_bit_by_bit(shape, device):
    from palyno.kernels.edge import operator

    x = torch.randn(shape, device=device, requires_grad=True)
    runs = []
    for _ in range(2):
        # What the allocator hands out next was NaN before.
        junk = [torch.full((x.numel(),), torch.nan, device=device) for _ in range(8)]
        del junk
        maps = operator.sobel_magnitude(x, 3, 1e-6)
        (slope,) = torch.autograd.grad([level.square().sum() for level in maps], x)
        runs.append([*maps, slope])
        assert all(torch.isfinite(t).all() for t in runs[-1])
    assert all(torch.equal(a, b) for a, b in zip(*runs, strict=True))


@pytest.mark.parametrize("backend", PLAIN + TRITON)
def test_a_level_that_is_not_used_has_no_part_in_the_gradient(backend):
    torch.manual_seed(0)
    x = torch.randn(1, 2, 16, 16, requires_grad=True)
    exact = x.detach().double().requires_grad_()
    (slope,) = torch.autograd.grad(sobel_magnitude(x, backend=backend)[1].sum(), x)
    (want,) = torch.autograd.grad(written_out(exact)[1].sum(), exact)
    assert relative(slope, want) < BOUND[torch.float32]


@pytest.mark.parametrize("backend", PLAIN)
def test_gradcheck(backend):
    torch.manual_seed(0)
    x = torch.randn(1, 2, 5, 9, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda t: sobel_magnitude(t, backend=backend), x)


@pytest.mark.parametrize("backend", PLAIN + TRITON)
def test_a_flat_map_has_magnitude_root_eps_and_no_slope_and_nan_stays_nan(backend):
    x = torch.full((1, 1, 16, 16), 3.0, requires_grad=True)
    maps = sobel_magnitude(x, eps=1e-4, backend=backend)
    for level in maps:
        torch.testing.assert_close(level, torch.full_like(level, 1e-2))
    assert torch.equal(torch.autograd.grad(sum(level.sum() for level in maps), x)[0], torch.zeros_like(x))
    with torch.no_grad():
        x[0, 0, 3, 3] = torch.nan
    for level, cells in zip(sobel_magnitude(x.detach(), backend=backend), (4, 4, 1), strict=True):
        assert level.isnan().sum() == cells  # Of E1, those of pixels 2 to 4 in rows 2 to 4.


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("backend", PLAIN + TRITON)
def test_compiled_and_exported_graphs_are_whole_and_give_the_same(backend, device):
    class Edges(torch.nn.Module):
        def forward(self, x):
            return sobel_magnitude(x, backend=backend)

    x = torch.randn(1, 2, 16, 16, device=device)
    expected = written_out(x)
    # Without code generation on the CPU: what is tested is that the graph is whole.
    compiled = torch.compile(Edges(), fullgraph=True, backend="inductor" if device == "cuda" else "aot_eager")
    leaf = x.clone().requires_grad_()
    maps = compiled(leaf)
    assert all(relative(got, want) < 1e-6 for got, want in zip(maps, expected, strict=True))
    (slope,) = torch.autograd.grad(sum(level.sum() for level in maps), leaf)
    eager = x.clone().requires_grad_()
    (want,) = torch.autograd.grad(sum(level.sum() for level in sobel_magnitude(eager, backend=backend)), eager)
    torch.testing.assert_close(slope, want, rtol=1e-5, atol=1e-6)
    exported = torch.export.export(Edges(), (x,)).module()
    assert all(relative(got, want) < 1e-6 for got, want in zip(exported(x), expected, strict=True))


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="inductor writes C++ for the CPU: needs g++")
@pytest.mark.parametrize("backend", PLAIN)
@pytest.mark.parametrize("memory", [torch.contiguous_format, torch.channels_last])
def test_generated_code_has_the_gradient(backend, memory):
    """Inductor checks orders of memory, which PyTorch's own padding breaks: what runs without code does not tell."""
    x = torch.randn(1, 2, 16, 16).to(memory_format=memory)
    slopes = []
    for call in (sobel_magnitude, torch.compile(sobel_magnitude, fullgraph=True, backend="inductor")):
        leaf = x.clone().requires_grad_()
        slopes += torch.autograd.grad(sum(level.sum() for level in call(leaf, backend=backend)), leaf)
    torch.testing.assert_close(slopes[1], slopes[0], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("margin", [1, 4])
def test_borders_are_replicated_in_compiled_graphs_as_without(margin):
    x = torch.randn(2, 3, 5, 7)
    compiled = torch.compile(replicated, fullgraph=True, backend="aot_eager")
    assert torch.equal(compiled(x, margin), torch.nn.functional.pad(x, (margin,) * 4, mode="replicate"))


@pytest.mark.parametrize("device", [pytest.param("cpu", marks=OFF), GPU])
def test_the_operator_says_what_it_does(device):
    from palyno.kernels.edge import operator  # noqa: F401

    x = torch.randn(1, 2, 8, 11, device=device, requires_grad=True)
    # Compiled graphs are tested above.
    asked = ("test_schema", "test_autograd_registration", "test_faketensor")
    torch.library.opcheck(torch.ops.palyno.sobel_pyramid.default, (x, 3, 1e-6, True), test_utils=asked)
    words = torch.ops.palyno.sobel_pyramid(x.detach(), 1, 1e-6, True)[-1]
    gains = [torch.randn(1, 2, 4, 6, device=device)]
    torch.library.opcheck(torch.ops.palyno.sobel_slope.default, (x.detach(), words, gains, 1e-6), test_utils=asked)


@pytest.mark.parametrize("backend", PLAIN + TRITON)
def test_autocast_and_inference_mode_change_nothing(backend):
    x = torch.randn(1, 2, 16, 16)
    expected = sobel_magnitude(x, backend=backend)
    with torch.autocast("cpu", dtype=torch.bfloat16), torch.inference_mode():
        maps = sobel_magnitude(x, backend=backend)
    assert all(torch.equal(got, want) for got, want in zip(maps, expected, strict=True))


def test_auto_never_interprets_and_traces_the_plain_path():
    x = torch.randn(1, 2, 16, 16)
    assert choose(x, 3) == "convolution"
    assert choose(x.half(), 3) == "reference"
    hem = HEM(2, (3, 4, 5)).eval()
    traced = torch.jit.trace(hem, x)
    kinds = {node.kind() for node in traced.inlined_graph.nodes()}
    assert "aten::_convolution" in kinds
    assert not any(kind.startswith("palyno") for kind in kinds)
    y = torch.randn(1, 2, 16, 16)
    for got, want in zip(traced(y), hem(y), strict=True):
        torch.testing.assert_close(got, want)


@pytest.mark.gpu
def test_auto_takes_the_fused_pass_on_a_gpu():
    x = torch.randn(1, 2, 16, 16, device="cuda")
    assert choose(x, 3) == choose(x.half(), 1) == "triton"
    assert choose(x.double(), 3) == choose(x, 4) == "reference"


def test_the_environment_decides_where_the_call_does_not(monkeypatch):
    x = torch.randn(1, 1, 8, 8)
    monkeypatch.setenv("PALYNO_SOBEL", "reference")
    assert torch.equal(sobel_magnitude(x)[0], sobel_magnitude(x, backend="reference")[0])
    monkeypatch.setenv("PALYNO_SOBEL", "cudnn")
    with pytest.raises(UsageError, match="PALYNO_SOBEL: expected auto, reference, convolution, triton; got 'cudnn'"):
        sobel_magnitude(x)


@pytest.mark.parametrize(
    ("x", "options", "message"),
    [
        (torch.ones(2, 3, 4), {}, r"x: expected a non-empty \(B, C, H, W\), got \(2, 3, 4\)"),
        (torch.ones(0, 3, 4, 4), {}, "x: expected a non-empty"),
        (torch.ones(1, 1, 4, 4, dtype=torch.int32), {}, "x: expected floating point, got torch.int32"),
        (torch.ones(1, 1, 4, 4), {"levels": 0}, "levels: expected a whole number of at least 1, got 0"),
        (torch.ones(1, 1, 4, 4), {"levels": 1.5}, "levels: expected a whole number"),
        (torch.ones(1, 1, 4, 4), {"eps": 0.0}, "eps: expected a positive number, got 0.0"),
        (torch.ones(1, 1, 4, 4), {"eps": float("nan")}, "eps: expected a positive number"),
        (torch.ones(1, 1, 4, 4), {"backend": "cuda"}, "backend: expected auto, reference, convolution, triton"),
        (torch.ones(1, 1, 4, 4).double(), {"backend": "triton"}, "backend: triton takes float16, bfloat16 and float32"),
        (torch.ones(1, 1, 4, 4), {"backend": "triton", "levels": 4}, "up to 3 levels; got torch.float32 on cpu, 4"),
    ],
)
def test_what_cannot_be_meant_is_refused(x, options, message):
    with pytest.raises(UsageError, match=message):
        sobel_magnitude(x, **options)
