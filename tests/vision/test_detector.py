"""The detector on slides of any size, with a network that sees dark rectangles as far as its window shows them."""

import math
from dataclasses import replace

import numpy as np
import palyno
import pytest
import tifffile
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from palyno import SlideError, UsageError
from palyno.data.slides import Slide, slide_from
from palyno.vision.detector import DECISIVE, FLAGS, Detector
from palyno.vision.duplicates import IOU
from palyno.vision.network import Network, choose_device
from palyno.vision.tiles import iou_matrix, reading_order
from palyno.vision.weights import Metadata
from PIL import Image
from scipy import ndimage

CLASSES = ("Serjania erecta", "Qualea multiflora", "unknown")


class Eye:
    """Returns a box for each dark rectangle: its red value is its score, its green value its class; at most `slots`."""

    def __init__(self, slots=2000):
        self.slots, self.batches, self.shapes = slots, [], set()

    def __call__(self, images):
        assert images.dtype == torch.float32 and images.min() >= 0 and images.max() <= 1
        self.batches.append(len(images))
        self.shapes.add(tuple(images.shape[2:]))
        return torch.stack([self.look((image * 255).round().numpy()) for image in images])

    def look(self, image):
        red, green, blue = image
        labels, _ = ndimage.label(blue < 50)
        out = np.zeros((4 + len(CLASSES), self.slots), np.float32)
        rows = []
        for y, x in ndimage.find_objects(labels):
            yc, xc = (y.start + y.stop) // 2, (x.start + x.stop) // 2
            rows.append((red[yc, xc] / 255, int(green[yc, xc]), x.start, y.start, x.stop, y.stop))
        for i, (score, cls, x1, y1, x2, y2) in enumerate(sorted(rows, reverse=True)[: self.slots]):
            out[:4, i] = (x1 + x2) / 2, (y1 + y2) / 2, x2 - x1, y2 - y1
            out[4 + cls, i] = score
        return torch.from_numpy(out)


def detector(eye=None, *, largest=60, max_objects=None):
    metadata = Metadata(name="eye", classes=CLASSES, config={}, max_grain_px=largest, sha256="e" * 64)
    return Detector(Network(eye or Eye(), torch.device("cpu"), max_objects), metadata)


def picture(width, height, grains, scores=None, classes=None):
    image = np.full((height, width, 3), 255, np.uint8)
    for i, (x1, y1, x2, y2) in enumerate(np.asarray(grains, int)):
        score = 230 if scores is None else scores[i]
        image[y1:y2, x1:x2] = (score, 0 if classes is None else classes[i], 0)
    return image


def apart(rng, width, height, sides, pitch):
    """Grains one to a cell of a lattice, so that none touch; in reading order."""
    boxes = []
    for y in range(0, height - pitch + 1, pitch):
        for x in range(0, width - pitch + 1, pitch):
            w, h = rng.integers(*sides, 2)
            dx, dy = rng.integers(0, pitch - w), rng.integers(0, pitch - h)
            boxes.append((x + dx, y + dy, x + dx + w, y + dy + h))
    boxes = np.array(boxes, float)
    return boxes[reading_order(boxes)]


@pytest.fixture(scope="module")
def field():
    """A picture with 500 grains of 15 to 60 pixels, scores 26 to 250 of 255, and their boxes."""
    rng = np.random.default_rng(1)
    grains = apart(rng, 1700, 1310, (15, 60), 63)
    scores, classes = rng.integers(26, 250, len(grains)), rng.integers(0, len(CLASSES), len(grains))
    return picture(1700, 1310, grains, scores, classes), grains, scores / 255, classes


def same(a, b):
    np.testing.assert_array_equal(a.boxes, b.boxes)
    np.testing.assert_array_equal(a.confidence, b.confidence)
    assert (a.taxa, a.ranks, a.candidates) == (b.taxa, b.ranks, b.candidates)
    assert (a.flags, a.grain_flags, a.unread) == (b.flags, b.grain_flags, b.unread)


@pytest.mark.parametrize("tile", [192, 333, 640, 960, 1280, 4000])
def test_every_grain_once_with_its_box_name_and_confidence_at_any_tile(field, tile):
    image, grains, scores, classes = field
    result = detector().detect(image, conf=0.1, tile=tile)
    np.testing.assert_allclose(result.boxes, grains, atol=0.011)
    np.testing.assert_allclose(result.confidence, scores, atol=1e-4)
    assert result.taxa == tuple(CLASSES[c] for c in classes)
    assert result.flags == () and result.fraction_read == 1 and result.unread == ()
    assert (result.width, result.height) == (1700, 1310)


@pytest.mark.parametrize("batch", [1, 3, 16])
def test_the_batch_changes_nothing_but_speed(field, batch):
    eye = Eye()
    same(
        detector(eye).detect(field[0], conf=0.1, tile=320, batch=batch), detector().detect(field[0], conf=0.1, tile=320)
    )
    assert max(eye.batches) == batch


@given(st.floats(0, 1), st.floats(0, 1))
@settings(max_examples=25, deadline=None)
def test_a_threshold_before_or_after_gives_the_same_result(field, a, b):
    low, high = sorted((a, b))
    image = field[0][:700, :700]
    same(detector().detect(image, conf=high, tile=256), detector().detect(image, conf=low, tile=256).above(high))


@pytest.mark.parametrize(("tile", "imgsz"), [(640, 320), (320, 640), (500, 640)])
def test_scaling_tiles_for_the_network_keeps_pixels_of_the_slide(field, tile, imgsz):
    image, grains, _, _ = field
    result = detector().detect(image, conf=0.02, tile=tile, imgsz=imgsz)
    assert len(result) == len(grains)
    assert iou_matrix(result.boxes, grains).max(0).min() > 0.75


@pytest.mark.parametrize(
    ("size", "shape"), [((1, 1), (32, 32)), ((200, 31), (32, 224)), ((640, 640), (640, 640)), ((700, 900), (640, 640))]
)
def test_small_pictures_are_filled_up_to_multiples_of_32_and_never_enlarged(size, shape):
    eye = Eye()
    detector(eye).detect(picture(*size, []))
    assert eye.shapes == {shape}


def test_a_network_that_can_return_50_boxes_counts_500(field):
    image, grains, _, _ = field
    result = detector(Eye(50)).detect(image, conf=0.1)
    np.testing.assert_allclose(result.boxes, grains, atol=0.011)
    assert "saturated" not in result.flags
    same(detector(max_objects=50).detect(image, conf=0.1), result)


def test_where_halving_tiles_does_not_help_the_slide_is_flagged():
    rng = np.random.default_rng(0)
    grains = apart(rng, 256, 256, (4, 6), 8)
    result = detector(Eye(50), largest=8).detect(picture(256, 256, grains))
    assert result.flags == ("saturated",)
    assert len(result) < len(grains)
    result = detector(Eye(500), largest=8).detect(picture(256, 256, grains))
    assert result.flags == () and len(result) == len(grains)


def test_boxes_below_the_decisive_confidence_do_not_make_a_tile_full():
    grains = apart(np.random.default_rng(0), 640, 640, (20, 40), 60)
    faint = np.full(len(grains), 20)
    eye = Eye(len(grains))
    result = detector(eye).detect(picture(640, 640, grains, faint), conf=0.01)
    assert eye.shapes == {(640, 640)} and result.flags == () and len(result) == len(grains)


def test_a_grain_larger_than_the_overlap_is_read_again_and_counted_once_and_whole():
    large = [[430, 200, 710, 470]]
    image = picture(1120, 640, large)
    result = detector(largest=100).detect(image)
    assert result.boxes.tolist() == large
    assert result.flags == () and result.provenance.arguments["overlap_px"] > 100
    fixed = detector(largest=100).detect(image, overlap=100)
    assert fixed.flags == ("oversized",)
    assert all("oversized" in flags for flags in fixed.grain_flags)
    assert fixed.provenance.arguments["overlap_px"] == 100


def test_a_grain_larger_than_half_a_tile_is_flagged_and_a_larger_tile_puts_it_right():
    large = [[300, 100, 820, 600]]
    image = picture(1120, 640, large)
    assert "oversized" in detector().detect(image).flags
    result = detector().detect(image, tile=1280)
    assert result.flags == () and result.boxes.tolist() == large
    assert 640 < result.provenance.arguments["tile_px"] <= 1280


def test_a_larger_tile_does_not_change_what_the_network_sees(field):
    eye = Eye()
    same(detector(eye).detect(field[0], conf=0.1, tile=1280), detector().detect(field[0], conf=0.1, tile=640))
    assert max(max(shape) for shape in eye.shapes) == 640


def test_a_wide_overlap_and_scaling_take_the_tile_at_its_word(field):
    eye = Eye()
    wide = detector(eye).detect(field[0], conf=0.1, tile=1280, overlap=400)
    assert (wide.provenance.arguments["tile_px"], wide.provenance.arguments["overlap_px"]) == (800, 400)
    scaled = detector(eye).detect(field[0], conf=0.1, tile=1280, imgsz=640)
    assert (scaled.provenance.arguments["tile_px"], scaled.provenance.arguments["imgsz"]) == (1280, 640)


def test_faint_large_things_do_not_decide_whether_a_slide_is_read_again():
    image = picture(1120, 640, [[430, 200, 710, 470]], [int(DECISIVE * 255) - 3])
    low = detector(largest=100).detect(image, conf=0.01)
    assert low.flags == () and low.provenance.arguments["overlap_px"] == 100
    assert len(low) > 0 and all("oversized" in flags for flags in low.grain_flags)


def test_grains_at_the_border_of_the_picture_are_flagged():
    grains = [[0, 50, 30, 80], [50, 2, 80, 30], [60, 60, 90, 99], [30, 95, 50, 100]]
    result = detector().detect(picture(100, 100, grains))
    assert dict(zip(map(tuple, result.boxes.astype(int)), result.grain_flags, strict=True)) == {
        (0, 50, 30, 80): ("edge",),
        (50, 2, 80, 30): (),
        (60, 60, 90, 99): ("edge",),
        (30, 95, 50, 100): ("edge",),
    }


class Torn(Slide):
    """A slide that cannot be read around a point."""

    def __init__(self, image, x, y):
        inner = slide_from(image, name="torn.tif")
        self.__dict__.update(inner.__dict__)
        self.at = (x, y)

    def read(self, x, y, width, height):
        if x <= self.at[0] < x + width and y <= self.at[1] < y + height:
            raise SlideError(f"torn at {self.at}")
        return super().read(x, y, width, height)


def test_what_cannot_be_read_is_named_and_the_rest_is_kept(field):
    image, grains, _, _ = field
    result = detector().detect(Torn(image, 1690, 1300), conf=0.1, tile=320)
    assert result.flags == ("partly_unread",)
    ((x1, y1, x2, y2),) = result.unread
    assert result.fraction_read == pytest.approx(1 - (x2 - x1) * (y2 - y1) / (1700 * 1310))
    centres = (grains[:, :2] + grains[:, 2:]) / 2
    read = ~((centres >= (x1, y1)) & (centres < (x2, y2))).all(1)
    assert 0 < read.sum() < len(grains)
    np.testing.assert_allclose(result.boxes, grains[read], atol=0.011)


def test_a_slide_of_which_nothing_can_be_read_is_an_error():
    with pytest.raises(SlideError, match="torn"):
        detector().detect(Torn(picture(100, 100, []), 50, 50))


def test_progress_counts_every_tile_and_an_exception_cancels(field):
    told = []
    detector().detect(field[0], tile=320, on_tile=lambda done, total: told.append((done, total)))
    total = told[-1][1]
    assert told == [(i + 1, total) for i in range(total)] and total > 20

    class Cancelled(Exception):
        pass

    def cancel(done, total):
        if done == 3:
            raise Cancelled

    eye = Eye()
    with pytest.raises(Cancelled):
        detector(eye).detect(field[0], tile=320, on_tile=cancel)
    assert sum(eye.batches) == 3


def test_paths_arrays_pillow_images_and_open_slides_are_the_same(field, tmp_path):
    image = field[0][:400, :400]
    path = tmp_path / "a.png"
    Image.fromarray(image).save(path)
    expected = detector().detect(image)
    assert len(expected) > 10
    slide = slide_from(image)
    for source in (path, str(path), Image.fromarray(image), slide):
        same(detector().detect(source), expected)
    assert slide.read(0, 0, 1, 1).shape == (1, 1, 3), "a slide that the caller opened stays open"
    assert detector().detect(path).slide == "a.png"
    assert detector().detect(path, name="x/a.png").slide == "x/a.png"
    assert (expected.slide, expected[0].grain_id) == ("image", "0001")


def test_scale_and_provenance_are_in_the_result():
    result = detector().detect(picture(100, 100, [[20, 30, 60, 50]]), um_per_px=0.5, conf=0.3)
    assert (result.um_per_px, result.um_source) == (0.5, "caller")
    assert (result[0].width_um, result[0].height_um) == (20, 10)
    assert (result.provenance.model, result.provenance.sha256) == ("eye", "e" * 64)
    assert result.provenance.version == palyno.__version__
    assert result.provenance.arguments == {
        "conf": 0.3,
        "iou": IOU,
        "tile": 640,
        "tile_px": 640,
        "imgsz": 640,
        "overlap": "auto",
        "overlap_px": 60,
        "um_per_px": 0.5,
        "views": 1,
        "naming_threshold": 0.5,
        "naming_temperature": 1.0,
    }
    assert (result.provenance.device, result.provenance.ran) == ("cpu", f"torch {torch.__version__} on cpu")
    assert result.conf == 0.3
    low = detector().detect(picture(100, 100, [[20, 30, 60, 50]]), um_per_px=0.5, conf=0.1)
    assert low.above(0.3).provenance == result.provenance != low.provenance


def test_what_was_decided_in_reading_a_slide_is_in_the_result(field, tmp_path):
    sharp = field[0]
    stack = np.stack([np.full_like(sharp, 200), sharp, np.full_like(sharp, 200)])
    metadata = {"axes": "ZYXS", "PhysicalSizeX": 0.5, "PhysicalSizeXUnit": "µm", "PhysicalSizeY": 0.5}
    tifffile.imwrite(tmp_path / "s.ome.tif", stack, photometric="rgb", metadata={**metadata, "PhysicalSizeYUnit": "µm"})
    result = detector().detect(tmp_path / "s.ome.tif", um_per_px=0.25)
    assert result.notes == (
        "the caller's 0.25 um a pixel is used; the file states 0.5",
        "plane 2 of 3 is read, the sharpest",
    )
    assert result.above(0.9).notes == result.notes
    assert detector().detect(sharp).notes == ()


def test_many_slides_keep_their_order_and_are_read_one_by_one():
    looked = []

    def slides():
        for n in (3, 1, 2):
            looked.append(n)
            yield picture(300, 100, [[20 + 60 * i, 20, 60 + 60 * i, 60] for i in range(n)])

    results = detector().detect_many(slides(), conf=0.2)
    assert looked == []
    assert len(next(results)) == 3 and looked == [3]
    assert [len(result) for result in results] == [1, 2]


def test_many_slides_raise_or_skip_one_that_cannot_be_read(tmp_path):
    (tmp_path / "bad.png").write_bytes(b"no picture")
    sources = [picture(99, 99, [[9, 9, 40, 40]]), tmp_path / "bad.png", picture(99, 99, [])]
    results = detector().detect_many(sources)
    assert len(next(results)) == 1
    with pytest.raises(SlideError, match=r"bad\.png"):
        next(results)
    with pytest.warns(UserWarning, match=r"skipped: bad\.png"):
        assert [len(r) for r in detector().detect_many(sources, on_error="skip")] == [1, 0]
    with pytest.raises(UsageError, match="on_error: expected raise or skip"):
        detector().detect_many(sources, on_error="ignore")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"conf": 1.1}, "conf: expected a number from 0 to 1, got 1.1"),
        ({"conf": -0.1}, "conf: expected"),
        ({"conf": math.nan}, "conf: expected"),
        ({"conf": "0.2"}, "conf: expected"),
        ({"iou": 2}, "iou: expected"),
        ({"tile": 63}, "tile: expected a whole number of pixels from 64, got 63"),
        ({"tile": 640.0}, "tile: expected"),
        ({"imgsz": 0}, "imgsz: expected"),
        ({"overlap": 321}, "overlap: expected auto or pixels from 0 to half the tile, 320, got 321"),
        ({"overlap": -1}, "overlap: expected"),
        ({"overlap": "big"}, "overlap: expected"),
        ({"batch": 0}, "batch: expected"),
        ({"um_per_px": 0}, "expected micrometres a pixel above 0, got 0"),
        ({"um_per_px": math.inf}, "expected micrometres"),
        ({"um_per_px": -1}, "expected micrometres"),
    ],
)
def test_arguments_that_cannot_be_meant_are_refused(arguments, message):
    with pytest.raises(UsageError, match=message):
        detector().detect(picture(50, 50, []), **arguments)


def test_unknown_options_are_refused():
    with pytest.raises(TypeError, match="max_det"):
        detector().detect(picture(50, 50, []), max_det=300)


@pytest.mark.parametrize("device", ["gpu", "cuda:x", "CPU", "", "cuda:99", "cpu:0"])
def test_devices_that_are_not_here_are_refused(device):
    with pytest.raises(UsageError, match="device: expected"):
        choose_device(device)


def test_numbers_that_are_not_finite_are_an_error():
    class Blind(Eye):
        def look(self, image):
            return super().look(image) * math.nan

    with pytest.raises(palyno.PalynoError, match="expected finite numbers"):
        detector(Blind()).detect(picture(50, 50, []))


def test_a_device_without_memory_gets_smaller_batches(field):
    class Small(Eye):
        def __call__(self, images):
            if len(images) > 2:
                raise torch.OutOfMemoryError("no memory")
            return super().__call__(images)

    eye = Small()
    same(detector(eye).detect(field[0], tile=320, batch=8), detector().detect(field[0], tile=320))
    assert max(eye.batches) == 2


def test_every_flag_is_explained():
    assert {"saturated", "oversized", "partly_unread", "edge"} == set(FLAGS)


def test_one_box_of_two_that_overlap_more_than_iou_is_kept():
    class Twice(Eye):
        def look(self, image):
            out = super().look(image)
            out[:, 1] = out[:, 0]
            out[0, 1] += 4
            out[4, 1] = 0.5
            return out

    image = picture(100, 100, [[20, 20, 60, 60]])  # moved by 4 of 40 pixels: 36 / 44 = 0.82
    assert len(detector(Twice()).detect(image, iou=0.81)) == 1
    assert len(detector(Twice()).detect(image, iou=0.82)) == 2


@pytest.mark.parametrize(("moved", "usual", "at_half"), [(16, 2, 2), (13, 2, 1), (10, 2, 1), (6, 1, 1)])
def test_where_none_is_given_two_boxes_that_share_seven_tenths_are_one_grain(moved, usual, at_half):
    """Two boxes of 40 pixels, moved by 16, 13, 10 and 6 pixels: 24 / 56 = 0.43, 0.509, 0.6 and 0.74."""

    class Twice(Eye):
        def look(self, image):
            out = super().look(image)
            out[:, 1] = out[:, 0]
            out[0, 1] += moved
            out[4, 1] = 0.5
            return out

    image = picture(100, 100, [[20, 20, 60, 60]])
    assert len(detector(Twice()).detect(image)) == usual
    assert len(detector(Twice()).detect(image, iou=0.5)) == at_half


def test_results_can_be_counted():
    result = detector().detect(picture(300, 100, [[10, 10, 40, 40], [60, 10, 90, 40]], classes=[0, 0]))
    (tally,) = result.counts(rank="genus")
    assert (tally.taxon, tally.n) == ("Serjania", 2)
    assert len(replace(result, slide="b")) == 2
