"""What light does: nothing where it is asked for nothing, and in density where it changes."""

import pytest
import torch
from palyno.vision.feed.light import Light, _blur, vary

NONE = Light(stain=0, density=0, balance=0, brightness=0, contrast=0, grey=0, blur=0, noise=0)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def images(n=8):
    return torch.rand(n, 3, 24, 40, generator=generator(1)) * 0.9 + 0.05


def test_nothing_changes_nothing():
    torch.testing.assert_close(vary(images(), NONE, generator()), images(), atol=1e-6, rtol=0)


def test_density_is_scaled_for_half_of_the_images():
    x = images(200)
    y = vary(x, Light(stain=0, density=0.2, balance=0, brightness=0, contrast=0, grey=0, blur=0, noise=0), generator())
    ratio = (y.log() / x.log()).flatten(1)
    assert (ratio.std(1) < 1e-3).all()
    factors = ratio.mean(1)
    changed = (factors - 1).abs() > 1e-4
    assert 70 < changed.sum() < 130
    assert factors[changed].log().std() == pytest.approx(0.2, rel=0.2)


def test_grey_images_have_one_channel():
    y = vary(images(), Light(**{**vars(NONE), "grey": 1.0}), generator())
    assert (y.amax(1) - y.amin(1)).max() < 1e-6
    expected = (images() * torch.tensor([0.299, 0.587, 0.114])[:, None, None]).sum(1)
    torch.testing.assert_close(y[:, 0], expected, atol=1e-5, rtol=0)


def test_blur_is_that_of_torchvision():
    from torchvision.transforms.functional import gaussian_blur

    x, sigmas = images(3), torch.tensor([0.4, 1.5, 3.0])
    for y, source, sigma in zip(_blur(x, sigmas), x, sigmas.tolist(), strict=True):
        torch.testing.assert_close(y, gaussian_blur(source, [19, 19], [sigma, sigma]), atol=1e-5, rtol=0)


def test_light_can_vary_more_less_or_not_at_all():
    x = images(64)
    change = [(vary(x, Light(noise=0).times(factor), generator()) - x).abs().mean().item() for factor in (0, 0.5, 1, 2)]
    assert change[0] < 1e-6
    assert change == sorted(change)
    assert Light().times(1) == Light()
    assert Light().times(2).grey == 2 * Light().grey


def test_all_of_it_stays_in_range_and_can_be_repeated():
    x = images(64)
    first, again, other = (vary(x, Light(noise=0), generator(seed)) for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    noisy = vary(x, Light(), generator())
    assert noisy.min() >= 0
    assert noisy.max() <= 1
    assert torch.isfinite(noisy).all()
