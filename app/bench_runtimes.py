"""The whole network in PyTorch and in other runtimes on a CPU: milliseconds a tile, memory, and the time to the first.

Each runtime works in a process of its own, so that its threads and its memory are its own, and all of them are asked in
turn, one tile each round, so that whatever else the machine does meets them alike. While one works the others sleep.
`palyno detect` on whole slides, with all that it does besides, is timed in turn in the same way.
"""

from __future__ import annotations

import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ..errors import PalynoError, UsageError

__all__ = ["RUNTIMES", "bench_runtimes"]

# What is compared: the format, whether its size is open, and what the environment says.
RUNTIMES: dict[str, tuple[str, bool, dict[str, str]]] = {
    "palyno, PyTorch": ("weights", True, {}),
    "palyno, PyTorch, its own convolutions": (
        "weights",
        True,
        {"PALYNO_DEPTHWISE": "reference", "PALYNO_OMNI": "reference", "PALYNO_SOBEL": "convolution"},
    ),
    "onnxruntime, one size": ("onnx", False, {}),
    "onnxruntime, any size": ("onnx", True, {}),
    "OpenVINO, one size": ("openvino", False, {}),
    "OpenVINO, any size": ("openvino", True, {}),
}
BASE = "palyno, PyTorch"
# Whose whole runs are compared, as `palyno detect --runtime` names them.
WHOLE = ("torch", "onnxruntime")
WARM_UP = 3


def bench_runtimes(
    model: str = "hieraedge-n",
    *,
    threads: Sequence[int] = (1, 2),
    imgsz: int = 640,
    rounds: int = 40,
    runtimes: Sequence[str] = tuple(RUNTIMES),
    slides: Sequence[Path] = (),
    runs: int = 5,
    on_row: Callable[[dict[str, Any]], None] = lambda row: None,
) -> dict[str, Any]:
    """Times one tile a call, batch 1, float32.

    Args:
        model: Name of a model, or a weights file.
        threads: Numbers of threads to measure with.
        imgsz: Side of the tile.
        rounds: Calls of each that count.
        runtimes: Which of `RUNTIMES`; the first, to which ratios are, is always among them.
        slides: Slides and folders of them, to time `palyno detect` on; none leaves that out.
        runs: Runs of that which count.
        on_row: Called with each row as it is done.

    Returns:
        The settings, the machine, its load before and after, and `rows`: for each number of threads and runtime the
        median, quartiles and minimum in milliseconds, `faster` (the median of the rounds' ratios of PyTorch's time to
        its time), `cpu_ms` (the median of the processor time of all its threads), the seconds from an imported PyTorch
        to the first result, the process's peak memory in MiB, the largest differences from PyTorch. With slides also
        `detect`: the seconds of a first run, with an empty cache, the median of the later ones and all of them,
        `faster` as above, and the grains.

    Raises:
        UsageError: An unknown runtime.
        PalynoError: A runtime is not installed, or failed.
    """
    if unknown := sorted(set(runtimes) - set(RUNTIMES)):
        raise UsageError(f"runtimes: expected some of {', '.join(RUNTIMES)}; got {', '.join(unknown)}")
    # Of a machine that does nothing else it is below its cores at the start.
    load = [os.getloadavg()[0]] if hasattr(os, "getloadavg") else []
    chosen = [name for name in RUNTIMES if name in {BASE, *runtimes}]
    rows = []
    with tempfile.TemporaryDirectory(prefix="palyno-") as folder:
        files = _exported(model, Path(folder), imgsz, {RUNTIMES[name][:2] for name in chosen})
        for count in threads:
            for row in _measure(chosen, files, count, imgsz, rounds, Path(folder)):
                on_row(row)
                rows.append(row)
        whole = [row for count in threads for row in _whole(slides, model, count, runs, Path(folder))] if slides else []
    return {
        "model": model,
        "imgsz": imgsz,
        "batch": 1,
        "dtype": "float32",
        "rounds": rounds,
        "when": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "machine": {"processor": _processor(), "cores": len(os.sched_getaffinity(0)), "system": platform.platform()},
        "load_average": [round(value, 1) for value in [*load, *(os.getloadavg()[:1] if load else ())]],
        "versions": _versions(),
        "rows": rows,
        **({"detect": whole} if whole else {}),
    }


def _exported(model: str, folder: Path, imgsz: int, kinds: set[tuple[str, bool]]) -> dict[tuple[str, bool], str]:
    from ..vision.export import export

    files = {("weights", True): str(Path(model).absolute()) if Path(model).is_file() else model}
    for format, dynamic in sorted(kinds - {("weights", True)}):
        path = folder / f"{format}-{dynamic}{'.onnx' if format == 'onnx' else ''}"
        # Both as `palyno export` writes them: any size in half the bytes, one size as the fastest graph.
        done = export(model, path, format=format, imgsz=imgsz, dynamic=dynamic, half=dynamic)
        files[format, dynamic] = str(done.path)
    return files


def _measure(
    names: Sequence[str], files: dict[tuple[str, bool], str], threads: int, imgsz: int, rounds: int, folder: Path
) -> list[dict[str, Any]]:
    workers: dict[str, subprocess.Popen[str]] = {}
    times: dict[str, list[float]] = {name: [] for name in names}
    work: dict[str, list[float]] = {name: [] for name in names}
    try:
        started = {}
        for i, name in enumerate(names):
            kind, dynamic, variables = RUNTIMES[name]
            task = {
                "file": files[kind, dynamic],
                "runtime": "torch" if kind == "weights" else "auto",
                "threads": threads,
                "imgsz": imgsz,
                "output": str(folder / f"{i}.npy"),
            }
            # Libraries that read this once at their start would otherwise take all cores.
            environment = {**os.environ, **variables, "OMP_NUM_THREADS": str(threads)}
            workers[name] = subprocess.Popen(
                [sys.executable, "-m", __name__, json.dumps(task)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                env=environment,
            )
            started[name] = _ask(name, workers[name], None)
        for turn in range(WARM_UP + rounds):
            for name in names:
                answer = _ask(name, workers[name], "tile")
                if turn >= WARM_UP:
                    times[name].append(1000 * answer["seconds"])
                    work[name].append(1000 * answer["cpu_seconds"])
        ends = {name: _ask(name, workers[name], "end") for name in names}
    finally:
        for worker in workers.values():
            worker.kill()
            worker.wait()
    outputs = [folder / f"{i}.npy" for i in range(len(names))]
    return [
        {
            "threads": threads,
            "runtime": name,
            **_summary(times[name]),
            "faster": round(statistics.median(a / b for a, b in zip(times[BASE], times[name], strict=True)), 3),
            # Of all its threads: what is left of a difference when other work shares the machine.
            "cpu_ms": round(statistics.median(work[name]), 2),
            "first_s": round(started[name]["seconds"], 2),
            "peak_mib": ends[name]["peak_mib"],
            **_differences(outputs[names.index(BASE)], outputs[i]),
        }
        for i, name in enumerate(names)
    ]


def _whole(slides: Sequence[Path], model: str, threads: int, runs: int, folder: Path) -> list[dict[str, Any]]:
    """`palyno detect` in a process of its own, each runtime with a cache of its own that is empty at first."""
    times: dict[str, list[float]] = {runtime: [] for runtime in WHOLE}
    grains = {}
    for _ in range(1 + runs):
        for runtime in WHOLE:
            out = folder / f"results-{runtime}"
            line = [*map(str, slides), "--out", str(out), "--model", model, "--device", "cpu", "--runtime", runtime]
            variables = {
                "OMP_NUM_THREADS": str(threads),
                "PALYNO_CACHE": str(folder / f"cache-{runtime}-{threads}"),
            }
            began = time.perf_counter()
            done = subprocess.run(
                [sys.executable, "-m", "palyno", "detect", *line, "--overwrite", "--no-resume", "--quiet"],
                env={**os.environ, **variables},
                stderr=subprocess.PIPE,
                text=True,
            )
            times[runtime].append(time.perf_counter() - began)
            run = json.loads((out / "run.json").read_text(encoding="utf-8")) if done.returncode == 0 else {}
            if not run.get("runtime", "").startswith(runtime):
                raise PalynoError(f"palyno detect: expected a run in {runtime}, got {run.get('note') or done.stderr}")
            grains[runtime] = run["totals"]["grains"]
    return [
        {
            "threads": threads,
            "runtime": runtime,
            "grains": grains[runtime],
            "first_s": round(times[runtime][0], 2),
            "median_s": round(statistics.median(times[runtime][1:]), 2),
            "seconds": [round(value, 2) for value in times[runtime][1:]],
            "faster": round(
                statistics.median(a / b for a, b in zip(times[WHOLE[0]][1:], times[runtime][1:], strict=True)), 3
            ),
        }
        for runtime in WHOLE
    ]


def _ask(name: str, worker: subprocess.Popen[str], what: str | None) -> dict[str, Any]:
    assert worker.stdin is not None and worker.stdout is not None
    if what is not None:
        worker.stdin.write(f"{what}\n")
        worker.stdin.flush()
    line = worker.stdout.readline()
    answer: dict[str, Any] = json.loads(line) if line else {"failed": "it ended; see its messages above"}
    if "failed" in answer:
        raise PalynoError(f"{name}: expected a time, got: {answer['failed']}")
    return answer


def _summary(times: Sequence[float]) -> dict[str, float]:
    low, middle, high = statistics.quantiles(times, n=4, method="inclusive")
    named = {"median_ms": middle, "lower_quartile_ms": low, "upper_quartile_ms": high, "least_ms": min(times)}
    return {name: round(value, 2) for name, value in named.items()}


def _differences(base: Path, other: Path) -> dict[str, float]:
    import numpy as np

    a, b = np.load(base), np.load(other)
    difference = np.abs(a - b)
    return {"box_px": float(difference[:, :4].max()), "probability": float(difference[:, 4:].max())}


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())


def _versions() -> dict[str, str]:
    from importlib.metadata import PackageNotFoundError, version

    found = {}
    for name in ("palyno", "torch", "onnxruntime", "openvino", "ultralytics"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    return found


def _work(task: dict[str, Any], answer: Callable[[dict[str, Any]], None]) -> None:
    """The work of one process: a tile whenever a line asks for one."""
    import numpy as np
    import torch

    from ..vision.detector import load
    from ..vision.runtimes.parity import tiles

    torch.set_num_threads(task["threads"])
    # A real slide: how long an operator takes can depend on the numbers.
    image = tiles(task["imgsz"], False)[0]
    began = time.perf_counter()
    network = load(task["file"], device="cpu", runtime=task["runtime"]).network.model
    torch.set_num_threads(task["threads"])

    def run() -> torch.Tensor:
        with torch.inference_mode():
            output = network(image)
        return output if isinstance(output, torch.Tensor) else output[0]

    output = run()
    answer({"seconds": time.perf_counter() - began})
    np.save(task["output"], output.numpy())
    for line in sys.stdin:
        if line.strip() == "end":
            answer({"peak_mib": _peak_mib()})
            return
        began, worked = time.perf_counter(), time.process_time()
        run()
        answer({"seconds": time.perf_counter() - began, "cpu_seconds": time.process_time() - worked})


def _peak_mib() -> int:
    """Most memory that this process has held. What `getrusage` says on Linux counts the parent's before it started."""
    try:
        status = Path("/proc/self/status").read_text(encoding="utf-8")
        return round(int(status.partition("VmHWM:")[2].split()[0]) / 2**10)
    except (OSError, IndexError, ValueError):
        import resource

        return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20)


def _main() -> None:
    # What libraries print must not mix with the answers.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)

    def answer(document: dict[str, Any]) -> None:
        answers.write(json.dumps(document) + "\n")
        answers.flush()

    try:
        _work(json.loads(sys.argv[1]), answer)
    except PalynoError as error:
        answer({"failed": str(error)})


if __name__ == "__main__":
    _main()
