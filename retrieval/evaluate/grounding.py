"""Measures of where a phrase is said to be seen; papers give several of them the same name, so each has its own here.

A map holds a score a pixel, (H, W), the higher the surer; a mask is true where the phrase is right.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ...errors import UsageError

__all__ = ["THRESHOLDS", "cnr", "iou", "iou_over_thresholds", "iou_with_background", "pointing_game"]

# Boecking et al. 2022 (BioViL, arXiv 2204.09817).
THRESHOLDS = (0.1, 0.2, 0.3, 0.4, 0.5)


def iou(found: np.ndarray, truth: np.ndarray) -> float:
    """Intersection over union of two masks; 1 if both are empty, as nothing was to be found and nothing was.

    Args:
        found: (H, W) bool.
        truth: (H, W) bool.
    """
    found, truth = _mask("found", found), _mask("truth", truth, np.shape(found))
    union = np.logical_or(found, truth).sum()
    return float(np.logical_and(found, truth).sum() / union) if union else 1.0


def iou_with_background(found: np.ndarray, truth: np.ndarray) -> float:
    """Mean of the overlap of what is there and of what is not (Nützel et al. 2025, arXiv 2507.12236, their "mIoU").

    Where little is to be found, a mask that finds nothing has nearly one half already.
    """
    return (iou(found, truth) + iou(~_mask("found", found), ~_mask("truth", truth))) / 2


def iou_over_thresholds(scores: np.ndarray, truth: np.ndarray, thresholds: Sequence[float] = THRESHOLDS) -> float:
    """Mean overlap of the map cut at several thresholds (BioViL's "mIoU"); `scores` are of [0, 1], or cosines."""
    scores = _map(scores)
    return float(np.mean([iou(scores >= threshold, truth) for threshold in thresholds]))


def cnr(scores: np.ndarray, truth: np.ndarray, *, signed: bool = True) -> float:
    """Contrast to noise: (mean inside - mean outside) / sqrt(variance inside + variance outside).

    Args:
        scores: (H, W).
        truth: (H, W) bool, some pixels true and some not.
        signed: As Nützel et al. 2025, with unbiased variances; else the absolute value with variances over n, as
            BioViL.

    Returns:
        Infinite where neither side varies, 0 if the means are equal, too.

    Raises:
        UsageError: The mask is all true or all false, or for unbiased variances one side is a single pixel.
    """
    scores, truth = _map(scores), _mask("truth", truth, np.shape(scores))
    inside, outside = scores[truth], scores[~truth]
    ddof = 1 if signed else 0
    if min(len(inside), len(outside)) <= ddof:
        raise UsageError(
            f"truth: expected more than {ddof} pixels inside and outside, got {len(inside)}, {len(outside)}"
        )
    contrast = inside.mean() - outside.mean()
    noise = np.sqrt(inside.var(ddof=ddof) + outside.var(ddof=ddof))
    with np.errstate(divide="ignore"):
        value = 0.0 if contrast == 0 else float(np.divide(contrast, noise))
    return value if signed else abs(value)


def pointing_game(scores: np.ndarray, truth: np.ndarray) -> float:
    """Whether the highest pixel lies inside (Zhang et al. 2018, IJCV 126, 1084); of equal ones, the share inside."""
    scores, truth = _map(scores), _mask("truth", truth, np.shape(scores))
    return float(truth[scores == scores.max()].mean())


def _map(scores: np.ndarray) -> np.ndarray:
    scores = np.asarray(scores, float)
    if scores.ndim != 2 or not scores.size or not np.isfinite(scores).all():
        raise UsageError(f"scores: expected a map (H, W) of finite numbers, got shape {scores.shape}")
    return scores


def _mask(name: str, mask: np.ndarray, shape: tuple[int, ...] | None = None) -> np.ndarray:
    mask = np.asarray(mask)
    if mask.dtype != bool or mask.ndim != 2 or (shape is not None and mask.shape != shape):
        raise UsageError(f"{name}: expected a bool mask {shape or '(H, W)'}, got {mask.dtype} {mask.shape}")
    return mask
