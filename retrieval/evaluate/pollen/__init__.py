"""The palynological test set: descriptions of pollen types, and questions to them in four languages and by Latin names.

    task = read_pollen("dev")            # a `Task`; "test" is for a last look, nothing was chosen on it

`atlas` has texts on the same types by other hands. How it was made, what it is good for and what not, is in its README.
"""

from __future__ import annotations

from pathlib import Path

from ..formats import Task, read_beir

__all__ = ["FOLDER", "SPLITS", "read_pollen"]

FOLDER = Path(__file__).parent
SPLITS = ("dev", "test", "atlas")


def read_pollen(split: str = "test") -> Task:
    """The shipped set.

    Args:
        split: `dev`, `test` or `atlas`.

    Returns:
        The task; `about` has `kind`, `language` and `asks` of each query.

    Raises:
        InputError: There is no such split.
    """
    return read_beir(FOLDER, split)
