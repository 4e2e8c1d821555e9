"""Images that are moved, and boxes with them: what a box holds must be in it afterwards."""

import numpy as np
import pytest
import torch
from palyno.vision.feed.geometry import LEAST_SIDE, LEAST_VISIBLE, Spread, lay_out, paint
from palyno.vision.feed.store import PAD, ImageStore

STILL = Spread(scale=0, translate=0, mirrored=False, quarters=False, mosaic=0)
SIZE = 128


def discs(images=6, per=5, seed=0, classes=3):
    """Black images with ellipses, an own red each, and their exact boxes."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:SIZE, :SIZE] + 0.5
    pixels, boxes = np.zeros((images, 3, SIZE, SIZE), np.uint8), np.zeros((images, per, 4), np.float32)
    for i in range(images):
        for k in range(per):
            cell = np.array([20 + 42 * (k % 3), 20 + 42 * (k // 3)])
            centre, half = cell + rng.uniform(-3, 3, 2), rng.uniform(8, 16, 2)
            inside = ((x - centre[0]) / half[0]) ** 2 + ((y - centre[1]) / half[1]) ** 2 <= 1
            pixels[i, 0, inside] = 100 + 30 * k
            boxes[i, k] = [*(centre - half), *(centre + half)]
    kinds = torch.from_numpy(rng.integers(0, classes, (images, per)))
    return ImageStore(torch.from_numpy(pixels), torch.from_numpy(boxes), kinds)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def place(store, sources, spread, rng):
    panes = lay_out(len(store), sources, store.pixels.shape[-1], spread, rng)
    return paint(store, panes, [store.gather(pane.sources) for pane in panes])


def test_without_movement_images_and_boxes_stay():
    store = discs()
    images, boxes, owners = place(store, torch.arange(6), STILL, generator())
    torch.testing.assert_close(images, store.pixels.float() / 255, atol=1e-5, rtol=0)
    torch.testing.assert_close(boxes, store.boxes.reshape(-1, 4), atol=1e-3, rtol=0)
    assert owners[:, 0].tolist() == [i for i in range(6) for _ in range(5)]
    assert owners[:, 1].tolist() == store.classes.flatten().tolist()


@pytest.mark.parametrize("seed", range(3))
def test_mirrored_and_turned_by_quarters_no_pixel_changes(seed):
    store = discs(seed=seed)
    images, boxes, _ = place(store, torch.arange(6), Spread(scale=0, translate=0, mosaic=0), generator(seed))
    turned = 0
    for image, source in zip(images, store.pixels.float() / 255, strict=True):
        forms = [torch.rot90(form, k, (1, 2)) for form in (source, source.flip(2)) for k in range(4)]
        fits = [i for i, form in enumerate(forms) if torch.allclose(form, image, atol=1e-4)]
        assert len(fits) == 1
        turned += fits != [0]
    assert turned
    assert len(boxes) == 30


@pytest.mark.parametrize(
    "spread",
    [
        Spread(mosaic=0),
        Spread(mosaic=1),
        Spread(mosaic=0.5, scale=0.2, translate=0.3),
        Spread(mosaic=0, degrees=180, scale=0.1, translate=0),
        Spread(mosaic=1, degrees=30),
    ],
)
def test_a_box_holds_what_it_held(spread):
    """What is red in the output has the extent that its box says."""
    store = discs(images=8, per=1)
    whole = 0
    for seed in range(4):
        images, boxes, owners = place(store, torch.arange(8), spread, generator(seed))
        for (owner, _), box in zip(owners.tolist(), boxes.tolist(), strict=True):
            x1, y1, x2, y2 = box
            assert 0 <= x1 < x2 <= SIZE
            assert 0 <= y1 < y2 <= SIZE
            red, green, _ = images[owner, :, int((y1 + y2) / 2), int((x1 + x2) / 2)]
            assert red - green > 0.2
            if min(x1, y1) < 2 or max(x2, y2) > SIZE - 2:
                continue
            low, high = np.floor([x1, y1]).astype(int) - 3, np.ceil([x2, y2]).astype(int) + 3
            part = images[owner, :, max(0, low[1]) : high[1], max(0, low[0]) : high[0]] * 255
            # Half of the object's brightness is its outline.
            inside = part[0] - part[1] > 50
            rows, columns = inside.any(1).nonzero()[:, 0] + max(0, low[1]), inside.any(0).nonzero()[:, 0]
            found = [columns[0] + max(0, low[0]), rows[0], columns[-1] + max(0, low[0]) + 1, rows[-1] + 1]
            if not spread.mosaic:
                assert np.abs(np.array(found) - box).max() < 2.5
            whole += 1
    assert whole > 8


def test_boxes_that_hardly_show_are_left_out():
    store = discs(images=40)
    places = Spread(scale=0.2, translate=0.5, mosaic=0, mirrored=False, quarters=False)
    _, boxes, owners = place(store, torch.arange(40), places, generator())
    areas = (boxes[:, 2:] - boxes[:, :2]).prod(1)
    largest = (store.boxes[..., 2:] - store.boxes[..., :2]).prod(-1).max() * 1.2**2
    assert 0 < len(boxes) < 200
    assert areas.max() <= largest + 1
    assert (boxes[:, 2:] - boxes[:, :2]).min() >= LEAST_SIDE
    # One that is cut to less than the least share of the smallest there is cannot be here.
    smallest = (store.boxes[..., 2:] - store.boxes[..., :2]).prod(-1).min() * 0.8**2
    assert areas.min() >= LEAST_VISIBLE * smallest - 1
    assert len(set(map(tuple, owners.tolist()))) <= len(owners)


def test_where_a_source_ends_is_grey():
    store = ImageStore(torch.zeros(1, 3, 64, 64, dtype=torch.uint8), torch.zeros(1, 1, 4), torch.full((1, 1), -1))
    spread = Spread(scale=0.5, translate=0.5, mirrored=False, quarters=False, mosaic=0)
    images, boxes, owners = place(store, torch.zeros(50, dtype=torch.int64), spread, generator())
    values = images.unique()
    assert values.min() == pytest.approx(0, abs=1e-6)
    assert values.max() == pytest.approx(PAD / 255, abs=1e-6)
    assert boxes.shape == (0, 4)
    assert owners.shape == (0, 2)
