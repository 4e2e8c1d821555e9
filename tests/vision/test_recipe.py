"""The recipe of a training: settings that cannot be meant are refused, and a run's folder gives back its own."""

from __future__ import annotations

import dataclasses
import json
from types import SimpleNamespace

import pytest
from palyno.errors import UsageError
from palyno.vision.models.detection import build
from palyno.vision.models.tables import configure
from palyno.vision.recipe import TrainSettings, as_begun, as_held, note, of_the_table
from palyno.vision.weights import Metadata


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"epochs": 0}, "epochs"),
        ({"name": "a/b"}, "name: expected the name of a file, without folders, got 'a/b'"),
        ({"name": "a\\b"}, "name: expected the name of a file"),
        ({"name": ""}, "name: expected the name of a file"),
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
        ({"multi_scale": 1.0}, "multi_scale: expected 0 to below 1, got 1"),
        ({"multi_scale": 0.7, "imgsz": 128}, "multi_scale: expected sides of 64 pixels or more, got imgsz 128"),
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


def test_few_classes_are_told_apart_by_the_plain_loss(tmp_path):
    settings = TrainSettings(tmp_path / "data.yaml", tmp_path)
    for classes, weight in ((3, 0.0), (66, 1.0)):
        network = build(settings.model, classes=classes, **of_the_table(settings, classes))
        assert network.yaml["naming_loss"] == weight
    assert (of_the_table(settings, 9)["naming_loss"], of_the_table(settings, 10)["naming_loss"]) == (0, None)
    asked = dataclasses.replace(settings, naming_loss=0.5, edge="log", options={"kernel": 7})
    assert of_the_table(asked, 3) == {
        "naming_loss": 0.5,
        "edge": "log",
        "kernel": 7,
        "gate": None,
        "backbone": None,
        "head": None,
        "nwd": 0.0,
    }


@pytest.mark.parametrize("classes", [3, 66])
@pytest.mark.parametrize(
    "asked",
    [
        {},
        {"model": "hieraedge-n", "edge": "log", "options": {"kernel": 7}},
        {"model": "hieraedge-rtdetr"},
        {"model": "backbone-edge-yolo-n", "backbone": "biformer_nano", "head": "one2one"},
        {"model": "yolo11n"},
        {"model": "yolo11n", "naming_loss": 0.5},
    ],
)
def test_what_held_asks_for_the_same_network_in_all_words(asked, classes, tmp_path):
    settings = TrainSettings(tmp_path / "data.yaml", tmp_path, **asked)
    config = configure(settings.model, classes=classes, **of_the_table(settings, classes))
    held = as_held(settings, config)
    assert held["naming_loss"] is not None and held["name"] == settings.model
    again = TrainSettings(**held)
    # The number of classes plays no part any more.
    assert configure(again.model, classes=classes, **of_the_table(again, 69 - classes)) == config
    assert as_held(again, config) == held


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
    config = configure(settings.model, classes=3, **of_the_table(settings, 3))
    note(tmp_path, as_held(settings, config))
    again = as_begun(TrainSettings(settings.data, settings.out, device="mps", workers=1, epochs=9))
    held = {"edge": "magnitude", "head": "detect", "naming_loss": 0.0}
    assert again == dataclasses.replace(settings, device="mps", workers=1, **held)


def test_weights_are_resumed_with_the_table_that_they_brought(tmp_path):
    settings = TrainSettings(tmp_path / "data.yaml", tmp_path, weights="tiny.safetensors", lr=1e-4)
    config = configure("hieraedge-n", classes=3, edge="log")
    held = as_held(settings, config, Metadata(name="tiny", classes=("a", "b", "c"), config=config))
    assert (held["model"], held["name"], held["edge"], held["naming_loss"]) == ("tiny", "tiny", "log", 1.0)
    note(tmp_path, held)
    again = as_begun(TrainSettings(settings.data, tmp_path))
    assert again == dataclasses.replace(settings, model="tiny", name="tiny", naming_loss=1.0)


def test_an_older_recipe_is_resumed_with_what_was_usual_where_it_says_nothing(tmp_path):
    older = {"data": "/elsewhere/data.yaml", "out": "/elsewhere", "epochs": 7, "naming_loss": None, "gone": 1}
    (tmp_path / "recipe.json").write_text(json.dumps(older))
    asked = TrainSettings(tmp_path / "data.yaml", tmp_path, epochs=3, light=2, device="cpu")
    assert as_begun(asked) == TrainSettings(tmp_path / "data.yaml", tmp_path, epochs=7, device="cpu")


def test_a_folder_without_a_recipe_leaves_the_settings_as_they_are(tmp_path):
    settings = TrainSettings(tmp_path / "data.yaml", tmp_path, epochs=7)
    assert as_begun(settings) == settings


def test_the_share_of_another_overlap_reaches_the_networks_loss(tmp_path):
    from palyno.vision.models.wasserstein import WassersteinAssigner

    shares = {}
    for nwd in (0.0, 0.5):
        settings = TrainSettings(tmp_path / "data.yaml", tmp_path, nwd=nwd)
        network = build(settings.model, classes=3, **of_the_table(settings, 3))
        network.args = SimpleNamespace()
        assigner = network.init_criterion().assigner
        shares[nwd] = assigner.share if isinstance(assigner, WassersteinAssigner) else None
    assert shares == {0.0: None, 0.5: 0.5}
    # Weights that were trained with a share of it leave it behind.
    again = build(network.yaml, **of_the_table(dataclasses.replace(settings, nwd=0.0), 3))
    assert network.yaml["nwd"] == 0.5 and "nwd" not in again.yaml
