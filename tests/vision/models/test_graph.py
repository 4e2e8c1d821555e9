"""Layer tables: what a row means, and what a wrong row is told."""

import re

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
        (["x", "stem", "Conv", {"out": "wide"}], r"row 'x': out: expected a whole number; got 'wide'"),
        (["x", "stem", "Conv", {"out": 8.5}], r"row 'x': out: expected a whole number; got 8.5"),
        (["x", "stem", "C3k2", {"out": 8, "c3k": "maybe"}], r"row 'x': c3k: expected true or false such as False; got"),
        (["x", "stem", "CSPOKM", {"ratio": "nan"}], r"row 'x': ratio: expected a number such as 0.25; got 'nan'"),
        (["x", "stem", "HEM", {"widths": [8, None, 8]}], r"row 'x': widths: expected a whole number, or several; got"),
        (["x", "stem", "HEM", {"widths": [8, 8, 8], "edge": 3}], r"row 'x': edge: expected a name such as magnitude"),
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


OPTIONS = [
    ["omni", "image", "CSPOKM", {"out": 32, "kernel": "$kernel", "gate": "$gate", "ratio": "$ratio"}],
    ["last", "omni", "C3k2", {"out": 32, "c3k": "$c3k"}],
]


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("kernel", "x", "option 'kernel': expected a whole number such as 31; got 'x'"),
        ("kernel", "1.5", "option 'kernel': expected a whole number such as 31; got '1.5'"),
        ("kernel", True, "option 'kernel': expected a whole number such as 31; got True"),
        ("kernel", None, "option 'kernel': expected a whole number such as 31; got None"),
        ("kernel", "12", "kernel: expected an odd number, got 12"),
        ("gate", "x", "gate: expected one of published, channel, none; got 'x'"),
        ("ratio", "x", "option 'ratio': expected a number such as 0.25; got 'x'"),
        ("c3k", "x", "option 'c3k': expected true or false such as False; got 'x'"),
    ],
)
def test_a_value_that_an_option_cannot_have_is_told_with_what_it_can_be(key, value, message):
    given = {"kernel": 13, "gate": "none", "ratio": 0.5, "c3k": True} | {key: value}
    with pytest.raises(UsageError, match=f"^{re.escape(message)}"):
        body(OPTIONS, ("last",), given)


def test_texts_of_values_are_the_values():
    """As a command line has them, and as weights keep them that were trained from one."""
    texts = body(OPTIONS, ("last",), {"kernel": "13", "gate": "none", "ratio": "0.5", "c3k": "true"})
    values = body(OPTIONS, ("last",), {"kernel": 13, "gate": "none", "ratio": 0.5, "c3k": True})
    shapes = [{name: tensor.shape for name, tensor in made.state_dict().items()} for made in (texts, values)]
    assert shapes[0] == shapes[1]
    assert shapes[0]["blocks.omni.omni.large.branches.2.weight"][2:] == (13, 13)


def test_outputs_of_other_strides_than_the_heads_are_refused():
    made = body()
    made.check_strides([4, 4], 3)
    assert made.training
    with pytest.raises(UsageError, match=r"outputs: expected rows of strides 8, 4 in order, got 4 \(down\), 4 \(fus"):
        made.check_strides([8, 4], 3)
    joined = [*ROWS, ["x", ["stem", "down"], "Concat", {}]]
    with pytest.raises(UsageError, match="layers: expected sources of one stride in each row, got Sizes of tensors"):
        body(joined, ["x"]).check_strides([4], 3)
