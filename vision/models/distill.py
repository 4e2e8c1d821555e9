"""Learning from a trained detector: what it says of every grain's name, and of the sides of its box.

Where a label says one name, a trained network says for each grain how much it looks like every other taxon, and that is
what a small network learns names from faster than from labels (Hinton, Vinyals & Dean 2015, arXiv 1503.02531). Both
networks see the same pixels on the same grid of anchors, so what they say of a grain can be compared anchor by anchor.
Over the anchors P that answer for a grain in the student's own assignment and whose grain's class the teacher knows,
with logits z of the student and t of the teacher over the classes that both know, K,

    p = softmax(t_K / T)    q = softmax(z_K / T)    L = T^2 sum_{a in P} s_a KL(p_a || q_a) / sum_{a in P} s_a.

(Hinton et al., section 2: T^2 keeps the size of the gradient, T (q - p), which for large T tends to the difference of
centred logits over |K|.) As in `loss`, softmax compares names with each other and does not say whether there is a
grain; that the labels say. A student that has just begun takes anchors for a grain where the teacher would not answer,
and what that says of names there is poor: so an anchor counts by the teacher's own confidence that there is a grain,
s = 1 - prod_c (1 - sigmoid(t_c)). Sides of boxes, where they are asked for, follow in the same way: each is a
distribution over bins, and the divergence is the mean over the four sides of all anchors that answer for a grain
(localisation distillation, Zheng et al. 2022, arXiv 2102.12252, section 3).

Anchors that answer for no grain are left out: scenes are composed, so no grain in them lacks its box, and there is
nothing of names to be learned from what is none.

The teacher is no part of the student: the trainer holds it, and hands its answers on with the batch. So validation, the
running average, checkpoints and weights do not know of it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F

from ... import offline
from ...errors import UsageError

offline.switch_off()
from ultralytics.nn.modules import Detect  # noqa: E402
from ultralytics.utils.torch_utils import unwrap_model  # noqa: E402

__all__ = ["Lesson", "Teacher", "Teaching", "divergence"]


def divergence(logits: torch.Tensor, taught: torch.Tensor, temperature: float) -> torch.Tensor:
    """`T^2 KL(softmax(taught / T) || softmax(logits / T))` over the last axis: (..., K) twice -> (...)."""
    ours, theirs = ((z.float() / temperature).log_softmax(-1) for z in (logits, taught))
    return temperature**2 * F.kl_div(ours, theirs, reduction="none", log_target=True).sum(-1)


@dataclass(frozen=True)
class Teaching:
    """Who teaches, and how much. Called when training starts; a distributed run sends each of its processes a copy.

    Attributes:
        network: See `Teacher`.
        weight: Of the divergence of names, beside the cross-entropy's in `loss`.
        temperature: What logits are divided by.
        boxes: Weight of the divergence of the boxes' sides; 0 leaves them to the labels.
    """

    network: Any
    weight: float
    temperature: float
    boxes: float = 0.0

    def teacher(self, student: Any) -> Teacher:
        """The teacher for a network; for errors see `Teacher`."""
        return Teacher(self.network, student, weight=self.weight, temperature=self.temperature, boxes=self.boxes)

    def __call__(self, trainer: Any) -> None:
        """Gives a trainer its teacher."""
        trainer.teacher = self.teacher(unwrap_model(trainer.model)).to(trainer.device)


class Teacher:
    """A trained network that answers for each batch what a student is to say. It is not trained, and becomes fused.

    Args:
        network: The teacher, with `names`, its head last, in evaluation mode.
        student: The network that learns, with `names` and its head last.
        weight: See `Teaching`, as all that follow.
        temperature: What logits are divided by.
        boxes: Weight of the boxes' sides.

    Raises:
        UsageError: Networks whose anchors do not correspond, or that have less than two classes in common.
    """

    def __init__(self, network: Any, student: Any, *, weight: float, temperature: float, boxes: float = 0.0):
        self.weight, self.temperature, self.boxes = weight, temperature, boxes
        _compare(network, student, boxes)
        rows = {str(name): i for i, name in network.names.items()}
        known = [(i, rows[str(name)]) for i, name in sorted(student.names.items()) if str(name) in rows]
        if len(known) < 2:
            raise UsageError(
                f"teacher: expected one that knows at least two of {_few(student.names)}; got one of "
                f"{_few(network.names)}; classes are matched by name: choose another, or name classes as it does"
            )
        self.classes = tuple(str(student.names[i]) for i, _ in known)
        self.ours, self.theirs = (torch.tensor(column) for column in zip(*known, strict=True))
        self.knows = torch.zeros(len(student.names)).index_fill_(0, self.ours, 1.0)
        if getattr(network.model[-1], "one2one_cv2", None) is None:
            # Fusing drops the head that teaches, where there are two.
            network.fuse(verbose=False)
        self.network = network.eval().requires_grad_(False)

    def to(self, device: torch.device) -> Teacher:
        """Moves it, in the layout of memory that the trainer gives the student, too."""
        self.network.to(device)
        if device.type == "cuda":
            self.network.to(memory_format=torch.channels_last)
        self.ours, self.theirs, self.knows = (t.to(device) for t in (self.ours, self.theirs, self.knows))
        return self

    @torch.no_grad()
    def __call__(self, images: torch.Tensor) -> Lesson:
        """What it says of a batch, (B, channels, H, W) in [0, 1]."""
        raw = self.network(images)[1]
        # Of two heads the one where several anchors answer for a grain: any of them may be asked.
        raw = raw.get("one2many", raw)
        return Lesson(self, raw["scores"], raw["boxes"])

    def __deepcopy__(self, memo: dict[int, Any]) -> Teacher:
        """Itself: a copy of what is being trained has the same teacher."""
        return self


@dataclass(frozen=True)
class Lesson:
    """What a teacher says of one batch.

    Attributes:
        teacher: Who.
        scores: Class logits, (B, its classes, A).
        boxes: Logits of the bins of the four sides, (B, 4 bins, A).
    """

    teacher: Teacher
    scores: torch.Tensor
    boxes: torch.Tensor

    def names(
        self, logits: torch.Tensor, image: torch.Tensor, anchor: torch.Tensor, classes: torch.Tensor
    ) -> torch.Tensor:
        """The weighted divergence of names.

        Args:
            logits: The student's, (N, classes), of the anchors that answer for a grain.
            image: Index of their image, (N,).
            anchor: Index of the anchor in it, (N,).
            classes: The student's index of the grain's class, (N,).
        """
        teacher = self.teacher
        taught = self.scores[image, :, anchor].float()
        each = divergence(logits[:, teacher.ours], taught[:, teacher.theirs], teacher.temperature)
        counts = teacher.knows[classes] * _confidence(taught)
        return teacher.weight * (each * counts).sum() / counts.sum().clamp(min=1)

    def sides(self, bins: torch.Tensor, image: torch.Tensor, anchor: torch.Tensor) -> torch.Tensor:
        """The weighted divergence of the boxes' sides; `bins` are the student's logits, (N, 4 bins)."""
        teacher = self.teacher
        ours, theirs = (z.unflatten(1, (4, -1)) for z in (bins, self.boxes[image, :, anchor]))
        each = divergence(ours, theirs, teacher.temperature).mean(1)
        counts = _confidence(self.scores[image, :, anchor].float())
        return teacher.boxes * (each * counts).sum() / counts.sum().clamp(min=1)


def _confidence(logits: torch.Tensor) -> torch.Tensor:
    """That at least one of the classes is right, each with its own sigmoid: (N, classes) -> (N,)."""
    return -torch.expm1(F.logsigmoid(-logits).sum(1))


def _compare(network: Any, student: Any, boxes: float) -> None:
    """Refuses networks whose anchors, or the bins of whose sides, are not the same."""
    teaches, learns = network.model[-1], student.model[-1]
    for who, head in (("teacher", teaches), ("model", learns)):
        if not isinstance(head, Detect):
            raise UsageError(
                f"{who}: expected a head whose anchors lie on a grid (detect or one2one), got {type(head).__name__}, "
                "whose queries are nobody else's; train without a teacher, or choose another head"
            )
    if (got := teaches.stride.tolist()) != (expected := learns.stride.tolist()):
        raise UsageError(f"teacher: expected anchors of strides {expected}, as the model's, got {got}; choose another")
    if (got := network.yaml["channels"]) != (expected := student.yaml["channels"]):
        raise UsageError(f"teacher: expected images of {expected} channels, as the model's, got {got}; choose another")
    if boxes and not teaches.reg_max == learns.reg_max > 1:
        raise UsageError(
            f"distill_boxes: expected sides of boxes over the same bins, two or more, got {teaches.reg_max} of the "
            f"teacher and {learns.reg_max} of the model; distil names alone, or choose another teacher"
        )


def _few(names: dict[int, Any]) -> str:
    """The first names, and how many more."""
    first = [str(name) for _, name in sorted(names.items())[:3]]
    return ", ".join(first) + (f" and {more} more" if (more := len(names) - 3) > 0 else "")
