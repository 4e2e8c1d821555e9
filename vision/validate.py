"""How good a detector is on a labelled set, through the very calls that users make."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, replace
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import numpy as np

from ..data.annotations import LabelledImage
from ..data.taxa import UNKNOWN
from ..errors import InputError, NothingToDoError
from .confusion import agrees
from .detector import Detector
from .metrics import average_precision, count_quality, match
from .predictions import as_kept
from .results import SlideResult

__all__ = [
    "LOWEST",
    "NAMED",
    "OF_UNKNOWN",
    "by_best_class",
    "by_several_classes",
    "evaluate",
    "named",
    "predict",
    "read_split",
    "validate",
    "without_names",
]

# Average precision follows the ranking down to where next to nothing is right. Lower still, the traces of many classes
# add up to a trace of a grain at every anchor.
LOWEST = 0.05

# What a grain was called that was found.
NAMED = ("right", "right_coarser", "wrong", "unknown")
OF_UNKNOWN = ("called_unknown", "given_a_name")


def read_split(data: Path, split: str, only: str | None = None) -> tuple[list[Path], list[LabelledImage]]:
    """The images of one split of a YOLO data set, or of a COCO file (`.json`), which is one split, and their boxes.

    Args:
        data: The data set's `data.yaml`, or the COCO file.
        split: Name of the split.
        only: Pattern that the images' names match, such as `scene_*`; None takes all.

    Raises:
        InputError: There is no such split, or it is empty.
        NothingToDoError: No image's name matches.
    """
    from ..data.annotations.coco import read_coco
    from ..data.annotations.yolo import find_root, read_yolo

    truth = read_coco(data) if data.suffix == ".json" else read_yolo(data, split=split)
    if not truth:
        raise InputError(f"{data}: expected images in the split {split}, found none")
    if only is not None and not (truth := [image for image in truth if fnmatch(Path(image.image).name, only)]):
        raise NothingToDoError(f"no image of the split {split} matches {only!r}")
    root = _beside(data, truth[0].image) if data.suffix == ".json" else find_root(data)
    return [root / image.image for image in truth], truth


def _beside(file: Path, picture: str) -> Path:
    """The folder that a COCO file names a picture from: its own, or where data sets with `annotations/` keep them."""
    above = file.parent.parent
    folders = [file.parent, file.parent / "images", above / "images" / file.stem, above / "images", above / file.stem]
    return next((folder for folder in folders if (folder / picture).is_file()), file.parent)


def validate(
    detector: Detector,
    images: Sequence[Path],
    truth: Sequence[LabelledImage],
    *,
    conf: float = 0.25,
    progress: Callable[[int, int], None] | None = None,
    **arguments: Any,
) -> dict[str, Any]:
    """Figures of a detector on labelled images.

    Args:
        detector: The detector.
        images: The images.
        truth: Their true boxes, in the same order.
        conf: Threshold for everything that is asked of a count.
        progress: Called with the number of images done and to do.
        **arguments: For `Detector.detect`.

    Returns:
        `mAP50`, `mAP50-95` and the rest of `average_precision`, each box under its likeliest class;
        `mAP50_multi_label` and `mAP50-95_multi_label`, each under its three likeliest, near to how ultralytics and the
        papers that use it count; `AP50_any` without regard to names; at `conf` the figures of `CountQuality`; `names`,
        how matched grains were named; `unknown`, what became of unknown grains.
    """
    results = predict(detector, images, progress=progress, **arguments)
    return {"model": detector.name, "sha256": detector.sha256, **evaluate(truth, results, detector.classes, conf=conf)}


def predict(
    detector: Detector, images: Sequence[Path], *, progress: Callable[[int, int], None] | None = None, **arguments: Any
) -> list[SlideResult]:
    """What a detector finds on images down to the confidence `LOWEST`, as short as `write_predictions` keeps it.

    Arguments as for `validate`.
    """
    results = []
    for image in images:
        results.append(as_kept(detector.detect(image, conf=LOWEST, **arguments)))
        if progress:
            progress(len(results), len(images))
    return results


def evaluate(
    truth: Sequence[LabelledImage], results: Sequence[SlideResult], classes: Sequence[str], *, conf: float = 0.25
) -> dict[str, Any]:
    """Figures of results on labelled images: those of `validate` but for the detector's name and hash.

    Args:
        truth: True boxes.
        results: What was found, in the same order.
        classes: The detector's classes.
        conf: Threshold for everything that is asked of a count.
    """
    best = [by_best_class(result, classes) for result in results]
    grains, true_grains = without_names([r.to_annotations() for r in results]), without_names(truth)
    at_conf = [result.above(conf) for result in results]
    counts = count_quality(truth, [r.to_annotations() for r in at_conf])
    several = average_precision(truth, [by_several_classes(result, classes) for result in results], classes)
    return {
        "conf": conf,
        **average_precision(truth, best, classes),
        **{f"{figure}_multi_label": several[figure] for figure in ("mAP50", "mAP50-95")},
        "AP50_any": average_precision(true_grains, grains, ["grain"])["mAP50"],
        "counts": {**asdict(counts), "f1": counts.f1},
        **_naming(truth, at_conf),
    }


def named(truth: Sequence[LabelledImage], results: Iterable[SlideResult]) -> dict[str, np.ndarray]:
    """How the grains that were found were named, in each image.

    Args:
        truth: True boxes.
        results: What was found at the operating threshold, in the same order.

    Returns:
        `names` (images, 4), see `NAMED`: right, right at a coarser rank than the label's, wrong, and `unknown`; and
        `unknown` (images, 2), see `OF_UNKNOWN`, of the grains that no one could name.
    """
    tally = {"names": np.zeros((len(truth), len(NAMED)), int), "unknown": np.zeros((len(truth), len(OF_UNKNOWN)), int)}
    for row, (true, result) in enumerate(zip(truth, results, strict=True)):
        partner = match(true.boxes, result.boxes, result.confidence)
        for i in np.flatnonzero(partner >= 0):
            label, name = true.labels[partner[i]], result.taxa[i]
            if label == UNKNOWN:
                tally["unknown"][row, OF_UNKNOWN.index("called_unknown" if name == UNKNOWN else "given_a_name")] += 1
                continue
            if name == label:
                kind = "right"
            elif name == UNKNOWN:
                kind = "unknown"
            else:
                kind = "right_coarser" if agrees(name, result.ranks[i], label) else "wrong"
            tally["names"][row, NAMED.index(kind)] += 1
    return tally


def _naming(truth: Sequence[LabelledImage], results: Iterable[SlideResult]) -> dict[str, Any]:
    """`named` over all images."""
    names, unknown = (part.sum(0).tolist() for part in named(truth, results).values())
    return {
        "names": dict(zip(NAMED, names, strict=True)),
        "unknown": {"true": sum(unknown), **dict(zip(OF_UNKNOWN, unknown, strict=True))},
    }


def without_names(images: Sequence[LabelledImage]) -> list[LabelledImage]:
    """The images with every box called `grain`."""
    return [replace(image, labels=("grain",) * len(image)) for image in images]


def by_best_class(result: SlideResult, classes: Sequence[str]) -> LabelledImage:
    """Each box under its likeliest class with that class's probability, as detectors are compared."""
    known = set(classes)
    best = [next(((n, p) for n, p in c if n in known), (UNKNOWN, 0.0)) for c in result.candidates]
    return _as(result, [name for name, _ in best], np.array([score for _, score in best], np.float32))


def by_several_classes(result: SlideResult, classes: Sequence[str]) -> LabelledImage:
    """Each box once under each class among its candidates, with that class's probability: several labels a box.

    COCO's evaluation allows it, and ultralytics' validation, which published figures come from, takes all classes of a
    box so; here they are the three at most, of at least 0.01, that a result keeps.
    """
    known = set(classes)
    rows = [(i, name, p) for i, found in enumerate(result.candidates) for name, p in found if name in known]
    scores = np.array([p for _, _, p in rows], np.float32)
    boxes = result.boxes[[i for i, _, _ in rows]].reshape(-1, 4)
    labels = tuple(name for _, name, _ in rows)
    return LabelledImage(result.slide, result.width, result.height, boxes, labels, scores)


def _as(result: SlideResult, labels: Sequence[str], scores: np.ndarray | None = None) -> LabelledImage:
    confidence = result.confidence if scores is None else scores
    return LabelledImage(result.slide, result.width, result.height, result.boxes, tuple(labels), confidence)
