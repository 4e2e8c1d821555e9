"""The files that the page hands out: every format of the command line, singly or in one archive."""

from __future__ import annotations

import json
import secrets
import zipfile
from pathlib import Path
from typing import Any

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
        The one file there is, or an archive of several with `run.json`, which says by what and how they were made;
        formats that are one file say it themselves.

    Raises:
        UsageError: Nothing has been read, or `conf` is out of bounds.
    """
    results = session.results(conf)
    folder = session.folder / "files" / secrets.token_hex(8)
    content = folder / "content"
    content.mkdir(parents=True, mode=0o700)
    formats = FORMATS if choice == "all" else () if choice == "pictures" else (choice,)
    if formats:
        write_results(results, content, formats)
    if choice in ("pictures", "all"):
        _draw(session, results, content / "overlays")
    files = sorted(file for file in content.rglob("*") if file.is_file())
    if len(files) == 1:
        return files[0]
    written = {"formats": list(formats), "overlays": choice in ("pictures", "all")}
    _run(session, results, conf, content, written)
    files.append(content / "run.json")
    archive = folder / ("palyno.zip" if choice == "all" else f"palyno-{choice}.zip")
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as target:
        for file in files:
            target.write(file, file.relative_to(content).as_posix())
    return archive


def _draw(session: Session, results: list[SlideResult], folder: Path) -> None:
    from ...data.palette import colours
    from ..overlay import draw, jpeg

    folder.mkdir()
    stems = slide_stems(session.readings)
    palette = colours(session.found())
    for (name, reading), result in zip(session.readings.items(), results, strict=True):
        (folder / f"{stems[name]}.jpg").write_bytes(jpeg(draw(result, reading.path, palette=palette)))


def _run(session: Session, results: list[SlideResult], conf: float, content: Path, written: dict[str, Any]) -> None:
    """Writes `run.json` beside the files: by what and how they were made, in the words of `palyno detect`."""
    from ..jobs import DetectOptions
    from ..ledger import Content
    from ..report import RunReport, SlideReport, code_fingerprint, key_of, machine

    assert session.detector is not None, "no results without one"
    key = key_of(
        session.detector, DetectOptions(conf=conf, um_per_px=session.um_per_px).arguments(), code_fingerprint()
    )
    read = [
        # The visitor knows a slide by its name; where it lies here is the server's own.
        SlideReport.of(result, path=result.slide, sha256=Content.of(reading.path).sha256, seconds=reading.seconds)
        for result, reading in zip(results, session.readings.values(), strict=True)
    ]
    failed = [SlideReport(name, name, "failed", reason) for name, reason in session.failures.items()]
    files = sorted(file.relative_to(content).as_posix() for file in content.rglob("*") if file.is_file())
    report = RunReport(
        out=content,
        key=key,
        options=written,
        slides=tuple(sorted((*read, *failed), key=lambda slide: slide.slide)),
        files=tuple(files),
        began=session.began,
        seconds=session.seconds,
        finished=not session.cancelled,
        note=getattr(session.detector, "note", None),
        machine=machine(key["device"]),
    )
    text = json.dumps(report.document(), indent=1, ensure_ascii=False, default=str)
    (content / "run.json").write_text(text + "\n", encoding="utf-8")
