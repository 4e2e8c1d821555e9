"""The web page in a headless Chromium: a slide in, counts and files out, nothing beyond this machine."""

import csv
import io
import json
import os
import shutil
import threading
import time
import urllib.error
import urllib.request
import zipfile
from dataclasses import replace
from pathlib import Path
from urllib.parse import quote

import numpy as np
import pytest
from palyno.app.web import view
from palyno.app.web.choice import Detectors
from palyno.app.web.files import make
from palyno.app.web.session import LOWEST, Session, Sessions
from palyno.data.slides import open_slide
from palyno.errors import RejectedModelError, SlideError, UsageError
from palyno.vision.results import Provenance, SlideResult
from palyno.vision.weights import shipped_models
from PIL import Image

# Seconds for what a busy machine may be slow with; nothing is measured by it.
PATIENCE = 60

CONFIDENCES = np.linspace(LOWEST, 0.99, 60, dtype=np.float32)


class Detector:
    """Finds 60 grains with known confidences on every image, tile by tile; `gate` holds it between two tiles."""

    name, sha256, device = "stand-in", "ab" * 32, "cpu"

    def __init__(self, seconds=0.0):
        self.calls, self.gate, self.seconds = [], threading.Event(), seconds
        self.gate.set()

    def detect(self, path, *, conf, um_per_px=None, name=None, on_tile=None):
        self.calls.append((name, conf, um_per_px))
        try:
            with open_slide(path) as image:
                width, height = image.width, image.height
        except SlideError as error:
            raise SlideError(f"{path}: expected an image, got <b>text</b>") from error
        for tile in range(4):
            self.gate.wait()
            time.sleep(self.seconds)
            on_tile(tile + 1, 4)
        n = len(CONFIDENCES)
        corner = np.c_[np.arange(n) % 10 * width / 10, np.arange(n) // 10 * height / 10]
        return SlideResult(
            slide=name,
            width=width,
            height=height,
            boxes=np.c_[corner, corner + min(width, height) / 15],
            confidence=CONFIDENCES,
            taxa=tuple("Oryza" if i % 3 else "<i>Betula</i>" for i in range(n)),
            ranks=("genus",) * n,
            provenance=Provenance(self.name, self.sha256, "0", {"iou": 0.7}),
            um_per_px=um_per_px,
            conf=conf,
        )


def sure(conf):
    return int((np.float32(conf) <= CONFIDENCES).sum())


@pytest.fixture
def slide(tmp_path):
    file = tmp_path / "slide.png"
    Image.new("RGB", (320, 240), (230, 230, 220)).save(file)
    return file


def test_files_of_which_a_slide_has_several_cannot_be_dropped():
    from palyno.app.web.page import _SUFFIXES

    assert {".svs", ".ndpi", ".tif"} <= set(_SUFFIXES)
    assert not {".dcm", ".mrxs", ".vms", ".vmu"} & set(_SUFFIXES)


class TestSession:
    def test_reads_once_and_filters_afterwards(self, tmp_path, slide):
        session, detector = Session(tmp_path / "s"), Detector()
        steps = list(session.read(detector, [slide, slide], 0.5))
        assert detector.calls == [("slide.png", LOWEST, 0.5), ("slide (2).png", LOWEST, 0.5)]
        assert (steps[-1].slide, steps[-1].index, steps[-1].done, steps[-1].tiles) == ("slide (2).png", 1, 4, 4)
        for conf in (LOWEST, 0.25, 0.9):
            assert [len(result) for result in session.results(conf)] == [sure(conf)] * 2
        assert len(detector.calls) == 2

    def test_one_bad_slide_leaves_the_others(self, tmp_path, slide):
        bad = tmp_path / "bad.jpg"
        bad.write_text("no image")
        session = Session(tmp_path / "s")
        list(session.read(Detector(), [bad, slide]))
        assert list(session.readings) == ["slide.png"]
        assert session.failures == {"bad.jpg": "expected an image, got <b>text</b>"}

    def test_fault_of_the_detector_is_told_without_its_traceback(self, tmp_path, slide, caplog):
        detector = Detector()
        detector.detect = lambda *args, **options: 1 / 0
        session = Session(tmp_path / "s")
        list(session.read(detector, [slide]))
        assert "internal fault" in session.failures["slide.png"]
        assert "ZeroDivisionError" in caplog.text and "ZeroDivisionError" not in session.failures["slide.png"]

    def test_cancel_stops_between_two_tiles(self, tmp_path, slide):
        session, detector = Session(tmp_path / "s"), Detector(seconds=0.05)
        for step in session.read(detector, [slide] * 5):
            if step.index == 1:
                session.cancel()
        assert 1 <= len(session.readings) < 5 and session.cancelled

    def test_leaving_the_page_while_a_slide_is_drawn_leaves_no_file(self, tmp_path, slide, monkeypatch):
        session, drawn = Session(tmp_path / "s"), Session._show

        def show(*arguments):
            session.close()
            return drawn(*arguments)

        monkeypatch.setattr(Session, "_show", show)
        list(session.read(Detector(), [slide, slide]))
        assert not session.folder.exists()

    def test_leaving_the_page_stops_the_detector(self, tmp_path, slide):
        session, detector = Session(tmp_path / "s"), Detector()
        detector.gate.clear()
        steps = session.read(detector, [slide] * 50)
        next(steps)
        threading.Timer(0.2, detector.gate.set).start()
        steps.close()
        assert len(detector.calls) == 1

    def test_outlines_are_bounded_but_counts_are_not(self, tmp_path, slide, monkeypatch):
        session = Session(tmp_path / "s")
        list(session.read(Detector(), [slide]))
        monkeypatch.setattr(view, "MOST_OUTLINES", 20)
        shown = view.picture(session, "slide.png", LOWEST)["grains"]
        assert len(shown) == 20 and min(float(grain["label"][-4:]) for grain in shown) == pytest.approx(0.69, abs=0.02)
        line = view.headline(session, "slide.png", LOWEST)
        assert "<strong>60</strong>" in line and "surest 20 only" in line

    def test_a_taxon_has_one_colour_on_the_page_and_in_every_file_at_any_confidence(self, tmp_path, slide, monkeypatch):
        from palyno.app import overlay

        session, drawn, real = Session(tmp_path / "s"), [], overlay.draw
        list(session.read(Detector(), [slide, slide]))
        for number, (name, reading) in enumerate(session.readings.items()):
            taxa = tuple(f"Taxon {(i + 20 * number) % 45}" for i in range(len(CONFIDENCES)))
            session.readings[name] = replace(reading, result=replace(reading.result, taxa=taxa))
        monkeypatch.setattr(overlay, "draw", lambda *a, palette: (drawn.append(palette), real(*a, palette=palette))[1])
        colours = {}
        for conf in (LOWEST, 0.5, 0.9):
            for name in session.readings:
                for taxon in view.picture(session, name, conf)["taxa"]:
                    assert colours.setdefault(taxon["name"], taxon["colour"]) == taxon["colour"]
            with zipfile.ZipFile(make(session, "all", conf)) as archive:
                files = [json.loads(archive.read(f)) for f in archive.namelist() if f.endswith(".geojson")]
            classes = [feature["properties"]["classification"] for file in files for feature in file["features"]]
            assert len(classes) == 2 * sure(conf)
            for told in (*((one["name"], one["color"]) for one in classes), *drawn[-1].items()):
                assert colours[told[0]] == "#{:02x}{:02x}{:02x}".format(*told[1])
        assert len(set(colours.values())) == len(colours) == 45

    def test_what_was_decided_in_reading_a_slide_is_told_beside_its_size(self, tmp_path, slide):
        session = Session(tmp_path / "s")
        list(session.read(Detector(), [slide]))
        reading = session.readings["slide.png"]
        note = "plane 2 of <3> is read"
        session.readings["slide.png"] = replace(reading, result=replace(reading.result, notes=(note,)))
        assert "· plane 2 of &lt;3&gt; is read ·" in view.headline(session, "slide.png", LOWEST)

    def test_bounds(self, tmp_path, slide):
        session = Session(tmp_path / "s")
        with pytest.raises(UsageError, match="read a slide first"):
            session.results(0.5)
        list(session.read(Detector(), [slide]))
        with pytest.raises(UsageError, match="read with conf"):
            session.results(LOWEST / 2)

    def test_a_grain_that_is_shown_is_explained_and_another_is_not_there(self, tmp_path, samples, shipped_model):
        import palyno

        corner = tmp_path / "corner.png"
        Image.open(samples / "composed.jpg").crop((0, 0, 352, 256)).save(corner)
        session, detector = Session(tmp_path / "s"), palyno.load(shipped_model, device="cpu")
        list(session.read(detector, [corner]))
        result = detector.detect(corner, conf=0.5)
        place = view.picture(session, "corner.png", 0.5)["grains"][1]["place"]
        assert session.grain("corner.png", 0.5, place) == result[1]
        panel = session.explain(session.grain("corner.png", 0.5, place))
        assert panel.is_relative_to(session.folder) and Image.open(panel).format == "PNG"
        for slide, at in (("corner.png", len(result)), ("corner.png", -1), ("other.png", 0)):
            with pytest.raises(UsageError, match="not there any more"):
                session.grain(slide, 0.5, at)

    def test_sessions_do_not_share_and_clean_up(self, tmp_path, slide):
        sessions = Sessions(tmp_path)
        list(sessions["a"].read(Detector(), [slide]))
        assert not sessions["b"].readings
        folder = sessions["a"].folder
        assert len(folder.name) == 32 and any(folder.rglob("*.jpg"))
        sessions.close("a")
        assert not folder.exists() and not sessions["a"].readings


class TestChoice:
    def test_models_are_loaded_when_they_are_asked_for_and_once(self, monkeypatch):
        loaded = []

        def load(name, device, **how):
            loaded.append((name, device))
            return Detector()

        monkeypatch.setattr("palyno.vision.detector.load", load)
        first = Detector()
        choice = Detectors(first, ["hieraedge-n", "hieraedge-s"], device="mps")
        assert [name for _, name in choice.choices()] == ["stand-in", "hieraedge-n", "hieraedge-s"]
        assert choice["stand-in"] is choice[None] is choice["nothing like it"] is first and not loaded
        assert choice["hieraedge-s"] is choice["hieraedge-s"] is not first
        assert loaded == [("hieraedge-s", "mps")]

    def test_weights_of_ones_own_are_not_taken_for_those_that_ship(self, shipped_model):
        own, ours = Detector(), Detector()
        own.name = ours.name = shipped_model
        ours.sha256 = shipped_models()[shipped_model].sha256
        assert [name for _, name in Detectors(ours, [shipped_model]).choices()] == [shipped_model]
        choice = Detectors(own, [shipped_model])
        assert [label for label, _ in choice.choices()] == [
            f"{shipped_model} {own.sha256[:12]}",
            f"{shipped_model}: {shipped_models()[shipped_model].about}",
        ]
        assert choice[choice.first] is own


@pytest.fixture(scope="module")
def chromium():
    path = shutil.which("chromium-headless-shell") or shutil.which("chromium")
    if path is None:
        reason = "no Chromium: install chromium-headless-shell"
        pytest.fail(reason) if os.environ.get("PALYNO_TEST_BROWSER") == "required" else pytest.skip(reason)
    playwright = pytest.importorskip("playwright.sync_api").sync_playwright().start()
    browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
    yield browser
    browser.close()
    playwright.stop()


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """The page on a free port, and its stand-in detector."""
    from palyno.app.web.server import launch

    before = os.environ.get("GRADIO_TEMP_DIR")
    detector = Detector()
    page = launch(Detectors(detector), tmp_path_factory.mktemp("page"), host="127.0.0.1", port=0)
    yield page.local_url, detector
    detector.gate.set()
    page.close(verbose=False)
    os.environ.pop("GRADIO_TEMP_DIR")
    if before is not None:
        os.environ["GRADIO_TEMP_DIR"] = before


@pytest.fixture
def tab(chromium, served):
    """An open page; at the end, nothing may have gone to another machine and no script may have failed."""
    url, detector = served
    detector.calls.clear()
    detector.gate.set()
    context = chromium.new_context(viewport={"width": 1280, "height": 900}, accept_downloads=True)
    context.set_default_timeout(PATIENCE * 1000)
    tab, faults = context.new_page(), []
    tab.on("pageerror", lambda error: faults.append(f"script: {error}"))
    tab.on("request", lambda r: None if r.url.startswith((url, "data:", "blob:")) else faults.append(r.url))
    tab.on("console", lambda m: faults.append(m.text) if "Content Security Policy" in m.text else None)
    tab.goto(url)
    tab.locator("#start").wait_for()
    yield tab
    context.close()
    assert faults == []


def count(tab):
    return int(tab.locator(".headline strong").inner_text())


def becomes(read, wanted, seconds=PATIENCE):
    end = time.monotonic() + seconds
    while (value := read()) != wanted and time.monotonic() < end:
        time.sleep(0.05)
    assert value == wanted


def set_confidence(tab, value):
    field = tab.locator("#confidence input[type=number]")
    field.fill(str(value))
    field.press("Enter")


def drop(tab, *files):
    tab.locator("#slides input[type=file]").set_input_files([str(file) for file in files])
    for file in files:
        # The server has a file once the page links to it there.
        tab.locator(f"#slides a[download='{file.name}']").wait_for(state="attached")


@pytest.mark.browser
class TestPage:
    def test_sample_gives_counts_that_the_slider_filters_without_reading_again(self, tab, served):
        tab.get_by_role("button", name="Rice sparse").click()
        tab.locator("table.counts").wait_for()
        assert count(tab) == sure(0.25)
        assert tab.locator("#viewer .grains rect").count() == sure(0.25)
        picture = tab.locator("#viewer image")
        assert picture.evaluate("image => fetch(image.href.baseVal).then(answer => answer.status)") == 200
        rows = tab.locator("table.counts tbody tr").all_inner_texts()
        assert [row.split()[0] for row in rows] == ["Oryza", "<i>Betula</i>"]
        field = tab.locator("#confidence input[type=number]")
        # Key by key, as 0 is below the slider's end; and what is beyond its other end is the end.
        for typed, meant in (("7", 0.95), ("0.8", 0.8)):
            field.select_text()
            field.press_sequentially(typed, delay=50)
            field.press("Enter")
            becomes(lambda: count(tab), sure(meant))
            assert float(field.input_value()) == meant
        becomes(lambda: tab.locator("#viewer .grains rect").count(), sure(0.8))
        assert tab.locator(".toast-body").count() == 0
        assert served[1].calls == [("rice_sparse.jpg", LOWEST, None)]

    def test_interval_of_the_table_is_wilsons(self, tab):
        tab.get_by_role("button", name="Rice sparse").click()
        tab.locator("table.counts").wait_for()
        row = tab.locator("table.counts tbody tr").first
        n, percent, low, high = (float(cell) for cell in row.locator("td").all_inner_texts()[1:])
        total, z = count(tab), 1.959964
        p = n / total
        middle, half = p + z * z / 2 / total, z * (p * (1 - p) / total + z * z / 4 / total**2) ** 0.5
        limits = [100 * (middle + side * half) / (1 + z * z / total) for side in (-1, 1)]
        assert [percent, low, high] == pytest.approx([100 * p, *limits], abs=0.051)

    def test_download_is_what_is_shown(self, tab, slide):
        drop(tab, slide)
        tab.locator("#um input, #um textarea").fill("0,5")
        tab.locator("#start").click()
        tab.locator("table.counts").wait_for()
        set_confidence(tab, 0.6)
        becomes(lambda: count(tab), sure(0.6))
        with tab.expect_download() as download:
            tab.locator("#get-all").click()
        with zipfile.ZipFile(download.value.path()) as archive:
            assert archive.testzip() is None
            names = set(archive.namelist())
            grains = list(csv.DictReader(io.StringIO(archive.read("grains.csv").decode("utf-8-sig"))))
            run = json.loads(archive.read("run.json"))
            coco = json.loads(archive.read("coco.json"))
            assert Image.open(io.BytesIO(archive.read("overlays/slide.jpg"))).format == "JPEG"
        assert {"counts.csv", "grains.parquet", "labelstudio.json", "geojson/slide.geojson"} <= names
        assert any(name.startswith("yolo/") for name in names)
        assert len(grains) == len(coco["annotations"]) == sure(0.6)
        assert float(grains[0]["width_um"]) == pytest.approx(240 / 15 * 0.5, rel=0.01)
        assert run["model"] == {"name": "stand-in", "sha256": "ab" * 32} and run["arguments"]["conf"] == 0.6
        for name, file in (("csv", "palyno-csv.zip"), ("coco", "coco.json"), ("parquet", "grains.parquet")):
            with tab.expect_download() as download:
                tab.locator(f"#get-{name}").click()
            assert download.value.suggested_filename == file
        becomes(lambda: tab.locator("#get-parquet").inner_text(), "Parquet")
        assert tab.locator("#get-parquet").is_enabled()

    def test_cancel_keeps_what_was_read_and_frees_the_page(self, tab, served, slide, monkeypatch):
        arrived, cancel = threading.Event(), Session.cancel
        monkeypatch.setattr(Session, "cancel", lambda session: (cancel(session), arrived.set()))
        slides = [slide.with_name(f"{number}.png") for number in range(6)]
        for copy in slides:
            shutil.copy(slide, copy)
        drop(tab, *slides)
        served[1].gate.clear()
        tab.locator("#start").click()
        tab.locator(".progress", has_text="slide 1 of 6").wait_for()
        tab.locator("#stop").click()
        assert arrived.wait(PATIENCE)
        served[1].gate.set()
        tab.locator(".troubles", has_text="Cancelled: 6 of 6 slides were not read").wait_for()
        assert len(served[1].calls) == 1
        tab.locator("#start").click()
        tab.locator("table.counts").wait_for()
        assert count(tab) == sure(0.25)
        # While slides are read again, nothing is shown or handed out under the name of the whole.
        served[1].gate.clear()
        tab.locator("#start").click()
        tab.locator(".progress", has_text="slide 1 of 6").wait_for()
        set_confidence(tab, 0.5)
        assert tab.locator("#headline").is_hidden() and tab.locator("#get-all").is_hidden()
        served[1].gate.set()
        tab.locator("table.counts").wait_for()
        assert count(tab) == sure(0.5)

    def test_several_slides_one_of_them_unreadable(self, tab, tmp_path, slide):
        bad, other = tmp_path / "bad.jpg", tmp_path / "other.png"
        bad.write_bytes(b"no image")
        Image.new("RGB", (50, 90)).save(other)
        drop(tab, bad, slide, other)
        tab.locator("#start").click()
        tab.locator(".troubles", has_text="bad.jpg").wait_for()
        tab.locator("table.counts").wait_for()
        assert "bad.jpg: expected an image, got <b>text</b>" in tab.locator(".troubles").inner_text()
        tab.locator("#slide input").click()
        offered = [text.split("\n")[-1] for text in tab.get_by_role("option").all_inner_texts()]
        assert offered == ["slide.png", "other.png", "All slides together"]
        tab.get_by_role("option", name="other.png").click()
        becomes(lambda: "50 × 90 px" in tab.locator(".headline").inner_text(), True)
        tab.locator("#slide input").click()
        tab.get_by_role("option", name="All slides together").click()
        becomes(lambda: count(tab), 2 * sure(0.25))
        assert tab.locator("table.slides tbody tr").all_inner_texts() == [
            f"{n}\t{sure(0.25)}" for n in ("slide.png", "other.png")
        ]

    def test_second_visitor_waits_and_sees_only_their_own(self, tab, served, slide):
        served[1].gate.clear()
        tab.get_by_role("button", name="Rice sparse").click()
        tab.locator(".progress", has_text="Reading").wait_for()
        other = tab.context.browser.new_page()
        other.goto(served[0])
        drop(other, slide)
        other.locator("#start").click()
        other.locator(".progress", has_text="Waiting for the model").wait_for()
        served[1].gate.set()
        for page, size in ((tab, "2560 × 1920"), (other, "320 × 240")):
            page.locator("table.counts").wait_for()
            assert size in page.locator(".headline").inner_text()
        other.context.close()

    def test_mistakes_are_told(self, tab, served, tmp_path):
        tab.locator("#start").click()
        tab.get_by_text("no slide is here yet").wait_for()
        tab.locator("#um input, #um textarea").fill("0")
        tab.get_by_role("button", name="Peat").click()
        tab.get_by_text("expected a positive number of micrometres per pixel").wait_for()
        assert served[1].calls == [] and tab.locator("#start").is_enabled()

    def test_page_is_free_again_after_a_run_that_gave_nothing(self, tab, tmp_path, monkeypatch):
        bad = tmp_path / "bad.jpg"
        bad.write_bytes(b"no image")
        tab.get_by_role("button", name="Rice sparse").click()
        tab.locator("table.counts").wait_for()
        drop(tab, bad)
        tab.locator("#start").click()
        tab.locator(".troubles", has_text="bad.jpg: expected an image").wait_for()
        # Nothing is left of the slides before, and nothing to download.
        tab.locator("#welcome").wait_for()
        assert tab.locator("#get-all").is_hidden()

        def refused(*_):
            raise RejectedModelError("its weights are others")

        monkeypatch.setattr(Detectors, "__getitem__", refused)
        tab.locator("#start").click()
        tab.get_by_text("its weights are others").wait_for()
        monkeypatch.undo()
        tab.get_by_role("button", name="Peat").click()
        tab.locator("table.counts").wait_for()
        assert tab.locator("#get-all").is_visible() and tab.locator("#ready").is_hidden()

    def test_viewer_zooms_and_keeps_its_place(self, tab):
        tab.get_by_role("button", name="Rice sparse").click()
        tab.locator("table.counts").wait_for()
        view = lambda: [float(v) for v in tab.locator("#viewer .slide").get_attribute("viewBox").split()]  # noqa: E731
        assert view() == [0, 0, 2560, 1920]
        tab.get_by_role("button", name="Closer").click()
        closer = view()
        assert closer[2] == pytest.approx(2560 / 1.5)
        set_confidence(tab, 0.8)
        becomes(lambda: count(tab), sure(0.8))
        assert view() == closer
        tab.get_by_role("button", name="Whole slide").click()
        assert view() == [0, 0, 2560, 1920]

    def test_nothing_covers_the_slide_and_the_bar_measures_it_in_any_window(self, tab):
        tab.locator("#um input, #um textarea").fill("0.5")
        tab.get_by_role("button", name="Rice sparse").click()
        tab.locator("table.counts").wait_for()
        box = "node => { const b = node.getBoundingClientRect(); return [b.left, b.top, b.right, b.bottom]; }"
        for width, height in ((1280, 900), (1280, 360), (390, 844)):
            tab.set_viewport_size({"width": width, "height": height})
            # A grain of 128 px is 64 µm wide. Where the window is low, there is room beside the slide.
            grain = tab.locator("#viewer .grains rect").last
            wide = lambda node: node.evaluate("node => node.getBoundingClientRect().width")  # noqa: E731
            bar = tab.locator("#viewer .bar")
            becomes(lambda: round(wide(grain) / 64 * float(bar.inner_text().split()[0]) - wide(bar)), 0)  # noqa: B023
            slide = tab.locator("#viewer .slide").evaluate(box)
            for x1, y1, x2, y2 in tab.locator("#viewer :is(.tools button, .bar)").evaluate_all(
                f"all => all.map({box})"
            ):
                assert x1 >= slide[2] or x2 <= slide[0] or y1 >= slide[3] or y2 <= slide[1]
        assert tab.evaluate("document.documentElement.scrollWidth") <= 390

    def test_row_of_the_counts_brings_out_its_grains(self, tab):
        tab.get_by_role("button", name="Rice sparse").click()
        tab.locator("table.counts tbody tr").first.hover()
        dim = tab.locator("#viewer .grains rect.dim")
        others = tab.locator("#viewer .grains rect:not([data-of=Oryza])").count()
        becomes(dim.count, others)
        assert 0 < others < sure(0.25)

    def test_grain_tells_its_name_and_size(self, tab):
        tab.locator("#um input, #um textarea").fill("0.5")
        tab.get_by_role("button", name="Rice sparse").click()
        tab.locator("table.counts").wait_for()
        tab.locator("#viewer .grains rect").last.hover(force=True)
        assert tab.locator("#viewer .tip").inner_text() == "Oryza 0.99, 64.0 × 64.0 µm · click or Enter: why"

    def test_shipped_model_finds_on_the_page_what_it_finds_in_python(self, chromium, samples, shipped_model, tmp_path):
        import palyno
        from palyno.app.web.server import launch

        rice = tmp_path / "rice.png"
        Image.open(samples / "rice_sparse.jpg").crop((600, 400, 1500, 1000)).save(rice)
        other = next(n for n, m in shipped_models().items() if m.kind == "detector" and n != shipped_model)
        detectors = {name: palyno.load(name, device="cpu") for name in (shipped_model, other)}
        page = launch(Detectors(detectors[shipped_model], [other]), tmp_path, host="127.0.0.1", port=0)
        try:
            tab = chromium.new_page()
            tab.goto(page.local_url)
            drop(tab, rice)
            for name in (other, shipped_model):
                tab.locator("#model input").click()
                tab.get_by_role("option", name=name).click()
                tab.locator("#start").click()
                tab.locator(f"#footer code[title='{detectors[name].sha256}']").wait_for(timeout=120_000)
                for conf in (0.25, 0.6):
                    set_confidence(tab, conf)
                    becomes(lambda: count(tab), len(detectors[name].detect(rice, conf=conf)))
                    assert tab.locator("table.counts tbody tr").first.inner_text().split()[0] == "Oryza"
            tab.locator("#viewer .grains rect").last.click(force=True)
            shown = tab.locator("img.explanation")
            shown.wait_for(timeout=60_000)
            assert shown.get_attribute("alt").startswith("Why Oryza 0.")
            becomes(lambda: shown.evaluate("image => image.complete && image.naturalWidth > 600"), True)
            assert tab.locator("#viewer .grains rect.chosen").count() == 1
            # With the keyboard alone, from there to the first.
            tab.locator("#viewer .viewer").press("n")
            name = tab.locator("#viewer .tip").inner_text().split(",")[0]
            assert tab.locator("#viewer .grains rect.chosen").get_attribute("data-grain") == "0"
            tab.locator("#viewer .viewer").press("Enter")
            tab.locator(f"img.explanation[alt='Why {name}']").wait_for(timeout=60_000)
        finally:
            page.close(verbose=False)


def status(url):
    try:
        with urllib.request.urlopen(url, timeout=10) as answer:
            return answer.status
    except urllib.error.HTTPError as error:
        return error.code


def ask(url, function, data):
    """What the server answers to one event, as the page would send it."""
    body = json.dumps({"fn_index": function, "session_hash": "forged", "data": data}).encode()
    headers = {"Content-Type": "application/json"}
    urllib.request.urlopen(urllib.request.Request(f"{url}gradio_api/queue/join", body, headers), timeout=10).close()
    with urllib.request.urlopen(f"{url}gradio_api/queue/data?session_hash=forged", timeout=10) as stream:
        for line in stream:
            if line.startswith(b"data:") and b"process_completed" in line:
                return json.loads(line[5:])
    raise AssertionError("no answer")


class TestServer:
    @pytest.mark.parametrize(
        "path",
        [
            "/etc/passwd",
            "../../../../../../etc/passwd",
            "..%2f..%2f..%2f..%2fetc%2fpasswd",
            "%2e%2e/%2e%2e/%2e%2e/%2e%2e/etc/passwd",
            "/proc/self/environ",
            "pyproject.toml",
            quote(str(Path("pyproject.toml").resolve())),
            "/etc/passwd%00.png",
        ],
    )
    def test_files_of_the_machine_are_refused(self, served, path):
        assert status(f"{served[0]}gradio_api/file={path}") in (400, 403, 404)
        assert status(f"{served[0]}gradio_api/file/{path}") in (400, 403, 404)

    @pytest.mark.parametrize("path", ["file=http://192.0.2.1/x", "file=https:/192.0.2.1/x", "proxy=http://192.0.2.1/x"])
    def test_addresses_are_not_fetched(self, served, path):
        with pytest.raises(urllib.error.HTTPError) as refused:
            urllib.request.urlopen(f"{served[0]}gradio_api/{path}", timeout=10)
        assert (refused.value.code, refused.value.read()) == (403, b"palyno serves its own files only")

    @pytest.mark.parametrize("path", ["/etc/passwd", "../../../../../../etc/passwd", "pyproject.toml"])
    def test_forged_upload_path_is_refused(self, served, path):
        """A visitor who speaks to the server without the page cannot have it read a file that was not uploaded."""
        url, detector = served
        detector.calls.clear()
        config = json.loads(urllib.request.urlopen(f"{url}config", timeout=10).read())
        uploads = {c["id"] for c in config["components"] if c["type"] == "file"}
        takers = [d for d in config["dependencies"] if uploads & set(d["inputs"])]
        assert len(takers) == 2
        for taker in takers:
            forged = {"path": path, "meta": {"_type": "gradio.FileData"}}
            outcome = ask(url, taker["id"], [[forged], ""])
            assert not outcome["success"] and "root:" not in json.dumps(outcome)
        assert detector.calls == []

    def test_programs_find_no_endpoints_and_no_docs(self, served):
        info = json.loads(urllib.request.urlopen(f"{served[0]}gradio_api/info", timeout=10).read())
        assert info["named_endpoints"] == {}
        assert [status(served[0] + page) for page in ("docs", "redoc", "openapi.json")] == [404] * 3

    @pytest.mark.parametrize(("host", "answer"), [("localhost", 200), ("evil.example", 400)])
    def test_other_names_for_this_machine_are_refused(self, served, host, answer):
        assert status(urllib.request.Request(served[0], headers={"Host": host})) == answer

    def test_policy_is_in_every_answer(self, served):
        with urllib.request.urlopen(served[0], timeout=10) as answer:
            policy = answer.headers["Content-Security-Policy"]
        assert "default-src 'self'" in policy and "http" not in policy

    def test_taken_port_is_told(self, served, tmp_path, monkeypatch):
        from palyno.app.web.server import launch

        monkeypatch.setenv("GRADIO_TEMP_DIR", "")
        port = int(served[0].rstrip("/").rsplit(":", 1)[1])
        with pytest.raises(UsageError, match="another --port"):
            launch(Detectors(Detector()), tmp_path, host="127.0.0.1", port=port)
