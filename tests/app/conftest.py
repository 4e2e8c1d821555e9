from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

FAKE = Path(__file__).with_name("fake_detector.py")


@pytest.fixture(scope="session")
def fake():
    """The module of `FakeDetector`."""
    spec = importlib.util.spec_from_file_location("fake_detector", FAKE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def slides(tmp_path) -> Path:
    """A folder with three slides, one of them in a folder of its own."""
    folder = tmp_path / "slides"
    (folder / "upper").mkdir(parents=True)
    for i, name in enumerate(("a.png", "b.png", "upper/a.png")):
        pixels = np.random.default_rng(i).integers(150, 255, (90, 120, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / name)
    return folder


@pytest.fixture
def job(fake, tmp_path):
    """Runs a job with the fake detector; options are those of `DetectOptions`."""
    from palyno.app.jobs import DetectOptions, detect_slides

    def run(paths, out=tmp_path / "out", *, detector=None, progress=None, **options):
        paths = [paths] if isinstance(paths, str | Path) else paths
        return detect_slides(
            paths, out, DetectOptions(**options), detector=detector or fake.FakeDetector(), progress=progress
        )

    return run


@pytest.fixture
def written():
    """The bytes of every file that palyno promises to repeat, by name below a folder."""

    def read(out: Path) -> dict[str, bytes]:
        files = (file for file in sorted(out.rglob("*")) if file.is_file())
        names = {file.relative_to(out).as_posix(): file for file in files}
        return {n: f.read_bytes() for n, f in names.items() if not n.startswith(".palyno/") and n != "run.json"}

    return read
