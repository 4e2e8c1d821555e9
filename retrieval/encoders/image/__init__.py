"""Pictures of grains as vectors: grains that look alike, whatever their stain, lie close."""

from __future__ import annotations

from importlib import import_module
from typing import Any

__all__ = ["ImageEncoder", "RegionEncoder"]

# Imported when first asked for: they need OpenCV, which who trains or reads weights here may not.
_PLACES = {"ImageEncoder": ".encoder", "RegionEncoder": ".region_encoder"}


def __getattr__(name: str) -> Any:
    if name in _PLACES:
        return getattr(import_module(_PLACES[name], __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
