from __future__ import annotations

import io
from types import SimpleNamespace

import pytest
from palyno.app.progress import TerminalProgress, for_terminal
from palyno.app.report import RunReport, SlideReport, key_of
from palyno.app.summary import show
from palyno.app.web.view import footer
from palyno.vision.results import Provenance
from rich.console import Console


def told(slides, note=None, arguments=None, **options) -> str:
    key = {"model": {}, "arguments": arguments or {}, "device": "cpu", "versions": {}}
    report = RunReport("out", key, {}, tuple(slides), (), "", 75.0, True, note)
    stream = io.StringIO()
    show(report, console=Console(file=stream, width=100, color_system=None), **options)
    return stream.getvalue()


def read(name="a.png", taxa=None, **more) -> SlideReport:
    taxa = taxa or {"Betula": 30, "Poaceae": 270}
    return SlideReport(name, name, "ok", grains=sum(taxa.values()), taxa=taxa, fraction_read=1.0, **more)


def test_a_share_is_shown_with_its_interval():
    """30 of 300: the limits printed by Mosimann (1965) and Maher (1972) for 10 %."""
    text = told([read()])
    (row,) = [line for line in text.splitlines() if "Betula" in line]
    assert row.split() == ["Betula", "30", "10.0", "7.1", "–", "13.9"]
    assert "300 grains on a.png" in text


def test_where_there_is_nothing_to_count_there_is_no_empty_table():
    slide = SlideReport("a.png", "a.png", "ok", grains=0, taxa={}, fraction_read=1.0)
    text = told([slide], arguments={"conf": 0.4})
    assert "0 grains on a.png\nNothing was as sure as 0.4; a lower --conf shows what was less so." in text
    assert "95 %" not in text and "─" not in text
    failed = SlideReport("b.png", "b.png", "failed", "not an image")
    assert "0 grains on 0 slides" in (text := told([failed], arguments={"conf": 0.4})) and "--conf" not in text


def test_names_that_are_counted_as_one_have_a_row_over_all_slides():
    text = told([read("a.png", {"Poaceae sp.": 3, "Poaceae": 4, "cf. Poaceae": 1}), read("b.png", {"Poaceae": 2})])
    rows = [line.split() for line in text.splitlines()]
    assert ["Poaceae", "9"] in [row[:2] for row in rows] and "Poaceae sp." not in text
    assert ["a.png", "8", "2"] in rows and ["b.png", "2", "1"] in rows


def test_many_slides_and_taxa_stay_on_one_screen():
    taxa = {f"Taxon {i}": i + 1 for i in range(60)}
    text = told([read(f"{i}.png", taxa) for i in range(500)])
    assert len(text.splitlines()) < 60
    assert "and 40 more in counts.csv" in text and "and 488 more in run.json" in text
    assert f"{500 * sum(taxa.values())} grains on 500 slides" in text


def test_troubles_are_named_and_flags_told():
    slides = [
        read(flags=("saturated",)),
        SlideReport("bad.png", "bad.png", "failed", "a [red] herring"),
        SlideReport("notes.txt", "notes.txt", "skipped", "no image"),
        read("c.png", reason="read, but not drawn: no"),
    ]
    text = told(slides)
    assert "failed  bad.png: a [red] herring" in text
    assert "skipped  notes.txt: no image" in text
    assert "warning  c.png: read, but not drawn" in text
    assert "flagged saturated: a.png" in text
    only_errors = told(slides, errors_only=True)
    assert "bad.png" in only_errors and "notes.txt" not in only_errors and "grains" not in only_errors


def test_why_pytorch_ran_is_said():
    assert "    note  PyTorch runs x: the cache [red] is full\n" in told(
        [read()], "PyTorch runs x: the cache [red] is full"
    )
    assert "PyTorch" not in told([read()], "PyTorch runs x", errors_only=True)


@pytest.mark.parametrize(
    ("slides", "code"),
    [
        ([read()], 0),
        ([read(), SlideReport("x", "x", "skipped", "no image")], 0),
        ([read(), SlideReport("x", "x", "failed", "damaged")], 3),
        ([read(reason="read, but not drawn: no")], 3),
        ([SlideReport("x", "x", "failed", "damaged")], 4),
        ([], 4),
    ],
)
def test_exit_codes_follow_from_what_became_of_the_inputs(slides, code):
    assert RunReport("out", {}, {}, tuple(slides), (), "", 0.0, True).exit_code == code


def test_no_bar_where_stderr_is_no_terminal(capsys):
    with for_terminal() as progress:
        progress.start(2)
        progress.slide(0, "a.png")
        progress.tile(1, 4)
    assert not isinstance(progress, TerminalProgress)
    assert capsys.readouterr() == ("", "")


def test_the_bar_names_slide_speed_and_number(monkeypatch):
    import rich.console

    stream, real = io.StringIO(), Console
    monkeypatch.setattr(
        rich.console, "Console", lambda **_: real(file=stream, force_terminal=True, width=100, color_system=None)
    )
    progress = TerminalProgress()
    progress.note("preparing [red], once")
    with progress:
        progress.start(3)
        progress.slide(1, "a_folder_with_a_long_name/and_a_slide_with_a_longer_one.svs")
        progress.tile(5, 10)
        progress._bar.refresh()
        for index in range(3):
            progress.drawing(index, f"{index}.svs")
            progress._bar.refresh()
        progress.finish()
        progress._bar.refresh()
    text = stream.getvalue()
    assert text.startswith("preparing [red], once\n")
    assert "slide 2 of 3" in text and "tiles/s" in text and "a_folder_with_a…a_longer_one.svs" in text
    assert "2.svs" in text and "slide 3 of 3 drawing" in text and "writing" in text


def test_what_was_decided_in_reading_is_told_once_with_its_slides():
    text = told(
        [read("a.tif", notes=("plane 2 of 3 is read",)), read("b.tif", notes=("plane 2 of 3 is read",)), read()]
    )
    assert "  a.tif, b.tif: plane 2 of 3 is read\n" in text
    text = told([read(f"{i}.tif", notes=(f"plane {i} is read",)) for i in range(10)])
    assert text.count("is read") == 6 and "and 4 more notes, all in run.json" in text


def test_the_summary_says_by_what_the_grains_were_found():
    key = {
        "model": {"name": "hieraedge-n", "sha256": "6dad8ae4" + "0" * 56},
        "arguments": {"conf": 0.25},
        "device": "cpu",
        "runtime": "onnxruntime 1.32.0",
        "versions": {},
    }
    stream = io.StringIO()
    report = RunReport("out", key, {}, (read(),), (), "", 75.0, True)
    show(report, console=Console(file=stream, width=60, color_system=None))
    assert "Found by hieraedge-n 6dad8ae4, onnxruntime 1.32.0 on cpu, confidence ≥ 0.25, in full" in stream.getvalue()
    show(report, errors_only=True, console=Console(file=stream, color_system=None))
    assert stream.getvalue().count("Found by") == 1


@pytest.mark.parametrize(
    ("runtime", "said"), [("onnxruntime 1.32.0", "onnxruntime 1.32.0 on cuda:0"), ("", "cuda:0"), (None, "cuda:0")]
)
def test_the_terminal_the_page_and_the_files_say_in_the_same_words_what_ran_where(runtime, said):
    """A detector that does not know its runtime is said to run on its device."""
    detector = SimpleNamespace(name="eye", sha256="e" * 64, device="cuda:0")
    if runtime is not None:
        detector.runtime = runtime
    stream = io.StringIO()
    key = key_of(detector, {"conf": 0.25}, "code")
    report = RunReport("out", key, {}, (read(),), (), "", 75.0, True)
    show(report, console=Console(file=stream, width=100, color_system=None))
    assert f"Found by eye eeeeeeee, {said}, confidence" in stream.getvalue()
    assert f"</code>, {said} · free software" in footer(detector, None)
    assert Provenance("eye", "e" * 64, "1", runtime=runtime or "", device="cuda:0").ran == said
