from __future__ import annotations

import pytest
import torch
import yaml
from PIL import Image, ImageDraw


@pytest.fixture
def batch():
    """A trainer's batch: an image with two grains, one with none, one with three; five classes, a grain of each."""
    boxes = [
        [0.3, 0.3, 0.2, 0.2],
        [0.7, 0.7, 0.3, 0.3],
        [0.5, 0.5, 0.4, 0.4],
        [0.2, 0.8, 0.2, 0.3],
        [0.8, 0.2, 0.3, 0.2],
    ]
    return {
        "img": torch.rand(3, 3, 96, 96, generator=torch.Generator().manual_seed(5)),
        "batch_idx": torch.tensor([0.0, 0, 2, 2, 2]),
        "cls": torch.tensor([[3.0], [1], [0], [4], [2]]),
        "bboxes": torch.tensor(boxes),
    }


@pytest.fixture
def data(tmp_path):
    """Four pictures of one disk each, of two classes."""
    for split in ("train", "val"):
        for folder in ("images", "labels"):
            (tmp_path / folder / split).mkdir(parents=True)
        for i in range(4):
            picture = Image.new("RGB", (64, 64), "white")
            ImageDraw.Draw(picture).ellipse((10 + i, 12, 40 + i, 42), fill=("brown", "olive")[i % 2])
            picture.save(tmp_path / f"images/{split}/{i}.png")
            box = (25 + i) / 64, 27 / 64, 30 / 64, 30 / 64
            (tmp_path / f"labels/{split}/{i}.txt").write_text(f"{i % 2} " + " ".join(f"{v:.4f}" for v in box))
    names = {0: "Betula", 1: "Alnus"}
    path = tmp_path / "data.yaml"
    path.write_text(
        yaml.safe_dump({"path": str(tmp_path), "train": "images/train", "val": "images/val", "names": names})
    )
    return path


@pytest.fixture
def threads():
    """ultralytics sets torch's number of threads when it picks the CPU."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)
