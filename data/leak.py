"""Does the surrounding of a pasted grain give it away? A classifier that sees only the ring around it answers.

Each scene is composed twice with the same random numbers, once with its grains, once without. Rings around the grains
are then compared with the same rings in the empty twin, which differ by nothing but what the grain left outside its
outline: a paste border, a halo of its old background, or honest optics. An area under the curve (AUC) of 0.5 is chance.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from .scene import Scene

__all__ = ["RingLeak", "ring_features", "ring_leak"]


@dataclass(frozen=True)
class RingLeak:
    """What rings give away.

    Attributes:
        rings: Grains whose ring was used.
        presence_auc: AUC of "a grain was pasted here", cross-validated by scene; chance 0.5.
        taxon_accuracy: Share of taxa named right from the ring, cross-validated by scene.
        taxon_chance: What always naming the most frequent taxon gets right.
    """

    rings: int
    presence_auc: float
    taxon_accuracy: float
    taxon_chance: float


def ring_features(
    picture: np.ndarray, mask: np.ndarray, others: np.ndarray, inner: int, width: int
) -> np.ndarray | None:
    """Colour, contrast and texture of the ring `inner` to `inner + width` pixels outside a mask.

    Args:
        picture: uint8, shape (H, W, 3).
        mask: Boolean, shape (H, W), the grain.
        others: Boolean, shape (H, W), all other grains; a ring that touches one is not used.
        inner: Distance from the outline in pixels.
        width: Width in pixels.

    Returns:
        float32 features, or None if less than half of the ring is free.
    """
    distance = cv2.distanceTransform((~mask).astype(np.uint8), cv2.DIST_L2, 5)
    ring = (distance > inner) & (distance <= inner + width)
    around = (distance > inner + width) & (distance <= inner + 2 * width)
    free = cv2.distanceTransform((~others).astype(np.uint8), cv2.DIST_L2, 5) > inner + 2
    if ring.sum() < 50 or (ring & free).sum() < 0.5 * ring.sum() or (around & free).sum() < 50:
        return None
    ring, around = ring & free, around & free
    light = picture.astype(np.float32)
    fine = np.abs(light - cv2.GaussianBlur(light, (0, 0), 1.0))
    edges = np.hypot(cv2.Sobel(light, cv2.CV_32F, 1, 0), cv2.Sobel(light, cv2.CV_32F, 0, 1))
    near, far = light[ring], light[around]
    return np.concatenate(
        [
            near.mean(0) - far.mean(0),
            near.std(0),
            near.std(0) - far.std(0),
            fine[ring].mean(0) - fine[around].mean(0),
            edges[ring].mean(0) - edges[around].mean(0),
            np.percentile(near - np.median(far, axis=0), (2, 98), axis=0).ravel(),
        ]
    ).astype(np.float32)


def ring_leak(pairs: Sequence[tuple[Scene, Scene]], *, inner: int = 4, width: int = 8, seed: int = 0) -> RingLeak:
    """Trains classifiers on rings and scores them on scenes that they did not see.

    Args:
        pairs: Each scene with its twin without grains; both with masks.
        inner: Distance of the ring from the outline in pixels.
        width: Width of the ring in pixels.
        seed: Of the classifiers.
    """
    from sklearn.ensemble import ExtraTreesClassifier
    from sklearn.metrics import roc_auc_score
    from sklearn.model_selection import GroupKFold, cross_val_predict

    features, pasted, groups, taxa = [], [], [], []
    for index, (scene, empty) in enumerate(pairs):
        together = np.zeros(scene.picture.shape[:2], int)
        for mask in scene.masks:
            together += mask
        for grain, mask in zip(scene.grains, scene.masks, strict=True):
            others = together - mask > 0
            both = [ring_features(p, mask, others, inner, width) for p in (scene.picture, empty.picture)]
            if both[0] is None or both[1] is None:
                continue
            features += both
            pasted += [1, 0]
            groups += [index, index]
            taxa.append(grain.taxon)
    x, y, group = np.array(features), np.array(pasted), np.array(groups)
    folds = GroupKFold(5)
    model = ExtraTreesClassifier(200, min_samples_leaf=2, random_state=seed)
    score = cross_val_predict(model, x, y, groups=group, cv=folds, method="predict_proba")[:, 1]
    names, codes = np.unique(taxa, return_inverse=True)
    guess = cross_val_predict(model, x[::2], codes, groups=group[::2], cv=folds)
    return RingLeak(
        rings=len(taxa),
        presence_auc=float(roc_auc_score(y, score)),
        taxon_accuracy=float((guess == codes).mean()),
        taxon_chance=float(np.bincount(codes, minlength=len(names)).max() / len(codes)),
    )
