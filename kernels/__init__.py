"""The operators, each with a plain PyTorch reference and fast paths behind one call."""

from .depthwise import depthwise_conv2d

__all__ = ["depthwise_conv2d"]
