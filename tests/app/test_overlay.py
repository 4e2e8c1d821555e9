from __future__ import annotations

import io
from dataclasses import replace

import numpy as np
import pytest
from palyno.app.legend import _scale_bar, font, wrapped
from palyno.app.overlay import draw, jpeg
from palyno.data.palette import colours
from palyno.vision.results import Provenance, SlideResult
from PIL import Image, ImageDraw


def found(boxes, taxa, *, width=640, height=480, **more) -> SlideResult:
    confidence = np.linspace(0.95, 0.3, len(taxa))
    return SlideResult("field.png", width, height, boxes, confidence, taxa, Provenance("m", "0" * 64, "0"), **more)


def ground(width=640, height=480, value=230) -> np.ndarray:
    return np.full((height, width, 3), value, np.uint8)


@pytest.fixture
def texts(monkeypatch):
    """Every text that is drawn."""
    seen, real = [], ImageDraw.ImageDraw.text

    def text(self, xy, text, *rest, **more):
        seen.append(text)
        return real(self, xy, text, *rest, **more)

    monkeypatch.setattr(ImageDraw.ImageDraw, "text", text)
    return seen


@pytest.mark.parametrize("n", [1, 5, 12, 13, 40, 80])
def test_the_legend_names_every_taxon_with_count_and_interval(texts, n):
    taxa = [f"Genus{i} species" for i in range(n)] * 5
    boxes = np.tile([10, 10, 30, 30], (5 * n, 1))
    result = found(boxes, taxa)
    picture = draw(result, ground())
    assert picture.width > 640 and picture.height >= 480
    assert set(taxa) <= set(texts)
    row = result.counts()[0]
    assert f"{row.percent:.1f} %  ({row.low:.1f} – {row.high:.1f})" in texts
    assert str(5 * n) in texts


def test_every_grain_is_outlined_in_the_colour_of_its_taxon():
    boxes = [[100, 100, 140, 140], [300, 200, 360, 240], [500, 400, 530, 430]]
    result = found(boxes, ["Betula", "Poaceae", "Betula"])
    palette = colours([(result.taxa, result.confidence)])
    picture = np.asarray(draw(result, ground())).astype(int)
    for (x1, y1, x2, y2), taxon in zip(boxes, result.taxa, strict=True):
        left_edge = picture[(y1 + y2) // 2, x1 - 4 : x1 + 3]
        assert np.abs(left_edge - palette[taxon]).sum(1).min() < 12, taxon
        # What is inside stays as it was, for the expert to see.
        middle = picture[(y1 + y2) // 2 - 3 : (y1 + y2) // 2 + 3, (x1 + x2) // 2 - 3 : (x1 + x2) // 2 + 3]
        assert (middle == 230).all()


def test_names_that_are_counted_as_one_share_a_row_of_the_legend_and_keep_their_own_at_the_grains(texts):
    boxes = [[100, 100, 140, 140], [300, 200, 340, 240], [500, 400, 530, 430]]
    draw(found(boxes, ["Serjania sp.", "Serjania", "Serjania sp."]), ground())
    assert {"3", "grains", "1 taxon, shares with 95 % limits", "Serjania"} <= set(texts)
    assert "Serjania sp." not in texts
    assert {"Serjania sp. 0.95", "Serjania 0.62", "Serjania sp. 0.30"} <= set(texts)


def test_names_are_written_at_the_grains_only_while_there_is_room(texts):
    one = found([[200, 200, 240, 240]], ["Betula"])
    draw(one, ground())
    assert "Betula 0.95" in texts
    texts.clear()
    rng = np.random.default_rng(0)
    corner = rng.uniform(0, 440, (300, 2))
    draw(found(np.hstack([corner, corner + 25]), ["Betula"] * 300), ground())
    assert texts.count("Betula") == 1 and "Betula 0.95" not in texts


def test_equal_pictures_give_equal_bytes():
    result = found([[10, 10, 50, 50]], ["Betula"], um_per_px=0.4)
    first, second = jpeg(draw(result, ground())), jpeg(draw(result, ground()))
    assert first == second
    assert Image.open(io.BytesIO(first)).format == "JPEG"


def test_a_picture_of_nothing_but_noise_is_drawn_too():
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 255, (640, 640, 3), dtype=np.uint8))
    assert Image.open(io.BytesIO(jpeg(noise))).size == noise.size and jpeg(noise) == jpeg(noise)


def test_a_large_slide_is_reduced_and_its_boxes_with_it():
    pixels = ground(3000, 1500)
    pixels[600:900, 1500:1800] = 40
    result = found([[1500, 600, 1800, 900]], ["Betula"], width=3000, height=1500)
    picture = np.asarray(draw(result, pixels, max_side=1000))
    dark = np.argwhere((picture[:, :1000] < 60).all(2) & (np.arange(len(picture)) > 195)[:, None])
    assert np.abs(dark.min(0) - [200, 500]).max() <= 1
    assert np.abs(dark.max(0) - [299, 599]).max() <= 1


def test_reading_in_windows_equals_averaging_the_whole(monkeypatch):
    from palyno.app import overlay
    from palyno.data.slides import slide_from

    pixels = np.random.default_rng(0).integers(0, 255, (400, 600, 3), dtype=np.uint8)
    monkeypatch.setattr(overlay, "_WINDOW", 64)
    with slide_from(pixels) as slide:
        got = np.asarray(overlay._reduced(slide, 0.1)).astype(float)
    want = pixels.reshape(40, 10, 60, 10, 3).mean((1, 3))
    assert np.abs(got - want).max() <= 1


def test_a_window_that_cannot_be_read_stays_grey():
    from palyno.app import overlay
    from palyno.data.slides import slide_from
    from palyno.errors import SlideError

    with slide_from(ground(40, 40)) as slide:
        slide.read = lambda *_: (_ for _ in ()).throw(SlideError("damaged"))
        assert (np.asarray(overlay._reduced(slide, 1.0)) == 205).all()


@pytest.mark.parametrize("size", [(1, 1), (3, 900), (900, 3)])
def test_odd_slides_are_drawn(size):
    width, height = size
    result = found(np.empty((0, 4)), [], width=width, height=height)
    assert draw(result, ground(width, height)).height >= height


def test_text_is_kept_where_the_name_is_long_or_not_ascii(texts):
    taxon = "Αμβροσία Ísoëtes-type"
    result = found([[10, 10, 50, 50]], [taxon])
    draw(result, ground())
    assert taxon in texts


def test_a_scale_bar_is_drawn_where_the_pixel_size_is_known(texts):
    draw(found([[10, 10, 50, 50]], ["Betula"], um_per_px=0.5), ground())
    assert any(text.endswith("µm") for text in texts)
    texts.clear()
    draw(found([[10, 10, 50, 50]], ["Betula"]), ground())
    assert not any(text.endswith("µm") for text in texts)


@pytest.mark.parametrize(
    ("um_per_px", "width", "um", "pixels"),
    [
        (0.5, 200, 100, 200),
        (0.5, 199, 50, 100),
        (0.42, 300, 100, 100 / 0.42),
        (2.0, 150, 200, 100),
        (0.01, 30, 0.2, 20),
    ],
)
def test_the_scale_bar_is_the_longest_round_length_that_fits(um_per_px, width, um, pixels):
    assert _scale_bar(um_per_px, width) == pytest.approx((um, pixels))


def made_by(model="hieraedge-n", runtime="onnxruntime 1.32.0", device="cpu", **arguments) -> Provenance:
    return Provenance(model, "6dad8ae4" + "0" * 56, "0.1.0", arguments, runtime, device)


def test_the_foot_says_by_what_and_how_the_grains_were_found(texts):
    result = replace(found([[10, 10, 50, 50]], ["Betula"], conf=0.25), provenance=made_by(views=4))
    draw(result, ground())
    foot = " ".join(texts)
    for told in ("hieraedge-n 6dad8ae4", "confidence ≥ 0.25", "4 views", "onnxruntime 1.32.0 on cpu", "palyno 0.1.0"):
        assert told in foot
    texts.clear()
    draw(replace(result, provenance=made_by(views=1)), ground())
    assert not any("views" in text for text in texts)


@pytest.mark.parametrize("size", [(40, 900), (900, 40), (64, 64), (640, 480), (2560, 1920)])
@pytest.mark.parametrize("um_per_px", [None, 0.4])
def test_a_long_foot_is_wrapped_whole_and_stays_on_the_panel(monkeypatch, size, um_per_px):
    """Every text lies within the panel, clear of the taxa above it, whatever the picture's size."""
    model, runtime = (
        "pollen_of_the_northern_calcareous_alps_2026_run_7_" + "x" * 60,
        "onnxruntime 1.32.0+cu132.g1a2b3c4d",
    )
    made, (width, height) = made_by(model, runtime, "cuda:11", views=8), size
    result = found([[1, 1, 30, 30]], ["Betula"], width=width, height=height, um_per_px=um_per_px, conf=0.123456)
    places, real = [], ImageDraw.ImageDraw.text

    def text(self, xy, text, fill, font, anchor="la"):
        places.append((text, self.textbbox(xy, text, font, anchor), self.im.size))
        return real(self, xy, text, fill, font, anchor)

    monkeypatch.setattr(ImageDraw.ImageDraw, "text", text)
    draw(replace(result, provenance=made), ground(width, height))
    (panel,) = [shape for told, _, shape in places if told == "grain"]
    on_panel = [place for place in places if place[2] == panel]
    for told, box, _ in on_panel:
        assert min(box) >= 0 and box[2] <= panel[0] and box[3] <= panel[1], told
    boxes = [box for _, box, _ in on_panel]
    for i, a in enumerate(boxes):
        for b in boxes[i + 1 :]:
            assert not (a[0] < b[2] and b[0] < a[2] and a[1] < b[3] - 1 and b[1] < a[3] - 1), (a, b)
    told = "".join(text for text, _, _ in on_panel).replace(" ", "")
    assert "…" not in told
    for part in (model, "6dad8ae4,confidence≥0.123456,8views", f"{runtime}oncuda:11", f"{width}×{height}px"):
        assert part.replace(" ", "") in told


def test_words_are_wrapped_between_them_and_within_only_where_they_must():
    face = font(13)
    width = face.getlength("aaaa bbbb")
    assert wrapped(["aaaa bbbb cccc", "", "d"], face, width) == ["aaaa bbbb", "cccc", "d"]
    long = "a" * 40
    lines = wrapped([f"bb {long} cccc"], face, width)
    assert lines[0] == "bb" and "".join(lines[1:]).replace(" ", "") == f"{long}cccc"
    assert all(face.getlength(line) <= width for line in lines)
    # One letter is never broken, so there is an end.
    assert wrapped(["ab"], face, 0) == ["a", "b"]
