"""What a microscope, its camera and its user change from slide to slide, as albumentations pipelines."""

from __future__ import annotations

from typing import Any

from .. import offline

__all__ = ["training_transforms"]


def training_transforms() -> list[Any]:
    """Pixel transforms for training detectors on bright-field micrographs; boxes stay as they are.

    Focus, camera noise, exposure, contrast, white balance and compression vary; colour is dropped now and then, so that
    names rest on sculpture and shape where they can, and not on the stain alone.
    """
    offline.switch_off()
    import albumentations as A

    return [
        A.OneOf([A.Defocus(radius=(1, 3), p=1), A.GaussianBlur(sigma_limit=(0.3, 1.5), p=1)], p=0.1),
        A.RandomBrightnessContrast(brightness_limit=0.15, contrast_limit=0.25, p=0.3),
        # White balance. It is RGBShift by up to 15 of 255, which is not read again without warnings once written down.
        A.AdditiveNoise(
            noise_type="uniform",
            spatial_mode="constant",
            noise_params={"ranges": [(-15 / 255, 15 / 255)] * 3},
            p=0.2,
        ),
        A.GaussNoise(std_range=(0.01, 0.04), p=0.1),
        A.ToGray(p=0.05),
        A.ImageCompression(quality_range=(50, 95), p=0.15),
    ]
