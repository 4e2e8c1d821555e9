"""How sure a detector may be of names: the temperature that makes its shares agree with what comes true.

One number divides the log odds of all classes (Guo et al. 2017, section 4.2): the one that gives the true names of the
grains found on validation images the greatest likelihood. The order of the names does not change with it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from ..data.annotations import LabelledImage
from ..data.taxa import UNKNOWN
from ..errors import UsageError
from .calibration import calibration
from .detector import Detector
from .metrics import match
from .naming import Name, Namer, log_odds, shares
from .results import SlideResult
from .validate import LOWEST
from .weights import load_weights, save_weights

__all__ = ["Fit", "fit_temperature", "likeliest_temperature", "with_temperature"]

# Beyond this a network is not too sure of its names or too little, it has none.
COLDEST, HOTTEST = 0.1, 10.0


@dataclass(frozen=True)
class Fit:
    """A temperature and what it changes.

    Attributes:
        temperature: 1 where there were no grains to fit it to.
        grains: Grains found, with true names that the detector has.
        likelihood: Mean log likelihood of the true names at temperature 1 and at this one.
        ece: Expected calibration error of the likeliest names, likewise.
    """

    temperature: float
    grains: int
    likelihood: tuple[float, float]
    ece: tuple[float, float]


class _Untold(Namer):
    """In place of a name every class with the probability that the network gave it."""

    def names(self, probabilities: np.ndarray) -> list[Name]:
        return [Name(UNKNOWN, "unknown", tuple(enumerate(row))) for row in probabilities.tolist()]  # type: ignore[arg-type]


def fit_temperature(
    detector: Detector,
    images: Sequence[Path],
    truth: Sequence[LabelledImage],
    *,
    conf: float = 0.25,
    seen: Callable[[SlideResult], None] | None = None,
    **arguments: Any,
) -> Fit:
    """The temperature that fits a detector's names to labelled images.

    Args:
        detector: The detector; the temperature that it has does not matter.
        images: Images that it was not trained on.
        truth: Their true boxes, in the same order.
        conf: Least confidence of the grains that are looked at.
        seen: Is handed what was found on each image, from the confidence of `validate.LOWEST`, without names: so one
            pass serves to choose a threshold, too.
        **arguments: As `Detector.detect` takes them.
    """
    names = {name: i for i, name in enumerate(detector.classes)}
    untold = Detector(detector.network, detector.metadata, namer=_Untold(detector.classes))
    probabilities, right = [], []
    for image, true in zip(images, truth, strict=True):
        result = untold.detect(image, conf=conf if seen is None else min(conf, LOWEST), **arguments)
        if seen is not None:
            seen(replace(result, candidates=((),) * len(result)))
            result = result.above(conf)
        for i, partner in enumerate(match(true.boxes, result.boxes, result.confidence)):
            if partner >= 0 and true.labels[partner] in names:
                probabilities.append([p for _, p in result.candidates[i]])
                right.append(names[true.labels[partner]])
    if not right:
        return Fit(1.0, 0, (float("nan"),) * 2, (float("nan"),) * 2)
    z, true_class = log_odds(np.array(probabilities)), np.array(right)
    temperature = likeliest_temperature(z, true_class)
    rows = np.arange(len(right))
    likelihood, ece = [], []
    for q in (shares(z), shares(z, temperature)):
        likelihood.append(float(np.log(q[rows, true_class].clip(1e-300)).mean()))
        ece.append(calibration(q.max(1), q.argmax(1) == true_class).ece)
    return Fit(temperature, len(right), (likelihood[0], likelihood[1]), (ece[0], ece[1]))


def likeliest_temperature(z: np.ndarray, right: np.ndarray) -> float:
    """The temperature in [0.1, 10] that gives true classes the greatest likelihood; 1 where there is but one class.

    Args:
        z: Log odds of each class, (N, classes).
        right: Index of the true class, (N,).

    Raises:
        UsageError: No rows.
    """
    if not len(right):
        raise UsageError("expected grains with true names, got none")
    z, rows = np.asarray(z, np.float64), np.arange(len(right))
    if z.shape[1] == 1:
        return 1.0

    def slope(b: float) -> float:
        return float((z[rows, right] - (shares(z, 1 / b) * z).sum(1)).mean())

    # The likelihood is concave in 1 / T; its slope there is the true class's log odds less their mean under the shares.
    low, high = 1 / HOTTEST, 1 / COLDEST
    if slope(low) <= 0 or slope(high) >= 0:
        return HOTTEST if slope(low) <= 0 else COLDEST
    while high - low > 1e-6:
        middle = (low + high) / 2
        low, high = (middle, high) if slope(middle) > 0 else (low, middle)
    return 2 / (low + high)


def with_temperature(weights: Path, out: Path, temperature: float, **changes: Any) -> Path:
    """Writes a weights file again with another temperature of names.

    Args:
        weights: The file.
        out: The new one, which may be the same.
        temperature: The temperature.
        **changes: Further entries of `Metadata`, such as `naming_threshold`.

    Raises:
        RejectedModelError: The file is not what it should be.
        UsageError: Entries that cannot be.
    """
    model, about = load_weights(weights)
    said = {key: value for key, value in vars(about).items() if key != "sha256"}
    return save_weights(out, model, **said | {"naming_temperature": temperature} | changes)
