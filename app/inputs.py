"""The slides of a job: which there are, what they are called in the tables, and which shard reads them."""

from __future__ import annotations

import os
from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path

from ..errors import NothingToDoError, SlideError
from .report import SlideReport

__all__ = ["absolute", "gather", "share"]


def absolute(path: str | Path) -> Path:
    """The path from the root without `..`; links stay, as the user knows a slide by the link's name."""
    return Path(os.path.normpath(Path(path).absolute()))


def gather(paths: Sequence[str | Path]) -> tuple[dict[str, Path], list[SlideReport]]:
    """The slides under some paths by their names, and the inputs that are no slides.

    A slide's name is its path below the folder that all slides share.

    Args:
        paths: Slides and folders of slides.

    Returns:
        Absolute paths by name, in the order of the names; and what is not read, `failed` where it was asked for by name
        and `skipped` where a folder held it.

    Raises:
        NothingToDoError: There is no slide.
    """
    from ..data.folders import find_slides, slide_key

    given = sorted({absolute(path) for path in paths})
    found: dict[Hashable, Path] = {}
    reasons: dict[Path, str] = {}
    parts: set[Path] = set()
    for path in given:
        try:
            slides, skipped = find_slides([path])
        except SlideError as error:
            reasons[path] = str(error)
            continue
        for slide in slides:
            if slide not in given and _drawn(slide):
                reasons[slide] = "an overlay that palyno drew"
            elif (first := found.setdefault(slide_key(slide), slide)).resolve() != slide.resolve():
                parts.add(slide)
                reasons[slide] = f"belongs to {first.name}"
        reasons.update(skipped)
    base = Path(os.path.commonpath([slide.parent for slide in found.values()])) if found else Path.cwd()
    named = dict(sorted((_name(slide, base), slide) for slide in found.values()))
    unread = [
        SlideReport(
            _name(path, base),
            str(path),
            "failed" if _was_meant(path, given) and path not in parts else "skipped",
            reason,
        )
        for path, reason in sorted(reasons.items())
    ]
    if not named:
        listed = "; ".join(f"{report.slide}: {report.reason}" for report in unread)
        raise NothingToDoError(
            f"no slide in {', '.join(map(str, paths))}: expected images or whole-slide scans, or folders of them"
            + (f" ({listed})" if listed else "")
        )
    return named, unread


def share(slides: Mapping[str, Path], shard: tuple[int, int] | None) -> dict[str, Path]:
    """The slides of one shard.

    Args:
        slides: All slides of the job by their names.
        shard: (I, N) takes every N-th slide from the I-th on, counted from 1, in the order of the names; None all.

    Raises:
        NothingToDoError: The shard has none.
    """
    part, parts = shard or (1, 1)
    mine = list(slides)[part - 1 :: parts]
    if not mine:
        raise NothingToDoError(f"shard {part} of {parts} is empty: there are only {len(slides)} slides")
    return {name: slides[name] for name in mine}


def _drawn(path: Path) -> bool:
    """Whether palyno drew a picture; copies of a run and archives of the page are without `.palyno`."""
    out = path.parent.parent
    return path.parent.name == "overlays" and ((out / ".palyno").is_dir() or (out / "run.json").is_file())


def _was_meant(path: Path, given: Sequence[Path]) -> bool:
    """Whether an input that is not read was asked for by name; of a folder, only its slides are."""
    return path in given and not (path.is_dir() and os.access(path, os.R_OK | os.X_OK))


def _name(path: Path, base: Path) -> str:
    """A path below `base`, with `/`, and `base` by its own name; bytes that are not UTF-8 are escaped."""
    name = path.name if path == base else (path.relative_to(base) if path.is_relative_to(base) else path).as_posix()
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
