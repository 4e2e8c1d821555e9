"""A slide in DICOM is several files, of which OpenSlide opens any: in a folder it is one slide."""

import struct

import numpy as np
import pytest
from palyno.data.folders import find_slides
from palyno.data.formats.dicom import dicom_series
from palyno.data.slides import open_slide

SOP = "1.2.840.10008.5.1.4.1.1.77.1.6"
SIDE = 64


def element(tag, kind, value):
    value = value.encode() if isinstance(value, str) else value
    value += (b"\0" if kind == "UI" else b" ") * (len(value) % 2)
    length = struct.pack("<HI", 0, len(value)) if kind in ("OB", "SQ") else struct.pack("<H", len(value))
    return struct.pack("<HH", tag >> 16, tag & 0xFFFF) + kind.encode() + length + value


def sequence(tag, item, defined=True):
    head = struct.pack("<HH", 0xFFFE, 0xE000)
    if defined:
        return element(tag, "SQ", head + struct.pack("<I", len(item)) + item)
    ends = struct.pack("<HHIHHI", 0xFFFE, 0xE00D, 0, 0xFFFE, 0xE0DD, 0)
    endless = struct.pack("<I", 0xFFFFFFFF)
    return struct.pack("<HH", tag >> 16, tag & 0xFFFF) + b"SQ\0\0" + endless + head + endless + item + ends


def write(path, picture, series, instance, kind="VOLUME", defined=True):
    """A file of a slide: uncompressed tiles, and before its series those of others that it refers to."""
    height, width, _ = picture.shape
    tiles = [picture[y : y + SIDE, x : x + SIDE] for y in range(0, height, SIDE) for x in range(0, width, SIDE)]
    other = element(0x0020000D, "UI", "9.8") + element(0x0020000E, "UI", "9.9")
    shorts = {0x00280010: SIDE, 0x00280011: SIDE, 0x00280100: 8, 0x00280101: 8, 0x00280102: 7, 0x00280103: 0}
    spacing = sequence(0x00289110, element(0x00280030, "DS", "0.00025\\0.00025"))
    parts = [
        element(0x00020001, "OB", b"\0\1"),
        element(0x00020002, "UI", SOP),
        element(0x00020003, "UI", instance),
        element(0x00020010, "UI", "1.2.840.10008.1.2.1"),
        element(0x00080008, "CS", f"ORIGINAL\\PRIMARY\\{kind}\\NONE"),
        element(0x00080016, "UI", SOP),
        element(0x00080018, "UI", instance),
        element(0x00080060, "CS", "SM"),
        sequence(0x00081250, other, defined),
        element(0x0020000D, "UI", "1.2.3"),
        element(0x0020000E, "UI", series),
        element(0x00209311, "CS", "TILED_FULL"),
        element(0x00280002, "US", struct.pack("<H", 3)),
        element(0x00280004, "CS", "RGB"),
        element(0x00280006, "US", struct.pack("<H", 0)),
        element(0x00280008, "IS", str(len(tiles))),
        *(element(tag, "US", struct.pack("<H", value)) for tag, value in shorts.items()),
        element(0x00480006, "UL", struct.pack("<I", width)),
        element(0x00480007, "UL", struct.pack("<I", height)),
        element(0x00480303, "UL", struct.pack("<I", 1)),
        sequence(0x52009229, spacing),
        element(0x7FE00010, "OB", np.stack(tiles).tobytes()),
    ]
    length = element(0x00020000, "UL", struct.pack("<I", sum(map(len, parts[:4]))))
    path.write_bytes(bytes(128) + b"DICM" + length + b"".join(parts))


@pytest.mark.parametrize("defined", [True, False])
def test_the_files_of_a_slide_are_one_slide(tmp_path, defined):
    picture = np.random.default_rng(0).integers(0, 255, (128, 256, 3), dtype=np.uint8)
    write(tmp_path / "a0.dcm", picture, "1.2.3.4", "1.1", defined=defined)
    write(tmp_path / "a1.dcm", picture[::2, ::2], "1.2.3.4", "1.2", defined=defined)
    write(tmp_path / "a2.DCM", picture[:64, :64], "1.2.3.4", "1.3", "LABEL", defined)
    write(tmp_path / "b.dcm", picture[::-1], "1.2.3.5", "1.4", defined=defined)
    for name in ("a0.dcm", "a1.dcm", "a2.DCM"):
        assert dicom_series(tmp_path / name) == "1.2.3.4"
        with open_slide(tmp_path / name) as slide:
            assert (slide.format, slide.um_per_px) == ("dicom", pytest.approx(0.25))
            assert np.array_equal(slide.read(0, 0, 256, 128), picture)
    for given in (tmp_path, sorted(tmp_path.iterdir())):
        slides, skipped = find_slides(given)
        assert [slide.name for slide in slides] == ["a0.dcm", "b.dcm"]
        assert {s.path.name: s.reason for s in skipped} == dict.fromkeys(("a1.dcm", "a2.DCM"), "belongs to a0.dcm")


def test_what_is_no_dicom_or_breaks_off_has_no_series(tmp_path):
    write(tmp_path / "a.dcm", np.zeros((64, 64, 3), np.uint8), "1.2.3.4", "1.1")
    data = (tmp_path / "a.dcm").read_bytes()
    for cut in (0, 100, 132, 140, 300):
        (tmp_path / "b.dcm").write_bytes(data[:cut])
        assert dicom_series(tmp_path / "b.dcm") is None
    (tmp_path / "b.dcm").write_bytes(b"x" * 500)
    assert dicom_series(tmp_path / "b.dcm") is None
    assert dicom_series(tmp_path / "none.dcm") is None
