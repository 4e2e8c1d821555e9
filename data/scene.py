"""One composed scene: grains, clumps, debris and light, with the exact box of every grain.

The scene is built as a microscope sees it: every object lets a share of the light through, the shares multiply, the
lens blurs what is out of focus, the lamp and the camera do the rest. Grains come from reference pictures (`grains.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import cv2
import numpy as np

from .backgrounds import illumination, synthetic_background
from .debris import draw_debris
from .grains import CutGrain, mask_extent
from .microscope import Counterstain, other_optics

__all__ = ["PlacedGrain", "Scene", "SceneSettings", "compose_scene"]

# Grains of which less than this shows (cut by the border, or under an opaque object) are taken away again: a label
# on a sliver teaches nothing, and a sliver without a label teaches the wrong thing.
_LEAST_VISIBLE = 0.35


@dataclass(frozen=True)
class SceneSettings:
    """What scenes look like.

    Attributes:
        size: Side in pixels.
        grain_px: Smallest and largest longer side of a grain in pixels.
        largest_count: No scene holds more grains.
        stain_jitter: 0 keeps the reference's stain, 1 allows any.
        microscope: `usual`, or `other` for stain and optics that are never trained on, see `microscope`.
    """

    size: int = 640
    grain_px: tuple[float, float] = (22.0, 300.0)
    largest_count: int = 70
    stain_jitter: float = 1.0
    microscope: str = "usual"


@dataclass(frozen=True)
class PlacedGrain:
    """A grain in a scene.

    Attributes:
        source: Reference picture it was cut from.
        label: Class name.
        taxon: Reference taxon, which differs from the label for grains labelled `unknown`.
        box: Visible extent, `xyxy`, pixels.
        visible: Share of the grain that shows, in [0, 1].
        angle: Rotation in degrees.
        scale: Scene pixels a reference pixel.
        focus: Standard deviation of the defocus blur in pixels.
    """

    source: str
    label: str
    taxon: str
    box: tuple[float, float, float, float]
    visible: float
    angle: float
    scale: float
    focus: float


@dataclass
class Scene:
    """A composed scene.

    Attributes:
        picture: uint8, RGB, shape (size, size, 3).
        grains: The grains that show, with their boxes.
        background: Where the light came from.
        masks: Boolean, shape (size, size), one a grain: where it shows.
    """

    picture: np.ndarray
    grains: list[PlacedGrain]
    background: str
    masks: list[np.ndarray] = field(default_factory=list)


Pick = Callable[[np.random.Generator], tuple[str, str, str, CutGrain, float]]
"""Draws a reference grain: source, label, taxon, the cut, and its longer side in pixels at the reference's scale."""


def compose_scene(
    rng: np.random.Generator,
    pick: Pick,
    light: np.ndarray | None,
    background: str,
    settings: SceneSettings,
    *,
    keep_masks: bool = False,
    without_grains: bool = False,
) -> Scene:
    """Composes one scene.

    Args:
        rng: Source of every choice; the same state gives the same scene.
        pick: Draws a reference grain.
        light: Real background, float32, shape (size, size, 3), or None for a synthetic one.
        background: Its name for the manifest.
        settings: What scenes look like.
        keep_masks: Keep where each grain shows.
        without_grains: Leave the grains out and everything else as it is; what a leak test compares with.
    """
    size = settings.size
    light = synthetic_background(rng, size) if light is None else _vary_light(rng, light)
    through = np.ones((size, size, 3), np.float32)
    _scatter_debris(rng, through, rng.poisson(rng.choice([0.5, 4.0, 10.0])))

    other = settings.microscope == "other"
    stain = Counterstain(rng) if other else _StainJitter(rng, settings.stain_jitter)
    layers: list[tuple[PlacedGrain, np.ndarray]] = []
    taken: list[tuple[float, float, float]] = []
    magnification = float(np.exp(rng.uniform(np.log(0.14), np.log(0.85))))
    crowd = rng.choice([rng.uniform(0.02, 0.12), rng.uniform(0.12, 0.35), rng.uniform(0.35, 0.6)], p=[0.45, 0.4, 0.15])
    one_taxon = pick(rng) if rng.random() < 0.12 else None
    clumping = rng.choice([0.05, 0.4], p=[0.7, 0.3])
    area = 0.0
    for _ in range(4 * settings.largest_count):
        if area > crowd * size * size or len(layers) >= settings.largest_count:
            break
        source, label, taxon, cut, native = pick(rng)
        if one_taxon is not None and taxon != one_taxon[2]:
            source, label, taxon, cut, native = one_taxon
        side = float(np.clip(native * magnification * np.exp(rng.normal(0, 0.12)), *settings.grain_px))
        grain = _pose(rng, cut, side)
        spot = _find_spot(rng, grain[1], taken, size, clumping)
        if spot is None:
            continue
        focus = float(rng.choice([0.0, rng.uniform(0.3, 1.0), rng.uniform(1.0, 0.02 * side + 1.5)], p=[0.5, 0.3, 0.2]))
        transmission, mask = _defocus(stain(grain[0]), grain[1], focus)
        whole, x, y = mask.sum(), *spot
        shown = _paste(through, transmission, mask, x, y, nothing=without_grains)
        visible = float(shown.sum() / max(whole, 1e-6))
        taken.append((x + mask.shape[1] / 2, y + mask.shape[0] / 2, side))
        area += float((mask > 0.5).sum())
        scale = side / max(cut.mask.shape)
        layers.append((PlacedGrain(source, label, taxon, (0, 0, 0, 0), visible, grain[2], scale, focus), shown > 0.5))

    occluder = np.ones_like(through)
    _scatter_debris(rng, occluder, rng.poisson(0.6))
    red, green, blue = np.moveaxis(occluder, 2, 0)
    # `occluder.max(axis=2)`, eight times as fast: NumPy is slow along a short last axis.
    opaque = np.maximum(np.maximum(red, green), blue) < 0.3
    through *= occluder
    kept = [(g, _visible_part(mask, opaque), mask.sum()) for g, mask in layers]
    grains, masks = [], []
    for placed, mask, whole in kept:
        visible = placed.visible * float(mask.sum()) / max(float(whole), 1e-6)
        x1, y1, x2, y2 = mask_extent(mask)
        if visible < _LEAST_VISIBLE or min(x2 - x1, y2 - y1) < 6:
            continue
        grains.append(PlacedGrain(**{**placed.__dict__, "box": (x1, y1, x2, y2), "visible": round(visible, 4)}))
        masks.append(mask)
    light = light * through
    picture = _camera(rng, other_optics(rng, light) if other else light)
    return Scene(picture, grains, background, masks if keep_masks else [])


class _StainJitter:
    """Changes the stain in optical density, where Beer's law makes dyes add.

    One scene has one preparation: its main change is drawn once, and each grain takes up dye a little differently.
    """

    def __init__(self, rng: np.random.Generator, amount: float) -> None:
        self.rng, self.amount = rng, amount
        self.gain = np.exp(rng.normal(0, 0.25 * amount, 3)).astype(np.float32)
        self.strength = float(np.exp(rng.normal(0, 0.25 * amount)))
        self.restain = float(rng.choice([0.0, rng.uniform(0.3, 1.0)], p=[1 - 0.45 * amount, 0.45 * amount]))
        dye = rng.uniform(0.15, 1.3, 3) if rng.random() < 0.7 else np.ones(3)
        self.dye = (dye / dye.mean()).astype(np.float32)

    def __call__(self, transmission: np.ndarray) -> np.ndarray:
        density = -np.log(np.clip(transmission, 0.01, 1.5))
        grey = density.mean(axis=2, keepdims=True)
        own = density * self.gain * np.exp(self.rng.normal(0, 0.08 * self.amount, 3)).astype(np.float32)
        strength = self.strength * float(np.exp(self.rng.normal(0, 0.1 * self.amount)))
        return np.exp(-strength * ((1 - self.restain) * own + self.restain * grey * self.dye))


def _vary_light(rng: np.random.Generator, light: np.ndarray) -> np.ndarray:
    """Turns, mirrors and relights a real background."""
    light = np.rot90(light, int(rng.integers(4)))
    if rng.random() < 0.5:
        light = light[:, ::-1]
    if rng.random() < 0.7:
        balance = np.exp(rng.normal(0, 0.08, 3)).astype(np.float32)
        light = light * (balance / balance.max()) * illumination(rng, light.shape[0]) * rng.uniform(0.75, 1.0)
    return np.ascontiguousarray(light, dtype=np.float32)


def _pose(rng: np.random.Generator, cut: CutGrain, side: float) -> tuple[np.ndarray, np.ndarray, float]:
    """Rotates, mirrors, squeezes and scales a cut so that its longer side has `side` pixels."""
    height, width = cut.mask.shape
    angle = float(rng.uniform(0, 360))
    squeeze = np.exp(rng.normal(0, 0.05, 2))
    x1, y1, x2, y2 = cut.extent
    scale = side / max(x2 - x1, y2 - y1, 1)
    turn = np.deg2rad(angle)
    rotate = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    linear = rotate @ np.diag(scale * squeeze * [rng.choice([-1, 1]), 1])
    corners = np.array([[-width, -height], [width, -height], [width, height], [-width, height]]) / 2 @ linear.T
    out_w, out_h = (np.ceil(np.ptp(corners, axis=0)).astype(int) + 2).tolist()
    matrix = np.hstack([linear, (np.array([out_w, out_h]) / 2 - linear @ [width / 2, height / 2])[:, None]])
    picture, mask = cut.transmission, cut.mask
    if scale < 0.5:  # warpAffine does not average: shrink first, or fine sculpture turns to moire.
        factor = scale * 1.5
        new = (max(1, round(width * factor)), max(1, round(height * factor)))
        picture = cv2.resize(picture, new, interpolation=cv2.INTER_AREA)
        mask = cv2.resize(mask, new, interpolation=cv2.INTER_AREA)
        matrix[:, 0] *= width / new[0]
        matrix[:, 1] *= height / new[1]
    warp = {"dsize": (out_w, out_h), "flags": cv2.INTER_LINEAR, "borderMode": cv2.BORDER_CONSTANT}
    return (
        cv2.warpAffine(picture, matrix, borderValue=(1, 1, 1), **warp),
        cv2.warpAffine(mask, matrix, borderValue=0, **warp),
        angle,
    )


def _defocus(transmission: np.ndarray, mask: np.ndarray, sigma: float) -> tuple[np.ndarray, np.ndarray]:
    if sigma <= 0:
        return transmission, mask
    pad = int(np.ceil(2.5 * sigma))
    wide = cv2.copyMakeBorder(transmission, pad, pad, pad, pad, cv2.BORDER_CONSTANT, value=(1, 1, 1))
    wide_mask = cv2.copyMakeBorder(mask, pad, pad, pad, pad, cv2.BORDER_CONSTANT, value=0)
    return cv2.GaussianBlur(wide, (0, 0), sigma), cv2.GaussianBlur(wide_mask, (0, 0), sigma)


def _find_spot(
    rng: np.random.Generator, mask: np.ndarray, taken: Sequence[tuple[float, float, float]], size: int, clumping: float
) -> tuple[int, int] | None:
    """Top left corner for a grain, so that it does not lie on another by more than clumped grains do."""
    height, width = mask.shape
    x1, y1, x2, y2 = mask_extent(mask)
    radius = max(x2 - x1, y2 - y1) / 2
    for _ in range(12):
        if taken and rng.random() < clumping:
            cx, cy, side = taken[int(rng.integers(len(taken)))]
            angle, distance = rng.uniform(0, 2 * np.pi), (side / 2 + radius) * rng.uniform(0.72, 1.02)
            cx, cy = cx + distance * np.cos(angle), cy + distance * np.sin(angle)
        else:
            cx, cy = rng.uniform(-0.15 * radius, size + 0.15 * radius, 2)
        if not (0 <= cx < size and 0 <= cy < size):
            continue
        if all(np.hypot(cx - x, cy - y) >= 0.7 * (radius + side / 2) for x, y, side in taken):
            return round(cx - width / 2), round(cy - height / 2)
    return None


def _paste(
    through: np.ndarray, transmission: np.ndarray, mask: np.ndarray, x: int, y: int, *, nothing: bool = False
) -> np.ndarray:
    """Multiplies an object into the scene; returns its mask in scene coordinates, float32."""
    size = through.shape[0]
    height, width = transmission.shape[:2]
    shown = np.zeros((size, size), np.float32)
    left, top, right, bottom = max(0, x), max(0, y), min(size, x + width), min(size, y + height)
    if left >= right or top >= bottom:
        return shown
    part = np.s_[top - y : bottom - y, left - x : right - x]
    if not nothing:
        through[top:bottom, left:right] *= transmission[part]
    shown[top:bottom, left:right] = mask[part]
    return shown


def _scatter_debris(rng: np.random.Generator, through: np.ndarray, count: int) -> None:
    size = through.shape[0]
    for _ in range(count):
        side = int(np.exp(rng.uniform(np.log(0.03), np.log(0.6))) * size)
        drawing = draw_debris(rng, max(12, side))
        x, y = rng.integers(-side // 2, size - side // 2, 2)
        _paste(through, drawing, np.ones(drawing.shape[:2], np.float32), int(x), int(y))


def _visible_part(mask: np.ndarray, opaque: np.ndarray) -> np.ndarray:
    """What shows of a grain: all that no opaque object covers, the largest piece of it."""
    if not (mask & opaque).any():
        return mask
    count, labels, stats, _ = cv2.connectedComponentsWithStats((mask & ~opaque).astype(np.uint8))
    return labels == 1 + int(np.argmax(stats[1:, cv2.CC_STAT_AREA])) if count > 1 else np.zeros_like(mask)


def _camera(rng: np.random.Generator, light: np.ndarray) -> np.ndarray:
    """Lens, sensor and the maker's picture processing: blur, noise, contrast, sharpening."""
    if rng.random() < 0.3:
        light = cv2.GaussianBlur(light, (0, 0), rng.uniform(0.4, 1.1))
    size = light.shape[0]
    noise = rng.normal(0, 1, (size, size, 1)) * 0.6 + rng.normal(0, 1, light.shape) * 0.6
    read, shot = rng.uniform(0.0, 2.5), rng.uniform(0.0, 0.25)
    light = light + (read + shot * np.sqrt(np.clip(light, 0, 255))) * noise.astype(np.float32)
    if rng.random() < 0.3:
        contrast, middle = rng.uniform(1.1, 1.8), float(np.percentile(light, 90)) * rng.uniform(0.75, 1.0)
        light = (light - middle) * contrast + middle + rng.uniform(0, 25)
    if rng.random() < 0.25:
        light = light + rng.uniform(0.3, 1.2) * (light - cv2.GaussianBlur(light, (0, 0), rng.uniform(1.0, 2.0)))
    if rng.random() < 0.08:
        light = np.repeat(light.mean(axis=2, keepdims=True), 3, axis=2)
    return np.clip(light, 0, 255).astype(np.uint8)
