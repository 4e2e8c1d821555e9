"""The depthwise convolution as an operator of PyTorch: compilers, exporters, autocast, the epilogue."""

import pytest
import torch
import torch.nn.functional as F
from palyno import UsageError
from palyno.kernels import depthwise_conv2d
from palyno.kernels.depthwise import native, operator


def tensors(dtype=torch.float32, **options):
    torch.manual_seed(0)
    return tuple(torch.randn(s, dtype=dtype, **options) for s in ((2, 3, 24, 26), (3, 1, 17, 17), (3,)))


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize(("backend", "dtype"), [("fft", torch.float64), ("native", torch.float32)])
def test_it_keeps_the_rules_of_operators(backend, dtype, stride):
    if backend == "native" and not native.lanes():
        pytest.skip("needs gcc on Linux")
    sample = tensors(dtype, requires_grad=True)
    torch.library.opcheck(operator.depthwise.overload, (*sample, stride, backend, backend))


def test_a_compiled_function_holds_it_whole():
    x, weight, bias = tensors()
    compiled = torch.compile(
        lambda *t: F.relu(depthwise_conv2d(*t, backend="fft")), fullgraph=True, backend="aot_eager"
    )
    torch.testing.assert_close(compiled(x, weight, bias), F.relu(depthwise_conv2d(x, weight, bias, backend="fft")))


@pytest.mark.parametrize(("dynamic", "graphs"), [(False, 2), (True, 1)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_compiled_function_holds_what_auto_takes_for_open_sizes_too(dtype, dynamic, graphs):
    made = []

    def backend(graph, _):
        made.append(str(graph.graph))
        return graph.forward

    x, _, bias = tensors(dtype)
    weight = torch.randn(3, 1, 31, 31, dtype=dtype)
    torch.compiler.reset()
    compiled = torch.compile(depthwise_conv2d, fullgraph=True, backend=backend, dynamic=dynamic)
    for maps in (x, x[..., :20].contiguous()):
        expected = depthwise_conv2d(maps, weight, bias)
        torch.testing.assert_close(compiled(maps, weight, bias), expected, rtol=1e-4, atol=1e-3)
    assert len(made) == graphs
    assert all("palyno.depthwise_conv2d" in graph for graph in made)


def test_an_exported_program_takes_maps_of_every_size():
    class Module(torch.nn.Module):
        def forward(self, x, weight):
            return depthwise_conv2d(x, weight)

    x, weight = tensors()[0], torch.randn(3, 1, 31, 31)
    height = torch.export.Dim("height", min=2, max=100)
    program = torch.export.export(Module(), (x, weight), dynamic_shapes=({2: height}, {}))
    assert "palyno.depthwise_conv2d" in str(program.graph)
    low = x[:, :, :9]
    torch.testing.assert_close(program.module()(low, weight), depthwise_conv2d(low, weight), rtol=1e-4, atol=1e-3)


def test_maps_without_values_have_a_shape():
    x, weight, bias = tensors(device="meta")
    assert depthwise_conv2d(x, weight, bias, stride=2).shape == (2, 3, 12, 13)


def test_an_exported_program_holds_it_and_gives_the_same():
    class Module(torch.nn.Module):
        def forward(self, x, weight):
            return depthwise_conv2d(x, weight, backend="fft")

    x, weight, _ = tensors()
    program = torch.export.export(Module(), (x, weight))
    assert "palyno.depthwise_conv2d" in str(program.graph)
    torch.testing.assert_close(program.module()(x, weight), depthwise_conv2d(x, weight, backend="fft"))


def test_a_trace_holds_a_plain_convolution():
    x, weight, _ = tensors()
    traced = torch.jit.trace(lambda x: depthwise_conv2d(x, weight), x)
    assert "aten::_convolution" in str(traced.inlined_graph) or "aten::conv2d" in str(traced.inlined_graph)


def test_autocast_decides_the_type():
    x, weight, bias = tensors()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = depthwise_conv2d(x, weight, bias, backend="fft")
    assert y.dtype == torch.bfloat16
    expected = depthwise_conv2d(x.bfloat16().float(), weight.bfloat16().float(), bias.bfloat16().float())
    torch.testing.assert_close(y.float(), expected, rtol=0.01, atol=0.05)


@pytest.mark.parametrize("backend", ["reference", "fft"])
@pytest.mark.parametrize("activation", [None, "relu", "gelu"])
def test_the_epilogue_is_what_it_says(backend, activation):
    x, weight, bias = tensors(torch.float64)
    residual, gate = torch.randn_like(x), torch.randn(2, 3, dtype=torch.float64)
    y = depthwise_conv2d(x, weight, bias, residual=residual, gate=gate, activation=activation, backend=backend)
    expected = F.conv2d(x, weight, bias, padding=8, groups=3) + residual + gate[..., None, None] * x.abs()
    expected = {"relu": F.relu, "gelu": F.gelu, None: lambda t: t}[activation](expected)
    torch.testing.assert_close(y, expected)


def test_inference_mode_frozen_weights_and_unneeded_gradients():
    x, weight, bias = tensors()
    expected = depthwise_conv2d(x, weight, bias, backend="reference")
    with torch.inference_mode():
        torch.testing.assert_close(depthwise_conv2d(x, weight, bias, backend="fft"), expected, rtol=1e-4, atol=1e-4)
    x.requires_grad_()
    (only,) = torch.autograd.grad(depthwise_conv2d(x, weight, bias, backend="fft").sum(), x)
    (same,) = torch.autograd.grad(depthwise_conv2d(x, weight, bias, backend="reference").sum(), x)
    torch.testing.assert_close(only, same, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"activation": "silu"}, "activation: expected None, 'relu' or 'gelu', got 'silu'"),
        ({"residual": torch.zeros(2, 3, 24, 25)}, r"residual: expected the output's \(2, 3, 24, 26\)"),
        ({"gate": torch.zeros(3, 2)}, r"gate: expected \(2, 3\) and stride 1"),
        ({"backend": "toeplitz2"}, "expected auto, reference, fft, native, toeplitz, hopper; got 'toeplitz2'"),
    ],
)
def test_what_cannot_be_is_refused(options, message):
    with pytest.raises(UsageError, match=message):
        depthwise_conv2d(*tensors(), **options)


def test_a_second_derivative_is_refused_and_not_taken_for_zero():
    x, weight = torch.randn(1, 2, 9, 9, requires_grad=True), torch.randn(2, 1, 5, 5)
    (slope,) = torch.autograd.grad(depthwise_conv2d(x, weight, backend="fft").square().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="differentiate twice"):
        slope.square().sum().backward()
