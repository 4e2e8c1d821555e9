"""How a batch of pictures is cut into passes of the Hopper kernels, by counting cycles.

A *patch* is E x PY output pixels (8 x 8 of 16 bits, 4 x 16 of 32), a *chunk* the 16 bytes of E pixels of a row. A
*unit* is one picture, or one tile of it; a *pass* is some units side by side, worked on by one warpgroup.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import product

from ....errors import UsageError

__all__ = ["Plan", "plan_convolution", "plan_weights", "rows_each"]

SHARED = 227 * 1024
# Accumulators of a warpgroup: 64 times this many float32 in registers.
MOST_PATCHES = 240


@dataclass(frozen=True)
class Plan:
    """How pictures are cut and joined, and how the work is shared out.

    Attributes:
        tile_w: Output patches of a unit across.
        tile_h: And down.
        tiles_x: Units of a picture across.
        tiles_y: And down.
        pitch_unit: Chunks of a unit's row, gap included.
        units: Units of a pass, side by side.
        groups: Patch rows of shared memory.
        passes: Of one channel.
        patches: Patches of a pass, gaps included, rounded up to what a product takes.
        room: Bytes of shared memory of one loaded pass.
        shared: Bytes of shared memory of a block.
        warpgroups: Of a block.
        blocks: Of a channel.
    """

    tile_w: int
    tile_h: int
    tiles_x: int
    tiles_y: int
    pitch_unit: int
    units: int
    groups: int
    passes: int
    patches: int = 0
    room: int = 0
    shared: int = 0
    warpgroups: int = 2
    blocks: int = 1


@dataclass(frozen=True)
class _Sizes:
    """What follows from the kernel's sides and the bytes of an element."""

    e: int
    py: int
    side: int
    chunks: int
    rows: int
    halo: int

    @classmethod
    def of(cls, kernel: tuple[int, int], size: int) -> _Sizes:
        e, py = 16 // size, 64 * size // 16
        side = -(-(kernel[1] // 2) // e)
        return cls(e, py, side, 2 * side + 1, kernel[0] + py - 1, -(-(kernel[0] - 1) // py))


def _cuts(batch: int, height: int, width: int, sizes: _Sizes, most: int, step: int) -> Iterator[Plan]:
    """All ways to cut and join pictures into passes of at most `most` patches, a multiple of `step`."""
    across, down = -(-width // sizes.e), -(-height // sizes.py)
    for tiles_x, tiles_y in product(range(1, across + 1), range(1, down + 1)):
        tile_w, tile_h = -(-across // tiles_x), -(-down // tiles_y)
        if -(-across // tile_w) != tiles_x or -(-down // tile_h) != tiles_y:
            continue
        # Neighbouring pictures share the zeros between them; neighbouring tiles of one picture cannot.
        pitch_unit = tile_w + (sizes.side if tiles_x == 1 else 2 * sizes.side)
        pictures = batch * tiles_x * tiles_y
        for units in range(1, min(pictures, most // (tile_h * pitch_unit)) + 1):
            patches = -(-tile_h * units * pitch_unit // step) * step
            groups = tile_h + sizes.halo
            if patches > most or groups * units * pitch_unit > 16383:
                continue
            passes = -(-pictures // units)
            yield Plan(tile_w, tile_h, tiles_x, tiles_y, pitch_unit, units, groups, passes, patches)


@lru_cache(maxsize=256)
def plan_convolution(
    batch: int, channels: int, height: int, width: int, kernel: tuple[int, int], size: int, multiprocessors: int
) -> Plan:
    """The cheapest plan of `convolve.cu`.

    A product of 64 x N takes N / 2 cycles of the tensor cores and reads 2 KB and 32 bytes times N of shared memory at
    128 bytes a cycle. A pass also loads and stores its pictures. Multiprocessors that have no pass left wait for the
    others.

    Args:
        batch: Pictures.
        channels: Of a picture.
        height: Pixels.
        width: Pixels.
        kernel: Sides of the convolution's kernel.
        size: Bytes of an element, 2 or 4.
        multiprocessors: Of the device.

    Raises:
        UsageError: A kernel so large that its table leaves no room in shared memory.
    """
    plans = convolution_plans(batch, channels, height, width, kernel, size, multiprocessors)
    best = min(plans, key=lambda ranked: ranked[0], default=None)
    if best is None:
        raise UsageError(f"no room for a kernel of {kernel[0]} x {kernel[1]} on this device: use another backend")
    return best[1]


def convolution_plans(
    batch: int, channels: int, height: int, width: int, kernel: tuple[int, int], size: int, multiprocessors: int
) -> Iterator[tuple[float, Plan]]:
    """Every plan that fits the device, with the cycles it should take; arguments as `plan_convolution`."""
    sizes = _Sizes.of(kernel, size)
    table = (kernel[0] + 2 * sizes.py - 2) * sizes.chunks * 128
    scratch = -(-(kernel[0] + 2 * sizes.py - 1) * (sizes.chunks + 1) * 16 // 128) * 128
    products = sizes.rows // 2 * sizes.chunks
    for cut in _cuts(batch, height, width, sizes, MOST_PATCHES, 8):
        loaded = sizes.py * cut.groups * cut.units * cut.pitch_unit
        room = -(-max(loaded + sizes.chunks + 8, sizes.py * cut.patches) * 16 // 128) * 128
        for warpgroups in (1, 2, 4):
            shared = table + scratch + warpgroups * room
            registers = 128 * warpgroups * -(-(cut.patches // 2 + 64) // 8) * 8
            resident = min(65536 // registers, (SHARED + 1024) // (shared + 1024))
            if not resident:
                continue
            slots = multiprocessors * resident
            blocks = max(1, min(-(-cut.passes // warpgroups), slots // channels))
            # Blocks that the busiest multiprocessor sees one after another, and passes of each warpgroup in one.
            waves = -(-blocks * channels // slots)
            rounds = -(-cut.passes // (blocks * warpgroups))
            at_once = warpgroups * min(resident, -(-blocks * channels // multiprocessors))
            product_cycles = max(cut.patches / 2, (2048 + 32 * cut.patches) / 128, 20)
            moving = 800 + (4 if size == 2 else 8) * loaded + 2 * sizes.py * cut.patches
            building = 2000 + table / 8 / warpgroups
            work = max(products * product_cycles * at_once, products * max(product_cycles, 32) + moving)
            cycles = waves * (rounds * work + moving + building)
            yield cycles, replace(cut, room=room, shared=shared, warpgroups=warpgroups, blocks=blocks)


def rows_each(kernel: tuple[int, int]) -> int:
    """Input rows whose products a warpgroup of `weigh.cu` keeps in its registers."""
    sizes = _Sizes.of(kernel, 2)
    fit = 200 // (4 * sizes.chunks)
    return -(-sizes.rows // (2 * -(-sizes.rows // (2 * fit))))


@lru_cache(maxsize=256)
def plan_weights(
    batch: int, channels: int, height: int, width: int, kernel: tuple[int, int], multiprocessors: int
) -> tuple[Plan, int]:
    """The cheapest plan of `weigh.cu`, and the parts that a channel's input rows are cut into.

    Args:
        batch: Pictures.
        channels: Of a picture.
        height: Pixels.
        width: Pixels.
        kernel: Sides of the convolution's kernel.
        multiprocessors: Of the device.

    Raises:
        UsageError: A kernel so large that its pictures have no room in shared memory.
    """
    sizes = _Sizes.of(kernel, 2)
    each = rows_each(kernel)
    parts = -(-sizes.rows // (2 * each))
    sums = 2 * (64 * (sizes.e * sizes.chunks + 1) + kernel[0] * kernel[1]) * 4
    best: tuple[float, Plan] | None = None
    for cut in _cuts(batch, height, width, sizes, 1024, 16):
        loaded = sizes.py * cut.groups * cut.units * cut.pitch_unit
        room = -(-(loaded + 16 + sizes.chunks + sizes.py * cut.patches) * 16 // 128) * 128
        shared = max(2 * room, sums)
        if shared > SHARED:
            continue
        product_cycles = max(4 * sizes.chunks, (2048 + 256 * sizes.chunks) / 128)
        work = max(cut.patches / 16 * each * 2 * product_cycles + 300, (loaded + sizes.py * cut.patches) / 4)
        for blocks in range(1, min(cut.passes, -(-multiprocessors * 4 // (channels * parts))) + 1):
            waves = -(-blocks * channels * parts // multiprocessors)
            cycles = waves * (-(-cut.passes // blocks) * work + 6000)
            if best is None or cycles < best[0]:
                best = cycles, replace(cut, room=room, shared=shared, blocks=blocks)
    if best is None:
        raise UsageError(f"no room for a kernel of {kernel[0]} x {kernel[1]} on this device: use another backend")
    return best[1], parts
