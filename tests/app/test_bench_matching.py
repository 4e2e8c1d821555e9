import json

import numpy as np
import pytest
from click.testing import CliRunner
from palyno.app.bench_matching import Material, interval, student
from palyno.app.bench_matching import _encoder as measure_encoder
from palyno.app.cli import cli
from palyno.app.grain_pictures import GrainPictures, gather
from palyno.app.matching_atlas import AtlasTexts
from palyno.app.matching_scenes import UNSEEN, composed, held_out, trait_queries, triple_queries
from palyno.errors import NothingToDoError
from palyno.retrieval.encoders.image import ImageEncoder
from palyno.retrieval.matching.captions import facts
from palyno.retrieval.matching.matcher import load_matcher
from palyno.retrieval.matching.pairs import Pairs
from PIL import Image

TAXA = ("sida_cerradoensis", "zea_mays", "myrcia_guianensis", "ceiba_speciosa")


def pairs(count=40, seed=0):
    rng = np.random.default_rng(seed)
    return Pairs(rng.normal(size=(2, count, 8)).astype(np.float32), tuple(TAXA[i % 4] for i in range(count)))


def test_no_grain_of_training_is_of_a_combination_that_is_held_out_and_galleries_have_both():
    train, gallery = composed(pairs(400), 0, train=True), composed(pairs(400), 1)
    said = [[facts(t, m) for t, m in zip(p.taxa, p.measures, strict=True)] for p in (train, gallery)]
    assert not any(map(held_out, said[0]))
    assert 0.1 < np.mean([held_out(one) for one in said[1] if "ornamentation" in one]) < 0.35
    # The vectors are those of the pictures, the measures stand after them.
    assert np.array_equal(train.features[:, :, :8], pairs(400).features)
    assert train.features.shape == (2, 400, 17)


def test_queries_ask_for_what_there_is_and_are_split_by_what_was_held_out():
    gallery = composed(pairs(300), 2, copies=2)
    every, held, free = (triple_queries(gallery, held=h) for h in (None, True, False))
    assert len(every) == len(held) + len(free) and len(held) and len(free)
    assert all(held_out(one.facts) for one in held.captions)
    assert every.truth(gallery)[0].any(1).all()
    train = Pairs(np.zeros((1, 1, 8), np.float32), ("zea_mays",))
    asked = trait_queries(train, pairs())
    assert {"ornamentation": "echinate"}.items() <= asked.captions[0].facts.items()
    assert len(trait_queries(pairs(), pairs())) == 0


def test_intervals_hold_their_mean_and_shrink_with_agreement():
    mean, low, high = interval([0, 1] * 50)
    assert (mean, low < 0.5 < high) == (0.5, True) and high - low < 0.25
    assert interval([1.0] * 5) == [1, 1, 1]
    # Student's t with two degrees of freedom is 4.303 at 97.5 %.
    assert student(np.array([1.0, 2.0, 3.0])) == pytest.approx([2, 2 - 4.3027 / 3**0.5, 2 + 4.3027 / 3**0.5], abs=1e-3)


def pictures(taxa, per_taxon, right, seed):
    rng = np.random.default_rng(seed)
    n = len(taxa) * per_taxon
    vectors = np.repeat(np.eye(len(taxa), 6, dtype=np.float32), per_taxon, axis=0)
    noise = rng.normal(size=(n, 6)).astype(np.float32)
    noise /= np.linalg.norm(noise, axis=1, keepdims=True)
    names = np.array([f"p/{t}/{i}.jpg" for t in taxa for i in range(per_taxon)])
    shown = rng.random((n, 10)).astype(np.float32)
    return GrainPictures(
        names,
        vectors if right else noise,
        noise,
        rng.random((n, 4)),
        rng.random((n, 2)),
        rng.random((n, 9)),
        shown,
        rng.random((n, 148)),
        np.ones(n),
    )


def test_an_encoder_that_knows_all_scores_one_and_noise_scores_chance():
    taxa = (*UNSEEN[:3], "a", "b")
    atlas = AtlasTexts(np.array([""]), ("",), ("",), np.full(1, np.nan), np.zeros(1, bool))
    material = Material(
        pictures(taxa, 20, True, 0), pictures(taxa, 40, True, 1), pictures(("c",), 1, True, 2), atlas, "e"
    )
    rows = {row["name"]: row for row in measure_encoder(material)}
    assert rows["grain encoder"]["by_taxon"] == [1, 1, 1]
    for name in ("corners, grey", "size of the picture", "grey pixels, 16 x 16", "network as drawn"):
        assert rows[name]["grains"] == pytest.approx(0.2, abs=0.1)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two taxa with two pictures of one round grain each, and one picture without a grain."""
    root = tmp_path_factory.mktemp("pictures")
    y, x = np.mgrid[-1.3:1.3:70j, -1.3:1.3:70j]
    for taxon, petals in (("sida_cerradoensis", 0), ("zea_mays", 3)):
        (root / taxon).mkdir()
        for i in range(2):
            rim = 0.8 + 0.1 * np.cos(petals * (np.arctan2(y, x) + i))
            light = np.where((np.hypot(x, y) < rim)[..., None], (120, 60, 90), (230, 230, 235))
            noise = np.random.default_rng(i).normal(0, 2, light.shape)
            Image.fromarray(np.uint8(np.clip(light + noise, 0, 255))).save(root / taxon / f"{i}.png")
    Image.new("RGB", (64, 64), (230, 230, 230)).save(root / "zea_mays" / "blank.png")
    return root


def test_gathered_pictures_are_kept_for_the_same_encoder(folder, tmp_path):
    encoder, kept = ImageEncoder(device="cpu"), tmp_path / "kept.npz"
    found = gather(folder, encoder, kept)
    assert found.vectors == pytest.approx(
        encoder.encode([np.asarray(Image.open(folder / n)) for n in found.names]), abs=1e-5
    )
    told = []
    again = gather(folder, encoder, kept, on_picture=lambda done, of: told.append(done))
    assert told == [] and np.array_equal(again.vectors, found.vectors)
    assert [m.outline for m in found.measures[:2]] == ["round", "round"]
    # Diameters in pixels of the picture, which has 70 and was cut as it is.
    assert found.scales == pytest.approx(np.ones(5)) and found.shown[:2, 0] == pytest.approx(0.9 * 70 / 1.3, rel=0.03)
    gather(folder, ImageEncoder(device="cpu", turns=1), kept, on_picture=lambda done, of: told.append(done))
    assert told == [5]
    with pytest.raises(NothingToDoError, match="no pictures"):
        gather(tmp_path / "nothing", encoder)


def test_train_encoder_writes_weights_that_encode_and_words_in_their_space(folder, tmp_path):
    def run(*arguments, code=0):
        done = CliRunner().invoke(cli, ["train-encoder", str(folder), "--device", "cpu", *map(str, arguments)])
        assert done.exit_code == code, done.output
        return done.output

    told = run("--out", tmp_path, "--steps", 1, "--batch", 4)
    assert "zea_mays/blank.png: no grain stands out" in told
    encoder = ImageEncoder(tmp_path / "grain-encoder.safetensors", device="cpu")
    assert encoder.encode([np.full((40, 40, 3), 99, np.uint8)]).shape == (1, 192)
    run(
        "--of",
        "words",
        "--out",
        tmp_path,
        "--encoder",
        tmp_path / "grain-encoder.safetensors",
        "--steps",
        2,
        "--batch",
        4,
    )
    assert load_matcher(tmp_path / "grain-words.safetensors")[1] == encoder.encoder_id
    assert "--of grains" in run("--of", "words", "--out", tmp_path, "--minutes", 1, code=2)
    assert "at least 5 genera" in run("--of", "traits", "--out", tmp_path, code=3)
    assert "--steps is for" in run("--of", "traits", "--out", tmp_path, "--steps", 2, code=2)
    assert json.loads(json.dumps(encoder.about.training["taxa"])) == ["sida_cerradoensis", "zea_mays"]
