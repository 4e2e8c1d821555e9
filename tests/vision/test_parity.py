"""What `compare` takes for the same network."""

from types import SimpleNamespace

import pytest
import torch
from palyno.errors import PalynoError
from palyno.vision.runtimes.parity import compare

SURE = torch.tensor([0.9, 0.4, 0.03, 0.02])


def picked(sure, shift=0.0):
    """A network that picks four boxes, (1, 4 + 1, 4)."""
    boxes = torch.tensor([[10.0, 20, 8, 8], [40, 30, 9, 9], [60, 50, 7, 7], [20, 60, 5, 5]]).T + shift
    answer = torch.cat([boxes, sure[None]])[None]
    return lambda images: answer.expand(len(images), -1, -1)


def exported(network, most=4):
    about = SimpleNamespace(batch=1, dynamic=False, max_objects=most)

    class Exported:
        device = torch.device("cpu")

        def __call__(self, images):
            return network(images)

    made = Exported()
    made.about = about
    return made


@pytest.mark.parametrize("scale", [1.0, 0.05])
def test_boxes_that_a_network_picks_are_compared_though_it_is_sure_of_none(scale):
    images = [torch.zeros(1, 3, 32, 32)]
    same = compare(picked(scale * SURE), exported(picked(scale * SURE)), images)
    assert same.boxes == (2 if scale == 1 else 1)
    assert same.box_px == same.probability == 0
    with pytest.raises(PalynoError, match="got differences of 3 px"):
        compare(picked(scale * SURE), exported(picked(scale * SURE, shift=3.0)), images)


def test_boxes_may_come_in_another_order_and_what_is_hardly_a_box_may_differ():
    images = [torch.zeros(1, 3, 32, 32)]
    network = picked(SURE)
    other = network(images[0]).flip(2).clone()
    other[0, :4, :2] += 9
    parity = compare(network, exported(lambda _: other), images)
    assert (parity.boxes, parity.box_px, parity.probability) == (2, 0, 0)


def test_where_boxes_are_not_picked_all_are_compared():
    images = [torch.zeros(1, 3, 32, 32)]
    other = picked(SURE)(images[0]).clone()
    other[0, 4, 3] += 0.002
    with pytest.raises(PalynoError, match=r"0\.002"):
        compare(picked(SURE), exported(lambda _: other, most=None), images)
