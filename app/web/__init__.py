"""The web page. `serve` opens it, `build_page` makes it for a detector; Gradio is imported when one of them is used."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .page import build_page
    from .server import serve

__all__ = ["build_page", "serve"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(".page" if name == "build_page" else ".server", __name__), name)
