"""The cross-entropy of names against one written out grain by grain, and where it must change nothing."""

import copy

import pytest
import torch
from palyno.errors import UsageError
from palyno.vision.models.detection import build
from palyno.vision.models.loss import NamingLoss, criterion
from ultralytics.utils import DEFAULT_CFG
from ultralytics.utils.loss import E2ELoss, v8DetectionLoss

CLASSES = 7


def network(name="hieraedge-n", **options):
    torch.manual_seed(1)
    model = build(name, classes=CLASSES, **options).train()
    model.args = DEFAULT_CFG
    return model


def losses(weight, batch, name="hieraedge-n"):
    model = network(name, naming_loss=weight)
    torch.manual_seed(2)
    predictions = model(batch["img"])
    return model, predictions, criterion(model)(predictions, batch)[0]


def test_what_is_added_is_the_cross_entropy_of_the_grains_names(batch):
    model, predictions, plain = losses(0.0, batch)
    _, _, named = losses(2.0, batch)
    (answers, grain, *_), _, _ = v8DetectionLoss(model).get_assigned_targets_and_loss(predictions, batch)
    names = [[3, 1], [], [0, 4, 2]]
    each = [
        -predictions["scores"][image, :, anchor].log_softmax(0)[names[image][grain[image, anchor]]]
        for image, anchor in answers.nonzero().tolist()
    ]
    assert len(each) > 10
    added = (named - plain)[1] / len(batch["img"])
    torch.testing.assert_close(added, 2.0 * model.args.cls * torch.stack(each).mean(), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(named[[0, 2]], plain[[0, 2]])


def test_images_without_grains_are_a_loss_too(batch):
    batch |= {"batch_idx": torch.zeros(0), "cls": torch.zeros(0, 1), "bboxes": torch.zeros(0, 4)}
    model, _, loss = losses(1.0, batch)
    assert torch.isfinite(loss).all()
    loss.sum().backward()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)


def test_its_gradient_compares_names_and_nothing_else(batch):
    """Added to all logits of an anchor, a number changes nothing: softmax does not say whether there is a grain."""
    model = network(naming_loss=1.0)
    predictions = {
        k: v.detach().requires_grad_() if isinstance(v, torch.Tensor) else v for k, v in model(batch["img"]).items()
    }
    one, zero = NamingLoss(model), copy.deepcopy(NamingLoss(model))
    zero.naming = 0.0
    difference = (one(predictions, batch)[0] - zero(predictions, batch)[0]).sum()
    (slope,) = torch.autograd.grad(difference, predictions["scores"])
    assert slope.abs().max() > 1e-3
    assert slope.sum(1).abs().max() < 1e-5


@pytest.mark.parametrize(
    ("name", "options", "weight", "heads"),
    [
        ("hieraedge-n", {}, 1.0, 1),
        ("hieraedge-published-n", {}, 0.0, 1),
        ("yolo11n", {}, 0.0, 1),
        ("yolo11n", {"naming_loss": 0.5}, 0.5, 1),
        ("yolo26n", {"naming_loss": 0.5}, 0.5, 2),
        ("hieraedge-n", {"head": "one2one"}, 1.0, 2),
    ],
)
def test_which_networks_are_trained_with_it(name, options, weight, heads):
    made = network(name, **options).init_criterion()
    assert type(made) is (NamingLoss if heads == 1 else E2ELoss)
    inner = [made] if heads == 1 else [made.one2many, made.one2one]
    assert [(type(one), one.naming) for one in inner] == [(NamingLoss, weight)] * heads


def test_with_no_weight_it_is_ultralytics_loss(batch):
    model, predictions, loss = losses(0.0, batch)
    assert torch.equal(loss, v8DetectionLoss(model)(predictions, batch)[0])


@pytest.mark.parametrize("name", ["hieraedge-rtdetr", "rtdetr-l"])
def test_rtdetr_has_its_own_and_refuses_another(name):
    with pytest.raises(UsageError, match="naming_loss: RT-DETR has a loss of its own"):
        build(name, classes=2, naming_loss=1.0)
    assert build("hieraedge-rtdetr", classes=2).yaml["naming_loss"] == 0.0


@pytest.mark.parametrize("weight", [-1.0, float("inf"), float("nan")])
def test_a_weight_that_cannot_be_meant_is_refused(weight):
    with pytest.raises(UsageError, match="naming_loss: expected a weight of 0 or more"):
        build("hieraedge-n", classes=2, naming_loss=weight)
