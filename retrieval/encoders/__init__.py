"""What turns texts and pictures of grains into vectors: `Encoder`, and the encoders that ship.

    from palyno.retrieval.encoders.text import TextEncoder

    TextEncoder().encode(["triporate grain with a smooth wall"])  # (1, 384) float32, unit length

Vectors of two encoders are never comparable, nor are those of two modalities until something was trained to make them
so: whoever stores vectors stores `encoder_id` with them, and refuses a query of another.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np

__all__ = ["Encoder", "Modality"]

Modality = Literal["text", "image"]


@runtime_checkable
class Encoder(Protocol):
    """What a collection asks of an encoder.

    Its id holds a name, a prefix of the weights' sha256, and every setting that changes a vector: equal ids mean equal
    vectors, to float32's precision.
    """

    @property
    def encoder_id(self) -> str:
        """What vectors of this encoder are stored under."""
        ...

    @property
    def dim(self) -> int:
        """Length of a vector."""
        ...

    @property
    def modality(self) -> Modality:
        """What it reads."""
        ...

    def encode(self, items: Sequence[Any]) -> np.ndarray:
        """(n, dim) float32, each row of unit length; the order is that of the items, and (0, dim) of none."""
        ...
