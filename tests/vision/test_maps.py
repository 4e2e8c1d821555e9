"""Vectors out of the pass that finds grains: each grain its own, whatever the tiles, and never of another detector."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from palyno.errors import RejectedModelError, UsageError
from palyno.vision.detector import Detector, load
from palyno.vision.maps import check_reader, kept_maps
from palyno.vision.network import Network
from palyno.vision.results import SlideResult
from palyno.vision.tiles import iou_matrix
from palyno.vision.weights import Metadata
from scipy import ndimage
from torch import nn

SHA = "5" * 64


class Spots(nn.Module):
    """A detector without weights: its maps are means of 8 and 32 pixels, its boxes the dark spots; at most `slots`."""

    def __init__(self, slots=400):
        super().__init__()
        self.slots = slots
        self.model = nn.Sequential(nn.Identity(), _Boxes(slots))

    def forward(self, images):
        return self.model[1]([nn.functional.avg_pool2d(images, 8), nn.functional.avg_pool2d(images, 32)], images)


class _Boxes(nn.Module):
    def __init__(self, slots):
        super().__init__()
        self.slots = slots

    def forward(self, maps, images):
        found = np.zeros((len(images), 5, self.slots), np.float32)
        for i, image in enumerate(images.numpy()):
            spots = ndimage.find_objects(ndimage.label(image[2] < 0.2)[0])
            for j, (y, x) in enumerate(spots[: self.slots]):
                found[i, :4, j] = (x.start + x.stop) / 2, (y.start + y.stop) / 2, x.stop - x.start, y.stop - y.start
                found[i, 4, j] = 0.9
        return torch.from_numpy(found)


class Middle:
    """A grain's vector is its colours in the two maps at its middle, of unit length."""

    encoder_id, dim, detector_name, detector_sha256 = "middle@0/1", 6, "spots", SHA

    def read(self, maps, boxes, size):
        assert all(len(level) == 1 for level in maps)
        middle = (boxes[:, :2] + boxes[:, 2:]) / 2
        rows = []
        for level in maps:
            assert tuple(level.shape[2:]) in {(size[0] // 8, size[1] // 8), (size[0] // 32, size[1] // 32)}
            x, y = (middle // (size[0] // level.shape[2])).long().T
            rows.append(level[0, :, y, x].T)
        return nn.functional.normalize(torch.cat(rows, 1) + 1e-3).numpy()


def detector(model=None, sha256=SHA):
    metadata = Metadata(name="spots", classes=("Betula",), config={}, max_grain_px=60, sha256=sha256)
    return Detector(Network(model or Spots(), torch.device("cpu"), getattr(model, "slots", 400)), metadata)


@pytest.fixture(scope="module")
def field():
    """Spots of colours of their own, 16 to 48 pixels on a lattice of 8, which all windows share."""
    rng = np.random.default_rng(0)
    image = np.full((1000, 1300, 3), 255, np.uint8)
    for y in range(8, 930, 72):
        for x in range(8, 1230, 72):
            w, h = 8 * rng.integers(2, 6, 2)
            image[y : y + h, x : x + w] = (*rng.integers(0, 255, 2), 0)
    return image


def by_hand(image, box):
    """The colours that `Middle` takes, from the picture itself."""
    x, y = int(box[0] + box[2]) // 2, int(box[1] + box[3]) // 2
    means = [image[y // s * s :, x // s * s :][:s, :s].reshape(-1, 3).mean(0) / 255 for s in (8, 32)]
    vector = np.concatenate(means) + 1e-3
    return vector / np.linalg.norm(vector)


@pytest.mark.parametrize(("tile", "batch"), [(1312, 1), (640, 1), (320, 3), (192, 2)])
def test_each_grain_has_the_vector_of_its_own_place_at_any_tile(field, tile, batch):
    image = field[:992, :1280]
    result = detector().detect(image, tile=tile, batch=batch, vectors=Middle())
    assert len(result) > 200 and result.encoder_id == "middle@0/1"
    assert result.vectors.shape == (len(result), 6) and result.vectors.dtype == np.float32
    expected = np.array([by_hand(image, box) for box in result.boxes])
    np.testing.assert_allclose(result.vectors, expected, atol=1e-5)
    assert result.provenance.arguments["vectors"] == "middle@0/1"


def test_vectors_go_with_their_grains_where_a_full_tile_is_read_again(field):
    image = field[:640, :640]
    whole = detector().detect(image, vectors=Middle())
    again = detector(Spots(40)).detect(image, vectors=Middle())
    assert len(again) == len(whole) == 81
    np.testing.assert_allclose(again.vectors, whole.vectors, atol=1e-5)


def test_the_boxes_are_the_same_with_and_without(field):
    plain, with_vectors = detector().detect(field, tile=320), detector().detect(field, tile=320, vectors=Middle())
    np.testing.assert_array_equal(plain.boxes, with_vectors.boxes)
    assert plain.vectors is None and plain.encoder_id is None and plain[0].vector is None
    assert "vectors" not in plain.provenance.arguments


def test_a_scaled_pass_reads_the_scaled_places(field):
    image = field[:640, :640]
    plain = detector().detect(image, vectors=Middle())
    double = detector().detect(image, tile=640, imgsz=1280, vectors=Middle())
    pairs = iou_matrix(plain.boxes, double.boxes).argmax(1)
    # The same colour at the middle, of cells of half the side.
    assert np.median((plain.vectors * double.vectors[pairs]).sum(1)) > 0.95


def test_a_picture_without_grains_has_no_vectors():
    result = detector().detect(np.full((90, 70, 3), 255, np.uint8), vectors=Middle())
    assert result.vectors.shape == (0, 6) and result.encoder_id == "middle@0/1"


def test_selection_takes_the_vectors_along(field):
    result = detector().detect(field[:300, :300], vectors=Middle())
    some = result.select([3, 1])
    np.testing.assert_array_equal(some.vectors, result.vectors[[3, 1]])
    np.testing.assert_array_equal(result[3].vector, result.vectors[3])
    assert some.encoder_id == result.encoder_id
    with pytest.raises(ValueError, match="read-only"):
        result.vectors[0, 0] = 1


def test_vectors_without_their_encoder_or_of_another_number_are_refused(field):
    result = detector().detect(field[:300, :300], vectors=Middle())
    for wrong in ({"encoder_id": None}, {"vectors": None}, {"vectors": result.vectors[1:]}):
        with pytest.raises(UsageError, match="vectors"):
            replace(result, **wrong)
    assert isinstance(replace(result, encoder_id="other"), SlideResult)


def test_vectors_of_another_detector_are_refused_by_its_name(field):
    other = detector(sha256="7" * 64)
    with pytest.raises(RejectedModelError, match=r"middle@0/1 reads the maps of spots with sha256 555555555555.*7777"):
        other.detect(field, vectors=Middle())


def test_an_exported_network_gives_no_maps(field):
    exported = detector(lambda images: torch.zeros(len(images), 5, 1))
    with pytest.raises(UsageError, match="vectors: expected a detector's weights"):
        exported.detect(field, vectors=Middle())


def test_nothing_is_left_on_the_network_and_other_threads_passes_are_not_taken():
    from threading import Thread

    model = Spots()
    with kept_maps(model) as maps:
        other = Thread(target=model, args=(torch.zeros(1, 3, 64, 64),))
        other.start()
        other.join()
        assert maps == []
        model(torch.ones(2, 3, 32, 64))
        assert [tuple(level.shape) for level in maps] == [(2, 3, 4, 8), (2, 3, 1, 2)]
    assert not model.model[-1]._forward_pre_hooks


@pytest.mark.parametrize("name", ["hieraedge-n", "hieraedge-n-one2one", "hieraedge-rtdetr", "yolo11n"])
def test_the_maps_are_what_the_head_is_given_for_ours_and_for_ultralytics(name):
    from palyno.vision.weights import _builder

    model = _builder()(name, classes=["a", "b"]).eval()
    image = torch.rand(1, 3, 64, 96)
    with torch.inference_mode(), kept_maps(model) as maps:
        model(image)
        assert [tuple(level.shape[2:]) for level in maps] == [(8, 12), (4, 6), (2, 3)]
        if hasattr(model.model[0], "channels"):
            assert tuple(level.shape[1] for level in maps) == model.model[0].channels
            expected = model.model[0](image)
            assert all(torch.allclose(level, other, atol=1e-5) for level, other in zip(maps, expected, strict=True))


def test_the_shipped_detector_is_told_apart_by_its_file(shipped_model):
    found = load(shipped_model, device="cpu")
    mine = Middle()
    mine.detector_sha256 = found.sha256
    check_reader(mine, found.network.model, found.metadata)
    with pytest.raises(RejectedModelError, match=shipped_model):
        check_reader(Middle(), found.network.model, found.metadata)
