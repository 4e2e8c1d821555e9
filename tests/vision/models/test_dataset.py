"""Training sees the pictures and boxes that `read_yolo` reads, and leaves the data set as it was."""

import os

import numpy as np
import pytest
import yaml
from palyno.data.annotations.yolo import find_root, read_yolo
from palyno.vision.models.trainer import PollenYOLO
from PIL import Image

pytestmark = pytest.mark.usefixtures("threads")


def as_trained(data, out):
    """What an epoch of training is given of each split: boxes `xyxy` in pixels and classes, by picture."""
    seen = {}

    def look(trainer):
        for split, loader in (("train", trainer.train_loader), ("val", trainer.test_loader)):
            for label in loader.dataset.labels:
                centre, half = label["bboxes"][:, :2], label["bboxes"][:, 2:] / 2
                boxes = np.hstack([centre - half, centre + half]) * 64
                seen[split, os.path.realpath(label["im_file"])] = boxes.round(2).tolist(), label["cls"].ravel().tolist()

    front = PollenYOLO("yolo11n")
    front.add_callback("on_train_start", look)
    front.train(
        data=str(data), imgsz=64, batch=4, epochs=1, device="cpu", workers=0, project=str(out), name="run", plots=False
    )
    return seen


def as_read(data):
    return {
        (split, os.path.realpath(find_root(data) / image.image)): (
            image.boxes.round(2).tolist(),
            [float(("Betula", "Alnus").index(label)) for label in image.labels],
        )
        for split in ("train", "val")
        for image in read_yolo(data, split=split)
    }


def behind_a_link(folder):
    (folder / "images/train").rename(folder / "fields")
    (folder / "images/train").symlink_to(folder / "fields")


def from_a_list(folder):
    (folder / "train.txt").write_text("".join(f"images/train/{i}.png\n" for i in range(4)))
    document = yaml.safe_load((folder / "data.yaml").read_text())
    (folder / "data.yaml").write_text(yaml.safe_dump({**document, "train": "train.txt"}))


def with_boxes_and_outlines(folder):
    with (folder / "labels/train/1.txt").open("a") as file:
        file.write("\n0 0.1 0.1 0.3 0.1 0.3 0.4 0.1 0.4\n")


def with_bytes_behind_a_picture(folder):
    Image.open(folder / "images/train/2.png").convert("RGB").save(folder / "images/train/2.jpg")
    (folder / "images/train/2.png").unlink()
    with (folder / "images/train/2.jpg").open("ab") as file:
        file.write(b"\0" * 7)


@pytest.mark.parametrize(
    "change",
    [behind_a_link, from_a_list, with_boxes_and_outlines, with_bytes_behind_a_picture],
    ids=lambda f: f.__name__,
)
def test_training_is_given_what_is_read_and_changes_no_file(change, data, tmp_path_factory):
    change(data.parent)
    files = {path: path.read_bytes() for path in data.parent.rglob("*") if path.is_file()}
    out = tmp_path_factory.mktemp("out")
    # A run that goes on reads what it was begun with from its own folder.
    assert as_trained(data, out) == as_read(data) == as_read(out / "run/data.yaml")
    assert {path: path.read_bytes() for path in data.parent.rglob("*") if path.is_file()} == files


class Canary:
    def __init__(self, file):
        self.file = file

    def __reduce__(self):
        return os.mkdir, (str(self.file),)


def test_a_pickle_that_lies_beside_the_labels_is_not_opened(data, tmp_path_factory):
    canary = data.parent / "canary"
    with (data.parent / "labels/train.cache").open("wb") as file:
        np.save(file, np.array(Canary(canary), dtype=object), allow_pickle=True)
    as_trained(data, tmp_path_factory.mktemp("out"))
    assert not canary.exists()
