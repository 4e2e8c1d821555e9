"""The recipe of a training: settings that cannot be meant are refused, and a run's folder gives back its own."""

from __future__ import annotations

import dataclasses

import pytest
from palyno.errors import UsageError
from palyno.vision.recipe import TrainSettings, as_begun, note


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"epochs": 0}, "epochs"),
        ({"imgsz": 100}, "multiple of 32"),
        ({"batch": 0}, "batch"),
        ({"workers": -1}, "workers"),
        ({"weight_decay": -0.1}, "weight_decay: expected 0 to 1"),
        ({"device": "gpu"}, "device: expected auto, cpu, cuda, cuda:N, cuda:N,M or mps, got 'gpu'"),
        ({"device": "cuda:0,1,2", "batch": 16}, "batch: expected a multiple of 3, the number of GPUs, got 16"),
        ({"distill": 1.0, "distill_boxes": 0.5}, "distill, distill_boxes: expected a teacher too, got none"),
        ({"teacher": "hieraedge-n", "distill": -1.0}, "distill: expected a number from 0, got -1"),
        ({"teacher": "hieraedge-n", "distill_temperature": 0.0}, "distill_temperature: expected a number above 0"),
        ({"teacher": "hieraedge-n", "distill": 0.0}, "distill: expected more than 0, got 0 and no distill_boxes"),
        ({"cache": "disk"}, "cache: expected one of none, ram, host, gpu"),
        ({"light": 3}, "light: expected 0 to 2, got 3"),
        ({"degrees": 45.0, "cache": "ram"}, "degrees: only with cache='gpu' or 'host'"),
        (
            {"weights": "hieraedge-n", "gate": "none", "options": {"kernel": 7}},
            "gate, options: weights bring their layer table",
        ),
    ],
)
def test_settings_that_cannot_be_meant_are_refused(change, says, tmp_path):
    with pytest.raises(UsageError, match=says):
        TrainSettings(tmp_path / "data.yaml", tmp_path / "out", **change)


def test_what_is_resumed_is_the_run_that_was_begun(tmp_path):
    settings = TrainSettings(
        tmp_path / "data.yaml",
        tmp_path,
        name="tiny",
        epochs=7,
        batch=3,
        gate="none",
        options={"kernel": 7},
        device="cpu",
    )
    note(settings)
    again = as_begun(TrainSettings(settings.data, settings.out, device="mps", workers=1))
    assert again == dataclasses.replace(settings, device="mps", workers=1)


def test_a_folder_without_a_recipe_leaves_the_settings_as_they_are(tmp_path):
    settings = TrainSettings(tmp_path / "data.yaml", tmp_path, epochs=7)
    assert as_begun(settings) == settings
