"""The page of the comparison: tables between `<!-- bench:NAME -->` marks, and a plot. Same documents, same bytes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..markdown import fill_page, read_document, table
from . import SCHEMA

__all__ = ["read_figures", "render_page"]

# Figures shown, with their heads; those of counts are shares.
COLUMNS = {
    "mAP50-95": "mAP50-95",
    "mAP50": "mAP50",
    "mAP50_multi_label": "mAP50, up to three names",
    "AP50_any": "AP50, any grain",
    "f1": "F1",
    "count_error": "count error",
}


def read_figures(file: str | Path, key: str) -> dict[str, Any]:
    """A document of `palyno bench detectors`, which must have `key`.

    Raises:
        InputError: It is something else.
    """
    return read_document(file, "bench detectors", schema=SCHEMA, has=[key])


def render_page(
    page: str | Path, scores: Sequence[Mapping[str, Any]], latencies: Sequence[Mapping[str, Any]]
) -> list[str]:
    """Fills the marked places of a page.

    They are `scores-SET` and `differences-SET` of all documents, `instead-SET` of all sets of a document by the name of
    its first, and `latency`.

    Returns:
        The names of the places.

    Raises:
        UsageError: The page is missing, or marks a place that there is nothing for.
    """
    sections = {"latency": _latency(latencies)}
    for document in scores:
        for name in document["sets"]:
            sections[f"scores-{name}"] = _scores(document, name)
            sections[f"differences-{name}"] = _differences(document, name)
        sections[f"instead-{next(iter(document['sets']))}"] = _instead(document)
    return fill_page(page, sections)


def _scores(document: Mapping[str, Any], name: str) -> str:
    rows = [(model, entry, entry["mean"][name]) for model, entry in document["models"].items() if name in entry["mean"]]
    rows.sort(key=lambda row: -row[2]["mAP50-95"][0])
    columns = {key: head for key, head in COLUMNS.items() if all(key in mean for _, _, mean in rows)}
    best = {key: (min if key == "count_error" else max)(mean[key][0] for _, _, mean in rows) for key in columns}
    lines = []
    for model, entry, mean in rows:
        seeds = sum(name in run for run in entry["runs"].values())
        cells = [model, _number(entry.get("parameters"), 1e6), _number(entry.get("gflops"), 1), str(seeds)]
        cells += [_value(mean[key], key, mean[key][0] == best[key]) for key in columns]
        lines.append(cells)
    images = document["sets"][name]
    head = ["model", "M parameters", "GFLOPs", "seeds", *columns.values()]
    intervals = " with 95 % intervals over images" if document["draws"] else ""
    note = f"{images['images']} images, {images['grains']} boxes; means over seeds{intervals}. "
    on = document.get("chosen_on")
    counts = f"Counts at {document['conf']}" if on is None else f"Counts of each at the threshold best for it on {on}"
    return f"{note}{counts}.\n\n" + table(head, lines)


def _differences(document: Mapping[str, Any], name: str) -> str:
    lines = [
        [model, *(_signed(entry[name][key], key) for key in ("mAP50-95", "mAP50", "AP50_any", "count_error"))]
        for model, entry in document["differences"].items()
        if name in entry
    ]
    return table(["less", "mAP50-95", "mAP50", "AP50, any grain", "count error"], lines)


def _instead(document: Mapping[str, Any]) -> str:
    """What each reaches less the detector that `differences` are of: what comes of it in its place."""
    names = list(document["sets"])
    lines = []
    for model, entry in document["differences"].items():
        known = document["models"][model]
        cells = [model, _number(known.get("gflops"), 1), str(len(known["runs"]))]
        for name in names:
            value, *ends = (-figure for figure in entry[name]["mAP50-95"])
            cells.append(_signed([value, *sorted(ends)], "mAP50-95"))
        lines.append(cells)
    # parts-validation: validation.
    return table(["in its place", "GFLOPs", "seeds", *(name.rpartition("-")[2] for name in names)], lines)


def _latency(documents: Sequence[Mapping[str, Any]]) -> str:
    parts = []
    for document in documents:
        device = document["device"]
        batches = sorted({int(b) for entry in document["models"].values() for b in entry})
        how = f"{device['threads']} threads, float32" if device["kind"] == "cpu" else "float16"
        what = f"{device['name']}, {how}"
        reference = document["models"].get("yolo12n", {})
        lines = []
        for model, entry in document["models"].items():
            cells = [model]
            for batch in batches:
                own, peer = entry[str(batch)], reference.get(str(batch))
                cells.append(f"{own['median_ms']:.3g} ms")
                cells.append(f"{own['median_ms'] / peer['median_ms']:.2f}" if peer else "–")
            lines.append(cells)
        head = ["model", *(h for b in batches for h in (f"batch {b}", "of YOLO12n's"))]
        parts.append(f"{what}, torch {document['torch']}, {document['when']}:\n\n{table(head, lines)}")
    return "\n\n".join(parts) if parts else "Not measured."


def _value(figure: Sequence[float], key: str, best: bool) -> str:
    value, *ends = (f"{v:.1%}" if key == "count_error" else f"{v:.3f}" for v in figure)
    text = f"**{value}**" if best else value
    return f"{text} ({ends[0]} to {ends[1]})" if ends else text


def _signed(figure: Sequence[float], key: str) -> str:
    value, *ends = (f"{100 * v:+.1f}" for v in figure)
    sure = len(ends) == 2 and figure[1] * figure[2] > 0
    text = f"**{value}**" if sure else value
    return f"{text} ({ends[0]} to {ends[1]})" if ends else text


def _number(value: float | None, unit: float) -> str:
    return f"{value / unit:.2f}" if value else "–"
