"""OmniKernel: the cheap form against the published one, written out literally here."""

import pytest
import torch
import torch.nn.functional as F
from palyno import UsageError
from palyno.vision.blocks import CSPOKM, OmniKernel


def published(block: OmniKernel, x: torch.Tensor) -> torch.Tensor:
    """The published form with the block's weights: four convolutions, transforms in both domain gates."""
    channels, kernel = x.shape[1], block.large.kernel
    u = F.gelu(block.enter[0](x))
    row, column, square, point = block.large.branches
    half = kernel // 2
    large = (
        F.conv2d(u, row.weight, row.bias, padding=(0, half), groups=channels)
        + F.conv2d(u, column.weight, column.bias, padding=(half, 0), groups=channels)
        + F.conv2d(u, square.weight, square.bias, padding=half, groups=channels)
        + F.conv2d(u, point.weight, point.bias, groups=channels)
    )
    gate = block.gate
    a1 = gate.spectral(F.adaptive_avg_pool2d(u, 1))
    f = torch.fft.ifft2(a1 * torch.fft.fft2(u, norm="backward"), norm="backward").abs()
    s = gate.spatial(F.adaptive_avg_pool2d(f, 1)) * f
    g = torch.fft.ifft2(gate.p(s) * torch.fft.fft2(gate.q(s), norm="backward"), norm="backward").abs()
    g = g * gate.alpha + s * gate.beta
    return block.leave(F.relu(x + large + g))


def omni(channels=6, kernel=31, **options) -> OmniKernel:
    torch.manual_seed(0)
    block = OmniKernel(channels, kernel, **options)
    if block.gate is not None:  # At its start the spectral gate is off, and the others are faint.
        for name, parameter in block.gate.named_parameters():
            if name in ("alpha", "beta", "spectral.bias", "spatial.bias"):
                torch.nn.init.normal_(parameter)
    return block


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-12)])
@pytest.mark.parametrize("size", [(40, 40), (17, 23), (5, 64)])
def test_values_and_gradients_are_those_of_the_published_form(dtype, tolerance, size):
    block = omni().to(dtype)
    x = torch.randn(2, 6, *size, dtype=dtype, requires_grad=True)
    y, expected = block(x), published(block, x)
    assert (y - expected).abs().max() < tolerance * expected.abs().max()
    with torch.no_grad():
        alpha = block.gate.alpha.clone()
        block.gate.alpha.zero_()
        assert (block(x) - y).abs().max() > 0.01 * y.abs().max(), (
            "the spectral gate must count for this test to mean much"
        )
        block.gate.alpha.copy_(alpha)
    y, expected = block(x), published(block, x)
    inputs = (x, *block.parameters())
    up = torch.randn_like(y)
    grads = torch.autograd.grad(y, inputs, up), torch.autograd.grad(expected, inputs, up)
    for got, want in zip(*grads, strict=True):
        assert (got - want).abs().max() <= 10 * tolerance * want.abs().max().clamp(min=1)


def test_the_gate_of_channels_is_the_published_one_without_its_transform():
    block, whole = omni(gate="channel").double(), omni().double()
    with torch.no_grad():
        whole.gate.alpha.zero_()
    whole.load_state_dict(block.state_dict(), strict=False)
    x = torch.randn(2, 6, 17, 23, dtype=torch.float64)
    expected = published(whole, x)
    torch.testing.assert_close(block(x), expected, rtol=0, atol=1e-12)
    with torch.no_grad():
        torch.testing.assert_close(block.eval()(x), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("kernel", [1, 3, 31])
def test_merging_keeps_the_function_and_leaves_one_kernel(kernel):
    block = omni(kernel=kernel).double().eval()
    x = torch.randn(1, 6, 33, 21, dtype=torch.float64)
    with torch.no_grad():
        before = block(x)
        block.large.merge()
        block.large.merge()
        torch.testing.assert_close(block(x), before, rtol=0, atol=1e-13)
    assert {name: tuple(p.shape) for name, p in block.large.named_parameters()} == {
        "weight": (6, 1, kernel, kernel),
        "bias": (6,),
    }


def test_parameters_are_the_published_ones_without_the_unused_convolution():
    # 122,880 in the published code at 80 channels; its FGM holds a 3x3 depthwise convolution, 80 -> 160, never called.
    assert sum(p.numel() for p in OmniKernel(80).parameters()) == 122_880 - 1_600
    assert sum(p.numel() for p in CSPOKM(320).parameters()) == 328_960 - 1_600


def test_every_parameter_is_trained():
    block = CSPOKM(16)
    torch.nn.init.normal_(block.omni.gate.alpha)
    block(torch.randn(2, 16, 8, 8)).square().sum().backward()
    assert [name for name, p in block.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0] == []


def test_the_slope_is_finite_where_the_spectrum_is_zero():
    block = omni(4)
    x = torch.zeros(1, 4, 8, 8, requires_grad=True)
    with torch.no_grad():
        block.enter[0].bias.zero_()
    block(x).sum().backward()
    assert torch.isfinite(x.grad).all()
    assert all(torch.isfinite(p.grad).all() for p in block.parameters())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("autocast", [True, False])
def test_half_precision_runs_by_autocast_and_by_cast_weights(dtype, autocast):
    block, x = omni().eval(), torch.randn(1, 6, 40, 40)
    with torch.no_grad():
        expected = block(x)
        with torch.autocast("cpu", dtype=dtype, enabled=autocast):
            y = block(x) if autocast else block.to(dtype)(x.to(dtype))
    error = (y.float() - expected).norm() / expected.norm()
    assert y.dtype == dtype
    assert error < (0.002 if dtype == torch.float16 else 0.02)


@pytest.mark.parametrize("channels", [4, 6, 18, 130])
def test_any_number_of_channels_can_be_split(channels):
    x = torch.randn(1, channels, 7, 7)
    assert CSPOKM(channels).eval()(x).shape == x.shape


def shifted_error(block: torch.nn.Module) -> float:
    """Largest difference between moving the input and moving the output, away from borders, by the output's spread."""
    torch.manual_seed(1)
    x = torch.zeros(1, 8, 64, 80)
    x[..., 20:44, 20:44] = 5 * torch.rand(1, 8, 24, 24)
    moved = x.roll(16, -1)
    with torch.no_grad():
        a, b = block(x), block(moved)
    # 15 pixels of context: columns that see the same surroundings before and after.
    return float((a[..., 16:48] - b[..., 32:64]).abs().max() / a.std())


def test_without_the_published_gate_the_block_moves_with_the_picture():
    for gate in ("none", "channel"):
        assert shifted_error(omni(8, gate=gate).eval()) < 1e-5
    block = omni(8).eval()
    for layer in (block.gate.p, block.gate.q):
        torch.nn.init.normal_(layer.weight)
    assert shifted_error(block) > 0.1


def test_unknown_options_are_refused():
    with pytest.raises(UsageError, match=r"gate: expected one of published, channel, none; got 'sigmoid'"):
        OmniKernel(4, gate="sigmoid")
    with pytest.raises(UsageError, match="kernel: expected an odd number, got 30"):
        OmniKernel(4, kernel=30)
    with pytest.raises(UsageError, match="ratio: expected a share of 3 channels"):
        CSPOKM(3)


def test_joined_maps_can_be_narrowed_before_they_are_worked_on():
    block = CSPOKM(20, kernel=7, gate="none", c_out=8).eval()
    x = torch.rand(1, 20, 9, 11)
    y = block.before(x)
    expected = block.after(torch.cat((block.omni(y[:, :2]), y[:, 2:]), 1))
    assert expected.shape == (1, 8, 9, 11)
    torch.testing.assert_close(block(x), expected)
