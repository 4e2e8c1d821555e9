"""One grain explained: the right place of the network, a map that no other grain takes part in, and layers by role."""

import copy
import dataclasses
import math

import numpy as np
import palyno
import pytest
import torch
from palyno import UsageError
from palyno.data.slides import open_slide, slide_from
from palyno.vision.detector import Detector
from palyno.vision.explain import explain
from palyno.vision.explain.explaining import summary
from palyno.vision.explain.opened import Opened
from palyno.vision.explain.sight import Sight, field_colour, find_place, sight_of
from palyno.vision.models.detection import build
from palyno.vision.temperature import _Untold
from palyno.vision.tiles import Grid

pytestmark = pytest.mark.usefixtures("one_thread")

CAMS = ("gradcam", "eigencam")


@pytest.fixture(scope="module")
def detector():
    return palyno.load("hieraedge-n", device="cpu")


@pytest.fixture(scope="module")
def picture(samples):
    """The corner of a sample that holds a few grains."""
    with open_slide(samples / "composed.jpg") as slide:
        return slide.read(0, 0, 352, 256)


@pytest.fixture(scope="module")
def result(detector, picture):
    return detector.detect(picture, conf=0.25)


@pytest.mark.parametrize(
    ("name", "head"),
    [
        ("hieraedge-n", "detect"),
        ("hieraedge-n", "one2one"),
        ("biformer-nano-yolo", None),
        ("biformer-nano-edge-yolo", None),
        ("yolo12n", None),
        ("yolo26n", None),
    ],
)
def test_an_opened_network_gives_its_own_logits_and_layers_of_every_role(name, head):
    torch.manual_seed(0)
    model = build(name, classes=3, head=head).eval().fuse()
    opened, x = Opened(model), torch.rand(2, 3, 64, 96)
    roles = [opened.layer(role, level) for role in ("neck", "backbone") for level in range(3)]
    look = opened.look(x, roles)
    with torch.no_grad():
        assert torch.allclose(look.logits.sigmoid(), model(x)[0][:, 4:], atol=1e-6)
    assert [64 // look.maps[layer].shape[2] for layer in roles] == [8, 16, 32] * 2
    assert opened.layer("fine", 2) == roles[3]
    assert look.shapes == ((8, 12), (4, 6), (2, 3))


def test_layers_of_ultralytics_networks_are_those_of_their_tables():
    """Read off the tables: rows of the head part name 4 and 6, and go on from the backbone's last."""
    for name, backbone, neck in (
        ("yolo12n", (4, 6, 8), (14, 17, 20)),
        ("yolo11n", (4, 6, 10), (16, 19, 22)),
        ("yolov8n", (4, 6, 9), (15, 18, 21)),
    ):
        opened = Opened(build(name, classes=2))
        assert [opened.layer("backbone", i) for i in range(3)] == [str(i) for i in backbone]
        assert [opened.layer("neck", i) for i in range(3)] == [str(i) for i in neck]


def test_opening_leaves_the_detector_as_it_is(detector, picture, result):
    before = copy.deepcopy(detector.network.model.state_dict())
    detector.explain(picture, result[0], methods=CAMS)
    assert all(torch.equal(value, before[name]) for name, value in detector.network.model.state_dict().items())
    assert all(p.grad is None for p in detector.network.model.parameters())
    again = detector.detect(picture, conf=0.25)
    assert np.array_equal(again.boxes, result.boxes) and np.array_equal(again.confidence, result.confidence)


def test_every_grain_is_explained_by_its_own_place(detector, picture, result):
    opened = Opened(detector.network.model)
    assert len(result) > 5
    # What the network itself says of every class, before names are made of it.
    untold = Detector(detector.network, detector.metadata, namer=_Untold(detector.classes)).detect(picture, conf=0.25)
    for grain, every in zip(result, untold, strict=True):
        made = explain(detector, picture, grain, methods=["eigencam"], context=math.inf, opened=opened)
        assert np.abs(np.subtract(made.found, grain.box)).max() < 0.1
        assert made.confidence_in_sight == pytest.approx(grain.confidence, abs=2e-3)
        assert (made.taxon, made.confidence) == (grain.taxon, grain.confidence)
        assert (
            explain(detector, picture, grain.box, methods=["eigencam"], context=math.inf, opened=opened).taxon
            == grain.taxon
        )
        assert made.grain_id == grain.grain_id
        x, y = made.place
        assert grain.box[0] - 16 < x < grain.box[2] + 16 and grain.box[1] - 16 < y < grain.box[3] + 16
        own = dict(every.candidates)[detector.classes.index(made.explained)]
        assert made.probability == pytest.approx(own, abs=2e-3)


def test_a_map_does_not_depend_on_other_detections(detector, picture, result):
    grain = max(result, key=lambda g: g.confidence)
    alone = detector.detect(picture, conf=grain.confidence - 1e-4)
    assert len(alone) < len(result)
    (same,) = [g for g in alone if g.box == grain.box]
    for a, b in (same, grain), (grain.box, grain):
        first, second = (explain(detector, picture, g, methods=CAMS) for g in (a, b))
        for one, other in zip(first.maps, second.maps, strict=True):
            assert np.array_equal(one.values, other.values)


def test_the_explained_class_can_be_chosen(detector, picture, result):
    grain = result[0]
    own = explain(detector, picture, grain, methods=["gradcam"])
    other = next(name for name in detector.classes if name != own.explained)
    made = explain(detector, picture, grain, methods=["gradcam"], taxon=other)
    assert made.explained == other
    assert made.logit < own.logit
    assert not np.array_equal(made.maps[0].values, own.maps[0].values)


def test_a_grain_without_a_name_is_explained_by_what_it_was_likeliest(detector, picture, result):
    """Though `unknown` is a class, and may be among its candidates with a small share."""
    grain = result[0]
    own = explain(detector, picture, grain, methods=["gradcam"])
    share = next(p for _, p in grain.candidates)
    candidates = (*grain.candidates[:1], ("unknown", share / 10))
    unnamed = dataclasses.replace(grain, taxon="unknown", rank="unknown", candidates=candidates)
    made = explain(detector, picture, unnamed, methods=["gradcam"])
    assert (made.taxon, made.explained) == ("unknown", own.explained)
    assert np.array_equal(made.maps[0].values, own.maps[0].values)


def test_integrated_gradients_sum_up_to_what_an_empty_field_lacks(detector, picture, result):
    grain = max(result, key=lambda g: (g.box[2] - g.box[0] < 100) * g.confidence)
    x1, y1 = (max(0, int(v) - 20) // 2 * 2 for v in grain.box[:2])
    part = picture[y1 : int(grain.box[3]) + 20, x1 : int(grain.box[2]) + 20]
    box = [v - o for v, o in zip(grain.box, (x1, y1, x1, y1), strict=True)]
    made = explain(detector, part, box, methods=["ig"])
    figures = made.maps[0].figures
    assert figures["sum"] == pytest.approx(figures["difference"], rel=0.05)
    opened = Opened(detector.network.model)
    slide = slide_from(part)
    sight = sight_of(slide, np.array(box), Grid(slide.width, slide.height, 640, 152), 1.0, 3)
    place = find_place(opened, sight, np.array(box))
    colour = torch.from_numpy(field_colour(sight, np.array(box))) / 255
    empty = colour[:, None, None].expand(3, *sight.pixels.shape[:2])[None]
    target = detector.classes.index(made.explained)
    with torch.no_grad():
        difference = made.logit - float(opened.look(empty).logits[0, target, place.number])
    assert figures["difference"] == pytest.approx(difference, abs=1e-3)
    assert figures["difference"] > 2


def test_of_two_grains_on_each_other_each_has_its_own_place(detector):
    """A network with two boxes that overlap by more than half: the less sure one is not taken for the surer."""
    opened = Opened(detector.network.model)
    found = torch.tensor([[10.0, 10, 50, 50], [18, 14, 58, 54], [11, 10, 51, 50], [90, 90, 99, 99]])
    opened.boxes = lambda image: (found, torch.tensor([[0.4], [0.9], [0.3], [0.99]]))
    sight = Sight(np.zeros((128, 128, 3), np.uint8), (0, 0, 128, 128), 1.0)
    assert [find_place(opened, sight, np.array(box, float)).number for box in found[:3].tolist()] == [0, 1, 0]
    assert find_place(opened, sight, np.array([10.0, 10, 60, 60])).number == 1


def test_cells_are_spread_to_the_pixels_that_they_are_of():
    """A ramp stays a ramp: each pixel of the slide gets its own coordinate."""
    for scale, stride in ((1.0, 8), (0.5, 8), (2.0, 4)):
        sight = Sight(np.zeros((64, 96, 3), np.uint8), (40, 24, 40 + round(96 / scale), 24 + round(64 / scale)), scale)
        columns = (np.arange(96 // stride) + 0.5) * stride / scale + 40
        values = np.broadcast_to(columns, (64 // stride, 96 // stride))
        crop = (60, 40, 80, 60)
        made = sight.spread(values, stride, crop)
        assert made.shape == (20, 20)
        assert np.allclose(made, np.arange(60, 80) + 0.5, atol=0.1 / scale)


@pytest.mark.parametrize("scale", [1.0, 0.5])
def test_a_sight_holds_the_grain_and_lies_on_the_tiles_lattice(scale):
    slide = slide_from(np.zeros((1500, 2000, 3), np.uint8))
    grid = Grid(2000, 1500, 640, 160)
    rng = np.random.default_rng(0)
    for _ in range(50):
        side = rng.uniform(20, 150)
        x, y = rng.uniform(0, 2000 - side), rng.uniform(0, 1500 - side)
        box = np.array([x, y, x + side, y + side])
        sight = sight_of(slide, box, grid, scale, 2.0)
        tile = grid[int(grid.owner(box[None])[0])].window
        x1, y1, x2, y2 = sight.window
        assert tile[0] <= x1 <= box[0] and tile[1] <= y1 <= box[1]
        assert box[2] <= x2 <= tile[2] and box[3] <= y2 <= tile[3]
        assert ((x1 - tile[0]) * scale) % 32 == 0 and ((y1 - tile[1]) * scale) % 32 == 0
        assert sight.pixels.shape[0] % 32 == 0 and sight.pixels.shape[1] % 32 == 0
    whole = sight_of(slide, box, grid, scale, math.inf)
    assert whole.window == tile


def test_the_edge_path_answers_borders_and_the_published_one_nothing():
    square = torch.full((1, 3, 128, 128), 0.9)
    square[..., 40:88, 40:88] = 0.2
    for edge, seen in (("magnitude", True), ("reference", False)):
        torch.manual_seed(0)
        levels = Opened(build("hieraedge-n", classes=2, edge=edge).eval()).edges(square)
        assert list(levels) == [4, 8, 16, 32]
        assert bool(levels[4].max() > 0) is seen
        if seen:
            inside, border = levels[4][13:19, 13:19].mean(), levels[4][9:12, 13:19].mean()
            assert border > 3 * inside
    assert Opened(build("hieraedge-n", classes=2, edge="none")).edges(square) == {}
    assert Opened(build("yolo12n", classes=2)).edges(square) == {}


def test_numbers_are_plain_and_complete(detector, picture, result):
    import json

    made = explain(detector, picture, result[0], methods=(*CAMS, "edges"), um_per_px=0.5)
    told = json.loads(json.dumps(summary(made)))
    assert [m["method"] for m in told["maps"]] == ["gradcam", "eigencam", *["edges"] * 4]
    assert all(m["inside_box"] is None or 0 <= m["inside_box"] <= 1 for m in told["maps"])
    assert told["model"] == {"name": "hieraedge-n", "sha256": detector.sha256}
    assert told["um_per_px"] == 0.5
    assert made.picture.shape[:2] == made.maps[0].values.shape


def test_what_cannot_be_explained_is_refused(detector, picture):
    box = (10, 10, 60, 60)
    for arguments, message in (
        ({"methods": ["lime"]}, "methods: expected some of gradcam, eigencam, ig, edges; got lime"),
        ({"methods": []}, "got none"),
        ({"taxon": "Nonesuch"}, "taxon: expected a class of hieraedge-n"),
        ({"layer": "p9"}, r"layer: expected one of neck, backbone, fine, or of this network's .*n3.*; got 'p9'"),
        ({"context": 0.5}, "context: expected at least 1"),
    ):
        with pytest.raises(UsageError, match=message):
            explain(detector, picture, box, **arguments)
    with pytest.raises(UsageError, match="expected a box x1, y1, x2, y2 with x1 < x2"):
        explain(detector, picture, (60, 60, 10, 10))
    with pytest.raises(UsageError, match="expected a box on the slide, 352 x 256"):
        explain(detector, picture, (1000, 1000, 1010, 1010))
    with pytest.raises(UsageError, match="expected a box of the network's near"):
        explain(detector, np.full((64, 64, 3), 230, np.uint8), (0, 0, 1, 1))
    with pytest.raises(UsageError, match="load the weights, not an exported file"):
        Opened(lambda x: x)
    with pytest.raises(UsageError, match="the head of rtdetr-l has no grid of places; explain a model with"):
        Opened(build("rtdetr-l", classes=2))
