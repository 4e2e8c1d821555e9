from __future__ import annotations

import csv
import errno
import itertools
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from palyno.app.inputs import gather, share
from palyno.app.jobs import DetectOptions
from palyno.errors import InputError, NothingToDoError, PalynoError, UsageError
from palyno.vision.duplicates import IOU

FAKE = Path(__file__).with_name("fake_detector.py")


def rows(file: Path) -> list[dict[str, str]]:
    with file.open(newline="") as table:
        return list(csv.DictReader(table))


def breaking(fake, after=1):
    """A detector that is interrupted at the slide after so many."""

    class Breaks(fake.FakeDetector):
        def detect(self, slide, **arguments):
            if len(self.seen) == after:
                raise KeyboardInterrupt
            return super().detect(slide, **arguments)

    return Breaks()


def without_timing(out: Path) -> dict:
    run = json.loads((out / "run.json").read_text())
    run.pop("timing")
    return run


def test_the_tables_hold_what_the_detector_found(job, fake, slides, tmp_path):
    report = job(slides, conf=0.5)
    expected = {}
    for name in ("a.png", "b.png", "upper/a.png"):
        found = fake.FakeDetector().detect(
            slides / name, conf=0.5, iou=0.7, tile=640, imgsz=None, overlap="auto", um_per_px=None
        )
        expected[name] = found
    table = rows(tmp_path / "out" / "grains.csv")
    assert [row["slide"] for row in table] == [name for name, result in expected.items() for _ in result.taxa]
    assert [row["taxon"] for row in table] == [taxon for result in expected.values() for taxon in result.taxa]
    assert [float(row["x1"]) for row in table] == pytest.approx(
        [x for result in expected.values() for x in result.boxes[:, 0]], abs=0.01
    )
    counts = rows(tmp_path / "out" / "counts.csv")
    for name, result in expected.items():
        mine = {row["taxon"]: int(row["n"]) for row in counts if row["slide"] == name}
        assert mine == {taxon: result.taxa.count(taxon) for taxon in set(result.taxa)}
    assert report.exit_code == 0
    assert sum(row.n for row in report.counts()) == len(table)


def test_run_json_tells_what_was_done(job, slides, tmp_path):
    job(slides, um_per_px=0.5)
    run = json.loads((tmp_path / "out" / "run.json").read_text())
    assert run["finished"] is True
    assert run["model"] == {"name": "fake", "sha256": "f" * 64}
    assert run["arguments"] == {
        "conf": 0.25, "iou": IOU, "tile": 640, "imgsz": None, "overlap": "auto", "um_per_px": 0.5, "views": 1
    }  # fmt: skip
    assert {"palyno", "python", "torch", "ultralytics", "numpy"} <= run["versions"].keys()
    assert run["totals"]["slides"] == run["totals"]["ok"] == 3
    one = run["slides"][0]
    assert (one["slide"], one["status"], one["width"], one["height"]) == ("a.png", "ok", 120, 90)
    assert (one["um_per_px"], one["um_source"], one["fraction_read"]) == (0.5, "caller", 1.0)
    assert one["grains"] == sum(one["taxa"].values())
    assert set(run["timing"]["slides"]) == {"a.png", "b.png", "upper/a.png"}
    assert all((tmp_path / "out" / file).is_file() for file in run["files"])


def test_geojson_has_the_colours_of_the_overlays(job, slides, tmp_path, monkeypatch):
    from palyno.app import overlay

    drawn, real = {}, overlay.draw

    def draw(result, *rest, palette):
        drawn[result.slide] = {taxon: palette[taxon] for taxon in result.taxa}
        return real(result, *rest, palette=palette)

    monkeypatch.setattr(overlay, "draw", draw)
    job(slides, formats=("geojson",))
    for file in (tmp_path / "out" / "geojson").iterdir():
        document = json.loads(file.read_text())
        told = [feature["properties"]["classification"] for feature in document["features"]]
        assert {one["name"]: tuple(one["color"]) for one in told} == drawn.pop(document["slide"]["image"])
    assert not drawn


def test_the_same_slides_give_the_same_bytes(job, written, slides, tmp_path):
    for out in ("one", "two"):
        job(slides, tmp_path / out)
    one, two = written(tmp_path / "one"), written(tmp_path / "two")
    assert one == two
    assert {"grains.csv", "counts.csv", "coco.json", "overlays/b.jpg"} <= one.keys()
    assert without_timing(tmp_path / "one") == without_timing(tmp_path / "two")


def test_a_slide_has_one_name_however_the_folder_is_given(job, written, slides, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    job([Path("slides")], tmp_path / "relative")
    job([slides / "upper" / ".." / "upper" / "a.png", slides / "b.png", slides], tmp_path / "mixed")
    assert written(tmp_path / "relative") == written(tmp_path / "mixed")


def test_killed_anywhere_and_run_again_gives_the_bytes_of_an_unbroken_run(job, written, slides, tmp_path):
    job(slides, tmp_path / "whole")
    whole = written(tmp_path / "whole")
    out, chance = tmp_path / "broken", random.Random(7)
    command = [sys.executable, str(FAKE), str(slides), str(out), "0.4"]
    ledger = out / ".palyno" / "ledger.jsonl"
    kills = 0
    for reads in (0, 0, 1, 1, 2, 3):
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + 30
        # From the moment the ledger has so many slides, at a random time within what a slide takes.
        while process.poll() is None and time.monotonic() < deadline:
            if reads == 0 or (ledger.is_file() and ledger.read_bytes().count(b'{"read"') >= reads):
                break
            time.sleep(0.005)
        time.sleep(chance.uniform(0.0, 0.6 if reads == 0 else 0.3))
        if process.poll() is None:
            process.send_signal(signal.SIGKILL)
            kills += 1
        process.wait()
        if (out / "run.json").exists():
            break
    assert kills >= 5
    if not (out / "run.json").exists():
        subprocess.run([*command[:-1], "0"], check=True)
    assert written(out) == whole
    run, unbroken = without_timing(out), without_timing(tmp_path / "whole")
    assert run == unbroken


def test_a_kill_after_any_write_loses_and_repeats_nothing(job, fake, written, slides, tmp_path, monkeypatch):
    """Every fsync is a point where the process can vanish; what is on the disk at each is taken up again."""
    two, real, left = [slides / "a.png", slides / "b.png"], os.fsync, [0]

    class Vanished(BaseException):
        pass

    def fsync(descriptor):
        real(descriptor)
        left[0] -= 1
        if left[0] == 0:
            raise Vanished

    job(two, tmp_path / "whole")
    whole = written(tmp_path / "whole")
    monkeypatch.setattr(os, "fsync", fsync)
    for step in itertools.count(1):
        out, detector, left[0] = tmp_path / str(step), fake.FakeDetector(), step
        try:
            job(two, out, detector=detector)
            break
        except Vanished:
            left[0] = 0
        if not (out / "run.json").exists():
            job(two, out, detector=detector)
        assert written(out) == whole
        # At most the slide whose result was not yet noted is read twice.
        assert len(detector.seen) <= 3
    assert step > 25


def test_going_on_reads_only_what_is_missing(job, fake, slides, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        job(slides, detector=breaking(fake, 2))
    again = fake.FakeDetector()
    report = job(slides, detector=again)
    assert again.seen == ["a.png"]
    assert [slide.reused for slide in report.slides] == [True, True, False]
    fresh = fake.FakeDetector()
    job(slides, detector=fresh, overwrite=True, resume=False)
    assert len(fresh.seen) == 3


def test_a_slide_that_changed_is_read_again(job, fake, slides, tmp_path):
    job(slides)
    os.utime(slides / "a.png", (1, 1))
    (slides / "b.png").write_bytes((slides / "upper" / "a.png").read_bytes())
    again = fake.FakeDetector()
    job(slides, detector=again, overwrite=True)
    assert again.seen == ["b.png"]


def test_a_slide_that_changes_while_it_is_read_fails(job, fake, slides):
    class Slow(fake.FakeDetector):
        def detect(self, slide, **arguments):
            result = super().detect(slide, **arguments)
            if slide.name == "b.png":
                slide.write_bytes((slides / "upper" / "a.png").read_bytes() + b"more")
            return result

    report = job(slides, detector=Slow())
    assert [(slide.slide, slide.reason) for slide in report.slides if slide.status == "failed"] == [
        ("b.png", "the file changed while it was read; run the same command again")
    ]


def test_a_damaged_ledger_costs_time_but_no_result(job, fake, written, slides, tmp_path):
    job(slides)
    before, ledger = written(tmp_path / "out"), tmp_path / "out" / ".palyno" / "ledger.jsonl"
    lines = ledger.read_bytes().splitlines(keepends=True)
    ledger.write_bytes(b"".join([b'{"read": {"path": 1}}\n', b"\x00\xff\n", b"[1]\n", *lines[1:]]) + b'{"read": {"pa')
    again = fake.FakeDetector()
    job(slides, detector=again, overwrite=True)
    assert len(again.seen) <= 1
    assert written(tmp_path / "out") == before


def test_a_damaged_stored_result_is_read_again(job, fake, slides, tmp_path):
    job(slides)
    stored = sorted((tmp_path / "out" / ".palyno" / "slides").glob("*.npz"))
    stored[0].write_bytes(stored[0].read_bytes()[:-7])
    again = fake.FakeDetector()
    job(slides, detector=again, overwrite=True)
    assert len(again.seen) == 1


def test_results_are_not_overwritten_unasked(job, written, slides, tmp_path):
    job(slides)
    before = written(tmp_path / "out")
    with pytest.raises(UsageError, match=r"holds results.*--overwrite"):
        job(slides, conf=0.9)
    assert written(tmp_path / "out") == before
    job(slides, conf=0.9, overwrite=True)
    assert written(tmp_path / "out") != before


def test_overwriting_leaves_no_file_of_the_earlier_run(job, written, slides, tmp_path):
    job(slides, formats=("csv", "yolo", "coco"))
    (tmp_path / "out" / "notes.txt").write_text("mine")
    job([slides / "a.png", slides / "b.png"], formats=("csv",), overwrite=True)
    assert set(written(tmp_path / "out")) == {
        "counts.csv", "grains.csv", "notes.txt", "overlays/a.jpg", "overlays/b.jpg"
    }  # fmt: skip


@pytest.mark.parametrize("wrong", [{"overlap": 400}, {"tile": 40}, {"imgsz": 8}, {"views": 3}])
def test_a_refused_command_leaves_the_earlier_run_as_it_was(job, slides, tmp_path, wrong):
    def files():
        return {file: file.read_bytes() for file in sorted((tmp_path / "out").rglob("*")) if file.is_file()}

    job(slides)
    before = files()
    with pytest.raises(UsageError, match=f"{next(iter(wrong))}: expected"):
        job(slides, overwrite=True, **wrong)
    assert files() == before


def test_a_strangers_table_is_not_replaced(job, slides, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    (out / "grains.csv").write_text("mine")
    with pytest.raises(UsageError, match="holds results"):
        job(slides)
    (out / "grains.csv").rename(out / "coco.json")
    with pytest.raises(UsageError, match=r"coco\.json is there"):
        job(slides)
    assert (out / "coco.json").read_text() == "mine"
    job(slides, formats=("csv",))
    assert (out / "coco.json").read_text() == "mine"


def test_other_settings_do_not_mix_with_an_unfinished_run(job, fake, slides):
    with pytest.raises(KeyboardInterrupt):
        job(slides, detector=breaking(fake))
    with pytest.raises(UsageError, match=r"unfinished run with other settings \(conf 0\.25, now 0\.5\)"):
        job(slides, conf=0.5)
    with pytest.raises(UsageError, match=rf"\(iou {IOU}, now 0\.5\)"):
        job(slides, iou=0.5)
    again = fake.FakeDetector()
    job(slides, conf=0.5, resume=False, detector=again)
    assert len(again.seen) == 3


def test_a_run_begun_with_another_limit_of_overlap_goes_on_only_so(job, fake, slides, tmp_path):
    """It is not ended with slides that are counted otherwise."""

    with pytest.raises(KeyboardInterrupt):
        job(slides, iou=0.5, detector=breaking(fake))
    with pytest.raises(UsageError, match=rf"\(iou 0\.5, now {IOU}\); use the same settings to go on with it, --no-res"):
        job(slides)
    rest = fake.FakeDetector()
    report = job(slides, iou=0.5, detector=rest)
    assert len(rest.seen) == 2 and sum(slide.reused for slide in report.read) == 1
    run = json.loads((tmp_path / "out" / "run.json").read_text())
    assert run["arguments"]["iou"] == 0.5 and {slide["arguments"]["iou"] for slide in run["slides"]} == {0.5}
    anew = fake.FakeDetector()
    job(slides, overwrite=True, detector=anew)
    run = json.loads((tmp_path / "out" / "run.json").read_text())
    assert len(anew.seen) == 3 and {slide["arguments"]["iou"] for slide in run["slides"]} == {IOU}


def test_another_runtime_does_not_mix_with_an_unfinished_run_and_is_told(job, fake, slides, tmp_path):
    class InTorch(fake.FakeDetector):
        runtime, note = "torch 2.15.0", "PyTorch runs fake, as the cache cannot be written"

        def detect(self, slide, **arguments):
            if self.seen:
                raise KeyboardInterrupt
            return super().detect(slide, **arguments)

    fast = fake.FakeDetector()
    fast.runtime, fast.note = "onnxruntime 1.32.0", None
    with pytest.raises(KeyboardInterrupt):
        job(slides, detector=InTorch())
    with pytest.raises(UsageError, match=r"\(runtime torch 2\.15\.0, now onnxruntime 1\.32\.0\)"):
        job(slides, detector=fast)
    job(slides, detector=fast, resume=False)
    run = json.loads((tmp_path / "out" / "run.json").read_text())
    assert run["runtime"] == "onnxruntime 1.32.0" and "note" not in run
    slow = fake.FakeDetector()
    slow.runtime, slow.note = InTorch.runtime, InTorch.note
    job(slides, detector=slow, overwrite=True)
    run = json.loads((tmp_path / "out" / "run.json").read_text())
    assert (run["runtime"], run["note"]) == (slow.runtime, slow.note)


def test_one_bad_slide_does_not_stop_the_rest(job, slides, tmp_path):
    (slides / "b.png").write_text("no image")
    (slides / "c.png").write_bytes(b"")
    report = job([slides, slides / "missing.png"])
    assert report.exit_code == 3
    states = {slide.slide: slide.status for slide in report.slides}
    assert states == {
        "a.png": "ok", "b.png": "failed", "c.png": "failed", "missing.png": "failed", "upper/a.png": "ok"
    }  # fmt: skip
    run = json.loads((tmp_path / "out" / "run.json").read_text())
    assert {failure["slide"] for failure in run["failures"]} == {"b.png", "c.png", "missing.png"}
    assert all(failure["reason"] for failure in run["failures"])
    assert {row["slide"] for row in rows(tmp_path / "out" / "grains.csv")} == {"a.png", "upper/a.png"}


def test_on_error_stop_keeps_what_was_read(job, fake, slides, tmp_path):
    good = (slides / "b.png").read_bytes()
    (slides / "b.png").write_text("no image")
    with pytest.raises(InputError, match=r"b\.png.*Stopped; the 1 slides before it are kept"):
        job(slides, on_error="stop")
    (slides / "b.png").write_bytes(good)
    again = fake.FakeDetector()
    assert job(slides, on_error="stop", detector=again).exit_code == 0
    assert again.seen == ["b.png", "a.png"]


def test_nothing_read_is_an_error_that_does_not_block_the_folder(job, slides, tmp_path):
    bad = tmp_path / "bad.jpg"
    bad.write_text("no image")
    with pytest.raises(NothingToDoError, match=r"^the only input could not be read: bad\.jpg: expected"):
        job(bad)
    (tmp_path / "worse.jpg").write_bytes(b"")
    with pytest.raises(NothingToDoError, match=r"^none of the 2 inputs could be read: bad\.jpg"):
        job([bad, tmp_path / "worse.jpg"], tmp_path / "both")
    assert json.loads((tmp_path / "out" / "run.json").read_text())["finished"] is False
    assert job(slides).exit_code == 0


def test_an_empty_folder_is_an_error(job, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(NothingToDoError, match="no slide in"):
        job(tmp_path / "empty")
    assert not (tmp_path / "out").exists()


def test_a_sidecar_is_skipped_and_named(job, slides):
    (slides / "notes.txt").write_text("stain: safranin")
    report = job(slides)
    assert report.exit_code == 0
    assert [slide.status for slide in report.slides if slide.reason] == ["skipped"]
    totals = report.document()["totals"]
    assert (totals["slides"], totals["ok"], totals["skipped"]) == (3, 3, 1)


def test_palynos_own_overlays_are_not_read_as_slides(job, fake, slides):
    job(slides, slides / "out")
    again = fake.FakeDetector()
    job(slides, slides / "out2", detector=again)
    assert sorted(again.seen) == ["a.png", "a.png", "b.png"]
    # As a copy that leaves hidden folders, or what the page gives.
    shutil.rmtree(slides / "out" / ".palyno")
    assert sorted(gather([slides])[0]) == ["a.png", "b.png", "upper/a.png"]
    assert sorted(gather([slides / "out" / "overlays" / "b.jpg"])[0]) == ["b.jpg"]


def test_a_slide_of_several_files_is_read_once_however_it_is_given(tmp_path):
    for name, series in (("a0", "1.2.3.4"), ("a1", "1.2.3.4"), ("b0", "1.2.3.5")):
        (tmp_path / f"{name}.dcm").write_bytes(bytes(128) + b"DICM\x20\0\x0e\0UI\x08\0" + series.encode() + b"\0")
    files = sorted(tmp_path.iterdir())
    for given in ([tmp_path], files, [tmp_path, *files]):
        found, unread = gather(given)
        assert list(found) == ["a0.dcm", "b0.dcm"]
        assert [(one.slide, one.status, one.reason) for one in unread] == [("a1.dcm", "skipped", "belongs to a0.dcm")]


@pytest.mark.parametrize("parts", [1, 2, 3])
def test_shards_partition_the_slides(slides, parts):
    shares = [list(share(gather([slides])[0], (part, parts))) for part in range(1, parts + 1)]
    assert sorted(itertools.chain(*shares)) == ["a.png", "b.png", "upper/a.png"]


def test_the_files_of_shards_do_not_meet_and_one_slide_has_one_stem(job, written, slides, tmp_path):
    (slides / "b.jpg").write_bytes(b"no picture")
    job(slides, tmp_path / "all")
    files = {file for file in written(tmp_path / "all") if "/" in file and not file.endswith(".yaml")}
    shards = [set(job(slides, tmp_path / f"{part}", shard=(part, 2)).files) & files for part in (1, 2)]
    assert sorted(itertools.chain(*shards)) == sorted(files)
    folders = {Path(file).parent.name for file in files}
    assert folders == {"overlays", "geojson", "labels"}
    stems = [{Path(file).stem for file in files if Path(file).parent.name == folder} for folder in folders]
    assert stems == [stems[0]] * 3 and len(stems[0]) == 3


def test_an_empty_shard_says_so(slides):
    with pytest.raises(NothingToDoError, match="only 3 slides"):
        share(gather([slides])[0], (4, 4))


def test_a_folder_in_use_is_refused(job, fake, slides, tmp_path):
    class Meddles(fake.FakeDetector):
        def detect(self, slide, **arguments):
            with pytest.raises(UsageError, match=f"is being written by process {os.getpid()}"):
                job(slides)
            return super().detect(slide, **arguments)

    assert job(slides, detector=Meddles()).exit_code == 0


def test_a_lock_left_by_a_dead_process_does_not_block(job, slides, tmp_path):
    lock = tmp_path / "out" / ".palyno" / "lock"
    lock.parent.mkdir(parents=True)
    lock.write_text('{"pid": 999999999, "host": "elsewhere"}')
    assert job(slides).exit_code == 0


def test_where_there_are_no_locks_the_owners_process_decides(monkeypatch, tmp_path):
    import fcntl
    import socket

    from palyno.data.lock import locked

    def unsupported(*_):
        raise OSError(errno.ENOLCK, "no locks")

    monkeypatch.setattr(fcntl, "flock", unsupported)
    lock = tmp_path / "d" / "lock"
    with locked(lock):
        pass
    lock.write_text(json.dumps({"pid": 999999999, "host": socket.gethostname()}))
    with locked(lock):
        pass
    lock.write_text(json.dumps({"pid": 1, "host": socket.gethostname()}))
    with pytest.raises(UsageError, match="process 1 on"), locked(lock):
        pass


def test_a_lock_is_waited_for_where_that_is_asked(tmp_path):
    """Held by another process, which ends."""
    from palyno.data.lock import locked

    lock = tmp_path / "d" / "lock"
    code = (
        "import sys, time; from pathlib import Path; from palyno.data.lock import locked\n"
        "with locked(Path(sys.argv[1])): print(flush=True); sys.stdin.read()"
    )
    process = subprocess.Popen([sys.executable, "-c", code, lock], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    with process:
        process.stdout.readline()
        with pytest.raises(UsageError, match=f"process {process.pid} on"), locked(lock, wait=0.2):
            pass
        threading.Timer(0.3, process.stdin.close).start()
        with locked(lock, wait=60):
            assert process.wait(10) == 0


@pytest.mark.parametrize(
    ("number", "words"), [(errno.ENOSPC, "free some space"), (errno.EACCES, "that you may write to")]
)
def test_a_disk_that_cannot_be_written_is_told_clearly(job, fake, slides, monkeypatch, number, words):
    from palyno.app import ledger

    def full(*_, **__):
        raise OSError(number, os.strerror(number), "results")

    with monkeypatch.context() as patch:
        patch.setattr(ledger, "write_bytes", full)
        with pytest.raises(PalynoError, match=words):
            job(slides)
    assert job(slides).exit_code == 0


def test_the_output_must_be_a_folder(job, slides, tmp_path):
    (tmp_path / "out").write_text("a file")
    with pytest.raises(UsageError, match="expected a folder"):
        job(slides)


@pytest.mark.parametrize(
    "wrong",
    [
        {"conf": 1.2}, {"conf": float("nan")}, {"iou": -1}, {"um_per_px": 0}, {"um_per_px": float("inf")},
        {"overlap": 640}, {"overlap": "most"}, {"on_error": "retry"}, {"shard": (3, 2)}
    ],
)  # fmt: skip
def test_options_that_cannot_be_meant_are_refused(wrong):
    with pytest.raises(UsageError):
        DetectOptions(**wrong)


def test_an_unknown_format_is_named_with_those_there_are(job, slides):
    with pytest.raises(UsageError, match=r"geojson.*got tilia"):
        job(slides, formats=("csv", "tilia"))


def test_progress_hears_every_slide_and_tile(job, slides):
    from palyno.app.progress import Progress

    heard = []

    class Listens(Progress):
        def start(self, slides):
            heard.append(slides)

        def slide(self, index, name):
            heard.append((index, name))

        def tile(self, done, total):
            heard.append(done / total)

    job(slides, progress=Listens())
    each = [0.25, 0.5, 0.75, 1.0]
    assert heard == [3, (0, "a.png"), *each, (1, "b.png"), *each, (2, "upper/a.png"), *each]


def test_names_that_no_table_or_file_system_likes_are_kept_apart(job, slides, tmp_path):
    pixels = (slides / "a.png").read_bytes()
    names = [
        "=1+1.png",
        "two\nlines.png",
        "con.png",
        "grün.png",
        "gru\u0308n.png",
        b"\xff.png".decode("utf-8", "surrogateescape"),
    ]
    for name in names:
        (slides / name).write_bytes(pixels)
    assert job(slides).exit_code == 0
    table = {row["slide"].removeprefix("'") for row in rows(tmp_path / "out" / "counts.csv")}
    assert table == {"a.png", "b.png", "upper/a.png", *names[:-1], r"\xff.png"}
    assert len(list((tmp_path / "out" / "overlays").iterdir())) == 9
    assert len(list((tmp_path / "out" / "yolo" / "labels").iterdir())) == 9


def test_a_stored_result_comes_back_as_it_was(fake, slides, tmp_path):
    from dataclasses import fields, replace

    from palyno.app import stored

    result = fake.FakeDetector().detect(
        slides / "a.png", conf=0.1, iou=0.7, tile=64, imgsz=None, overlap="auto", um_per_px=0.25
    )
    result = replace(result, slide="ü\udcff.png", unread=((1, 2, 3, 4),), flags=("saturated",), fraction_read=0.75)
    result = replace(result, notes=("plane 2 of 3 is read, the sharpest",))
    vectors = np.random.default_rng(0).normal(size=(len(result), 5)).astype(np.float32)
    result = replace(result, vectors=vectors, encoder_id="regions@1")
    (tmp_path / "r.npz").write_bytes(stored.pack(result))
    back = stored.load(tmp_path / "r.npz")
    for field in fields(result):
        before, after = getattr(result, field.name), getattr(back, field.name)
        assert np.array_equal(before, after) if isinstance(before, np.ndarray) else before == after, field.name


def test_the_fingerprint_follows_the_sources(monkeypatch, tmp_path):
    from palyno.app import report

    source = tmp_path / "vision" / "detector.py"
    source.parent.mkdir()
    (tmp_path / "app").mkdir()
    monkeypatch.setattr(report, "__file__", str(tmp_path / "app" / "report.py"))
    seen = set()
    for text in ("a", "b", "a"):
        source.write_text(text)
        seen.add(report.code_fingerprint.__wrapped__())
    assert len(seen) == 2
