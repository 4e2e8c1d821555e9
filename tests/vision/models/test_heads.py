"""Heads that give one box a grain: they answer as ultralytics' own do, learn, and are exported."""

import copy

import numpy as np
import palyno
import pytest
import torch
from palyno import UsageError
from palyno.vision.models.detection import PollenDETR, build
from palyno.vision.models.heads import Decoder, OneToOne
from palyno.vision.network import Network
from palyno.vision.weights import save_weights
from ultralytics.nn.modules import Detect, RTDETRDecoder
from ultralytics.utils import DEFAULT_CFG

pytestmark = pytest.mark.usefixtures("one_thread")

CLASSES = ["Betula", "Alnus", "Poaceae sp."]
TABLE = {
    "name": "tiny",
    "scale": "n",
    "scales": {"n": [1.0, 1.0, 64]},
    "layers": [
        ["stem", "image", "Conv", {"out": 16, "kernel": 3, "stride": 2}],
        ["down2", "stem", "Conv", {"out": 16, "kernel": 3, "stride": 2}],
        ["p3", "down2", "Conv", {"out": 16, "kernel": 3, "stride": 2}],
        ["p4", "p3", "Conv", {"out": 16, "kernel": 3, "stride": 2}],
        ["p5", "p4", "Conv", {"out": 16, "kernel": 3, "stride": 2}],
    ],
    "outputs": ["p3", "p4", "p5"],
}


@pytest.fixture(scope="module", params=["one2one", "rtdetr"])
def network(request):
    torch.manual_seed(0)
    return build(TABLE, classes=CLASSES, head=request.param).eval()


def maps(channels=(16, 24, 32), height=6, width=4):
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(2, c, height * 4 >> i, width * 4 >> i, generator=generator) for i, c in enumerate(channels)]


def corners(rows):
    centre, half = rows[..., :2], rows[..., 2:4] / 2
    return torch.cat((centre - half, centre + half), -1)


@torch.no_grad()
def test_one2one_answers_as_ultralytics_end_to_end_head():
    torch.manual_seed(0)
    Detect.legacy = False
    theirs = Detect(3, 16, True, (16, 24, 32)).eval()
    for branch in theirs.one2one_cv3:
        torch.nn.init.normal_(branch[-1].weight, 0, 0.5)
    ours = OneToOne(3, 16, (16, 24, 32)).eval()
    ours.load_state_dict(theirs.state_dict())
    theirs.stride = ours.stride = torch.tensor([8.0, 16.0, 32.0])
    theirs.end2end = True
    listed = theirs(maps())[0]
    found = ours(maps())[0].transpose(1, 2)
    assert listed.shape[1] == 300
    for pairs, rows in zip(listed, found, strict=True):
        boxes, probabilities = corners(rows), rows[:, 4:]
        # Each pair that they list is a box of ours with that probability for that class.
        for x1, y1, x2, y2, p, c in pairs[:50]:
            same = (boxes - torch.stack((x1, y1, x2, y2))).abs().amax(1) < 1e-3
            assert (probabilities[same, int(c)] - p).abs().min() < 1e-6


@torch.no_grad()
def test_the_decoder_answers_as_ultralytics():
    torch.manual_seed(0)
    theirs, ours = RTDETRDecoder(3, (16, 24, 32)).eval(), Decoder(3, (16, 24, 32)).eval()
    ours.load_state_dict(theirs.state_dict())
    listed, found = theirs(maps())[0], ours(maps())[0].transpose(1, 2)
    size = torch.tensor([128.0, 192.0, 128.0, 192.0])
    assert found.shape[1:] == (300, 7)
    for pairs, rows in zip(listed, found, strict=True):
        for *box, p, c in pairs[:50]:
            same = (rows[:, :4] - torch.stack(box) * size).abs().amax(1) < 1e-3
            assert (rows[same, 4 + int(c)] - p).abs().min() < 1e-6


@torch.no_grad()
def test_fusing_keeps_the_answer_and_drops_what_only_teaches(network):
    images = torch.rand((1, 3, 96, 64), generator=torch.Generator().manual_seed(3))
    fused = copy.deepcopy(network).fuse()
    assert (fused(images)[0] - network(images)[0]).abs().max() < 1e-3
    assert fused.is_fused()
    if isinstance(fused.model[-1], OneToOne):
        assert fused.model[-1].cv2 is None


def test_it_learns_from_ultralytics_loss(network):
    torch.manual_seed(0)
    model = copy.deepcopy(network).train()
    model.args = copy.deepcopy(DEFAULT_CFG)
    batch = {
        "img": torch.rand(2, 3, 64, 64),
        "cls": torch.tensor([[0.0], [1.0], [2.0]]),
        "bboxes": torch.tensor([[0.3, 0.3, 0.25, 0.25], [0.7, 0.6, 0.3, 0.2], [0.5, 0.5, 0.5, 0.5]]),
        "batch_idx": torch.tensor([0, 0, 1]),
    }
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-3)
    losses = []
    # The decoder's steps are dear, and it learns at once; the other head first has to learn where grains are.
    for _ in range(10 if isinstance(model, PollenDETR) else 30):
        loss = model(batch)[0].sum()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(float(loss.detach()))
    assert np.mean(losses[-3:]) < 0.9 * np.mean(losses[:3])
    moved = {n for n, p in model.named_parameters() if p.grad is not None and p.grad.abs().sum() > 0}
    assert any(n.startswith("model.0.") for n in moved), "the body learns, too"


def test_weights_of_such_a_network_are_read_as_one(network, tmp_path):
    file = save_weights(
        tmp_path / "x.safetensors",
        network,
        name="x",
        classes=CLASSES,
        config=network.yaml,
        imgsz=64,
        naming_threshold=0.5,
        max_grain_px=32,
        training={},
    )
    detector = palyno.load(file, device="cpu")
    assert not detector.network.duplicates
    assert detector.network.max_objects == (300 if isinstance(network, PollenDETR) else None)
    detector.detect(np.full((80, 70, 3), 200, np.uint8))


def test_it_is_exported(network, tmp_path):
    pytest.importorskip("onnx")
    from palyno.vision.export import export

    done = export(network, tmp_path / "x.onnx", imgsz=64)
    assert not done.about.duplicates
    assert not palyno.load(done.path).network.duplicates


def fixed(images):
    """Two boxes in the same place, and one elsewhere."""
    rows = torch.tensor([[20.0, 20, 10, 10, 0.9], [20, 20, 10, 10, 0.8], [40, 40, 10, 10, 0.7]])
    return rows.T[None]


@pytest.mark.parametrize(("duplicates", "found"), [(True, 2), (False, 3)])
def test_nothing_is_taken_out_where_there_are_no_duplicates(duplicates, found):
    network = Network(fixed, torch.device("cpu"), 3, duplicates)
    window = np.zeros((64, 64, 3), np.uint8)
    (answer,) = network.find([window], scale=1, floor=0.1, decisive=0.25, iou=0.5)
    assert len(answer.boxes) == found
    assert answer.full, "as many boxes as it can return: there may be more"


@pytest.mark.parametrize(
    ("name", "head", "message"),
    [
        ("hieraedge-n", "anchors", "head: expected one of detect, one2one, rtdetr; got 'anchors'"),
        ("yolo12n", "one2one", "unknown option 'head'; this model has none"),
    ],
)
def test_heads_that_there_are_not_are_refused(name, head, message):
    with pytest.raises(UsageError, match=message):
        build(name, classes=2, head=head)


def test_names_stand_for_heads_and_for_what_was_published():
    assert build("hieraedge-n-one2one", classes=2).yaml["head"] == "one2one"
    assert isinstance(build("hieraedge-rtdetr", classes=2), PollenDETR)
    published = build("hieraedge-n-reference", classes=120)
    assert published.yaml["options"] == {"edge": "reference", "gate": "published"}
    assert not published.model[0].blocks["edge"].sobel(torch.rand(1, 64, 8, 8)).any()
    # As many weights as published, less what is not one there: the Sobel pair, and a convolution that is never called.
    assert sum(p.numel() for p in published.parameters()) == 3_478_460 - 1_152 - 1_600
