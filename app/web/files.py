"""The files that the page hands out: every format of the command line, singly or in one archive."""

from __future__ import annotations

import json
import secrets
import zipfile
from pathlib import Path

from ... import __version__
from ...data.annotations.writers import FORMATS, slide_stems, write_results
from ...vision.results import SlideResult
from .session import Session

__all__ = ["CHOICES", "make"]

# What the buttons are called, in their order.
CHOICES = {
    "csv": "CSV",
    "parquet": "Parquet",
    "geojson": "GeoJSON",
    "coco": "COCO",
    "yolo": "YOLO",
    "labelstudio": "Label Studio",
    "pictures": "Pictures",
}


def make(session: Session, choice: str, conf: float) -> Path:
    """Writes one of `CHOICES`, or `all` of them.

    Returns:
        The one file there is, or an archive of several.

    Raises:
        UsageError: Nothing has been read, or `conf` is out of bounds.
    """
    results = session.results(conf)
    folder = session.folder / "files" / secrets.token_hex(8)
    content = folder / "content"
    content.mkdir(parents=True, mode=0o700)
    if choice != "pictures":
        write_results(results, content, FORMATS if choice == "all" else (choice,))
    if choice in ("pictures", "all"):
        _draw(session, results, content / "overlays")
    if choice == "all":
        _run(session, results, conf, content / "run.json")
    files = sorted(file for file in content.rglob("*") if file.is_file())
    if len(files) == 1:
        return files[0]
    archive = folder / ("palyno.zip" if choice == "all" else f"palyno-{choice}.zip")
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as target:
        for file in files:
            target.write(file, file.relative_to(content).as_posix())
    return archive


def _draw(session: Session, results: list[SlideResult], folder: Path) -> None:
    from ..overlay import draw, jpeg

    folder.mkdir()
    stems = slide_stems(session.readings)
    for (name, reading), result in zip(session.readings.items(), results, strict=True):
        (folder / f"{stems[name]}.jpg").write_bytes(jpeg(draw(result, reading.path)))


def _run(session: Session, results: list[SlideResult], conf: float, file: Path) -> None:
    """Says by what and how the tables were made."""
    made = results[0].provenance
    document = {
        "version": __version__,
        "model": {"name": made.model, "sha256": made.sha256},
        "runtime": made.runtime,
        "arguments": {**made.arguments, "conf": conf},
        "slides": [
            {
                "slide": result.slide,
                "grains": len(result),
                "um_per_px": result.um_per_px,
                "um_source": result.um_source,
                "fraction_read": result.fraction_read,
                "flags": list(result.flags),
            }
            for result in results
        ],
        "failures": [{"slide": name, "reason": reason} for name, reason in session.failures.items()],
    }
    file.write_text(json.dumps(document, indent=1, ensure_ascii=False, default=str) + "\n", encoding="utf-8")
