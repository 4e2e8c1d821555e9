"""Layer tables: what a row means, and what a wrong row is told."""

import pytest
import torch
from palyno import UsageError
from palyno.vision.models.graph import Body
from palyno.vision.models.rows import Scale

ROWS = [
    ["stem", "image", "Conv", {"out": 32, "kernel": 3, "stride": 2}],
    ["edge", "stem", "HEM", {"widths": [16, 32, 64], "edge": "$edge"}],
    ["down", "stem", "Conv", {"out": 64, "kernel": 3, "stride": 2}],
    ["fused", ["edge.p3", "down"], "SEF", {"out": 64}],
]


def body(rows=ROWS, outputs=("down", "fused"), options=None):
    return Body(rows, outputs, Scale(1.0, 0.5, 1024), {"edge": "magnitude"} if options is None else options)


def test_rows_are_wired_by_name():
    made = body().eval()
    assert made.channels == (32, 32)
    assert [tuple(m.shape) for m in made(torch.rand(2, 3, 32, 64))] == [(2, 32, 8, 16)] * 2
    maps = made.maps(torch.rand(1, 3, 32, 32), ["edge.p4", "stem"])
    assert {name: tuple(m.shape) for name, m in maps.items()} == {"edge.p4": (1, 16, 4, 4), "stem": (1, 16, 16, 16)}


@pytest.mark.parametrize(
    ("scale", "n", "channels"),
    [(Scale(1, 0.25, 1024), 128, 32), (Scale(1, 0.25, 1024), 2048, 256), (Scale(1, 0.25, 1024), 100, 32)],
)
def test_channels_are_cut_scaled_and_rounded_up_to_8(scale, n, channels):
    assert scale.channels(n) == channels


@pytest.mark.parametrize(("n", "repeats"), [(1, 1), (2, 1), (4, 2), (6, 3)])
def test_repeats_scale_with_depth(n, repeats):
    assert Scale(0.5, 1, 1024).repeats(n) == repeats


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (["x", "stem", "Conf", {"out": 8}], r"row 'x': block 'Conf' is not known; expected one of A2C2f, .*Conv"),
        (["x", "p9", "Conv", {"out": 8}], r"row 'x': source 'p9' is not known; expected one of .*edge.p3.*image"),
        (["x", "edge", "Conv", {"out": 8}], r"row 'x': source 'edge' is not known; expected one of .*edge.p3"),
        (["x", "stem", "Conv", {"out": 8, "pad": 1}], r"row 'x': Conv .*unexpected keyword argument 'pad'"),
        (["x", "stem", "Conv", {}], r"row 'x': Conv .*missing a required .*'out'"),
        (["x", "stem", "SEF", {"out": 8}], r"row 'x': SEF with 1 source"),
        (["x", "stem", "Conv", {"out": "$wide"}], r"row 'x': option 'wide' is not known; expected one of edge"),
        (["stem", "image", "Conv", {"out": 8}], r"row 'stem': expected a new name"),
        (["x", "stem", "Conv"], r"expected a row \[name, sources, block, \{arguments\}\]"),
    ],
)
def test_a_wrong_row_is_named(row, message):
    with pytest.raises(UsageError, match=message):
        body([*ROWS, row])


def test_unused_options_and_unknown_outputs_are_refused():
    with pytest.raises(UsageError, match="options: no row uses gate; expected some of edge"):
        body(options={"edge": "none", "gate": "none"})
    with pytest.raises(UsageError, match="output 'p3' is not known"):
        body(outputs=["p3"])
    with pytest.raises(UsageError, match="map 'p7' is not known"):
        body().maps(torch.rand(1, 3, 32, 32), ["p7"])


def test_the_table_given_is_left_as_it_was():
    body()
    assert ROWS[1][3]["edge"] == "$edge"
