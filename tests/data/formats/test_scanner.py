"""Whole-slide scans through OpenSlide: pixels, scale, and a damaged tile that does not take the slide with it."""

import struct

import numpy as np
import pytest
import tifffile
from palyno.data.formats.ifd import check_chain
from palyno.data.slides import open_slide
from palyno.errors import SlideError

rng = np.random.default_rng(0)
PICTURE = np.kron(rng.integers(0, 255, (48, 64, 3)), np.ones((32, 32, 1))).astype(np.uint8)


def write_aperio(path, compression="jpeg", mpp="0.2510"):
    """A scan in Aperio's layout: level 0, thumbnail, further levels, as stripped and tiled pages."""
    description = f"Aperio Image Library v11.2.1\r\n2048x1536 [0,0 2048x1536] (256x256)|AppMag = 40|MPP = {mpp}"
    options = {"photometric": "rgb", "compression": compression, "metadata": None, "description": description}
    with tifffile.TiffWriter(path) as tif:
        tif.write(PICTURE, tile=(256, 256), **options)
        tif.write(PICTURE[::8, ::8].copy(), rowsperstrip=16, **options)
        tif.write(PICTURE[::4, ::4].copy(), tile=(256, 256), **options)
    return path


@pytest.mark.parametrize("name", ["a.svs", "a.tif", "A.SVS"])
def test_an_aperio_scan_is_read_with_its_scale(tmp_path, name):
    path = write_aperio(tmp_path / name)
    expected = tifffile.imread(path, key=0)
    with open_slide(path) as slide:
        assert (slide.format, slide.width, slide.height) == ("aperio", 2048, 1536)
        assert slide.um_per_px == pytest.approx(0.251) and slide.um_source == "metadata"
        for x, y, w, h in [(0, 0, 2048, 1536), (200, 300, 640, 640), (2047, 1535, 1, 1), (255, 255, 2, 2)]:
            np.testing.assert_array_equal(slide.read(x, y, w, h), expected[y : y + h, x : x + w])


def test_a_generic_pyramid_is_read_with_its_scale(tmp_path):
    path = tmp_path / "a.tif"
    options = {"photometric": "rgb", "tile": (256, 256), "resolutionunit": "CENTIMETER", "metadata": None}
    with tifffile.TiffWriter(path, bigtiff=True) as tif:
        tif.write(PICTURE, resolution=(40000, 40000), **options)
        tif.write(PICTURE[::2, ::2].copy(), resolution=(20000, 20000), subfiletype=1, **options)
    with open_slide(path) as slide:
        assert slide.um_per_px == pytest.approx(0.25)
        np.testing.assert_array_equal(slide.read(100, 200, 700, 600), PICTURE[200:800, 100:800])


def test_a_scale_that_cannot_be_is_noted_and_not_used(tmp_path):
    with open_slide(write_aperio(tmp_path / "a.svs", mpp="250")) as slide:
        assert slide.um_per_px is None and any("250" in note for note in slide.notes)


def test_a_damaged_tile_is_named_and_the_others_are_read(tmp_path):
    path = write_aperio(tmp_path / "a.svs")
    expected = tifffile.imread(path, key=0)
    with tifffile.TiffFile(path) as tif:
        offset, count = tif.pages[0].dataoffsets[0], tif.pages[0].databytecounts[0]
    data = bytearray(path.read_bytes())
    data[offset : offset + count] = bytes(count)
    path.write_bytes(data)
    with open_slide(path) as slide:
        for _ in range(2):
            with pytest.raises(SlideError, match=r"a\.svs: .*100 x 90 at \(10, 20\)"):
                slide.read(10, 20, 100, 90)
            np.testing.assert_array_equal(slide.read(256, 0, 300, 300), expected[:300, 256:556])


@pytest.mark.parametrize("sizes", [(65520, 65520), (2**31, 2), (2, 2**31)])
def test_a_scan_with_impossible_tiles_is_refused_before_openslide_sees_it(tmp_path, sizes):
    path = write_aperio(tmp_path / "a.svs")
    data = bytearray(path.read_bytes())
    with tifffile.TiffFile(path) as tif:
        for code, value in zip((322, 323), sizes, strict=True):
            at = tif.pages[0].tags[code].offset
            data[at : at + 12] = struct.pack("<HHII", code, 4, 1, value)
    path.write_bytes(data)
    with pytest.raises(SlideError, match="tiles of at most"):
        open_slide(path)


def test_the_directories_of_an_ndpi_may_lie_beyond_4_gib(tmp_path):
    at = 5 * 2**30
    with (tmp_path / "a.ndpi").open("wb") as file:
        file.write(b"II*\0" + struct.pack("<Q", at))
        for offset, after in ((at, at + 100), (at + 100, 0)):
            file.seek(offset)
            file.write(struct.pack("<HQ", 0, after))
        file.truncate(at + 200)
    assert check_chain(tmp_path / "a.ndpi") == 2
    tifffile.imwrite(tmp_path / "b.ndpi", [PICTURE[:9, :9]] * 3, photometric="rgb")
    assert check_chain(tmp_path / "b.ndpi") == len(tifffile.TiffFile(tmp_path / "b.ndpi", is_ndpi=False).pages)


def test_a_scan_cut_short_is_refused_or_read_never_worse(tmp_path):
    whole = write_aperio(tmp_path / "a.svs").read_bytes()
    for share in (0.01, 0.3, 0.6, 0.95):
        (tmp_path / "b.svs").write_bytes(whole[: int(len(whole) * share)])
        with pytest.raises(SlideError, match=r"b\.svs: expected"), open_slide(tmp_path / "b.svs") as slide:
            slide.read(0, 0, slide.width, slide.height)
