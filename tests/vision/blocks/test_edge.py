"""HEM: a real edge map, in every orientation, that stays a constant; and the published zero map beside it."""

import math

import pytest
import torch
import torch.nn.functional as F
from palyno import UsageError
from palyno.vision.blocks import HEM, SobelMagnitude, SobelReference
from palyno.vision.blocks.edge import FilterMagnitude


def step_edge(degrees: float, side: int = 41, softness: float = 1.5) -> torch.Tensor:
    """A step from 0 to 1 across the middle, its normal at the given angle."""
    y, x = torch.meshgrid(*[torch.arange(side, dtype=torch.float64) - side // 2] * 2, indexing="ij")
    angle = math.radians(degrees)
    return torch.sigmoid((x * math.cos(angle) + y * math.sin(angle)) / softness)[None, None]


def published_sobel(x: torch.Tensor) -> torch.Tensor:
    """The published computation, literally: Conv3d with padding 1 on one depth slice; its first slice."""
    kernel = torch.tensor([[1.0, 0, -1], [2, 0, -2], [1, 0, -1]], dtype=x.dtype)
    maps = [
        F.conv3d(x[:, :, None], k.expand(x.shape[1], 1, 1, 3, 3), padding=1, groups=x.shape[1])[:, :, 0]
        for k in (kernel, kernel.T)
    ]
    return maps[0] + maps[1]


@pytest.mark.parametrize("degrees", range(0, 360, 15))
def test_the_magnitude_answers_a_step_of_any_orientation_alike(degrees):
    response = SobelMagnitude()(step_edge(degrees))[0, 0, 20, 20]
    upright = SobelMagnitude()(step_edge(0))[0, 0, 20, 20]
    assert response == pytest.approx(float(upright), rel=0.03)


@pytest.mark.parametrize(("degrees", "share"), [(45, 1.0), (135, 0.0), (225, 1.0), (315, 0.0)])
def test_the_sum_of_both_gradients_is_blind_to_two_orientations(degrees, share):
    sobel = SobelMagnitude()
    image = F.pad(step_edge(degrees), (1, 1, 1, 1), mode="replicate")
    summed = F.conv2d(image, sobel.kernel.double().sum(0, keepdim=True))[0, 0, 20, 20].abs()
    strongest = F.conv2d(
        F.pad(step_edge(45), (1, 1, 1, 1), mode="replicate"), sobel.kernel.double().sum(0, keepdim=True)
    )
    assert summed / strongest[0, 0, 20, 20].abs() == pytest.approx(share, abs=1e-6)


def test_a_ramp_of_one_a_pixel_has_magnitude_one():
    ramp = torch.arange(12.0).expand(1, 2, 12, 12).clone()
    torch.testing.assert_close(SobelMagnitude()(ramp)[..., 1:-1], torch.ones(1, 2, 12, 10))


def test_a_flat_picture_has_no_edge_even_at_its_border_and_a_finite_slope():
    x = torch.full((1, 3, 9, 9), 5.0, requires_grad=True)
    edges = SobelMagnitude()(x)
    assert edges.max() <= 1e-3 + 1e-7
    edges.sum().backward()
    assert torch.equal(x.grad, torch.zeros_like(x))


def test_channels_do_not_mix():
    x = torch.rand(2, 4, 11, 13)
    whole = SobelMagnitude()(x)
    for channel in range(4):
        torch.testing.assert_close(whole[:, channel : channel + 1], SobelMagnitude()(x[:, channel : channel + 1]))


def test_the_kernel_is_a_constant():
    sobel = SobelMagnitude()
    assert list(sobel.parameters()) == []
    assert not sobel.kernel.requires_grad
    before = sobel.kernel.clone()
    assert torch.equal(sobel.half().float().kernel, before)
    assert sorted(set((before * 8).flatten().tolist())) == [-2, -1, 0, 1, 2]


def test_half_precision_does_not_overflow_on_strong_edges():
    x = torch.zeros(1, 1, 8, 8, dtype=torch.float16)
    x[..., 4:] = 180
    assert torch.isfinite(SobelMagnitude().half()(x)).all()


def test_the_reference_map_is_the_published_one_zero_in_value_and_slope():
    x = (torch.randn(2, 3, 17, 12, dtype=torch.float64) * 100).requires_grad_()
    published = published_sobel(x)
    assert torch.equal(published, torch.zeros_like(x))
    assert torch.equal(SobelReference()(x), published)
    (slope,) = torch.autograd.grad(published.sum(), x)
    assert torch.equal(slope, torch.zeros_like(x))
    assert not SobelReference()(x).requires_grad


@pytest.mark.parametrize("edge", ["magnitude", "reference", "none"])
@pytest.mark.parametrize("size", [(32, 32), (37, 53), (9, 64), (1, 1)])
def test_maps_have_the_sizes_of_stride_2_convolutions(edge, size):
    maps = HEM(4, (8, 16, 24), edge).eval()(torch.rand(2, 4, *size))
    x = torch.rand(2, 1, *size)
    for made, channels in zip(maps, (8, 16, 24), strict=True):
        x = F.conv2d(x, torch.ones(1, 1, 3, 3), stride=2, padding=1)
        assert made.shape == (2, channels, *x.shape[-2:])


@pytest.mark.parametrize(("edge", "varies"), [("magnitude", True), ("reference", False), ("none", False)])
def test_only_the_magnitude_depends_on_the_picture(edge, varies):
    hem = HEM(4, (8, 8, 8), edge)
    for a, b in zip(hem(torch.rand(2, 4, 32, 32)), hem(torch.rand(2, 4, 32, 32)), strict=True):
        assert bool((a != b).any()) is varies


def test_unknown_options_name_the_known():
    with pytest.raises(UsageError, match=r"edge: expected one of magnitude, .*, none; got 'sobel'"):
        HEM(4, (8, 8, 8), "sobel")
    with pytest.raises(UsageError, match="widths: expected three"):
        HEM(4, (8, 8))


@pytest.mark.parametrize("kind", ["scharr", "log", "learned"])
def test_other_edges_answer_their_filters_written_out(kind):
    torch.manual_seed(0)
    x = torch.rand(2, 3, 15, 18, dtype=torch.float64)
    edges = FilterMagnitude(3, kind).requires_grad_(False)
    pairs = {
        "scharr": [[[-3, 0, 3], [-10, 0, 10], [-3, 0, 3]], [[-3, -10, -3], [0, 0, 0], [3, 10, 3]]],
        "learned": [[[-1, 0, 1], [-2, 0, 2], [-1, 0, 1]], [[-1, -2, -1], [0, 0, 0], [1, 2, 1]]],
    }
    if kind == "log":
        r2 = torch.tensor([[float(i * i + j * j) for j in range(-3, 4)] for i in range(-3, 4)], dtype=torch.float64)
        filters = ((r2 - 2) * torch.exp(-r2 / 2) / (2 * math.pi))[None]
        filters = filters - filters.mean()
    else:
        filters = torch.tensor(pairs[kind], dtype=torch.float64) / (32 if kind == "scharr" else 8)
    margin = filters.shape[-1] // 2
    padded = F.pad(x, (margin,) * 4, mode="replicate")
    squares = sum(F.conv2d(padded, f.expand(3, 1, *f.shape), groups=3).square() for f in filters)
    torch.testing.assert_close(edges(x), (squares + 1e-6).sqrt(), rtol=1e-5, atol=1e-6)
    for level, step in zip(edges.pyramid(x), (2, 4, 8), strict=True):
        pooled = F.max_pool2d((squares + 1e-6).sqrt(), step, step, ceil_mode=True)
        torch.testing.assert_close(level, pooled, rtol=1e-5, atol=1e-6)


def test_learned_edges_start_as_sobels_and_alone_can_be_trained():
    x = torch.rand(1, 4, 12, 12)
    torch.testing.assert_close(FilterMagnitude(4, "learned")(x).detach(), SobelMagnitude()(x))
    assert [len(list(FilterMagnitude(4, kind).parameters())) for kind in ("scharr", "log", "learned")] == [0, 0, 1]


@pytest.mark.parametrize("kind", ["scharr", "learned"])
@pytest.mark.parametrize("degrees", range(0, 180, 15))
def test_other_pairs_answer_every_orientation_alike(kind, degrees):
    edges = FilterMagnitude(1, kind).double().requires_grad_(False)
    upright = edges(step_edge(0))[0, 0, 20, 20]
    assert edges(step_edge(degrees))[0, 0, 20, 20] == pytest.approx(float(upright), rel=0.03)


def test_a_laplacian_does_not_answer_a_slope():
    ramp = torch.arange(20.0).expand(1, 1, 20, 20).clone()
    assert FilterMagnitude(1, "log")(ramp)[..., 4:-4, 4:-4].max() < 2e-3
    assert FilterMagnitude(1, "log").double()(step_edge(30))[0, 0].max() > 0.05


def test_edges_of_mixtures_are_those_of_the_mixed_map():
    torch.manual_seed(0)
    hem = HEM(6, (4, 5, 7), mixtures=3).eval()
    x = torch.rand(2, 6, 32, 40)
    mixed = torch.einsum("mc,bchw->bmhw", hem.mix.weight[:, :, 0, 0], x)
    expected = [project(e) for project, e in zip(hem.project, SobelMagnitude().pyramid(mixed), strict=True)]
    for made, wanted in zip(hem(x), expected, strict=True):
        torch.testing.assert_close(made, wanted)
    assert [m.shape[1] for m in hem(x)] == [4, 5, 7]
