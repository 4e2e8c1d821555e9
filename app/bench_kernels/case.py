"""A case: one function at one shape, everyone who computes it, and what was asked of ours."""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from .roofline import arithmetic, floor_ms
from .timing import Budget, peak_mib, time_on_gpu, time_turns

__all__ = ["Case", "Contender", "Unsupported", "run_case"]

Tensors = Any
Exact = list[torch.Tensor] | None
ROLES = ("ours", "peer", "other")
# Together the input sets of a case are larger than the L2 cache by about so much, within limits.
CACHES, FEWEST_SETS, MOST_SETS = 2, 2, 8


class Unsupported(Exception):
    """What a contender raises where it cannot take a case."""


@dataclass(frozen=True)
class Contender:
    """One way to compute a case.

    Args:
        name: What it is called in tables.
        run: The timed call, on what `prepare` made.
        prepare: What is done once to a set of inputs, untimed: another order of memory, a recorded forward pass.
        role: `ours`, `peer` (what the target is measured against) or `other` (for information).
        same: Whether it computes the case's function; else one of the same size, whose error is not asked for.
        note: Says something about the prepared inputs, such as the library that will take them.
        eager: Timed launch by launch, where others are replayed from a CUDA graph.
    """

    name: str
    run: Callable[[Any], Tensors]
    prepare: Callable[[Any], Any] = lambda inputs: inputs
    role: str = "other"
    same: bool = True
    note: Callable[[Any], str] | None = None
    eager: bool = False

    def __post_init__(self) -> None:
        if self.role not in ROLES:
            raise ValueError(f"role: expected one of {', '.join(ROLES)}, got {self.role!r}")


@dataclass(frozen=True)
class Case:
    """One function at one shape.

    Args:
        operator: Name of the operator.
        name: What of it, such as `31x31 forward`.
        shape: Of the main input.
        dtype: As `str(torch.dtype)` without `torch.`, or `tf32`.
        make: Makes a set of random inputs.
        contenders: Everyone.
        exact: The result in float64 for some images or channels of a set of inputs.
        part: The same images or channels of a contender's result; a tensor or several.
        bytes_: Least traffic: each input read once, each output written once.
        operations: Multiplications and additions of the definition.
        target: How many times faster than the best peer ours has to be.
        memory_target: Which share of the best peer's peak memory ours may take; None does not measure it.
        grad: Whether contenders need gradients; else they run in inference mode.
        limited: Whether `bytes_` and `operations` say how fast it could be; not so of a whole network.
        budget: How much to measure, instead of the run's own.
    """

    operator: str
    name: str
    shape: tuple[int, ...]
    dtype: str
    make: Callable[[], Any]
    contenders: Sequence[Contender]
    exact: Callable[[Any], Tensors]
    part: Callable[[Tensors], Tensors]
    bytes_: float
    operations: float
    target: float | None = None
    memory_target: float | None = None
    grad: bool = False
    limited: bool = True
    budget: Budget | None = None


def run_case(case: Case, device: str, rates: dict[str, Any], budget: Budget) -> dict[str, Any]:
    """Measures a case; a contender that fails is in the result with the reason.

    Args:
        case: The case.
        device: `cpu` or `cuda`; a stream other than the default one must be current on `cuda`.
        rates: From `ceilings`.
        budget: How much to measure, unless the case says.
    """
    budget = case.budget or budget
    # Made outside: weights of a network are no inference tensors, and those may be prepared once and kept.
    sets = [case.make() for _ in range(_sets(case, device))]
    mode = contextlib.nullcontext() if case.grad else torch.inference_mode()
    with mode, arithmetic(case.dtype):
        exact, why = _exact(case, sets[0])
        if device == "cuda":
            rows = [_on_gpu(case, contender, sets, exact, budget) for contender in case.contenders]
        else:
            rows = _on_cpu(case, sets, exact, budget)
    known = case.limited and case.dtype in rates["tflop_s"]
    floor = floor_ms(case.bytes_, case.operations, case.dtype, rates) if known else None
    for row in rows:
        if floor is not None and "median_ms" in row:
            row["of_roofline"] = floor / row["median_ms"]
    return {
        "operator": case.operator,
        "case": case.name,
        "shape": list(case.shape),
        "dtype": case.dtype,
        "bytes": case.bytes_,
        "operations": case.operations,
        "floor_ms": floor,
        **({"no_float64": why} if why else {}),
        "contenders": rows,
        **_verdicts(case, rows),
    }


def _on_gpu(case: Case, contender: Contender, sets: Sequence[Any], exact: Exact, budget: Budget) -> dict[str, Any]:
    row: dict[str, Any] = {"name": contender.name, "role": contender.role}
    try:
        prepared = [contender.prepare(inputs) for inputs in sets]
        row |= _checked(case, contender, prepared[0], exact)
        row |= time_on_gpu(contender.run, prepared, budget, eager=contender.eager).document()
        if case.memory_target is not None:
            row["peak_mib"] = peak_mib(contender.run, prepared[0])
    except Exception as error:
        row["unsupported"] = _reason(error)
    prepared = []
    gc.collect()
    torch.cuda.empty_cache()
    return row


def _on_cpu(case: Case, sets: Sequence[Any], exact: Exact, budget: Budget) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    calls, inputs, timed = [], [], []
    for contender in case.contenders:
        row: dict[str, Any] = {"name": contender.name, "role": contender.role}
        rows.append(row)
        try:
            prepared = [contender.prepare(own) for own in sets]
            row |= _checked(case, contender, prepared[0], exact)
        except Exception as error:
            row["unsupported"] = _reason(error)
        else:
            calls.append(contender.run)
            inputs.append(prepared)
            timed.append(row)
    for row, spread in zip(timed, time_turns(calls, inputs, budget), strict=True):
        row |= spread.document()
    return rows


def _checked(case: Case, contender: Contender, prepared: Any, exact: Exact) -> dict[str, Any]:
    """What there is to say of a contender before it is timed: its relative error."""
    row: dict[str, Any] = {}
    if contender.note is not None:
        row["note"] = contender.note(prepared)
    result = contender.run(prepared)
    comparable = contender.same and exact is not None
    row["error"] = _error(_several(case.part(result)), exact or []) if comparable else None
    return row


def _exact(case: Case, inputs: Any) -> tuple[list[torch.Tensor] | None, str | None]:
    """The float64 result, or why there is none; contenders are timed all the same."""
    try:
        return _several(case.exact(inputs)), None
    except Exception as error:
        return None, _reason(error)


def _error(got: list[torch.Tensor], exact: list[torch.Tensor]) -> float:
    """The largest ||got - exact|| / ||exact||."""
    errors = []
    for a, b in zip(got, exact, strict=True):
        if a.shape != b.shape:
            raise ValueError(f"expected a result of {tuple(b.shape)}, got {tuple(a.shape)}")
        errors.append(float((a.double() - b).norm() / b.norm()))
    if any(error != error for error in errors):
        raise ValueError("NaN in the result")
    return max(errors)


def _several(tensors: Tensors) -> list[torch.Tensor]:
    return [tensors] if isinstance(tensors, torch.Tensor) else list(tensors)


def _sets(case: Case, device: str) -> int:
    if device != "cuda":
        return FEWEST_SETS
    cache = torch.cuda.get_device_properties(torch.cuda.current_device()).L2_cache_size
    return max(FEWEST_SETS, min(MOST_SETS, -(-CACHES * cache // int(case.bytes_))))


def _reason(error: Exception) -> str:
    """The first line of a fault, short enough for a table's note."""
    line = (str(error).strip().splitlines() or [""])[0]
    text = line if isinstance(error, Unsupported) else f"{type(error).__name__}: {line}"
    return text[:300]


def _verdicts(case: Case, rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """How the fastest of ours stands against the fastest peer, and against what was asked."""
    verdicts: dict[str, Any] = {"target": None, "memory_target": None}
    for key, measure, asked in (
        ("target", "median_ms", case.target),
        ("memory_target", "peak_mib", case.memory_target),
    ):
        best = {}
        for role in ("ours", "peer"):
            known = [row for row in rows if row["role"] == role and measure in row]
            best[role] = min(known, key=lambda row: row[measure], default=None)
        if asked is None and (key == "memory_target" or None in best.values()):
            continue
        verdict: dict[str, Any] = {"asked": asked, "reached": None, "met": False if asked is not None else None}
        ours, peer = best["ours"], best["peer"]
        if ours is not None and peer is not None:
            verdict |= {"ours": ours["name"], "peer": peer["name"]}
            speed, share = peer[measure] / max(ours[measure], 1e-12), ours[measure] / max(peer[measure], 1e-12)
            verdict["reached"] = speed if key == "target" else share
            if asked is not None:
                verdict["met"] = speed >= asked if key == "target" else share <= asked
        verdicts[key] = verdict
    return verdicts
