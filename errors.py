"""Every error palyno raises on purpose, and the exit code the command line gives it.

    PalynoError                 1
    |-- UsageError              2   an argument that cannot be meant (also a ValueError)
    |-- InputError              3   an input that cannot be read
    |   |-- SlideError              a slide or image: missing, truncated, not an image, too large to be true
    |   `-- AnnotationError         a label file that does not say what its format promises
    |-- NothingToDoError        4   no input was processed
    `-- RejectedModelError      5   weights or an index that were refused: wrong hash, pickle, wrong shape
        `-- UnknownModelError       a name that is not in the list of models

Messages say what was expected, what came, and what to do.
"""

from __future__ import annotations


class PalynoError(Exception):
    """Base of every error palyno raises on purpose."""

    exit_code = 1


class UsageError(PalynoError, ValueError):
    """An argument that cannot be meant."""

    exit_code = 2


class InputError(PalynoError):
    """An input that cannot be read."""

    exit_code = 3


class SlideError(InputError):
    """A slide or image that cannot be read."""


class AnnotationError(InputError):
    """A label file that does not say what its format promises."""


class NothingToDoError(PalynoError):
    """No input was processed."""

    exit_code = 4


class RejectedModelError(PalynoError):
    """Weights or an index that were refused."""

    exit_code = 5


class UnknownModelError(RejectedModelError):
    """A model name that is not in the list."""


def first_line(error: Exception) -> str:
    """What another library's exception says in its first line, or its kind where it says nothing."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
