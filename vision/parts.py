"""Weights on the disk: one safetensors file, or several parts of it beside each other, as places with a limit ask for.

    hieraedge-s-00001-of-00002.safetensors  hieraedge-s-00002-of-00002.safetensors

Each part is a safetensors file with its share of the tensors and the header of the whole. Any of them stands for all.
Size and hash of a model are those of its parts' bytes one after the other: `cat NAME-*-of-*.safetensors | sha256sum`.
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..data.atomic import refuse_existing, write_bytes
from ..errors import NothingToDoError, RejectedModelError, UsageError

if TYPE_CHECKING:
    import torch

__all__ = ["LARGEST", "Stored", "is_part", "part_paths", "read_stored", "split_stored"]

# A layer table and its class names are some ten kilobytes.
LARGEST_HEADER = 16 * 2**20

# Of a part, in bytes: below 16 MiB by as much as nobody has to count.
LARGEST = 15_000_000

_NAME = re.compile(r"(?P<stem>.+)-(?P<number>\d{5})-of-(?P<total>\d{5})\.safetensors")

# How files begin that get mistaken for weights.
_IMPOSTORS = {
    b"PK\x03\x04": "a zip archive, as torch.save writes: a pickle",
    b"\x80": "a pickle",
    b"\x1f\x8b": "a gzip archive",
    b"version https://git-lfs": "a pointer of git-lfs, not the file itself",
    b"<": "a web page",
    b"{": "JSON",
}


@dataclass(frozen=True)
class Stored:
    """A model's bytes as they lie on the disk.

    Attributes:
        paths: The file, or the parts in order.
        parts: The bytes of each.
    """

    paths: tuple[Path, ...]
    parts: tuple[bytes, ...]

    @property
    def size(self) -> int:
        """Bytes, of all parts together."""
        return sum(map(len, self.parts))

    @cached_property
    def sha256(self) -> str:
        """Hash of the bytes, of parts one after the other."""
        digest = hashlib.sha256()
        for part in self.parts:
            digest.update(part)
        return digest.hexdigest()

    def header(self) -> dict[str, str]:
        """What the first part says beside its tensors, once all are safetensors and say the same.

        Raises:
            RejectedModelError: One is another kind of file, or of another model.
            ValueError: A header is no JSON, or of another form; so too TypeError, AttributeError and RecursionError.
        """
        for path, data in zip(self.paths, self.parts, strict=True):
            _check_safetensors(path, data)
        first, *others = (_header(data) for data in self.parts)
        for path, header in zip(self.paths[1:], others, strict=True):
            if header != first:
                names = _named(first), _named(header)
                got = f"{names[1]}, made otherwise" if names[0] == names[1] else names[1]
                raise RejectedModelError(
                    f"{path}: expected a part of {names[0]}, as {self.paths[0].name} is, got one of {got}; "
                    "copy all parts of one model again"
                )
        return first

    def tensors(self) -> dict[str, torch.Tensor]:
        """The tensors of all parts, on the CPU.

        Raises:
            RejectedModelError: A damaged file, or a tensor that two parts have.
        """
        from safetensors import SafetensorError
        from safetensors.torch import load

        tensors: dict[str, torch.Tensor] = {}
        for path, data in zip(self.paths, self.parts, strict=True):
            try:
                own = load(data)
            except (SafetensorError, ValueError, KeyError, RuntimeError) as error:
                raise RejectedModelError(
                    f"{path}: expected safetensors, got {error}; it is damaged, copy it again"
                ) from error
            if twice := sorted(tensors.keys() & own.keys()):
                raise RejectedModelError(
                    f"{path}: expected tensors that no other part has, got {twice[0]} again ({len(twice)} in all); "
                    "copy all parts of one model again"
                )
            tensors |= own
        return tensors


def is_part(path: str | Path) -> bool:
    """Whether a file is named as one of several parts."""
    return _NAME.fullmatch(Path(path).name) is not None


def part_paths(path: str | Path) -> tuple[Path, ...]:
    """All parts of the model that a file is a part of, in order, whether they are there or not; of a whole, itself.

    Raises:
        RejectedModelError: A part's number that cannot be.
    """
    path = Path(path)
    if (name := _NAME.fullmatch(path.name)) is None:
        return (path,)
    number, total = int(name["number"]), int(name["total"])
    if not 1 <= number <= total:
        raise RejectedModelError(
            f"{path}: expected a part from 00001 to {total:05d}, as its name says, got {number:05d}"
        )
    return _parts_of(path.parent, name["stem"], total)


def read_stored(path: str | Path) -> Stored:
    """Reads a weights file, or all parts where it is one of several.

    Raises:
        RejectedModelError: A file is missing or cannot be read.
    """
    paths = part_paths(path)
    missing = [file.name for file in paths if not file.exists()]
    if missing and len(paths) > 1:
        told = missing[0] if len(missing) == 1 else f"{missing[0]}, one of {len(missing)},"
        raise RejectedModelError(
            f"{path}: expected all {len(paths)} parts beside each other, {told} is missing; copy all of "
            "them into one folder"
        )
    parts = []
    for file in paths:
        try:
            parts.append(file.read_bytes())
        except OSError as error:
            raise RejectedModelError(f"{file}: expected a weights file, got {error.strerror or error}") from error
    return Stored(paths, tuple(parts))


def split_stored(stored: Stored, out: str | Path, *, largest: int = LARGEST, overwrite: bool = False) -> Stored:
    """Writes weights again in parts, as few as go in order of the tensors' names; the same tensors give the same bytes.

    Args:
        stored: The weights, whole or in other parts.
        out: Folder of the parts; they are named after the file that they come from.
        largest: Bytes that no part is larger than.
        overwrite: Replace parts that are there.

    Returns:
        The parts, as they were read back.

    Raises:
        RejectedModelError: Damaged weights.
        NothingToDoError: They fit into one file.
        UsageError: A tensor is larger than `largest`, or `out` holds parts that are not to be replaced, or other ones.
    """
    from safetensors.torch import save

    # One entry: safetensors writes several in any order, and the parts would not be the same twice.
    header, tensors = {"palyno": stored.header()["palyno"]}, stored.tensors()
    # No more than safetensors writes: eight bytes, the header, up to seven spaces; then of each tensor entry and data.
    fixed = 8 + 7 + len(json.dumps({"__metadata__": header}))
    sizes = {}
    for key, tensor in sorted(tensors.items()):
        entry = {key: {"dtype": "F8_E4M3FNUZ", "shape": tuple(tensor.shape), "data_offsets": [largest, largest]}}
        sizes[key] = len(json.dumps(entry)) + tensor.numel() * tensor.element_size()
    most = max(sizes, key=lambda key: sizes[key], default="")
    if sizes and (least := fixed + sizes[most]) > largest:
        raise UsageError(f"largest: expected {least:,} bytes or more, as {most} takes, got {largest:,}")
    room = 0
    shares: list[dict[str, torch.Tensor]] = []
    for key, size in sizes.items():
        if size > room:
            room = largest - fixed
            shares.append({})
        room -= size
        shares[-1][key] = tensors[key]
    if len(shares) < 2:
        raise NothingToDoError(
            f"{stored.paths[0]}: expected more than goes into one file of {largest:,} bytes, got {stored.size:,}"
        )
    name = _NAME.fullmatch(stored.paths[0].name)
    stem = stored.paths[0].stem if name is None else name["stem"]
    paths = _parts_of(Path(out), stem, len(shares))
    others = sorted(f for f in Path(out).glob("*.safetensors") if _is_of(f, stem) and f not in paths)
    if others:
        raise UsageError(
            f"{others[0]}: expected no other parts of {stem} in the folder, which would be taken for parts of these; "
            "delete them, or choose another folder"
        )
    for path in paths:
        refuse_existing(path, overwrite=overwrite)
    for path, share in zip(paths, shares, strict=True):
        write_bytes(path, save(share, header), overwrite=overwrite)
    return read_stored(paths[0])


def _parts_of(folder: Path, stem: str, total: int) -> tuple[Path, ...]:
    return tuple(folder / f"{stem}-{number:05d}-of-{total:05d}.safetensors" for number in range(1, total + 1))


def _is_of(path: Path, stem: str) -> bool:
    name = _NAME.fullmatch(path.name)
    return name is not None and name["stem"] == stem


def _check_safetensors(path: Path, data: bytes) -> None:
    if _is_safetensors(data):
        return
    for start, what in _IMPOSTORS.items():
        if data.startswith(start):
            advice = "download it again"
            if "pickle" in what:
                advice = "loading a pickle runs whatever code is inside, so palyno never does; get the safetensors file"
            raise RejectedModelError(f"{path}: expected safetensors, got {what}; {advice}")
    raise RejectedModelError(
        f"{path}: expected safetensors, got {len(data)} bytes that begin with {data[:8]!r}; "
        "it is cut short or another kind of file, copy it again"
    )


def _is_safetensors(data: bytes) -> bool:
    size = int.from_bytes(data[:8], "little")
    return len(data) >= 10 and 2 <= size <= min(LARGEST_HEADER, len(data) - 8) and data[8:9] == b"{"


def _header(data: bytes) -> dict[str, str]:
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    about: dict[str, str] = header.get("__metadata__") or {}
    return about


def _named(header: dict[str, str]) -> Any:
    """The model's name where a header says it."""
    try:
        return json.loads(header["palyno"])["name"]
    except (ValueError, KeyError, TypeError):
        return "another kind of file"
