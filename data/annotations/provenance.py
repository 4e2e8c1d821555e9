"""Where the grains of a file come from, in the words that all formats share."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ...vision.results import SlideResult

__all__ = ["add_source", "source_of"]


def source_of(result: SlideResult) -> dict[str, Any]:
    """Model, sha256, version, arguments, runtime and device that a result was made with, as JSON holds them."""
    made = result.provenance
    source = {
        "model": made.model,
        "sha256": made.sha256,
        "version": made.version,
        "arguments": dict(made.arguments),
        "runtime": made.runtime,
        "device": made.device,
    }
    return json.loads(json.dumps(source, default=str))


def add_source(sources: list[dict[str, Any]], result: SlideResult) -> None:
    """Notes where the grains of a slide come from: each source once, with its `slides`.

    Slides of one run can differ in it: one with large grains is read with a larger overlap.
    """
    made = source_of(result)
    for source in sources:
        if all(source[name] == value for name, value in made.items()):
            source["slides"].append(result.slide)
            return
    sources.append({**made, "slides": [result.slide]})
