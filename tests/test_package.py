"""The package as a user meets it: quick to import, complete in its wheel."""

import shutil
import sys
import zipfile
from pathlib import Path

import palyno
import pytest

ROOT = Path(palyno.__file__).parent
PARTS = ("app", "data", "kernels", "retrieval", "vision", "weights")
HEAVY = {"torch", "ultralytics", "cv2", "pandas", "matplotlib", "gradio", "scipy", "numpy", "supervision", "PIL"}


def test_import_is_quick_and_loads_nothing_heavy(run_python):
    times = []
    for _ in range(3):
        code = "import sys, time; t = time.perf_counter(); import palyno; print(time.perf_counter() - t, *sys.modules)"
        seconds, *modules = run_python("-c", code).split()
        assert not HEAVY & set(modules)
        times.append(float(seconds))
    assert min(times) < 0.3


def test_help_is_quick_and_loads_nothing_heavy(run_python):
    code = """
import sys, time
t = time.perf_counter()
import palyno.app.cli
try:
    palyno.app.cli.cli.main(["--help"])
except SystemExit as end:
    assert not end.code
print("\\n", time.perf_counter() - t, *sys.modules)"""
    times = []
    for _ in range(3):
        page, numbers = run_python("-c", code).rsplit("\n", 1)[0].rsplit("\n", 1)
        seconds, *modules = numbers.split()
        assert "detect" in page and "serve" in page
        assert not HEAVY & set(modules)
        times.append(float(seconds))
    assert min(times) < 0.6


def test_every_public_name_is_there():
    for name in palyno.__all__:
        assert getattr(palyno, name) is not None
    assert {"load", "Detector", "SlideResult", "Grain", "PalynoError"} <= set(palyno.__all__)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        palyno.nothing  # noqa: B018


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The wheel, built from a copy of the sources without isolation: nothing is fetched."""
    import subprocess

    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    source.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE", "py.typed", *(file.name for file in ROOT.glob("*.py"))):
        shutil.copy2(ROOT / name, source / name)
    for part in PARTS:
        if (ROOT / part).is_dir():
            shutil.copytree(ROOT / part, source / part, ignore=shutil.ignore_patterns("__pycache__"))
    code = "import sys; from setuptools import build_meta; build_meta.build_wheel(sys.argv[1])"
    build = [sys.executable, "-c", code, str(folder)]
    subprocess.run(build, cwd=source, check=True, capture_output=True, timeout=120)
    return next(folder.glob("palyno-*.whl"))


def test_wheel_holds_every_source_table_weight_and_sample(wheel):
    inside = set(zipfile.ZipFile(wheel).namelist())
    kinds = {".py", ".csv", ".yaml", ".safetensors", ".lock", ".md", ".jpg", ".png", ".tif", ".json", ".js", ".css"}
    files = [*ROOT.glob("*.py"), *(f for part in PARTS for f in (ROOT / part).rglob("*") if f.suffix in kinds)]
    wanted = {f"palyno/{file.relative_to(ROOT).as_posix()}" for file in files if "__pycache__" not in file.parts}
    assert {"palyno/data/taxa.csv", "palyno/data/samples/rice_dense.jpg"} <= wanted
    assert wanted - inside == set()
    assert not [name for name in inside if "/tests/" in name or name.endswith(".pyc")]


def test_wheel_runs_from_another_folder(wheel, run_python, tmp_path):
    there = tmp_path / "there"
    zipfile.ZipFile(wheel).extractall(there)
    code = """
import sys, palyno
from importlib.metadata import distribution
assert palyno.__file__.startswith(sys.argv.pop(1)), palyno.__file__
script, = (e for e in distribution("palyno").entry_points if e.name == "palyno")
script.load()()"""
    assert run_python("-c", code, there, "--version", PYTHONPATH=str(there)).strip() == f"palyno {palyno.__version__}"


def test_wheel_lists_its_models(wheel, run_python, tmp_path, shipped_model):
    there = tmp_path / "there"
    zipfile.ZipFile(wheel).extractall(there)
    code = """
import palyno
try:
    palyno.load("no-such-model")
except palyno.UnknownModelError as error:
    print(palyno.__file__, error)"""
    printed = run_python("-c", code, PYTHONPATH=str(there))
    assert printed.startswith(str(there))
    assert shipped_model in printed
