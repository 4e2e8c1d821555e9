"""What a teacher's word adds to the loss, against loops in double precision, and where it must add nothing."""

from __future__ import annotations

import copy
from types import SimpleNamespace

import pytest
import torch
from palyno.errors import UsageError
from palyno.vision.models.detection import build
from palyno.vision.models.distill import Lesson, Teacher, Teaching, divergence
from palyno.vision.models.loss import criterion
from palyno.vision.models.transfer import transfer
from ultralytics.utils import DEFAULT_CFG
from ultralytics.utils.loss import v8DetectionLoss
from ultralytics.utils.patches import torch_load, torch_save

HERE = ("Alnus", "Betula", "Corylus", "Quercus", "Tilia")


def network(name="hieraedge-n", classes=HERE, seed=0, **options):
    """A network that is somewhat sure of some classes here and of others there."""
    torch.manual_seed(seed)
    model = build(name, classes=classes, **options).eval()
    model.args = DEFAULT_CFG
    head = model.model[-1]
    with torch.no_grad():
        for branch in [branch for name in ("cv2", "cv3", "one2one_cv3") for branch in getattr(head, name, None) or ()]:
            branch[-1].bias.copy_(2 * torch.randn(branch[-1].bias.shape) - 2)
            branch[-1].weight.mul_(4)
    return model


def added(student, teacher, batch, raw=None, lesson=None):
    """What the teacher's word adds to the parts of the loss (box, class, distribution), and the student's answers."""
    raw = student(batch["img"])[1] if raw is None else raw
    loss = criterion(student)
    return loss(raw, batch | {"lesson": lesson or teacher(batch["img"])})[0] - loss(raw, batch)[0], raw


def test_it_is_the_divergence_of_names_and_sides_at_the_anchors_of_the_grains(batch, one_thread):
    """The teacher does not know Betula, of which the second grain is, and knows one more."""
    theirs = ("Tilia", "Pinus", "Alnus", "Quercus", "Corylus")
    student = network()
    teacher = Teacher(network(classes=theirs, seed=1), student, weight=0.7, temperature=3.0, boxes=0.2)
    assert teacher.classes == ("Alnus", "Corylus", "Quercus", "Tilia")
    apart = {"scores": 3 * torch.randn(3, 5, 189) - 4, "boxes": torch.randn(3, 64, 189)}
    parts, raw = added(student, teacher, batch, lesson=Lesson(teacher, **apart))
    (answers, grain, *_), _, _ = v8DetectionLoss(student).get_assigned_targets_and_loss(raw, batch)

    def kl(ours, said):
        p, q = (torch.tensor(z, dtype=torch.float64).div(3).softmax(0).tolist() for z in (said, ours))
        return 9 * sum(a * torch.tensor(a / b).log().item() for a, b in zip(p, q, strict=True))

    names, sides, labels = [], [], [["Quercus", "Betula"], [], ["Alnus", "Tilia", "Corylus"]]
    for image, anchor in answers.nonzero().tolist():
        ours, said = raw["scores"][image, :, anchor].tolist(), apart["scores"][image, :, anchor].tolist()
        none = torch.tensor(said, dtype=torch.float64).neg().sigmoid().prod().item()
        if labels[image][grain[image, anchor]] != "Betula":
            both = teacher.classes
            divergences = kl([ours[HERE.index(n)] for n in both], [said[theirs.index(n)] for n in both])
            names.append((1 - none, divergences))
        for side in range(4):
            bins = slice(16 * side, 16 * side + 16)
            divergences = kl(raw["boxes"][image, bins, anchor].tolist(), apart["boxes"][image, bins, anchor].tolist())
            sides.append((1 - none, divergences))
    assert 10 < len(names) < len(sides) / 4
    mean = [sum(s * d for s, d in each) / sum(s for s, _ in each) for each in (names, sides)]
    assert min(mean) > 1e-3
    expected = [0.0, 0.7 * DEFAULT_CFG.cls * mean[0], 0.2 * DEFAULT_CFG.dfl * mean[1]]
    torch.testing.assert_close(parts / 3, torch.tensor(expected), rtol=2e-4, atol=2e-5)


def test_large_temperatures_compare_centred_logits():
    """Hinton et al. 2015, section 2.1: T^2 KL tends to half the variance of the logits' difference."""
    z, t = torch.randn(2, 4, 9, generator=torch.Generator().manual_seed(0)).double()
    expected = (z - t).var(1, correction=0) / 2
    two, fifty = ((divergence(z, t, temperature) / expected - 1).abs().max() for temperature in (2.0, 50.0))
    assert fifty < 0.01 < 0.1 < two


def test_a_student_that_says_the_same_has_nothing_to_learn(batch, one_thread):
    student = network()
    teacher = Teacher(copy.deepcopy(student), student, weight=1.0, temperature=2.0, boxes=1.0)
    raw = {k: v.detach() if k != "feats" else v for k, v in student(batch["img"])[1].items()}
    # It is fused, and rounds otherwise; no more.
    parts, _ = added(student, teacher, batch, raw)
    assert parts.abs().max() < 1e-4
    at = image, anchor = torch.tensor([0, 0, 2]), torch.tensor([3, 70, 125])
    scores, boxes = (raw[key][image, :, anchor].requires_grad_() for key in ("scores", "boxes"))
    for apart, least, most in ((0.0, -1.0, 1e-6), (1.0, 1e-3, 1e3)):
        noise = torch.Generator().manual_seed(0)
        said = [raw[k] + apart * torch.randn(raw[k].shape, generator=noise) for k in ("scores", "boxes")]
        lesson = Lesson(teacher, *said)
        each = lesson.names(scores, *at, torch.tensor([3, 1, 0])), lesson.sides(boxes, *at)
        slopes = torch.autograd.grad(sum(each), (scores, boxes))
        assert all(least < number.abs().max() < most for number in (*each, *slopes))


def test_the_order_of_the_teachers_classes_is_of_no_account(batch, one_thread):
    student = network()
    taught, turned = network(seed=1), network(classes=HERE[::-1], seed=2)
    transfer(turned, taught)
    one, two = (
        added(student, Teacher(t, student, weight=1.0, temperature=2.0), batch)[0].detach() for t in (taught, turned)
    )
    assert one[1] > 0.1
    torch.testing.assert_close(one, two, rtol=1e-4, atol=1e-5)
    assert one[0] == one[2] == 0


def test_a_step_down_its_gradient_brings_the_student_nearer(batch, one_thread):
    student = network()
    teacher = Teacher(network(seed=1), student, weight=1.0, temperature=2.0)
    before, _ = added(student, teacher, batch)
    weights = [p for p in student.parameters() if p.requires_grad]
    slopes = torch.autograd.grad(before.sum(), weights, allow_unused=True)
    size = sum(float(s.square().sum()) for s in slopes if s is not None)
    with torch.no_grad():
        for weight, slope in zip(weights, slopes, strict=True):
            if slope is not None:
                weight -= 0.02 * float(before[1]) / size * slope
        after, _ = added(student, teacher, batch)
    # A step that a straight line would take to 98 %.
    assert 0.9 * before[1] < after[1] < 0.99 * before[1]


def test_names_are_compared_with_each_other_and_grains_of_unknown_classes_are_left_out():
    student = SimpleNamespace(names=dict(enumerate(HERE)), model=network().model, yaml={"channels": 3})
    teacher = Teacher(network(classes=HERE[1:], seed=1), student, weight=1.0, temperature=2.0)
    lesson = Lesson(teacher, torch.randn(1, 4, 3), torch.zeros(1, 64, 3))
    logits = torch.randn(3, 5).requires_grad_()
    at = torch.zeros(3, dtype=torch.long), torch.arange(3)
    (slope,) = torch.autograd.grad(lesson.names(logits, *at, torch.tensor([2, 0, 4])), logits)
    assert slope[[0, 2], 1:].abs().min() > 0
    assert slope[1].abs().max() == 0 and slope[:, 0].abs().max() == 0
    assert slope.sum(1).abs().max() < 1e-6
    none = lesson.names(logits[:0], at[0][:0], at[1][:0], torch.tensor([], dtype=torch.long))
    assert none == 0 and lesson.sides(torch.zeros(0, 64), at[0][:0], at[1][:0]) == 0


@pytest.mark.parametrize(
    ("learns", "teaches"),
    [("yolo11n", "hieraedge-n"), ("hieraedge-n-one2one", "yolo11n"), ("yolo26n", "hieraedge-n-one2one")],
)
def test_other_tables_and_two_heads_learn_and_teach(learns, teaches, batch, one_thread):
    """Both heads of a student learn from the teacher's head where several anchors answer for a grain."""
    student, taught = network(learns, naming_loss=0.0), network(teaches, seed=1)
    teacher = Teacher(copy.deepcopy(taught), student, weight=1.0, temperature=2.0)
    expected = taught(batch["img"])[1]
    lesson = teacher(batch["img"])
    torch.testing.assert_close(lesson.scores, expected.get("one2many", expected)["scores"], rtol=1e-3, atol=1e-3)
    parts, _ = added(student.train(), teacher, batch, student(batch["img"]))
    assert parts[1] > 1e-2 and parts[0] == parts[2] == 0
    head = student.model[-1]
    branches = [getattr(head, name) for name in ("cv3", "one2one_cv3") if getattr(head, name, None) is not None]
    slopes = torch.autograd.grad(parts[1], [branch[0][-1].bias for branch in branches])
    assert all(slope.abs().max() > 0 for slope in slopes) and len(slopes) == 1 + (learns != "yolo11n")


@pytest.mark.parametrize("teaches", ["hieraedge-n", "yolo11n"])
def test_a_trainer_is_given_its_teacher_in_the_processes_of_a_distributed_run_too(teaches, tmp_path, batch, one_thread):
    """ultralytics saves the callbacks for them, after the teacher was compared with the student and fused."""
    cloudpickle = pytest.importorskip("cloudpickle")
    taught, student = network(teaches, seed=1), network()
    expected = taught(batch["img"])[1]["scores"]
    teaching = Teaching(taught, 1.0, 2.0)
    teaching.teacher(student)
    torch_save({"callbacks": {"on_train_start": [teaching]}}, tmp_path / "state.pt", pickle_module=cloudpickle)
    (sent,) = torch_load(tmp_path / "state.pt", map_location="cpu")["callbacks"]["on_train_start"]
    trainer = SimpleNamespace(model=student, device=torch.device("cpu"))
    for given in (teaching, sent):
        before = torch.get_rng_state()
        given(trainer)
        # Not a number of the run's own is drawn: the student begins as it would without a teacher.
        assert torch.equal(torch.get_rng_state(), before)
        teacher = trainer.teacher
        assert (teacher.network is taught) == (given is teaching)
        assert not any(m.training for m in teacher.network.modules())
        assert not any(p.requires_grad for p in teacher.network.parameters())
        scores = teacher(batch["img"]).scores
        assert not scores.requires_grad
        torch.testing.assert_close(scores, expected, rtol=1e-3, atol=1e-3)


def test_copies_of_what_is_trained_share_the_teacher():
    teacher = Teacher(network(seed=1), network(), weight=1.0, temperature=2.0)
    assert copy.deepcopy({"criterion": [teacher]})["criterion"][0] is teacher


@pytest.mark.parametrize(
    ("teaches", "options", "says"),
    [
        (("hieraedge-n", ("Pinus", "Tilia", "Zea", "Salix")), {}, "at least two of Alnus, Betula, Corylus and 2 more"),
        (("hieraedge-rtdetr", HERE), {}, "teacher: expected a head whose anchors lie on a grid .* got Decoder"),
        (("yolo26n", HERE), {"boxes": 0.5}, "distill_boxes: expected .* the same bins, .* got 1 of the teacher and 16"),
    ],
)
def test_teachers_that_cannot_be_compared_are_refused(teaches, options, says):
    student, taught = network(), build(teaches[0], classes=teaches[1])
    with pytest.raises(UsageError, match=says):
        Teacher(taught, student, weight=1.0, temperature=2.0, **options)


def test_strides_channels_and_a_students_queries_are_compared_too():
    student, taught = network(), network(seed=1)
    with pytest.raises(UsageError, match="model: expected a head whose anchors lie on a grid"):
        Teacher(taught, build("hieraedge-rtdetr", classes=HERE), weight=1.0, temperature=2.0)
    taught.yaml = taught.yaml | {"channels": 1}
    with pytest.raises(UsageError, match="images of 3 channels, as the model's, got 1"):
        Teacher(taught, student, weight=1.0, temperature=2.0)
    taught.model[-1].stride = torch.tensor([4.0, 8.0, 16.0])
    with pytest.raises(UsageError, match=r"strides \[8.0, 16.0, 32.0\], as the model's, got \[4.0, 8.0, 16.0\]"):
        Teacher(taught, student, weight=1.0, temperature=2.0)
