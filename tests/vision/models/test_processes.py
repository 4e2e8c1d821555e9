"""Training on several GPUs: a process for each, here two on the CPU, and what a folder keeps where none can start."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from functools import partial
from importlib.metadata import requires
from types import SimpleNamespace
from unittest.mock import patch

import cloudpickle
import pytest
import torch
from palyno.vision.models.trainer import PollenTrainer, PollenYOLO
from palyno.vision.train import TrainSettings, train
from palyno.vision.weights import read_metadata

# A process that is started knows no module of the tests.
cloudpickle.register_pickle_by_value(sys.modules[__name__])


class OnTwoCPUs(PollenTrainer):
    """The trainer on what ultralytics takes for two GPUs: it knows one CPU alone."""

    def get_dataset(self):
        self.world_size, self.ddp = 2, "LOCAL_RANK" not in os.environ
        return super().get_dataset()

    def _setup_ddp(self):
        parallel = torch.nn.parallel.DistributedDataParallel

        class OnCPU(parallel):
            def __init__(self, module, device_ids, **options):
                super().__init__(module, **options)

        torch.nn.parallel.DistributedDataParallel = OnCPU
        torch.distributed.init_process_group("gloo")

    def _do_train(self):
        super()._do_train()
        weights = torch.cat([p.detach().flatten() for p in self.model.parameters()])
        torch.save(weights, self.save_dir / f"process-{os.environ['RANK']}.pt")

    def validate(self):
        with (self.save_dir / "validated.txt").open("a") as file:
            file.write(f"{self.epoch} {os.environ['RANK']}\n")
        return super().validate()

    def final_eval(self):
        from ultralytics.engine import validator

        def on_cpu(device, _backend=validator.AutoBackend, **given):
            return _backend(device=torch.device("cpu"), **given)

        with (
            patch.object(validator, "get_torch_device_backend", lambda _: SimpleNamespace(current_device=lambda: 0)),
            patch.object(validator, "AutoBackend", on_cpu),
        ):
            super().final_eval()
        # Not the nought that this little training reaches.
        self.metrics["metrics/mAP50(B)"] = 0.25 if os.environ["RANK"] == "0" else 0.75


@pytest.fixture
def two(monkeypatch, threads):
    """Trains as on two GPUs, what is begun and what is resumed."""
    monkeypatch.setattr("palyno.vision.models.trainer.partial", lambda _, **given: partial(OnTwoCPUs, **given))
    tasks = PollenYOLO.task_map.fget
    ours = property(lambda front: {"detect": tasks(front)["detect"] | {"trainer": OnTwoCPUs}})
    monkeypatch.setattr(PollenYOLO, "task_map", ours)


def settings(data, out, **more):
    return TrainSettings(data, out, epochs=2, batch=2, imgsz=64, device="cpu", workers=0, **more)


def power_cut(every):
    def on_train_epoch_start(trainer):
        if trainer.epoch == 1:
            raise SystemExit(3)

    return on_train_epoch_start


def test_two_processes_train_one_network_and_say_what_it_reaches(data, tmp_path, two):
    """Of a network that each trains alone the two would differ. The feed is our own, which divides the images."""
    out = tmp_path / "run"
    weights = train(settings(data, out, cache="host", edge="log", naming_loss=0.5, validate_every=2))
    one, other = (torch.load(out / f"process-{rank}.pt") for rank in range(2))
    assert torch.equal(one, other)
    assert len((out / "results.csv").read_text().splitlines()) == 1 + 2
    assert (out / "recipe.json").is_file()
    assert sorted((out / "validated.txt").read_text().split("\n")) == ["", "1 0", "1 1"]
    about = read_metadata(weights)
    assert about.config["options"]["edge"] == "log" and about.config["naming_loss"] == 0.5
    validation = about.training["validation"]
    assert validation["metrics/mAP50(B)"] == 0.25
    assert "metrics/mAP50-95(B)" in validation


def test_a_run_in_two_processes_that_broke_off_goes_on(data, tmp_path, two, monkeypatch):
    out = tmp_path / "run"
    with monkeypatch.context() as cut, pytest.raises(subprocess.CalledProcessError):
        cut.setattr("palyno.vision.train._validate_when_due", power_cut)
        train(settings(data, out))
    assert (out / "weights" / "last.pt").is_file() and (out / "recipe.json").is_file()
    weights = train(TrainSettings(data, out, device="cpu"), resume=True)
    assert [line.split(",")[0] for line in (out / "results.csv").read_text().splitlines()] == ["epoch", "1", "2"]
    training = read_metadata(weights).training
    assert training["validation"]["metrics/mAP50(B)"] == 0.25
    # Of two classes the table's weight did not hold.
    assert training["recipe"]["naming_loss"] == json.loads((out / "recipe.json").read_text())["naming_loss"] == 0.0


@pytest.mark.parametrize("what", ["the pickle", "the launcher"])
def test_a_folder_keeps_what_is_in_it_where_the_start_fails(data, tmp_path, two, monkeypatch, what):
    out = tmp_path / "run"
    (out / "weights").mkdir(parents=True)
    last = out / "weights" / "last.pt"
    last.write_bytes(b"of hours")
    if what == "the pickle":
        monkeypatch.setitem(sys.modules, "cloudpickle", None)
    else:
        monkeypatch.setattr("palyno.vision.models.processes.sys.executable", str(tmp_path / "nothing"))
    front = PollenYOLO("hieraedge-n", classes=2)
    given = {"data": str(data), "project": str(tmp_path), "name": "run", "exist_ok": True, "device": "cpu"}
    with pytest.raises((ModuleNotFoundError, FileNotFoundError)):
        front.train(**given, imgsz=64, batch=2, epochs=1, workers=0, plots=False)
    assert last.read_bytes() == b"of hours"


def test_what_processes_are_sent_in_comes_with_the_package():
    assert [text for text in requires("palyno") if text.startswith("cloudpickle") and "extra" not in text]
