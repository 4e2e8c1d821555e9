"""Sigmoid attention on the tensor cores of Hopper (compute capability 9.0), forward and backward: CUDA C++.

Compiled at run time for the head's size, number type and form of a block: `tiles.cu` tells how tiles come and go,
`weights.cu` how weights are computed, `forward.cu` and `backward.cu` what is done with them.
"""

from __future__ import annotations

import ctypes
from functools import cache, lru_cache
from pathlib import Path
from typing import NamedTuple

import torch

from ....nvrtc import Kernel, compile_kernel

__all__ = ["backward_keys", "backward_queries", "forward", "supports"]

TYPES = {torch.float16: 0, torch.bfloat16: 1}
LOG2_E = 1.4426950408889634


class Form(NamedTuple):
    """Form of a block: columns of a tile, warpgroups, tiles in memory, blocks at once, and how (see the sources)."""

    columns: int
    groups: int
    stages: int
    blocks: int = 1
    exact: int = 9
    order: int = 0
    lending: int = 0

    @property
    def rows(self) -> int:
        """Rows of a block."""
        return 64 * self.groups

    @property
    def threads(self) -> int:
        """Threads of a block, those that load included."""
        return 128 * self.groups + (128 if self.lending else 32)

    def shared(self, channels: int, own: int) -> int:
        """Bytes of shared memory, `own` matrices of the block and room to begin at a multiple of 1024 included."""
        return 2 * channels * (own * self.rows + 2 * self.stages * self.columns) + 16 * self.stages + 8 + 1024


# Of each size of head, for float16 and bfloat16; chosen by measurement on an NVIDIA H200.
FORWARD = {
    64: (Form(64, 2, 3, 2), Form(64, 2, 3, 2, 0)),
    128: (Form(64, 3, 4, 1, 9, 1, 1), Form(64, 3, 4, 1, 0, 1, 1)),
}
# The backward pass; with 64 channels Triton's is as fast.
KEYS = {128: (Form(64, 2, 2, 1, 9, 0, 1), Form(64, 2, 2, 1, 9, 0, 1))}
QUERIES = {128: (Form(48, 3, 3, 1, 8, 0, 1), Form(48, 3, 3, 1, 8, 0, 1))}


class _Map(ctypes.Structure):
    _fields_ = [("opaque", ctypes.c_ubyte * 128)]


class _Problem(ctypes.Structure):
    _fields_ = [
        *((name, ctypes.c_int) for name in ("heads", "rows", "columns")),
        *((name, ctypes.c_float) for name in ("scale", "shift", "slope")),
    ]


def supports(q: torch.Tensor) -> str | None:
    """What was expected where these cannot be taken, or None."""
    if q.dtype not in TYPES:
        return "float16 or bfloat16"
    if q.shape[3] not in FORWARD:
        return f"{' or '.join(map(str, FORWARD))} channels a head"
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
    form = form or FORWARD[q.shape[3]][TYPES[q.dtype]]
    _launch("forward.cu", form, causal, (q,), (k, v), (y.data_ptr(),), bias, shift)
    return y


def backward_keys(
    dy: torch.Tensor,
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    bias: torch.Tensor | None,
    shift: float,
    causal: bool,
    form: Form | None = None,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """As `flash.backward_keys`."""
    dk, dv = (torch.empty(x.shape, dtype=x.dtype, device=x.device) for x in (k, v))
    form = form or KEYS[q.shape[3]][TYPES[q.dtype]]
    summed = bias is not None
    parts = -(-k.shape[2] // form.rows) * form.groups * 4
    db = torch.empty((*k.shape[:2], parts) if summed else 0, dtype=torch.float32, device=q.device)
    gradients = (dk.data_ptr(), dv.data_ptr(), db.data_ptr())
    _launch("backward.cu", form, causal, (k, v), (q, dy), gradients, bias, shift, KEYS=1, SUMMED=int(summed))
    return dk, dv, db.sum((0, 2)) if summed else db


def backward_queries(
    dy: torch.Tensor,
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    bias: torch.Tensor | None,
    shift: float,
    causal: bool,
    form: Form | None = None,
) -> torch.Tensor:
    """As `flash.backward_queries`."""
    dq = torch.empty(q.shape, dtype=q.dtype, device=q.device)
    form = form or QUERIES[q.shape[3]][TYPES[q.dtype]]
    _launch("backward.cu", form, causal, (q, dy), (k, v), (dq.data_ptr(), 0, 0), bias, shift, KEYS=0, SUMMED=0)
    return dq


def _launch(
    name: str,
    form: Form,
    causal: bool,
    own: tuple[torch.Tensor, ...],
    streamed: tuple[torch.Tensor, ...],
    outputs: tuple[int, ...],
    bias: torch.Tensor | None,
    shift: float,
    **definitions: int,
) -> None:
    """Runs a kernel whose blocks have rows of `own` while `streamed` stream past."""
    x = own[0]
    batch, heads, rows, channels = x.shape
    kind, scale = TYPES[x.dtype], channels**-0.5
    with torch.cuda.device(x.device):
        maps = [
            _map(t.data_ptr(), tuple(t.shape), t.stride(), kind, box)
            for tensors, box in ((own, form.rows), (streamed, form.columns))
            for t in tensors
        ]
        code = _code(name, channels, kind, causal, form, len(own), tuple(definitions.items()), x.device.index)
        code(
            (-(-rows // form.rows), batch * heads, 1),
            form.threads,
            form.shared(channels, len(own)),
            torch.cuda.current_stream().cuda_stream,
            *maps,
            *outputs,
            0 if bias is None else bias.data_ptr(),
            _Problem(heads, rows, streamed[0].shape[2], -LOG2_E * scale, -LOG2_E * shift, scale),
        )


# A module belongs to the device that was current when it was loaded.
@cache
def _code(
    name: str,
    channels: int,
    kind: int,
    causal: bool,
    form: Form,
    own: int,
    definitions: tuple[tuple[str, int], ...],
    device: int,
) -> Kernel:
    entry = "attend" if name == "forward.cu" else "differentiate"
    return Kernel(binary(name, channels, kind, causal, form, **dict(definitions)), entry, form.shared(channels, own))


def binary(name: str, channels: int, kind: int, causal: bool, form: Form, **definitions: int) -> bytes:
    """Machine code of one source for a size of head, number type (`TYPES`) and form."""
    folder = Path(__file__).parent
    source = "\n".join((folder / part).read_text(encoding="utf-8") for part in ("tiles.cu", "weights.cu", name))
    number = ("f16", "bf16")[kind]
    source = source.replace("CHANNELS_PRODUCT", _channels_product(number, form.columns))
    source = source.replace("COLUMNS_PRODUCT", _columns_product(number, channels))
    names = ("BN", "GROUPS", "STAGES", "BLOCKS", "EXACT", "ORDER", "LENDING")
    definitions |= {
        "WIDE": int(name == "forward.cu"),
        "D": channels,
        "TYPE": kind,
        "CAUSAL": int(causal),
        **dict(zip(names, form, strict=True)),
    }
    return compile_kernel(source, definitions, "sm_90a")


def _channels_product(number: str, columns: int) -> str:
    """One `wgmma` of 64 x `columns` with both operands in shared memory, as inline assembly."""
    count = columns // 2
    listed = ", ".join(f"%{i}" for i in range(count))
    outputs = ", ".join(f'"+f"(s[{i}])' for i in range(count))
    return (
        f'asm volatile("{{.reg .pred p; setp.ne.b32 p, %{count + 2}, 0; '
        f"wgmma.mma_async.sync.aligned.m64n{columns}k16.f32.{number}.{number} {{{listed}}}, "
        f'%{count}, %{count + 1}, p, 1, 1, 0, 0;}}" : {outputs} : "l"(a), "l"(b), "r"(accumulate));'
    )


def _columns_product(number: str, channels: int) -> str:
    """One `wgmma` of 64 x `channels` with the first operand in registers and the second read across its rows."""
    count = channels // 2
    listed = ", ".join(f"%{i}" for i in range(count))
    outputs = ", ".join(f'"+f"(total[{i}])' for i in range(count))
    return (
        f'asm volatile("wgmma.mma_async.sync.aligned.m64n{channels}k16.f32.{number}.{number} {{{listed}}}, '
        f'{{%{count}, %{count + 1}, %{count + 2}, %{count + 3}}}, %{count + 4}, 1, 1, 1, 1;" : {outputs} : '
        f'"r"(p[0]), "r"(p[1]), "r"(p[2]), "r"(p[3]), "l"(b));'
    )


@lru_cache(maxsize=256)
def _map(address: int, shape: tuple[int, ...], strides: tuple[int, ...], kind: int, rows: int) -> _Map:
    """How the copy engine cuts boxes of 64 channels by `rows` out of a tensor (B, H, N, d)."""
    from cuda.bindings import driver

    types = driver.CUtensorMapDataType
    status, made = driver.cuTensorMapEncodeTiled(
        (types.CU_TENSOR_MAP_DATA_TYPE_FLOAT16, types.CU_TENSOR_MAP_DATA_TYPE_BFLOAT16)[kind],
        4,
        address,
        [driver.cuuint64_t(side) for side in reversed(shape)],
        [driver.cuuint64_t(2 * step) for step in reversed(strides[:3])],
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
