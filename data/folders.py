"""The slides in a folder, and the reason for every file that is none."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Hashable, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from ..errors import SlideError

__all__ = ["IMAGE_SUFFIXES", "SCANNER_SUFFIXES", "Skipped", "find_slides", "slide_key"]

SCANNER_SUFFIXES = {".svs", ".ndpi", ".mrxs", ".scn", ".bif", ".vms", ".vmu", ".svslide", ".dcm"}
IMAGE_SUFFIXES = (
    {".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".bmp", ".dib", ".webp", ".gif"}
    | {".jp2", ".j2k", ".jpf", ".jpx", ".j2c", ".jpc"}
    | {".tif", ".tiff", ".btf", ".tf2", ".tf8", ".lsm", ".stk"}
)
_SIDECARS = {".txt", ".md", ".json", ".csv", ".xml", ".yaml", ".yml", ".geojson", ".parquet", ".tsv", ".html", ".pdf"}
# Formats of microscopes that only their makers' libraries or Bio-Formats read.
_CLOSED = {".czi", ".nd2", ".lif", ".oib", ".oif", ".vsi", ".zvi", ".ims", ".xlef"}


class Skipped(NamedTuple):
    """A file or folder that is not read, and why."""

    path: Path
    reason: str


def find_slides(paths: str | Path | Iterable[str | Path], recursive: bool = True) -> tuple[list[Path], list[Skipped]]:
    """The slides under some paths, each once, in the order of the paths and sorted by name inside folders.

    Files are chosen by suffix in any case; a file that is named itself may also have another suffix, if it begins like
    an image. Nothing is opened further.

    Args:
        paths: Files and folders.
        recursive: Whether to go into folders in folders. Links to folders are not followed.

    Returns:
        The slides, and what was skipped: one entry a file, and one a folder for the sidecars in it.

    Raises:
        SlideError: A path does not exist.
    """
    slides: dict[Hashable, Path] = {}
    skipped: list[Skipped] = []
    for path in [paths] if isinstance(paths, str | Path) else paths:
        path = Path(path)
        if not os.path.lexists(path):
            raise SlideError(f"expected a file or folder, got {path}, which does not exist; check the path")
        if path.is_dir():
            found = _walk(path, recursive)
        else:
            reason = _refusal(path)
            named = reason is not None and path.suffix.lower() not in _SIDECARS and _begins_like_image(path)
            found = iter([path if reason is None or named else Skipped(path, reason)])
        for item in found:
            if isinstance(item, Skipped):
                skipped.append(item)
            else:
                first = slides.setdefault(slide_key(item), item)
                if first.resolve() != item.resolve():
                    skipped.append(Skipped(item, f"belongs to {first.name}"))
    return list(slides.values()), list(dict.fromkeys(skipped))


def slide_key(path: Path) -> Hashable:
    """What all paths of one slide have in common: where its file is, or the folder and series of its DICOM files."""
    file = path.resolve()
    if file.suffix.lower() == ".dcm":
        from .formats.dicom import dicom_series

        if series := dicom_series(file):
            return file.parent, series
    return file


def _walk(folder: Path, recursive: bool) -> Iterator[Path | Skipped]:
    """The slides and skipped entries of a folder, its files first."""
    try:
        entries = sorted(folder.iterdir(), key=lambda p: p.name)
    except OSError as error:
        yield Skipped(folder, f"a folder that cannot be listed: {error.strerror}")
        return
    parts = _parts(entries)
    sidecars: Counter[str] = Counter()
    folders = []
    for path in entries:
        suffix = path.suffix.lower()
        if path.name in parts:
            yield Skipped(path, f"belongs to {parts[path.name]}")
        elif path.is_dir():
            folders.append(path)
        elif suffix in _SIDECARS and not path.name.startswith("."):
            sidecars[suffix] += 1
        else:
            reason = _refusal(path)
            yield path if reason is None else Skipped(path, reason)
    if sidecars:
        n, kinds = sidecars.total(), ", ".join(sorted(sidecars))
        beside = (
            "1 file beside the slides that is no image" if n == 1 else f"{n} files beside the slides that are no images"
        )
        yield Skipped(folder, f"{beside} ({kinds})")
    for path in folders:
        if not recursive:
            yield Skipped(path, "a folder in a folder, and recursion is off")
        elif path.is_symlink():
            yield Skipped(path, "a link to a folder; name it itself to read it")
        elif path.name.startswith("."):
            yield Skipped(path, "a hidden folder")
        else:
            yield from _walk(path, recursive)


def _refusal(path: Path) -> str | None:
    """Why a file is no slide by its name and kind, or None."""
    suffix = path.suffix.lower()
    if path.name.startswith("."):
        return "a hidden file"
    if not path.is_file():
        return "a link to nothing" if path.is_symlink() else "not a regular file"
    if suffix in _CLOSED:
        return f"{suffix} is its maker's own format: export it as OME-TIFF"
    if suffix not in IMAGE_SUFFIXES | SCANNER_SUFFIXES:
        return f"not an image by its suffix ({suffix or 'none'})"
    return None


def _begins_like_image(path: Path) -> bool:
    from .formats.ifd import is_tiff
    from .formats.images import image_format

    try:
        with path.open("rb") as file:
            head = file.read(16)
    except OSError:
        return False
    return is_tiff(head) or image_format(head) is not None


def _parts(entries: list[Path]) -> dict[str, str]:
    """Names of files and folders that are pieces of a slide in several files, and that slide's name."""
    parts = {}
    names = {p.name for p in entries}
    for path in entries:
        suffix = path.suffix.lower()
        if suffix == ".mrxs":
            parts[path.stem] = path.name
        elif suffix in (".vms", ".vmu") and path.is_file() and path.stat().st_size < 2**20:
            listed = re.findall(r"=\s*(\S[^\r\n]*?)\s*$", path.read_text("utf-8", "replace"), re.MULTILINE)
            parts.update({name: path.name for name in listed if name in names and name != path.name})
    return parts
