"""Another laboratory's preparation and microscope: stain and optics that training scenes never show.

Training scenes change the stain linearly in optical density, one dye a scene, and are bright field in focus or a little
out of it. Here two dyes share a grain by its density, as counterstains do, and the microscope adds what a bright-field
one in good order does not: oblique light, coloured fringes, a field that is sharp and bright in its middle only.
Detectors are scored on such scenes, and not trained on them.
"""

from __future__ import annotations

import cv2
import numpy as np

__all__ = ["Counterstain", "other_optics"]


class Counterstain:
    """Two dyes: one takes thin parts and the other dense ones.

    Args:
        rng: Draws the two dyes and where one gives way to the other.
    """

    def __init__(self, rng: np.random.Generator) -> None:
        self.rng = rng
        first, second = rng.permutation(3)[:2]
        self.dyes = np.full((2, 3), 0.35, np.float32)
        self.dyes[0, first] = self.dyes[1, second] = 1.8
        self.dyes *= np.exp(rng.normal(0, 0.15, (2, 3))).astype(np.float32)
        self.turning = float(rng.uniform(0.25, 0.9))
        self.strength = float(rng.uniform(0.7, 1.2))

    def __call__(self, transmission: np.ndarray) -> np.ndarray:
        """Stains a grain: transmission, (H, W, 3), before and after."""
        grey = -np.log(np.clip(transmission, 0.01, 1.5)).mean(axis=2, keepdims=True)
        turning = self.turning * float(np.exp(self.rng.normal(0, 0.1)))
        share = 1 / (1 + np.exp(-(grey - turning) / (0.25 * turning)))
        dye = (1 - share) * self.dyes[0] + share * self.dyes[1]
        return np.exp(-self.strength * grey * dye).astype(np.float32)


def other_optics(rng: np.random.Generator, light: np.ndarray) -> np.ndarray:
    """Oblique light, lateral chromatic aberration, curvature of field and vignetting.

    Args:
        rng: Draws how much of each.
        light: float32, shape (size, size, 3), 0 to 255.
    """
    light, size = light.astype(np.float32), light.shape[0]
    y, x = (np.mgrid[:size, :size] + 0.5 - size / 2).astype(np.float32) / (size / 2)
    if rng.random() < 0.6:
        # Oblique illumination shows the slope of the optical path along one direction (as DIC does): a relief.
        angle, strength = rng.uniform(0, 2 * np.pi), rng.uniform(1.0, 2.5)
        density = -np.log(np.clip(cv2.GaussianBlur(light, (0, 0), 1.0), 2, 255) / 255).mean(axis=2)
        across, down = (cv2.Sobel(density, cv2.CV_32F, *order) for order in ((1, 0), (0, 1)))
        slope = np.cos(angle) * across + np.sin(angle) * down
        light = light * np.exp(strength * np.clip(slope / 8, -0.25, 0.25))[..., None].astype(np.float32)
    shift = float(rng.uniform(0.002, 0.006))
    light = np.dstack([_magnified(light[..., i], 1 + k * shift) for i, k in enumerate((1, 0, -1))])
    centre = rng.uniform(-0.4, 0.4, 2)
    distance = ((x - centre[0]) ** 2 + (y - centre[1]) ** 2)[..., None]
    blurred = cv2.GaussianBlur(light, (0, 0), float(rng.uniform(1.2, 2.4)))
    unsharp = np.clip(distance / float(rng.uniform(0.8, 1.6)), 0, 1)
    dark = float(rng.uniform(0.1, 0.35)) * np.clip(distance, 0, 2) / 2
    return ((1 - unsharp) * light + unsharp * blurred) * (1 - dark)


def _magnified(channel: np.ndarray, factor: float) -> np.ndarray:
    size = channel.shape[0]
    matrix = np.array([[factor, 0, (1 - factor) * size / 2], [0, factor, (1 - factor) * size / 2]])
    return cv2.warpAffine(channel, matrix, (size, size), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
