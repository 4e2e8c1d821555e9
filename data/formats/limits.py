"""What a file may claim: sizes that are checked before anything is decoded."""

from __future__ import annotations

from ...errors import SlideError

__all__ = ["DECODED_PIXELS", "check_claim", "check_stream", "stream_size"]

# A picture decoded in one piece costs Pillow 4 and the array 3 bytes a pixel: 2**29 pixels stay below 4 GiB. Larger
# slides exist, but as tiles, of which only those asked for are decoded.
DECODED_PIXELS = 2**29

# Decoding up to this many pixels is cheap, whatever a file claims.
_HARMLESS_PIXELS = 2**24

# Deflate, the densest of the codecs in use, cannot turn a byte into more than 1032 pixels of one byte.
_PIXELS_PER_BYTE = 1100


def check_claim(width: int, height: int, nbytes: int, *, at_once: bool) -> None:
    """Refuses a size that cannot be true, or cannot be decoded.

    Args:
        width: Pixels, as the header says.
        height: Pixels, as the header says.
        nbytes: Bytes of the file.
        at_once: Whether the picture can only be decoded in one piece.

    Raises:
        SlideError: No pixels; more than a file of that size can hold; more than fit in memory.
    """
    pixels = width * height
    if width < 1 or height < 1:
        raise SlideError(f"expected at least one pixel, got {width} x {height}; the file is damaged or empty")
    if pixels > _HARMLESS_PIXELS and pixels > _PIXELS_PER_BYTE * nbytes:
        raise SlideError(
            f"expected a file that can hold its picture, got {width} x {height} pixels in {nbytes} bytes; "
            "it is damaged or made to exhaust memory, export it again from its source"
        )
    if at_once and pixels > DECODED_PIXELS:
        raise SlideError(
            f"expected at most {DECODED_PIXELS:,} pixels in a picture that is decoded in one piece, got {width} x "
            f"{height}; save it as a tiled TIFF, of which regions can be read"
        )


def stream_size(data: bytes) -> tuple[int, int, int] | None:
    """Width, height and bits a sample that a JPEG or JPEG 2000 stream claims for itself; None where it says nothing."""
    if data[:2] == b"\xff\xd8":
        at = 2
        while at + 9 <= len(data) and data[at] == 0xFF:
            marker = data[at + 1]
            if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
                height, width = int.from_bytes(data[at + 5 : at + 7]), int.from_bytes(data[at + 7 : at + 9])
                return width, height, data[at + 4]
            filled = marker == 0xFF or 0xD0 <= marker <= 0xD8
            at += (1 if marker == 0xFF else 2) if filled else 2 + int.from_bytes(data[at + 2 : at + 4])
        return None
    at = data.find(b"\xff\x4f\xff\x51")
    if at < 0 or at + 43 > len(data):
        return None
    x2, y2, x1, y1 = (int.from_bytes(data[at + i : at + i + 4]) for i in (8, 12, 16, 20))
    return x2 - x1, y2 - y1, (data[at + 42] & 0x7F) + 1


def check_stream(data: bytes, width: int, height: int) -> None:
    """Refuses a compressed tile that would decode to far more than the tile, or that was cut short.

    libjpeg fills what is missing with grey and says nothing.

    Args:
        data: One JPEG or JPEG 2000 stream.
        width: Pixels of the tile or strip.
        height: Pixels of the tile or strip.

    Raises:
        SlideError: It claims another size, or has no end.
    """
    claim = stream_size(data)
    if claim and claim[0] * claim[1] > 2 * max(width * height, 2**16):
        raise SlideError(f"expected a tile of {width} x {height} pixels, got one that claims {claim[0]} x {claim[1]}")
    if data[:2] == b"\xff\xd8" and b"\xff\xd9" not in data[-64:]:
        raise SlideError("expected a whole JPEG tile, got one without its end; copy or export the slide again")
