"""How good boxes are: COCO average precision, and what a counter asks for at one threshold."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..data.annotations import LabelledImage
from .tiles import iou_matrix

__all__ = ["CountQuality", "average_precision", "coco_evaluation", "count_quality", "match"]

# More than any field holds: a lower cap would cut dense fields off, as the customary 100 does.
_MOST = 3000


def average_precision(
    truth: Sequence[LabelledImage], found: Sequence[LabelledImage], classes: Sequence[str]
) -> dict[str, Any]:
    """Average precision as pycocotools computes it, without its cap of 100 boxes an image.

    Args:
        truth: True boxes.
        found: Boxes found, with confidences; the same images in the same order.
        classes: Names that count; others are left out on both sides.

    Returns:
        `mAP50`, `mAP50-95`, `AR`, by size of grain `AP_small` (below 32 px), `AP_medium` and `AP_large` (from 96 px),
        and `per_class` with the mean over thresholds and at 0.5 for every class that occurs. NaN where nothing is.
    """
    with contextlib.redirect_stdout(io.StringIO()):
        evaluation = coco_evaluation(truth, found, classes)
        evaluation.accumulate()
    precision, recall = evaluation.eval["precision"], evaluation.eval["recall"]
    per_class = {
        name: {"AP50": _mean(precision[0, :, k, 0, -1]), "AP50-95": _mean(precision[:, :, k, 0, -1])}
        for k, name in enumerate(classes)
        if (precision[:, :, k, 0, -1] > -1).any()
    }
    return {
        "mAP50": _mean(precision[0, :, :, 0, -1]),
        "mAP50-95": _mean(precision[:, :, :, 0, -1]),
        "AP_small": _mean(precision[:, :, :, 1, -1]),
        "AP_medium": _mean(precision[:, :, :, 2, -1]),
        "AP_large": _mean(precision[:, :, :, 3, -1]),
        "AR": _mean(recall[:, :, 0, -1]),
        "per_class": per_class,
    }


def coco_evaluation(
    truth: Sequence[LabelledImage], found: Sequence[LabelledImage], classes: Sequence[str], *, sizes: bool = True
) -> Any:
    """Pycocotools' evaluation after its matching, images numbered from 1 in their order.

    Without `sizes` it matches once, and not again for small, medium and large grains.
    """
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    coco, results = COCO(), COCO()
    coco.dataset = _dataset(truth, classes)
    # `loadRes` takes no empty list.
    results.dataset = {**coco.dataset, "annotations": []}
    coco.createIndex()
    results.createIndex()
    if rows := _rows(found, classes):
        results = coco.loadRes(rows)
    evaluation = COCOeval(coco, results, "bbox")
    evaluation.params.maxDets = [1, 100, _MOST]
    if not sizes:
        evaluation.params.areaRng, evaluation.params.areaRngLbl = evaluation.params.areaRng[:1], ["all"]
    evaluation.evaluate()
    return evaluation


def match(truth: np.ndarray, boxes: np.ndarray, confidence: np.ndarray, least_iou: float = 0.5) -> np.ndarray:
    """The true box of each box found, surest first, each true box once.

    Args:
        truth: `xyxy`, (M, 4).
        boxes: `xyxy`, (N, 4).
        confidence: (N,).
        least_iou: Least intersection over union.

    Returns:
        (N,) indices into `truth`, -1 for none.
    """
    partner = np.full(len(boxes), -1)
    if not len(truth) or not len(boxes):
        return partner
    iou = iou_matrix(boxes, truth)
    for i in np.argsort(-confidence, kind="stable"):
        j = int(iou[i].argmax())
        if iou[i, j] >= least_iou:
            partner[i] = j
            iou[:, j] = -1
    return partner


@dataclass(frozen=True)
class CountQuality:
    """Counts at one threshold, against true boxes; names do not matter here.

    Attributes:
        images: Images.
        true: True grains.
        found: Grains found.
        precision: Share of the grains found that are grains.
        recall: Share of the true grains that were found; NaN where there are none.
        count_error: Mean over images of |found - true| / true, for images with grains; NaN where there are none.
    """

    images: int
    true: int
    found: int
    precision: float
    recall: float
    count_error: float

    @property
    def f1(self) -> float:
        """Harmonic mean of precision and recall."""
        return 2 * self.precision * self.recall / max(self.precision + self.recall, 1e-9)


def count_quality(truth: Sequence[LabelledImage], found: Sequence[LabelledImage], conf: float = 0.0) -> CountQuality:
    """What a count at a threshold is worth.

    Args:
        truth: True boxes.
        found: Boxes found, with confidences; the same images in the same order.
        conf: Boxes below this are left out.
    """
    hits, errors, n_true, n_found = 0, [], 0, 0
    for true, seen in zip(truth, found, strict=True):
        confidence = _scores(seen)
        keep = confidence >= conf
        hits += int((match(true.boxes, seen.boxes[keep], confidence[keep]) >= 0).sum())
        n_true += len(true)
        n_found += int(keep.sum())
        if len(true):
            errors.append(abs(int(keep.sum()) - len(true)) / len(true))
    return CountQuality(
        images=len(truth),
        true=n_true,
        found=n_found,
        precision=hits / max(n_found, 1),
        recall=hits / n_true if n_true else float("nan"),
        count_error=float(np.mean(errors)) if errors else float("nan"),
    )


def _dataset(truth: Sequence[LabelledImage], classes: Sequence[str]) -> dict[str, Any]:
    index = {name: k for k, name in enumerate(classes, 1)}
    boxes = [
        {"image_id": i, "category_id": index[label], "bbox": _xywh(box), "area": _area(box), "iscrowd": 0}
        for i, image in enumerate(truth, 1)
        for box, label in zip(image.boxes.tolist(), image.labels, strict=True)
        if label in index
    ]
    return {
        "info": {},
        "images": [{"id": i, "width": t.width, "height": t.height} for i, t in enumerate(truth, 1)],
        "annotations": [{"id": n, **box} for n, box in enumerate(boxes, 1)],
        "categories": [{"id": k, "name": name} for name, k in index.items()],
    }


def _rows(found: Sequence[LabelledImage], classes: Sequence[str]) -> list[Mapping[str, Any]]:
    index = {name: k for k, name in enumerate(classes, 1)}
    return [
        {"image_id": i, "category_id": index[label], "bbox": _xywh(box), "score": float(score)}
        for i, image in enumerate(found, 1)
        for box, label, score in zip(image.boxes.tolist(), image.labels, _scores(image), strict=True)
        if label in index
    ]


def _scores(image: LabelledImage) -> np.ndarray:
    return np.ones(len(image)) if image.confidence is None else image.confidence


def _xywh(box: Sequence[float]) -> list[float]:
    x1, y1, x2, y2 = box
    return [x1, y1, x2 - x1, y2 - y1]


def _area(box: Sequence[float]) -> float:
    return (box[2] - box[0]) * (box[3] - box[1])


def _mean(values: np.ndarray) -> float:
    values = values[values > -1]
    return float(values.mean()) if values.size else float("nan")
