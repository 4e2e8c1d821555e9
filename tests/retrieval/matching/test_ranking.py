import numpy as np
import pytest
import torch
from palyno.errors import UsageError
from palyno.retrieval.matching.ranking import Corpus, RankingObjective


def unit(rng, n, dim):
    x = rng.normal(size=(n, dim))
    return torch.from_numpy(x / np.linalg.norm(x, axis=1, keepdims=True))


def batch(seed, n=12, dim=5, taxa=4):
    rng = np.random.default_rng(seed)
    return unit(rng, n, dim), unit(rng, n, dim), torch.from_numpy(rng.integers(0, taxa, n))


def by_loop(images, texts, taxa, margin, w_s, w_i, sides, masked):
    """The definition, one pair at a time, in float64."""
    total, n = 0.0, len(images)
    for k in range(n):
        right = float(images[k] @ texts[k])
        for m in range(n):
            if m == k or (masked and taxa[m] == taxa[k]):
                continue
            if sides != "images":
                total += w_s * max(0.0, margin + float(images[k] @ texts[m]) - right)
            if sides != "sentences":
                total += w_i * max(0.0, margin + float(images[m] @ texts[k]) - right)
    return total / n


@pytest.mark.parametrize("sides", ["both", "sentences", "images"])
@pytest.mark.parametrize("masked", [True, False])
@pytest.mark.parametrize("weights", [(1.0, 1.0), (0.3, 2.0)])
def test_loss_is_the_double_loop(sides, masked, weights):
    for seed in range(5):
        images, texts, taxa = batch(seed)
        objective = RankingObjective(
            margin=0.3, negatives=sides, sentence_weight=weights[0], image_weight=weights[1], same_taxon_mask=masked
        )
        expected = by_loop(images, texts, taxa, 0.3, *weights, sides, masked)
        assert float(objective(images, texts, taxa)) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("draw", ["batch", "hard", "semi-hard", "random"])
def test_nothing_is_lost_where_all_margins_hold(draw):
    vectors = torch.eye(6, dtype=torch.float64)
    assert float(RankingObjective(margin=0.9, draw=draw)(vectors, vectors, torch.arange(6))) == 0


@pytest.mark.parametrize("draw", ["batch", "hard", "semi-hard"])
def test_swapping_images_and_texts_swaps_the_two_sums(draw):
    images, texts, taxa = batch(1)
    sentences, pictures = (RankingObjective(negatives=s, draw=draw) for s in ("sentences", "images"))
    assert float(sentences(images, texts, taxa)) == pytest.approx(float(pictures(texts, images, taxa)), abs=1e-15)
    assert float(sentences(images, texts, taxa)) != pytest.approx(float(pictures(images, texts, taxa)), abs=1e-6)


def test_both_directions_are_the_sum_of_each():
    args = batch(2)
    parts = [float(RankingObjective(negatives=s)(*args)) for s in ("both", "sentences", "images")]
    assert parts[0] == pytest.approx(parts[1] + parts[2], abs=1e-14)


def test_hard_is_the_largest_hinge_and_semi_hard_the_largest_below_the_margin():
    images, texts, taxa = batch(3)
    scores = images @ texts.T
    hard = semi = 0.0
    for k in range(len(images)):
        right, wrong = float(scores[k, k]), [float(scores[k, m]) for m in range(len(images)) if taxa[m] != taxa[k]]
        hard += max(0.0, 0.2 + max(wrong) - right)
        below = [w for w in wrong if w < right]
        semi += max(0.0, 0.2 + max(below) - right) if below else 0.0
    for draw, expected in (("hard", hard), ("semi-hard", semi)):
        got = RankingObjective(negatives="sentences", draw=draw)(images, texts, taxa)
        assert float(got) == pytest.approx(expected / len(images), abs=1e-12)


def test_all_of_a_corpus_drawn_at_random_is_all_of_it():
    images, texts, taxa = batch(4)
    corpus = Corpus(*batch(5, n=30))
    drawn = RankingObjective(draw="random", count=30)(images, texts, taxa, corpus=corpus)
    assert float(drawn) == pytest.approx(float(RankingObjective()(images, texts, taxa, corpus=corpus)), abs=1e-12)


def test_random_draws_average_to_their_share_of_all():
    images, texts, taxa = batch(6, n=9, taxa=100)
    corpus = Corpus(*(t if i < 2 else t + 100 for i, t in enumerate(batch(7, n=20))))
    rng = torch.Generator().manual_seed(0)
    objective = RankingObjective(draw="random", count=5)
    mean = np.mean([float(objective(images, texts, taxa, corpus=corpus, rng=rng)) for _ in range(1500)])
    assert mean == pytest.approx(float(RankingObjective()(images, texts, taxa, corpus=corpus)) / 4, rel=0.03)


def test_no_gradient_passes_between_pairs_of_one_taxon():
    images, texts, _ = batch(8, n=6)
    texts = texts.clone().requires_grad_()
    taxa = torch.tensor([0, 0, 1, 1, 2, 2])
    # Only image 0 is moved, against all sentences but its own and that of its taxon.
    RankingObjective(margin=2.0, negatives="sentences")(images, texts, taxa).backward()
    by_pair = torch.autograd.functional.jacobian(
        lambda t: torch.stack([(2.0 + images[0] @ t[m] - images[0] @ t[0]) for m in range(6) if taxa[m] != 0]).sum(),
        texts,
    )
    assert by_pair[1].abs().max() == 0
    free = RankingObjective(margin=2.0, negatives="sentences", same_taxon_mask=False)
    masked = texts.grad.clone()
    texts.grad = None
    free(images, texts, taxa).backward()
    # Without the mask each sentence is pushed from its taxon's other image: exactly that differs.
    partner = torch.tensor([1, 0, 3, 2, 4 + 1, 4])
    expected = (images[partner] - images) / 6
    assert torch.allclose(texts.grad - masked, expected, atol=1e-12)


@pytest.mark.parametrize("sides", ["both", "sentences", "images"])
def test_gradient_is_the_finite_difference(sides):
    images, texts, taxa = batch(9, n=6)
    inputs = [images.clone().requires_grad_(), texts.clone().requires_grad_()]
    # Far above every score, so that no hinge is near its kink.
    objective = RankingObjective(margin=3.0, negatives=sides)
    assert torch.autograd.gradcheck(lambda a, b: objective(a, b, taxa), inputs)


def test_planted_rotation_between_the_spaces_is_found():
    rng = np.random.default_rng(0)
    texts = unit(rng, 200, 8).float()
    turn = torch.from_numpy(np.linalg.qr(rng.normal(size=(8, 8)))[0]).float()
    images, taxa = texts @ turn.T, torch.arange(200)
    layer = torch.nn.Linear(8, 8, bias=False)
    optimiser = torch.optim.Adam(layer.parameters(), lr=0.04)
    for step in range(150):
        at = torch.from_numpy(np.random.default_rng(step).choice(150, 50, replace=False))
        moved = torch.nn.functional.normalize(layer(images[at]), dim=1)
        optimiser.zero_grad()
        RankingObjective()(moved, texts[at], taxa[at]).backward()
        optimiser.step()
    # The last fifty pairs were never trained on.
    scores = torch.nn.functional.normalize(layer(images[150:]), dim=1) @ texts[150:].T
    assert (scores.argmax(0) == torch.arange(50)).all()
    assert (scores.argmax(1) == torch.arange(50)).all()


@pytest.mark.parametrize(
    "wrong", [{"margin": 0}, {"negatives": "none"}, {"draw": "easy"}, {"count": 0}, {"sentence_weight": -1}]
)
def test_a_setting_that_cannot_be_is_refused(wrong):
    with pytest.raises(UsageError, match=next(iter(wrong))):
        RankingObjective(**wrong)


def test_what_is_known_to_be_wrong_can_be_said_for_each_text_and_image():
    images, texts, taxa = batch(10)
    rng = np.random.default_rng(0)
    wrong = torch.from_numpy(rng.random((12, 12)) < 0.5).fill_diagonal_(False)
    total = 0.0
    for k in range(12):
        right = float(images[k] @ texts[k])
        for m in range(12):
            if wrong[m, k]:
                total += max(0.0, 0.2 + float(images[k] @ texts[m]) - right)
            if wrong[k, m]:
                total += max(0.0, 0.2 + float(images[m] @ texts[k]) - right)
    assert float(RankingObjective()(images, texts, taxa, wrong=wrong)) == pytest.approx(total / 12, abs=1e-12)
    by_taxon = taxa[:, None] != taxa[None]
    assert float(RankingObjective()(images, texts, taxa, wrong=by_taxon)) == float(
        RankingObjective()(images, texts, taxa)
    )
    with pytest.raises(UsageError, match="wrong"):
        RankingObjective()(images, texts, taxa, wrong=wrong[:3])


def test_pairs_that_do_not_fit_are_refused():
    images, texts, taxa = batch(0)
    with pytest.raises(UsageError, match=r"\(12, 5\), \(11, 5\)"):
        RankingObjective()(images, texts[1:], taxa)
