"""C compiled at run time by the machine's own compiler, where there is one; `None` where there is not.

The library is kept on disk (`binaries`) under a hash of sources, options, compiler and processor.
"""

from __future__ import annotations

import ctypes
import platform
import shutil
import subprocess
import tempfile
from functools import cache
from pathlib import Path

from . import binaries

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
        name = binaries.digest(main.name, _sources(main), OPTIONS, _version(compiler), _processor()) + ".so"
        found = _loaded(binaries.kept(name))
        if found is None:
            with tempfile.TemporaryDirectory() as folder:
                built = Path(folder) / "library.so"
                command = [compiler, *OPTIONS, str(main), "-o", str(built)]
                subprocess.run(command, check=True, capture_output=True, timeout=SECONDS)
                binaries.keep(name, built.read_bytes())
                # Nothing may be executed from the disk of the one folder or of the other.
                found = _loaded(built) or _loaded(binaries.kept(name))
        return found
    except (OSError, subprocess.SubprocessError):
        return None


def _loaded(path: Path | None) -> ctypes.CDLL | None:
    try:
        return None if path is None else ctypes.CDLL(str(path))
    except OSError:
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
