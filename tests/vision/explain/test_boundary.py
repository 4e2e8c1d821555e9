"""Shares along outlines: limit cases with known answers, and what must not matter."""

import numpy as np
import pytest
from palyno import UsageError
from palyno.vision.explain.boundary import (
    Band,
    border_distance,
    boundary_share,
    diameter,
    paired_bootstrap,
    surroundings,
)
from scipy.ndimage import binary_dilation, binary_erosion

PIXELS = [Band(2), Band(4), Band(8)]
RELATIVE = [Band(0.02, True), Band(0.05, True), Band(0.1, True)]


def disk(radius, size=None, centre=None):
    size = size or int(4 * radius)
    x, y = centre or (size / 2, size / 2)
    rows, columns = np.mgrid[:size, :size] + 0.5
    return np.hypot(columns - x, rows - y) < radius


def test_an_attribution_that_is_the_border_is_all_within_any_band():
    mask = disk(40)
    border = binary_dilation(mask) & ~binary_erosion(mask)
    found = boundary_share(border.astype(float), mask, [*PIXELS, *RELATIVE])
    assert all(share.share == pytest.approx(1) for share in found.values())
    assert all(share.chance < 1 and share.enrichment > 1 for share in found.values())


def test_an_attribution_that_is_the_same_everywhere_is_at_chance():
    mask = disk(30)
    for level in (1.0, -3.0):
        found = boundary_share(np.full(mask.shape, level), mask, [*PIXELS, *RELATIVE])
        assert all(share.enrichment == pytest.approx(1) for share in found.values())


def test_chance_is_the_ring_of_the_geometry():
    """A disk of radius 100 in its box and a tenth of the diameter around it: 2 pi r 2k of (2.4 r)^2.

    Distances between pixels' middles are up to half a pixel short along the diagonals, on either side.
    """
    mask = disk(100)
    found = boundary_share(np.ones(mask.shape), mask, PIXELS)
    for k in (2, 4, 8):
        least, most = (2 * np.pi * 100 * width / 240**2 for width in (2 * k, 2 * k + 1))
        assert least < found[f"{k}px"].chance < most


def test_an_attribution_in_the_middle_or_far_away_is_nowhere_near_the_border():
    mask = disk(40)
    assert boundary_share(disk(20, 160).astype(float), mask, PIXELS)["8px"].share == 0
    assert boundary_share(disk(3, 160, (10, 10)).astype(float), mask, PIXELS) is None


def test_the_distance_is_half_a_pixel_at_the_outline_and_grows_by_one():
    mask = np.zeros((5, 8), bool)
    mask[:, 4:] = True
    assert border_distance(mask)[2].tolist() == [3.5, 2.5, 1.5, 0.5, 0.5, 1.5, 2.5, 3.5]


def test_where_the_picture_ends_is_no_outline():
    mask = disk(40, 160, (0, 80))
    found = border_distance(mask)
    assert found[80, 0] > 30
    assert boundary_share(disk(5, 160, (0, 80)).astype(float), mask, PIXELS)["8px"].share == 0


def test_turning_and_mirroring_change_nothing():
    rng = np.random.default_rng(0)
    mask = disk(25, 110, (50, 60)) | disk(12, 110, (70, 50))
    values = rng.normal(size=mask.shape)
    expected = boundary_share(values, mask, [*PIXELS, *RELATIVE])
    for turn in (np.rot90, np.fliplr, np.flipud, np.transpose):
        found = boundary_share(turn(values), turn(mask), [*PIXELS, *RELATIVE])
        for name, share in found.items():
            assert share == pytest.approx(expected[name])


def test_relative_bands_do_not_change_with_the_size_of_the_picture_and_pixels_do():
    rng = np.random.default_rng(1)
    mask, values = disk(40, 160), rng.random((160, 160))
    small = boundary_share(values, mask, [*RELATIVE[1:], Band(4)])
    large = boundary_share(
        np.kron(values, np.ones((3, 3))), np.kron(mask, np.ones((3, 3))) > 0, [*RELATIVE[1:], Band(4)]
    )
    for name in ("0.05d", "0.1d"):
        assert large[name].share == pytest.approx(small[name].share, abs=0.01)
        assert large[name].chance == pytest.approx(small[name].chance, abs=0.01)
    assert large["4px"].chance < 0.5 * small["4px"].chance
    assert diameter(np.kron(mask, np.ones((3, 3)))) == pytest.approx(3 * diameter(mask))


def test_the_surroundings_hold_the_box_and_a_tenth_of_the_diameter():
    mask = disk(50, 200, (60, 100))
    rows, columns = surroundings(mask)
    assert (rows.start, rows.stop, columns.start, columns.stop) == (40, 160, 0, 120)


def test_intervals_of_groups_that_agree_are_points_and_of_pairs_narrower_than_of_each():
    rng = np.random.default_rng(2)
    groups = np.repeat(np.arange(40), 5)
    a = rng.normal(0, 1, 40)[groups] + rng.normal(0, 0.1, 200)
    b = a + 0.5 + rng.normal(0, 0.05, 200)
    found = paired_bootstrap({"a": a, "b": b, "difference": b - a, "constant": np.ones(200)}, groups)
    assert found["constant"] == (1, 1, 1)
    assert found["difference"].mean == pytest.approx(found["b"].mean - found["a"].mean)
    assert found["difference"].low < 0.5 < found["difference"].high
    assert found["difference"].high - found["difference"].low < 0.1 * (found["a"].high - found["a"].low)
    # Grains of one scene alike: as wide as with one grain a scene, not narrower for there being five.
    single = paired_bootstrap({"a": a[::5]}, groups[::5])["a"]
    assert (found["a"].high - found["a"].low) == pytest.approx(single.high - single.low, rel=0.15)
    assert paired_bootstrap({"a": a}, groups) == paired_bootstrap({"a": a}, groups)


def test_the_interval_covers_the_true_mean_as_often_as_it_says():
    rng = np.random.default_rng(3)
    hits = []
    for _ in range(200):
        groups = np.repeat(np.arange(30), 3)
        values = rng.normal(0, 1, 30)[groups] + rng.normal(0, 1, 90)
        found = paired_bootstrap({"v": values}, groups, rounds=400)["v"]
        hits.append(found.low <= 0 <= found.high)
    assert 0.88 < np.mean(hits) < 0.99


def test_what_cannot_be_measured_is_refused():
    with pytest.raises(UsageError, match="expected pixels inside and outside, got 0 of 16"):
        border_distance(np.zeros((4, 4), bool))
    with pytest.raises(UsageError, match=r"expected a value a pixel of the mask, \(4, 4\); got \(2, 2\)"):
        boundary_share(np.ones((2, 2)), np.eye(4) > 0, PIXELS)
