"""Tables and a plot for a page, from the documents of `bench_kernels`. The same documents give the same bytes.

The marked places of a page are `targets`, `machines`, and the operators' names on the command line.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from ..markdown import fill_page, read_document, table
from . import OPERATORS, SCHEMA

__all__ = ["read_documents", "render_page", "render_sections", "verdicts"]

NOTHING = "Not measured."
Document = dict[str, Any]
Row = dict[str, Any]


def read_documents(files: Iterable[str | Path]) -> list[Document]:
    """Reads documents that `palyno bench kernels --out` wrote.

    Raises:
        InputError: A file cannot be read or is something else.
    """
    return [read_document(file, "bench kernels", schema=SCHEMA, has=["cases"]) for file in files]


def render_page(page: str | Path, documents: Sequence[Document]) -> list[str]:
    """Fills the marked places of a page.

    Returns:
        The names of the places.

    Raises:
        UsageError: The page is not there, marks nothing, or marks something that there is no table for.
    """
    return fill_page(page, render_sections(documents))


def render_sections(documents: Sequence[Document]) -> dict[str, str]:
    """Markdown by name of place."""
    sections = {"targets": _targets(documents), "machines": _machines(documents)}
    for operator in OPERATORS:
        parts = []
        for document in documents:
            rows = [row for row in document["cases"] if row["operator"] == operator]
            if rows:
                parts.append(_sweep(rows) if operator.endswith("-sweep") else _operator(rows, document))
        sections[operator] = "\n\n".join(parts) or NOTHING
    return sections


def verdicts(documents: Sequence[Document]) -> list[Row]:
    """What was asked and what was reached, one row each; a sweep is one row, that of its worst case."""
    found: list[Row] = []
    for document in documents:
        swept: dict[str, list[Row]] = {}
        for row in document["cases"]:
            for key in ("target", "memory_target"):
                verdict = row.get(key)
                if verdict is None or verdict["asked"] is None:
                    continue
                entry = {**verdict, "row": row, "device": document["device"], "memory": key == "memory_target"}
                if row["operator"].endswith("-sweep"):
                    swept.setdefault(row["operator"], []).append(entry)
                else:
                    found.append(entry)
        for entries in swept.values():
            worst = min(entries, key=lambda entry: entry["reached"] or 0.0)
            found.append({**worst, "cases": len(entries), "below": sum(not entry["met"] for entry in entries)})
    return found


def _targets(documents: Sequence[Document]) -> str:
    lines = []
    for entry in verdicts(documents):
        row, memory = entry["row"], entry["memory"]
        unit = "peak_mib" if memory else "median_ms"
        what = f"{row['case']}, {_shape(row)}, {row['dtype']}"
        if "cases" in entry:
            what = f"the worst of {entry['cases']} sizes, {what}"
        reached, asked = entry["reached"], entry["asked"]
        if memory:
            said = ["–" if reached is None else f"{reached:.2f} of it", f"at most {asked:.2f}"]
        else:
            said = ["–" if reached is None else f"{_number(reached)}x", f"{_number(asked)}x"]
        lines.append(
            [
                f"{row['operator']}: {what}" + (", peak memory" if memory else ""),
                entry["device"]["kind"].upper().replace("CUDA", "GPU"),
                _value(row, entry.get("ours"), unit),
                f"{_value(row, entry.get('peer'), unit)} ({entry.get('peer', 'not run')})",
                *said,
                "met" if entry["met"] else "missed" if reached is not None else "not run",
            ]
        )
    return table(["", "on", "palyno", "fastest peer", "times faster", "asked", ""], lines) if lines else NOTHING


def _machines(documents: Sequence[Document]) -> str:
    lines = []
    for document in documents:
        device, rates = document["device"], document["ceilings"]
        about = [str(device["name"])]
        if "threads" in device:
            about.append(f"{device['threads']} threads")
        about += [f"{name} {device[key]}" for name, key in _ABOUT if device.get(key)]
        arithmetic = ", ".join(f"{name} {_number(rate)}" for name, rate in rates["tflop_s"].items())
        versions = ", ".join(f"{name} {version}" for name, version in document["versions"].items())
        lines.append(
            f"- {', '.join(about)}. Measured ceilings: copying {_number(rates['copy_gb_s'])} GB/s, matrix products "
            f"{arithmetic} TFLOP/s. {versions}. {document['when'][:10]}, {document['seconds']:.0f} s in all."
        )
    return "\n".join(lines)


_ABOUT = (("driver", "driver_version"), ("SM clock", "clocks.sm"), ("memory clock", "clocks.mem"))


def _operator(rows: Sequence[Row], document: Document) -> str:
    """One table: a line a case, a column a contender, medians in milliseconds."""
    names = list(dict.fromkeys(entry["name"] for row in rows for entry in row.get("contenders", ())))
    memory = any("peak_mib" in entry for row in rows for entry in row.get("contenders", ()))
    header = ["", "shape", "type", *names, "of the roofline", "error"]
    notes: list[str] = []
    lines = []
    for row in rows:
        if "failed" in row:
            notes.append(f"{row['case']}: {row['failed']}")
            continue
        known = {entry["name"]: entry for entry in row["contenders"]}
        fastest = min((e["median_ms"] for e in known.values() if "median_ms" in e), default=None)
        cells = []
        for name in names:
            entry = known.get(name, {})
            if "unsupported" in entry:
                notes.append(f"{name}: {entry['unsupported']}")
            cell = _number(entry["median_ms"]) if "median_ms" in entry else "–"
            cell = f"**{cell}**" if cell != "–" and entry["median_ms"] == fastest else cell
            cells.append(cell + (f" ({_number(entry['peak_mib'])} MiB)" if memory and "peak_mib" in entry else ""))
        ours = [entry for entry in row["contenders"] if entry["role"] == "ours" and "median_ms" in entry]
        best: Row = min(ours, key=lambda entry: entry["median_ms"], default={})
        share, error = best.get("of_roofline"), best.get("error")
        lines.append(
            [
                row["case"],
                _shape(row),
                row["dtype"],
                *cells,
                "–" if share is None else f"{share:.0%}",
                "–" if error is None else f"{error:.0e}",
            ]
        )
    text = f"{document['device']['name']}, milliseconds:\n\n{table(header, lines)}"
    if notes:
        text += "\n\n" + "\n".join(f"- {note}" for note in dict.fromkeys(notes))
    return text


def _sweep(rows: Sequence[Row]) -> str:
    """How many times faster than the better peer, kernels down and maps across."""
    cells: dict[tuple[int, int], str] = {}
    for row in rows:
        reached = (row.get("target") or {}).get("reached")
        kernel = int(row["case"].split("x")[0])
        cells[kernel, row["shape"][-1]] = "–" if reached is None else _number(reached)
    kernels, sides = (sorted({key[i] for key in cells}) for i in (0, 1))
    lines = [[f"{k} x {k}", *(cells.get((k, side), "–") for side in sides)] for k in kernels]
    return table(["", *(f"{side}²" for side in sides)], lines)


def _value(row: Row, name: str | None, unit: str) -> str:
    entry: Row = next((entry for entry in row["contenders"] if entry["name"] == name), {})
    return f"{_number(entry[unit])} {'MiB' if unit == 'peak_mib' else 'ms'}" if unit in entry else "–"


def _shape(row: Row) -> str:
    return "x".join(str(side) for side in row["shape"])


def _number(value: float) -> str:
    """Three digits that count, without an exponent."""
    if value >= 100:
        return f"{value:.0f}"
    text = f"{value:.3g}"
    return text if "e" not in text else f"{value:.7f}".rstrip("0")
