"""`palyno explain`: panels and numbers of the grains that were asked for; the same command gives the same bytes."""

import json

import numpy as np
import palyno
import pytest
from click.testing import CliRunner
from palyno.app.cli import cli
from palyno.app.explaining import ExplainOptions
from palyno.app.explanation import draw, heat
from palyno.data.palette import colours
from palyno.errors import UsageError
from palyno.vision.explain import Attribution, explain
from PIL import Image

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def slide(samples, tmp_path_factory):
    """The corner of a sample that holds a few grains."""
    path = tmp_path_factory.mktemp("slide") / "corner.png"
    with Image.open(samples / "composed.jpg") as picture:
        picture.crop((0, 0, 352, 256)).save(path)
    return path


def run(*arguments, code=0):
    done = CliRunner().invoke(cli, ["explain", *map(str, arguments), "--device", "cpu"])
    assert done.exit_code == code, done.output
    return done


def test_the_surest_grains_get_a_panel_each_and_their_numbers(slide, tmp_path):
    told = json.loads(run(slide, "--out", tmp_path / "a", "--top", 2, "--method", "edges", "--json").stdout)
    found = palyno.load("hieraedge-n", device="cpu").detect(slide)
    surest = np.argsort(-found.confidence)[:2]
    assert [row["grain_id"] for row in told["grains"]] == [found.grain_ids[i] for i in surest]
    assert [row["taxon"] for row in told["grains"]] == [found.taxa[i] for i in surest]
    assert told["model"]["sha256"] == found.provenance.sha256
    for row in told["grains"]:
        with Image.open(tmp_path / "a" / row["file"]) as picture:
            assert picture.format == "PNG" and min(picture.size) > 600
    stored = json.loads((tmp_path / "a" / "explain.json").read_text())
    assert stored["grains"] == told["grains"]
    run(slide, "--out", tmp_path / "b", "--top", 2, "--method", "edges", "--quiet")
    for file in (tmp_path / "a").iterdir():
        assert file.read_bytes() == (tmp_path / "b" / file.name).read_bytes()


def test_one_grain_or_a_place_and_nothing_is_overwritten(slide, tmp_path):
    out = tmp_path / "one"
    found = palyno.load("hieraedge-n", device="cpu").detect(slide)
    # One that has a name: of a grain that has none, and of its place, other classes may be explained.
    surest = found.grain_ids[int(np.argmax(found.confidence))]
    run(slide, "--out", out, "--grain", surest, "--method", "gradcam", "--layer", "neck")
    (row,) = json.loads((out / "explain.json").read_text())["grains"]
    assert row["file"] == f"corner_{surest}.png"
    assert row["arguments"]["layer"] == "neck" and row["maps"][0]["layer"] in ("n3", "n4", "n5")
    done = run(slide, "--out", out, "--grain", surest, "--method", "gradcam", code=2)
    assert "already there; add --overwrite" in done.output
    box = ",".join(map(str, row["box"]))
    run(slide, "--out", out, "--box", box, "--method", "gradcam", "--layer", "neck", "--overwrite")
    (place,) = json.loads((out / "explain.json").read_text())["grains"]
    assert place["grain_id"] is None
    assert place["maps"] == row["maps"] and place["logit"] == row["logit"]


def test_an_identifier_of_a_run_with_several_views_means_its_grain(slide, tmp_path):
    found = palyno.load("hieraedge-n", device="cpu").detect(slide, views=4)
    arguments = ("--grain", found.grain_ids[0], "--method", "edges", "--views", 4, "--json")
    (row,) = json.loads(run(slide, "--out", tmp_path, *arguments).stdout)["grains"]
    assert row["box"] == pytest.approx(found.boxes[0], abs=0.01)
    assert row["confidence"] == pytest.approx(found.confidence[0], abs=1e-4)


def test_what_cannot_be_meant_is_said(slide, tmp_path):
    for arguments, code, message in (
        (["--grain", "9999"], 2, "expected a grain from 0001 to"),
        (["--grain", "0001", "--top", "2"], 2, "expected one of --grain, --box and --top, got several"),
        (["--box", "10,10,5,20"], 2, "expected x1,y1,x2,y2 with x1 < x2"),
        (["--conf", "1"], 4, "expected a grain with a confidence of 1, found none"),
        (["--taxon", "Nonesuch"], 2, "expected a class of hieraedge-n"),
        (["--layer", "nonesuch", "--top", "1"], 2, "layer: expected one of neck, backbone, fine"),
    ):
        done = run(slide, "--out", tmp_path / "none", *arguments, code=code)
        assert message in done.output
    assert "is a directory" in run(tmp_path, "--out", tmp_path / "none", code=2).output
    with pytest.raises(UsageError, match="got several"):
        ExplainOptions(grain="0001", top=3)


def test_a_heat_map_is_hot_where_the_attribution_is_and_leaves_the_rest_grey():
    picture = np.full((60, 60, 3), (200, 150, 100), np.uint8)
    values = np.zeros((60, 60), np.float32)
    values[20:40, 20:40] = 1
    shown = heat(picture, Attribution("gradcam", "p3", 1, values, {})).astype(int)
    assert shown[30, 30, 0] - shown[30, 30, 2] > 60
    assert np.ptp(shown[2, 2]) < 15
    assert np.array_equal(shown, heat(picture, Attribution("gradcam", "p3", 1, -values, {})))
    # One method's nothing is a grey picture, not a fault.
    assert np.ptp(heat(picture, Attribution("gradcam", "p3", 8, 0 * values, {})).astype(int), axis=2).max() < 15


def test_a_scale_bar_is_drawn_only_where_the_pixel_size_is_known(slide):
    detector = palyno.load("hieraedge-n", device="cpu")
    grain = detector.detect(slide)[0]
    panels = [
        np.array(draw(explain(detector, slide, grain, methods=["edges"], um_per_px=um))).astype(int)
        for um in (None, 0.25)
    ]
    apart = np.abs(panels[0] - panels[1]).sum(2) > 60
    rows = np.flatnonzero(apart[:, :340].any(1))
    # Below the picture's middle the bar, below the picture the size in micrometres; nothing else differs.
    assert len(rows) and not apart[:, 340:].any()


def test_a_panel_has_the_colour_that_the_run_gives_the_taxon(slide):
    detector = palyno.load("hieraedge-n", device="cpu")
    why = explain(detector, slide, detector.detect(slide)[0], methods=["edges"])
    # Surer taxa have taken the colours that its name asks for.
    run = [([*(f"Taxon {i}" for i in range(8)), why.taxon], [0.9] * 8 + [0.3])]
    colour, alone = colours(run)[why.taxon], colours([([why.taxon], None)])[why.taxon]
    shown = [
        [(np.array(panel) == wanted).all(2).sum() for wanted in (colour, alone)]
        for panel in (draw(why, run), draw(why))
    ]
    assert shown[0][0] > 100 < shown[1][1] and shown[0][1] == shown[1][0] == 0
