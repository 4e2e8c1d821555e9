"""The model that ships, as it runs by default: more grains than the usual cap, and counts that tiles do not change."""

from __future__ import annotations

import json

import numpy as np
import pytest
from palyno.data.annotations.coco import read_coco
from palyno.vision.metrics import count_quality
from PIL import Image


@pytest.fixture(scope="module")
def truth(samples):
    return {image.image: image for image in read_coco(samples / "truth.json")}


def test_a_composed_scene_is_counted_and_named(prepared_detector, samples, truth):
    result = prepared_detector.detect(samples / "composed.jpg")
    quality = count_quality([truth["composed.jpg"]], [result.to_annotations()])
    assert quality.precision >= 0.95
    assert quality.recall >= 0.9
    right = set(result.taxa) & set(truth["composed.jpg"].labels)
    assert len(right) >= 12


def test_more_grains_than_ultralytics_returns_are_counted_the_same_with_every_tile(prepared_detector, samples):
    """Its validator and predictor stop at 300 boxes an image."""
    with Image.open(samples / "rice_dense.jpg") as picture:
        half = np.asarray(picture)[:960]
    counts = {tile: len(prepared_detector.detect(half, tile=tile)) for tile in (640, 1280)}
    assert counts[640] == counts[1280] > 300


@pytest.mark.slow
@pytest.mark.parametrize("name", ["rice_dense.jpg", "rice_sparse.jpg"])
def test_counts_do_not_depend_on_tiles_and_batches(prepared_detector, samples, truth, name):
    found = {tile: prepared_detector.detect(samples / name, tile=tile) for tile in (640, 960, 1280)}
    count = len(found[640])
    assert count_quality([truth[name]], [found[640].to_annotations()]).recall > 0.98
    for result in found.values():
        assert len(result) == count
        assert result.taxa == found[640].taxa
    for batch in (1, 7):
        again = prepared_detector.detect(samples / name, batch=batch)
        assert len(again) == count
        assert abs(again.boxes - found[640].boxes).max() < 0.5


@pytest.mark.slow
def test_a_dense_field_is_not_capped(prepared_detector, samples):
    assert len(prepared_detector.detect(samples / "rice_dense.jpg")) > 700


def test_the_lock_names_the_file_that_ships(shipped_model):
    import hashlib

    from palyno.vision.weights import LOCK

    entry = json.loads(LOCK.read_text())["models"]["hieraedge-n"]
    data = (LOCK.parent / entry["file"]).read_bytes()
    assert (hashlib.sha256(data).hexdigest(), len(data)) == (entry["sha256"], entry["bytes"])
    assert len(data) < 16 * 2**20
    assert (LOCK.parent / "hieraedge-n.md").is_file()
