"""Bootstrap: with every image drawn once it is pycocotools; a drawn sample is the figure of that very sample."""

from dataclasses import replace

import numpy as np
import pytest
from palyno.data.annotations import LabelledImage
from palyno.vision.calibration import calibration, calibration_draws
from palyno.vision.intervals import bootstrap, counted, draws, interval, ranked, ranked_by_size, shares
from palyno.vision.metrics import average_precision, count_quality

CLASSES = ("Betula", "Corylus", "Alnus", "Zea")


def made(images=12, seed=0):
    """Boxes found near true ones, some missed, some too many, some misnamed; scores with ties; no Zea anywhere."""
    rng = np.random.default_rng(seed)
    truth, found = [], []
    for i in range(images):
        n = int(rng.integers(0, 8)) if i else 0
        corner = rng.uniform(0, 500, (n, 2))
        boxes = np.hstack([corner, corner + rng.uniform(20, 80, (n, 2))]).astype(np.float32)
        names = [CLASSES[k] for k in rng.integers(0, 3, n)]
        truth.append(LabelledImage(f"{i}.png", 640, 640, boxes, tuple(names)))
        keep = rng.random(n) < 0.8
        seen = boxes[keep] + rng.normal(0, 4, (keep.sum(), 4)).astype(np.float32)
        extra = rng.uniform(0, 500, (int(rng.integers(0, 4)), 2)).astype(np.float32)
        seen = np.vstack([seen, np.hstack([extra, extra + 30])]).astype(np.float32)
        labels = [n if rng.random() < 0.8 else "Alnus" for n, k in zip(names, keep, strict=True) if k]
        labels += ["Betula"] * len(extra)
        scores = np.round(rng.uniform(0.05, 1, len(seen)), 1).astype(np.float32)
        found.append(LabelledImage(f"{i}.png", 640, 640, seen, tuple(labels), scores))
    return truth, found


def mean_precision(truth, found, weights):
    each = np.stack([one.precision(weights) for one in ranked(truth, found, CLASSES)])
    return np.nanmean(each[..., 0], 0), np.nanmean(each, (0, 2))


@pytest.mark.parametrize("seed", range(4))
def test_every_image_once_is_pycocotools(seed):
    truth, found = made(seed=seed)
    half, whole = mean_precision(truth, found, np.ones((1, len(truth)), int))
    expected = average_precision(truth, found, CLASSES)
    assert half[0] == pytest.approx(expected["mAP50"], abs=1e-12)
    assert whole[0] == pytest.approx(expected["mAP50-95"], abs=1e-12)


@pytest.mark.parametrize("seed", range(4))
def test_recall_and_sizes_of_every_image_once_are_pycocotools(seed):
    truth, found = made(seed=seed)
    # Grains of below 32 px and of up to 96 px.
    truth, found = ([replace(image, boxes=image.boxes * 0.8) for image in images] for images in (truth, found))
    once = np.ones((1, len(truth)), int)
    expected = average_precision(truth, found, CLASSES)
    of_sizes = ranked_by_size(truth, found, CLASSES)
    assert set(of_sizes) == {"all", "small", "medium", "large"}
    recall = np.nanmean([one.recall(once)[0] for one in of_sizes["all"]])
    assert recall == pytest.approx(expected["AR"], abs=1e-12)
    for size in ("small", "medium"):
        mean = np.nanmean([one.precision(once)[0] for one in of_sizes[size]])
        assert mean == pytest.approx(expected[f"AP_{size}"], abs=1e-12) and mean > 0
    assert np.isnan(expected["AP_large"]) and not any(one.true.any() for one in of_sizes["large"])


def test_every_figure_has_an_interval_and_one_that_no_draw_changes_has_none():
    truth, found = made()

    def intervals(found, several):
        sizes, some = ranked_by_size(truth, found, CLASSES), ranked(truth, found, ["Betula"])[0]
        several = ranked(truth, several, CLASSES)
        return bootstrap(sizes, CLASSES, some, counted(truth, found), 50, multi_label=several)

    some, of_class = intervals(found, found)
    for name in ("mAP50", "mAP50-95"):
        assert some[f"{name}_multi_label"] == some[name]
    for name in ("mAP50", "mAP50-95", "AR", "AP_medium", "precision", "recall", "f1", "count_error"):
        assert some[name][0] < some[name][1], name
    assert np.isnan(some["AP_large"]).all() and set(of_class) == set(CLASSES[:3])
    once, per_class = np.ones((1, len(truth)), int), average_precision(truth, found, CLASSES)["per_class"]
    for name, own in of_class.items():
        for key, (low, high) in own.items():
            assert low < per_class[name][key] < high, (name, key)
        # Of the mean over thresholds, not of one of them.
        values = ranked(truth, found, CLASSES)[CLASSES.index(name)].precision(np.vstack([once, draws(len(truth), 50)]))
        assert own["AP50-95"] == pytest.approx(interval(values[0].mean(), values[1:].mean(1)))
    right = [LabelledImage(t.image, 640, 640, t.boxes, t.labels, np.linspace(1, 0.5, len(t))) for t in truth]
    all_, of_class = intervals(right, found)
    assert np.isnan([all_["mAP50"], all_["recall"], *(ends["AP50"] for ends in of_class.values())]).all()
    assert all_["mAP50_multi_label"] == some["mAP50"]


def test_shares_of_a_draw_are_those_of_the_images_drawn():
    counts = np.random.default_rng(0).integers(0, 9, (12, 4))
    weights = draws(12, 5, seed=3)
    for row, told in zip(weights, shares(counts, weights), strict=True):
        chosen = counts[np.repeat(np.arange(12), row)].sum(0)
        assert told == pytest.approx(chosen / chosen.sum(), abs=1e-12)
    assert np.isnan(shares(np.zeros((3, 2), int), np.ones((1, 3), int))).all()


def test_a_calibration_of_a_draw_is_that_of_the_images_drawn():
    rng = np.random.default_rng(0)
    parts = [((p := rng.random(int(rng.integers(0, 9)))), rng.random(len(p)) < p) for _ in range(10)]
    weights = draws(len(parts), 4, seed=2)
    drawn = calibration_draws(parts, np.vstack([weights, np.zeros(len(parts), int)]))
    for i, row in enumerate(weights):
        chosen = [parts[k] for k in np.repeat(np.arange(len(parts)), row)]
        expected = calibration(*(np.concatenate(part) for part in zip(*chosen, strict=True)))
        assert drawn["ece"][i] == pytest.approx(expected.ece, abs=1e-12)
        assert drawn["brier"][i] == pytest.approx(expected.brier, abs=1e-12)
    assert np.isnan([drawn["ece"][-1], drawn["brier"][-1]]).all()


def test_a_draw_is_the_figure_of_the_images_drawn():
    """An image drawn twice is two images; scores are all different, as pycocotools orders ties by image."""
    truth, found = made(seed=5)
    rng = np.random.default_rng(0)
    found = [
        LabelledImage(
            f.image, 640, 640, f.boxes, f.labels, rng.permutation(1000)[: len(f)].astype(np.float32) / 1000 + i * 1e-5
        )
        for i, f in enumerate(found)
    ]
    for weights in draws(len(truth), 5, seed=1):
        index = np.repeat(np.arange(len(truth)), weights)
        half, whole = mean_precision(truth, found, weights[None])
        expected = average_precision([truth[i] for i in index], [found[i] for i in index], CLASSES)
        # Copies of one box stand in one step here and in two there.
        assert half[0] == pytest.approx(expected["mAP50"], abs=0.02)
        assert whole[0] == pytest.approx(expected["mAP50-95"], abs=0.02)
        drawn = counted(truth, found).figures(weights[None])
        quality = count_quality([truth[i] for i in index], [found[i] for i in index])
        assert drawn["precision"][0] == pytest.approx(quality.precision)
        assert drawn["recall"][0] == pytest.approx(quality.recall)
        assert drawn["count_error"][0] == pytest.approx(quality.count_error)
        assert drawn["f1"][0] == pytest.approx(quality.f1)


def test_draws_without_a_grain_say_nothing_of_how_grains_are_found():
    """Of four images one has grains, all found: no draw can have found less of them, or counted better than by 50 %."""
    boxes = np.array([[10, 10, 40, 40], [60, 60, 90, 90]], np.float32)
    one, none = LabelledImage("a", 99, 99, boxes, ("grain",) * 2), LabelledImage("b", 99, 99, boxes[:0], ())
    more = np.vstack([boxes, [[10, 60, 40, 90]]])
    seen = LabelledImage("a", 99, 99, more, ("grain",) * 3, np.array([0.9, 0.8, 0.7]))
    nothing = LabelledImage("b", 99, 99, boxes[:0], (), np.zeros(0))
    truth, found = [one, none, none, none], [seen, nothing, nothing, nothing]
    weights = draws(4, 200)
    with_grains = weights[:, 0] > 0
    assert not with_grains.all()
    figures = counted(truth, found).figures(weights)
    for name, expected in (("recall", 1.0), ("count_error", 0.5)):
        assert (figures[name][with_grains] == expected).all() and np.isnan(figures[name][~with_grains]).all()
    quality = count_quality([none], [nothing])
    assert np.isnan([quality.recall, quality.count_error, quality.f1]).all()


def test_nothing_found_is_nought():
    truth, found = made()
    empty = [LabelledImage(f.image, 640, 640, np.zeros((0, 4), np.float32), (), np.zeros(0, np.float32)) for f in found]
    half, whole = mean_precision(truth, empty, np.ones((1, len(truth)), int))
    assert half[0] == whole[0] == 0


def test_an_interval_holds_the_figure_about_as_often_as_it_says():
    """Counts of coins: 200 samples of 40 images, each with its own 95 % interval of a mean that is known."""
    rng = np.random.default_rng(0)
    held = 0
    for trial in range(200):
        hits = rng.binomial(10, 0.7, 40)
        low, high = interval(hits.mean() / 10, (draws(40, 400, seed=trial) @ hits) / 400)
        held += low <= 0.7 <= high
    assert 0.88 <= held / 200 <= 0.99


def test_a_mean_with_a_long_tail_is_held_more_often_by_quantiles_as_they_are():
    """Errors of 10 images, mostly small and at times large, as of counts; their mean is known: exp(-3 + 1/2)."""
    rng = np.random.default_rng(0)
    held, nought = np.zeros(2, int), np.zeros(2, int)
    for trial in range(300):
        errors = rng.lognormal(-3, 1, 10)
        means = (draws(10, 400, seed=trial) @ errors) / 10
        ends = [interval(errors.mean(), means, bounds=(0, np.inf), reflected=reflected) for reflected in (True, False)]
        held += [low <= np.exp(-2.5) <= high for low, high in ends]
        nought += [low == 0 for low, _ in ends]
    assert held[1] > held[0] + 9
    assert nought[0] > 0
    assert nought[1] == 0


def test_a_bias_that_draws_add_is_taken_off():
    """The number of different images in a draw is biased by about a third; reflected, the figure stays inside."""
    weights = draws(60, 400)
    different = (weights > 0).mean(1)
    assert different.mean() == pytest.approx(1 - np.exp(-1), abs=0.02)
    low, high = interval(0.63, 0.63 - 0.05 + 0.02 * np.random.default_rng(0).standard_normal(400))
    assert low > 0.63
    assert high == pytest.approx(0.68 + 0.039, abs=0.01)
    assert interval(0.98, np.array([0.9, 0.97, 0.99]), bounds=(0, 1))[1] == 1
    assert np.isnan(interval(0.5, np.full(3, np.nan))).all()
