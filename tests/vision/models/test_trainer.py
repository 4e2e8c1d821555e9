"""Training through ultralytics: starts, resumes, and leaves the edge kernel alone."""

import numpy as np
import pytest
import torch
from palyno import UsageError
from palyno.vision.models.detection import build
from palyno.vision.models.distill import Teaching
from palyno.vision.models.loss import NamingLoss
from palyno.vision.models.trainer import PollenTrainer, PollenYOLO
from palyno.vision.recipe import TrainSettings
from palyno.vision.train import _arguments

pytestmark = pytest.mark.usefixtures("threads")


def arguments(data, **more):
    return {
        "data": str(data),
        "imgsz": 64,
        "batch": 4,
        "epochs": 2,
        "device": "cpu",
        "workers": 0,
        "project": str(data.parent / "runs"),
        "name": "run",
        "plots": False,
        "amp": False,
        "verbose": False,
        **more,
    }


class PowerCut(Exception):
    pass


def test_training_is_interrupted_resumed_and_its_checkpoint_predicts(data):
    front = PollenYOLO("hieraedge-n", gate="published")
    untrained = {name: p.clone() for name, p in front.model.named_parameters()}

    def cut(trainer):
        if trainer.epoch == 0:
            raise PowerCut

    front.add_callback("on_model_save", cut)
    with pytest.raises(PowerCut):
        front.train(**arguments(data))
    run = data.parent / "runs/run"

    resumed = PollenYOLO(run / "weights/last.pt")
    resumed.train(resume=True)
    assert resumed.trainer.start_epoch == 1
    assert len((run / "results.csv").read_text().splitlines()) == 1 + 2

    best = PollenYOLO(run / "weights/best.pt")
    assert best.model.names == {0: "Betula", 1: "Alnus"}
    assert best.model.yaml["names"] == ["Betula", "Alnus"]
    assert best.model.yaml["options"]["gate"] == "published"
    trained = dict(best.model.named_parameters())
    assert trained.keys() == untrained.keys()
    assert any(trained[n].shape == p.shape and not torch.equal(trained[n], p) for n, p in untrained.items())
    (result,) = best.predict(np.zeros((90, 120, 3), np.uint8), imgsz=64, conf=0.0, max_det=7, verbose=False)
    assert len(result.boxes) <= 7
    (embedding,) = best.embed(np.zeros((90, 120, 3), np.uint8), imgsz=64, verbose=False)
    assert embedding.shape == (64 + 128 + 256,)


def test_a_table_whose_outputs_are_in_another_order_is_not_trained():
    config = build("hieraedge-n", classes=2).yaml
    with pytest.raises(UsageError, match=r"outputs: expected rows of strides 8, 16, 32 in order, got 32 \(n5\)"):
        PollenYOLO({**config, "outputs": ["n5", "n4", "n3"]}, classes=2)


def test_neither_optimiser_nor_averaging_can_touch_the_edge_kernel(data):
    """The trainer switches frozen parameters back on, decays weights, averages and stores in half precision."""
    seen = {}

    def look(trainer):
        edge = trainer.model.model[0].blocks["edge"]
        seen["trained"] = {id(p) for group in trainer.optimizer.param_groups for p in group["params"]}
        seen["edge"] = {id(p) for p in edge.parameters()}
        seen["kernels"] = [m.model[0].blocks["edge"].sobel.kernel for m in (trainer.model, trainer.ema.ema)]

    trainer = PollenTrainer(overrides=arguments(data, model="hieraedge-n.yaml", epochs=1, weight_decay=0.5, freeze=[0]))
    trainer.add_callback("on_train_epoch_end", look)
    trainer.train()
    assert seen["edge"]
    kernels = [*seen["kernels"], PollenYOLO(trainer.last).model.model[0].blocks["edge"].sobel.kernel]
    sobel = torch.tensor([[-1.0, 0, 1], [-2, 0, 2], [-1, 0, 1]]) / 8
    for kernel in kernels:
        assert torch.equal(kernel, torch.stack((sobel, sobel.T))[:, None])
        assert not kernel.requires_grad
        assert id(kernel) not in seen["trained"]


def test_the_same_seed_gives_the_same_network(data):
    def first_weights(name):
        front = PollenYOLO("hieraedge-n", edge="reference")
        weights = {}

        def keep(trainer):
            weights.update({n: p.clone() for n, p in trainer.model.state_dict().items()})
            raise PowerCut

        front.add_callback("on_train_start", keep)
        with pytest.raises(PowerCut):
            front.train(**arguments(data, name=name, seed=3))
        return weights

    a, b = first_weights("a"), first_weights("b")
    assert all(torch.equal(a[n], b[n]) for n in a)


def test_boxes_frame_what_they_framed_where_the_side_of_a_batch_varies(data):
    """A dark rectangle, found in the pixels of each side."""
    trainer = PollenTrainer(overrides=arguments(data, model="hieraedge-n.yaml", imgsz=128, multi_scale=0.5))
    trainer.stride = 32
    sides = set()
    for _ in range(60):
        images = torch.full((2, 3, 128, 128), 255, dtype=torch.uint8)
        images[:, :, 20:60, 30:110] = 0
        boxes = torch.tensor([[70.0, 40, 80, 40]] * 2) / 128
        batch = trainer.preprocess_batch({"img": images, "bboxes": boxes, "batch_idx": torch.arange(2.0)})
        side = batch["img"].shape[-1]
        assert batch["img"].shape == (2, 3, side, side)
        dark = batch["img"][0, 0] < 0.5
        rows, columns = (dark.any(axis).nonzero().flatten() for axis in (1, 0))
        found = torch.stack([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1])
        x, y, width, height = (batch["bboxes"][0] * side).tolist()
        box = torch.tensor([x - width / 2, y - height / 2, x + width / 2, y + height / 2])
        assert (box - found).abs().max() <= 1
        sides.add(side)
    assert sides == {64, 96, 128, 160, 192}


@pytest.mark.parametrize(("cache", "taught"), [("none", False), ("host", True), ("gpu", False)])
def test_the_side_of_a_batch_varies_whoever_feeds_and_teaches(cache, taught, data, monkeypatch):
    """In the loop itself, by what the loss takes for grains: the boxes in pixels of the side that the teacher sees."""
    sides, boxes_seen = [], 0
    assign = NamingLoss.get_assigned_targets_and_loss

    def watched(loss, preds, batch, **more):
        nonlocal boxes_seen
        found = assign(loss, preds, batch, **more)
        if torch.is_grad_enabled():  # Not in validation, which is at `imgsz`.
            side = batch["img"].shape[-1]
            answers, grain, targets = found[0][:3]
            x, y, width, height = (batch["bboxes"] * side).T
            corners = torch.stack([x - width / 2, y - height / 2, x + width / 2, y + height / 2], 1)
            torch.testing.assert_close(targets[answers], corners[grain[answers]])
            boxes_seen += int(answers.sum())
            assert (batch["lesson"].boxes.shape[-1] == answers.shape[-1]) if taught else ("lesson" not in batch)
            sides.append(side)
        return found

    monkeypatch.setattr(NamingLoss, "get_assigned_targets_and_loss", watched)
    settings = TrainSettings(
        data, data.parent / "run", imgsz=128, batch=1, epochs=3, device="cpu", workers=0, cache=cache, multi_scale=0.5
    )
    front = PollenYOLO("hieraedge-n", classes=["Betula", "Alnus"])
    if taught:
        teacher = build("hieraedge-n", classes=["Alnus", "Betula"]).eval()
        front.add_callback("on_train_start", Teaching(teacher, 1.0, 2.0, 1.0))
    front.train(**_arguments(settings))
    assert len(sides) == 3 * 4 and boxes_seen
    assert len(set(sides)) > 2 and set(sides) <= {64, 96, 128, 160, 192}
