"""ultralytics' own detectors under our contract: the same networks, trained, kept and asked as ours are."""

import json
import logging

import numpy as np
import palyno
import pytest
import torch
import yaml
from palyno import RejectedModelError, UsageError
from palyno.vision.models.detection import build, model_names
from palyno.vision.models.peers import Peer
from palyno.vision.models.tables import PEERS
from palyno.vision.train import TrainSettings, train
from palyno.vision.weights import load_weights, save_weights
from PIL import Image, ImageDraw

pytestmark = pytest.mark.usefixtures("one_thread")

NANO = ["yolov8n", "yolo11n", "yolo12n", "yolo26n"]
CLASSES = ["Betula", "Alnus"]


def theirs(name, classes):
    """The same table built by ultralytics itself."""
    from ultralytics.nn.tasks import DetectionModel, RTDETRDetectionModel

    kind = RTDETRDetectionModel if name.startswith("rtdetr") else DetectionModel
    return kind(f"{name}.yaml", nc=classes, verbose=False)


def picture(size=96):
    """Two disks of two colours, and their boxes."""
    image = Image.new("RGB", (size, size), "white")
    draw = ImageDraw.Draw(image)
    boxes = [(6, 10, 44, 48), (52, 40, 90, 78)]
    for box, colour in zip(boxes, ("brown", "olive"), strict=True):
        draw.ellipse(box, fill=colour)
    return np.array(image), np.array(boxes, np.float32)


def batch(size=96):
    image, boxes = picture(size)
    centres, sides = (boxes[:, :2] + boxes[:, 2:]) / 2 / size, (boxes[:, 2:] - boxes[:, :2]) / size
    return {
        "img": torch.from_numpy(image).permute(2, 0, 1)[None].float() / 255,
        "batch_idx": torch.zeros(2),
        "cls": torch.tensor([[0.0], [1.0]]),
        "bboxes": torch.from_numpy(np.hstack([centres, sides])),
    }


@pytest.mark.parametrize("name", [*NANO, "rtdetr-l"])
def test_it_is_ultralytics_own_network(name):
    torch.manual_seed(0)
    mine, own = build(name, classes=5).eval(), theirs(name, 5).eval()
    own.load_state_dict(mine.state_dict())
    x = torch.rand(2, 3, 64, 96)
    with torch.no_grad():
        y = mine(x)[0]
        assert torch.allclose(mine.fuse()(x)[0], y, atol=1e-3)
        own.end2end = False
        expected = own(x)[0]
    if name.startswith("rtdetr"):
        # Theirs lists pairs of a query and a class, surest first, boxes as shares of the image.
        boxes, scores = y[:, :4].transpose(1, 2) / torch.tensor([96, 64, 96, 64]), y[:, 4:].transpose(1, 2)
        surest, index = scores.flatten(1).topk(expected.shape[1])
        assert torch.equal(expected[..., 4], surest)
        assert torch.allclose(expected[0, :, :4], boxes[0, index[0] // 5], atol=1e-6)
    else:
        assert torch.equal(y, expected)


def test_fusing_tells_nothing_unless_asked(caplog):
    """As of our own networks: what is fused to be exported is none of the user's business."""
    with caplog.at_level(logging.INFO, "ultralytics"):
        logging.getLogger("ultralytics").addHandler(caplog.handler)
        try:
            for asked in (False, True):
                build("yolo11n", classes=2).fuse(**({"verbose": True} if asked else {}))
                assert ("summary (fused)" in caplog.text) == asked
        finally:
            logging.getLogger("ultralytics").removeHandler(caplog.handler)


@pytest.mark.parametrize("name", ["yolo12n", "yolo26n"])
def test_the_loss_is_ultralytics_own(name):
    from ultralytics.utils import DEFAULT_CFG

    torch.manual_seed(0)
    mine, own = build(name, classes=2).train(), theirs(name, 2).train()
    own.load_state_dict(mine.state_dict())
    own.args = DEFAULT_CFG
    (a, items), (b, expected) = mine(batch()), own(batch())
    assert torch.equal(a, b)
    assert items == expected


def test_the_configuration_is_plain_and_builds_the_same_network_again():
    model = build("yolo12n", classes=CLASSES, channels=1)
    again = build(json.loads(json.dumps(model.yaml)))
    assert again.yaml == model.yaml
    assert again.names == {0: "Betula", 1: "Alnus"}
    assert {k: v.shape for k, v in again.state_dict().items()} == {k: v.shape for k, v in model.state_dict().items()}
    assert build(model.yaml, classes=3).names == {0: "0", 1: "1", 2: "2"}


def test_every_name_is_a_table_that_ultralytics_has():
    from ultralytics.utils import ROOT

    assert set(PEERS) <= set(model_names())
    for file, scale in PEERS.values():
        assert scale in yaml.safe_load((ROOT / "cfg" / "models" / file).read_text())["scales"]


def test_a_file_in_the_working_folder_is_not_taken_for_ultralytics_table(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("yolo12.yaml", "yolo12n.yaml"):
        (tmp_path / name).write_text("nc: 1\nactivation: breakpoint()\nbackbone: []\nhead: []\n")
    assert len(build("yolo12n", classes=2).model) == 22


def test_what_cannot_be_built_is_refused():
    with pytest.raises(UsageError, match="unknown option 'edge'; this model has none"):
        build("yolo12n", classes=2, edge="none")
    with pytest.raises(UsageError, match=r"ultralytics: expected one of .*yolo12n.*; got '../yolo12n'"):
        build({"ultralytics": "../yolo12n"}, classes=2)
    with pytest.raises(UsageError, match="configuration: unknown backbone"):
        build({"ultralytics": "yolo12n", "backbone": []}, classes=2)


def fitted(name, steps):
    """A network that has learnt the picture by heart."""
    torch.manual_seed(0)
    model = build(name, classes=CLASSES).train()
    optimiser = torch.optim.AdamW(model.parameters(), 3e-3)
    for _ in range(steps):
        loss, _ = model(batch())
        optimiser.zero_grad()
        loss.sum().backward()
        optimiser.step()
    # The statistics of this picture: a few steps have not averaged them yet.
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = 1.0
    with torch.no_grad():
        model(batch()["img"])
    return model.eval()


def test_saved_and_loaded_it_detects_what_ultralytics_predictor_does(tmp_path):
    from ultralytics import YOLO

    model = fitted("yolo12n", 40)
    about = {"imgsz": 96, "naming_threshold": 0.5, "max_grain_px": 40, "training": {}}
    path = save_weights(tmp_path / "peer.safetensors", model, name="peer", classes=CLASSES, config=model.yaml, **about)
    image, truth = picture()
    found = palyno.load(path, device="cpu").detect(image, conf=0.3, iou=0.7)

    front = YOLO("yolo12n.yaml")
    front.model = theirs("yolo12n", 2)
    front.model.load_state_dict(load_weights(path)[0].state_dict())
    (expected,) = front.predict(
        image[..., ::-1], imgsz=96, conf=0.3, iou=0.7, agnostic_nms=True, device="cpu", verbose=False
    )
    torch.set_num_threads(1)
    order, there = np.argsort(found.boxes[:, 0]), np.argsort(expected.boxes.xyxy[:, 0].numpy())
    assert len(found) == len(expected.boxes) == 2
    assert np.abs(found.boxes[order] - truth).max() < 8
    assert np.abs(found.boxes[order] - expected.boxes.xyxy.numpy()[there]).max() < 0.02
    best = [found.candidates[i][0] for i in order]
    assert [name for name, _ in best] == [CLASSES[int(c)] for c in expected.boxes.cls[there]] == CLASSES
    assert [p for _, p in best] == pytest.approx(expected.boxes.conf[there].tolist(), abs=1e-3)


def test_a_file_that_names_another_table_is_refused(tmp_path):
    model = build("yolo12n", classes=CLASSES)
    about = {"imgsz": 64, "naming_threshold": 0.5, "max_grain_px": 50, "training": {}}
    path = save_weights(
        tmp_path / "peer.safetensors",
        model,
        name="peer",
        classes=CLASSES,
        config=model.yaml | {"ultralytics": "yolo11n"},
        **about,
    )
    with pytest.raises(RejectedModelError, match=r"expected the \d+ tensors of its configuration"):
        load_weights(path)


@pytest.mark.parametrize("name", ["yolo12n", pytest.param("rtdetr-l", marks=pytest.mark.slow)])
def test_it_is_trained_as_ours_are(name, tmp_path):
    for split in ("train", "val"):
        for folder in ("images", "labels"):
            (tmp_path / folder / split).mkdir(parents=True)
        for i in range(2):
            image, boxes = picture()
            Image.fromarray(image).save(tmp_path / f"images/{split}/{i}.png")
            lines = [
                f"{c} {(x1 + x2) / 192} {(y1 + y2) / 192} {(x2 - x1) / 96} {(y2 - y1) / 96}"
                for c, (x1, y1, x2, y2) in enumerate(boxes)
            ]
            (tmp_path / f"labels/{split}/{i}.txt").write_text("\n".join(lines))
    data = tmp_path / "data.yaml"
    names = dict(enumerate(CLASSES))
    data.write_text(
        yaml.safe_dump({"path": str(tmp_path), "train": "images/train", "val": "images/val", "names": names})
    )
    settings = TrainSettings(data, tmp_path / "run", model=name, epochs=1, batch=2, imgsz=96, device="cpu", workers=0)
    path = train(settings)
    torch.set_num_threads(1)
    model, about = load_weights(path)
    assert isinstance(model, Peer)
    assert about.classes == tuple(CLASSES)
    assert about.config["ultralytics"] == name
    assert about.training["recipe"]["model"] == name
    assert palyno.load(path, device="cpu").detect(picture()[0]).provenance.model == name
