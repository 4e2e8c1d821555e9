"""The loss of detection with a word on names: ultralytics' loss, and softmax cross-entropy over the classes.

YOLO's class loss asks of every anchor and every class "is it this?", one sigmoid each, and nearly all answers are no:
with 66 taxa that look alike the signal that tells two of them apart is a small part of it. The added term

    L_name = 1/|P| sum_{a in P} -log softmax(z_a)[c(a)],

P the anchors that answer for a grain, z_a their class logits, c(a) the grain's class, compares the names of one grain
with each other and with nothing else. What comes out is read as before, a sigmoid a class. A teacher's word, where the
batch brings one, is added at the same anchors, see `distill`. A share of boxes' overlap can be another measure of how
near they are, see `wasserstein`.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F

from ... import offline

offline.switch_off()
from ultralytics.utils.loss import E2ELoss, v8DetectionLoss  # noqa: E402

from .wasserstein import WassersteinAssigner, WassersteinBoxLoss  # noqa: E402

__all__ = ["NamingLoss", "criterion"]


class NamingLoss(v8DetectionLoss):
    """ultralytics' detection loss with `model.yaml["naming_loss"]` times the cross-entropy of names in its class part.

    Its `nwd`, where there is one, is the share of the normalised Wasserstein distance in the assignment's overlap and
    in the loss of boxes. Where the trainer's batch has a `Lesson`, as `lesson`, its divergences are added to the class
    part and to that of the distribution.

    Args:
        model: The network, with its head last and the trainer's arguments.
        tal_topk: Anchors a grain that the assignment takes.
        tal_topk2: Of these, anchors that stay.
    """

    def __init__(self, model: Any, tal_topk: int = 10, tal_topk2: int | None = None):
        super().__init__(model, tal_topk, tal_topk2)
        self.naming = float(model.yaml["naming_loss"])
        if share := model.yaml.get("nwd"):
            self.assigner = WassersteinAssigner(self.assigner, share)
            self.bbox_loss = WassersteinBoxLoss(self.reg_max, self.assigner).to(self.device)

    def get_assigned_targets_and_loss(
        self, preds: dict[str, torch.Tensor], batch: dict[str, Any], **assign_kwargs: Any
    ) -> tuple[Any, torch.Tensor, dict[str, torch.Tensor]]:
        """As ultralytics': what was assigned; the parts (box, class, distribution); the parts to be logged."""
        assigned, loss, logged = super().get_assigned_targets_and_loss(preds, batch, **assign_kwargs)
        lesson = batch.get("lesson")
        classes = batch["cls"].view(-1).to(loss.device).long()
        if not len(classes) or not (self.naming or lesson):
            return assigned, loss, logged
        gain: Any = self.hyp
        answers, grain = assigned[0], assigned[1]
        image, anchor = answers.nonzero(as_tuple=True)
        logits = preds["scores"][image, :, anchor].float()
        # Grains of all images in their order: the trainer's boxes come image by image.
        owner = batch["batch_idx"].view(-1).to(loss.device).long()
        first = torch.bincount(owner, minlength=len(grain)).cumsum(0).roll(1)
        first[0] = 0
        named = classes[grain[image, anchor] + first[image]]
        if self.naming:
            names = F.cross_entropy(logits, named, reduction="sum") / max(len(named), 1)
            loss[1] = loss[1] + self.naming * gain.cls * names
        if lesson:
            loss[1] = loss[1] + gain.cls * lesson.names(logits, image, anchor, named)
            if lesson.teacher.boxes:
                loss[2] = loss[2] + gain.dfl * lesson.sides(preds["boxes"][image, :, anchor], image, anchor)
        return assigned, loss, dict(zip(logged, loss.detach(), strict=True))


def criterion(model: Any) -> Any:
    """The loss that a network with one of ultralytics' anchor-free heads is trained with."""
    two = getattr(model.model[-1], "one2one_cv2", None) is not None
    return E2ELoss(model, NamingLoss) if two else NamingLoss(model)
