"""What `auto` takes on a CPU: the rules are data that can be read and replaced, and measured again."""

from copy import deepcopy
from math import inf

import pytest
import torch
from palyno.kernels import depthwise, depthwise_conv2d
from palyno.kernels.depthwise import native, table
from palyno.kernels.depthwise.sweep import shapes, sweep

NEVER = {"taps": inf, "multiply_adds": 0, "per_point": 0}
ALWAYS = {"taps": 0, "multiply_adds": 0, "per_point": 0}


@pytest.fixture(autouse=True)
def measured_rules_afterwards():
    yield
    table.override(None)


@pytest.fixture(params=["native", "fft"])
def fast(request, monkeypatch):
    """The fast back end of this machine: with a compiler, or without."""
    if request.param == "fft":
        monkeypatch.setattr(native, "_code", lambda: None)
    elif not native.lanes():
        pytest.skip("needs gcc on Linux")
    return request.param


def rules(inference=NEVER, training=NEVER, **more):
    one = {"default": {"inference": inference, "training": training}}
    return {"native": one, "fft": one, **more}


def tensors(shape, kernel, dtype=torch.float32):
    return torch.zeros(shape, dtype=dtype), torch.zeros(shape[1], 1, *kernel, dtype=dtype)


def test_the_measured_rules_are_whole():
    assert set(table.RULES) == {"native", "fft", "onnx"}
    for backend in ("native", "fft"):
        assert "default" in table.RULES[backend]
        for mode in (mode for instructions in table.RULES[backend].values() for mode in instructions.items()):
            assert mode[0] in ("inference", "training")
            assert set(mode[1]) == {"taps", "multiply_adds", "per_point"}
            assert all(number > 0 for number in mode[1].values())
    assert set(table.RULES["onnx"]) == {"direct_over_matrices"}


def test_the_measured_rules_take_the_transform_for_large_kernels_and_earlier_in_training(fast):
    large, small = tensors((1, 64, 80, 80), (31, 31)), tensors((1, 64, 80, 80), (3, 3))
    assert depthwise.choose(*large) == fast
    assert depthwise.choose(*small) == "reference"
    x, weight = tensors((1, 64, 80, 80), (9, 9))
    assert depthwise.choose(x, weight.requires_grad_()) == fast


@pytest.mark.parametrize("shape", [(1, 1, 1, 1), (1, 3, 20, 30), (2, 64, 80, 80)])
@pytest.mark.parametrize("kernel", [(1, 1), (3, 3), (31, 31)])
def test_the_rules_decide_and_none_brings_the_measured_ones_back(shape, kernel, fast):
    before, made = depthwise.choose(*tensors(shape, kernel)), tensors(shape, kernel)
    table.override(rules(inference=ALWAYS))
    assert depthwise.choose(*made) == fast
    table.override(rules(inference=NEVER))
    assert depthwise.choose(*made) == "reference"
    table.override()
    assert depthwise.choose(*made) == before
    assert table._read() == table.RULES


def test_training_is_where_a_graph_is_recorded(fast):
    table.override(rules(inference=NEVER, training=ALWAYS))
    x, weight = tensors((1, 3, 20, 30), (5, 5))
    assert depthwise.choose(x, weight) == "reference"
    assert depthwise.choose(x.clone().requires_grad_(), weight) == fast
    assert depthwise.choose(x, weight.requires_grad_()) == fast
    with torch.no_grad():
        assert depthwise.choose(x, weight) == "reference"
    with torch.inference_mode():
        assert depthwise.choose(x, weight) == "reference"


def test_the_rule_of_the_processors_instructions_comes_before_the_default(fast):
    mine = {torch.backends.cpu.get_cpu_capability(): {"inference": ALWAYS, "training": NEVER}}
    table.override({fast: {**mine, "default": {"inference": NEVER, "training": NEVER}}})
    assert depthwise.choose(*tensors((1, 3, 20, 30), (5, 5))) == fast
    table.override({fast: {"another": mine, "default": {"inference": NEVER, "training": NEVER}}})
    assert depthwise.choose(*tensors((1, 3, 20, 30), (5, 5))) == "reference"


@pytest.mark.parametrize(
    ("rule", "taken"),
    [
        ({"taps": 15}, True),
        ({"taps": 16}, False),
        ({"multiply_adds": 16 * 20 * 30 * 15}, True),
        ({"multiply_adds": 16 * 20 * 30 * 15 + 1}, False),
    ],
)
def test_each_limit_counts(rule, taken, fast):
    table.override(rules(inference={**ALWAYS, **rule}))
    assert depthwise.choose(*tensors((1, 16, 20, 30), (3, 5))) == (fast if taken else "reference")


def test_points_are_those_of_the_transform(fast):
    y, x = native.plan((20, 30), (3, 5)) if fast == "native" else (None, None)
    each = 20 * 30 * 15 / (24 * 32 if fast == "fft" else y.n * x.n)
    for per_point, choice in ((each - 0.01, fast), (each + 0.01, "reference")):
        table.override(rules(inference={**ALWAYS, "per_point": per_point}))
        assert depthwise.choose(*tensors((3, 16, 20, 30), (3, 5))) == choice


def test_lanes_without_a_channel_are_points_too():
    if not native.lanes():
        pytest.skip("needs gcc on Linux")
    full, one_more = native.lanes(), native.lanes() + 1
    table.override(rules(inference={**ALWAYS, "per_point": 6}))
    assert depthwise.choose(*tensors((1, full, 40, 40), (3, 3))) == "native"
    assert depthwise.choose(*tensors((1, one_more, 40, 40), (3, 3))) == "reference"


def test_what_vectors_do_not_take_goes_by_the_other_rule():
    table.override({**rules(inference=NEVER), "fft": rules(inference=ALWAYS)["fft"]})
    for made in (tensors((1, 3, 8, 8), (5, 5), torch.float64), tensors((1, 1, 8, 8), (193, 3))):
        assert depthwise.choose(*made) == "fft"
    if native.lanes():
        assert depthwise.choose(*tensors((1, 3, 8, 8), (5, 5))) == "reference"


def test_other_rules_are_copied_and_reach_those_who_hold_the_table():
    held, measured = table.RULES, deepcopy(table.RULES)
    mine = rules(onnx={"direct_over_matrices": 7})
    table.override(mine)
    mine["onnx"]["direct_over_matrices"] = 8
    assert held["onnx"] == {"direct_over_matrices": 7}
    table.override(held)
    assert held["onnx"] == {"direct_over_matrices": 7}
    table.override()
    assert held == measured


def test_the_environment_comes_before_the_rules(monkeypatch):
    x, weight = torch.randn(1, 2, 9, 9), torch.randn(2, 1, 3, 3)
    expected = depthwise_conv2d(x, weight, backend="fft")
    table.override(rules(inference=NEVER))
    monkeypatch.setenv("PALYNO_DEPTHWISE", "fft")
    assert torch.equal(depthwise_conv2d(x, weight), expected)


def test_the_grid_has_what_was_asked_for_up_to_its_limit():
    grid = shapes(sides=(4, 8), channels=(2,), kernels=((3, 3), (1, 5)), batches=(1, 3), most=1000)
    # 288, 160, 1152 (too many), 640, and three times as much.
    assert grid == [(1, 2, 4, 4, 3, 3), (1, 2, 4, 4, 1, 5), (1, 2, 8, 8, 1, 5), (3, 2, 4, 4, 3, 3), (3, 2, 4, 4, 1, 5)]


@pytest.mark.parametrize("training", [False, True])
def test_a_sweep_times_every_candidate_of_every_shape(training, fast, one_thread):
    said = []
    grid = [(1, 2, 9, 7, 3, 5), (2, 3, 8, 8, 1, 1)]
    rows = sweep(grid, training=training, seconds=0, say=said.append)
    assert said == rows
    assert [tuple(row["shape"]) for row in rows] == grid
    candidates = {"last", "planar", "auto", "auto_last", "reference", "fft"} | (
        {"native"} if fast == "native" else set()
    )
    for row in rows:
        assert set(row) == {"shape", "training", "choice", "times"}
        assert row["training"] is training
        assert row["choice"] in ("reference", fast)
        assert set(row["times"]) == candidates
        assert all(0 < least <= median for median, least in row["times"].values())


def test_a_sweep_leaves_out_what_would_take_too_long(monkeypatch, one_thread):
    monkeypatch.setattr("palyno.kernels.depthwise.sweep.PLANAR", 1)
    (row,) = sweep([(1, 1, 5, 5, 3, 3)], seconds=0)
    assert "planar" not in row["times"]
    (row,) = sweep([(1, 1, 5, 5, 3, 3)], training=True, seconds=0)
    assert not {"planar", "reference"} & set(row["times"])


def test_a_sweep_writes_down_what_the_rules_take(fast, one_thread):
    for rule, choice in ((ALWAYS, fast), (NEVER, "reference")):
        table.override(rules(inference=rule, training=rule))
        for training in (False, True):
            (row,) = sweep([(1, 2, 9, 7, 3, 5)], training=training, seconds=0)
            assert row["choice"] == choice
