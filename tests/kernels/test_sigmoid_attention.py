"""sigmoid_attention: every back end against the equation, and the identities that tie it to softmax attention."""

import math

import pytest
import torch
import torch.nn.functional as F
from palyno import UsageError
from palyno.kernels import sigmoid_attention
from palyno.kernels.attention.sigmoid import reference
from palyno.kernels.backends import hopper_runs

CUDA = torch.cuda.is_available()
DEVICE = "cuda" if CUDA else "cpu"
HOPPER = CUDA and hopper_runs(torch.empty(0, device="cuda"))
FAST = ["triton", pytest.param("hopper", marks=pytest.mark.skipif(not HOPPER, reason="needs an H100 or H200"))]

# batch, heads, queries, keys, channels, causal
CASES = [
    (1, 2, 130, 70, 32, False),
    (2, 1, 33, 200, 64, False),
    (1, 2, 77, 77, 32, True),
    (1, 1, 128, 128, 64, True),
    (1, 1, 1, 1, 128, True),
    (1, 1, 3, 1, 32, False),
]
REAL = [
    (2, 4, 1024, 1024, 64, False),
    (2, 3, 1021, 1531, 64, False),
    (1, 5, 1543, 1543, 64, True),
    (1, 2, 2048, 2048, 128, True),
    (1, 3, 257, 4099, 128, False),
    (2, 2, 1000, 1000, 32, True),
    (1, 2, 1, 5000, 64, False),
]


def tensors(case, dtype=torch.float64, seed=0, device="cpu", std=1.0):
    batch, heads, queries, keys, channels, _ = case
    generator = torch.Generator().manual_seed(seed)
    made = [
        torch.randn(batch, heads, length, channels, generator=generator, dtype=torch.float64) * std
        for length in (queries, keys, keys)
    ]
    return tuple(x.to(device, dtype).requires_grad_() for x in made)


def logits(q, k):
    return q @ k.mT * q.shape[-1] ** -0.5


def relative(got, expected):
    return ((got.double() - expected).norm() / expected.norm()).item()


def agree(case, dtype, backend, device, most, bias=None):
    """Values and gradients against the reference in float64; twice the same bits."""
    exact = tensors(case, device=device)
    given = [x.detach().to(dtype).requires_grad_() for x in exact]
    exact = [x.detach().double().requires_grad_() for x in given]
    biases = [None, None]
    if bias is not None:
        biases = [bias.to(device, kind).requires_grad_() for kind in (torch.float32, torch.float64)]
    generator = torch.Generator().manual_seed(1)
    up = torch.randn(given[0].shape, generator=generator).to(device, dtype)

    def run(leaves, bias, backend, up):
        y = sigmoid_attention(*leaves, bias, case[5], backend=backend)
        wanted = leaves if bias is None else (*leaves, bias)
        return y, *torch.autograd.grad(y, wanted, up)

    # What is not written would show: freed memory, which comes next, is full of NaN.
    poison = [torch.full_like(x, torch.nan) for x in given for _ in range(3)]
    del poison
    got = run(given, biases[0], backend, up)
    expected = run(exact, biases[1], "reference", up.double())
    for name, one, other in zip(("y", "dq", "dk", "dv", "db"), got, expected, strict=False):
        assert one.shape == other.shape
        assert one.dtype == (torch.float32 if name == "db" else dtype)
        assert relative(one, other) < most, name
    again = run(given, biases[0], backend, up)
    assert all(torch.equal(one, other) for one, other in zip(got, again, strict=True))


@pytest.mark.parametrize("causal", [False, True])
def test_it_is_softmax_over_log_sigmoids_times_the_sum_that_softmax_divides_by(causal):
    q, k, v = tensors((2, 3, 17, 17, 8, causal))
    scores = F.logsigmoid(logits(q, k) - math.log(17))
    if causal:
        scores = scores.masked_fill(torch.ones(17, 17).triu(1).bool(), -math.inf)
    expected = scores.softmax(-1) @ v * scores.logsumexp(-1, keepdim=True).exp()
    torch.testing.assert_close(sigmoid_attention(q, k, v, causal=causal), expected)


def test_a_row_of_zero_logits_sums_to_n_over_n_plus_one():
    keys = 12
    q, k, v = torch.zeros(1, 1, 5, 4), torch.randn(1, 1, keys, 4), torch.ones(1, 1, keys, 4)
    torch.testing.assert_close(sigmoid_attention(q, k, v), torch.full((1, 1, 5, 4), keys / (keys + 1)))


def test_with_a_small_bias_and_its_rows_divided_by_their_sums_it_is_softmax_attention():
    q, k, v = tensors((1, 2, 9, 11, 8, False))
    y = sigmoid_attention(q, k, v, -40.0)
    sums = sigmoid_attention(q, k, torch.ones_like(v), -40.0)
    torch.testing.assert_close(y / sums, F.scaled_dot_product_attention(q, k, v))


def test_it_is_the_form_of_flex_attention():
    from torch.nn.attention.flex_attention import AuxRequest, flex_attention

    q, k, v = (x.detach().float() for x in tensors((1, 2, 128, 128, 16, False)))

    def log_sigmoid(score, b, h, i, j):
        return F.logsigmoid(score - math.log(128))

    y, aux = flex_attention(q, k, v, log_sigmoid, return_aux=AuxRequest(lse=True))
    torch.testing.assert_close(sigmoid_attention(q, k, v), y * aux.lse.exp()[..., None], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("shape", [None, (), (2,)])
def test_the_gradient_of_the_reference(shape, causal):
    q, k, v = tensors((1, 2, 4, 4, 3, causal))
    bias = [] if shape is None else [torch.randn(shape, dtype=torch.float64, requires_grad=True)]
    torch.autograd.gradcheck(
        lambda q, k, v, *bias: sigmoid_attention(q, k, v, *bias, causal=causal, backend="reference"), (q, k, v, *bias)
    )


@pytest.mark.skipif(CUDA, reason="runs on the real shapes there")
@pytest.mark.parametrize("case", CASES)
def test_triton_is_the_equation(case):
    agree(case, torch.float32, "triton", "cpu", 2e-6)


@pytest.mark.skipif(CUDA, reason="runs on the real shapes there")
@pytest.mark.parametrize("case", [CASES[0], CASES[2]])
def test_triton_is_the_equation_in_half_precision(case):
    agree(case, torch.float16, "triton", "cpu", 1e-3)


@pytest.mark.skipif(CUDA, reason="runs on the real shapes there")
@pytest.mark.parametrize("bias", [torch.tensor(-1.5), torch.tensor([-2.0, 0.5])])
def test_triton_is_the_equation_with_a_bias_to_train(bias):
    agree(CASES[0], torch.float32, "triton", "cpu", 3e-6, bias)


@pytest.mark.gpu
@pytest.mark.parametrize("backend", FAST)
@pytest.mark.parametrize("case", CASES + REAL)
@pytest.mark.parametrize(
    ("dtype", "most"), [(torch.float16, 1e-3), (torch.bfloat16, 8e-3), (torch.float32, 5e-6)], ids=str
)
def test_kernels_on_a_gpu(case, dtype, most, backend):
    if backend == "hopper" and (dtype == torch.float32 or case[4] == 32):
        pytest.skip("not among what it takes")
    agree(case, dtype, backend, "cuda", most)
    if case in (CASES[0], REAL[1], REAL[3]):
        agree(case, dtype, backend, "cuda", most, torch.linspace(-5, -1, case[1]))


@pytest.mark.parametrize("backend", ["reference", *FAST])
@pytest.mark.parametrize("size", [3e1, 1e4])
def test_large_logits_give_zero_or_one_and_no_nan(backend, size):
    dtype = torch.bfloat16 if backend == "hopper" else torch.float32
    q, k, v = (x.detach().to(dtype) for x in tensors((1, 1, 40, 40, 64, False), device=DEVICE))
    # Logits of both signs and magnitude `size` at least.
    q, k = (torch.where(x[..., :1] < 0, -1.0, 1.0).to(dtype).expand_as(x) * math.sqrt(size) for x in (q, k))
    q, k, v = (x.contiguous().requires_grad_() for x in (q, k, v))
    y = sigmoid_attention(q, k, v, 0.0, backend=backend)
    expected = (logits(q, k) > 0).to(dtype) @ v
    torch.testing.assert_close(y, expected, rtol=1e-2, atol=1e-2)
    assert all(grad.isfinite().all() for grad in torch.autograd.grad(y.sum(), (q, k, v)))


@pytest.mark.parametrize("backend", ["reference", *FAST])
@pytest.mark.parametrize("bias", [-70.0, -25.0, 5.0])
def test_far_from_zero_the_error_stays_relative(backend, bias):
    dtype = torch.bfloat16 if backend == "hopper" else torch.float32
    q, k, v = (x.detach().to(dtype) for x in tensors((1, 1, 40, 40, 64, False), device=DEVICE))
    y = sigmoid_attention(q, k, v, bias, backend=backend)
    expected = sigmoid_attention(q.double(), k.double(), v.double(), bias, backend="reference")
    assert relative(y, expected) < (5e-3 if dtype == torch.bfloat16 else 1e-5)


@pytest.mark.parametrize("backend", ["reference", *FAST])
def test_a_nan_is_not_hidden(backend):
    dtype = torch.bfloat16 if backend == "hopper" else torch.float32
    q, k, v = (x.detach().to(dtype) for x in tensors((1, 1, 40, 40, 64, False), device=DEVICE))
    q[0, 0, 3, 5] = torch.nan
    y = sigmoid_attention(q, k, v, backend=backend)
    assert y[0, 0, 3].isnan().all()
    assert y[0, 0, :3].isfinite().all()
    assert y[0, 0, 4:].isfinite().all()


@pytest.mark.parametrize("backend", ["reference", *FAST])
def test_a_causal_output_does_not_change_with_what_follows(backend):
    dtype = torch.bfloat16 if backend == "hopper" else torch.float32
    case = (1, 2, 75, 75, 64, True)
    q, k, v = (x.detach().to(dtype) for x in tensors(case, device=DEVICE))
    whole = sigmoid_attention(q, k, v, -4.0, True, backend=backend)
    for seen in (1, 40, 74):
        part = sigmoid_attention(*(x[:, :, :seen] for x in (q, k, v)), -4.0, True, backend=backend)
        torch.testing.assert_close(part, whole[:, :, :seen], rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(
        whole[:, :, :1], torch.sigmoid(logits(q, k)[:, :, :1, :1].float() - 4).to(dtype) * v[:, :, :1]
    )


@pytest.mark.parametrize("backend", FAST)
def test_views_are_read_where_they_lie(backend):
    dtype = torch.bfloat16 if backend == "hopper" else torch.float32
    generator = torch.Generator().manual_seed(0)
    fused = torch.randn(2, 50, 3, 2, 64, generator=generator).to(DEVICE, dtype)
    views = {
        "parts of a projection": fused.permute(2, 0, 3, 1, 4).unbind(0),
        "every second row": [x[:, :, ::2] for x in fused.permute(2, 0, 3, 1, 4)],
        "channels first": [x.mT.contiguous().mT for x in fused.permute(2, 0, 3, 1, 4)],
        "expanded": [x[:1].expand(3, -1, -1, -1) for x in fused.permute(2, 0, 3, 1, 4)],
        "not aligned": [F.pad(x, (3, 2))[..., 3:-2] for x in fused.permute(2, 0, 3, 1, 4)],
    }
    for name, parts in views.items():
        parts = [x.detach().requires_grad_() for x in parts]
        y = sigmoid_attention(*parts, backend=backend)
        up = torch.ones_like(y).mT.contiguous().mT
        got = (y, *torch.autograd.grad(y, parts, up))
        wide = [x.detach().double().requires_grad_() for x in parts]
        y = sigmoid_attention(*wide, backend="reference")
        expected = (y, *torch.autograd.grad(y, wide, up.double()))
        for one, other in zip(got, expected, strict=True):
            assert relative(one, other) < (5e-3 if dtype == torch.bfloat16 else 2e-6), name


@pytest.mark.parametrize("backend", FAST)
@pytest.mark.parametrize("wanted", ["q", "k", "v", "bias", ""])
def test_only_what_needs_a_gradient_gets_one(backend, wanted):
    dtype = torch.bfloat16 if backend == "hopper" else torch.float32
    leaves = dict(zip("qkv", (x.detach().to(dtype) for x in tensors(CASES[1], device=DEVICE)), strict=True))
    leaves["bias"] = torch.tensor(-2.0, device=DEVICE)
    expected = sigmoid_attention(*leaves.values(), backend=backend)
    if wanted:
        leaves[wanted].requires_grad_()
    y = sigmoid_attention(*leaves.values(), backend=backend)
    assert torch.equal(y, expected)
    assert y.requires_grad == bool(wanted)
    if wanted:
        y.sum().backward()
    assert [name for name, x in leaves.items() if x.grad is not None] == ([wanted] if wanted else [])
    with torch.inference_mode():
        assert torch.equal(sigmoid_attention(*leaves.values(), backend=backend), expected)


def test_a_bias_of_every_kind_means_the_same():
    q, k, v = tensors((1, 3, 5, 7, 4, False))
    expected = sigmoid_attention(q, k, v)
    bias = -math.log(7)
    for same in (bias, torch.tensor(bias), torch.full((3,), bias, dtype=torch.float64)):
        torch.testing.assert_close(sigmoid_attention(q, k, v, same), expected, rtol=1e-6, atol=1e-7)
    bias = torch.tensor([-1.0, 0.0, 2.0])
    apart = [sigmoid_attention(*(x[:, h : h + 1] for x in (q, k, v)), bias[h].item()) for h in range(3)]
    torch.testing.assert_close(sigmoid_attention(q, k, v, bias), torch.cat(apart, 1))


def test_under_autocast_everything_is_cast():
    q, k, v = (x.float() for x in tensors(CASES[1], device=DEVICE))
    with torch.autocast(DEVICE, torch.bfloat16):
        y = sigmoid_attention(q, k, v)
    assert y.dtype == torch.bfloat16
    assert relative(y, sigmoid_attention(q.double(), k.double(), v.double())) < 1e-2


@pytest.mark.parametrize("backend", FAST)
@pytest.mark.parametrize("bias", [None, torch.tensor(-1.0), torch.zeros(1)])
def test_compiled_graphs_keep_the_operator_whole(backend, bias):
    dtype = torch.bfloat16 if backend == "hopper" else torch.float32
    leaves = [x.detach().to(dtype).requires_grad_() for x in tensors(CASES[1], device=DEVICE)]
    bias = None if bias is None else bias.to(DEVICE).requires_grad_()
    wanted = leaves if bias is None else [*leaves, bias]

    def attend(q, k, v, bias):
        return sigmoid_attention(q, k, v, bias, backend=backend)

    y = torch.compile(attend, fullgraph=True, backend="aot_eager")(*leaves, bias)
    expected = attend(*leaves, bias)
    torch.testing.assert_close(y, expected)
    got, expected = (torch.autograd.grad(x.sum(), wanted) for x in (y, expected))
    for one, other in zip(got, expected, strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("backend", ["reference", *FAST])
def test_an_exported_program_takes_other_lengths(backend):
    dtype = torch.bfloat16 if backend == "hopper" else torch.float32
    q, k, v = (x.detach().to(dtype) for x in tensors(CASES[1], device=DEVICE))

    class Attention(torch.nn.Module):
        def forward(self, q, k, v):
            return sigmoid_attention(q, k, v, backend=backend)

    queries, keys = torch.export.Dim("queries", min=2, max=4096), torch.export.Dim("keys", min=2, max=4096)
    program = torch.export.export(
        Attention(), (q, k, v), dynamic_shapes=({2: queries}, {2: keys}, {2: keys}), strict=False
    ).module()
    torch.testing.assert_close(program(q, k, v), sigmoid_attention(q, k, v, backend=backend))
    q, k, v = q[:, :, :9], k[:, :, :50], v[:, :, :50]
    torch.testing.assert_close(program(q, k, v), sigmoid_attention(q, k, v, backend=backend))


def test_the_operators_keep_pytorchs_rules():
    from palyno.kernels.attention.sigmoid import operator

    q, k, v = (x.detach().float().requires_grad_() for x in tensors(CASES[0], device=DEVICE))
    bias = torch.zeros(2, device=DEVICE, requires_grad=True)
    for arguments in (
        (q, k, v, None, None, False, False),
        (q, k, v, bias, None, False, False),
        (k, k, v, None, -2.0, True, False),
    ):
        torch.library.opcheck(operator.sigmoid_attention.overload, arguments)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"q": torch.zeros(3, 4, 8)}, r"q: expected a non-empty \(B, H, N, d\)"),
        ({"q": torch.zeros(1, 2, 0, 8)}, "q: expected a non-empty"),
        ({"k": torch.zeros(1, 2, 0, 8), "v": torch.zeros(1, 2, 0, 8)}, "k: expected .* M of at least 1"),
        ({"q": torch.zeros(1, 2, 4, 8).int()}, "q: expected floating point"),
        ({"k": torch.zeros(1, 2, 5, 16)}, r"k: expected \(1, 2, M, 8\)"),
        ({"k": torch.zeros(1, 3, 5, 8)}, r"k: expected \(1, 2, M, 8\)"),
        ({"v": torch.zeros(1, 2, 6, 8)}, r"v: expected \(1, 2, 5, 8\) like k"),
        ({"v": torch.zeros(1, 2, 5, 8).half()}, "v: expected torch.float32 like q"),
        ({"k": torch.zeros(1, 2, 5, 8, device="meta")}, "k: expected on cpu like q"),
        ({"causal": True}, "causal: expected as many keys as queries, got 5 and 4"),
        ({"bias": torch.zeros(3)}, r"bias: expected floating point, \(\) or \(2,\)"),
        ({"bias": torch.zeros(2, 1)}, "bias: expected floating point"),
        ({"bias": torch.zeros(2).int()}, "bias: expected floating point"),
        ({"bias": torch.zeros(2, device="meta")}, "bias: expected on cpu like q"),
        ({"bias": "-log"}, "bias: expected a finite number"),
        ({"bias": math.nan}, "bias: expected a finite number"),
        ({"backend": "flash"}, "backend: expected auto"),
        ({"backend": "triton"}, "backend 'triton' expected"),
        ({"backend": "hopper"}, "backend 'hopper' expected"),
    ],
)
def test_what_does_not_fit_is_refused(change, message):
    given = {"q": torch.zeros(1, 2, 4, 8), "k": torch.zeros(1, 2, 5, 8), "v": torch.zeros(1, 2, 5, 8), **change}
    with pytest.raises(UsageError, match=message):
        sigmoid_attention(**given)


def test_what_the_kernels_do_not_take_goes_to_the_reference():
    q, k, v = tensors((1, 2, 5, 7, 20, False), torch.float32, device=DEVICE)
    expected = reference.attend(q, k, v, None, False)
    assert torch.equal(sigmoid_attention(q, k, v), expected)
