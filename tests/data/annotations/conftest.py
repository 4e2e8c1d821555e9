from __future__ import annotations

import numpy as np
import pytest
from palyno.data.annotations import LabelledImage
from palyno.vision.results import Provenance, SlideResult


def make_labelled(n=40, name="site A/slide 1.tif", width=2560, height=1920, seed=3, confidence=False):
    """Grains of 8 to 120 px anywhere on the slide, among them ones at the border and accented names."""
    rng = np.random.default_rng(seed)
    corner = rng.uniform(0, (width - 120, height - 120), (n, 2))
    boxes = np.concatenate([corner, corner + rng.uniform(8, 120, (n, 2))], axis=1)
    border = np.array([[0, 0, 17.25, 9.5], [width - 30.75, height - 20, width, height]])
    boxes[:2] = border[: min(n, 2)]
    names = ("Zea mays", "Isoëtes", "Poaceae >40 µm", "unknown")
    labels = tuple(names[i] for i in rng.integers(0, len(names), n))
    ids = tuple(f"{i + 1:04d}" for i in range(n))
    shares = rng.uniform(0.05, 1, n).astype(np.float32) if confidence else None
    return LabelledImage(name, width, height, boxes, labels, shares, ids)


@pytest.fixture
def truth():
    """Two slides drawn by a person, the second without grains."""
    return [make_labelled(), make_labelled(0, "slide 2.tif", 640, 480)]


@pytest.fixture
def detections():
    """Two slides as a detector reports them."""
    return [make_labelled(confidence=True), make_labelled(7, "slide 2.tif", 641, 479, seed=5, confidence=True)]


@pytest.fixture
def results():
    """Three slides' results: with sizes, with hostile names, and without grains."""
    made = Provenance("hieraedge-n", "ab" * 32, "0.1.0", {"conf": 0.25, "imgsz": 640})
    first = make_labelled(confidence=True)
    second = make_labelled(3, "=SUM(A1).png", 641, 479, confidence=True)
    return [
        SlideResult(
            "site A/slide 1.tif",
            2560,
            1920,
            first.boxes,
            first.confidence,
            first.labels,
            made,
            um_per_px=0.25,
            candidates=((("Zea mays", 0.414), ("Poaceae", 0.22)), *((),) * 39),
            grain_flags=(("edge", "saturated"), *((),) * 39),
        ),
        SlideResult("=SUM(A1).png", 641, 479, second.boxes, second.confidence, ("@x", "-1", "'=y"), made),
        SlideResult("empty.tif", 64, 48, np.zeros((0, 4)), [], (), made, um_per_px=0.5),
    ]


@pytest.fixture
def same():
    """Asserts that two lists of images hold the same grains: names equal, boxes within half a pixel or less."""

    def check(found, expected, px=0.5, ids=True, confidence=True):
        assert [(i.image, i.width, i.height) for i in found] == [(i.image, i.width, i.height) for i in expected]
        for a, b in zip(found, expected, strict=True):
            assert a.labels == b.labels
            np.testing.assert_allclose(a.boxes, b.boxes, rtol=0, atol=px)
            if ids and len(b):
                assert a.ids == b.ids
            if confidence and b.confidence is not None and len(b):
                np.testing.assert_allclose(a.confidence, b.confidence, rtol=0, atol=1e-4)
            if b.confidence is None:
                assert a.confidence is None

    return check
