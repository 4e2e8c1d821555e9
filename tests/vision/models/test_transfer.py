"""Starting from a trained detector: with the same classes, whatever their order, the same answers."""

from __future__ import annotations

import pytest
import torch
from palyno.vision.models.detection import build
from palyno.vision.models.transfer import transfer

HERE, THERE = ("Alnus", "Betula", "Corylus"), ("Corylus", "Alnus", "Betula")


def trained(name, classes, seed):
    """A network whose every number has left its start: statistics, and biases too."""
    torch.manual_seed(seed)
    model = build(name, classes=classes).eval()
    with torch.no_grad():
        for key, tensor in model.state_dict().items():
            if tensor.is_floating_point() and "sobel" not in key:
                tensor.mul_(1 + 0.1 * torch.rand_like(tensor)).add_(0.002 * torch.rand_like(tensor))
    return model


@pytest.mark.parametrize("name", ["hieraedge-n", "hieraedge-n-one2one", "hieraedge-rtdetr", "yolo11n"])
def test_the_same_classes_in_another_order_give_the_same_boxes_and_probabilities(name, one_thread):
    taught, model = trained(name, THERE, 0), trained(name, HERE, 1)
    assert transfer(model, taught) == HERE
    picture = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        ours, theirs = model(picture)[0], taught(picture)[0]
    assert torch.isfinite(ours).all()
    torch.testing.assert_close(ours[:, :4], theirs[:, :4])
    order = [4 + THERE.index(c) for c in HERE]
    # Rows are summed in another order, no more.
    torch.testing.assert_close(ours[:, 4:], theirs[:, order], rtol=1e-4, atol=1e-9)
    assert not torch.allclose(ours[:, 4:], theirs[:, 4:], rtol=1e-2)


def test_a_class_that_it_does_not_know_keeps_its_fresh_row_and_the_others_come_over(one_thread):
    taught, model = trained("hieraedge-n", THERE, 0), trained("hieraedge-n", ("Quercus", "Betula"), 1)
    before = [branch[-1].weight[0].clone() for branch in model.model[-1].cv3]
    assert transfer(model, taught) == ("Betula",)
    for ours, theirs, fresh in zip(model.model[-1].cv3, taught.model[-1].cv3, before, strict=True):
        assert torch.equal(ours[-1].weight[0], fresh)
        assert torch.equal(ours[-1].weight[1], theirs[-1].weight[2])
        assert torch.equal(ours[-1].bias[1], theirs[-1].bias[2])
    picture = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(model(picture)[0][:, 5], taught(picture)[0][:, 4 + 2], rtol=1e-4, atol=1e-9)


def test_hidden_layers_as_wide_as_there_are_classes_keep_what_both_have(one_thread):
    many = tuple(f"taxon {i}" for i in range(70))
    taught, model = trained("hieraedge-n", many, 0), trained("hieraedge-n", many[:5], 1)
    wide, narrow = taught.model[-1].cv3[0][1][1].conv.weight, model.model[-1].cv3[0][1][1].conv.weight
    assert len(wide) == 70 and len(narrow) == 64
    assert transfer(model, taught) == many[:5]
    assert torch.equal(narrow, wide[:64, :64])
    assert torch.equal(model.model[-1].cv3[0][-1].weight, taught.model[-1].cv3[0][-1].weight[:5, :64])


def test_layers_of_another_table_stay_as_they_were(one_thread):
    taught, model = trained("yolo11n", HERE, 0), trained("hieraedge-n", HERE, 1)
    before = {key: tensor.clone() for key, tensor in model.state_dict().items() if key.startswith("model.0.")}
    transfer(model, taught)
    assert all(torch.equal(model.state_dict()[key], tensor) for key, tensor in before.items())
