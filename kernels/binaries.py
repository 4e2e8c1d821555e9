"""Machine code compiled at run time, kept on disk for the next process.

It lies in the folder `kernels` of palyno's cache (`PALYNO_CACHE`, else `~/.cache/palyno`) under a hash of all that it
was made from. What is loaded runs with the rights of the user, so a file that others could have written is not taken.
"""

from __future__ import annotations

import hashlib
import os
import stat
import tempfile
from pathlib import Path

__all__ = ["digest", "keep", "kept"]


def digest(*origin: object) -> str:
    """A name for what follows from these values alone; their `repr` must tell them apart."""
    return hashlib.sha256(repr(origin).encode()).hexdigest()


def kept(name: str) -> Path | None:
    """The file that was kept under a name, or None where there is none that only this user can have written."""
    try:
        path = _folder() / name
        file, folder = path.stat(), path.parent.stat()
    except (OSError, RuntimeError):
        return None
    if not stat.S_ISREG(file.st_mode) or not os.access(path, os.R_OK):
        return None
    ours = all(s.st_uid in (0, os.getuid()) and not s.st_mode & 0o022 for s in (file, folder))
    return path if ours else None


def keep(name: str, binary: bytes) -> None:
    """Keeps a file, whole or not at all; what cannot be kept only costs the next process its seconds of compiling."""
    try:
        path = _folder() / name
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        with tempfile.TemporaryDirectory(dir=path.parent) as folder:
            whole = Path(folder) / name
            whole.touch(0o600)
            with whole.open("wb") as file:
                file.write(binary)
                file.flush()
                os.fsync(file.fileno())
            whole.replace(path)
    except (OSError, RuntimeError):
        return


def _folder() -> Path:
    """May raise RuntimeError: a user without a home."""
    base = os.environ.get("PALYNO_CACHE")
    if base:
        return Path(base) / "kernels"
    # As in `palyno.offline`.
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "palyno" / "kernels"
