"""The distance of boxes as Gaussians against roots of matrices, and its share of assignment and loss, written out."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from palyno.errors import UsageError
from palyno.vision.models.detection import build
from palyno.vision.models.distill import Teacher
from palyno.vision.models.loss import NamingLoss, criterion
from palyno.vision.models.wasserstein import WassersteinAssigner, WassersteinBoxLoss, mean_size, nwd, wasserstein
from scipy.linalg import sqrtm
from ultralytics.utils import DEFAULT_CFG
from ultralytics.utils.loss import BboxLoss, v8DetectionLoss
from ultralytics.utils.metrics import bbox_iou
from ultralytics.utils.tal import TaskAlignedAssigner

CLASSES = 5


def boxes(n, seed=0):
    corner, side = torch.rand(2, n, 2, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return torch.cat((60 * corner, 60 * corner + 3 + 40 * side), 1)


def gaussian(box):
    x1, y1, x2, y2 = box.tolist()
    return np.array([x1 + x2, y1 + y2]) / 2, np.diag([(x2 - x1) ** 2, (y2 - y1) ** 2]) / 4


def test_it_is_the_wasserstein_distance_of_the_boxes_gaussians():
    """|m1 - m2|^2 + tr(S1 + S2 - 2 (S2^1/2 S1 S2^1/2)^1/2), Gaussians in general (Dowson & Landau 1982)."""
    ours, theirs = boxes(40), boxes(40, 1)
    expected = []
    for a, b in zip(ours, theirs, strict=True):
        (m1, s1), (m2, s2) = gaussian(a), gaussian(b)
        root = sqrtm(s2)
        expected.append(math.sqrt(((m1 - m2) ** 2).sum() + np.trace(s1 + s2 - 2 * sqrtm(root @ s1 @ root)).real))
    torch.testing.assert_close(wasserstein(ours, theirs), torch.tensor(expected, dtype=torch.float64))
    torch.testing.assert_close(nwd(ours, theirs, 17.0), (-torch.tensor(expected, dtype=torch.float64) / 17).exp())


def test_limit_cases():
    ours, theirs = boxes(40), boxes(40, 1)
    assert (nwd(ours, ours, 20.0) == 1).all()
    assert torch.equal(nwd(ours, theirs, 20.0), nwd(theirs, ours, 20.0))
    assert (nwd(ours, theirs, 20.0) > 0).all() and (nwd(ours, theirs, 20.0) < 1).all()
    # Moved by C: 1 / e. Of the same centre and twice the side a: a / sqrt(2) apart.
    torch.testing.assert_close(
        nwd(ours, ours + torch.tensor([20.0, 0, 20, 0]), 20.0), torch.full((40,), 1 / math.e).double()
    )
    one, two = torch.tensor([[0.0, 0, 8, 8]]), torch.tensor([[-4.0, -4, 12, 12]])
    torch.testing.assert_close(wasserstein(one, two), torch.tensor([8 / math.sqrt(2)]))


def test_in_a_picture_of_another_scale_it_is_the_same_and_for_one_size_a_power():
    ours, theirs = boxes(40), boxes(40, 1)
    near = nwd(ours, theirs, 20.0)
    torch.testing.assert_close(nwd(3 * ours, 3 * theirs, 60.0), near)
    torch.testing.assert_close(nwd(3 * ours, 3 * theirs, 20.0), near**3)
    there = torch.ones(1, 40, 1)
    torch.testing.assert_close(mean_size(3 * ours[None], there), 3 * mean_size(ours[None], there))


def test_the_size_is_the_mean_of_the_boxes_that_there_are():
    padded = torch.tensor([[[0.0, 0, 4, 9], [1, 1, 60, 60]], [[1, 1, 9, 3], [5, 5, 15, 15]]])
    there = torch.tensor([[[1.0], [0]], [[1], [1]]])
    assert mean_size(padded, there) == pytest.approx((6 + 4 + 10) / 3)
    assert mean_size(padded[:, :0], there[:, :0]) == mean_size(padded, 0 * there) == 1


def test_boxes_apart_have_a_gradient_that_brings_them_together_where_overlap_has_none():
    grain = torch.tensor([[100.0, 100, 110, 110]])
    found = torch.tensor([[70.0, 100, 80, 110]], requires_grad=True)
    (overlap,) = torch.autograd.grad(bbox_iou(found, grain, xywh=False).sum(), found)
    (near,) = torch.autograd.grad(nwd(found, grain, 30.0).sum(), found)
    assert overlap.abs().max() == 0
    # A step to the right of both sides by d gains d / C of it: exp(-30 / 30) / 30, half of it a side.
    torch.testing.assert_close(near, torch.tensor([[1.0, 0, 1, 0]]) * math.exp(-1) / 60)
    same = grain.clone().requires_grad_()
    (still,) = torch.autograd.grad(nwd(same, grain, 30.0).sum(), same)
    assert (still == 0).all()


def test_its_gradient_is_that_of_differences():
    ours, theirs = boxes(6).requires_grad_(), boxes(6, 1).requires_grad_()
    assert torch.autograd.gradcheck(lambda a, b: nwd(a, b, 25.0), (ours, theirs))


def network(name="hieraedge-n", seed=1, **options):
    torch.manual_seed(seed)
    model = build(name, classes=CLASSES, **options).train()
    model.args = DEFAULT_CFG
    return model


def overlap(a, b):
    return bbox_iou(torch.tensor([a]), torch.tensor([b]), xywh=False, CIoU=True).item()


@pytest.mark.parametrize("share", [0.3, 1.0])
def test_the_share_of_the_loss_of_boxes_is_one_less_it_weighted_as_theirs(share, batch, one_thread):
    model = network(nwd=share, naming_loss=0.0)
    loss = criterion(model)
    predictions = model(batch["img"])
    (inside, grain, *_), parts, _ = loss.get_assigned_targets_and_loss(predictions, batch)
    seen = {}
    loss.bbox_loss.register_forward_hook(lambda module, given, made: seen.update(given=given, made=made))
    loss.get_assigned_targets_and_loss(predictions, batch)
    bins, found, anchors, targets, scores, total, fg, imgsz, stride = seen["given"]
    theirs = BboxLoss(16)(bins, found, anchors, targets, scores, total, fg, imgsz, stride)
    corners = [
        [(x - w / 2) * 96, (y - h / 2) * 96, (x + w / 2) * 96, (y + h / 2) * 96]
        for x, y, w, h in batch["bboxes"].tolist()
    ]
    size = sum(math.sqrt((x2 - x1) * (y2 - y1)) for x1, y1, x2, y2 in corners) / len(corners)
    of_image, added = [[0, 1], [], [2, 3, 4]], 0.0
    for image, anchor in inside.nonzero().tolist():
        true = corners[of_image[image][grain[image, anchor]]]
        ours = [v * float(stride[anchor]) for v in found[image, anchor].tolist()]
        apart = math.sqrt(sum((p - q) ** 2 for p, q in zip(ours, true, strict=True)) / 2)
        added += float(scores[image, anchor].sum()) * (1 - math.exp(-apart / size)) / float(total)
    assert inside.sum() > 10 and added > 0.05
    expected = (1 - share) * float(theirs[0]) + share * added
    assert float(parts[0]) == pytest.approx(DEFAULT_CFG.box * expected, rel=1e-4)
    assert torch.equal(seen["made"][1], theirs[1])


@pytest.mark.parametrize("share", [0.0, 0.4, 1.0])
def test_the_assignments_overlap_is_a_share_of_both(share):
    grains, found = boxes(30).float(), boxes(30, 1).float()
    found[:10] = grains[:10] + 1
    assigner = WassersteinAssigner(TaskAlignedAssigner(topk=10, num_classes=2, alpha=0.5, beta=6.0), share)
    assigner.size = torch.tensor(12.0)
    expected = [
        (1 - share) * max(overlap(a, b), 0) + share * float(nwd(torch.tensor(a), torch.tensor(b), 12.0))
        for a, b in zip(grains.tolist(), found.tolist(), strict=True)
    ]
    torch.testing.assert_close(assigner.iou_calculation(grains, found), torch.tensor(expected), rtol=1e-4, atol=1e-6)


def test_a_small_grain_whose_boxes_miss_it_is_answered_for():
    """Boxes of 6 px, all 8 px beside a grain of 6: no overlap says which anchor is better, nor that any is."""
    anchors = torch.tensor([[4.0, 4], [12, 4], [4, 12], [12, 12]])
    grain = torch.tensor([[[5.0, 5, 11, 11]]])
    found = torch.tensor([[[13.0, 5, 19, 11], [15, 5, 21, 11], [13, 13, 19, 19], [15, 15, 21, 21]]])
    scores = torch.full((1, 4, 1), 0.5)
    settings = {"topk": 2, "num_classes": 1, "alpha": 0.5, "beta": 6.0, "stride": [8, 16, 32]}
    taught = {}
    for share in (0.0, 0.5):
        plain = TaskAlignedAssigner(**settings)
        assigner = WassersteinAssigner(plain, share) if share else plain
        _, _, target, inside, _ = assigner(scores, found, anchors, torch.zeros(1, 1, 1), grain, torch.ones(1, 1, 1))
        taught[share] = target[0, :, 0] * inside[0]
    assert (taught[0.0] == 0).all()
    near = 0.5 * math.exp(-8 / 6)
    assert taught[0.5][0] == pytest.approx(near, rel=1e-3) and taught[0.5].argmax() == 0
    assert 0 < taught[0.5][1] < near and taught[0.5][3] == 0


@pytest.mark.parametrize("name", ["hieraedge-n", "yolo11n"])
def test_with_no_share_the_loss_is_ultralytics_to_the_bit(name, batch, one_thread):
    model = network(name, nwd=0.0, naming_loss=0.0)
    loss = criterion(model)
    assert type(loss.assigner) is TaskAlignedAssigner and type(loss.bbox_loss) is BboxLoss
    predictions = model(batch["img"])
    assert torch.equal(loss(predictions, batch)[0], v8DetectionLoss(model)(predictions, batch)[0])


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("hieraedge-n", {}),
        ("hieraedge-published-n", {}),
        ("hieraedge-n", {"head": "one2one"}),
        ("biformer-nano-yolo", {}),
        ("yolov8n", {}),
        ("yolo11n", {"naming_loss": 0.5}),
        ("yolo12n", {}),
        ("yolo26n", {}),
    ],
)
def test_every_table_is_trained_with_it_with_names_and_a_teacher(name, options, batch, one_thread):
    """The parts for names and the teacher's word are what they are without it, at the anchors that then answer."""
    model, taught = network(name, nwd=0.5, **options), network("yolo11n", seed=2).eval()
    made = criterion(model)
    inner = [made] if isinstance(made, NamingLoss) else [made.one2many, made.one2one]
    assert all(
        type(loss.assigner) is WassersteinAssigner and type(loss.bbox_loss) is WassersteinBoxLoss for loss in inner
    )
    assert [loss.assigner.topk2 for loss in inner] == [10, 1][: len(inner)]
    predictions = model(batch["img"])
    plain, _ = made(predictions, batch)
    lesson = Teacher(taught, model, weight=1.0, temperature=2.0)(batch["img"])
    whole, _ = made(predictions, batch | {"lesson": lesson})
    assert torch.equal((whole - plain)[[0, 2]], torch.zeros(2)) and whole[1] > plain[1]
    whole.sum().backward()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)
    assert torch.isfinite(whole).all() and all(loss.assigner.size > 10 for loss in inner)

    none = batch | {"batch_idx": torch.zeros(0), "cls": torch.zeros(0, 1), "bboxes": torch.zeros(0, 4)}
    empty, _ = made(model(batch["img"]), none)
    assert torch.isfinite(empty).all() and empty[0] == 0


def test_names_are_compared_at_the_anchors_that_then_answer(batch, one_thread):
    model = network(nwd=1.0, naming_loss=2.0)
    loss, predictions = criterion(model), model(batch["img"])
    (answers, grain, *_), named, _ = loss.get_assigned_targets_and_loss(predictions, batch)
    (before, *_), _, _ = v8DetectionLoss(model).get_assigned_targets_and_loss(predictions, batch)
    loss.naming = 0.0
    _, plain, _ = loss.get_assigned_targets_and_loss(predictions, batch)
    names = [[3, 1], [], [0, 4, 2]]
    each = [
        -predictions["scores"][image, :, anchor].log_softmax(0)[names[image][grain[image, anchor]]]
        for image, anchor in answers.nonzero().tolist()
    ]
    assert not torch.equal(answers, before)
    torch.testing.assert_close(
        (named - plain)[1], 2.0 * DEFAULT_CFG.cls * torch.stack(each).mean(), rtol=1e-4, atol=1e-5
    )


@pytest.mark.parametrize("share", [-0.1, 1.5, float("nan"), "half"])
def test_what_is_no_share_is_refused(share):
    with pytest.raises(UsageError, match="nwd: expected a share of 0 to 1"):
        build("hieraedge-n", classes=2, nwd=share)


@pytest.mark.parametrize("name", ["hieraedge-rtdetr", "rtdetr-l"])
def test_rtdetr_has_its_own_loss(name):
    with pytest.raises(UsageError, match="nwd: RT-DETR has a loss of its own"):
        build(name, classes=2, nwd=0.5)


def test_a_configuration_keeps_a_share_and_does_not_name_none():
    config = build("hieraedge-n", classes=2, nwd=0.5).yaml
    assert config["nwd"] == build(config).yaml["nwd"] == 0.5
    assert (
        "nwd" not in build(config, nwd=0.0).yaml and build("hieraedge-n", classes=2).yaml == build(config, nwd=0.0).yaml
    )
