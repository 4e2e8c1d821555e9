"""How depthwise convolutions are cut into products of matrices for `toeplitz` and `toeplitz_weight`.

The cuts are those that were the fastest of the measured ones on an NVIDIA H200. What made the difference: patches that
begin on sectors of the memory (8 x 8 pixels do not, and took a fifth longer), and, for maps that one patch spans, large
tiles of both operands, which need no columns beyond the map (two fifths less time at 32 x 32). Devices with less shared
memory multiply fewer pixels at once.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from functools import lru_cache

import torch
import torch.nn.functional as F

from ..backends import tf32_convolutions

__all__ = [
    "Plan",
    "WeightPlan",
    "Window",
    "aligned",
    "launching",
    "limits",
    "plan_convolution",
    "plan_weights",
    "precision",
]


@dataclass(frozen=True)
class Plan:
    """How a convolution is cut.

    Attributes:
        patch: Rows and columns of the output pixels of a patch, powers of two.
        patches: Of a program, a power of two.
        step: Pixels of the window multiplied at once, a power of two.
        warps: Of a program.
        stages: Steps whose operands are on their way.
    """

    patch: tuple[int, int]
    patches: int
    step: int
    warps: int
    stages: int

    def shared(self, size: int) -> int:
        """Bytes of shared memory of a program, for elements of `size` bytes."""
        return self.stages * (self.patches + self.patch[0] * self.patch[1]) * self.step * size


@dataclass(frozen=True)
class WeightPlan:
    """How the gradient of the weights is cut.

    Attributes:
        patch: Rows and columns of the output pixels of a patch, powers of two.
        taps: Window pixels of a program, a power of two.
        patches: Multiplied in one step, a power of two.
        warps: Of a program.
        stages: Steps whose operands are on their way.
        splits: Parts that the patches are cut into, summed afterwards.
    """

    patch: tuple[int, int]
    taps: int
    patches: int
    warps: int
    stages: int
    splits: int

    def shared(self, size: int) -> int:
        """Bytes of shared memory of a program, for elements of `size` bytes."""
        return self.stages * (self.taps + self.patch[0] * self.patch[1]) * self.patches * size


@dataclass(frozen=True)
class Window:
    """The input pixels that a patch of output pixels sees.

    Attributes:
        kernel: Sides of the convolution's kernel.
        width: Pixels of the map across.
        vector: Elements of 16 bytes.
    """

    kernel: tuple[int, int]
    width: int
    vector: int

    @classmethod
    def of(cls, kernel: tuple[int, int], width: int, size: int) -> Window:
        """The windows in a map of elements of `size` bytes."""
        return cls(kernel, width, 16 // size)

    def rows(self, patch: tuple[int, int]) -> int:
        """Rows of the window."""
        return self.kernel[0] + patch[0] - 1

    def columns(self, patch: tuple[int, int]) -> tuple[int, int]:
        """Columns left of the patch and columns in all, whole vectors of them.

        Where one patch spans the map, its window is the map's columns and no more.
        """
        half = self.kernel[1] // 2
        left = self._up(half)
        if self.width <= patch[1]:
            return 0, self._up(self.width)
        return left, self._up(left + patch[1] + half)

    def table_rows(self, plan: Plan) -> int:
        """Rows of the table: of the kernel, and of zeros that other patch rows and the last step reach."""
        return self.kernel[0] + 2 * (plan.patch[0] - 1) + -(-plan.step // self.columns(plan.patch)[1])

    def _up(self, columns: int) -> int:
        return -(-columns // self.vector) * self.vector


def aligned(x: torch.Tensor, vector: int) -> torch.Tensor:
    """The map itself where it is contiguous with rows that begin on 8 bytes, else a copy.

    Rows of other widths get zeros on the right, so that they begin on 16 bytes: 2-byte loads take far longer.
    """
    return x.contiguous() if 2 * x.shape[3] % vector == 0 else F.pad(x, (0, -x.shape[3] % vector)).contiguous()


def precision(dtype: torch.dtype, allow_tf32: bool | None) -> str:
    """How Triton is to multiply numbers of this type."""
    if dtype == torch.float32 and allow_tf32 is None:
        allow_tf32 = tf32_convolutions()
    return "tf32" if dtype != torch.float32 or allow_tf32 else "tf32x3"


def launching(device: torch.device) -> AbstractContextManager[object]:
    """Makes the device the one that kernels are launched on; nothing to do for Triton's interpreter."""
    return torch.cuda.device(device) if device.type == "cuda" else nullcontext()


@lru_cache(maxsize=16)
def limits(device: torch.device) -> tuple[int, int]:
    """Multiprocessors of a device and bytes of shared memory a program may have; small ones for the interpreter."""
    if device.type != "cuda":
        return 4, 1 << 15
    properties = torch.cuda.get_device_properties(device)
    return properties.multi_processor_count, properties.shared_memory_per_block_optin


# Pixels of the window, or patches, of 2 bytes that are multiplied at once, and stages, the fastest first.
DEPTHS = ((64, 3), (32, 3), (32, 2))
# Programs that a multiprocessor should have of the weights' gradient, and the steps that each should have at least.
PROGRAMS, STEPS = 4, 4


@lru_cache(maxsize=256)
def plan_convolution(width: int, size: int, shared: int) -> Plan:
    """The plan of `toeplitz.forward`.

    Args:
        width: Pixels of the map across.
        size: Bytes of an element, 2 or 4.
        shared: Bytes of shared memory that a program may have.
    """
    patch, patches, warps = ((4, 32), 128, 8) if 16 < width <= 32 else ((4, 16), 64, 4)
    plans = [Plan(patch, patches, 2 * depth // size, warps, stages) for depth, stages in DEPTHS]
    return next((plan for plan in plans if plan.shared(size) <= shared), plans[-1])


@lru_cache(maxsize=256)
def plan_weights(
    batch: int,
    channels: int,
    height: int,
    width: int,
    kernel: tuple[int, int],
    size: int,
    multiprocessors: int,
    shared: int,
) -> WeightPlan:
    """The plan of `weight_gradient`: as many parts as fill the device.

    Args:
        batch: Images.
        channels: Of an image.
        height: Pixels.
        width: Pixels.
        kernel: Sides of the convolution's kernel.
        size: Bytes of an element, 2 or 4.
        multiprocessors: Of the device.
        shared: Bytes of shared memory that a program may have.
    """
    plans = [WeightPlan((4, 16), 128, 2 * depth // size, 4, stages, 1) for depth, stages in DEPTHS]
    plan = next((plan for plan in plans if plan.shared(size) <= shared), plans[-1])
    window = Window.of(kernel, width, size)
    programs = channels * -(-window.rows(plan.patch) * window.columns(plan.patch)[1] // plan.taps)
    steps = batch * -(-height // plan.patch[0]) * -(-width // plan.patch[1]) // plan.patches
    return replace(plan, splits=max(1, min(-(-PROGRAMS * multiprocessors // programs), steps // STEPS)))
