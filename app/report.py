"""What a detection job did: slide by slide, and as `run.json`."""

from __future__ import annotations

import hashlib
import platform
import sys
from collections import Counter
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .. import __version__
from ..data.counts import Tally, tally
from ..data.taxa import counted_as

if TYPE_CHECKING:
    from ..vision.detector import Detector
    from ..vision.results import SlideResult

__all__ = ["RunReport", "SlideReport", "code_fingerprint", "key_of", "machine", "processor", "versions"]

# What decodes slides, runs networks and rounds numbers. Of OpenCV a machine has one of two distributions.
_LIBRARIES = (
    *("torch", "torchvision", "onnxruntime", "onnx", "ultralytics", "timm", "numpy"),
    *("opencv-python", "opencv-python-headless", "pillow", "tifffile", "imagecodecs"),
    *("openslide-python", "openslide-bin"),
)


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
        taxa: Grains per taxon, named as in `grains.csv`.
        fraction_read: Share of the area that was read, in [0, 1].
        flags: Warnings, such as `saturated`.
        notes: What was decided in reading the file, such as which plane of a focus stack was taken.
        um_per_px: Micrometres a pixel, or None.
        um_source: `metadata`, `caller` or None.
        arguments: What it was read with: the asked arguments with what became of them on this slide, such as the pixels
            of its tiles and of their overlap, and the thresholds of names; as in the provenance of the other files.
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
    notes: tuple[str, ...] = ()
    um_per_px: float | None = None
    um_source: str | None = None
    arguments: Mapping[str, Any] = field(default_factory=dict)
    seconds: float = 0.0
    reused: bool = False

    @classmethod
    def of(cls, result: SlideResult, **more: Any) -> SlideReport:
        """A slide that was read; `more` are `path`, `sha256` and what else its result does not say."""
        return cls(
            slide=result.slide,
            status="ok",
            width=result.width,
            height=result.height,
            grains=len(result),
            taxa=dict(sorted(Counter(result.taxa).items())),
            fraction_read=result.fraction_read,
            flags=result.flags,
            notes=result.notes,
            um_per_px=result.um_per_px,
            um_source=result.um_source,
            arguments=dict(result.provenance.arguments),
            **more,
        )


@dataclass(frozen=True)
class RunReport:
    """What a job did.

    Attributes:
        out: The output folder.
        key: Model, arguments and code: what the results depend on besides the slides. See `key_of`.
        options: The options that only decide what is written.
        slides: Every input, by name.
        files: What was written, relative to `out`.
        began: When, ISO 8601.
        seconds: How long it took.
        finished: Whether all slides were read or found unreadable, and the tables are written.
        note: Why PyTorch ran the network where another runtime is faster.
        machine: Where it was done, see `machine`.
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
    machine: Mapping[str, Any] = field(default_factory=dict)

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
        """Grains per taxon over all slides, with intervals; names that mean the same are one taxon."""
        pooled: Counter[str] = Counter()
        for slide in self.read:
            for taxon, n in slide.taxa.items():
                pooled[counted_as(taxon)] += n
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
                "slides": states["ok"] + states["failed"],  # What is skipped is none.
                **{state: states[state] for state in ("ok", "failed", "skipped")},
                "grains": sum(slide.grains or 0 for slide in self.read),
            },
            "slides": slides,
            "failures": [{"slide": s.slide, "reason": s.reason} for s in self.slides if s.status == "failed"],
            "files": list(self.files),
            "timing": {
                "began": self.began,
                "seconds": round(self.seconds, 3),
                "machine": dict(self.machine),
                "slides": {s.slide: {"seconds": round(s.seconds, 3), "reused": s.reused} for s in self.read},
            },
        }


def key_of(detector: Detector, arguments: Mapping[str, Any], code: str) -> dict[str, Any]:
    """What results depend on besides the slides, as `run.json` and the ledger hold it.

    Args:
        detector: What reads the slides.
        arguments: Those of `Detector.detect` that it is given.
        code: See `code_fingerprint`.
    """
    model = {"name": detector.name, "sha256": detector.sha256}
    # An exported file has a hash of its own; this is that of its weights.
    about = getattr(detector, "metadata", None)
    if about is not None and (weights := about.training.get("exported_from")):
        model["exported_from"] = weights
    return {
        "model": model,
        "arguments": dict(arguments),
        "device": str(detector.device),
        "runtime": getattr(detector, "runtime", ""),
        "versions": {**versions(), "code": code},
    }


def machine(device: str) -> dict[str, Any]:
    """The machine that a job runs on: the last digits of a confidence depend on it, and the time.

    Args:
        device: Where the network runs, such as `cuda:0`.

    Returns:
        `platform`, `processor`, `threads` of PyTorch where it is at work, the name of a `gpu`, and whether PyTorch
        rounds what it multiplies in convolutions there to TF32, as it does by default.
    """
    found: dict[str, Any] = {"platform": platform.platform(), "processor": processor()}
    # Without a network in it, PyTorch is not imported only to be asked.
    torch = sys.modules.get("torch")
    if torch is not None:
        found["threads"] = torch.get_num_threads()
        if device.startswith("cuda"):
            from ..kernels.backends import tf32_convolutions

            found |= {"gpu": torch.cuda.get_device_name(device), "tf32_convolutions": tf32_convolutions()}
    return found


@cache
def processor() -> str:
    """The processor's name, as far as the system tells it."""
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def versions() -> dict[str, str]:
    """Versions of palyno, of Python and of the libraries that the numbers depend on; imports none of them."""
    found = {"palyno": __version__, "python": platform.python_version()}
    for name in _LIBRARIES:
        with suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
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
