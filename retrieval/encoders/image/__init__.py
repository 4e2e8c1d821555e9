"""Pictures of grains as vectors: grains that look alike, whatever their stain, lie close."""

from __future__ import annotations

from typing import Any

__all__ = ["ImageEncoder"]


def __getattr__(name: str) -> Any:
    # Imports OpenCV, which who trains or reads weights here may not need.
    if name == "ImageEncoder":
        from .encoder import ImageEncoder

        return ImageEncoder
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
