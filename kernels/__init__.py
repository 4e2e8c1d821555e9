"""The operators, each with a plain PyTorch reference and fast paths behind one call."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .attention.routing import bilevel_routing_attention
    from .attention.sigmoid import sigmoid_attention
    from .depthwise import depthwise_conv2d
    from .edge import sobel_magnitude
    from .omni_kernel import omni

_LAZY = {
    "bilevel_routing_attention": ".attention.routing",
    "depthwise_conv2d": ".depthwise",
    "omni": ".omni_kernel",
    "sigmoid_attention": ".attention.sigmoid",
    "sobel_magnitude": ".edge",
}

__all__ = ["bilevel_routing_attention", "depthwise_conv2d", "omni", "sigmoid_attention", "sobel_magnitude"]


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(import_module(_LAZY[name], __name__), name)
    raise AttributeError(f"module 'palyno.kernels' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
