"""The chain of directories in a TIFF file, walked before any library that would follow it for ever."""

from __future__ import annotations

import struct
from pathlib import Path

from ...errors import SlideError

__all__ = ["check_chain", "is_tiff"]

# The longest focus stacks and time series have hundreds of planes; each directory has about twenty entries.
_DIRECTORIES = 5000
_ENTRIES = 200_000
# Tiles are 256 to 4096 pixels wide. OpenSlide ends the process where it cannot get the memory for one.
_TILE_PIXELS = 2**26
_TILE_WIDTH, _TILE_LENGTH = 322, 323
_NUMBERS = {3: "H", 4: "I", 16: "Q"}


def is_tiff(head: bytes) -> bool:
    """Whether a file that begins with these bytes is a classic or big TIFF."""
    return head[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")


def check_chain(path: Path) -> int:
    """Counts the directories of a TIFF file.

    Raises:
        SlideError: The chain has no directory, leaves the file, runs in a circle or is too long to be true, or a
            directory has tiles too large to be true.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        head = file.read(16)
        order = "<" if head[:2] == b"II" else ">"
        big = head[2:4] in (b"+\0", b"\0+")
        count_format, entry_format, offset_format = ("Q", "HHQ8s", "Q") if big else ("H", "HHI4s", "I")
        entry = struct.calcsize(order + entry_format)
        # Hamamatsu writes 8-byte offsets into classic TIFF, so as to pass 4 GiB.
        long_offsets = path.suffix.lower() == ".ndpi" and not big

        def number(code: str) -> int:
            data = file.read(struct.calcsize(order + code))
            if len(data) < struct.calcsize(order + code):
                raise SlideError(
                    f"expected a whole TIFF, got one that ends inside directory {len(seen)}; copy it again"
                )
            return struct.unpack(order + code, data)[0]

        def next_offset() -> int:
            offset = number("Q" if long_offsets else offset_format)
            return offset & 0xFFFFFFFF if long_offsets and offset >= size else offset

        seen: dict[int, None] = {}
        entries = 0
        file.seek(8 if big else 4)
        offset = next_offset()
        while offset:
            if offset in seen:
                raise SlideError(
                    f"expected a chain of directories, got one that returns to directory {list(seen).index(offset)} "
                    f"after {len(seen)}; the TIFF is damaged, export it again"
                )
            if offset >= size:
                raise SlideError(
                    f"expected directory {len(seen)} inside the file's {size} bytes, got offset {offset}; "
                    "the TIFF is cut short or damaged, copy it again"
                )
            seen[offset] = None
            file.seek(offset)
            count = number(count_format)
            entries += count
            if len(seen) > _DIRECTORIES or entries > _ENTRIES:
                raise SlideError(
                    f"expected at most {_DIRECTORIES} planes with {_ENTRIES} tags, got more; split the TIFF, or export "
                    "it again if it is one picture"
                )
            data = file.read(entry * count)
            tile = {
                code: struct.unpack_from(order + _NUMBERS[kind], value)[0]
                for code, kind, _, value in struct.iter_unpack(order + entry_format, data[: len(data) // entry * entry])
                if code in (_TILE_WIDTH, _TILE_LENGTH) and kind in _NUMBERS
            }
            if (columns := tile.get(_TILE_WIDTH, 1)) * (rows := tile.get(_TILE_LENGTH, 1)) > _TILE_PIXELS:
                raise SlideError(
                    f"expected tiles of at most {_TILE_PIXELS:,} pixels, got {columns} x {rows}; "
                    "export the slide with smaller tiles"
                )
            offset = next_offset()
    if not seen:
        raise SlideError("expected at least one picture, got a TIFF without any; it was not closed by what wrote it")
    return len(seen)
