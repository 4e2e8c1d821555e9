"""`palyno doctor` on prepared networks: what a CPU runs, what is kept and whether it is whole, in words and in JSON."""

from __future__ import annotations

import hashlib
import json

import onnxruntime
import pytest
import torch
from click.testing import CliRunner
from palyno.app.cli import cli
from palyno.vision.runtimes import prepared
from palyno.vision.weights import shipped_models

ONNXRUNTIME, PYTORCH = f"onnxruntime {onnxruntime.__version__}", f"torch {torch.__version__}"


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("PALYNO_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("PALYNO_RUNTIME", raising=False)
    return tmp_path / "cache" / "networks"


@pytest.fixture
def keep(cache, shipped_model):
    """Keeps bytes as the prepared network of the model that ships; those that are read are `found`."""

    def write(kept=b"a network", found=None, sha256=None):
        cache.mkdir(parents=True, exist_ok=True, mode=0o700)
        key = prepared._key(sha256 or shipped_models()[shipped_model].sha256)
        file = cache / f"{key}-{hashlib.sha256(kept).hexdigest()}.onnx"
        file.write_bytes(kept if found is None else found)
        return file

    return write


def told(code=0):
    """What it says: the entry of the JSON document, after the text was seen to hold the same words."""
    as_json, as_text = (CliRunner().invoke(cli, ["doctor", *more]) for more in (["--json"], []))
    assert as_json.exit_code == as_text.exit_code == code, as_json.output + as_text.output
    document = json.loads(as_json.stdout)
    words = "".join(as_text.stdout.split())
    for line in (*document["prepared_networks"]["says"], *document["problems"]):
        assert "".join(line.split()) in words, line
    return document["prepared_networks"]


def row(entry, model):
    (found,) = [found for found in entry["models"] if found["model"] == model]
    return found


def test_an_empty_cache_is_told_and_stays_empty(cache, shipped_model):
    entry = told()
    assert (entry["files"], entry["bytes"], entry["folder"]) == (0, 0, str(cache))
    mine = row(entry, shipped_model)
    assert (mine["state"], mine["runtime"], mine["file"]) == ("unprepared", ONNXRUNTIME, None)
    assert "the first detection prepares it" in mine["says"]
    assert not cache.exists()
    # Encoders are not prepared.
    assert [found["model"] for found in entry["models"]] == [
        name for name, entry in shipped_models().items() if entry.kind == "detector"
    ]


def test_what_is_kept_is_counted_measured_and_hashed(keep, shipped_model):
    file, other = keep(), keep(b"of weights that were replaced", sha256="0" * 64)
    entry = told()
    assert (entry["files"], entry["bytes"], entry["whole"], entry["others"]) == (2, 38, 2, 1)
    mine = row(entry, shipped_model)
    assert (mine["state"], mine["file"], mine["bytes"], mine["whole"]) == ("ready", str(file), 9, True)
    assert mine["sha256"] == hashlib.sha256(b"a network").hexdigest() and mine["runtime"] == ONNXRUNTIME
    other.write_bytes(b"of weights that were repIaced")
    entry = told()
    assert entry["damaged"] == [str(other)] and entry["whole"] == 1
    assert f"{other} is damaged, and no model of this version takes it: delete it." in entry["says"]


def test_a_damaged_network_is_named_with_what_to_do(keep, shipped_model):
    file = keep(found=b"a netw0rk")
    entry = told()
    mine = row(entry, shipped_model)
    assert (mine["state"], mine["whole"], mine["runtime"]) == ("damaged", False, ONNXRUNTIME)
    assert entry["damaged"] == [str(file)] and str(file) in mine["says"]
    assert "the next detection on a CPU makes it again" in mine["says"]
    # It is not also said to be of no model.
    assert not any("delete it." in line for line in entry["says"])


def test_where_none_can_be_run_pytorch_does_and_it_is_a_problem_only_where_it_was_refused(
    keep, cache, monkeypatch, shipped_model
):
    keep()
    cache.chmod(0o777)
    entry = told()
    assert {found["runtime"] for found in entry["models"]} == {PYTORCH}
    assert "run `chmod 700` on it" in entry["says"][-1] and entry["reason"] in entry["says"][-1]
    monkeypatch.setenv("PALYNO_RUNTIME", "onnxruntime")
    assert {found["runtime"] for found in told(code=1)["models"]} == {None}
    monkeypatch.setenv("PALYNO_RUNTIME", "torch")
    entry = told()
    assert (entry["asked"], entry["reason"], row(entry, shipped_model)["state"]) == ("torch", None, "unasked")


def test_a_runtime_that_there_is_not_is_a_problem(cache, monkeypatch):
    monkeypatch.setenv("PALYNO_RUNTIME", "onnx")
    done = CliRunner().invoke(cli, ["doctor", "--json"])
    assert done.exit_code == 1 and "PALYNO_RUNTIME: expected one of" in json.loads(done.stdout)["problems"][0]
