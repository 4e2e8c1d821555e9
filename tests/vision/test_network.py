"""Suppression inside a tile against torchvision's, and where torchvision is: nowhere, as importing it takes seconds."""

import subprocess
import sys

import numpy as np
import pytest
import torch
from palyno.vision.network import suppress
from torchvision.ops import nms


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("iou", [0.3, 0.5, 0.7])
def test_suppression_keeps_what_torchvision_keeps(seed, iou):
    rng = np.random.default_rng(seed)
    corner = rng.uniform(0, 200, (400, 2))
    boxes = np.hstack([corner, corner + rng.uniform(20, 60, (400, 2))]).astype(np.float32)
    expected = nms(torch.from_numpy(boxes), torch.linspace(1, 0, 400), iou).numpy()
    assert 20 < len(expected) < 400
    np.testing.assert_array_equal(suppress(boxes, iou), expected)


def test_suppression_by_hand():
    # The second shares 8 of 12 with the first, 0.667; the third shares nothing.
    boxes = np.array([[0, 0, 10, 1], [2, 0, 12, 1], [20, 0, 30, 1]])
    assert suppress(boxes, 0.66).tolist() == [0, 2]
    assert suppress(boxes, 0.67).tolist() == [0, 1, 2]
    assert suppress(boxes[:0], 0.5).tolist() == []


def test_detection_imports_no_torchvision():
    code = """
import sys, numpy, torch
from palyno.vision.detector import Detector
from palyno.vision.network import Network
from palyno.vision.weights import Metadata, _builder
model = _builder()("hieraedge-n", classes=["a"]).fuse()
detector = Detector(Network(model, torch.device("cpu")), Metadata(name="a", classes=("a",), config={}))
detector.detect(numpy.zeros((40, 40, 3), numpy.uint8), conf=0)
sys.exit("torchvision" in sys.modules or "torch._dynamo" in sys.modules)"""
    subprocess.run([sys.executable, "-c", code], check=True)
