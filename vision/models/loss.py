"""The loss of detection with a word on names: ultralytics' loss, and softmax cross-entropy over the classes.

YOLO's class loss asks of every anchor and every class "is it this?", one sigmoid each, and nearly all answers are no:
with 66 taxa that look alike the signal that tells two of them apart is a small part of it. The added term

    L_name = 1/|P| sum_{a in P} -log softmax(z_a)[c(a)],

P the anchors that answer for a grain, z_a their class logits, c(a) the grain's class, compares the names of one grain
with each other and with nothing else. What comes out is read as before, a sigmoid a class.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F

from ... import offline

offline.switch_off()
from ultralytics.utils.loss import E2ELoss, v8DetectionLoss  # noqa: E402

__all__ = ["NamingLoss", "criterion"]


class NamingLoss(v8DetectionLoss):
    """ultralytics' detection loss with `model.yaml["naming_loss"]` times the cross-entropy of names in its class part.

    Args:
        model: The network, with its head last and the trainer's arguments.
        tal_topk: Anchors a grain that the assignment takes.
        tal_topk2: Of these, anchors that stay.
    """

    def __init__(self, model: Any, tal_topk: int = 10, tal_topk2: int | None = None):
        super().__init__(model, tal_topk, tal_topk2)
        self.naming = float(model.yaml["naming_loss"])

    def get_assigned_targets_and_loss(
        self, preds: dict[str, torch.Tensor], batch: dict[str, Any], **assign_kwargs: Any
    ) -> tuple[Any, torch.Tensor, dict[str, torch.Tensor]]:
        """As ultralytics': what was assigned; the parts (box, class, distribution); the parts to be logged."""
        assigned, loss, logged = super().get_assigned_targets_and_loss(preds, batch, **assign_kwargs)
        answers, grain = assigned[0], assigned[1]
        logits = preds["scores"].permute(0, 2, 1)[answers].float()
        # Grains of all images in their order: the trainer's boxes come image by image.
        owner = batch["batch_idx"].view(-1).to(grain.device).long()
        first = torch.bincount(owner, minlength=len(grain)).cumsum(0).roll(1)
        first[0] = 0
        classes = batch["cls"].view(-1).to(grain.device).long()
        if len(classes):
            index = (grain + first[:, None])[answers]
            names = F.cross_entropy(logits, classes[index], reduction="sum") / answers.sum().clamp(min=1)
            gain: Any = self.hyp
            loss[1] = loss[1] + self.naming * gain.cls * names
            logged[self.loss_names[1]] = loss[1].detach()
        return assigned, loss, logged


def criterion(model: Any) -> Any:
    """The loss that a network with one of ultralytics' anchor-free heads is trained with."""
    one = NamingLoss if model.yaml["naming_loss"] else v8DetectionLoss
    two = getattr(model.model[-1], "one2one_cv2", None) is not None
    return E2ELoss(model, one) if two else one(model)
