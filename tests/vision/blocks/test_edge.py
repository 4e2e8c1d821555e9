"""HEM: a real edge map, in every orientation, that stays a constant; and the published zero map beside it."""

import math

import pytest
import torch
import torch.nn.functional as F
from palyno import UsageError
from palyno.vision.blocks import HEM, SobelMagnitude, SobelReference


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
    with pytest.raises(UsageError, match=r"edge: expected one of magnitude, reference, none; got 'sobel'"):
        HEM(4, (8, 8, 8), "sobel")
    with pytest.raises(UsageError, match="widths: expected three"):
        HEM(4, (8, 8))
