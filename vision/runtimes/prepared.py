"""A network made ready for this CPU once, and kept: `load` runs it there, as onnxruntime is faster than PyTorch.

The network is exported as `palyno export --dynamic` does it, with the same check against PyTorch on tiles of the sample
slides, into the folder `networks` of palyno's cache. Its name holds two hashes: of all that it follows from (the
weights' sha256, palyno's sources, PyTorch, onnxruntime, the processor), so that nothing that changed is run as it was;
and of its bytes, so that a damaged file is seen and made again. What cannot be exported is noted there, too, and is not
tried again until something of that changes.
"""

from __future__ import annotations

import hashlib
import os
import platform
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from ... import __version__
from ...data.atomic import write_text
from ...data.lock import locked
from ...errors import PalynoError, RejectedModelError, UsageError, first_line
from ...offline import cache_dir
from ..weights import Metadata
from .exported import FORMAT, Exported
from .graph import packages
from .onnx import read_onnx

__all__ = ["prepared"]

# Networks that are kept; more are other versions' or other weights' of long ago.
MOST_KEPT = 12
# Seconds to wait for another process that prepares one. It takes a tenth of this.
PATIENCE = 300.0


def prepared(path: Path, metadata: Metadata, on_prepare: Callable[[str], None] | None = None) -> Exported:
    """The network of a weights file in onnxruntime, on the CPU, for images of any size.

    Args:
        path: The weights file; where they lie in parts, one of them.
        metadata: What it says about itself, with its hash.
        on_prepare: Called with a line to show before a network is prepared, which takes seconds.

    Returns:
        The network, from the very bytes that were checked against PyTorch on this processor.

    Raises:
        PalynoError: It cannot be had: a package is missing, the network cannot be exported, its boxes are not
            PyTorch's, or the cache cannot be written.
    """
    packages("onnxruntime")
    key = _key(metadata.sha256)
    try:
        folder = _folder()
        data = _kept(folder, key)
        if data is None:
            with locked(folder / ".lock", wait=PATIENCE):
                # Another process may just have done it.
                data = _kept(folder, key)
                if data is None:
                    data = _prepare(folder, key, path, metadata, on_prepare)
    except OSError as error:
        raise PalynoError(
            f"the cache cannot keep the network ({error.filename}: {error.strerror or error}); set PALYNO_CACHE to a "
            "folder that you may write to"
        ) from error
    exported, said = read_onnx(data, f"{folder / key}-*.onnx")
    if said.training["exported_from"] != metadata.sha256:
        raise RejectedModelError(f"{folder / key}-*.onnx: expected the network of {path}, got another's; delete it")
    return exported


def _folder() -> Path:
    """Where networks are kept, made if missing.

    Raises:
        OSError: It cannot be made.
        PalynoError: There is no place for it, or others could change what is in it, and with that what is counted.
    """
    folder = _place()
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    _refuse_others(folder)
    return folder


def _place() -> Path:
    """Where networks are kept, whether or not it is there.

    Raises:
        PalynoError: There is no place for it.
    """
    try:
        return cache_dir() / "networks"
    except RuntimeError as error:
        raise PalynoError("there is no home folder for the cache; set PALYNO_CACHE to a folder of yours") from error


def _refuse_others(folder: Path) -> None:
    """Refuses a folder that others could change."""
    status = folder.stat()
    if os.name == "posix" and (status.st_uid not in (0, os.getuid()) or status.st_mode & 0o022):
        raise PalynoError(
            f"{folder} can be changed by other users, and with it what is counted; expected a folder of your own, so "
            "run `chmod 700` on it, or set PALYNO_CACHE to another one"
        )


def _kept(folder: Path, key: str) -> bytes | None:
    """The bytes that were kept under a key and are still what they were; else None.

    Raises:
        PalynoError: It was noted that there cannot be any.
    """
    note = folder / f"{key}.txt"
    with suppress(FileNotFoundError):
        raise PalynoError(f"{note.read_text(encoding='utf-8').strip()} (as noted in {note}; delete it to try again)")
    for file in sorted(folder.glob(f"{key}-*.onnx")):
        data = file.read_bytes()
        if hashlib.sha256(data).hexdigest() == _named(file):
            with suppress(OSError):
                # The oldest goes first.
                os.utime(file)
            return data
    return None


def _named(file: Path) -> str:
    """The hash of its bytes that a file's name says."""
    return file.stem.partition("-")[2]


def _prepare(folder: Path, key: str, path: Path, metadata: Metadata, on_prepare: Callable[[str], None] | None) -> bytes:
    """Exports a network into the folder, or notes there why it cannot be; hold the folder's lock."""
    from ..export import export

    # Before anything is said or noted: it may be installed the next time.
    packages("onnx", "onnxruntime")
    damaged = list(folder.glob(f"{key}-*.onnx"))
    if on_prepare is not None:
        why = f"again, as {damaged[0]} is damaged" if damaged else "once"
        on_prepare(f"preparing {metadata.name} for this processor, {why}; it takes 10 to 20 s")
    making = folder / ".making.onnx"
    try:
        done = export(path, making, dynamic=True)
        data = making.read_bytes()
    except UsageError:
        # The only argument that a network cannot have.
        reason = f"{metadata.name} cannot be exported for images of any size"
        write_text(folder / f"{key}.txt", f"{reason}\n")
        raise PalynoError(reason) from None
    except PalynoError as error:
        write_text(folder / f"{key}.txt", f"{error}\n")
        raise
    except OSError:
        raise
    except Exception as error:
        # Of an exporter; these have no base of their own. It may have been the machine, so nothing is noted.
        raise PalynoError(f"the network could not be exported: {first_line(error)}") from error
    if done.about.sha256 != metadata.sha256:
        making.unlink()
        raise RejectedModelError(f"{path}: expected the weights that were opened, it has changed; open it again")
    # The new file mostly takes the name of a damaged one.
    for file in damaged:
        file.unlink(missing_ok=True)
    making.rename(folder / f"{key}-{hashlib.sha256(data).hexdigest()}.onnx")
    _forget(folder)
    return data


def _forget(folder: Path) -> None:
    """Removes what was not used for the longest time."""
    files = [*folder.glob("*-*.onnx"), *folder.glob("*.txt")]
    for file in sorted(files, key=lambda file: file.stat().st_mtime, reverse=True)[MOST_KEPT:]:
        file.unlink(missing_ok=True)


def _key(weights: str) -> str:
    """A name for what follows from weights on this machine with this software."""
    origin = (FORMAT, __version__, _sources(), weights, _version("torch"), _version("onnxruntime"), _processor())
    return hashlib.sha256(repr(origin).encode()).hexdigest()[:32]


@cache
def _sources() -> str:
    """Hash of the sources that a network and its export are made by."""
    root = Path(__file__).parents[2]
    digest = hashlib.sha256()
    for part in ("kernels", "vision"):
        for file in sorted((root / part).rglob("*")):
            if file.suffix in (".py", ".yaml", ".json"):
                digest.update(file.relative_to(root).as_posix().encode() + b"\0" + file.read_bytes() + b"\0")
    return digest.hexdigest()


@cache
def _processor() -> str:
    """What the processor is and can do: which code of a runtime it takes depends on it."""
    said = [platform.machine(), platform.processor()]
    with suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").partition("\n\n")[0].splitlines()
        said += [line for line in lines if line.startswith(("model name", "flags", "Features", "CPU part"))]
    return "\n".join(said)


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
