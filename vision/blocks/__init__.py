"""One paper's block per file, in plain PyTorch."""

from .conv import ConvNormAct
from .downsample import SPDConv
from .edge import HEM, SobelMagnitude, SobelReference
from .fusion import SEF, Concat
from .omni import CSPOKM, OmniKernel

__all__ = [
    "CSPOKM",
    "HEM",
    "SEF",
    "Concat",
    "ConvNormAct",
    "OmniKernel",
    "SPDConv",
    "SobelMagnitude",
    "SobelReference",
]
