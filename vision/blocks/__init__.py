"""One paper's block per file, in plain PyTorch."""

from .biformer import BiFormerPyramid
from .conv import ConvNormAct
from .downsample import SPDConv
from .edge import HEM, SobelMagnitude, SobelReference
from .fusion import SEF, Concat
from .omni import CSPOKM, OmniKernel
from .routing import BiFormerBlock, FullAttention, RoutingAttention

__all__ = [
    "CSPOKM",
    "HEM",
    "SEF",
    "BiFormerBlock",
    "BiFormerPyramid",
    "Concat",
    "ConvNormAct",
    "FullAttention",
    "OmniKernel",
    "RoutingAttention",
    "SPDConv",
    "SobelMagnitude",
    "SobelReference",
]
