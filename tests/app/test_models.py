from __future__ import annotations

import hashlib
import json

import pytest
from click.testing import CliRunner
from palyno.app.cli import cli
from palyno.vision import weights


@pytest.fixture
def lock(monkeypatch, tmp_path):
    """A list with one model of three bytes, in place of the one that ships."""
    (tmp_path / "tiny.safetensors").write_bytes(b"abc")
    entry = {
        "file": "tiny.safetensors",
        "sha256": hashlib.sha256(b"abc").hexdigest(),
        "bytes": 3,
        "licence": "AGPL-3.0",
        "source": "made up",
    }
    file = tmp_path / "models.lock"
    file.write_text(json.dumps({"format": weights.LOCK_FORMAT, "models": {"tiny": entry}}))
    monkeypatch.setattr(weights, "LOCK", file)
    monkeypatch.setattr(weights.shipped_models, "__defaults__", (file,))
    return file


def run(*arguments):
    return CliRunner().invoke(cli, ["models", *arguments])


def test_list_names_licence_and_source(lock):
    done = run("list")
    assert done.exit_code == 0
    assert all(word in done.stdout for word in ("tiny", "AGPL-3.0", "made up"))
    assert json.loads(run("list", "--json").stdout)["models"][0]["bytes"] == 3


@pytest.mark.parametrize(
    ("content", "status"), [(b"abc", "ok"), (b"abd", "differs"), (b"ab", "differs"), (None, "missing")]
)
def test_verify_hashes_every_file(lock, content, status):
    file = lock.parent / "tiny.safetensors"
    file.unlink()
    if content is not None:
        file.write_bytes(content)
    done = run("verify", "--json")
    assert [model["status"] for model in json.loads(done.stdout)["models"]] == [status]
    assert done.exit_code == (0 if status == "ok" else 5)
    assert status in run("verify").stdout


def test_a_damaged_list_is_refused(lock):
    lock.write_text("{")
    assert run("verify").exit_code == 5
