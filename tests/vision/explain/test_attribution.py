"""Attribution methods against closed forms, other implementations, and the axioms that they are built on."""

import pytest
import torch
from palyno import UsageError
from palyno.vision.explain.attribution import eigen_cam, grad_cam, integrated_gradients

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def features():
    torch.manual_seed(0)
    return torch.randn(6, 9, 11).relu()


def test_gradcam_of_a_linear_layer_on_pooled_maps_is_the_class_activation_map(features):
    """Zhou et al. 2016: there the weights of a class are the map's; pooling divides the gradient by the positions."""
    weight = torch.randn(4, 6)
    maps = features.requires_grad_(True)
    score = (weight @ maps.mean((1, 2)))[2]
    (slope,) = torch.autograd.grad(score, maps)
    expected = torch.einsum("c,chw->hw", weight[2], features).clamp(min=0) / (9 * 11)
    assert torch.allclose(grad_cam(maps.detach(), slope), expected, atol=1e-6)
    assert (grad_cam(maps.detach(), -slope) * expected == 0).all()


def test_eigencam_is_the_first_singular_component_and_its_sum_is_positive(features):
    for sign in (1, -1):
        maps = sign * features
        u, s, _ = torch.linalg.svd(maps.flatten(1).T, full_matrices=False)
        expected = (u[:, 0] * s[0]).reshape(9, 11)
        expected = expected if expected.sum() > 0 else -expected
        assert torch.allclose(eigen_cam(maps), expected, atol=1e-4)
        assert eigen_cam(maps).sum() > 0


def test_eigencam_of_maps_of_one_pattern_is_the_pattern():
    pattern = torch.rand(5, 7)
    maps = torch.tensor([0.5, -2.0, 1.0])[:, None, None] * pattern
    found = eigen_cam(maps)
    assert torch.allclose(found / found.max(), pattern / pattern.max(), atol=1e-5)


def test_gradients_of_a_linear_score_are_integrated_in_one_step():
    torch.manual_seed(1)
    weight, x, baseline = torch.randn(3, 8, 8), torch.rand(3, 8, 8), torch.rand(3, 8, 8)
    made = integrated_gradients(lambda b: (b * weight).sum((1, 2, 3)), x, baseline, steps=1)
    assert torch.allclose(made.values, (x - baseline) * weight, atol=1e-6)
    assert made.steps == 1


def test_the_closed_form_of_a_product():
    """f = x1 x2 from 0 to (a, b): each input gets a b / 2."""
    made = integrated_gradients(lambda b: b[:, 0] * b[:, 1], torch.tensor([3.0, 5.0]), torch.zeros(2), steps=1)
    assert made.values.tolist() == pytest.approx([7.5, 7.5])
    assert made.difference == pytest.approx(15)


@pytest.mark.parametrize("batch", [1, 5])
def test_values_sum_up_to_the_difference_and_batches_do_not_matter(batch):
    torch.manual_seed(2)
    net = torch.nn.Sequential(
        torch.nn.Conv2d(3, 8, 3), torch.nn.SiLU(), torch.nn.Conv2d(8, 1, 3), torch.nn.Flatten(), torch.nn.Linear(144, 1)
    )
    x, baseline = torch.rand(3, 16, 16) * 4, torch.zeros(3, 16, 16)

    def score(b):
        return net(b)[:, 0] ** 3

    made = integrated_gradients(score, x, baseline, tolerance=0.01, steps=2, batch=batch)
    assert float(made.values.sum()) == pytest.approx(made.difference, rel=0.0101)
    with torch.no_grad():
        assert made.difference == pytest.approx(float(score(x[None]) - score(baseline[None])), rel=1e-4)
    assert made.steps > 2
    # An input on which the score does not depend gets nothing (the paper's axiom of sensitivity, b).
    blind = integrated_gradients(lambda b: score(torch.cat((b[:, :2], 0 * b[:, 2:]), 1)), x, baseline)
    assert (blind.values[2] == 0).all()


def test_steps_go_where_the_score_changes():
    """All of the change within a hundredth of the way: equal steps that saw it as well would be some 400."""
    made = integrated_gradients(lambda b: torch.sigmoid(1000 * (b - 0.37)).sum(1), torch.ones(1), torch.zeros(1))
    assert made.error <= 0.05
    assert made.steps < 64
    equal = torch.linspace(0, 1, 65)
    slope = 1000 * torch.sigmoid(1000 * (equal - 0.37)) * torch.sigmoid(-1000 * (equal - 0.37))
    assert abs(float(torch.trapezoid(slope, equal)) - 1) > 0.05


def test_a_path_that_stays_inexact_ends():
    """A step function: half of the nodes see no slope, whatever their number."""
    made = integrated_gradients(lambda b: torch.tanh(1e6 * (b - 0.37)).sum(1), torch.ones(1), torch.zeros(1), most=32)
    assert made.steps == 32
    assert made.error > 0.05


@pytest.mark.parametrize("dims", [(1,), (2,), (1, 2)])
def test_maps_turn_with_the_picture_where_the_network_does(dims):
    """Kernels that are their own mirror images."""
    torch.manual_seed(3)
    conv = torch.nn.Conv2d(3, 5, 3, padding=1)
    with torch.no_grad():
        conv.weight += conv.weight.flip(2).clone()
        conv.weight += conv.weight.flip(3).clone()
    head = torch.randn(5)

    def all_maps(image):
        x = image.clone().requires_grad_(True)
        maps = conv(x[None])[0].relu()
        (slope,) = torch.autograd.grad((head @ maps.mean((1, 2))), maps)
        made = integrated_gradients(
            lambda b: torch.einsum("c,bc->b", head, conv(b).relu().mean((2, 3))), image, torch.zeros_like(image)
        )
        return grad_cam(maps.detach(), slope), eigen_cam(maps.detach()), made.values.sum(0)

    image = torch.rand(3, 12, 14)
    for straight, turned in zip(all_maps(image), all_maps(image.flip(dims)), strict=True):
        assert torch.allclose(turned, straight.flip([d - 1 for d in dims]), atol=1e-5)


def test_what_cannot_be_meant_is_refused():
    with pytest.raises(UsageError, match=r"baseline: expected the shape of the input, \(3,\); got \(2,\)"):
        integrated_gradients(lambda b: b.sum(1), torch.zeros(3), torch.zeros(2))
    with pytest.raises(UsageError, match="steps: expected from 1 to 128; got 0"):
        integrated_gradients(lambda b: b.sum(1), torch.zeros(3), torch.zeros(3), steps=0)
