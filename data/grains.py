"""Reference grains: one grain cut from its picture as a transmission, with its mask.

A bright-field picture is light that came through: `picture = background * transmission`. Dividing a picture by its own
background leaves the grain alone as a transmission, 1 where there is nothing, so that it can be multiplied into any
other field without a paste border. The background is read off the four corners and interpolated bilinearly, which takes
the vignette and the white balance out as well.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from scipy import ndimage

from ..errors import InputError

__all__ = ["CutGrain", "cut_grain", "trace_mask"]

# Optical densities below this are camera noise in an 8-bit picture.
_NOISE_FLOOR = 0.02


@dataclass(frozen=True)
class CutGrain:
    """A grain without its background.

    Attributes:
        transmission: float32, shape (H, W, 3), light that comes through in [0, 1.5]; 1 outside the grain.
        mask: float32, shape (H, W), 1 inside the grain, feathered to 0 within a few pixels of its outline.
    """

    transmission: np.ndarray
    mask: np.ndarray

    @property
    def extent(self) -> tuple[int, int, int, int]:
        """Bounding box `x1, y1, x2, y2` (half open, pixels) of the mask above one half."""
        return mask_extent(self.mask)


def mask_extent(mask: np.ndarray) -> tuple[int, int, int, int]:
    """Bounding box `x1, y1, x2, y2` (half open, pixels) of a mask, shape (H, W), above one half; zeros if empty."""
    inside = mask > 0.5
    rows, columns = np.flatnonzero(inside.any(1)), np.flatnonzero(inside.any(0))
    if not rows.size:
        return (0, 0, 0, 0)
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


def corner_background(picture: np.ndarray, share: float = 0.07) -> np.ndarray:
    """The background of a single-grain picture, interpolated between its corners.

    Args:
        picture: float32, shape (H, W, 3).
        share: Side of a corner patch as a share of the shorter side.

    Returns:
        float32, shape (H, W, 3).
    """
    height, width = picture.shape[:2]
    side = max(3, round(share * min(height, width)))
    patches = [picture[:side, :side], picture[:side, -side:], picture[-side:, :side], picture[-side:, -side:]]
    corners = np.array([np.median(p.reshape(-1, 3), axis=0) for p in patches], dtype=np.float32)
    # A corner with debris or another grain in it is darker than the other three: it is pulled to their median.
    middle = np.median(corners, axis=0)
    off = np.abs(np.log((corners + 1) / (middle + 1))).max(axis=1) > 0.15
    corners[off] = middle
    y = np.linspace(0, 1, height, dtype=np.float32)[:, None, None]
    x = np.linspace(0, 1, width, dtype=np.float32)[None, :, None]
    top = corners[0] * (1 - x) + corners[1] * x
    bottom = corners[2] * (1 - x) + corners[3] * x
    return np.maximum(top * (1 - y) + bottom * y, 8.0)


def trace_mask(transmission: np.ndarray) -> np.ndarray:
    """The outline of the one grain in a transmission, filled.

    What absorbs, refracts or has texture is foreground; a coarse outline from these is made exact by GrabCut
    (Rother et al. 2004), which also works for pale grains whose interior is as bright as the background.

    Args:
        transmission: float32, shape (H, W, 3).

    Returns:
        Boolean, shape (H, W).
    """
    height, width = transmission.shape[:2]
    density = -np.log(np.clip(transmission, 0.02, 1.5))
    smooth = cv2.GaussianBlur(density, (0, 0), max(1.0, 0.008 * max(height, width)))
    strength = np.abs(smooth).max(axis=2)
    gx, gy = cv2.Sobel(smooth, cv2.CV_32F, 1, 0), cv2.Sobel(smooth, cv2.CV_32F, 0, 1)
    strength = strength + 1.5 * np.sqrt(gx * gx + gy * gy).max(axis=2)
    threshold = max(_NOISE_FLOOR, 0.6 * _otsu(strength))
    coarse = _main_region(strength > threshold)
    if not coarse.any():
        return coarse
    seeds = np.full((height, width), cv2.GC_BGD, np.uint8)
    reach = max(2, round(0.03 * max(height, width)))
    disk = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * reach + 1, 2 * reach + 1))
    region = coarse.astype(np.uint8)
    seeds[cv2.dilate(region, disk) > 0] = cv2.GC_PR_BGD
    seeds[coarse] = cv2.GC_PR_FGD
    seeds[cv2.erode(region, disk) > 0] = cv2.GC_FGD
    shown = np.clip(transmission * 160, 0, 255).astype(np.uint8)
    if (seeds == cv2.GC_FGD).any() and (seeds == cv2.GC_BGD).any():
        cv2.setRNGSeed(0)
        cv2.grabCut(shown, seeds, None, np.zeros((1, 65)), np.zeros((1, 65)), 2, cv2.GC_INIT_WITH_MASK)
    refined = _main_region((seeds == cv2.GC_FGD) | (seeds == cv2.GC_PR_FGD))
    mask = refined if refined.sum() > 0.5 * coarse.sum() else coarse
    # Pale apertures leave bites in the outline, and a grain as bright as its background leaves only a crescent.
    mask = _close(mask, 0.06)
    middle = np.s_[int(0.45 * height) : int(0.55 * height) + 1, int(0.45 * width) : int(0.55 * width) + 1]
    return mask if mask[middle].mean() > 0.5 else _close(mask, 0.3)


def cut_grain(picture: np.ndarray) -> CutGrain:
    """Cuts the grain out of a single-grain picture.

    Args:
        picture: uint8, RGB, shape (H, W, 3), bright field, one grain in the middle.

    Returns:
        The grain, cropped to its outline with a margin for the feather.

    Raises:
        InputError: No grain stands out from the background.
    """
    light = picture.astype(np.float32) + 1.0
    transmission = np.clip(light / corner_background(light), 0.0, 1.5)
    mask = trace_mask(transmission)
    share = mask.mean()
    if share < 0.05:
        raise InputError(
            f"no grain stands out from the background: expected one that fills at least 5 %, got {share:.1%}"
        )
    feather = max(1.0, 0.006 * max(mask.shape))
    # The optical halo of a grain lies just outside its outline and belongs to it.
    grown = cv2.dilate(mask.astype(np.uint8), np.ones((3, 3), np.uint8), iterations=max(1, round(1.5 * feather)))
    soft = cv2.GaussianBlur(grown.astype(np.float32), (0, 0), feather)
    alpha = soft[..., None]
    transmission = transmission * alpha + (1 - alpha)
    pad = int(np.ceil(4 * feather)) + 1
    x1, y1, x2, y2 = mask_extent(mask)
    box = np.s_[max(0, y1 - pad) : y2 + pad, max(0, x1 - pad) : x2 + pad]
    inside = cv2.GaussianBlur(mask.astype(np.float32), (0, 0), 0.7)
    return CutGrain(_fade_border(transmission[box]), inside[box])


def _fade_border(transmission: np.ndarray) -> np.ndarray:
    """Lets the last pixels of a cut go to 1, for grains that touch the border of their picture."""
    height, width = transmission.shape[:2]
    y = np.minimum(np.arange(height), np.arange(height)[::-1])[:, None]
    x = np.minimum(np.arange(width), np.arange(width)[::-1])[None, :]
    fade = np.clip(np.minimum(y, x) / 3.0, 0, 1)[..., None].astype(np.float32)
    return transmission * fade + (1 - fade)


def _otsu(values: np.ndarray) -> float:
    top = float(values.max()) or 1.0
    threshold, _ = cv2.threshold(
        np.uint8(np.clip(values / top, 0, 1) * 255), 0, 255, cv2.THRESH_BINARY | cv2.THRESH_OTSU
    )
    return threshold / 255 * top


def _close(mask: np.ndarray, share: float) -> np.ndarray:
    """Closes gaps up to a share of the longer side, and fills holes."""
    reach = max(1, round(share * max(mask.shape)))
    disk = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * reach + 1, 2 * reach + 1))
    padded = np.pad(mask.astype(np.uint8), reach)
    closed = cv2.morphologyEx(padded, cv2.MORPH_CLOSE, disk)[reach:-reach, reach:-reach]
    return ndimage.binary_fill_holes(closed)


def _main_region(foreground: np.ndarray) -> np.ndarray:
    """The largest region near the middle, closed, filled and smoothed."""
    side = max(foreground.shape)
    reach = max(1, round(0.015 * side))
    disk = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * reach + 1, 2 * reach + 1))
    closed = cv2.morphologyEx(foreground.astype(np.uint8), cv2.MORPH_CLOSE, disk)
    filled = ndimage.binary_fill_holes(closed)
    opened = cv2.morphologyEx(filled.astype(np.uint8), cv2.MORPH_OPEN, disk)
    count, labels, stats, centres = cv2.connectedComponentsWithStats(opened)
    if count < 2:
        return np.zeros(foreground.shape, bool)
    middle = np.array(foreground.shape[::-1]) / 2
    distance = np.linalg.norm(centres[1:] - middle, axis=1) / side
    best = 1 + int(np.argmax(stats[1:, cv2.CC_STAT_AREA] * np.exp(-3 * distance)))
    return ndimage.binary_fill_holes(labels == best)
