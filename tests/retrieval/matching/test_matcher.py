import json

import numpy as np
import pytest
import torch
from palyno.errors import RejectedModelError, UsageError
from palyno.retrieval.collection import Collection, Record
from palyno.retrieval.encoders import Encoder
from palyno.retrieval.matching.captions import Caption
from palyno.retrieval.matching.matcher import Matcher, load_matcher, save_matcher
from palyno.retrieval.matching.pairs import Captions, Pairs, first_ranks
from palyno.retrieval.matching.texts import SENTENCE, TEXT_MODELS, TextTower, ngrams
from palyno.retrieval.matching.train import OBJECTIVES, Lessons, LessonSettings, MatcherSettings, train_matcher
from palyno.retrieval.matching.words import WordsEncoder

# Taxa of different apertures and ornamentation.
TAXA = ("sida_cerradoensis", "zea_mays", "trembleya_phlogiformis", "ceiba_speciosa", "myrcia_guianensis")
WITHOUT_NETWORK = [name for name in TEXT_MODELS if not name.startswith("minilm")]


def planted(seed=0, per_taxon=6, dim=12, spread=0.02):
    """Grains around one direction a taxon."""
    rng = np.random.default_rng(0)
    middle = np.linalg.qr(rng.normal(size=(dim, dim)))[0][: len(TAXA)]
    near = np.random.default_rng(seed + 1).normal(size=(2, len(TAXA) * per_taxon, dim)) * spread
    vectors = np.repeat(middle, per_taxon, axis=0) + near
    vectors /= np.linalg.norm(vectors, axis=2, keepdims=True)
    return Pairs(vectors.astype(np.float32), tuple(np.repeat(TAXA, per_taxon).tolist()))


def settings(**changes):
    plain = {"text_model": "bag", "dim": 12, "steps": 40, "batch": 30, "lr": 8e-3, "average": 0.9, "glossary": False}
    return MatcherSettings(**{**plain, **changes})


@pytest.fixture(scope="module")
def lessons():
    return Lessons([planted()] * 4, LessonSettings(name=0.5))


def names(pairs):
    """A phrase with the name of each taxon, as in training."""
    from palyno.retrieval.matching.captions import truths

    said = [max(truths(taxon)["name"], key=len) for taxon in TAXA]
    captions = tuple(Caption(f"pollen grain of {name}", {"name": name}) for name in said)
    return Captions(captions, np.arange(len(TAXA)) * (len(pairs) // len(TAXA)))


def search(matcher, pairs, captions):
    return first_ranks(
        matcher.embed_texts(captions.texts) @ matcher.embed_grains(pairs.features[0]).T, captions.truth(pairs)[0]
    )


@pytest.mark.parametrize(("objective", "image_width"), [*((o, 0) for o in OBJECTIVES), ("ranking", 16)])
def test_planted_pairs_are_found_at_the_first_rank(lessons, objective, image_width):
    matcher = train_matcher(lessons, settings(objective=objective, image_width=image_width, dim=12))
    asked = planted(seed=5)
    assert (search(matcher, asked, names(asked)) == 1).all()


@pytest.mark.parametrize("model", ["trigram-skip", "gru", "mean"])
def test_every_text_model_learns_the_planted_pairs(lessons, model):
    asked = planted(seed=6)
    found = search(train_matcher(lessons, settings(text_model=model, steps=50)), asked, names(asked))
    # By chance one in five.
    assert (found == 1).mean() >= 0.8


def test_without_training_they_are_not_found(lessons):
    ranks = [
        search(train_matcher(lessons, settings(steps=1, lr=1e-9, seed=seed)), planted(seed=5), names(planted(seed=5)))
        for seed in range(5)
    ]
    # Of five taxa alike, one in five is first by chance.
    assert np.mean([(r == 1).mean() for r in ranks]) < 0.7


def test_the_same_seed_gives_the_same_matcher_and_another_one_another(lessons):
    first, again, other = (train_matcher(lessons, settings(steps=5, seed=seed)).state_dict() for seed in (0, 0, 1))
    assert all(torch.equal(first[k], again[k]) for k in first)
    assert any(not torch.equal(first[k], other[k]) for k in first)


def test_negatives_by_facts_spare_phrases_that_are_right_for_another_taxon():
    # Both are tricolporate; by facts the phrase pulls both, by taxa each is pushed from the other's.
    pairs = Pairs(np.eye(2, 6, dtype=np.float32)[None], ("trembleya_phlogiformis", "myrcia_guianensis"))
    both = Captions(tuple([Caption("tricolporate grain", {"apertures": "3 colporus"})] * 2), np.arange(2))
    right, wrong = both.truth(pairs)
    assert right.all() and not wrong.any()


def test_ngrams_count_runs_and_pairs_around_a_word():
    assert ngrams("Large echinate grain", "bag") == ["large", "echinate", "grain"]
    assert ngrams("large echinate grain", "trigram")[-1] == "large echinate grain"
    assert ngrams("large echinate grain", "trigram-skip")[-1] == "large _ grain"


@pytest.mark.parametrize("model", WITHOUT_NETWORK)
def test_a_text_has_the_same_vector_whatever_is_beside_it(model):
    torch.manual_seed(0)
    tower = TextTower(model, 8).eval()
    texts = ["large echinate grain", "grain", "a b c d e f g"]
    together = tower(tower.features(texts))
    assert together.norm(dim=1).tolist() == pytest.approx([1, 1, 1], abs=1e-5)
    for i, text in enumerate(texts):
        assert torch.allclose(tower(tower.features([text]))[0], together[i], atol=1e-5)


def test_sentence_and_words_together_learn_words_and_leave_others_to_the_sentence(lessons):
    matcher = train_matcher(lessons, settings(text_model="minilm-bag"))
    asked = planted(seed=5)
    assert (search(matcher, asked, names(asked)) == 1).all()
    # Words that no lesson has say what the sentence encoder makes of them, and nothing else.
    tower, texts = matcher.texts.eval(), ["zygodactyl quokka", "wombat"]
    features = tower.features(texts)
    assert features[:, SENTENCE:].abs().sum() > 0
    alone = features.clone()
    alone[:, SENTENCE:] = 0
    assert torch.equal(tower(features), tower(alone))
    taught = tower.features(["pollen grain"])
    silent = taught.clone()
    silent[:, SENTENCE:] = 0
    assert not torch.allclose(tower(taught), tower(silent), atol=1e-3)


@pytest.mark.parametrize(
    "wrong", [{"text_model": "bert"}, {"objective": "l2"}, {"wrong": "no"}, {"steps": 0}, {"batch": 1}, {"average": 1}]
)
def test_a_setting_that_cannot_be_is_refused(wrong):
    with pytest.raises(UsageError, match=next(iter(wrong))):
        MatcherSettings(**wrong)


def test_lessons_refuse_what_cannot_be():
    with pytest.raises(UsageError, match="fields"):
        LessonSettings(fields=("smell",))
    with pytest.raises(UsageError, match="rounds"):
        Lessons([], LessonSettings())


@pytest.fixture(scope="module")
def weights(lessons, tmp_path_factory):
    path = tmp_path_factory.mktemp("words") / "w.safetensors"
    matcher = train_matcher(lessons, settings())
    return save_matcher(path, matcher, name="w", space="drawn/1", training={}), matcher


def test_a_matcher_comes_back_from_its_file(weights):
    path, matcher = weights
    again, space = load_matcher(path)
    assert space == "drawn/1" and again.config == matcher.config
    texts = ["echinate grain", "pollen of Zea mays"]
    assert again.embed_texts(texts) == pytest.approx(matcher.embed_texts(texts), abs=5e-3)


def test_words_are_in_the_space_of_the_pictures(weights):
    words = WordsEncoder(weights[0])
    assert isinstance(words, Encoder)
    assert (words.encoder_id, words.dim, words.modality) == ("drawn/1", 12, "text")
    assert words.encode([]).shape == (0, 12)
    assert np.linalg.norm(words.encode(["echinate grain"]), axis=1) == pytest.approx([1], abs=1e-5)
    with pytest.raises(UsageError, match="put it in a list"):
        words.encode("echinate grain")


def test_other_files_and_matchers_of_another_space_are_refused(tmp_path, weights):
    (tmp_path / "x.safetensors").write_bytes(weights[0].read_bytes()[:400])
    with pytest.raises(RejectedModelError, match="expected an encoder"):
        WordsEncoder(tmp_path / "x.safetensors")
    own = save_matcher(tmp_path / "own.safetensors", Matcher("bag", 12, 8, 16), name="own", space="s", training={})
    with pytest.raises(RejectedModelError, match="space of its own"):
        WordsEncoder(own)
    with pytest.raises(UsageError, match="nothing is in between"):
        Matcher("bag", 12, 8, 0)


def test_a_collection_of_grains_is_searched_by_words_and_says_which_traits_match(tmp_path, weights):
    words, grains = WordsEncoder(weights[0]), planted(seed=7)
    with Collection.create(tmp_path / "c", encoders=[words]) as made:
        records = [
            Record(kind="grain", taxon=taxon, slide=f"s{i}", box=(0, 0, 9, 9)) for i, taxon in enumerate(grains.taxa)
        ]
        made.add(records, "drawn/1", vectors=grains.features[0], modality="image")
        hits = made.search("echinate grain", k=3, encoder=words)
    assert {hit.record.taxon for hit in hits} <= {"sida_cerradoensis"}
    assert any("looks echinate" in reason for reason in hits[0].reasons)
    assert json.dumps([hit.reasons for hit in hits])


def test_what_grains_look_like_is_the_term_of_each_kind_that_fits_best(weights):
    words = WordsEncoder(weights[0])
    phrases = ["pantoporate grain", "echinate grain", "prolate grain"]
    looks = words.looks(words.encode(phrases))
    # In the glossary's terms, so that they can be compared with what texts say.
    assert (looks[0][0], looks[1][1], looks[2][2]) == ("periporate", "echinate", "prolate")
    assert all(len(one) == 3 for one in looks) and words.looks(np.empty((0, 12), np.float32)) == []
    assert words.explain("many pores, not spiny", words.encode(phrases[:1]))[0][0] == "looks periporate (many pores)"
    against = words.explain("ohne Stacheln", words.encode(phrases[1:2]))
    assert against == [("looks echinate (German Stacheln), which is not wanted",)]
    assert words.explain("honey", words.encode(phrases)) == [(), (), ()]
    assert words.ignores("sehr große, dreiporige Körner") == ["very large (German sehr große)"]
    assert words.ignores("not large, triporate") == words.ignores("Größe") == []


def test_a_text_that_says_nothing_of_a_form_describes_none(weights):
    words = WordsEncoder(weights[0])
    texts = ["Drei Poren.", "Echinate.", "Two air sacs", "A history of honey", "not spiny", "松", ""]
    assert words.describes(texts) == [True, True, True, False, False, False, False]
    assert words.readable(["grain", "", "..."]) == [True, False, False]
