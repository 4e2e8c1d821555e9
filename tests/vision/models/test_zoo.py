"""`zoo.json`: the sizes that are shown without building anything are those that building gives."""

import json

import palyno.vision.backbones  # noqa: F401
import pytest
import timm
import torch
from palyno.vision.blocks.biformer import VARIANTS, BiFormerPyramid
from palyno.vision.models.tables import model_names
from palyno.vision.models.zoo import (
    ZOO,
    measure,
    measure_backbone,
    measure_weights,
    read_backbones,
    read_weights,
    read_zoo,
)
from palyno.vision.weights import shipped_models
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

# G multiply-adds on 224 px (Zhu et al. 2023), of which the classifier's are less than a thousandth.
PUBLISHED = [
    ("biformer_tiny", 2.2),
    pytest.param("biformer_small", 4.5, marks=pytest.mark.slow),
    pytest.param("biformer_base", 9.8, marks=pytest.mark.slow),
]

pytestmark = pytest.mark.usefixtures("one_thread")


def test_every_model_is_in_it_and_nothing_else():
    assert sorted(read_zoo()) == model_names()
    assert sorted(read_backbones()) == sorted(VARIANTS)
    document = json.loads(ZOO.read_text())
    assert (document["classes"], document["side"]) == (80, 640)


@pytest.mark.parametrize(
    "name", ["hieraedge-n", "hieraedge-n-one2one", "hieraedge-rtdetr", "yolo11n", "backbone-yolo-n"]
)
def test_it_says_what_is_measured(name):
    assert read_zoo()[name] == measure(name)


@pytest.mark.slow
@pytest.mark.parametrize("name", model_names())
def test_it_says_what_is_measured_of_every_model(name):
    assert read_zoo()[name] == measure(name)


@pytest.mark.parametrize(
    "name", ["biformer_nano", *(pytest.param(n, marks=pytest.mark.slow) for n in VARIANTS if n != "biformer_nano")]
)
def test_it_says_what_is_measured_of_backbones_that_timm_knows_too(name):
    assert read_backbones()[name] == measure_backbone(name)
    with torch.device("meta"):
        features = timm.create_model(name, features_only=True)
    assert features.feature_info.channels() == read_backbones()[name]["channels"]
    assert features.feature_info.reduction() == read_backbones()[name]["strides"]
    assert sum(p.numel() for p in features.parameters()) == read_backbones()[name]["parameters"]


def test_it_says_what_is_measured_of_weights_that_ship(shipped_model):
    detectors = {entry.sha256: name for name, entry in shipped_models().items() if entry.kind == "detector"}
    assert set(read_weights()) == set(detectors)
    assert read_weights()[shipped_models()[shipped_model].sha256] == measure_weights(shipped_model)


@pytest.mark.parametrize(("name", "work"), PUBLISHED)
def test_the_published_work_of_biformer(name, work):
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        BiFormerPyramid(**VARIANTS[name]).eval()(torch.zeros(1, 3, 224, 224))
    assert counter.get_total_flops() / 2e9 == pytest.approx(work, abs=0.05)


def test_the_published_size_of_a_stock_model():
    """YOLO11n: 2.6 M parameters and 6.5 GFLOPs, as its makers print them; their counter leaves attention out."""
    stock = read_zoo()["yolo11n"]
    assert stock["parameters"] == 2_624_080
    assert stock["gflops"] == pytest.approx(6.5, abs=0.15)


def test_the_counter_counts_multiplications_and_additions():
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        nn.Conv2d(3, 8, 3, padding=1, groups=1)(torch.zeros(1, 3, 10, 10))
    assert counter.get_total_flops() == 2 * 100 * 8 * 3 * 9
