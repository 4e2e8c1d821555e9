"""Sigmoid attention forward on the tensor cores of Hopper (compute capability 9.0): CUDA C++, `hopper.cu`.

Compiled at run time for the head's size, number type and form of a block.
"""

from __future__ import annotations

import ctypes
from functools import cache, lru_cache
from pathlib import Path
from typing import NamedTuple

import torch

from ...nvrtc import Kernel, compile_kernel

__all__ = ["forward", "supports"]

TYPES = {torch.float16: 0, torch.bfloat16: 1}
LOG2_E = 1.4426950408889634


class Form(NamedTuple):
    """Form of a block: keys a tile, warpgroups, tiles in shared memory, blocks each multiprocessor; see `hopper.cu`."""

    keys: int
    groups: int
    stages: int
    blocks: int = 1
    share: int = 4
    order: int = 0
    lag: int = 1

    def shared(self, channels: int) -> int:
        """Bytes of shared memory of a block, room to begin at a multiple of 1024 included."""
        return 2 * channels * (self.groups * 64 + 2 * self.stages * self.keys) + 16 * self.stages + 8 + 1024


FORMS = {64: Form(128, 3, 4), 128: Form(64, 3, 4)}


class _Map(ctypes.Structure):
    _fields_ = [("opaque", ctypes.c_ubyte * 128)]


class _Problem(ctypes.Structure):
    _fields_ = [
        *((name, ctypes.c_int) for name in ("heads", "queries", "keys")),
        ("scale", ctypes.c_float),
        ("shift", ctypes.c_float),
    ]


def supports(q: torch.Tensor) -> str | None:
    """What was expected where these cannot be taken, or None."""
    if q.dtype not in TYPES:
        return "float16 or bfloat16"
    if q.shape[3] not in FORMS:
        return f"{' or '.join(map(str, FORMS))} channels a head"
    return None


def forward(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    bias: torch.Tensor | None,
    shift: float,
    causal: bool,
    form: Form | None = None,
) -> torch.Tensor:
    """The output, like q and contiguous; arguments as for `flash.forward`, rows at multiples of 16 bytes."""
    y = torch.empty(q.shape, dtype=q.dtype, device=q.device)
    batch, heads, queries, channels = q.shape
    form = form or FORMS[channels]
    with torch.cuda.device(q.device):
        code = _code(channels, TYPES[q.dtype], causal, form, q.device.index)
        code(
            (-(-queries // (64 * form.groups)), batch * heads, 1),
            128 * form.groups + (32 if form.lag < 0 else 0),
            form.shared(channels),
            torch.cuda.current_stream().cuda_stream,
            *(_map(x.data_ptr(), tuple(x.shape), x.stride(), TYPES[q.dtype], rows)
              for x, rows in ((q, 64 * form.groups), (k, form.keys), (v, form.keys))),
            y.data_ptr(),
            0 if bias is None else bias.data_ptr(),
            _Problem(heads, queries, k.shape[2], -LOG2_E * channels**-0.5, -LOG2_E * shift),
        )  # fmt: skip
    return y


# A module belongs to the device that was current when it was loaded.
@cache
def _code(channels: int, kind: int, causal: bool, form: Form, device: int) -> Kernel:
    return Kernel(binary(channels, kind, causal, form), "attend", form.shared(channels))


def binary(channels: int, kind: int, causal: bool, form: Form) -> bytes:
    """Machine code of `hopper.cu` for one size of head, number type (`TYPES`) and form."""
    source = (Path(__file__).parent / "hopper.cu").read_text(encoding="utf-8")
    number = ("f16", "bf16")[kind]
    source = source.replace("KEYS_PRODUCT", _keys_product(number, form.keys))
    source = source.replace("VALUES_PRODUCT", _values_product(number, channels))
    names = ("BN", "GROUPS", "STAGES", "BLOCKS", "SHARE", "ORDER", "LAG")
    definitions = {"D": channels, "TYPE": kind, "CAUSAL": int(causal), **dict(zip(names, form, strict=True))}
    return compile_kernel(source, definitions, "sm_90a")


def _keys_product(number: str, columns: int) -> str:
    """One `wgmma` of 64 x `columns` with both operands in shared memory, as inline assembly."""
    count = columns // 2
    listed = ", ".join(f"%{i}" for i in range(count))
    outputs = ", ".join(f'"+f"(s[{i}])' for i in range(count))
    return (
        f'asm volatile("{{.reg .pred p; setp.ne.b32 p, %{count + 2}, 0; '
        f"wgmma.mma_async.sync.aligned.m64n{columns}k16.f32.{number}.{number} {{{listed}}}, "
        f'%{count}, %{count + 1}, p, 1, 1, 0, 0;}}" : {outputs} : "l"(a), "l"(b), "r"(accumulate));'
    )


def _values_product(number: str, columns: int) -> str:
    """One `wgmma` of 64 x `columns` with the first operand in registers and the second read across its rows."""
    count = columns // 2
    listed = ", ".join(f"%{i}" for i in range(count))
    outputs = ", ".join(f'"+f"(total[{i}])' for i in range(count))
    return (
        f'asm volatile("wgmma.mma_async.sync.aligned.m64n{columns}k16.f32.{number}.{number} {{{listed}}}, '
        f'{{%{count}, %{count + 1}, %{count + 2}, %{count + 3}}}, %{count + 4}, 1, 1, 1, 1;" : {outputs} : '
        f'"r"(p[0]), "r"(p[1]), "r"(p[2]), "r"(p[3]), "l"(b));'
    )


@lru_cache(maxsize=256)
def _map(address: int, shape: tuple[int, ...], strides: tuple[int, ...], kind: int, rows: int) -> _Map:
    """How the copy engine cuts boxes of 64 channels by `rows` out of a tensor (B, H, N, d)."""
    from cuda.bindings import driver

    types = driver.CUtensorMapDataType
    steps = [driver.cuuint64_t(2 * step) for step in (strides[2], strides[1], strides[0])]
    status, made = driver.cuTensorMapEncodeTiled(
        (types.CU_TENSOR_MAP_DATA_TYPE_FLOAT16, types.CU_TENSOR_MAP_DATA_TYPE_BFLOAT16)[kind],
        4,
        address,
        [driver.cuuint64_t(side) for side in reversed(shape)],
        steps,
        [driver.cuuint32_t(side) for side in (64, rows, 1, 1)],
        [driver.cuuint32_t(1)] * 4,
        driver.CUtensorMapInterleave.CU_TENSOR_MAP_INTERLEAVE_NONE,
        driver.CUtensorMapSwizzle.CU_TENSOR_MAP_SWIZZLE_128B,
        driver.CUtensorMapL2promotion.CU_TENSOR_MAP_L2_PROMOTION_L2_256B,
        driver.CUtensorMapFloatOOBfill.CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE,
    )
    if status != driver.CUresult.CUDA_SUCCESS:
        raise RuntimeError(f"CUDA driver: {status.name} for a tensor {shape} with steps {strides}")
    return _Map.from_buffer_copy(ctypes.string_at(int(made.getPtr()), 128))
