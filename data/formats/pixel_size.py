"""Micrometres a pixel, as far as metadata can be believed.

Most image files state a resolution, and most state that of a screen or a printer. A scale counts only where its unit is
one of microscopy, or where it lies in the range of light microscopes and is not a printer's or a film scanner's.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from xml.etree import ElementTree

__all__ = ["OmeImage", "agreed", "from_imagej", "from_resolution", "read_ome"]

_UM = {"pm": 1e-6, "nm": 1e-3, "um": 1.0, "mm": 1e3, "cm": 1e4, "dm": 1e5, "m": 1e6, "inch": 25400.0, "in": 25400.0}
_MICRONS = {"micron", "microns", "micrometer", "micrometers", "micrometre", "micrometres"}
# From far below the diffraction limit to a loupe; 20 um a pixel is 1270 dpi.
_PLAUSIBLE = (0.005, 20.0)
_PRINT_DPI = {1440, 2400, 2540, 2880, 3200, 4800, 6400, 9600, 12800, 19200}
_XML_BYTES = 2**24


def agreed(x: float | None, y: float | None, source: str) -> tuple[float | None, tuple[str, ...]]:
    """One scale from two, and what there is to say about it.

    Args:
        x: Micrometres from column to column; None where unknown.
        y: Micrometres from row to row; None where unknown.
        source: What stated them, for the note.

    Returns:
        The mean where both agree within 1 %, else None; notes.
    """
    if x is None or y is None or not (math.isfinite(x) and math.isfinite(y) and x > 0 and y > 0):
        return None, ()
    if not _PLAUSIBLE[0] <= (x * y) ** 0.5 <= _PLAUSIBLE[1]:
        return None, (f"{source} states {x:.4g} um a pixel, which no light microscope has: not used",)
    if abs(x - y) > 0.01 * max(x, y):
        return None, (f"{source} states pixels of {x:.4g} x {y:.4g} um, which are not square: no scale is used",)
    return (x + y) / 2, (f"{source} states pixels of {x:.6g} x {y:.6g} um: the mean is used",) if x != y else ()


def from_resolution(x: float, y: float, unit: int) -> tuple[float | None, tuple[str, ...]]:
    """Scale from TIFF's resolution tags.

    Args:
        x: Pixels a unit along a row (tag 282).
        y: Pixels a unit along a column (tag 283).
        unit: 2 inch, 3 centimetre; others carry no scale (tag 296).
    """
    um = {2: _UM["in"], 3: _UM["cm"]}.get(unit)
    if um is None or not (x > 0 and y > 0):
        return None, ()
    dpi = x * _UM["in"] / um
    if um / x > _PLAUSIBLE[1] or any(abs(dpi - known) < 0.5 for known in _PRINT_DPI):
        return None, ()  # A printer's; every second file has one, so there is no note.
    return agreed(um / x, um / y, "the TIFF resolution")


def from_imagej(unit: object, x: float, y: float) -> tuple[float | None, tuple[str, ...]]:
    """Scale from ImageJ's unit and the pixels a unit along rows and columns."""
    um = _unit(unit)
    return agreed(um / x, um / y, "ImageJ") if um and x > 0 and y > 0 else (None, ())


def _unit(name: object) -> float | None:
    """Micrometres in a unit of length, or None."""
    text = str(name).strip()
    for micro in ("\N{MICRO SIGN}", "\N{GREEK SMALL LETTER MU}", "\\u00B5"):
        text = text.replace(micro, "u")
    return _UM["um"] if text.lower() in _MICRONS else _UM.get(text)


@dataclass(frozen=True)
class OmeImage:
    """What OME-XML says of one image.

    Attributes:
        x: Micrometres a pixel along a row, or None.
        y: Micrometres a pixel along a column, or None.
        planes: Number of planes along Z, C and T.
        order: The same letters, fastest first.
        bits: Significant bits, or None.
        first: Index of its first plane in the file.
        of: Number of images that the file describes.
    """

    x: float | None
    y: float | None
    planes: dict[str, int]
    order: str
    bits: int | None
    first: int
    of: int


def read_ome(xml: str, width: int, height: int) -> OmeImage | None:
    """The first image of this size in OME-XML, or None where the text is none, is damaged or declares entities."""
    if len(xml) > _XML_BYTES or "<OME" not in xml[:4096] or "<!DOCTYPE" in xml or "<!ENTITY" in xml:
        return None
    try:
        root = ElementTree.fromstring(xml.strip("\0 \n\r\t"))
        found = root.findall(".//{*}Image/{*}Pixels")
        for pixels in found:
            if (pixels.get("SizeX"), pixels.get("SizeY")) != (str(width), str(height)):
                continue
            data = pixels.find("{*}TiffData")
            channel = pixels.find("{*}Channel")
            samples = int(channel.get("SamplesPerPixel", "1")) if channel is not None else 1
            planes = {axis: max(1, int(pixels.get(f"Size{axis}", "1"))) for axis in "ZCT"}
            planes["C"] = max(1, planes["C"] // max(1, samples))
            bits = pixels.get("SignificantBits")
            return OmeImage(
                x=_length(pixels, "X"),
                y=_length(pixels, "Y"),
                planes=planes,
                order=pixels.get("DimensionOrder", "XYZCT")[2:],
                bits=int(bits) if bits else None,
                first=max(0, int(data.get("IFD", "0"))) if data is not None else 0,
                of=len(found),
            )
    except (ElementTree.ParseError, ValueError):
        return None
    return None


def _length(pixels: ElementTree.Element, axis: str) -> float | None:
    value, um = pixels.get(f"PhysicalSize{axis}"), _unit(pixels.get(f"PhysicalSize{axis}Unit", "um"))
    return float(value) * um if value and um else None
