"""Views of a window: each cell's answer comes back to its cell, and the mean does not know how a slide was laid."""

import numpy as np
import palyno
import pytest
import torch
from palyno.errors import UsageError
from palyno.vision.models.detection import build
from palyno.vision.network import Network
from palyno.vision.views import STRIDES, VIEWS, averaged, seen, unseen
from PIL import Image


def cells(images):
    """A network that sees as much mirrored as not: where the light of a cell lies, how it spreads, how much it is."""
    told = []
    for stride in STRIDES:
        light = images.mean(1)
        rows, columns = light.shape[1] // stride, light.shape[2] // stride
        tiles = light.reshape(-1, rows, stride, columns, stride).permute(0, 1, 3, 2, 4) + 0.01
        whole = tiles.sum((3, 4))
        inner = torch.arange(stride, dtype=images.dtype) + 0.5
        x, y = (tiles.sum(3) * inner).sum(3) / whole, (tiles.sum(4) * inner).sum(3) / whole
        across = (tiles.sum(3) * inner**2).sum(3) / whole - x**2
        along = (tiles.sum(4) * inner**2).sum(3) / whole - y**2
        left, top = torch.arange(columns) * stride, torch.arange(rows)[:, None] * stride
        told.append(torch.stack([x + left, y + top, across, along, whole / whole.max()], 1).flatten(2))
    return torch.cat(told, 2)


@pytest.mark.parametrize("view", range(8))
def test_every_answer_comes_back_to_its_cell(view):
    torch.manual_seed(0)
    images = torch.rand(2, 3, 64, 96, dtype=torch.float64)
    torch.testing.assert_close(unseen(cells(seen(images, view)), view, (64, 96)), cells(images))


def test_the_eight_views_are_all_different_and_pictures_of_the_same():
    image = torch.rand(1, 1, 32, 32)
    views = [seen(image, view) for view in range(8)]
    assert sum(torch.equal(a, b) for a in views for b in views) == 8
    assert all(torch.equal(view.flatten().sort()[0], image.flatten().sort()[0]) for view in views)
    assert VIEWS == (1, 2, 4, 8)


def test_one_view_is_the_network_itself_and_more_are_their_mean():
    torch.manual_seed(0)
    model = build("hieraedge-n", classes=3).eval().double()
    images = torch.rand(1, 3, 64, 96, dtype=torch.float64)

    def answer(x):
        return model(x)[0]

    with torch.no_grad():
        assert torch.equal(averaged(answer, images, 1), answer(images))
        single = [unseen(answer(seen(images, view)), view, (64, 96)) for view in range(4)]
        torch.testing.assert_close(averaged(answer, images, 4), sum(single) / 4)
        # The eight are a group: the mean is the same however the picture is laid.
        mean = averaged(answer, images, 8)
        for view in (1, 2, 4, 7):
            again = unseen(averaged(answer, seen(images, view), 8), view, (64, 96))
            torch.testing.assert_close(again, mean, rtol=1e-6, atol=1e-8)
        assert (answer(images) - mean).abs().max() > 1e-4


def test_a_slide_laid_otherwise_has_the_same_grains(shipped_model, samples):
    side = 384
    with Image.open(samples / "rice_dense.jpg") as picture:
        slide = np.ascontiguousarray(np.asarray(picture)[600 : 600 + side, 800 : 800 + side])
    detector = palyno.load(shipped_model, device="cpu")
    one = detector.detect(slide, views=8)
    other = detector.detect(np.ascontiguousarray(slide[:, ::-1]), views=8)
    assert len(one) == len(other) > 3
    boxes = other.boxes[:, [2, 1, 0, 3]] * [-1, 1, -1, 1] + [side, 0, side, 0]
    order, mirrored = (np.lexsort(b.round().T) for b in (one.boxes, boxes))
    np.testing.assert_allclose(one.boxes[order], boxes[mirrored], atol=0.05)
    np.testing.assert_allclose(one.confidence[order], other.confidence[mirrored], atol=1e-3)
    assert one.provenance.arguments["views"] == 8
    assert detector.detect(slide).provenance.arguments["views"] == 1


@pytest.mark.parametrize("views", [0, 3, True, "8"])
def test_a_number_of_views_that_cannot_be_meant_is_refused(shipped_model, views):
    with pytest.raises(UsageError, match="views: expected one of 1, 2, 4, 8"):
        palyno.load(shipped_model, device="cpu").detect(np.zeros((64, 64, 3), np.uint8), views=views)


def test_networks_that_do_not_answer_for_every_cell_are_refused():
    network = Network(lambda images: torch.zeros(len(images), 6, 300), torch.device("cpu"))
    window = np.zeros((64, 64, 3), np.uint8)
    with pytest.raises(UsageError, match="views: expected a network that answers for every cell"):
        list(network.find([window], scale=1.0, floor=0.1, decisive=0.2, iou=0.5, views=2))
