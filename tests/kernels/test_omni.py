"""The omni-kernel block: the fused form against the published steps."""

import pytest
import torch
from palyno import UsageError
from palyno.kernels import omni
from palyno.kernels.omni_kernel import Gate

CHANNELS, KERNEL = 6, 13


def block(dtype=torch.float64, alpha=True, gated=True, device="cpu", channels=CHANNELS, kernel=KERNEL):
    generator = torch.Generator().manual_seed(0)

    def random(*shape, scale=1.0):
        return (scale * torch.randn(shape, generator=generator, dtype=torch.float64)).to(device, dtype)

    def affine():
        return random(channels, channels, 1, 1, scale=channels**-0.5), random(channels)

    large = random(channels, 1, kernel, kernel, scale=1 / kernel), random(channels)
    enter, leave = affine(), affine()
    if not gated:
        return enter, large, leave, None
    pairs = {name: affine() for name in ("spectral", "spatial", "p", "q")}
    extra = random(channels, 1, 1, scale=0.1) if alpha else None
    return enter, large, leave, Gate(**pairs, alpha=extra, beta=random(channels, 1, 1))


def picture(dtype=torch.float64, size=(19, 23), device="cpu", channels=CHANNELS):
    return torch.randn(2, channels, *size, generator=torch.Generator().manual_seed(1), dtype=torch.float64).to(
        device, dtype
    )


@pytest.mark.parametrize(("gated", "alpha"), [(True, True), (True, False), (False, False)])
def test_the_fused_form_is_the_published_one(gated, alpha):
    for dtype, tolerance in ((torch.float64, 1e-12), (torch.float32, 1e-5)):
        parts = block(dtype, alpha, gated)
        x = picture(dtype)
        y, expected = (omni(x, *parts, backend=backend) for backend in ("fused", "reference"))
        assert (y - expected).norm() < tolerance * expected.norm()


def test_gradients_are_those_of_the_published_form():
    parts, x = block(), picture().requires_grad_()
    got, want = (torch.autograd.grad(omni(x, *parts, backend=b).square().sum(), x)[0] for b in ("fused", "reference"))
    torch.testing.assert_close(got, want)


def test_alpha_of_none_is_alpha_of_zero():
    enter, large, leave, gate = block(alpha=False)
    zero = gate._replace(alpha=torch.zeros(CHANNELS, 1, 1, dtype=torch.float64))
    x = picture()
    torch.testing.assert_close(omni(x, enter, large, leave, gate), omni(x, enter, large, leave, zero))


def test_what_cannot_be_is_refused():
    enter, large, leave, gate = block()
    x = picture()
    with pytest.raises(UsageError, match=r"enter: expected weight \(6, 6, 1, 1\)"):
        omni(x, large, large, leave)
    with pytest.raises(UsageError, match=r"large: expected weight \(6, 1, kh, kw\)"):
        omni(x, enter, enter, leave)
    with pytest.raises(UsageError, match="gate: expected p and q beside alpha, got none"):
        omni(x, enter, large, leave, gate._replace(p=None, q=None, alpha=gate.beta))
    with pytest.raises(UsageError, match="backend: expected auto, reference, fused; got 'fast'"):
        omni(x, enter, large, leave, gate, backend="fast")
    with pytest.raises(UsageError, match=r"x: expected a non-empty floating \(B, C, H, W\)"):
        omni(x[0], enter, large, leave)


@pytest.mark.gpu
@pytest.mark.parametrize(("gated", "alpha"), [(True, True), (True, False), (False, False)])
@pytest.mark.parametrize(("dtype", "bound"), [(torch.float16, 1e-3), (torch.bfloat16, 1e-2), (torch.float32, 1e-5)])
def test_on_the_gpu_it_is_the_plain_form_in_double(gated, alpha, dtype, bound):
    size = {"channels": 80, "kernel": 31}
    x = picture(torch.float64, (80, 80), "cuda", 80).to(dtype)
    parts = block(dtype, alpha, gated, "cuda", **size)

    def wide(value):
        if isinstance(value, torch.Tensor):
            return value.double()
        if isinstance(value, Gate):
            return Gate(*(wide(v) for v in value))
        return tuple(wide(v) for v in value) if isinstance(value, tuple) else value

    expected = omni(x.double(), *(wide(part) for part in parts), backend="reference")
    before = torch.backends.cudnn.allow_tf32
    try:
        torch.backends.cudnn.allow_tf32 = False
        y = omni(x, *parts, backend="fused")
    finally:
        torch.backends.cudnn.allow_tf32 = before
    assert (y.double() - expected).norm() < bound * expected.norm()
