"""`palyno bench kernels`: every operator against its peers and against what the machine can do, in one run.

`bench_kernels` measures and gives a document; `render` makes the table and the plot of `docs/kernels.md` from such
documents. Cases are in a file for each operator; `case` runs one, `timing` holds the clocks, `roofline` the ceilings.
"""

from __future__ import annotations

import contextlib
import platform
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from importlib import import_module, metadata
from pathlib import Path
from typing import Any

from ... import __version__
from ...errors import UsageError

__all__ = ["OPERATORS", "SCHEMA", "bench_kernels", "device_facts", "thread_count"]

SCHEMA = 1
# Name on the command line -> the module of its cases and the function in it.
OPERATORS = {
    "depthwise": ("depthwise", "cases"),
    "depthwise-sweep": ("depthwise", "sweep"),
    "omni": ("omni", "cases"),
    "sobel": ("sobel", "cases"),
    "routing": ("attention", "routing_cases"),
    "sigmoid": ("attention", "sigmoid_cases"),
    "network": ("network", "cases"),
    "onnx": ("exported", "cases"),
}
# Left to the other device unless asked for by name.
ONLY = {"depthwise-sweep": "cpu", "onnx": "cpu"}
PACKAGES = ("torch", "triton", "nvidia-cudnn-cu13", "ultralytics", "onnxruntime", "numpy")


def bench_kernels(
    device: str = "auto",
    operators: Sequence[str] = (),
    *,
    threads: int | None = None,
    quick: bool = False,
    on_case: Callable[[dict[str, Any]], None] | None = None,
) -> dict[str, Any]:
    """Measures operators.

    Args:
        device: `auto`, `cpu` or `cuda`.
        operators: Which of `OPERATORS`; none means all that the device has cases for.
        threads: Threads of PyTorch on a CPU; None leaves them as they are.
        quick: Tiny shapes, to see that everything runs; the numbers mean nothing.
        on_case: Called with the result of each case.

    Returns:
        A document for `json.dumps`: `device`, `versions`, `ceilings`, and `cases` with their contenders. Times are
        milliseconds a call. A contender that failed has `unsupported` with the reason instead of times, and a case
        that could not be set up has `failed`.

    Raises:
        UsageError: An unknown operator or device, or no such device here.
    """
    import torch

    from .case import run_case
    from .roofline import ceilings
    from .timing import Budget

    unknown = [name for name in operators if name not in OPERATORS]
    if unknown:
        raise UsageError(f"operator: expected one of {', '.join(OPERATORS)}; got {', '.join(unknown)}")
    if device not in ("auto", "cpu", "cuda"):
        raise UsageError(f"device: expected auto, cpu or cuda, got {device!r}")
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cuda" and not torch.cuda.is_available():
        raise UsageError("device: expected cuda to be here, and there is no NVIDIA GPU; use cpu")
    if threads is not None and threads < 1:
        raise UsageError(f"threads: expected at least 1, got {threads}")
    wanted = list(operators) or [name for name in OPERATORS if ONLY.get(name, device) == device]
    began = time.perf_counter()
    results: list[dict[str, Any]] = []
    budget = Budget(seconds=0.0, least=2, most=2) if quick else Budget()
    with thread_count(threads), _stream(device):
        rates = ceilings(device, quick=quick)
        for name in wanted:
            for result in _results(name, device, quick, lambda case: run_case(case, device, rates, budget)):
                results.append(result)
                if on_case is not None:
                    on_case(result)
        document = {
            "schema": SCHEMA,
            "quick": quick,
            "when": datetime.now(UTC).isoformat(timespec="seconds"),
            "seconds": round(time.perf_counter() - began, 1),
            "device": device_facts(device),
            "versions": _versions(),
            "ceilings": rates,
            "cases": results,
        }
    return document


def _results(name: str, device: str, quick: bool, run: Callable[[Any], dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """The result of every case of an operator; where cases cannot be made or set up, one that says why."""
    module, function = OPERATORS[name]
    try:
        cases = iter(getattr(import_module(f".{module}", __name__), function)(device, quick=quick))
    except Exception as error:
        yield {"operator": name, "case": "all", "failed": f"{type(error).__name__}: {error}"}
        return
    while True:
        case = None
        try:
            case = next(cases)
            yield run(case)
        except StopIteration:
            return
        except Exception as error:
            what = {"operator": name, "case": "all"} if case is None else {"operator": case.operator, "case": case.name}
            yield {**what, "failed": f"{type(error).__name__}: {error}"}
            if case is None:
                return


@contextlib.contextmanager
def thread_count(threads: int | None) -> Iterator[None]:
    """So many threads of PyTorch; None leaves it as it is."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(threads or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextlib.contextmanager
def _stream(device: str) -> Iterator[None]:
    """A stream of our own on a GPU: graphs cannot be captured on the default one."""
    import torch

    if device != "cuda":
        yield
        return
    with torch.cuda.stream(torch.cuda.Stream()):
        yield
        torch.cuda.synchronize()


def device_facts(device: str) -> dict[str, Any]:
    """Name of the processor or GPU, and what its speed depends on."""
    import torch

    if device == "cpu":
        return {"kind": "cpu", "name": _processor(), "threads": torch.get_num_threads()}
    properties = torch.cuda.get_device_properties(torch.cuda.current_device())
    return {
        "kind": "cuda",
        "name": properties.name,
        "multiprocessors": properties.multi_processor_count,
        "l2_mib": properties.L2_cache_size / 2**20,
        "cudnn": torch.backends.cudnn.version(),
        **_clocks(),
    }


def _clocks() -> dict[str, str]:
    """Driver and clocks, just after the last case; nothing where they cannot be read."""
    asked = ("driver_version", "clocks.sm", "clocks.mem", "clocks.max.sm")
    try:
        line = subprocess.run(
            ["nvidia-smi", f"--query-gpu={','.join(asked)}", "--format=csv,noheader"],
            capture_output=True,
            text=True,
            timeout=20,
            check=True,
        ).stdout.splitlines()[0]
    except (OSError, subprocess.SubprocessError, IndexError):
        return {}
    return dict(zip(asked, (value.strip() for value in line.split(",")), strict=False))


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def _versions() -> dict[str, str]:
    versions = {"palyno": __version__, "python": platform.python_version()}
    for package in PACKAGES:
        with contextlib.suppress(metadata.PackageNotFoundError):
            versions[package] = metadata.version(package)
    return versions
