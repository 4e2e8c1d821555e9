"""C compiled at run time by the machine's own compiler, where there is one; `None` where there is not.

The library is kept on disk (`PALYNO_CACHE`, else `~/.cache/palyno`) under a hash of sources, options, compiler and
processor. A file there that others could have written is not loaded.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
from functools import cache
from pathlib import Path

__all__ = ["library"]

# Vector code is written with the vector extensions of GCC.
COMPILERS = ("gcc", "cc")
OPTIONS = ("-std=gnu11", "-O3", "-march=native", "-fopenmp", "-shared", "-fPIC")
SECONDS = 120


@cache
def library(main: Path) -> ctypes.CDLL | None:
    """The compiled library of a C file and the headers beside it.

    Threads are OpenMP's, the same pool that PyTorch has in this process.

    Args:
        main: The C file.

    Returns:
        The library, or None where there is no compiler that takes it.
    """
    compiler = next(filter(None, map(shutil.which, COMPILERS)), None)
    if compiler is None or platform.system() != "Linux":
        return None
    try:
        key = hashlib.sha256(repr((_sources(main), OPTIONS, _version(compiler), _processor())).encode()).hexdigest()
        kept = _folder() / f"{key}.so"
        if _ours(kept):
            return ctypes.CDLL(str(kept))
        with tempfile.TemporaryDirectory() as folder:
            built = Path(folder) / "library.so"
            command = [compiler, *OPTIONS, str(main), "-o", str(built)]
            subprocess.run(command, check=True, capture_output=True, timeout=SECONDS)
            loaded = ctypes.CDLL(str(built))
            _keep(kept, built.read_bytes())
        return loaded
    except (OSError, subprocess.SubprocessError):
        return None


def _sources(main: Path) -> list[tuple[str, bytes]]:
    return [(path.name, path.read_bytes()) for path in sorted(main.parent.iterdir()) if path.suffix in (".c", ".h")]


def _version(compiler: str) -> bytes:
    return subprocess.run([compiler, "--version"], check=True, capture_output=True, timeout=SECONDS).stdout


def _processor() -> str:
    """What decides which instructions there are: a folder may be shared by different machines."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return platform.machine() + platform.node()
    kinds = ("model name", "flags", "Features", "CPU part")
    return platform.machine() + "".join(sorted({line for line in lines if line.startswith(kinds)}))


def _folder() -> Path:
    base = os.environ.get("PALYNO_CACHE")
    return (Path(base) if base else Path.home() / ".cache" / "palyno") / "kernels"


def _ours(path: Path) -> bool:
    """Whether only this user can have written the file."""
    if not path.is_file():
        return False
    return all(s.st_uid in (0, os.getuid()) and not s.st_mode & 0o022 for s in (path.stat(), path.parent.stat()))


def _keep(path: Path, binary: bytes) -> None:
    # A cache that cannot be written only costs the next process its second of compiling.
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        handle, temporary = tempfile.mkstemp(dir=path.parent)
        with os.fdopen(handle, "wb") as file:
            file.write(binary)
        Path(temporary).replace(path)
    except OSError:
        return
