"""Nothing calls home: the main job passes where every way to another machine raises."""

import json

import pytest
from PIL import Image

TRIPWIRE = '''
"""Imported by Python at its start: whoever asks for a name or an address of another machine is told off."""
import socket


def _refuse(*args, **kwargs):
    raise OSError("palyno's test blocks the network: " + repr(args))


_connect, _connect_ex, _getaddrinfo = socket.socket.connect, socket.socket.connect_ex, socket.getaddrinfo
_HERE = ("localhost", "127.0.0.1", "::1", "0.0.0.0", "", None)


def _guard(act):
    def guarded(self, address, *rest):
        if self.family != socket.AF_UNIX and address[0] not in _HERE:
            _tell(address)
        return act(self, address, *rest)
    return guarded


def _tell(address):
    import os
    with open(os.environ["PALYNO_TRIPWIRE"], "a", encoding="utf-8") as log:
        print(address, file=log)
    _refuse(address)


def _look_up(host, *rest, **options):
    if host not in _HERE:
        _tell(host)
    return _getaddrinfo(host, *rest, **options)


socket.socket.connect, socket.socket.connect_ex = _guard(_connect), _guard(_connect_ex)
socket.getaddrinfo = _look_up
socket.gethostbyname = socket.gethostbyname_ex = lambda host: _tell(host)
'''


def _blocked(tmp_path):
    """The variables that put a process and its children behind the tripwire, and the file that notes attempts."""
    folder = tmp_path / "tripwire"
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(TRIPWIRE, encoding="utf-8")
    attempts = tmp_path / "attempts.txt"
    attempts.touch()
    return {"PYTHONPATH": str(folder), "PALYNO_TRIPWIRE": str(attempts)}, attempts


def test_tripwire_works(tmp_path, run_python):
    variables, attempts = _blocked(tmp_path)
    code = """
import socket, urllib.request
for act in (lambda: socket.create_connection(("192.0.2.1", 80), 1), lambda: socket.getaddrinfo("example.org", 80),
            lambda: urllib.request.urlopen("http://example.org", timeout=1)):
    try:
        act()
    except OSError as error:
        assert "blocks the network" in str(error), error
    else:
        raise SystemExit("not blocked")"""
    run_python("-c", code, **variables)
    assert len(attempts.read_text(encoding="utf-8").splitlines()) == 3


def test_main_job_needs_no_network(tmp_path, run_python, samples, shipped_model):
    """As a user runs it first: with an empty cache, in which the network is prepared; one document on stdout."""
    variables, attempts = _blocked(tmp_path)
    variables |= {"PALYNO_RUNTIME": "auto", "YOLO_CONFIG_DIR": str(tmp_path / "cache")}
    slides, out = tmp_path / "slides", tmp_path / "results"
    slides.mkdir()
    for sample in samples.glob("*.jpg"):
        Image.open(sample).crop((600, 400, 1240, 1040)).save(slides / f"{sample.stem}.png")
    code = "from palyno.app.cli import main; main()"
    formats = "csv,parquet,coco,geojson,labelstudio,yolo"
    arguments = ("detect", slides, "--out", out, "--device", "cpu", "--formats", formats, "--json")
    assert json.loads(run_python("-c", code, *arguments, **variables))["finished"]
    run = json.loads((out / "run.json").read_text(encoding="utf-8"))
    assert run["finished"] and run["totals"]["grains"] > 0
    assert run["runtime"].startswith("onnxruntime ") and "note" not in run
    assert attempts.read_text(encoding="utf-8") == ""


def test_the_first_import_of_ultralytics_puts_nothing_on_stdout(tmp_path, run_python):
    """Where `--json` has one document; it tells of the settings that it makes."""
    config = tmp_path / "config"
    code = "import palyno.vision.models.detection; from ultralytics.utils import LOGGER; LOGGER.info('the rest')"
    assert run_python("-c", code, YOLO_CONFIG_DIR=str(config)) == "the rest\n"
    assert (config / "Ultralytics" / "settings.json").is_file()


@pytest.mark.slow
def test_imports_that_the_main_job_does_not_make_need_no_network(tmp_path, run_python):
    variables, attempts = _blocked(tmp_path)
    code = """
import palyno.offline
palyno.offline.switch_off()
import albumentations, timm, gradio"""
    run_python("-c", code, **variables)
    assert attempts.read_text(encoding="utf-8") == ""
