"""Slides read right, region by region, whatever holds them; and what cannot be read is refused at once."""

import io
import struct
import threading
import time
import tracemalloc
import zlib

import numpy as np
import pytest
import tifffile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from palyno.data.slides import open_slide, slide_from
from palyno.errors import PalynoError, SlideError, UsageError
from PIL import Image, ImageOps

REGIONS = [(0, 0, 1, 1), (0, 0, 300, 200), (299, 199, 1, 1), (17, 33, 130, 90), (250, 0, 50, 200), (0, 150, 300, 50)]


def field(height=200, width=300, seed=0):
    """A smooth colourful picture with spots, so that neither JPEG nor a shifted region can pass for it."""
    y, x = np.mgrid[:height, :width]
    rgb = np.stack([x * 200 / width + 30, y * 200 / height + 30, 128 + 90 * np.sin(x / 9) * np.cos(y / 7)], axis=-1)
    rng = np.random.default_rng(seed)
    for _ in range(12):
        cy, cx, r = rng.integers(height), rng.integers(width), rng.integers(4, 16)
        rgb[(y - cy) ** 2 + (x - cx) ** 2 < r * r] = rng.integers(0, 255, 3)
    return rgb.astype(np.uint8)


RGB = field()
GREY = RGB[..., 0]


def whole(slide):
    return slide.read(0, 0, slide.width, slide.height)


def assert_regions_equal(path, expected, tolerance=0):
    with open_slide(path) as slide:
        assert (slide.height, slide.width) == expected.shape[:2]
        for x, y, w, h in REGIONS:
            region = slide.read(x, y, w, h)
            assert region.shape == (h, w, 3) and region.dtype == np.uint8 and region.flags.writeable
            difference = np.abs(region.astype(int) - expected[y : y + h, x : x + w])
            assert difference.max() <= tolerance, (path.name, x, y, w, h)


# ---------------------------------------------------------------------------------------- ordinary images


@pytest.mark.parametrize(
    "name, options",
    [
        ("a.png", {}),
        ("a.jpg", {"quality": 90}),
        ("progressive.jpeg", {"progressive": True}),
        ("a.bmp", {}),
        ("lossless.webp", {"lossless": True}),
        ("lossy.webp", {"quality": 80}),
        ("a.jp2", {}),
        ("a.gif", {}),
    ],
)
def test_a_region_of_an_image_file_is_what_pillow_decodes(tmp_path, name, options):
    path = tmp_path / name
    Image.fromarray(RGB).save(path, **options)
    assert_regions_equal(path, np.asarray(Image.open(path).convert("RGB")))


@pytest.mark.parametrize("mode", ["1", "L", "P", "CMYK", "YCbCr"])
def test_image_modes_are_shown_as_pillow_converts_them(tmp_path, mode):
    image = Image.fromarray(RGB).convert(mode)
    path = tmp_path / ("a.jpg" if mode in ("CMYK", "YCbCr") else "a.png")
    image.save(path)
    assert_regions_equal(path, np.asarray(Image.open(path).convert("RGB")))
    np.testing.assert_array_equal(whole(slide_from(image)), np.asarray(image.convert("RGB")))


@pytest.mark.parametrize("mode", ["LA", "RGBA"])
def test_alpha_is_laid_on_white(tmp_path, mode):
    image = Image.fromarray(RGB).convert(mode)
    image.putalpha(Image.fromarray(np.tile(np.linspace(0, 255, 300).astype(np.uint8), (200, 1))))
    image.save(tmp_path / "a.png")
    rgba = image.convert("RGBA")
    expected = np.asarray(Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba).convert("RGB"))
    assert expected[0, 0].tolist() == [255, 255, 255]
    assert_regions_equal(tmp_path / "a.png", expected, tolerance=1)
    assert np.abs(whole(slide_from(np.asarray(image))).astype(int) - expected).max() <= 1
    tifffile.imwrite(tmp_path / "a.tif", np.asarray(rgba), photometric="rgb", extrasamples=["unassalpha"])
    assert_regions_equal(tmp_path / "a.tif", expected, tolerance=1)
    premultiplied = (np.asarray(rgba)[..., :3] * (np.asarray(rgba)[..., 3:] / 255) + 0.5).astype(np.uint8)
    stored = np.concatenate([premultiplied, np.asarray(rgba)[..., 3:]], axis=-1)
    tifffile.imwrite(tmp_path / "b.tif", stored, photometric="rgb", extrasamples=["assocalpha"])
    assert_regions_equal(tmp_path / "b.tif", expected, tolerance=1)


def test_a_transparent_palette_colour_is_white(tmp_path):
    image = Image.fromarray(np.array([[0, 1], [1, 0]], np.uint8), "P")
    image.putpalette([10, 20, 30, 40, 50, 60])
    image.save(tmp_path / "a.gif", transparency=1)
    with open_slide(tmp_path / "a.gif") as slide:
        assert whole(slide).tolist() == [[[10, 20, 30], [255] * 3], [[255] * 3, [10, 20, 30]]]


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "tif"])
def test_orientation_is_honoured_as_pillow_does(tmp_path, orientation, suffix):
    path = tmp_path / f"a.{suffix}"
    exif = Image.Exif()
    exif[0x0112] = orientation
    if suffix == "tif":
        tags = [(274, "H", 1, orientation, True)]
        tifffile.imwrite(path, RGB[:50, :70], photometric="rgb", tile=(16, 32), compression="lzw", extratags=tags)
    else:
        Image.fromarray(RGB[:50, :70]).save(path, exif=exif)
    expected = np.asarray(ImageOps.exif_transpose(Image.open(path)).convert("RGB"))
    with open_slide(path) as slide:
        np.testing.assert_array_equal(whole(slide), expected)
        np.testing.assert_array_equal(slide.read(3, 20, 29, 17), expected[20:37, 3:32])


def test_exif_behind_the_pixels_of_a_png_counts(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    buffer = io.BytesIO()
    Image.fromarray(RGB).save(buffer, "PNG")
    data = buffer.getvalue()
    payload = exif.tobytes()[6:]
    chunk = struct.pack(">I", len(payload)) + b"eXIf" + payload + struct.pack(">I", zlib.crc32(b"eXIf" + payload))
    (tmp_path / "a.png").write_bytes(data[:-12] + chunk + data[-12:])
    with open_slide(tmp_path / "a.png") as slide:
        assert (slide.width, slide.height) == (200, 300)
        np.testing.assert_array_equal(whole(slide), np.rot90(RGB, -1))


def test_an_animation_is_read_by_its_first_frame_and_says_so(tmp_path):
    frames = [Image.fromarray(field(seed=s)).quantize(64) for s in range(3)]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    with open_slide(tmp_path / "a.gif") as slide:
        np.testing.assert_array_equal(whole(slide), np.asarray(Image.open(tmp_path / "a.gif").convert("RGB")))
        assert any("first frame" in note for note in slide.notes)


def test_one_pixel_is_a_slide(tmp_path):
    for name in ("a.png", "a.jpg", "a.tif", "a.bmp"):
        Image.new("RGB", (1, 1), (200, 100, 50)).save(tmp_path / name, **({"quality": 100} if "jpg" in name else {}))
        with open_slide(tmp_path / name) as slide:
            assert np.abs(slide.read(0, 0, 1, 1)[0, 0].astype(int) - (200, 100, 50)).max() <= 3
    for dtype in (np.uint8, np.uint16, np.float32, bool):
        assert whole(slide_from(np.ones((1, 1), dtype))).shape == (1, 1, 3)


# ---------------------------------------------------------------------------------------- depth


def save_deep(path, array):
    if path.suffix == ".tif":
        tifffile.imwrite(path, array, photometric="rgb" if array.ndim == 3 else "minisblack")
    elif path.suffix == ".jp2":
        import imagecodecs

        path.write_bytes(imagecodecs.jpeg2k_encode(array, level=0))
    elif array.ndim == 2:
        Image.fromarray(array).save(path)
    else:
        import imagecodecs

        path.write_bytes(imagecodecs.png_encode(array))


@pytest.mark.parametrize("suffix", ["png", "tif", "jp2", "array"])
@pytest.mark.parametrize("colour", [False, True])
@pytest.mark.parametrize("bits", [10, 12, 16])
def test_a_picture_reads_the_same_in_8_and_in_more_bits(tmp_path, suffix, colour, bits):
    picture = np.concatenate([RGB, np.tile(np.linspace(0, 255, 300).astype(np.uint8)[None, :, None], (9, 1, 3))])
    picture = picture if colour else picture[..., 0]
    deep = np.round(picture.astype(float) * (2**bits - 1) / 255).astype(np.uint16)
    if suffix == "array":
        slide = slide_from(deep)
    else:
        save_deep(tmp_path / f"a.{suffix}", deep)
        slide = open_slide(tmp_path / f"a.{suffix}")
    with slide:
        expected = picture if colour else np.repeat(picture[..., None], 3, axis=2)
        assert np.abs(whole(slide).astype(int) - expected).max() <= 1
        assert any("uint16" in note for note in slide.notes)


@pytest.mark.parametrize(
    ("low", "high"), [(0, 65535), (0, 4095), (100, 900), (30000, 34000), (60000, 65000), (0, 3000)]
)
@pytest.mark.parametrize("suffix", ["png", "tif", "array"])
def test_a_16_bit_ramp_keeps_its_order_and_over_200_greys(tmp_path, low, high, suffix):
    ramp = np.linspace(low, high, 1024).round().astype(np.uint16)
    picture = np.repeat(np.repeat(ramp[None], 8, axis=0), 2, axis=1)
    if suffix == "array":
        slide = slide_from(picture)
    else:
        save_deep(tmp_path / f"a.{suffix}", picture)
        slide = open_slide(tmp_path / f"a.{suffix}")
    with slide:
        row = whole(slide)[0, :, 0].astype(int)
    assert (np.diff(row) >= 0).all()
    assert len(np.unique(row)) > 200


def test_one_hot_and_one_dead_pixel_change_nothing_else():
    picture = RGB.astype(np.uint16) * 4 + 1000
    speckled = picture.copy()
    speckled[10, 10], speckled[20, 20] = 65535, 0
    clean, dirty = whole(slide_from(picture)), whole(slide_from(speckled))
    assert dirty[10, 10].tolist() == [255] * 3 and dirty[20, 20].tolist() == [0] * 3
    clean[[10, 20], [10, 20]] = dirty[[10, 20], [10, 20]]
    np.testing.assert_array_equal(dirty, clean)


def test_a_stretch_keeps_the_balance_of_colours():
    picture = np.full((64, 64, 3), (20000, 22000, 24000), np.uint16)
    picture[8:24, 8:24] = (16000, 18000, 20000)
    shown = whole(slide_from(picture)).astype(int)
    steps = np.diff(shown[0, 0]), np.diff(shown[10, 10])
    assert np.abs(steps[0] - steps[1]).max() <= 1 and np.abs(np.diff(steps)).max() <= 1


def test_every_region_of_a_deep_slide_has_the_same_stretch(tmp_path):
    picture = (np.arange(6000 * 4000, dtype=np.uint64).reshape(4000, 6000) % 3001 + 500).astype(np.uint16)
    tifffile.imwrite(tmp_path / "a.tif", picture, tile=(256, 256), compression="zlib", compressionargs={"level": 1})
    with open_slide(tmp_path / "a.tif") as first, open_slide(tmp_path / "a.tif") as second:
        corner = first.read(5000, 3000, 100, 100)
        second.read(0, 0, 10, 10)
        np.testing.assert_array_equal(second.read(5000, 3000, 100, 100), corner)
        np.testing.assert_array_equal(first.read(4990, 2990, 50, 50)[10:, 10:], corner[:40, :40])


@pytest.mark.parametrize(
    "array",
    [
        RGB / 255.0,
        (RGB / 255.0).astype(np.float32),
        RGB.astype(np.float32),
        RGB.astype(np.int32),
        RGB.astype(np.uint16),
        np.where(np.arange(200)[:, None, None] == 3, np.nan, RGB / 255.0),
    ],
)
def test_arrays_of_other_types_are_shown_as_their_8_bit_picture(array):
    picture = RGB.copy()
    picture[:8], picture[-8:] = 0, 255
    filled = array.copy()
    filled[:8], filled[-8:] = 0, array[np.isfinite(array)].max() * 0 + (1 if np.nanmax(array) <= 1 else 255)
    shown = whole(slide_from(filled)).astype(int)
    assert np.abs(shown[8:] - picture[8:]).max() <= 1


def test_signed_and_constant_samples_are_shown_within_range():
    shown = whole(slide_from(np.repeat(np.arange(-500, 500, dtype=np.int16)[None], 4, axis=0)))[0, :, 0].astype(int)
    assert (np.diff(shown) >= 0).all() and shown[0] < 3 and shown[-1] > 252
    for value in (0, 7, 65535):
        assert len(np.unique(whole(slide_from(np.full((9, 9), value, np.uint16))))) == 1


# ---------------------------------------------------------------------------------------- arrays and the object


def test_arrays_are_read_as_they_are_and_not_shared():
    slide = slide_from(RGB, name="mine", um_per_px=0.5)
    region = slide.read(5, 6, 7, 8)
    np.testing.assert_array_equal(region, RGB[6:14, 5:12])
    region[:] = 0
    np.testing.assert_array_equal(slide.read(5, 6, 7, 8), RGB[6:14, 5:12])
    assert (slide.name, slide.path, slide.width, slide.height) == ("mine", None, 300, 200)
    assert (slide.um_per_px, slide.um_source) == (0.5, "caller")
    np.testing.assert_array_equal(whole(slide_from(GREY)), np.repeat(GREY[..., None], 3, axis=2))
    np.testing.assert_array_equal(whole(slide_from(GREY > 100))[..., 0], (GREY > 100) * 255)
    np.testing.assert_array_equal(whole(slide_from(RGB[::-1, ::2])), RGB[::-1, ::2])


def test_a_rotated_pillow_image_is_turned(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 8
    Image.fromarray(RGB).save(tmp_path / "a.png", exif=exif)
    with Image.open(tmp_path / "a.png") as image:
        np.testing.assert_array_equal(whole(slide_from(image)), np.asarray(ImageOps.exif_transpose(image)))


@pytest.mark.parametrize("shape", [(0, 5), (5, 0, 3), (5,), (3, 20, 20), (2, 9, 9, 3), (9, 9, 5)])
def test_arrays_that_are_no_picture_are_refused(shape):
    with pytest.raises(SlideError, match="expected"):
        slide_from(np.zeros(shape, np.uint8))


def test_what_is_no_picture_at_all_is_wrong_usage():
    for thing in (None, 3, [[1, 2]], b"abc"):
        with pytest.raises(UsageError, match="expected a path"):
            slide_from(thing)
    with pytest.raises(SlideError):
        slide_from(np.array([["a"]]))


@pytest.mark.parametrize("um", [0, -1, float("nan"), float("inf"), "0.5"])
def test_a_scale_that_cannot_be_is_refused(tmp_path, um):
    for call in (lambda: slide_from(RGB, um_per_px=um), lambda: open_slide(tmp_path / "missing", um_per_px=um)):
        with pytest.raises(UsageError, match="micrometres a pixel above 0"):
            call()


@pytest.mark.parametrize("region", [(-1, 0, 5, 5), (0, 0, 301, 1), (0, 200, 1, 1), (0, 0, 0, 5), (299, 199, 2, 1)])
def test_a_region_outside_the_slide_is_refused(region):
    with pytest.raises(UsageError, match="inside 300 x 200"):
        slide_from(RGB).read(*region)


def test_a_closed_slide_says_so(tmp_path):
    Image.fromarray(RGB).save(tmp_path / "a.png")
    with open_slide(tmp_path / "a.png") as slide:
        whole(slide)
    slide.close()
    with pytest.raises(SlideError, match="closed"):
        whole(slide)


def test_threads_share_a_slide(tmp_path):
    big = field(900, 1100)
    tifffile.imwrite(tmp_path / "a.tif", big, photometric="rgb", tile=(64, 64), compression="lzw")
    wrong = []
    with open_slide(tmp_path / "a.tif") as slide:

        def work(seed):
            for x, y in np.random.default_rng(seed).integers(0, 800, (40, 2)):
                if not np.array_equal(slide.read(x, y, 90, 80), big[y : y + 80, x : x + 90]):
                    wrong.append((x, y))

        threads = [threading.Thread(target=work, args=(s,)) for s in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert not wrong


# ---------------------------------------------------------------------------------------- bad input


def test_bad_files_are_refused_with_their_name_and_a_reason(tmp_path):
    Image.fromarray(RGB).save(tmp_path / "good.png")
    Image.fromarray(RGB).save(tmp_path / "good.jpg")
    (tmp_path / "text.jpg").write_text("This is no picture.\n" * 50)
    (tmp_path / "empty.png").write_bytes(b"")
    (tmp_path / "page.tif").write_text("<html></html>")
    (tmp_path / "lone.mrxs").write_bytes((tmp_path / "good.jpg").read_bytes())
    (tmp_path / "script.png").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n")
    (tmp_path / "two.tif").write_bytes(b"II*\0")
    for name in ("missing.png", "text.jpg", "empty.png", "page.tif", "lone.mrxs", "script.png", "two.tif", "nul\0.png"):
        with pytest.raises(SlideError, match="expected") as caught:
            open_slide(tmp_path / name)
        assert name in str(caught.value) and "got" in str(caught.value)
    with pytest.raises(SlideError, match="folder"):
        open_slide(tmp_path)


def test_a_pipe_does_not_hang(tmp_path):
    import os

    os.mkfifo(tmp_path / "pipe.png")
    with pytest.raises(SlideError, match="pipe"):
        open_slide(tmp_path / "pipe.png")


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9, 0.999])
@pytest.mark.parametrize(
    "name", ["a.png", "a.jpg", "p.jpg", "a.bmp", "a.webp", "a.gif", "a.jp2", "deep.png", "s.tif", "t.tif", "j.tif"]
)
def test_a_truncated_file_is_refused_and_never_grey(tmp_path, name, share):
    path = tmp_path / name
    noisy = (RGB // 2 + np.random.default_rng(1).integers(0, 100, RGB.shape)).astype(np.uint8)
    if name == "deep.png":
        save_deep(path, noisy.astype(np.uint16) * 257)
    elif name.endswith("tif"):
        layout = {"s.tif": {"rowsperstrip": 16}, "t.tif": {"tile": (64, 64), "compression": "zlib"}}
        tifffile.imwrite(path, noisy, photometric="rgb", **layout.get(name, {"tile": (64, 64), "compression": "jpeg"}))
    else:
        Image.fromarray(noisy).save(path, **{"progressive": True} if name == "p.jpg" else {})
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    with pytest.raises(SlideError, match="expected"), open_slide(path) as slide:
        whole(slide)


@pytest.mark.parametrize(("name", "share"), [("a.jpg", 0.001), ("a.jpg", 0.5), ("a.gif", 0.7)])
def test_a_file_cut_short_is_told_in_ones_own_words(tmp_path, name, share):
    path = tmp_path / name
    Image.fromarray(RGB).save(path)
    data = path.read_bytes()[: max(30, int(path.stat().st_size * share))]
    path.write_bytes(data)
    kind = {"a.jpg": "JPEG", "a.gif": "GIF"}[name]
    says = rf"^{name}: expected a whole {kind}, got one that breaks off after {len(data):,} bytes.*; copy or export it"
    with pytest.raises(SlideError, match=says) as told, open_slide(path) as slide:
        whole(slide)
    assert "Error" not in str(told.value) and "runcated" not in str(told.value)


def test_a_picture_that_cannot_be_decoded_is_tried_once_and_says_the_same_to_every_tile(tmp_path, monkeypatch):
    path = tmp_path / "a.jpg"
    Image.fromarray(RGB).save(path)
    path.write_bytes(path.read_bytes()[:-200])
    tried, crop = [], Image.Image.crop
    monkeypatch.setattr(Image.Image, "crop", lambda *given: tried.append(given) or crop(*given))
    reasons = set()
    with open_slide(path) as slide:
        for x in range(5):
            with pytest.raises(SlideError) as told:
                slide.read(x, 0, 20, 20)
            reasons.add(str(told.value))
    assert len(tried) == 1 and len(reasons) == 1 and "breaks off" in reasons.pop()


def test_a_jpeg_with_bytes_behind_its_end_is_read(tmp_path):
    path = tmp_path / "a.jpg"
    Image.fromarray(RGB).save(path)
    with open_slide(path) as slide:
        expected = whole(slide)
    path.write_bytes(path.read_bytes() + b"what a camera added")
    with open_slide(path) as slide:
        np.testing.assert_array_equal(whole(slide), expected)


def test_a_damaged_jpeg_that_has_its_end_is_not_called_short(tmp_path):
    path = tmp_path / "a.jpg"
    path.write_bytes(b"\xff\xd8\xff\xd9")
    with pytest.raises(SlideError, match="damaged or cut short"):
        open_slide(path)


def png_that_claims(width, height, data=b""):
    def chunk(name, body):
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(data)) + chunk(b"IEND", b"")


def bmp_that_claims(width, height):
    return (
        b"BM"
        + struct.pack("<IHHIIiiHHIIiiII", 1078, 0, 0, 54, 40, width, height, 1, 24, 0, 0, 2835, 2835, 0, 0)
        + bytes(99)
    )


def tiff_that_claims(width, height):
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, np.zeros((16, 16), np.uint8), compression="zlib")
    data = bytearray(buffer.getvalue())
    with tifffile.TiffFile(io.BytesIO(data)) as tif:
        entries = {code: tif.pages[0].tags[code].offset for code in (256, 257)}
    for code, value in ((256, width), (257, height)):
        data[entries[code] : entries[code] + 12] = struct.pack("<HHII", code, 4, 1, value)
    return bytes(data)


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("a.png", png_that_claims(60000, 60000)),
        ("b.png", png_that_claims(2**31 - 1, 2**31 - 1)),
        ("c.png", png_that_claims(20000, 20000)),
        ("d.png", png_that_claims(0, 10)),
        ("a.bmp", bmp_that_claims(60000, 60000)),
        ("a.tif", tiff_that_claims(60000, 60000)),
        ("b.tif", tiff_that_claims(2**31, 2**31)),
        ("c.tif", tiff_that_claims(6000, 6000)),
        ("a.gif", b"GIF89a" + struct.pack("<HHBBB", 65535, 65535, 0x80, 0, 0) + bytes(6) + b"," + bytes(20)),
        (
            "a.webp",
            b"RIFF" + struct.pack("<I", 60) + b"WEBPVP8X" + struct.pack("<I", 10) + b"\0" * 4 + b"\xff" * 6 + bytes(40),
        ),
    ],
)
def test_a_huge_size_in_a_tiny_file_is_refused_before_decoding(tmp_path, name, data):
    (tmp_path / name).write_bytes(data)
    tracemalloc.start()
    started = time.perf_counter()
    try:
        with pytest.raises(SlideError, match="expected"):
            open_slide(tmp_path / name).read(0, 0, 1, 1)
        assert tracemalloc.get_traced_memory()[1] < 16e6
        assert time.perf_counter() - started < 2
    finally:
        tracemalloc.stop()


def test_pillow_is_left_as_it_was(tmp_path):
    before = Image.MAX_IMAGE_PIXELS
    size = (16000, 12000)  # More than Pillow itself would open.
    noise = np.random.default_rng(0).bytes(size[0] * size[1] // 8)
    Image.frombytes("1", size, noise).save(tmp_path / "large.png", compress_level=0)
    with open_slide(tmp_path / "large.png") as slide:
        assert (slide.width, slide.height) == size
    assert before == Image.MAX_IMAGE_PIXELS is not None


def tiny_ifd(next_offset, entries=b"", count=0):
    return struct.pack("<H", count) + entries + struct.pack("<I", next_offset)


@pytest.mark.parametrize(
    "kind", ["loop", "self", "million", "outside", "negative", "tags", "offsets", "bytecounts", "lzw", "jpeg"]
)
def test_a_hostile_tiff_is_refused_in_time(tmp_path, kind):
    path = tmp_path / "a.tif"
    options = {"compression": "lzw"} if kind == "lzw" else {"compression": "jpeg"} if kind == "jpeg" else {}
    tifffile.imwrite(path, RGB, photometric="rgb", tile=(64, 64), **options)
    with tifffile.TiffFile(path) as tif:
        page = tif.pages[0]
        tags = {code: page.tags[code] for code in (324, 325)}
        last = {code: tag.valueoffset + (2 if tag.dtype == 3 else 4) * (tag.count - 1) for code, tag in tags.items()}
        places = list(zip(page.dataoffsets, page.databytecounts, strict=True))
        next_at = page.offset + 2 + 12 * struct.unpack("<H", path.read_bytes()[page.offset : page.offset + 2])[0]
        first = page.offset
    data = bytearray(path.read_bytes())
    if kind == "loop":
        data[next_at : next_at + 4] = struct.pack("<I", len(data))
        data += tiny_ifd(first)
    elif kind == "self":
        data[next_at : next_at + 4] = struct.pack("<I", first)
    elif kind == "million":
        data[next_at : next_at + 4] = struct.pack("<I", len(data))
        start = len(data)
        data += b"".join(tiny_ifd(start + 6 * (i + 1) if i < 10**6 - 1 else 0) for i in range(10**6))
    elif kind == "outside":
        data[4:8] = struct.pack("<I", len(data) + 1000)
    elif kind == "negative":
        data[next_at : next_at + 4] = struct.pack("<i", -8)
    elif kind == "tags":
        data[first : first + 2] = struct.pack("<H", 65535)
    elif kind in ("offsets", "bytecounts"):
        code = 324 if kind == "offsets" else 325
        wide = tags[code].dtype == 4
        data[last[code] : last[code] + (4 if wide else 2)] = b"\xf0" + b"\xff" * (3 if wide else 1)
    else:
        offset, count = places[0]
        garbage = np.random.default_rng(0).bytes(count)
        data[offset : offset + count] = garbage if kind == "lzw" else data[offset : offset + 20] + garbage[20:]
    path.write_bytes(data)
    started = time.perf_counter()
    with pytest.raises(SlideError, match="expected"), open_slide(path) as slide:
        whole(slide)
    assert time.perf_counter() - started < 5


def test_a_jpeg_tile_that_claims_another_size_is_refused(tmp_path):
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, RGB, photometric="rgb", tile=(64, 64), compression="jpeg")
    data = bytearray(path.read_bytes())
    with tifffile.TiffFile(path) as tif:
        start = tif.pages[0].dataoffsets[0]
    frame = data.index(b"\xff\xc0", start)
    data[frame + 5 : frame + 9] = struct.pack(">HH", 65000, 65000)
    path.write_bytes(data)
    tracemalloc.start()
    try:
        with open_slide(path) as slide, pytest.raises(SlideError, match="65000"):
            whole(slide)
        assert tracemalloc.get_traced_memory()[1] < 16e6
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_a_damaged_tile_is_named_and_the_others_are_read(tmp_path, dtype):
    path = tmp_path / "a.tif"
    picture = RGB.astype(dtype) * (257 if dtype == np.uint16 else 1)
    picture[-1, -9:], picture[-2, -9:] = 0, np.iinfo(dtype).max
    picture[-4:-2, -9:] = picture[-1, -1]
    picture[-8:-5, -9:] = np.iinfo(dtype).max
    tifffile.imwrite(path, picture, photometric="rgb", tile=(64, 64), compression="zlib")
    with tifffile.TiffFile(path) as tif:
        offset, count = tif.pages[0].dataoffsets[0], tif.pages[0].databytecounts[0]
    data = bytearray(path.read_bytes())
    data[offset : offset + count] = b"\x55" * count
    path.write_bytes(data)
    with open_slide(path) as slide:
        with pytest.raises(SlideError, match=r"a\.tif: .*64 x 60 at \(0, 0\)"):
            slide.read(0, 0, 64, 60)
        np.testing.assert_array_equal(slide.read(64, 0, 100, 200), RGB[:, 64:164])
        assert slide.format == "TIFF"


SEEDS = {}
for _name, _options in {"png": {}, "jpeg": {}, "webp": {}, "bmp": {}, "gif": {}, "jpeg2000": {}}.items():
    _buffer = io.BytesIO()
    Image.fromarray(RGB[:24, :32]).save(_buffer, _name)
    SEEDS[_name] = _buffer.getvalue()
for _name, _options in {
    "strip": {},
    "tile": {"tile": (16, 16), "compression": "lzw"},
    "jpegtile": {"tile": (16, 16), "compression": "jpeg"},
    "ome": {"metadata": {"axes": "YXS"}, "tile": (16, 16), "compression": "zlib"},
    "bigtiff": {"tile": (16, 16)},
}.items():
    _buffer = io.BytesIO()
    tifffile.imwrite(
        _buffer, RGB[:24, :32], photometric="rgb", ome=_name == "ome" or None, bigtiff=_name == "bigtiff", **_options
    )
    SEEDS[_name] = _buffer.getvalue()


@pytest.mark.parametrize("name", SEEDS)
@settings(max_examples=60, deadline=5000, derandomize=True, suppress_health_check=list(HealthCheck))
@given(edits=st.lists(st.tuples(st.floats(0, 1), st.integers(0, 255)), min_size=1, max_size=6), cut=st.floats(0.2, 1.5))
def test_a_corrupted_file_is_read_or_refused_and_nothing_else(tmp_path_factory, name, edits, cut):
    data = bytearray(SEEDS[name])
    # Half of the edits fall on the first 200 bytes: headers are where files are dangerous.
    for i, (where, value) in enumerate(edits):
        data[int(where * (len(data) - 1)) if i % 2 else int(where * min(200, len(data) - 1))] = value
    path = tmp_path_factory.getbasetemp() / f"fuzz.{name}"
    path.write_bytes(data[: int(len(data) * cut)])
    try:
        with open_slide(path) as slide:
            region = slide.read(0, 0, min(slide.width, 64), min(slide.height, 64))
    except SlideError as error:
        assert path.name in str(error)
    else:
        assert region.dtype == np.uint8 and region.ndim == 3


def test_every_refusal_is_an_input_error():
    assert issubclass(SlideError, PalynoError) and SlideError.exit_code == 3
