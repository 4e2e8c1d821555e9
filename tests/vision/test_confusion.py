"""The confusion matrix: its margins are the grains and the boxes; cells and figures of classes are brute force."""

from __future__ import annotations

import numpy as np
import pytest
from palyno.data.annotations import LabelledImage
from palyno.vision.confusion import FALSE, MISSED, agrees, block_order, confusion
from palyno.vision.metrics import match
from palyno.vision.results import Provenance, SlideResult

TRUE = ("Betula pendula", "Serjania erecta", "Zea mays", "unknown")
NAMED = ("Betula pendula", "Serjania", "Serjania erecta", "Zea mays", "unknown")
RANK = {"Serjania": "genus", "unknown": "unknown"}


@pytest.mark.parametrize(
    ("name", "rank", "label", "right"),
    [
        ("Zea mays", "species", "Zea mays", True),
        ("Poaceae", "family", "Zea mays", True),
        ("Poaceae sp.", "species", "Zea mays", True),
        ("Serjania sp.", "species", "Serjania erecta", True),
        ("Poaceae sp.", "species", "Betula pendula", False),
        ("Zea mays", "species", "Poaceae sp.", False),
        ("Poaceae-type", "species", "Zea mays", False),
        ("Serjania", "genus", "Serjania erecta", True),
        ("Serjania", "family", "Serjania erecta", False),
    ],
)
def test_a_name_is_right_where_it_claims_no_more_than_is_so(name, rank, label, right):
    assert agrees(name, rank, label) is right


def made(images=15, seed=0):
    rng = np.random.default_rng(seed)
    truth, results = [], []
    for i in range(images):
        n = int(rng.integers(0, 9))
        corner = rng.uniform(0, 500, (n, 2))
        boxes = np.hstack([corner, corner + rng.uniform(20, 80, (n, 2))]).astype(np.float32)
        truth.append(LabelledImage(f"{i}", 640, 640, boxes, tuple(TRUE[k] for k in rng.integers(0, 4, n))))
        extra = rng.uniform(0, 500, (int(rng.integers(0, 4)), 2)).astype(np.float32)
        seen = np.vstack([boxes[rng.random(n) < 0.8], np.hstack([extra, extra + 30])])
        names = tuple(NAMED[k] for k in rng.integers(0, 5, len(seen)))
        ranks = tuple(RANK.get(name, "species") for name in names)
        score = rng.uniform(0.05, 1, len(seen))
        results.append(SlideResult(f"{i}", 640, 640, seen, score, names, Provenance("m", "0", "0"), ranks=ranks))
    return truth, results


@pytest.mark.parametrize("seed", range(3))
def test_margins_are_grains_and_boxes(seed):
    truth, results = made(seed=seed)
    table = confusion(truth, results)
    labels = [label for t in truth for label in t.labels]
    names = [name for r in results for name in r.taxa]
    assert table.counts[:-1].sum() == len(labels)
    assert {name: table.counts[i].sum() for i, name in enumerate(table.true[:-1])} == {
        name: labels.count(name) for name in set(labels)
    }
    assert {n: k for n, k in zip(table.named[:-1], table.counts[:, :-1].sum(0), strict=True) if k} == {
        name: names.count(name) for name in set(names)
    }
    assert (table.true[-1], table.named[-1], table.named[-2]) == (FALSE, MISSED, "unknown")
    assert table.counts[-1, -1] == 0


@pytest.mark.parametrize("seed", range(3))
def test_cells_and_figures_of_classes_are_brute_force(seed):
    truth, results = made(seed=seed)
    table = confusion(truth, results)
    pairs = []
    for t, r in zip(truth, results, strict=True):
        partner = match(t.boxes, r.boxes, r.confidence)
        pairs += [(t.labels[j] if j >= 0 else FALSE, name) for j, name in zip(partner, r.taxa, strict=True)]
        pairs += [(label, MISSED) for j, label in enumerate(t.labels) if j not in partner]
    for i, row in enumerate(table.true):
        for j, column in enumerate(table.named):
            assert table.counts[i, j] == pairs.count((row, column))
    for name in TRUE:
        hits = pairs.count((name, name))
        figures = table.of_class(name)
        assert figures["precision"] == pytest.approx(hits / sum(n == name for _, n in pairs))
        assert figures["recall"] == pytest.approx(hits / sum(label == name for label, _ in pairs))


def test_the_worst_are_wrong_names_alone():
    truth, results = made(60)
    worst = confusion(truth, results).worst
    assert [pair["number"] for pair in worst] == sorted((pair["number"] for pair in worst), reverse=True)
    told = {(pair["true"], pair["named"]) for pair in worst}
    assert ("Zea mays", "Serjania") in told
    assert ("Serjania erecta", "Serjania") not in told  # right, at the rank of the genus
    assert not any(named in ("unknown", MISSED) or named == true for true, named in told)
    assert ("unknown", "Zea mays") in told


def test_a_taxon_called_like_a_reserved_word_stays_apart():
    box = np.array([[0, 0, 10, 10]], np.float32)
    truth = [LabelledImage("a", 20, 20, box, ("missed",))]
    table = confusion(truth, [SlideResult("a", 20, 20, box, [0.9], ("missed",), Provenance("m", "0", "0"))])
    assert table.of_class("missed") == {"true": 1, "found": 1, "precision": 1.0, "recall": 1.0}
    assert table.counts[:, -1].tolist() == [0, 0]


def test_nothing_at_all():
    table = confusion([], [])
    assert (table.true, table.named, table.counts.tolist()) == ((FALSE,), ("unknown", MISSED), [[0, 0]])
    assert np.isnan(table.of_class("Zea mays")["recall"])


def test_classes_that_are_taken_for_one_another_stand_together():
    counts = np.eye(6, dtype=int) * 50
    for i, j in ((0, 5), (1, 3), (2, 4)):
        counts[i, j] = counts[j, i] = 30
    order = block_order(counts)
    assert sorted(order) == list(range(6))
    assert {frozenset(order[i : i + 2]) for i in (0, 2, 4)} == {frozenset(p) for p in ((0, 5), (1, 3), (2, 4))}
    assert block_order(np.zeros((2, 2), int)) == [0, 1] and len(block_order(np.zeros((5, 5), int))) == 5
