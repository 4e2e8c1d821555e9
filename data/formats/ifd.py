"""The chain of directories in a TIFF file, walked before any library that would follow it for ever."""

from __future__ import annotations

import struct
from pathlib import Path

from ...errors import SlideError

__all__ = ["check_chain", "is_tiff"]

# The longest focus stacks and time series have hundreds of planes; each directory has about twenty entries.
_DIRECTORIES = 5000
_ENTRIES = 200_000


def is_tiff(head: bytes) -> bool:
    """Whether a file that begins with these bytes is a classic or big TIFF."""
    return head[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")


def check_chain(path: Path) -> int:
    """Counts the directories of a TIFF file.

    Raises:
        SlideError: The chain has no directory, leaves the file, runs in a circle or is too long to be true.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        head = file.read(16)
        order = "<" if head[:2] == b"II" else ">"
        big = head[2:4] in (b"+\0", b"\0+")
        count_format, entry, offset_format = ("Q", 20, "Q") if big else ("H", 12, "I")

        def number(code: str) -> int:
            data = file.read(struct.calcsize(order + code))
            if len(data) < struct.calcsize(order + code):
                raise SlideError(
                    f"expected a whole TIFF, got one that ends inside directory {len(seen)}; copy it again"
                )
            return struct.unpack(order + code, data)[0]

        seen: dict[int, None] = {}
        entries = 0
        file.seek(8 if big else 4)
        offset = number(offset_format)
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
            file.seek(offset + struct.calcsize(order + count_format) + entry * count)
            offset = number(offset_format)
    if not seen:
        raise SlideError("expected at least one picture, got a TIFF without any; it was not closed by what wrote it")
    return len(seen)
