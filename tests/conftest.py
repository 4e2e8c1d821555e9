"""What several test files share: the samples, the weights, and a Python without a network."""

import os
import subprocess
import sys
from pathlib import Path

import palyno
import pytest

# Before anything imports torch. Small networks gain nothing from a second thread, and two threads that wait for each
# other on two busy cores take many times as long as one.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# To prepare each network that a test opens for onnxruntime would take seconds; tests of that say so.
os.environ.setdefault("PALYNO_RUNTIME", "torch")

ROOT = Path(palyno.__file__).parent


@pytest.fixture(scope="session")
def samples():
    """The folder of slide images that ships with palyno."""
    return ROOT / "data" / "samples"


@pytest.fixture(scope="session")
def shipped_model():
    """The name of the model that ships; skips where the list of models does not have it yet."""
    lock = ROOT / "weights" / "models.lock"
    if not lock.exists() or "hieraedge-n" not in lock.read_text(encoding="utf-8"):
        pytest.skip("weights/models.lock does not list hieraedge-n")
    return "hieraedge-n"


@pytest.fixture(scope="session")
def prepared_detector(shipped_model, tmp_path_factory):
    """The detector that ships, as it is opened on a CPU where no one chooses; prepared once for all test processes."""
    from palyno.vision import export

    folder, tiles = tmp_path_factory.getbasetemp(), export.tiles
    folder = folder.parent if "PYTEST_XDIST_WORKER" in os.environ else folder
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PALYNO_CACHE", str(folder / "prepared"))
        patch.delenv("PALYNO_RUNTIME")
        # The test without a network checks it on all of them.
        patch.setattr(export, "tiles", lambda *asked: tiles(*asked)[:2])
        return palyno.load(shipped_model, device="cpu")


@pytest.fixture(scope="module")
def one_thread():
    """Of PyTorch: on small maps a second one only waits, long where other work has its core."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def run_python(tmp_path):
    """Runs `python ARGUMENTS...` in an empty folder and returns what it printed; fails where it fails."""

    def run(*arguments, code=0, **variables):
        environment = {**os.environ, "PALYNO_CACHE": str(tmp_path / "cache"), **variables}
        work = tmp_path / "work"
        work.mkdir(exist_ok=True)
        done = subprocess.run(
            [sys.executable, *map(str, arguments)], cwd=work, env=environment, capture_output=True, text=True
        )
        assert done.returncode == code, f"exit code {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    return run
