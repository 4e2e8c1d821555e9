import numpy as np
import pytest
from palyno.errors import InputError, UsageError
from palyno.retrieval.matching.captions import Caption, truths
from palyno.retrieval.matching.measures import Measures
from palyno.retrieval.matching.pairs import Captions, Pairs, draw_captions, first_ranks

TAXA = ("sida_cerradoensis", "zea_mays", "Nonesuch nonesuch", "ceiba_speciosa")


def pairs(taxa=TAXA, measures=None):
    rng = np.random.default_rng(0)
    return Pairs(rng.normal(size=(2, len(taxa), 4)).astype(np.float32), tuple(taxa), measures)


def test_a_phrase_is_right_wrong_or_neither():
    said = [
        Caption("echinate grain", {"ornamentation": "echinate"}),
        Caption("echinate grain of Sida", {"ornamentation": "echinate", "name": "Sida"}),
        Caption("monoporate grain", {"apertures": "1 pore"}),
    ]
    right, wrong = Captions(tuple(said), np.zeros(3, np.int64)).truth(pairs())
    echinate = ["echinate" in truths(t).get("ornamentation", ()) for t in TAXA]
    assert right[0].tolist() == echinate
    assert right[1].tolist() == [True, False, False, False]
    # Of the unknown taxon only its name is known, so that a name is wrong and a trait is neither.
    assert wrong[:, 2].tolist() == [False, True, False] and not right[:, 2].any()
    assert right[2].tolist() == [False, True, False, False]


def test_truth_is_its_double_loop_and_never_both():
    grains = pairs(
        TAXA * 5, tuple(Measures(10, 9, (0.0,) * 5, (0.1 * i % 0.9, 0.2, 0.1), 5.0 * (i + 1)) for i in range(20))
    )
    captions = draw_captions(grains, 3, 1)
    right, wrong = captions.truth(grains)
    assert not (right & wrong).any()
    for k, one in enumerate(captions.captions):
        for n, true in enumerate(grains.true):
            assert right[k, n] == all(v in true.get(f, ()) for f, v in one.facts.items())
            assert wrong[k, n] == any(f in true and v not in true[f] for f, v in one.facts.items())
    assert right[np.arange(len(captions)), captions.of].all()


def test_phrases_are_repeatable_and_so_many_a_grain():
    grains = pairs()
    first, again, other = (draw_captions(grains, 4, seed).texts for seed in (0, 0, 1))
    assert first == again != other and len(first) == 16
    with pytest.raises(InputError, match="found none"):
        draw_captions(grains.select([False] * 4), 1, 0)


def test_first_ranks_count_ties_against_the_right_answer():
    scores = np.array([[0.9, 0.5, 0.5, 0.1], [0.2, 0.2, 0.2, 0.2], [1.0, 0.0, 0.0, 0.0]])
    right = np.array([[False, True, False, True], [True, True, False, False], [False] * 4])
    assert first_ranks(scores, right).tolist() == [3, 3, np.inf]


def test_features_that_do_not_fit_are_refused():
    with pytest.raises(UsageError, match="2 grains"):
        Pairs(np.zeros((1, 3, 4), np.float32), ("a", "b"))
    with pytest.raises(UsageError, match="measures"):
        Pairs(np.zeros((1, 1, 4), np.float32), ("a",), ())
