"""bilevel_routing_attention: every back end against dense attention, and the properties that define the operator."""

import pytest
import torch
import torch.nn.functional as F
from palyno import UsageError
from palyno.kernels import bilevel_routing_attention
from palyno.kernels.attention.routing import Regions, reference, route
from palyno.kernels.backends import interpreting

CUDA = torch.cuda.is_available()
BACKENDS = ["gather", "triton"]

# batch, heads, channels of a head, (height, width), regions, topk, channels last
CASES = [
    (2, 1, 8, (6, 8), (3, 2), 2, False),
    (1, 2, 16, (13, 11), (3, 2), 2, True),  # regions of 5 x 6 reach over both borders
    (1, 1, 4, (9, 4), (2, 2), 10, False),  # every region: plain attention
    (1, 3, 20, (17, 7), (16, 1), 2, True),  # 16 regions of two rows are nine
    (1, 1, 4, (5, 3), (1, 1), 1, False),
    (1, 1, 4, (1, 7), (1, 3), 1, False),
    (1, 1, 3, (3, 4), (3, 4), 4, True),  # regions of one token
]
REAL = [
    (2, 4, 32, (80, 80), (10, 10), 4, True),
    (1, 4, 32, (61, 83), (8, 11), 4, False),
    (1, 8, 32, (80, 80), (8, 8), 16, True),
    (2, 1, 64, (40, 40), (2, 2), 2, False),
    (1, 1, 128, (33, 17), (3, 2), 3, True),
    (1, 4, 32, (56, 56), (8, 8), 1, True),
    (1, 2, 32, (40, 40), (40, 40), 5, True),
]


def maps(case, dtype=torch.float64, seed=0, device="cpu", std=1.0):
    batch, heads, d, size, _, _, last = case
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(batch, 3 * heads * d, *size, generator=generator, dtype=torch.float64) * std
    x = x.to(device, dtype, memory_format=torch.channels_last if last else torch.contiguous_format)
    return tuple(part.detach().requires_grad_() for part in x.chunk(3, 1))


def relative(got, expected):
    return ((got.double() - expected).norm() / expected.norm()).item()


def dense(q, k, v, heads, scale=None):
    """Plain attention over all tokens of a map, by PyTorch."""
    split = [x.unflatten(1, (heads, -1)).flatten(3).transpose(2, 3) for x in (q, k, v)]
    return F.scaled_dot_product_attention(*split, scale=scale).transpose(2, 3).reshape(q.shape)


def values_and_gradients(q, k, v, case, backend, routes, up):
    out = bilevel_routing_attention(q, k, v, case[4], case[5], heads=case[1], backend=backend, routes=routes)
    return out, *torch.autograd.grad(out, (q, k, v), up)


def agree(case, dtype, backend, device, most):
    exact = maps(case, device=device)
    tensors = [x.detach().to(dtype).requires_grad_() for x in exact]
    exact = [x.detach().double().requires_grad_() for x in tensors]
    routes = route(exact[0], exact[1], case[4], case[5], backend="reference")
    up = torch.randn_like(tensors[0])
    # What is not written would show: freed memory, which comes next, is full of NaN.
    del_me = [torch.full_like(tensors[0], torch.nan, dtype=torch.float32) for _ in range(8)]
    del del_me
    got = values_and_gradients(*tensors, case, backend, routes, up)
    expected = values_and_gradients(*exact, case, "reference", routes, up.double())
    for name, one, other in zip(("out", "d_q", "d_k", "d_v"), got, expected, strict=True):
        assert one.dtype == dtype
        assert one.shape == other.shape
        # A single key leaves no gradient to q and k but rounding.
        norm = other.norm().item()
        if norm > 1e-9:
            assert relative(one, other) < most, name
        else:
            assert one.double().norm() < most, name
    again = values_and_gradients(*tensors, case, backend, routes, up)
    return got, again


@pytest.mark.parametrize("case", CASES)
def test_gather_is_dense_attention_under_the_mask(case):
    agree(case, torch.float64, "gather", "cpu", 1e-12)


@pytest.mark.skipif(CUDA, reason="runs on the real shapes there")
@pytest.mark.parametrize("case", CASES)
def test_triton_is_dense_attention_under_the_mask_and_the_same_in_every_run(case):
    got, again = agree(case, torch.float32, "triton", "cpu", 2e-6)
    assert all(torch.equal(one, other) for one, other in zip(got, again, strict=True))


@pytest.mark.gpu
@pytest.mark.parametrize("case", CASES + REAL)
@pytest.mark.parametrize(
    ("dtype", "most"), [(torch.float16, 3e-3), (torch.bfloat16, 2e-2), (torch.float32, 1e-5)], ids=str
)
def test_triton_on_a_gpu(case, dtype, most):
    got, again = agree(case, dtype, "triton", "cuda", most)
    assert all(torch.equal(one, other) for one, other in zip(got, again, strict=True))


@pytest.mark.parametrize("case", CASES[:3])
def test_the_published_formulation_computes_the_same(case):
    if case[3][0] % case[4][0] or case[3][1] % case[4][1]:
        pytest.skip("it has no mask for padding")
    q, k, v = maps(case)
    grid = Regions.of(*case[3], case[4])
    routes = route(q, k, case[4], case[5])
    scale = case[2] ** -0.5
    expected = reference.masked(q, k, v, routes, grid, case[1], scale)
    torch.testing.assert_close(reference.gathered(q, k, v, routes, grid, case[1], scale), expected)


@pytest.mark.parametrize("backend", ["reference", "gather", "triton"])
def test_all_regions_are_plain_attention(backend):
    case = (1, 2, 8, (6, 9), (2, 3), 99, False)
    q, k, v = maps(case, torch.float32, device="cuda" if CUDA else "cpu")
    out = bilevel_routing_attention(q, k, v, (2, 3), 99, heads=2, backend=backend, scale=0.3)
    torch.testing.assert_close(out, dense(q, k, v, 2, 0.3), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("backend", ["reference", "gather"])
def test_flipping_the_map_flips_the_output(backend):
    case = (2, 2, 4, (8, 12), (4, 3), 3, False)
    q, k, v = maps(case)
    for dim in (2, 3):
        out = bilevel_routing_attention(q, k, v, (4, 3), 3, heads=2, backend=backend)
        flipped = bilevel_routing_attention(*(x.flip(dim) for x in (q, k, v)), (4, 3), 3, heads=2, backend=backend)
        torch.testing.assert_close(flipped, out.flip(dim))


@pytest.mark.parametrize("backend", BACKENDS)
def test_what_lies_beyond_the_map_has_no_part_in_it(backend):
    """The map is a window in a larger one that is NaN around it, and its regions reach over its border."""
    device = "cuda" if CUDA else "cpu"
    case = (1, 1, 16, (7, 9), (2, 2), 2, False)
    inside = [x.detach().float().to(device) for x in maps(case)]
    windows = []
    for x in inside:
        whole = torch.full((1, 16, 20, 20), torch.nan, device=device)
        whole[:, :, 5:12, 5:14] = x
        windows.append(whole[:, :, 5:12, 5:14].requires_grad_())
    out, routes = bilevel_routing_attention(*windows, (2, 2), 2, backend=backend, return_routes=True)
    expected, other = bilevel_routing_attention(*inside, (2, 2), 2, backend="reference", return_routes=True)
    assert torch.equal(routes, other)
    torch.testing.assert_close(out, expected, rtol=1e-5, atol=1e-5)
    assert all(grad.isfinite().all() for grad in torch.autograd.grad(out.sum(), windows))


def test_official_padding_is_keys_of_zero():
    q, k, v = maps((1, 2, 4, (6, 7), (2, 2), 4, False))
    grid = Regions.of(6, 7, (2, 2))
    every = torch.arange(4).expand(1, 4, 4)
    out = reference.masked(q, k, v, every, grid, 2, 0.5, padding="official")
    expected = dense(*(F.pad(x, (0, 1)) for x in (q, k, v)), 2, 0.5)[..., :7]
    torch.testing.assert_close(out, expected)


def test_routes_are_the_largest_products_of_means_over_tokens_on_the_map():
    q, k, _ = maps((2, 1, 5, (7, 9), (2, 3), 2, False))
    q_means = torch.stack([x.mean((2, 3)) for row in q.split(4, 2) for x in row.split(3, 3)], 1)
    k_means = torch.stack([x.mean((2, 3)) for row in k.split(4, 2) for x in row.split(3, 3)], 1)
    expected = (q_means @ k_means.transpose(1, 2)).topk(2).indices
    assert torch.equal(route(q, k, (2, 3), 2), expected)
    assert torch.equal(route(q, k, (2, 3), 6), torch.arange(6).expand(2, 6, 6))


@pytest.mark.parametrize("backend", BACKENDS)
def test_of_equal_affinities_the_lower_number_wins(backend):
    device = "cuda" if CUDA else "cpu"
    q = torch.ones(1, 4, 6, 6, device=device)
    k = torch.ones(1, 4, 6, 6, device=device)
    k[:, :, 2:4, 2:4] = 2
    assert torch.equal(route(q, k, 3, 3, backend=backend).cpu(), torch.tensor([4, 0, 1]).expand(1, 9, 3))


@pytest.mark.parametrize("backend", BACKENDS)
def test_routes_stay_routes_whatever_the_numbers(backend):
    device = "cuda" if CUDA else "cpu"
    q = torch.full((1, 4, 6, 6), torch.nan, device=device)
    q[..., 3:] = -torch.inf
    for routes in (route(q, q, 3, 5, backend=backend), route(q, q.abs(), 3, 5, backend=backend)):
        assert all(len(set(row.tolist())) == 5 for row in routes[0])
        assert routes.min() >= 0
        assert routes.max() < 9


@pytest.mark.parametrize("backend", ["reference", *BACKENDS])
def test_the_choice_of_routes_has_no_gradient(backend):
    q, k, v = maps((1, 1, 4, (4, 4), (2, 2), 2, False), torch.float32, device="cuda" if CUDA else "cpu")
    out, routes = bilevel_routing_attention(q, k, v, 2, 2, backend=backend, return_routes=True)
    assert not routes.requires_grad
    given = bilevel_routing_attention(q, k, v, 2, 2, backend=backend, routes=routes)
    for got, expected in zip(
        torch.autograd.grad(out.sum(), (q, k)), torch.autograd.grad(given.sum(), (q, k)), strict=True
    ):
        torch.testing.assert_close(got, expected)


@pytest.mark.parametrize("backend", ["reference", "gather"])
def test_gradcheck(backend):
    q, k, v = maps((1, 2, 2, (3, 5), (2, 2), 2, False))
    routes = route(q, k, 2, 2)
    assert torch.autograd.gradcheck(
        lambda *x: bilevel_routing_attention(*x, 2, 2, heads=2, backend=backend, routes=routes), (q, k, v)
    )


def test_a_region_that_all_read_and_one_that_none_reads():
    """Readers are summed in pieces: 16 readers of region 0 at topk 1 are four pieces, and others have none."""
    device = "cuda" if CUDA else "cpu"
    case = (1, 1, 16, (8, 8), (4, 4), 1, True)
    exact = maps(case, device=device)
    routes = torch.zeros(1, 16, 1, dtype=torch.int64, device=device)
    routes[:, 3] = 7
    up = torch.randn_like(exact[0])
    got = values_and_gradients(
        *(x.detach().float().requires_grad_() for x in exact), case, "triton", routes, up.float()
    )
    expected = values_and_gradients(*exact, case, "reference", routes, up)
    for one, other in zip(got, expected, strict=True):
        torch.testing.assert_close(one.double(), other, rtol=1e-4, atol=1e-5)
    assert not got[2][:, :, 4:].any()


@pytest.mark.parametrize("backend", ["reference", *BACKENDS])
def test_large_logits_give_no_nan(backend):
    case = (1, 1, 16, (4, 6), (2, 2), 2, False)
    q, k, v = maps(case, torch.float32, device="cuda" if CUDA else "cpu", std=1e4)
    out = bilevel_routing_attention(q, k, v, 2, 2, backend=backend)
    assert out.isfinite().all()
    assert all(grad.isfinite().all() for grad in torch.autograd.grad(out.sum(), (q, k, v)))


@pytest.mark.parametrize("backend", BACKENDS)
def test_autocast_computes_in_its_own_dtype(backend):
    device = "cuda" if CUDA else "cpu"
    q, k, v = maps((1, 1, 16, (4, 6), (2, 2), 2, False), torch.float32, device=device)
    with torch.autocast(device, dtype=torch.bfloat16):
        out = bilevel_routing_attention(q, k.bfloat16(), v, 2, 2, backend=backend)
    assert out.dtype == torch.bfloat16
    grads = torch.autograd.grad(out.float().sum(), (q, v))
    assert all(grad.dtype == torch.float32 for grad in grads)


@pytest.mark.parametrize("backend", BACKENDS)
def test_inference_mode_and_maps_that_need_no_gradient(backend):
    device = "cuda" if CUDA else "cpu"
    q, k, v = maps((1, 1, 16, (4, 6), (2, 2), 2, False), torch.float32, device=device)
    expected = bilevel_routing_attention(q, k, v, 2, 2, backend="reference")
    with torch.inference_mode():
        torch.testing.assert_close(bilevel_routing_attention(q, k, v, 2, 2, backend=backend), expected)
    part = bilevel_routing_attention(q.detach(), k.detach(), v, 2, 2, backend=backend)
    torch.testing.assert_close(torch.autograd.grad(part.sum(), v), torch.autograd.grad(expected.sum(), v))


@pytest.mark.parametrize("backend", BACKENDS)
def test_compiles_whole(backend):
    device = "cuda" if CUDA else "cpu"
    q, k, v = maps((1, 2, 8, (6, 6), (2, 2), 2, True), torch.float32, device=device)

    def attend(q, k, v):
        return bilevel_routing_attention(q, k, v, 2, 2, heads=2, backend=backend) + 1

    out = torch.compile(attend, fullgraph=True, backend="aot_eager")(q, k, v)
    expected = attend(q, k, v)
    torch.testing.assert_close(out, expected)
    up = torch.randn_like(out)
    for got, want in zip(
        torch.autograd.grad(out, (q, k, v), up), torch.autograd.grad(expected, (q, k, v), up), strict=True
    ):
        torch.testing.assert_close(got, want)


class Attend(torch.nn.Module):
    def __init__(self, backend):
        super().__init__()
        self.backend = backend

    def forward(self, q, k, v):
        return bilevel_routing_attention(q, k, v, (2, 3), 2, heads=2, backend=self.backend)


@pytest.mark.parametrize("backend", BACKENDS)
def test_exports(backend):
    device = "cuda" if CUDA else "cpu"
    tensors = [x.detach() for x in maps((1, 2, 8, (5, 7), (2, 3), 2, False), torch.float32, device=device)]
    module = Attend(backend)
    exported = torch.export.export(module, tuple(tensors))
    torch.testing.assert_close(exported.module()(*tensors), module(*tensors))


def test_traces_to_the_same_numbers():
    tensors = [x.detach() for x in maps((2, 2, 8, (5, 7), (2, 3), 2, False), torch.float32)]
    traced = torch.jit.trace(Attend("auto"), tuple(tensors))
    others = [x.detach() for x in maps((2, 2, 8, (5, 7), (2, 3), 2, False), torch.float32, seed=1)]
    torch.testing.assert_close(traced(*others), Attend("reference")(*others))


@pytest.mark.skipif(not CUDA and not interpreting(), reason="needs Triton")
def test_operators_are_registered_as_pytorch_expects():
    from palyno.kernels.attention.routing.operators import region_routes, routed_attention

    device = "cuda" if CUDA else "cpu"
    case = (1, 2, 8, (5, 4), (2, 2), 2, False)
    q, k, v = maps(case, torch.float32, device=device)
    region = [2, 2, 3, 2]
    torch.library.opcheck(region_routes.overload, (q.detach(), k.detach(), region, 2))
    routes = region_routes(q.detach(), k.detach(), region, 2)
    torch.library.opcheck(routed_attention.overload, (q, k, v, routes, region, 2, 0.3))


def test_the_environment_decides_where_the_caller_does_not(monkeypatch):
    q, k, v = maps((1, 1, 4, (4, 4), (2, 2), 2, False))
    monkeypatch.setenv("PALYNO_ROUTING", "nonsense")
    with pytest.raises(UsageError, match="PALYNO_ROUTING: expected auto, triton, gather, reference; got 'nonsense'"):
        bilevel_routing_attention(q, k, v, 2, 2)
    bilevel_routing_attention(q, k, v, 2, 2, backend="gather")


Q = torch.zeros(1, 8, 6, 6)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"topk": 0}, "topk: expected a whole number of at least 1, got 0"),
        ({"topk": 1.5}, "topk: expected a whole number"),
        ({"regions": 7}, "regions: expected between 1 and the map's 6 x 6 tokens, got 7 x 7; a region needs a token"),
        ({"regions": (1, 0)}, "regions: expected between 1 and"),
        ({"regions": (1, 2, 3)}, r"regions: expected a whole number or a pair \(rows, columns\), got \(1, 2, 3\)"),
        ({"regions": 2.0}, "regions: expected a whole number"),
        ({"heads": 3}, "heads: expected a divisor of the 8 channels, got 3"),
        ({"k": Q[:, :4]}, r"k: expected \(1, 8, 6, 6\) like q, got \(1, 4, 6, 6\)"),
        ({"v": Q.double()}, "v: expected torch.float32 like q, got torch.float64"),
        ({"q": Q[0]}, r"q: expected a non-empty \(B, heads \* d, H, W\), got \(8, 6, 6\)"),
        ({"q": Q.int()}, "q: expected floating point, got torch.int32"),
        ({"backend": "cudnn"}, "backend: expected auto, triton, gather, reference; got 'cudnn'"),
        (
            {"routes": torch.zeros(1, 4, 5).long()},
            r"routes: expected \(1, 4\) \+ \(between 1 and 4,\), got \(1, 4, 5\)",
        ),
        ({"routes": torch.zeros(1, 4, 2)}, "routes: expected int64"),
        ({"routes": torch.full((1, 4, 2), 4)}, "routes: expected numbers from 0 to 3, got 4 to 4"),
    ],
)
def test_what_cannot_be_meant_is_refused(change, message):
    given = {"q": Q, "k": Q, "v": Q, "regions": 2, "topk": 2, "heads": 2} | change
    with pytest.raises(UsageError, match=message):
        bilevel_routing_attention(**given)


def test_what_the_kernels_cannot_take_is_refused_if_asked_for_and_computed_otherwise():
    wide = torch.randn(1, 129, 4, 4)
    with pytest.raises(UsageError, match=r"backend 'triton' expected .*; use 'gather' or 'auto'"):
        bilevel_routing_attention(wide, wide, wide, 2, 2, backend="triton")
    torch.testing.assert_close(bilevel_routing_attention(wide, wide, wide, 2, 4), dense(wide, wide, wide, 1))


@pytest.mark.parametrize(
    ("height", "width", "regions", "expected"),
    [
        (160, 160, 20, Regions(20, 20, 8, 8)),
        (160, 160, 7, Regions(7, 7, 23, 23)),
        (17, 9, (16, 2), Regions(9, 2, 2, 5)),
        (5, 5, 1, Regions(1, 1, 5, 5)),
    ],
)
def test_no_region_is_empty(height, width, regions, expected):
    assert Regions.of(height, width, regions) == expected
