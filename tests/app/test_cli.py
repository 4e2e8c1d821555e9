from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import time
from functools import partial
from importlib import import_module
from pathlib import Path

import click
import palyno
import pytest
from click.testing import CliRunner
from palyno.app import cli as command_line
from palyno.app import jobs
from palyno.vision.duplicates import IOU

# One slide without grains, as COCO.
_NO_BOXES = json.dumps(
    {"images": [{"id": 1, "file_name": "a.jpg", "width": 9, "height": 9}], "annotations": [], "categories": []}
)
PALYNO = (sys.executable, "-c", "from palyno.app.cli import main; main()")


@pytest.fixture
def palyno_(fake, monkeypatch, tmp_path):
    """Runs `palyno ARGUMENTS...` in this process with the fake detector."""
    monkeypatch.setattr(jobs, "_load", lambda options, progress: fake.FakeDetector())
    monkeypatch.setenv("PALYNO_CACHE", str(tmp_path / "cache"))

    def run(*arguments):
        return CliRunner().invoke(command_line.cli, [str(a) for a in arguments])

    return run


def test_help_names_every_subcommand_without_importing_any():
    code = "import sys; from palyno.app.cli import main\ntry: main()\nexcept SystemExit: pass\nprint(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code, "--help"], capture_output=True, text=True, check=True)
    *text, modules = done.stdout.splitlines()
    for name, (_, line) in command_line.COMMANDS.items():
        assert any(name in row for row in text)
        assert line.split()[0] in done.stdout
    assert not {"torch", "numpy", "rich", "pandas", "PIL"} & set(modules.split())


def test_help_answers_in_time():
    times = []
    for _ in range(5):
        start = time.perf_counter()
        subprocess.run([*PALYNO, "--help"], capture_output=True, check=True)
        times.append(time.perf_counter() - start)
    assert min(times) < 0.6


def test_a_misspelt_command_is_told_what_is_near(palyno_):
    done = palyno_("detct")
    assert done.exit_code == 2 and "No such command 'detct'. Did you mean 'detect'?" in done.stderr
    assert "Did you mean" not in palyno_("pizza").stderr


@pytest.mark.parametrize("name", command_line.COMMANDS)
def test_the_listed_help_is_the_subcommands_own(name):
    target, line = command_line.COMMANDS[name]
    module, attribute = target.split(":")
    command = getattr(import_module(f"palyno.app.commands.{module}"), attribute)
    assert command.name == name
    assert command.get_short_help_str(200).rstrip(".") == line.rstrip(".")


def test_every_command_that_finds_grains_drops_the_same_boxes():
    """And its help imports nothing heavy to say which."""
    code = """
import sys
import palyno.app.commands.detect, palyno.app.commands.val, palyno.app.commands.explain
from palyno.app.commands import bench
commands = [palyno.app.commands.detect.detect, palyno.app.commands.val.val, palyno.app.commands.explain.explain]
for command in [*commands, *bench.bench.commands.values()]:
    for option in command.params:
        if option.name == "iou":
            print(command.name, option.default)
assert not {"numpy", "torch", "cv2", "PIL"} & set(sys.modules)"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == [f"{name} {IOU}" for name in ("detect", "val", "explain")]


def test_version(palyno_):
    assert palyno_("--version").output == f"palyno {palyno.__version__}\n"


def test_detect_writes_and_sums_up_on_stderr(palyno_, slides, tmp_path):
    done = palyno_("detect", slides, "--out", tmp_path / "out")
    assert done.exit_code == 0
    assert done.stdout == ""
    assert "grains on 3 slides" in done.stderr and "95 % interval" in done.stderr
    assert (tmp_path / "out" / "grains.csv").is_file()
    assert "\x1b[" not in done.stderr


def test_json_is_the_only_thing_on_stdout(palyno_, slides, tmp_path):
    done = palyno_("detect", slides, "--out", tmp_path / "out", "--json")
    document = json.loads(done.stdout)
    assert document["totals"]["slides"] == 3
    assert document["counts"][0].keys() >= {"taxon", "n", "percent", "low", "high", "level", "method"}
    assert sum(row["n"] for row in document["counts"]) == document["totals"]["grains"]


def test_json_tells_errors_too(palyno_, tmp_path):
    done = palyno_("detect", tmp_path / "missing", "--out", tmp_path / "out", "--json")
    assert done.exit_code == 4
    assert json.loads(done.stdout)["error"]["exit_code"] == 4


def test_quiet_says_nothing_but_errors(palyno_, slides, tmp_path):
    done = palyno_("detect", slides, "--out", tmp_path / "one", "--quiet")
    assert done.output == ""
    (slides / "b.png").write_text("no image")
    done = palyno_("detect", slides, "--out", tmp_path / "two", "--quiet")
    assert done.exit_code == 3
    assert len(done.stderr.splitlines()) == 1 and "b.png" in done.stderr


def test_a_bad_slide_is_named_and_exits_with_3(palyno_, slides, tmp_path):
    (slides / "b.png").write_text("no image")
    done = palyno_("detect", slides, "--out", tmp_path / "out")
    assert done.exit_code == 3
    assert "failed  b.png" in done.stderr


def test_results_that_are_there_exit_with_2_until_overwrite(palyno_, slides, tmp_path):
    command = ("detect", slides, "--out", tmp_path / "out")
    assert palyno_(*command).exit_code == 0
    refused = palyno_(*command)
    assert refused.exit_code == 2
    assert refused.stderr.startswith("Error: ") and "--overwrite" in refused.stderr
    assert "is not read again" in refused.stderr, "who adds a slide may fear for the hours that the others took"
    again = palyno_(*command, "--overwrite")
    assert again.exit_code == 0 and "3 of them from an earlier run" in again.stderr


@pytest.mark.parametrize(
    ("wrong", "word"),
    [
        (("--um-per-px", "0"), "um-per-px"),
        (("--um-per-px", "nan"), "finite"),
        (("--conf", "1.5"), "conf"),
        (("--overlap", "some"), "expected auto or a whole number of pixels, got 'some'"),
        (("--overlap", "-5"), "expected auto or a whole number of pixels, got '-5'"),
        (("--shard", "3/2"), "1 <= I <= N"),
        (("--shard", "half"), "1/4"),
        (("--formats", "csv,tilia"), "tilia"),
        (("--engine", "ray"), "ray is not in this version"),
        (("--engine", "spark"), "local"),
        (("--on-error", "retry"), "skip"),
        (("--colour", "red"), "--colour"),
        (("",), "got an empty one"),
        (("--overlap", "400"), "half the tile, 320, got 400"),
    ],
)
def test_wrong_usage_exits_with_2_and_says_what_was_expected(palyno_, slides, tmp_path, wrong, word):
    done = palyno_("detect", slides, "--out", tmp_path / "out", *wrong)
    assert done.exit_code == 2
    assert word in done.stderr
    assert not (tmp_path / "out" / "run.json").exists()


def test_an_unknown_subcommand_exits_with_2(palyno_):
    assert palyno_("detcet").exit_code == 2


@pytest.mark.parametrize("error", [palyno.RejectedModelError, palyno.UnknownModelError])
def test_a_refused_model_exits_with_5(palyno_, monkeypatch, slides, tmp_path, error):
    def refuse(options, progress):
        raise error("weights refused: expected sha256 aa, got bb")

    monkeypatch.setattr(jobs, "_load", refuse)
    done = palyno_("detect", slides, "--out", tmp_path / "out")
    assert done.exit_code == 5
    assert done.stderr == "Error: weights refused: expected sha256 aa, got bb\n"


def test_an_internal_fault_is_short_and_keeps_its_traceback(palyno_, monkeypatch, slides, tmp_path):
    def break_(options, progress):
        raise ZeroDivisionError("a fault of ours")

    monkeypatch.setattr(jobs, "_load", break_)
    done = palyno_("detect", slides, "--out", tmp_path / "out")
    assert done.exit_code == 1
    assert len(done.stderr.splitlines()) == 1
    (trace,) = (tmp_path / "cache" / "faults").iterdir()
    assert str(trace) in done.stderr
    assert "Traceback" in trace.read_text() and "a fault of ours" in trace.read_text()
    monkeypatch.setenv("PALYNO_DEBUG", "1")
    assert "Traceback" in palyno_("detect", slides, "--out", tmp_path / "out").stderr


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_job_exits_with_130_and_goes_on(job, written, slides, tmp_path, sent):
    fake_file = Path(__file__).with_name("fake_detector.py")
    code = (
        f"import sys; sys.path.insert(0, {str(fake_file.parent)!r})\n"
        "from fake_detector import FakeDetector; from palyno.app import cli, jobs\n"
        "jobs._load = lambda options, progress: FakeDetector(3.0)\n"
        "cli.main()"
    )
    out = tmp_path / "out"
    command = [sys.executable, "-c", code, "detect", str(slides), "--out", str(out)]
    # A suite that runs in the background of a shell has SIGINT ignored, and so would its children.
    default = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    environment = {**os.environ, "NO_COLOR": "1"}
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment, preexec_fn=default)
    deadline = time.monotonic() + 30
    while not (out / ".palyno" / "key.json").exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(sent)
    _, told = process.communicate(timeout=30)
    assert process.returncode == 130
    assert "the same command goes on" in told and "Traceback" not in told
    job(slides)
    job(slides, tmp_path / "whole")
    assert written(out) == written(tmp_path / "whole")


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("detect a --out b", "Interrupted. What was finished is kept; the same command goes on from there."),
        ("index build c a", "Interrupted. What was added is kept; palyno index add goes on from there."),
        ("train a --out b", "Interrupted. --resume goes on from the last checkpoint, if there is one yet."),
        ("search c words", "Interrupted."),
        ("index info c", "Interrupted."),
    ],
)
def test_where_what_was_broken_off_goes_on_is_told_only_where_it_does(words, told, monkeypatch, capsys):
    def broken_off(*_, **__):
        raise click.Abort

    monkeypatch.setattr(click.Group, "main", broken_off)
    with pytest.raises(SystemExit) as ended:
        command_line.cli.main(words.split())
    assert ended.value.code == 130
    assert capsys.readouterr().err == told + "\n"


def test_doctor_answers_as_json(palyno_):
    document = json.loads(palyno_("doctor", "--json").stdout)
    assert document["versions"]["palyno"] == palyno.__version__
    assert document["devices"][0]["device"] == "cpu"
    assert {"pillow", "tifffile", "openslide"} <= document["readers"].keys()
    assert document["network_switches"]["YOLO_OFFLINE"] == "1"


@pytest.mark.parametrize(
    ("number", "told", "code"),
    [
        (errno.EROFS, "that you may write to", 2),
        (errno.ENOSPC, "free some space", 1),
        (errno.ENOTDIR, "in the way", 2),
        (errno.EIO, "an internal fault", 1),
    ],
)
def test_what_the_system_refuses_to_write_is_told_in_a_line_and_is_no_fault(
    palyno_, monkeypatch, tmp_path, number, told, code
):
    def refuse(self, *arguments, **named):
        raise OSError(number, os.strerror(number), str(tmp_path / "full" / ".palyno-0.tmp"))

    monkeypatch.setattr(Path, "mkdir", refuse)
    source = tmp_path / "boxes.json"
    source.write_text(_NO_BOXES)
    done = palyno_("convert", source, tmp_path / "full" / "labels.json", "--from", "coco", "--to", "labelstudio")
    assert done.exit_code == code
    assert len(done.stderr.splitlines()) == 1
    assert told in done.stderr and str(tmp_path / "full") in done.stderr
    assert (".palyno-0.tmp" in done.stderr) == (number == errno.EIO)


def test_a_file_in_place_of_a_folder_is_told_by_every_writer(palyno_, tmp_path):
    source = tmp_path / "boxes.json"
    source.write_text(_NO_BOXES)
    (tmp_path / "file").touch()
    for kind in ("yolo", "voc", "geojson", "labelstudio"):
        done = palyno_("convert", source, tmp_path / "file" / "out", "--from", "coco", "--to", kind)
        assert (done.exit_code, "give another name" in done.stderr) == (2, True), (kind, done.stderr)
