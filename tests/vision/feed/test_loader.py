"""The loader: every image once an epoch, the same again from the same seed, and a trainer that takes it."""

from pathlib import Path
from threading import current_thread
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch
from palyno.errors import InputError
from palyno.vision.feed.geometry import Spread
from palyno.vision.feed.light import Light
from palyno.vision.feed.loader import DeviceLoader
from palyno.vision.feed.store import PAD, ImageStore


@pytest.fixture
def labels(tmp_path: Path):
    rng = np.random.default_rng(0)
    listed = []
    for i in range(7):
        picture = np.full((48, 96, 3), 20 * i, np.uint8)
        picture[10:20, 30:60] = (0, 0, 255)
        path = tmp_path / f"bild_{i}_ü.png"
        path.write_bytes(cv2.imencode(".png", picture)[1].tobytes())
        n = int(rng.integers(0, 3))
        boxes = np.tile(np.array([[45 / 96, 15 / 48, 30 / 96, 10 / 48]], np.float32), (n, 1))
        listed.append({"im_file": str(path), "cls": np.arange(n, dtype=np.float32)[:, None], "bboxes": boxes})
    return listed


def loader(labels, **changes):
    settings = {"size": 64, "batch": 3, "device": "cpu", "spread": Spread(), "light": Light(), "seed": 4} | changes
    return DeviceLoader(SimpleNamespace(labels=labels), **settings)


def test_images_are_read_to_size_and_boxes_with_them(labels):
    store = ImageStore.read(labels, 64, "cpu")
    assert store.pixels.shape == (7, 3, 64, 64)
    assert (store.pixels[:, :, 32:] == PAD).all()
    assert store.pixels[3, :, 2, 2].tolist() == [60, 60, 60]
    for i, label in enumerate(labels):
        n = len(label["cls"])
        assert store.classes[i].tolist() == [*range(n), *[-1] * (store.classes.shape[1] - n)]
        for box in store.boxes[i, :n]:
            torch.testing.assert_close(box, torch.tensor([20.0, 20 / 3, 40.0, 40 / 3]))
            x1, y1, x2, y2 = (round(v) for v in box.tolist())
            assert store.pixels[i, 0, y1 + 1 : y2 - 1, x1 + 1 : x2 - 1].min() > 200


def test_an_image_that_cannot_be_read_is_named(labels, tmp_path):
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(b"no picture")
    with pytest.raises(InputError, match=r"broken\.jpg"):
        ImageStore.read([{**labels[0], "im_file": str(broken)}], 64, "cpu")
    with pytest.raises(InputError, match="none"):
        ImageStore.read([], 64, "cpu")


def test_every_image_once_an_epoch(labels):
    source = loader(labels)
    seen = [name for batch in source for name in batch["im_file"]]
    assert len(source) == 2
    assert len(seen) == len(set(seen)) == 6
    assert [name for batch in source for name in batch["im_file"]] != seen


@pytest.mark.parametrize("mosaic", [0.0, 0.5, 1.0])
def test_a_batch_is_what_ultralytics_takes(labels, mosaic):
    for batch in loader(labels, spread=Spread(mosaic=mosaic)):
        assert batch["img"].shape == (3, 3, 64, 64)
        assert batch["img"].dtype == torch.uint8
        assert len(batch["bboxes"]) == len(batch["cls"]) == len(batch["batch_idx"])
        assert batch["cls"].shape[1:] == (1,)
        # Its losses count on boxes in the order of their images.
        assert batch["batch_idx"].tolist() == sorted(batch["batch_idx"].tolist())
        if len(batch["bboxes"]):
            corners = torch.cat(
                [
                    batch["bboxes"][:, :2] - batch["bboxes"][:, 2:] / 2,
                    batch["bboxes"][:, :2] + batch["bboxes"][:, 2:] / 2,
                ]
            )
            assert corners.min() >= -1e-6
            assert corners.max() <= 1 + 1e-6


def test_a_run_that_goes_on_reads_what_an_unbroken_one_reads(labels):
    light = Light(noise=0)
    unbroken, resumed = loader(labels, light=light), loader(labels, light=light)
    list(unbroken)
    resumed.set_epoch(1)
    for one, other in zip(unbroken, resumed, strict=True):
        assert torch.equal(one["img"], other["img"])
        assert torch.equal(one["bboxes"], other["bboxes"])


@pytest.mark.parametrize("batch", [1, 2])
def test_processes_share_the_images_out_and_take_as_many_steps(labels, batch):
    """With seven images one has four of them; a step that the other does not take, it would wait for without end."""
    parts = [loader(labels, rank=rank, world=2, batch=batch) for rank in range(2)]
    shown = []
    for _ in range(8):
        epoch = [[name for each in part for name in each["im_file"]] for part in parts]
        assert [len(names) for names in epoch] == [batch * (3 // batch)] * 2
        assert len({*epoch[0], *epoch[1]}) == sum(map(len, epoch))
        shown += epoch[0] + epoch[1]
    assert set(shown) == {label["im_file"] for label in labels}


def test_closing_ends_mosaics(labels):
    source = loader(labels, spread=Spread(mosaic=1.0))
    source.reset()
    assert source.spread.mosaic == 0


@pytest.mark.parametrize("batch", [1, 3, 7])
def test_batches_gathered_ahead_are_the_same(labels, monkeypatch, batch):
    """As where images lie in main memory and are sent to a GPU; here both are the CPU."""
    light = Light(noise=0)
    expected = list(loader(labels, light=light, batch=batch))
    gathered = []
    gather = ImageStore.gather
    monkeypatch.setattr(ImageStore, "apart", True)
    monkeypatch.setattr(ImageStore, "gather", lambda *a: (gathered.append(current_thread()), gather(*a))[1])
    source = loader(labels, light=light, batch=batch)
    for one, other in zip(source, expected, strict=True):
        assert torch.equal(one["img"], other["img"])
        assert torch.equal(one["bboxes"], other["bboxes"])
        assert one["im_file"] == other["im_file"]
    assert current_thread() not in gathered
    # Whoever stops in the middle of an epoch is not held up, and the next one begins anew.
    next(iter(source))
    assert len(list(source)) == len(expected)


def test_what_goes_wrong_ahead_is_told(labels, monkeypatch):
    monkeypatch.setattr(ImageStore, "apart", True)
    source = loader(labels)
    monkeypatch.setattr(ImageStore, "gather", lambda *_: torch.empty(0)[1])
    with pytest.raises(IndexError):
        list(source)


@pytest.mark.gpu
def test_images_kept_in_main_memory_give_the_same_batches(labels):
    batches = []
    for host in (True, False):
        torch.manual_seed(0)  # The grain of the noise is the device's.
        source = loader(labels, device="cuda", host=host)
        assert source.store.pixels.device.type == ("cpu" if host else "cuda")
        batches.append(list(source))
    for a, b in zip(*batches, strict=True):
        assert a["img"].device.type == "cuda"
        assert torch.equal(a["img"], b["img"])
        assert torch.equal(a["bboxes"], b["bboxes"])
