"""palyno finds, names, counts, measures and explains pollen grains on microscope slides.

    import palyno

    detector = palyno.load("hieraedge-n")
    result = detector.detect("slide.tif")
    result.counts()

Everything here is loaded when first used, so that `import palyno` is quick and needs no torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from .errors import (
    AnnotationError,
    InputError,
    NothingToDoError,
    PalynoError,
    RejectedModelError,
    SlideError,
    UnknownModelError,
    UsageError,
)

if TYPE_CHECKING:
    from .retrieval.collection import Collection
    from .vision.detector import Detector, load
    from .vision.results import Grain, SlideResult

__version__ = "0.1.0"

_LAZY = {
    "Collection": ".retrieval.collection",
    "load": ".vision.detector",
    "Detector": ".vision.detector",
    "Grain": ".vision.results",
    "SlideResult": ".vision.results",
}

__all__ = [
    "AnnotationError",
    "Collection",
    "Detector",
    "Grain",
    "InputError",
    "NothingToDoError",
    "PalynoError",
    "RejectedModelError",
    "SlideError",
    "SlideResult",
    "UnknownModelError",
    "UsageError",
    "__version__",
    "load",
]


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(import_module(_LAZY[name], __name__), name)
    raise AttributeError(f"module 'palyno' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
