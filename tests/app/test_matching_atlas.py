import csv
from importlib.resources import files

import numpy as np
import pytest
from palyno.app.encoder_training import train_traits
from palyno.app.grain_pictures import GrainPictures
from palyno.app.matching_atlas import AtlasTexts, measure_atlas, read_texts
from palyno.errors import InputError
from palyno.retrieval.encoders.image.grains import GrainSet
from palyno.retrieval.matching.evidence import TraitReader
from palyno.retrieval.matching.pairs import Pairs
from palyno.retrieval.matching.shapes import describe
from palyno.retrieval.matching.train import Lessons, LessonSettings

TAXA = (
    *("sida_cerradoensis", "cosmos_caudatus", "tridax_procumbens", "mauritia_flexuosa", "zea_mays", "piper_aduncum"),
    *("myrcia_guianensis", "ceiba_speciosa", "schinus_sp", "luehea_divaricata", "cecropia_pachystachya"),
)


def pictures(n, numbers, lengths):
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(n, 192)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    shown = np.tile(np.float32(lengths)[:, None], (1, 10))
    plain = np.zeros((n, 4))
    return GrainPictures(
        np.arange(n).astype(str), vectors, vectors, plain, plain, plain, shown, numbers, np.full(n, 2.0)
    )


@pytest.fixture(scope="module")
def measured():
    """Eight pictures of four genera and one of none; sizes tell the genera, numbers tell spines."""
    rng = np.random.default_rng(1)
    taxa = np.repeat(TAXA, 6)
    numbers = rng.normal(size=(len(taxa), 148))
    numbers[:, 0] += 4 * np.isin(taxa, TAXA[:4])
    train = pictures(len(taxa), numbers, np.full(len(taxa), 30.0))
    genera = np.repeat(["A", "B", "C", "D", ""], [2, 2, 2, 2, 1])
    atlas = pictures(9, rng.normal(size=(9, 148)), np.array([10, 10, 20, 20, 40, 40, 80, 80, 15.0]))
    lines = ("19-21 µm", "19-21 µm", "39-41 µm", "39-41 µm", "79-81 µm", "79-81 µm", "spiny", "spiny", "")
    texts = AtlasTexts(genera, lines, lines, np.full(9, 1.0), np.arange(9) == 4)
    lessons = Lessons([Pairs(train.vectors[None], tuple(taxa))], LessonSettings(fields=("ornamentation",)))
    found = measure_atlas(
        train, taxa, lessons, atlas, texts, encoder_id="e", seeds=2, steps=1, on_row=lambda line: None
    )
    return found


def test_sizes_that_tell_the_genera_find_them_and_what_is_not_known_counts_for_nothing(measured):
    ranks = measured["reciprocal_ranks"]["line"]
    assert ranks["size"][0][:3] == [1, 1, 1]
    # Of D nothing is said of size: all pictures are alike, and the seven others count as before its first.
    assert ranks["size"][0][3] == pytest.approx(1 / 8)
    assert ranks["traits, and size where it was not judged by grains"][0][:3] == [1, 1, 1]
    assert len(ranks["matcher"]) == 2 and len(ranks["traits"]) == 1
    assert "`grain-words`, as it ships" not in ranks


def test_chance_is_the_expected_reciprocal_rank(measured):
    # Two right ones of nine: the first is at place r with probability (9 - r) / C(9, 2).
    expected = sum((9 - r) / 36 / r for r in range(1, 9))
    assert measured["mrr"]["line"]["in random order"][0] == pytest.approx(expected, abs=0.02)


def test_differences_are_paired_and_times_are_of_the_best_baseline(measured):
    name = "traits, and size"
    against, mrr = measured["against"][name]["line"], measured["mrr"]["line"]
    best = max(mrr[baseline][0] for baseline in ("in random order", "name only, matcher", "matcher, untrained"))
    assert against["times"] == pytest.approx(mrr[name][0] / best)
    for other, (mean, low, high) in against["differences"].items():
        assert mean == pytest.approx(mrr[name][0] - mrr[other][0]) and low <= mean <= high


def test_texts_are_read_for_the_pictures_and_their_pixel_sizes_are_the_atlas_s(tmp_path):
    listed = list(csv.DictReader(files("palyno.app").joinpath("atlas_pixel_sizes.csv").read_text().splitlines()))
    assert len({row["image"] for row in listed}) == len(listed) == 34
    assert all(0.1 < float(row["um_per_px"]) < 0.3 and row["judged"] in ("yes", "no") for row in listed)
    path = tmp_path / "pairs.csv"
    path.write_text("image,taxon,hint,anchor\nimages/betula_edf.png,Betula,a line,some text\nimages/x.png,,,\n")
    texts = read_texts(path, ["images/x.png", "images/betula_edf.png"])
    assert texts.asked == ("Betula",) and texts.texts("line") == ["a line"]
    assert np.isnan(texts.um_per_px[0]) and texts.um_per_px[1] == pytest.approx(0.242797)
    with pytest.raises(InputError, match="of every picture"):
        read_texts(path, ["images/other.png"])


def test_traits_that_are_trained_from_grains_are_read_again(tmp_path):
    rng = np.random.default_rng(0)
    taxa = [taxon for taxon in TAXA for _ in range(2)]
    y, x = np.mgrid[-1.2:1.2:160j, -1.2:1.2:160j]
    canvases = []
    for taxon in taxa:
        petals, deep = (24, 0.06) if taxon in TAXA[:4] else (int(rng.integers(2, 6)), 0.03)
        inside = np.hypot(x, y) < 0.9 + deep * np.cos(petals * np.arctan2(y, x))
        canvases.append(np.where(inside[..., None], 60 + rng.integers(0, 40, (160, 160, 3)), 170).astype(np.uint8))
    grains = GrainSet(np.stack(canvases), tuple(taxa), tuple(map(str, range(len(taxa)))))
    reader = TraitReader(train_traits(grains, tmp_path))
    scores = reader.score(["with spines"], describe(grains.pixels))[0]
    spiny = np.isin(taxa, TAXA[:4])
    assert scores[spiny].min() > scores[~spiny].max()
