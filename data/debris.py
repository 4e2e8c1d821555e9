"""What lies on a slide and is not pollen: fibres, bubbles, diatoms, dust, plant tissue, crystals.

Each function draws one object as a transmission, float32, shape (side, side, 3), 1 where there is nothing. Detectors
learn from these what not to count.
"""

from __future__ import annotations

import cv2
import numpy as np

__all__ = ["draw_debris"]


def draw_debris(rng: np.random.Generator, side: int) -> np.ndarray:
    """One object of a random kind.

    Args:
        rng: Source of every choice.
        side: Side of the drawing in pixels.

    Returns:
        Transmission, float32, shape (side, side, 3).
    """
    kinds = (fibre, bubble, diatom, dust, tissue, crystal)
    density = kinds[int(rng.choice(len(kinds), p=[0.22, 0.14, 0.2, 0.18, 0.2, 0.06]))](rng, side)
    blur = rng.choice([rng.uniform(0.4, 1.2), rng.uniform(1.5, 5.0)], p=[0.65, 0.35])
    density = cv2.GaussianBlur(density, (0, 0), blur)
    return np.exp(-np.clip(density, -0.35, 4.0))


def _colour(rng: np.random.Generator, low: float, high: float) -> np.ndarray:
    """Optical densities of red, green and blue: brown as dead tissue, grey as minerals, or a counterstain."""
    base = {
        "brown": (0.45, 0.8, 1.3),
        "grey": (1.0, 1.0, 1.0),
        "stain": tuple(rng.uniform(0.3, 1.2, 3)),
    }[str(rng.choice(["brown", "grey", "stain"], p=[0.45, 0.35, 0.2]))]
    return np.asarray(base, np.float32) * rng.uniform(low, high)


def fibre(rng: np.random.Generator, side: int) -> np.ndarray:
    """A long thin bent thread, hollow or solid."""
    steps = 40
    angle = rng.uniform(0, 2 * np.pi) + np.cumsum(rng.normal(0, rng.uniform(0.01, 0.12), steps))
    path = np.cumsum(np.stack([np.cos(angle), np.sin(angle)], 1), 0)
    path = (path - path.mean(0)) * (side * rng.uniform(0.6, 1.3) / steps) + side / 2
    width = max(1, int(side * rng.uniform(0.008, 0.05)))
    line = np.zeros((side, side), np.float32)
    points = [np.round(path * 16).astype(np.int32)]
    cv2.polylines(line, points, False, 1.0, width, cv2.LINE_AA, 4)
    if width > 4 and rng.random() < 0.6:
        core = np.zeros_like(line)
        cv2.polylines(core, points, False, 1.0, width - 3, cv2.LINE_AA, 4)
        line -= rng.uniform(0.6, 0.95) * core
    return line[..., None] * _colour(rng, 0.15, 0.9)


def bubble(rng: np.random.Generator, side: int) -> np.ndarray:
    """An air bubble or oil drop: dark rim, bright centre."""
    radius = side * rng.uniform(0.2, 0.45)
    distance = _distance(side, rng.uniform(0.45, 0.55, 2) * side) / radius
    rim = np.exp(-(((distance - 0.93) / rng.uniform(0.03, 0.12)) ** 2)) * rng.uniform(0.4, 2.5)
    glow = -rng.uniform(0, 0.25) * np.exp(-((distance / 0.5) ** 2))
    return ((rim + glow) * (distance < 1.2))[..., None].astype(np.float32) * _colour(rng, 0.8, 1.1).clip(0.7, 1.3)


def diatom(rng: np.random.Generator, side: int) -> np.ndarray:
    """A glassy frustule: spindle or disc outline with fine striae."""
    disc = rng.random() < 0.25
    length = side * rng.uniform(0.3, 0.46)
    breadth = length * (rng.uniform(0.85, 1) if disc else rng.uniform(0.08, 0.35))
    u, v = _turned(side, rng.uniform(0, np.pi))
    if rng.random() < 0.4 and not disc:
        v = v + rng.uniform(-0.3, 0.3) * (u * u / length)
    taper = 1.0 if disc else rng.uniform(1.2, 2.2)
    radius = (np.abs(u) / length) ** taper + (v / breadth) ** 2
    inside = (radius < 1).astype(np.float32)
    rim = np.exp(-(((radius - 0.92) / 0.08) ** 2))
    striae = 0.5 + 0.5 * np.sin(2 * np.pi * u / rng.uniform(3.0, 9.0))
    density = rng.uniform(0.15, 0.7) * rim + inside * (rng.uniform(0.01, 0.12) + rng.uniform(0, 0.16) * striae)
    if rng.random() < 0.5:
        density += rng.uniform(0.1, 0.4) * np.exp(-((v / (0.04 * breadth + 1)) ** 2)) * inside
    return density[..., None].astype(np.float32) * _colour(rng, 0.6, 1.0).clip(0.4, 1.2)


def dust(rng: np.random.Generator, side: int) -> np.ndarray:
    """A cluster of small dark specks."""
    density = np.zeros((side, side), np.float32)
    for _ in range(rng.integers(1, 14)):
        centre = rng.normal(side / 2, side * 0.18, 2)
        axes = np.maximum(1, rng.gamma(2.0, side * 0.012, 2)).astype(int)
        cv2.ellipse(
            density,
            tuple(int(v) for v in centre),
            tuple(int(v) for v in axes),
            rng.uniform(0, 180),
            0,
            360,
            rng.uniform(0.3, 1),
            -1,
        )
    return density[..., None] * _colour(rng, 0.5, 2.5)


def tissue(rng: np.random.Generator, side: int) -> np.ndarray:
    """A ragged piece of plant tissue or charcoal, mottled, sometimes with cell walls."""
    corners = int(rng.integers(5, 13))
    angle = np.sort(rng.uniform(0, 2 * np.pi, corners))
    reach = side * rng.uniform(0.15, 0.45, corners)
    stretch = np.array([1.0, rng.uniform(0.3, 1.0)])
    points = np.stack([np.cos(angle), np.sin(angle)], 1) * reach[:, None] * stretch
    turn = rng.uniform(0, np.pi)
    points = points @ np.array([[np.cos(turn), np.sin(turn)], [-np.sin(turn), np.cos(turn)]]) + side / 2
    shape = np.zeros((side, side), np.float32)
    cv2.fillPoly(shape, [np.round(points).astype(np.int32)], 1.0, cv2.LINE_AA)
    grain = cv2.resize(
        rng.uniform(0.3, 1.0, (max(4, side // int(rng.integers(4, 16))),) * 2).astype(np.float32), (side, side)
    )
    density = shape * grain
    if rng.random() < 0.4:
        u, v = _turned(side, rng.uniform(0, np.pi))
        pitch = side * rng.uniform(0.05, 0.15)
        walls = np.maximum(np.cos(2 * np.pi * u / pitch), np.cos(2 * np.pi * v / (pitch * rng.uniform(1, 3))))
        density += shape * (walls > 0.85) * rng.uniform(0.2, 0.8)
    return density[..., None].astype(np.float32) * _colour(rng, 0.25, 2.2)


def crystal(rng: np.random.Generator, side: int) -> np.ndarray:
    """A sharp-edged mineral: clear with dark edges."""
    corners = int(rng.integers(3, 7))
    angle = np.sort(rng.uniform(0, 2 * np.pi, corners))
    points = np.stack([np.cos(angle), np.sin(angle)], 1) * side * rng.uniform(0.15, 0.4) + side / 2
    density = np.zeros((side, side), np.float32)
    polygon = [np.round(points * 16).astype(np.int32)]
    cv2.fillPoly(density, polygon, rng.uniform(-0.1, 0.15), cv2.LINE_AA, 4)
    cv2.polylines(density, polygon, True, rng.uniform(0.5, 2), max(1, side // 60), cv2.LINE_AA, 4)
    return density[..., None] * np.ones(3, np.float32)


def _distance(side: int, centre: np.ndarray) -> np.ndarray:
    axis = np.arange(side, dtype=np.float32)
    return np.hypot(axis[None, :] - centre[0], axis[:, None] - centre[1])


def _turned(side: int, angle: float) -> tuple[np.ndarray, np.ndarray]:
    axis = np.arange(side, dtype=np.float32) - side / 2
    x, y = axis[None, :], axis[:, None]
    return x * np.cos(angle) + y * np.sin(angle), y * np.cos(angle) - x * np.sin(angle)
