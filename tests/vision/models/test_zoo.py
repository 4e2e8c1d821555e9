"""`zoo.json`: the sizes that are shown without building anything are those that building gives."""

import json

import pytest
import torch
from palyno.vision.models.tables import model_names
from palyno.vision.models.zoo import ZOO, measure, read_zoo
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

pytestmark = pytest.mark.usefixtures("one_thread")


def test_every_model_is_in_it_and_nothing_else():
    assert sorted(read_zoo()) == model_names()
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


def test_the_published_size_of_a_stock_model():
    """YOLO11n: 2.6 M parameters and 6.5 GFLOPs, as its makers print them; their counter leaves attention out."""
    stock = read_zoo()["yolo11n"]
    assert stock["parameters"] == 2_624_080
    assert stock["gflops"] == pytest.approx(6.5, abs=0.15)


def test_the_counter_counts_multiplications_and_additions():
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        nn.Conv2d(3, 8, 3, padding=1, groups=1)(torch.zeros(1, 3, 10, 10))
    assert counter.get_total_flops() == 2 * 100 * 8 * 3 * 9
