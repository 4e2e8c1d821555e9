"""`palyno bench kernels`: contenders agree, what fails is told, documents and pages are what they are said to be."""

import json
import sys
from xml.etree import ElementTree

import pytest
import torch
from click.testing import CliRunner
from palyno import InputError, UsageError
from palyno.app import bench_kernels as package
from palyno.app.bench_kernels import OPERATORS, bench_kernels, render
from palyno.app.bench_kernels.case import Case, Contender, Unsupported, run_case
from palyno.app.bench_kernels.plot import draw
from palyno.app.bench_kernels.roofline import arithmetic, floor_ms
from palyno.app.bench_kernels.timing import Budget, Spread, time_turns
from palyno.app.cli import cli

# ||out - exact|| / ||exact|| of a contender that computes the same function.
BOUND = {"float32": 1e-5, "tf32": 2e-3, "float16": 5e-3, "bfloat16": 3e-2}
# On a GPU of contenders that are not palyno's: torch 2.11 sums a float16 weight's gradient in NCHW to 2 % on an H200.
THEIRS = 5e-2
TIMES = {"median_ms", "min_ms", "q1_ms", "q3_ms", "samples", "calls_a_sample", "clock"}
RATES = {"copy_gb_s": 100.0, "tflop_s": {"float32": 1.0}}
ONCE = Budget(seconds=0, least=1, most=1)


@pytest.fixture(scope="module")
def quick():
    return bench_kernels("cpu", quick=True, threads=1)


def squares(contenders, **options):
    """A case of its own: x^2, 1000 of them."""
    return Case(
        operator="depthwise",
        name="3x3 squares",
        shape=(1, 1, 10, 100),
        dtype="float32",
        make=lambda: torch.randn(1000),
        contenders=contenders,
        exact=lambda x: x.double()[:10] ** 2,
        part=lambda y: y[:10],
        bytes_=8000,
        operations=1000,
        **options,
    )


def broken(x):
    raise RuntimeError("no kernel for this\nand a long story")


GOOD = [Contender("ours", torch.square, role="ours"), Contender("theirs", lambda x: x**2, role="peer")]


def test_every_contender_of_a_case_computes_the_same_function(quick):
    assert {row["operator"] for row in quick["cases"]} == set(OPERATORS)
    for row in quick["cases"]:
        assert "failed" not in row
        assert "no_float64" not in row
        ran = [entry for entry in row["contenders"] if "unsupported" not in entry]
        assert "ours" in {entry["role"] for entry in ran}
        for entry in ran:
            assert entry["error"] is None or entry["error"] < BOUND[row["dtype"]], (row["case"], entry)


@pytest.mark.gpu
def test_every_contender_on_the_gpu():
    document = bench_kernels("cuda", quick=True)
    for row in document["cases"]:
        assert "failed" not in row
        for entry in row["contenders"]:
            if "unsupported" not in entry and entry["error"] is not None:
                bound = BOUND[row["dtype"]] if entry["role"] == "ours" else THEIRS
                assert entry["error"] < bound, (row["case"], entry)


def test_the_document_has_what_its_description_says(quick):
    again = json.loads(json.dumps(quick))
    assert {"schema", "quick", "when", "seconds", "device", "versions", "ceilings", "cases"} == set(again)
    assert again["device"]["kind"] == "cpu"
    assert again["versions"]["torch"]
    assert again["ceilings"]["copy_gb_s"] > 0
    assert again["ceilings"]["tflop_s"]["float32"] > 0
    for row in again["cases"]:
        assert {"operator", "case", "shape", "dtype", "bytes", "operations", "floor_ms", "contenders"} <= set(row)
        for entry in row["contenders"]:
            assert ("unsupported" in entry) != (set(entry) >= TIMES)
            if "median_ms" in entry:
                assert 0 < entry["min_ms"] <= entry["q1_ms"] <= entry["median_ms"] <= entry["q3_ms"]


def test_what_cannot_run_or_is_wrong_is_told_and_the_rest_is_measured():
    contenders = [
        *GOOD,
        Contender("broken", broken),
        Contender("nan", lambda x: x * torch.nan),
        Contender("short", lambda x: x[:3]),
        Contender("unprepared", torch.square, prepare=broken),
        Contender("another function", torch.sin, same=False),
    ]
    rows = {row["name"]: row for row in run_case(squares(contenders), "cpu", RATES, ONCE)["contenders"]}
    assert rows["broken"]["unsupported"] == rows["unprepared"]["unsupported"] == "RuntimeError: no kernel for this"
    assert rows["nan"]["unsupported"] == "ValueError: NaN in the result"
    assert rows["short"]["unsupported"] == "ValueError: expected a result of (10,), got (3,)"
    assert rows["another function"]["error"] is None
    for name in ("ours", "theirs", "another function"):
        assert set(rows[name]) >= TIMES


def test_without_an_exact_result_contenders_are_timed_all_the_same():
    case = squares(GOOD)
    row = run_case(Case(**{**vars(case), "exact": broken}), "cpu", RATES, ONCE)
    assert row["no_float64"] == "RuntimeError: no kernel for this"
    assert all(set(entry) >= TIMES for entry in row["contenders"])


def test_an_operator_whose_cases_cannot_be_made_is_told(monkeypatch):
    monkeypatch.setitem(OPERATORS, "sobel", ("sobel", "no_such_function"))
    document = bench_kernels("cpu", ["sobel", "depthwise"], quick=True)
    assert document["cases"][0]["failed"].startswith("AttributeError")
    assert document["cases"][1]["contenders"]
    assert "AttributeError" in render.render_sections([document])["sobel"]


@pytest.mark.parametrize(("asked", "met"), [(1.5, True), (2.5, False), (None, None)])
def test_verdicts_compare_the_fastest_of_ours_with_the_fastest_peer(monkeypatch, asked, met):
    from palyno.app.bench_kernels import case as module

    rows = [
        {"name": "slow", "role": "ours", "median_ms": 9.0},
        {"name": "fast", "role": "ours", "median_ms": 2.0},
        {"name": "peer", "role": "peer", "median_ms": 4.0},
        {"name": "slow peer", "role": "peer", "median_ms": 40.0},
        {"name": "bystander", "role": "other", "median_ms": 1.0},
        {"name": "gone", "role": "peer", "unsupported": "why"},
    ]
    verdict = module._verdicts(squares([], target=asked), rows)["target"]
    assert verdict == {"asked": asked, "reached": 2.0, "met": met, "ours": "fast", "peer": "peer"}
    assert module._verdicts(squares([], target=3.0), rows[5:])["target"] == {
        "asked": 3.0,
        "reached": None,
        "met": False,
    }


def test_the_floor_is_the_slower_of_traffic_and_arithmetic():
    assert floor_ms(1e9, 0, "float32", RATES) == pytest.approx(10)
    assert floor_ms(1e9, 1e11, "float32", RATES) == pytest.approx(100)


def test_arithmetic_is_put_back():
    switches = (torch.backends.cuda.matmul, torch.backends.cudnn)
    before = [switch.allow_tf32 for switch in switches]
    for name, allowed in (("tf32", True), ("float32", False)):
        with arithmetic(name):
            assert [switch.allow_tf32 for switch in switches] == [allowed] * 2
    assert [switch.allow_tf32 for switch in switches] == before


def test_contenders_take_turns_and_the_patient_one_is_cut_short():
    order = []
    slow = [0.0]

    def call(name, seconds):
        import time

        def run(_):
            order.append(name)
            time.sleep(seconds)

        return run

    spreads = time_turns(
        [call("a", 0), call("b", 0.02)], [slow, slow], Budget(seconds=0, least=4, most=4, patience=0.03)
    )
    assert order[:6] == ["a", "b", "a", "b", "a", "b"]  # the first of each is a warm-up
    assert [len(spread.samples) for spread in spreads] == [4, 2]


PAGE = """# Operators

<!-- bench:targets -->
<!-- /bench:targets -->

Prose.

<!-- bench:depthwise -->
something old
<!-- /bench:depthwise -->
<!-- bench:depthwise-sweep -->
<!-- /bench:depthwise-sweep -->
"""


@pytest.fixture
def documents(quick, monkeypatch):
    # Whoever is faster today: ours takes one millisecond, theirs two.
    times = [Spread((1.0,), 1, "wall"), Spread((2.0,), 1, "wall")]
    monkeypatch.setattr("palyno.app.bench_kernels.case.time_turns", lambda calls, inputs, budget: times[: len(calls)])
    measured = run_case(squares(GOOD, target=1.5), "cpu", RATES, ONCE)
    failed = run_case(squares([*GOOD, Contender("broken", broken)], target=2.5), "cpu", RATES, ONCE)
    return [{**quick, "cases": [measured, failed, *quick["cases"]]}]


def test_a_page_is_filled_between_its_marks_and_again_the_same(tmp_path, documents):
    page = tmp_path / "page.md"
    page.write_text(PAGE)
    assert render.render_page(page, documents) == ["targets", "depthwise", "depthwise-sweep"]
    first = page.read_text()
    render.render_page(page, documents)
    assert page.read_text() == first
    assert first.startswith("# Operators\n\n<!-- bench:targets -->\n| ")
    assert "\nProse.\n" in first
    assert "something old" not in first
    assert "| 1 ms | 2 ms (theirs) | 2x | 1.5x | met |" in first
    assert "| 1 ms | 2 ms (theirs) | 2x | 2.5x | missed |" in first
    assert "- broken: RuntimeError: no kernel for this" in first
    assert "the worst of 4 sizes" in first
    assert "| 31 x 31 | " in first


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "expected a page with places"),
        ("# nothing", "expected places such as"),
        ("<!-- bench:coffee --><!-- /bench:coffee -->", "bench:coffee: expected one of targets, machines, depthwise"),
        ("<!-- bench:sobel --> never closed", "bench:sobel: expected one pair of marks"),
    ],
)
def test_a_page_without_places_is_refused_and_kept(tmp_path, documents, text, message):
    page = tmp_path / "page.md"
    if text is not None:
        page.write_text(text)
    with pytest.raises(UsageError, match=message):
        render.render_page(page, documents)
    assert text is None or page.read_text() == text


def test_the_plot_is_small_and_the_same_each_time(tmp_path, documents):
    files = [tmp_path / "a.svg", tmp_path / "b.svg"]
    for file in files:
        draw(documents, file)
    assert files[0].read_bytes() == files[1].read_bytes()
    assert 5_000 < files[0].stat().st_size < 300_000
    assert ElementTree.parse(files[0]).getroot().tag.endswith("svg")


@pytest.mark.parametrize("text", ["", "{}", '{"schema": 0, "cases": []}', "[1]"])
def test_other_files_are_refused(tmp_path, text):
    file = tmp_path / "x.json"
    file.write_text(text)
    with pytest.raises(InputError, match="bench kernels"):
        render.read_documents([file])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"device": "tpu"}, "device: expected auto, cpu or cuda, got 'tpu'"),
        ({"operators": ["tea", "sobel"]}, "operator: expected one of depthwise, .*; got tea"),
        ({"threads": 0}, "threads: expected at least 1, got 0"),
    ],
)
def test_unknown_options_name_the_known(arguments, message):
    with pytest.raises(UsageError, match=message):
        bench_kernels(**{"device": "cpu", "quick": True, **arguments})


def test_the_command_writes_prints_and_renders(tmp_path):
    out, page, plot = tmp_path / "cpu.json", tmp_path / "page.md", tmp_path / "images" / "plot.svg"
    page.write_text("<!-- bench:sobel --><!-- /bench:sobel -->")
    measure = ["bench", "kernels", "--device", "cpu", "--operator", "sobel", "--quick", "--threads", "1", "--out", out]
    threads = torch.get_num_threads()
    result = CliRunner().invoke(cli, [*map(str, measure), "--json"])
    assert result.exit_code == 0, result.output
    document = json.loads(result.stdout)
    assert document == json.loads(out.read_text())
    assert document["device"]["threads"] == 1
    assert torch.get_num_threads() == threads
    assert {row["operator"] for row in document["cases"]} == {"sobel"}
    assert "sobel: forward" in result.stderr
    assert "already there" in CliRunner().invoke(cli, [*map(str, measure)]).output
    result = CliRunner().invoke(
        cli, ["bench", "kernels", "--render", str(out), "--page", str(page), "--plot", str(plot), "--json"]
    )
    assert json.loads(result.stdout) == {"page": str(page), "places": ["sobel"], "plot": str(plot)}
    assert "| forward |" in page.read_text()
    assert plot.stat().st_size > 1000


def test_operators_left_to_the_other_device_are_run_when_named():
    assert package.ONLY == {"depthwise-sweep": "cpu", "onnx": "cpu"}
    assert {row["operator"] for row in bench_kernels("cpu", ["depthwise-sweep"], quick=True)["cases"]} == {
        "depthwise-sweep"
    }


@pytest.mark.parametrize("package", ["onnx", "onnxruntime"])
def test_without_onnxruntime_the_exported_network_is_left_out_with_the_reason(monkeypatch, package):
    from palyno.app.bench_kernels import exported

    exported._session.cache_clear()
    monkeypatch.setitem(sys.modules, package, None)
    (row,) = bench_kernels("cpu", ["onnx"], quick=True, threads=1)["cases"]
    told = {entry["name"]: entry.get("unsupported") for entry in row["contenders"]}
    assert told.pop("palyno, PyTorch") is None
    assert len(told) == 3
    assert all(reason.startswith("it needs onnx and onnxruntime: ") for reason in told.values())


def test_the_exported_network_is_compared_with_plain_convolutions_on_a_cpu_only(quick):
    from palyno.app.bench_kernels import exported

    row = next(row for row in quick["cases"] if row["operator"] == "onnx")
    assert [entry["role"] for entry in row["contenders"]] == ["other", "ours", "peer", "other"]
    assert next(exported.cases("cpu")).target == 1.2
    assert next(exported.cases("cpu")).shape == (1, 3, 640, 640)
    with pytest.raises(Unsupported, match="--device cpu"):
        next(exported.cases("cuda"))
