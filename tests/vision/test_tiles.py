"""Tiles: cores share the picture, and every grain is counted once whatever the grid and the jitter of boxes."""

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from palyno import UsageError
from palyno.vision.tiles import Grid, cut, iou_matrix, reading_order, reconcile

grids = st.builds(
    lambda width, height, tile, share: Grid(width, height, tile, int(tile * share)),
    st.integers(1, 700),
    st.integers(1, 700),
    st.integers(2, 400),
    st.floats(0, 0.99),
).filter(lambda grid: len(grid) < 3000)
seeds = st.integers(0, 2**32 - 1)


@given(grids)
@settings(max_examples=150, deadline=None)
def test_cores_share_out_every_pixel_and_lie_in_their_windows(grid):
    times = np.zeros((grid.height, grid.width), int)
    for tile in grid:
        (x1, y1, x2, y2), (cx1, cy1, cx2, cy2) = tile.window, tile.core
        assert 0 <= x1 <= cx1 < cx2 <= x2 <= grid.width
        assert 0 <= y1 <= cy1 < cy2 <= y2 <= grid.height
        assert x2 - x1 <= grid.tile and y2 - y1 <= grid.tile
        times[cy1:cy2, cx1:cx2] += 1
        middle = np.array([[cx1, cy1, cx1, cy1], [cx2, cy2, cx2 - 1, cy2 - 1]])
        assert (grid.owner(middle) == tile.number).all()
    assert (times == 1).all()


@given(grids)
@settings(max_examples=100, deadline=None)
def test_core_lines_are_at_least_half_the_overlap_from_the_windows_inner_borders(grid):
    for tile in grid:
        for low, high, length in ((0, 2, grid.width), (1, 3, grid.height)):
            if tile.window[low] > 0:
                assert tile.core[low] - tile.window[low] >= grid.overlap // 2
            if tile.window[high] < length:
                assert tile.window[high] - tile.core[high] >= grid.overlap // 2


@given(grids)
@settings(max_examples=60, deadline=None)
def test_touching_pairs_are_those_whose_windows_share_pixels(grid):
    if len(grid) > 60:
        grid = Grid(grid.width, grid.height, max(grid.width, grid.height) // 3 + 1, 0)
    windows = [tile.window for tile in grid]
    expected = {
        (i, j)
        for i, a in enumerate(windows)
        for j, b in enumerate(windows)
        if i < j and a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]
    }
    pairs = list(grid.touching())
    assert set(pairs) == expected
    assert len(pairs) == len(expected)


@pytest.mark.parametrize(
    ("length", "tile", "overlap", "starts"),
    [
        (640, 640, 160, [0]),
        (100, 640, 160, [0]),
        (641, 640, 160, [0, 32]),
        (1120, 640, 160, [0, 480]),
        (2560, 640, 160, [0, 480, 960, 1440, 1920]),
        (1920, 960, 160, [0, 480, 960]),
        (10, 4, 3, [0, 1, 2, 3, 4, 5, 6]),
    ],
)
def test_windows_are_spread_evenly_on_the_lattice_of_the_network(length, tile, overlap, starts):
    assert Grid(length, 10, tile, overlap).starts[0].tolist() == starts


@pytest.mark.parametrize("arguments", [(0, 9, 4, 1), (9, 9, 4, 4), (9, 9, 4, -1)])
def test_grids_that_cannot_be_are_refused(arguments):
    with pytest.raises(UsageError, match="expected"):
        Grid(*arguments)


def scattered(rng, width, height, sides, n, apart=0.45):
    """Grains that overlap by less than `apart` of their sides; (N, 4)."""
    boxes = []
    for _ in range(n):
        w, h = rng.uniform(*sides, 2)
        x, y = rng.uniform(0, max(width - w, 1)), rng.uniform(0, max(height - h, 1))
        centre = np.array([x + w / 2, y + h / 2])
        if all(np.abs(centre - (b[:2] + b[2:]) / 2).max() > (1 - apart) * sides[1] for b in boxes):
            boxes.append(np.array([x, y, min(x + w, width), min(y + h, height)]))
    return np.array(boxes).reshape(-1, 4)


def seen(grid, grains, rng, jitter=0.0):
    """What each tile reports: every grain in its window, jittered anew and cut at the window's border."""
    boxes, scores, tiles, which = [], [], [], []
    for tile in grid:
        x1, y1, x2, y2 = tile.window
        sides = grains[:, 2:] - grains[:, :2]
        moved = grains + rng.uniform(-jitter, jitter, grains.shape) * np.tile(sides, 2)
        clipped = np.clip(moved, [x1, y1, x1, y1], [x2, y2, x2, y2])
        visible = np.prod(clipped[:, 2:] - clipped[:, :2], 1) > 0.2 * np.prod(sides, 1)
        for i in np.flatnonzero(visible):
            boxes.append(clipped[i])
            scores.append(rng.uniform(0.3, 1))
            tiles.append(tile.number)
            which.append(i)
    return np.array(boxes).reshape(-1, 4), np.array(scores), np.array(tiles, int), np.array(which, int)


field = st.tuples(st.integers(60, 1200), st.integers(60, 1200), st.sampled_from([96, 128, 200, 333]), seeds)


@given(field)
@settings(max_examples=60, deadline=None)
def test_a_perfect_detector_counts_each_grain_once_with_its_whole_box(case):
    width, height, tile, seed = case
    rng = np.random.default_rng(seed)
    grains = scattered(rng, width, height, (10, tile // 3), 40)
    grid = Grid(width, height, tile, tile // 3 + 1)
    boxes, scores, tiles, _ = seen(grid, grains, rng)
    found = boxes[reconcile(grid, boxes, scores, tiles)]
    np.testing.assert_allclose(found, grains[reading_order(grains)])


@given(field)
@settings(max_examples=120, deadline=None)
@example((1200, 1200, 96, 0))
def test_jitter_that_differs_by_tile_neither_doubles_nor_loses_grains(case):
    width, height, tile, seed = case
    rng = np.random.default_rng(seed)
    grains = scattered(rng, width, height, (10, tile // 3), 60, apart=0.3)
    grid = Grid(width, height, tile, tile // 3 + 1)
    boxes, scores, tiles, which = seen(grid, grains, rng, jitter=0.06)
    kept = reconcile(grid, boxes, scores, tiles)
    assert sorted(which[kept]) == list(range(len(grains)))


@pytest.mark.parametrize("shift", np.linspace(-4, 4, 9))
def test_grains_on_a_crossing_of_core_lines_are_counted_once(shift):
    grid = Grid(1120, 1120, 640, 160)
    assert [line.tolist() for line in grid.lines] == [[560], [560]]
    grains = np.array([[530, 530, 590, 590]]) + shift
    for seed in range(40):
        boxes, scores, tiles, _ = seen(grid, grains, np.random.default_rng(seed), jitter=0.08)
        assert len(boxes) == 4
        assert len(reconcile(grid, boxes, scores, tiles)) == 1


@pytest.mark.parametrize("shared", [0.5, 0.7])
def test_touching_grains_on_a_seam_stay_two(shared):
    """At 70 % their intersection over union is 0.54, above what makes two boxes one grain: the witness rule decides."""
    grid = Grid(1120, 640, 640, 160)
    side = 60
    for at in np.linspace(500, 560, 25):
        grains = np.array([[at, 300, at + side, 360], [at + (1 - shared) * side, 300, at + (2 - shared) * side, 360]])
        for seed in range(20):
            boxes, scores, tiles, _ = seen(grid, grains, np.random.default_rng(seed), jitter=0.02)
            kept = reconcile(grid, boxes, scores, tiles)
            assert len(kept) == 2, (at, seed)


def test_neither_the_order_of_tiles_nor_of_boxes_matters():
    rng = np.random.default_rng(3)
    grid = Grid(1500, 1100, 320, 100)
    grains = scattered(rng, 1500, 1100, (30, 90), 250)
    boxes, scores, tiles, _ = seen(grid, grains, rng, jitter=0.1)
    scores = scores.round(1)
    expected = boxes[reconcile(grid, boxes, scores, tiles)]
    for _ in range(5):
        p = rng.permutation(len(boxes))
        np.testing.assert_array_equal(boxes[p][reconcile(grid, boxes[p], scores[p], tiles[p])], expected)


@given(seeds, st.floats(0.3, 1))
@settings(max_examples=80, deadline=None)
def test_a_threshold_before_or_after_gives_the_same_grains(seed, threshold):
    """Also on a field so crowded and jittered that the pairs are often wrong."""
    rng = np.random.default_rng(seed)
    grid = Grid(500, 400, 160, 60)
    corner = rng.uniform(0, (460, 360), (120, 2))
    boxes, scores, tiles, _ = seen(grid, np.hstack([corner, corner + rng.uniform(15, 40, (120, 2))]), rng, jitter=0.15)
    before = scores >= threshold
    after = reconcile(grid, boxes, scores, tiles)
    np.testing.assert_array_equal(
        boxes[before][reconcile(grid, boxes[before], scores[before], tiles[before])],
        boxes[after[scores[after] >= threshold]],
    )


def nms(boxes, scores, limit, smaller=False):
    """Greedy suppression over a whole slide, as slicing tools do; by intersection over union or over the smaller."""
    iou = iou_matrix(boxes, boxes)
    area = np.prod(boxes[:, 2:] - boxes[:, :2], 1)
    shared = iou / (1 + iou) * (area[:, None] + area)
    overlap = shared / np.minimum(area[:, None], area) if smaller else iou
    kept = []
    for i in np.argsort(-scores):
        if all(overlap[i, j] <= limit for j in kept):
            kept.append(i)
    return len(kept)


@pytest.mark.parametrize(("overlap", "clumped"), [(64, 0.0), (64, 0.2), (128, 0.5)])
def test_ownership_counts_600_of_600_where_suppression_over_the_slide_does_not(overlap, clumped):
    rng = np.random.default_rng(7)
    side, pairs = 60, int(600 * clumped / 2)
    lattice = np.stack(np.meshgrid(np.arange(24), np.arange(25)), -1).reshape(-1, 2)[: 600 - pairs]
    corner = lattice * 125 + rng.uniform(0, 20, lattice.shape)
    touching = corner[:pairs] + np.array([side * 0.45, 0])
    corner = np.vstack([corner, touching])
    grains = np.hstack([corner, corner + side])
    grid = Grid(3072, 3200, 640, overlap)
    boxes, scores, tiles, _ = seen(grid, grains, rng, jitter=0.01)
    assert len(grains) == len(reconcile(grid, boxes, scores, tiles)) == 600
    # The same boxes, merged as slicing tools merge them.
    assert nms(boxes, scores, 0.5, smaller=True) != 600 or nms(boxes, scores, 0.5) != 600


def test_grains_larger_than_the_overlap_are_noticed_where_they_are_cut():
    grid = Grid(1120, 640, 640, 160)
    whole, large, edge = [100, 100, 350, 350], [460, 100, 700, 340], [0, 400, 250, 640]
    grains = np.array([whole, large, edge], float)
    boxes, _, tiles, which = seen(grid, grains, np.random.default_rng(0))
    assert set(which[cut(grid, boxes, tiles)]) == {1}
    wide = Grid(1120, 640, 640, 320)
    boxes, _, tiles, _ = seen(wide, grains, np.random.default_rng(0))
    assert not cut(wide, boxes, tiles).any()


@given(seeds)
@settings(max_examples=60, deadline=None)
def test_a_grain_that_its_tile_did_not_see_whole_is_always_noticed(seed):
    rng = np.random.default_rng(seed)
    grid = Grid(900, 900, 256, 64)
    side = rng.uniform(70, 240)
    corner = rng.uniform(0, 900 - side, 2)
    boxes, scores, tiles, _ = seen(grid, np.array([[*corner, *(corner + side)]]), rng)
    kept = reconcile(grid, boxes, scores, tiles)
    noticed = cut(grid, boxes[kept], tiles[kept])
    partial = np.prod(boxes[kept][:, 2:] - boxes[kept][:, :2], 1) < side**2 - 1e-6
    assert (noticed | ~partial).all()


def test_iou_matrix_by_hand():
    a = np.array([[0, 0, 2, 2], [5, 5, 5, 5]])
    b = np.array([[1, 1, 3, 3], [0, 0, 2, 2], [5, 5, 5, 5]])
    np.testing.assert_allclose(iou_matrix(a, b), [[1 / 7, 1, 0], [0, 0, 0]])
