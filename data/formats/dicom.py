"""Which series a DICOM file is part of: a slide in DICOM is a folder's files of one series, a file a level or label.

OpenSlide opens the whole slide by any of them, so each would be read as a slide of its own.
"""

from __future__ import annotations

import struct
from pathlib import Path

__all__ = ["dicom_series"]

_SERIES, _DELIMITERS = (0x0020, 0x000E), ((0xFFFE, 0xE00D), (0xFFFE, 0xE0DD))
# Value representations whose length takes four bytes, after two that are reserved (DICOM PS3.5, 7.1.2).
_LONG = {b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"SV", b"UC", b"UN", b"UR", b"UT", b"UV"}
_UNDEFINED = 0xFFFFFFFF


def dicom_series(path: Path) -> str | None:
    """The Series Instance UID of a DICOM file; None where it has none, or is no DICOM file."""
    depth = 0
    try:
        with path.open("rb") as file:
            if file.read(132)[128:] != b"DICM":
                return None
            while len(head := file.read(8)) == 8:
                tag, kind = struct.unpack("<HH", head[:4]), head[4:6]
                if tag[0] == 0xFFFE or not (kind.isalpha() and kind.isupper()):
                    length = int.from_bytes(head[4:], "little")
                elif kind in _LONG:
                    length = int.from_bytes(file.read(4), "little")
                else:
                    length = int.from_bytes(head[6:], "little")
                if depth == 0 and tag >= _SERIES:
                    return file.read(length).decode("ascii", "replace").strip("\0 ") if tag == _SERIES else None
                if length == _UNDEFINED:
                    depth += 1
                elif tag in _DELIMITERS:
                    depth -= 1
                else:
                    file.seek(length, 1)
    except OSError:
        pass
    return None
