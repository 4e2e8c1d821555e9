from __future__ import annotations

import pytest
import torch


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
