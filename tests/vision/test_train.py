"""Training: from composed scenes to weights that `load` takes, and what is refused before a step is taken."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import palyno
import pytest
import yaml
from palyno.data.compose import Recipe, compose_dataset
from palyno.data.scene import SceneSettings
from palyno.data.training_set import read_training_set
from palyno.errors import InputError, UnknownModelError, UsageError
from palyno.vision.models.detection import build
from palyno.vision.models.distill import Teacher
from palyno.vision.models.trainer import PollenTrainer
from palyno.vision.operating import choose_conf
from palyno.vision.train import TrainSettings, _arguments, export_checkpoint, known_classes, train
from palyno.vision.validate import read_split, validate
from palyno.vision.weights import _network, load_weights, save_weights
from safetensors.torch import load_file

PICTURES = Path(__file__).parent.parent / "data" / "pictures" / "pollen73s"


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    out = tmp_path_factory.mktemp("train") / "scenes"
    scene = SceneSettings(size=128, grain_px=(20, 60), largest_count=4)
    unknown = {"train": ("zea_mays",), "val": (), "test": ()}
    compose_dataset(
        Recipe(PICTURES / "train", scenes={"train": 6, "val": 2, "test": 0}, unknown=unknown, scene=scene), out
    )
    return out


@pytest.fixture(scope="module")
def run(tmp_path_factory, scenes):
    """One epoch on six small scenes."""
    out = tmp_path_factory.mktemp("run") / "run"
    settings = TrainSettings(
        scenes / "data.yaml", out, name="tiny", epochs=1, batch=3, imgsz=128, device="cpu", workers=0, gate="none"
    )
    return settings, train(settings)


def test_training_ends_in_weights_that_load_and_detect(run, scenes):
    settings, weights = run
    assert weights == settings.out / "tiny.safetensors"
    detector = palyno.load(weights, device="cpu")
    names = json.loads((scenes / "manifest.json").read_text())["classes"]
    assert detector.classes == tuple(names)
    assert detector.metadata.config["options"]["gate"] == "none"
    images, truth = read_split(scenes / "data.yaml", "val")
    report = validate(detector, images, truth, tile=128)
    assert report["counts"]["true"] == sum(len(t) for t in truth) > 0
    assert 0 <= report["mAP50-95"] <= report["mAP50"] <= 1


def test_the_recipe_is_stored_with_the_weights_and_names_no_path(run):
    settings, weights = run
    training = palyno.load(weights, device="cpu").metadata.training
    assert training["seed"] == 0
    assert training["recipe"]["epochs"] == 1
    assert str(settings.out) not in json.dumps(dict(training))


def test_the_recipe_that_is_kept_says_what_held_where_nothing_was_asked_for(run):
    settings, weights = run
    about = palyno.load(weights, device="cpu").metadata
    noted = json.loads((settings.out / "recipe.json").read_text())
    for recipe in (noted, about.training["recipe"]):
        assert recipe["naming_loss"] == about.config["naming_loss"] == 1.0
        assert {key: recipe[key] for key in ("edge", "gate")} | recipe["options"] == about.config["options"]
        assert (recipe["model"], recipe["name"], recipe["head"]) == ("hieraedge-n", "tiny", "detect")


def test_a_table_of_ones_own_is_named_without_its_folder(run, tmp_path):
    settings = dataclasses.replace(run[0], model="/somewhere/table.yaml", name=None)
    path = export_checkpoint(run[0].out / "weights" / "best.pt", tmp_path, settings, metrics={}, max_grain_px=40)
    assert path == tmp_path / "table.safetensors"
    assert load_weights(path)[1].training["recipe"]["model"] == "table"


def test_a_recipe_in_hours_says_how_many_epochs_these_were(scenes, tmp_path):
    settings = TrainSettings(
        scenes / "data.yaml", tmp_path, model="yolo11n", hours=1e-6, batch=3, imgsz=64, device="cpu", workers=0
    )
    recipe = load_weights(train(settings))[1].training["recipe"]
    assert recipe["epochs"] == json.loads((tmp_path / "recipe.json").read_text())["epochs"] == 1
    assert len((tmp_path / "results.csv").read_text().splitlines()) == 1 + 1


def test_weights_say_how_they_count_validation_images(run, scenes):
    """As `choose_conf` and `validate` say of another pass over the same images."""
    detector = palyno.load(run[1], device="cpu")
    images, truth = read_split(scenes / "data.yaml", "val")
    results = [detector.detect(image, conf=0.05) for image in images]
    counts = detector.metadata.training["counts"]
    choice = choose_conf(truth, results)
    assert counts["conf"] == choice.conf
    assert counts["count_error"] == pytest.approx(choice.count_error, abs=1e-4)
    usual = validate(detector, images, truth, conf=0.25)["counts"]["count_error"]
    assert counts["count_error_at_usual"] == pytest.approx(usual, abs=1e-4)


def test_a_run_is_not_written_over_and_a_finished_one_is_not_lost(run):
    settings, weights = run
    before = weights.read_bytes()
    with pytest.raises(UsageError, match="--resume"):
        train(settings)
    assert weights.read_bytes() == before


def test_training_goes_on_from_weights_and_says_from_which(run, scenes, tmp_path):
    _, weights = run
    data = scenes / "data.yaml"
    out = tmp_path / "on"
    # So small a step that the network stays where it began, but for its running statistics.
    fine = TrainSettings(
        data, out, weights=weights, epochs=1, batch=3, imgsz=128, device="cpu", workers=0, lr=1e-12, seed=5
    )
    first, second = (palyno.load(path, device="cpu") for path in (weights, train(fine)))
    recipe = second.metadata.training["recipe"]
    assert recipe["model"] == "tiny" and recipe["weights"] == first.metadata.sha256
    assert second.metadata.config["options"]["gate"] == "none" and (out / "tiny.safetensors").is_file()
    learned = [dict(load_weights(path)[0].named_parameters()) for path in (weights, out / "tiny.safetensors")]
    assert learned[0].keys() == learned[1].keys()
    for key, tensor in learned[0].items():
        assert (tensor - learned[1][key]).abs().max() <= 1e-3 * tensor.abs().max() + 1e-4, key
    assert known_classes(data, weights) == (list(first.classes), [])
    assert known_classes(data, "hieraedge-n")[1]


def test_a_teacher_teaches_a_resumed_run_too_and_is_named_in_the_weights_but_no_part_of_them(
    run, scenes, tmp_path, monkeypatch
):
    class PowerCut(Exception):
        pass

    def cut(trainer):
        if trainer.epoch == 1:
            raise PowerCut

    lessons, built = [], []

    class Watched(Teacher):
        def __call__(self, images):
            lesson = super().__call__(images)
            lessons.append((tuple(images.shape), lesson.scores.requires_grad))
            return lesson

    def build_watched(stored, metadata):
        built.append(metadata.name)
        return _network(stored, metadata)

    monkeypatch.setattr("palyno.vision.models.distill.Teacher", Watched)
    monkeypatch.setattr("palyno.vision.weights._network", build_watched)
    weights, data, out = run[1], scenes / "data.yaml", tmp_path / "pupil"
    tiny = TrainSettings(
        data, out, teacher=weights, distill=0.5, epochs=2, batch=3, imgsz=128, device="cpu", workers=0, name="pupil"
    )
    with monkeypatch.context() as patch, pytest.raises(PowerCut):
        patch.setattr("palyno.vision.train._validate_when_due", lambda every: cut)
        train(tiny)
    # Six images are two batches, and the two of validation none.
    assert lessons == [((3, 3, 128, 128), False)] * 2
    assert built == ["tiny"]
    path = train(TrainSettings(data, out, device="cpu"), resume=True)
    assert lessons == [((3, 3, 128, 128), False)] * 4
    assert built.count("tiny") == 2
    taught = palyno.load(weights, device="cpu").metadata
    pupil = palyno.load(path, device="cpu").metadata
    recipe = pupil.training["recipe"]
    assert recipe["teacher"] == {"name": "tiny", "sha256": taught.sha256}
    assert [recipe[key] for key in ("distill", "distill_temperature", "distill_boxes")] == [0.5, 2.0, 0.0]
    assert str(tmp_path) not in json.dumps(dict(pupil.training)) and str(weights) not in json.dumps(
        dict(pupil.training)
    )
    assert load_weights(path)[0].state_dict().keys() == build("hieraedge-n", classes=3).state_dict().keys()
    for checkpoint in (out / "weights").iterdir():
        content = checkpoint.read_bytes()
        assert b"palyno.vision.models.detection" in content and b"palyno.vision.models.distill" not in content


def test_who_cannot_teach_is_refused_before_anything_is_written(run, scenes, tmp_path):
    weights, data = run[1], scenes / "data.yaml"
    with pytest.raises(UsageError, match="model: expected a head whose anchors lie on a grid"):
        train(TrainSettings(data, tmp_path / "out", model="hieraedge-rtdetr", teacher=weights, device="cpu"))
    with pytest.raises(UnknownModelError, match="nothing-like-it"):
        train(TrainSettings(data, tmp_path / "out", teacher="nothing-like-it"))
    assert not (tmp_path / "out").exists()


def test_a_resumed_run_refuses_who_cannot_teach_before_its_folder_is_touched(run, tmp_path):
    begun = shutil.copytree(run[0].out, tmp_path / "begun")
    (begun / "recipe.json").unlink()  # Which would say that there is no teacher.
    before = {file: file.read_bytes() for file in begun.rglob("*") if file.is_file()}
    classes = ("Pinus", "Tilia")
    stranger = build("yolo11n", classes=classes)
    about = {"imgsz": 128, "naming_threshold": 0.5, "max_grain_px": 40, "training": {}}
    teacher = save_weights(
        tmp_path / "stranger.safetensors", stranger, name="stranger", classes=classes, config=stranger.yaml, **about
    )
    with pytest.raises(UsageError, match=r"teacher: expected one that knows .* got one of Pinus, Tilia"):
        train(dataclasses.replace(run[0], out=begun, teacher=teacher), resume=True)
    assert before == {file: file.read_bytes() for file in begun.rglob("*") if file.is_file()}


def test_weight_decay_is_of_weights_alone(scenes, tmp_path):
    from palyno.vision.models.trainer import PollenTrainer, PollenYOLO

    arguments = _arguments(TrainSettings(scenes / "data.yaml", tmp_path, device="cpu", batch=3, weight_decay=0.03))
    model = PollenYOLO("hieraedge-n").model
    trainer = PollenTrainer(overrides=arguments | {"model": "hieraedge-n.yaml"})
    optimizer = trainer.build_optimizer(model, arguments["optimizer"], lr=1e-3, decay=arguments["weight_decay"])
    decays = {id(p): group["weight_decay"] for group in optimizer.param_groups for p in group["params"]}
    for name, parameter in model.named_parameters():
        assert decays[id(parameter)] == (0.03 if parameter.ndim > 1 else 0.0), name


def test_how_much_light_varies_reaches_the_loader(scenes, tmp_path):
    from palyno.vision.feed.light import Light
    from palyno.vision.models.trainer import PollenTrainer, PollenYOLO

    settings = TrainSettings(scenes / "data.yaml", tmp_path, device="cpu", batch=3, cache="host", light=1.5)
    trainer = PollenTrainer(overrides=_arguments(settings) | {"model": "hieraedge-n.yaml"})
    trainer.model = PollenYOLO("hieraedge-n").model
    loader = trainer.get_dataloader(trainer.data["train"], 3)
    assert vars(loader.light) == pytest.approx(vars(Light().times(1.5)))


def test_weights_to_start_from_must_be_there(scenes, tmp_path):
    with pytest.raises(UnknownModelError, match="nothing-like-it"):
        train(TrainSettings(scenes / "data.yaml", tmp_path / "out", weights="nothing-like-it"))
    assert not (tmp_path / "out").exists()


def test_a_data_set_that_was_moved_trains_to_the_end_and_nothing_in_it_is_run(scenes, tmp_path, monkeypatch):
    """As a set composed on one machine and trained on another; labels have empty lines, as editors leave them."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(scenes, tmp_path / "moved")
    data = tmp_path / "moved" / "data.yaml"
    text = data.read_text().replace(str(scenes), "/not/there")
    data.write_text(text + "download: import pathlib; pathlib.Path('ran').touch()\n")
    for labels in (tmp_path / "moved" / "labels" / "train").glob("*.txt"):
        labels.write_text("\n" + labels.read_text() + "\n\n")
    out = tmp_path / "run"
    weights = train(TrainSettings(data, out, model="yolo11n", epochs=1, batch=3, imgsz=64, device="cpu", workers=0))
    largest = read_training_set(data).largest_grain(64)
    assert palyno.load(weights, device="cpu").metadata.max_grain_px == largest < 64
    assert not (tmp_path / "ran").exists()


def test_what_is_wrong_with_labels_or_device_is_told_before_anything_is_written(scenes, tmp_path, monkeypatch):
    import torch

    shutil.copytree(scenes, tmp_path / "set")
    data, out = tmp_path / "set" / "data.yaml", tmp_path / "out"
    data.write_text(data.read_text().replace(str(scenes), str(tmp_path / "set")))
    labels = next((tmp_path / "set" / "labels" / "val").glob("*.txt"))
    labels.write_text("99 0.5 0.5 0.1 0.1\n")
    with pytest.raises(InputError, match=rf"{labels.name}:1: expected a class below"):
        train(TrainSettings(data, out, device="cpu"))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UsageError, match="device: expected one that is here, got cuda"):
        train(TrainSettings(scenes / "data.yaml", out, device="cuda:0,1", batch=4))
    assert not out.exists()


def test_there_must_be_something_to_resume(scenes, tmp_path):
    with pytest.raises(UsageError, match="unfinished run"):
        train(TrainSettings(scenes / "data.yaml", tmp_path / "none"), resume=True)


def test_a_run_that_broke_off_behind_its_last_epoch_is_finished_and_a_finished_one_is_left(run, tmp_path):
    """Names are fitted, and weights written, when training has ended: what fails there must not cost the training."""
    settings, weights = run
    with pytest.raises(UsageError, match=r"is finished: .*tiny\.safetensors"):
        train(settings, resume=True)
    begun = tmp_path / "begun"
    shutil.copytree(settings.out, begun)
    (begun / weights.name).unlink()
    again = train(dataclasses.replace(settings, out=begun), resume=True)
    before, after = load_file(weights), load_file(again)
    assert before.keys() == after.keys() and all(before[key].equal(after[key]) for key in before)
    told, known = (palyno.load(file, device="cpu").metadata for file in (again, weights))
    assert told.training["counts"] == known.training["counts"] and told.config == known.config
    assert set(told.training["validation"]) <= set(known.training["validation"]) and told.training["validation"]


def test_a_missing_data_set_and_one_without_names_are_refused(tmp_path):
    with pytest.raises(InputError, match="no such file"):
        train(TrainSettings(tmp_path / "data.yaml", tmp_path / "out"))
    (tmp_path / "data.yaml").write_text("train: a\n")
    with pytest.raises(InputError, match=r"data\.yaml: names: expected a list of classes"):
        train(TrainSettings(tmp_path / "data.yaml", tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def test_a_run_goes_on_with_the_data_set_where_it_lies_now_and_with_no_other_classes(scenes, tmp_path, monkeypatch):
    before, now = (shutil.copytree(scenes, tmp_path / name) / "data.yaml" for name in ("before", "now"))
    for data in (before, now):
        document = yaml.safe_load(data.read_text())
        data.write_text(yaml.safe_dump({**document, "path": str(data.parent)}))
    settings = TrainSettings(
        before, tmp_path / "run", model="yolo11n", epochs=2, batch=3, imgsz=64, device="cpu", workers=0
    )

    class PowerCut(Exception):
        pass

    def cut(trainer):
        saved(trainer)
        raise PowerCut

    saved = PollenTrainer.save_model
    with monkeypatch.context() as patched, pytest.raises(PowerCut):
        patched.setattr(PollenTrainer, "save_model", cut)
        train(settings)
    shutil.rmtree(before.parent)
    document = yaml.safe_load(now.read_text())
    turned = now.with_name("turned.yaml")
    names = {i: document["names"][len(document["names"]) - 1 - i] for i in document["names"]}
    turned.write_text(yaml.safe_dump({**document, "names": names}))
    with pytest.raises(UsageError, match="classes that the run was begun with, in their order"):
        train(dataclasses.replace(settings, data=turned), resume=True)
    weights = train(dataclasses.replace(settings, data=now), resume=True)
    assert load_weights(weights)[1].training["recipe"]["epochs"] == 2
    assert len((tmp_path / "run/results.csv").read_text().splitlines()) == 1 + 2
