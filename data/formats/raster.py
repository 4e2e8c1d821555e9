"""Pictures that are decoded in one piece: arrays, Pillow images, and the files that Pillow reads."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from ...errors import SlideError
from .orientation import shown_size, stored_region, turn
from .tones import EIGHT_BITS, Tones, fit_tones, sample_windows, to_rgb

__all__ = ["Raster", "raster_from_array"]


class Raster:
    """`Pixels` of a picture that is decoded at the first read and kept."""

    um_per_px: float | None = None

    def __init__(
        self,
        decode: Callable[[], tuple[np.ndarray, bool]],
        size: tuple[int, int],
        *,
        format: str,
        orientation: int = 1,
        notes: tuple[str, ...] = (),
    ) -> None:
        """Takes a picture by its size; nothing is decoded.

        Args:
            decode: Gives the samples, shape (H, W, C), and whether the last channel is alpha.
            size: Stored width and height.
            format: Name of the container.
            orientation: 1 to 8, as in EXIF.
            notes: What the user should know.
        """
        self._decode = decode
        self._stored = size
        self._orientation = orientation
        self._samples: np.ndarray | None = None
        self._fault: Exception | None = None
        self._alpha = False
        self._tones = EIGHT_BITS
        self.width, self.height = shown_size(orientation, *size)
        self.format = format
        self.notes = notes

    def read(self, x: int, y: int, width: int, height: int) -> np.ndarray:
        """The region as uint8 RGB, shape (height, width, 3)."""
        if self._fault is not None:
            raise self._fault.with_traceback(None)
        if self._samples is None:
            try:
                self._samples = self._decoded()
            except Exception as error:
                # Every tile of the slide asks, and decoding all of it anew for each takes hours.
                self._fault = error
                raise
        sx, sy, w, h = stored_region(self._orientation, (x, y, width, height), *self._stored)
        crop = turn(self._orientation, self._samples[sy : sy + h, sx : sx + w])
        return to_rgb(crop, self._tones, alpha="straight" if self._alpha else None)

    def _decoded(self) -> np.ndarray:
        samples, self._alpha = self._decode()
        if samples.shape[1::-1] != self._stored:
            got = f"{samples.shape[1]} x {samples.shape[0]}"
            raise SlideError(f"expected {self._stored[0]} x {self._stored[1]} pixels by its header, got {got}")
        self._tones = self._fit(samples)
        return samples

    def _fit(self, samples: np.ndarray) -> Tones:
        colour = samples[..., :-1] if self._alpha else samples
        tones = fit_tones(colour[y : y + h, x : x + w] for x, y, w, h in sample_windows(*self._stored))
        if tones != EIGHT_BITS and samples.dtype != bool:
            self.notes += (f"{samples.dtype} samples shown from {tones.black:g} (black) to {tones.white:g} (white)",)
        return tones

    def close(self) -> None:
        """Forgets the pixels."""
        self._samples = None


def raster_from_array(array: np.ndarray) -> Raster:
    """An array as `Pixels`.

    Args:
        array: Shape (H, W), or (H, W, C) with C of 1 grey, 2 grey and alpha, 3 RGB, 4 RGBA; bool, integers or floats.

    Raises:
        SlideError: Another shape or type.
    """
    array = np.asarray(array)
    samples = array[..., None] if array.ndim == 2 else array
    if samples.ndim != 3 or samples.shape[2] not in (1, 2, 3, 4) or samples.dtype.kind not in "buif":
        hint = "; transpose it with array.transpose(1, 2, 0)" if array.ndim == 3 and array.shape[0] in (1, 3, 4) else ""
        raise SlideError(
            f"expected an array of shape (H, W), (H, W, 3) or (H, W, 4) of numbers, RGB, got shape {array.shape} of "
            f"{array.dtype}{hint or '; pass one picture at a time'}"
        )
    height, width, channels = samples.shape
    if not (width and height):
        raise SlideError(f"expected at least one pixel, got an array of shape {array.shape}")
    return Raster(lambda: (samples, channels in (2, 4)), (width, height), format="array")
