"""How near two boxes are as Gaussians, which small boxes that do not overlap have a measure of, too.

Intersection over union says nothing of how far apart two boxes are that do not overlap, and of two small ones that are
a few pixels off it says the least. A round grain fills its box as an ellipse does, and so a box of centre c, width w
and height h is taken for a Gaussian of mean c and covariance diag(w^2 / 4, h^2 / 4). The 2-Wasserstein distance of two
such Gaussians a and b has the closed form

    W^2 = |c_a - c_b|^2 + ((w_a - w_b)^2 + (h_a - h_b)^2) / 4 = ((x1_a - x1_b)^2 + (y1_a - y1_b)^2 + (x2_a - x2_b)^2
          + (y2_a - y2_b)^2) / 2

(the second form by c = (x1 + x2) / 2, w = x2 - x1), and the normalised Gaussian Wasserstein distance is

    NWD = exp(-W / C),

1 for equal boxes, above 0 for all (Wang, Xu, Yang & Yu 2021, arXiv 2110.13389, equations 4 to 9). C is the mean size of
the objects, sqrt(w h), in that paper of a whole set; here of the batch's true boxes, so that no number has to be found
for each set, and an offset of as many pixels weighs the same for a small grain and a large one of a batch.

A share s of it goes into the task-aligned assignment's overlap and into the loss of boxes:

    overlap = (1 - s) max(CIoU, 0) + s NWD        L_box = (1 - s) (1 - CIoU) + s (1 - NWD)

The overlap also is what a grain's anchors are taught as the probability of its class, so that it rises with s.
"""

from __future__ import annotations

from typing import Any

import torch

from ... import offline

offline.switch_off()
from ultralytics.utils.loss import BboxLoss  # noqa: E402
from ultralytics.utils.tal import TaskAlignedAssigner  # noqa: E402

__all__ = ["WassersteinAssigner", "WassersteinBoxLoss", "mean_size", "nwd", "wasserstein"]


def wasserstein(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """W of boxes `xyxy`, (..., 4) twice -> (...); in their unit. Its gradient is 0 where they are equal."""
    return torch.linalg.vector_norm(a - b, dim=-1) * 0.5**0.5


def nwd(a: torch.Tensor, b: torch.Tensor, size: torch.Tensor | float) -> torch.Tensor:
    """NWD of boxes `xyxy`, (..., 4) twice -> (...), in (0, 1]; `size` is C, in their unit."""
    return torch.exp(-wasserstein(a, b) / size)


def mean_size(boxes: torch.Tensor, there: torch.Tensor) -> torch.Tensor:
    """C: the mean of sqrt(w h) of boxes `xyxy`, (B, N, 4), where `there`, (B, N, 1), is not 0; 1 without boxes."""
    sides = (boxes[..., 2:] - boxes[..., :2]).prod(-1, keepdim=True).clamp(min=0).sqrt()
    number = there.sum()
    return torch.where(number > 0, (sides * there).sum() / number.clamp(min=1), 1.0).clamp(min=1e-3)


class WassersteinAssigner(TaskAlignedAssigner):
    """ultralytics' task-aligned assignment, with a share of NWD in the overlap of a prediction and a grain.

    Args:
        like: The assignment to take the settings of.
        share: s.

    Attributes:
        size: C of the last batch, in pixels.
    """

    def __init__(self, like: TaskAlignedAssigner, share: float):
        super().__init__(like.topk, like.num_classes, like.alpha, like.beta, like.stride, like.eps, like.topk2)
        self.share, self.size = share, torch.ones(())

    def forward(
        self,
        pd_scores: torch.Tensor,
        pd_bboxes: torch.Tensor,
        anc_points: torch.Tensor,
        gt_labels: torch.Tensor,
        gt_bboxes: torch.Tensor,
        mask_gt: torch.Tensor,
        **extra: Any,
    ) -> Any:
        """As ultralytics'; boxes in pixels."""
        self.size = mean_size(gt_bboxes, mask_gt)
        return super().forward(pd_scores, pd_bboxes, anc_points, gt_labels, gt_bboxes, mask_gt, **extra)

    def iou_calculation(self, gt_bboxes: torch.Tensor, pd_bboxes: torch.Tensor) -> torch.Tensor:
        """The overlap of pairs of boxes in pixels, (N, 4) twice -> (N,)."""
        overlap = super().iou_calculation(gt_bboxes, pd_bboxes)
        return (1 - self.share) * overlap + self.share * nwd(gt_bboxes, pd_bboxes, self.size).to(overlap.dtype)


class WassersteinBoxLoss(BboxLoss):
    """ultralytics' loss of boxes, with a share of 1 - NWD in place of 1 - CIoU.

    Args:
        bins: Bins of the distribution of a side.
        assigner: Which says s, and C of the batch whose loss is asked for.
    """

    def __init__(self, bins: int, assigner: WassersteinAssigner):
        super().__init__(bins)
        self.assigner = assigner

    def forward(
        self,
        pred_dist: torch.Tensor,
        pred_bboxes: torch.Tensor,
        anchor_points: torch.Tensor,
        target_bboxes: torch.Tensor,
        target_scores: torch.Tensor,
        target_scores_sum: torch.Tensor,
        fg_mask: torch.Tensor,
        imgsz: torch.Tensor,
        stride: torch.Tensor,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """As ultralytics': the losses of boxes and of sides; boxes in cells of `stride`, (anchors, 1)."""
        overlap, sides = super().forward(
            pred_dist,
            pred_bboxes,
            anchor_points,
            target_bboxes,
            target_scores,
            target_scores_sum,
            fg_mask,
            imgsz,
            stride,
        )
        image, anchor = fg_mask.nonzero(as_tuple=True)
        weight, cell = target_scores[image, anchor].sum(-1), stride[anchor]
        near = nwd(pred_bboxes[image, anchor] * cell, target_bboxes[image, anchor] * cell, self.assigner.size)
        share, apart = self.assigner.share, ((1 - near) * weight).sum() / target_scores_sum
        return (1 - share) * overlap + share * apart, sides
