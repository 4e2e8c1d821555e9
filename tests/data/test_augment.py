"""Transforms for training: ultralytics writes them down and reads them again, and pictures keep their size and type."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from palyno.data.augment import training_transforms


@pytest.fixture(scope="module")
def picture():
    return np.random.default_rng(0).integers(40, 200, (48, 64, 3), dtype=np.uint8)


def test_what_ultralytics_writes_down_it_reads_without_a_warning(picture):
    import albumentations as A

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        again = [A.from_dict(A.to_dict(transform)) for transform in training_transforms()]
    first, second = (A.Compose(list(transforms), seed=3) for transforms in (training_transforms(), again))
    for _ in range(20):
        assert (first(image=picture)["image"] == second(image=picture)["image"]).all()


def test_white_balance_is_albumentations_rgb_shift(picture):
    import albumentations as A

    (ours,) = [transform for transform in training_transforms() if isinstance(transform, A.AdditiveNoise)]
    ours.p = 1.0
    theirs = A.RGBShift(r_shift_limit=15, g_shift_limit=15, b_shift_limit=15, p=1)
    mine, other = (A.Compose([transform], seed=1) for transform in (ours, theirs))
    for _ in range(5):
        shifted = mine(image=picture)["image"]
        assert (shifted == other(image=picture)["image"]).all()
        change = (shifted.astype(int) - picture).reshape(-1, 3)
        assert (change == change[0]).all() and 0 < np.abs(change[0]).max() <= 15


def test_pictures_keep_their_size_and_type(picture):
    import albumentations as A

    pipeline = A.Compose([*training_transforms()], seed=0)
    made = [pipeline(image=picture)["image"] for _ in range(30)]
    assert all(one.shape == picture.shape and one.dtype == np.uint8 for one in made)
    assert len({one.tobytes() for one in made}) > 5
