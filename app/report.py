"""What a detection job did: slide by slide, and as `run.json`."""

from __future__ import annotations

import hashlib
import platform
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

from .. import __version__
from ..data.counts import Tally, tally

__all__ = ["RunReport", "SlideReport", "code_fingerprint", "versions"]


@dataclass(frozen=True)
class SlideReport:
    """What became of one input.

    Attributes:
        slide: Name in the tables: the path below the folder that all inputs share.
        path: Where it lies.
        status: `ok`, `failed`, or `skipped` where a folder held a file that is no slide.
        reason: Why it failed, was skipped, or has no overlay.
        sha256: Hash of the content.
        width: Pixels of the full-resolution level.
        height: Pixels of the full-resolution level.
        grains: Grains found.
        taxa: Grains per taxon.
        fraction_read: Share of the area that was read, in [0, 1].
        flags: Warnings, such as `saturated`.
        um_per_px: Micrometres a pixel, or None.
        um_source: `metadata`, `caller` or None.
        seconds: Time the detector took.
        reused: Whether an earlier, broken-off run had read it.
    """

    slide: str
    path: str
    status: str
    reason: str | None = None
    sha256: str | None = None
    width: int | None = None
    height: int | None = None
    grains: int | None = None
    taxa: Mapping[str, int] = field(default_factory=dict)
    fraction_read: float | None = None
    flags: tuple[str, ...] = ()
    um_per_px: float | None = None
    um_source: str | None = None
    seconds: float = 0.0
    reused: bool = False


@dataclass(frozen=True)
class RunReport:
    """What a job did.

    Attributes:
        out: The output folder.
        key: Model, arguments and code: what the results depend on besides the slides.
        options: The options that only decide what is written.
        slides: Every input, by name.
        files: What was written, relative to `out`.
        began: When, ISO 8601.
        seconds: How long it took.
        finished: Whether all slides were read or found unreadable, and the tables are written.
        note: Why PyTorch ran the network where another runtime is faster.
    """

    out: Path
    key: Mapping[str, Any]
    options: Mapping[str, Any]
    slides: tuple[SlideReport, ...]
    files: tuple[str, ...]
    began: str
    seconds: float
    finished: bool
    note: str | None = None

    @property
    def read(self) -> tuple[SlideReport, ...]:
        """The slides that were read."""
        return tuple(slide for slide in self.slides if slide.status == "ok")

    @property
    def troubles(self) -> tuple[SlideReport, ...]:
        """The inputs to name to the user: failed, skipped, or without the overlay that was asked for."""
        return tuple(slide for slide in self.slides if slide.reason)

    @property
    def exit_code(self) -> int:
        """0 where everything asked for was done, 3 where some inputs failed, 4 where none was read."""
        if not self.read:
            return 4
        return 3 if any(slide.reason and slide.status != "skipped" for slide in self.slides) else 0

    def counts(self, level: float = 0.95) -> list[Tally]:
        """Grains per taxon over all slides, with intervals."""
        pooled: Counter[str] = Counter()
        for slide in self.read:
            pooled.update(slide.taxa)
        return tally(pooled.elements(), level=level)

    def document(self) -> dict[str, Any]:
        """The content of `run.json`. All that differs between equal runs stands under `timing`."""
        slides = []
        for slide in self.slides:
            row = asdict(slide)
            slides.append({name: value for name, value in row.items() if name not in ("seconds", "reused")})
        states = Counter(slide.status for slide in self.slides)
        return {
            "finished": self.finished,
            "model": self.key["model"],
            "arguments": self.key["arguments"],
            "device": self.key["device"],
            "runtime": self.key["runtime"],
            **({"note": self.note} if self.note else {}),
            "versions": self.key["versions"],
            "options": dict(self.options),
            "totals": {
                "slides": len(self.slides),
                **{state: states[state] for state in ("ok", "failed", "skipped")},
                "grains": sum(slide.grains or 0 for slide in self.read),
            },
            "slides": slides,
            "failures": [{"slide": s.slide, "reason": s.reason} for s in self.slides if s.status == "failed"],
            "files": list(self.files),
            "timing": {
                "began": self.began,
                "seconds": round(self.seconds, 3),
                "slides": {s.slide: {"seconds": round(s.seconds, 3), "reused": s.reused} for s in self.read},
            },
        }


def versions() -> dict[str, str]:
    """Versions of palyno, of Python and of the libraries that the numbers depend on; imports none of them."""
    found = {"palyno": __version__, "python": platform.python_version()}
    for name in ("torch", "torchvision", "onnxruntime", "ultralytics", "numpy", "opencv-python", "pillow"):
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


@cache
def code_fingerprint() -> str:
    """Hash of palyno's sources: two copies with the same one give the same results."""
    root = Path(__file__).parent.parent
    digest = hashlib.sha256()
    for part in ("app", "data", "kernels", "vision"):
        for file in sorted((root / part).rglob("*")):
            if file.suffix in (".py", ".yaml", ".csv") and "samples" not in file.parts:
                digest.update(file.relative_to(root).as_posix().encode() + b"\0" + file.read_bytes() + b"\0")
    return digest.hexdigest()[:16]
