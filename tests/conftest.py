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
