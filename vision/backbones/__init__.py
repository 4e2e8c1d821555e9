"""Backbones by name. Importing this registers BiFormer with timm; detectors need no such import, see `pyramid`."""

from .biformer import BiFormer

__all__ = ["BiFormer"]
