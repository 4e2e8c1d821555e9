"""TIFF in its dialects: the same pixels as tifffile and Pillow give, few tiles decoded, the right plane and scale."""

import time
import tracemalloc

import numpy as np
import pytest
import tifffile
from palyno.data.formats import plane
from palyno.data.formats.pixel_size import read_ome
from palyno.data.slides import open_slide
from palyno.errors import SlideError
from PIL import Image

Y, X = np.mgrid[:200, :300]
RGB = np.stack([X * 200 / 300 + 30, Y * 200 / 200 + 30, 128 + 90 * np.sin(X / 9) * np.cos(Y / 7)], -1).astype(np.uint8)
RGB[60:90, 100:140] = (250, 10, 20)
GREY = np.ascontiguousarray(RGB[..., 2])
REGIONS = [(0, 0, 1, 1), (0, 0, 300, 200), (299, 199, 1, 1), (17, 33, 130, 90), (250, 0, 50, 200), (0, 150, 300, 50)]


def whole(slide):
    return slide.read(0, 0, slide.width, slide.height)


def write(path, array=RGB, **options):
    tifffile.imwrite(path, array, **{"photometric": "rgb" if array.shape[-1] == 3 else "minisblack", **options})
    return path


def assert_reads(path, expected, tolerance=0):
    with open_slide(path) as slide:
        assert (slide.height, slide.width) == expected.shape[:2]
        for x, y, w, h in REGIONS:
            region = slide.read(x, y, w, h)
            assert region.shape == (h, w, 3) and region.dtype == np.uint8
            assert np.abs(region.astype(int) - expected[y : y + h, x : x + w]).max() <= tolerance, (x, y, w, h)


LAYOUTS = {
    "strips": {"rowsperstrip": 7},
    "one strip": {"rowsperstrip": 200},
    "tiles": {"tile": (64, 48)},
    "tiles larger than the picture": {"tile": (512, 512)},
    "big": {"bigtiff": True, "tile": (64, 64)},
    "big-endian": {"byteorder": ">", "tile": (64, 64), "compression": "lzw"},
    "planes of colour": {"planarconfig": "separate", "rowsperstrip": 50},
    "tiled planes of colour": {"planarconfig": "separate", "tile": (64, 64), "compression": "zlib"},
    "OME": {"ome": True, "tile": (64, 64), "compression": "zlib"},
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("codec", [None, "lzw", "zlib", "packbits", "zstd", "predictor"])
def test_layouts_and_codecs_give_tifffiles_pixels(tmp_path, layout, codec):
    options = dict(LAYOUTS[layout])
    if codec == "predictor":
        options |= {"compression": "lzw", "predictor": True}
    elif codec:
        options["compression"] = codec
    array = np.moveaxis(RGB, 2, 0).copy() if "planarconfig" in options else RGB
    path = write(tmp_path / "a.tif", array, **{"photometric": "rgb", **options})
    assert_reads(path, RGB)


@pytest.mark.parametrize("subsampling", [(1, 1), (2, 1), (2, 2)])
@pytest.mark.parametrize("tile", [(64, 64), None])
def test_jpeg_in_ycbcr_gives_tifffiles_pixels(tmp_path, subsampling, tile):
    options = {"compression": "jpeg", "subsampling": subsampling}
    write(tmp_path / "a.tif", tile=tile, rowsperstrip=None if tile else 64, **options)
    expected = tifffile.imread(tmp_path / "a.tif")
    assert np.abs(expected.astype(int) - RGB).mean() < 6
    assert_reads(tmp_path / "a.tif", expected)


@pytest.mark.parametrize(
    ("mode", "codec"),
    [(mode, codec) for mode in ("1", "L", "P", "RGB", "RGBA", "CMYK") for codec in ("raw", "tiff_lzw")]
    + [("YCbCr", "tiff_lzw")],
)
def test_colours_are_those_of_pillow(tmp_path, mode, codec):
    Image.fromarray(RGB).convert(mode).save(tmp_path / "a.tif", compression=codec)
    assert_reads(tmp_path / "a.tif", np.asarray(Image.open(tmp_path / "a.tif").convert("RGB")), tolerance=1)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_white_may_be_zero(tmp_path, dtype):
    stored = (255 - GREY).astype(dtype) * (257 if dtype == np.uint16 else 1)
    stored[:9], stored[9:18] = 0, np.iinfo(dtype).max
    shown = np.where(np.arange(200)[:, None] < 9, 255, np.where(np.arange(200)[:, None] < 18, 0, GREY))
    assert_reads(write(tmp_path / "a.tif", stored, photometric="miniswhite"), np.repeat(shown[..., None], 3, 2))


def test_floats_and_packed_bits(tmp_path):
    floats = GREY.astype(np.float32) / 255
    floats[0:2], floats[2:4] = 0, 1
    expected = np.repeat(np.round(floats * 255)[..., None], 3, 2)
    assert_reads(
        write(tmp_path / "f.tif", floats, tile=(64, 64), compression="zlib", predictor=3), expected, tolerance=1
    )
    Image.fromarray(GREY > 99).save(tmp_path / "b.tif", compression="packbits")
    assert_reads(tmp_path / "b.tif", np.repeat(((GREY > 99) * 255)[..., None], 3, 2))
    four = (GREY >> 4).astype(np.uint8)
    write(tmp_path / "n.tif", four, bitspersample=4, tile=(64, 64))
    assert_reads(tmp_path / "n.tif", np.repeat((four.astype(int) * 17)[..., None], 3, 2), tolerance=1)


def test_tiles_that_were_never_written_are_white(tmp_path):
    def tiles():
        for i in range(4 * 5):
            yield None if i % 2 else np.full((64, 64, 3), 77, np.uint8)

    path = tmp_path / "a.tif"
    tifffile.imwrite(
        path, tiles(), shape=RGB.shape, dtype=np.uint8, photometric="rgb", tile=(64, 64), compression="zlib"
    )
    with open_slide(path) as slide:
        assert slide.read(0, 0, 64, 64).max() == 77 and slide.read(64, 0, 64, 64).min() == 255


@pytest.mark.parametrize(("kind", "most"), [("minisblack", 4095), ("minisblack", 65535), ("miniswhite", 65535)])
def test_tiles_that_were_never_written_are_white_and_change_no_others(tmp_path, kind, most):
    stored = (GREY[:192, :256].astype(float) * most / 255).astype(np.uint16)
    stored[:9, :9], stored[9:18, :9] = 0, most
    for name, left_out in (("all.tif", ()), ("some.tif", (1, 6))):
        tiles = (None if i in left_out else stored[i // 4 * 64 :, i % 4 * 64 :][:64, :64] for i in range(12))
        tifffile.imwrite(tmp_path / name, tiles, shape=(192, 256), dtype=np.uint16, photometric=kind, tile=(64, 64))
    with open_slide(tmp_path / "all.tif") as slide, open_slide(tmp_path / "some.tif") as sparse:
        expected = whole(slide)
        expected[:64, 64:128] = expected[64:128, 128:192] = 255
        assert np.array_equal(whole(sparse), expected)


# ---------------------------------------------------------------------------------------- what is decoded


@pytest.mark.parametrize("layout", [{"tile": (256, 256)}, {"rowsperstrip": 64}])
def test_a_region_of_a_large_slide_decodes_only_its_tiles(tmp_path, layout):
    path = tmp_path / "a.tif"
    row = np.tile(np.arange(20000, dtype=np.uint16).astype(np.uint8)[:, None], (1, 3))
    tifffile.imwrite(path, np.broadcast_to(row, (4096, 20000, 3)), photometric="rgb", compression="zlib", **layout)
    decoded = []
    with open_slide(path) as slide:
        original = plane.Plane._segment

        def counted(self, index):
            if index not in self._kept:
                decoded.append(index)
            return original(self, index)

        plane.Plane._segment = counted
        tracemalloc.start()
        try:
            np.testing.assert_array_equal(slide.read(5000, 1000, 640, 640)[3], row[5000:5640])
            slide.read(5100, 1050, 500, 500)
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
            plane.Plane._segment = original
    assert len(decoded) == len(set(decoded)) <= (16 if "tile" in layout else 11)
    assert peak < (10e6 if "tile" in layout else 60e6), "the slide has 246 MB of pixels"


def test_an_uncompressed_slide_is_not_read_at_all(tmp_path):
    path = tmp_path / "a.tif"
    tifffile.memmap(path, shape=(20000, 20000, 3), dtype=np.uint8, photometric="rgb")[15000:15010, 9000:9010] = 99
    tracemalloc.start()
    try:
        with open_slide(path) as slide:
            assert slide.read(9000, 15000, 10, 10).min() == 99
        assert tracemalloc.get_traced_memory()[1] < 5e6
    finally:
        tracemalloc.stop()


def test_the_memory_for_decoded_tiles_is_bounded(tmp_path, monkeypatch):
    monkeypatch.setattr(plane, "_KEPT_BYTES", 40_000)
    write(tmp_path / "a.tif", tile=(64, 64), compression="zlib")
    with open_slide(tmp_path / "a.tif") as slide:
        np.testing.assert_array_equal(whole(slide), RGB)
        kept = slide._pixels._planes[0]._kept
        assert len(kept) == 3 and sum(t.nbytes for t in kept.values()) <= 40_000


def test_more_samples_a_pixel_than_can_be_true_are_refused_before_memory_is_taken_for_them(tmp_path):
    path = write(tmp_path / "a.tif", rowsperstrip=7)
    with tifffile.TiffFile(path, mode="r+b") as tif:
        tif.pages.first.tags["SamplesPerPixel"].overwrite(27651)
    with pytest.raises(SlideError, match="at most 512 samples a pixel, got 27651"):
        open_slide(path)


def test_a_strip_that_cannot_be_decoded_at_once_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(plane, "DECODED_PIXELS", 10_000)
    write(tmp_path / "a.tif", rowsperstrip=200, compression="zlib")
    with pytest.raises(SlideError, match="tiled TIFF"):
        open_slide(tmp_path / "a.tif")


# ---------------------------------------------------------------------------------------- which page


def blurred(sigma):
    from scipy.ndimage import gaussian_filter

    return gaussian_filter(RGB.astype(float), (sigma, sigma, 0)).astype(np.uint8)


@pytest.mark.parametrize("sharp", [0, 1, 4])
@pytest.mark.parametrize("kind", ["pages", "ome", "imagej"])
def test_of_a_focus_stack_the_sharpest_plane_is_read(tmp_path, sharp, kind):
    stack = np.stack([blurred(0.1 + 1.5 * abs(z - sharp)) for z in range(5)])
    options = {"ome": {"ome": True}, "imagej": {"imagej": True}, "pages": {}}[kind]
    axes = {} if kind == "pages" else {"metadata": {"axes": "ZYXS"}}
    write(tmp_path / "a.tif", stack, **options, **axes)
    assert_reads(tmp_path / "a.tif", stack[sharp])
    with open_slide(tmp_path / "a.tif") as slide:
        assert f"plane {sharp + 1} of 5 is read, the sharpest" in slide.notes


def test_equal_planes_give_the_middle_one(tmp_path):
    write(tmp_path / "a.tif", np.stack([RGB] * 5))
    with open_slide(tmp_path / "a.tif") as slide:
        assert "plane 3 of 5 is read, the sharpest" in slide.notes


def test_a_stack_too_dear_to_compare_gives_the_middle_plane(tmp_path, monkeypatch):
    monkeypatch.setattr("palyno.data.formats.tiff._CHEAP_SEGMENT", 1000)
    write(tmp_path / "a.tif", np.stack([RGB] * 4), rowsperstrip=200, compression="zlib")
    with open_slide(tmp_path / "a.tif") as slide:
        assert "plane 2 of 4 is read, the middle one" in slide.notes


@pytest.mark.parametrize("kind", ["ome", "imagej"])
@pytest.mark.parametrize("channels", [2, 3])
def test_channels_in_planes_of_their_own(tmp_path, kind, channels):
    stack = np.zeros((3, channels, 200, 300), np.uint8)
    stack[1] = np.moveaxis(RGB, 2, 0)[:channels]
    tifffile.imwrite(tmp_path / "a.tif", stack, metadata={"axes": "ZCYX"}, photometric="minisblack", **{kind: True})
    expected = RGB if channels == 3 else np.repeat(RGB[..., :1], 3, 2)
    assert_reads(tmp_path / "a.tif", expected)
    with open_slide(tmp_path / "a.tif") as slide:
        assert "plane 2 of 3 is read, the sharpest" in slide.notes
        assert any(f"{channels} channels" in note for note in slide.notes)


def test_times_are_not_focus(tmp_path):
    stack = np.stack([blurred(4), RGB])
    write(tmp_path / "a.tif", stack, ome=True, metadata={"axes": "TYXS"})
    assert_reads(tmp_path / "a.tif", stack[0])


def test_thumbnails_levels_and_labels_are_left(tmp_path):
    path = tmp_path / "a.tif"
    with tifffile.TiffWriter(path) as tif:
        tif.write(RGB[:50, :50].copy(), photometric="rgb")
        tif.write(RGB, photometric="rgb", tile=(64, 64), subifds=1)
        tif.write(RGB[::2, ::2].copy(), photometric="rgb", tile=(64, 64), subfiletype=1)
        tif.write(RGB[::4, ::4].copy(), photometric="rgb", subfiletype=1)
    assert_reads(path, RGB)


def test_a_thumbnail_before_the_planes_does_not_shift_them(tmp_path):
    stack = np.stack([np.moveaxis(p, 2, 0) for p in (blurred(4), RGB, blurred(2))])
    with tifffile.TiffWriter(tmp_path / "a.tif", ome=True) as tif:
        tif.write(RGB[::8, ::8].copy(), photometric="rgb", metadata={"axes": "YXS"})
        tif.write(stack, photometric="minisblack", metadata={"axes": "ZCYX"})
    assert_reads(tmp_path / "a.tif", RGB)
    with open_slide(tmp_path / "a.tif") as slide:
        assert "plane 2 of 3 is read, the sharpest" in slide.notes


@pytest.mark.parametrize("depth", [1, 3])
def test_colours_that_are_counted_as_channels_are_no_missing_planes(tmp_path, depth):
    path = tmp_path / "a.tif"
    stack = np.stack([RGB, blurred(2), blurred(4)][:depth])
    about = f'SizeX="300" SizeY="200" SizeC="3" SizeZ="{depth}" SizeT="1" DimensionOrder="XYCZT" Type="uint8"'
    xml = f'<OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06"><Image><Pixels {about}/></Image></OME>'
    write(path, stack, description=xml, metadata=None)
    assert_reads(path, RGB)
    with open_slide(path) as slide:
        assert slide.format == "OME-TIFF"
        assert slide.notes == (("plane 1 of 3 is read, the sharpest",) if depth == 3 else ())


def test_planes_that_are_described_and_not_found_are_noted(tmp_path):
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, np.stack([GREY] * 5), imagej=True, metadata={"axes": "ZYX"}, byteorder="<")
    with tifffile.TiffFile(path) as tif:
        end = tif.pages.first.offset + 2 + 12 * len(tif.pages.first.tags)
    data = path.read_bytes()
    # As ImageJ writes stacks above 4 GB: all planes in a row, a directory of the first.
    path.write_bytes(data[:end] + bytes(4) + data[end + 4 :])
    with open_slide(path) as slide:
        assert any("5 planes are described and 1 can be found" in note for note in slide.notes)


# ---------------------------------------------------------------------------------------- scale


@pytest.mark.parametrize(
    ("resolution", "unit", "um"),
    [
        ((1e4 / 0.25, 1e4 / 0.25), "CENTIMETER", 0.25),
        ((25400 / 0.5, 25400 / 0.5), "INCH", 0.5),
        ((72, 72), "INCH", None),
        ((300, 300), "INCH", None),
        ((118.11, 118.11), "CENTIMETER", None),
        ((2400, 2400), "INCH", None),
        ((1, 1), "NONE", None),
        ((40000, 40000), "NONE", None),
        ((40000, 20000), "CENTIMETER", None),
        ((40000, 40200), "CENTIMETER", (0.25 + 1e4 / 40200) / 2),
        ((1e9, 1e9), "CENTIMETER", None),
    ],
)
def test_the_resolution_counts_only_where_it_is_a_microscopes(tmp_path, resolution, unit, um):
    write(tmp_path / "a.tif", resolution=resolution, resolutionunit=unit)
    with open_slide(tmp_path / "a.tif") as slide:
        assert slide.um_per_px == (um if um is None else pytest.approx(um, rel=1e-4))
        assert slide.um_source == (None if um is None else "metadata")
        noted = resolution[0] != resolution[1] or max(resolution) == 1e9
        assert bool([n for n in slide.notes if " um" in n]) == noted


@pytest.mark.parametrize("suffix", ["png", "jpg", "bmp", "jp2"])
def test_the_resolution_of_other_images_never_counts(tmp_path, suffix):
    Image.fromarray(RGB).save(tmp_path / f"a.{suffix}", dpi=(101600, 101600) if suffix != "jpg" else (60000, 60000))
    with open_slide(tmp_path / f"a.{suffix}") as slide:
        assert slide.um_per_px is None and slide.um_source is None


@pytest.mark.parametrize(
    ("size", "unit", "um"),
    [(0.325, "µm", 0.325), (325, "nm", 0.325), (0.000325, "mm", 0.325), (3, "pixel", None), (400, "µm", None)],
)
def test_the_scale_of_ome(tmp_path, size, unit, um):
    metadata = {
        "axes": "YXS",
        **{f"PhysicalSize{a}": size for a in "XY"},
        **{f"PhysicalSize{a}Unit": unit for a in "XY"},
    }
    write(tmp_path / "a.tif", ome=True, metadata=metadata)
    with open_slide(tmp_path / "a.tif") as slide:
        assert slide.format == "OME-TIFF"
        assert slide.um_per_px == (um if um is None else pytest.approx(um))


@pytest.mark.parametrize(
    ("unit", "um"), [("micron", 0.5), ("um", 0.5), ("\\u00B5m", 0.5), ("inch", None), ("pixel", None), ("mm", None)]
)
def test_the_scale_of_imagej(tmp_path, unit, um):
    write(tmp_path / "a.tif", imagej=True, resolution=(2, 2), metadata={"axes": "YXS", "unit": unit})
    with open_slide(tmp_path / "a.tif") as slide:
        assert slide.um_per_px == um


def test_the_caller_goes_before_the_file_and_a_difference_is_noted(tmp_path):
    write(tmp_path / "a.tif", resolution=(40000, 40000), resolutionunit="CENTIMETER")
    with open_slide(tmp_path / "a.tif", um_per_px=0.5) as slide:
        assert (slide.um_per_px, slide.um_source) == (0.5, "caller")
        assert any("0.25" in note for note in slide.notes)
    with open_slide(tmp_path / "a.tif", um_per_px=0.251) as slide:
        assert not slide.notes


def test_xml_that_declares_entities_is_not_parsed(tmp_path):
    body = '<OME><Image><Pixels SizeX="300" SizeY="200" PhysicalSizeX="1" PhysicalSizeY="1"/></Image></OME>'
    assert read_ome(body, 300, 200).x == 1
    laughs = '<!DOCTYPE l [<!ENTITY a "aaaaaaaaaa">' + "".join(
        f'<!ENTITY {chr(98 + i)} "{f"&{chr(97 + i)};" * 10}">' for i in range(9)
    )
    started = time.perf_counter()
    assert read_ome(laughs + "]>" + body, 300, 200) is None
    assert read_ome(body[:-9], 300, 200) is None
    assert time.perf_counter() - started < 1
    write(tmp_path / "a.tif", description=laughs + "]>" + body, metadata=None)
    assert_reads(tmp_path / "a.tif", RGB)
