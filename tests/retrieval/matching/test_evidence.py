import json
from importlib.resources import files

import numpy as np
import pytest
import torch
from palyno.data.traits import traits_of
from palyno.errors import InputError, RejectedModelError, UsageError
from palyno.retrieval.matching.columns import COLUMNS, asked, known, said_of
from palyno.retrieval.matching.evidence import TraitModel, TraitReader, load_traits, save_traits
from palyno.retrieval.matching.evidence_fit import TraitSettings, fit_traits
from PIL import Image

ECHINATE = ("sida_cerradoensis", "cosmos_caudatus", "tridax_procumbens", "mauritia_flexuosa", "aspilia_grazielae")
OTHER = (
    *("zea_mays", "myrcia_guianensis", "ceiba_speciosa", "piper_aduncum", "schinus_sp", "luehea_divaricata"),
    *("cecropia_pachystachya", "trema_micrantha", "gomphrena_sp", "tapirira_guianensis"),
)


def grains(seed=0, each=12, features=6, tell=2.0):
    """Grains whose first number tells spines, and whose second tells nothing but the taxon."""
    rng = np.random.default_rng(seed)
    taxa = [t for t in (*ECHINATE, *OTHER) for _ in range(each)]
    numbers = rng.normal(size=(len(taxa), features))
    numbers[:, 0] += tell * np.isin(taxa, ECHINATE)
    numbers[:, 1] += 5 * np.repeat(rng.normal(size=len(ECHINATE) + len(OTHER)), each)
    return 3 + 10 * numbers, taxa


def test_texts_ask_for_the_columns_that_they_name_in_any_language():
    assert asked("triporate, psilate") == {"kind:pore", "number:3", "ornamentation:psilate"}
    assert asked("dreiporig, glatt") == asked("triporado, liso") == asked("triporate, psilate")
    assert asked("tricolporate") == {"kind:colporus", "kind:furrow", "number:3"}
    # A pore in each of three furrows does not make it porate.
    assert "kind:pore" not in asked("three furrows with pores, tricolporate, each pore round")
    assert asked("grains with pores") == {"kind:pore"}
    assert asked("spiny, without pores") == {"ornamentation:echinate"}
    assert asked("allergenic tree of the spring") == frozenset()


def test_columns_of_a_taxon_are_those_of_the_table():
    has = known("sida_cerradoensis")
    assert (
        {c for c, held in has.items() if held}
        == {*("kind:pore", "number:many", "ornamentation:echinate", "shape:spheroidal")}
        == set(said_of("sida_cerradoensis"))
    )
    # Aperture kind is not known of Genipa, so nothing is said of apertures, and nothing is held to be absent.
    assert traits_of("genipa_americana").aperture_type is None
    assert not any(c.startswith(("kind", "number")) for c in known("genipa_americana"))
    assert known("tridax_procumbens")["number:3"] and known("tridax_procumbens")["number:4"]
    for taxon in (*ECHINATE, *OTHER):
        assert said_of(taxon) <= {c for c, held in known(taxon).items() if held} <= set(COLUMNS)


def test_what_can_be_told_on_new_taxa_is_learned_and_what_cannot_weighs_nothing():
    fit = fit_traits(*grains(), TraitSettings(ridge=0.3))
    assert fit.auc["ornamentation:echinate"] > 0.85
    assert fit.taxa["ornamentation:echinate"] == len(ECHINATE)
    numbers, taxa = grains(seed=1)
    evidence = fit.model.evidence(numbers)
    column = fit.model.columns.index("ornamentation:echinate")
    told = evidence[:, column]
    spiny = np.isin(taxa, ECHINATE)
    assert (told[spiny][:, None] > told[~spiny]).mean() > 0.85
    assert told[spiny].mean() > 0.5 + told[~spiny].mean()
    # Traits that no number tells, and of which the readings fall on new taxa, have no slope.
    blind = fit_traits(*grains(tell=0.0))
    chance = [i for i, c in enumerate(blind.model.columns) if blind.auc[c] < 0.4]
    assert chance
    assert all(np.ptp(blind.model.evidence(numbers)[:, i]) < 1e-4 for i in chance)


def test_fitting_is_blind_to_units_and_to_how_many_pictures_a_taxon_has():
    numbers, taxa = grains()
    fit = fit_traits(numbers, taxa)
    other = fit_traits(numbers * 7 - 100, taxa)
    assert other.model.columns == fit.model.columns
    assert other.model.evidence(numbers * 7 - 100) == pytest.approx(fit.model.evidence(numbers), abs=2e-2)
    twice = [*range(len(taxa)), *(i for i, t in enumerate(taxa) if t == "zea_mays")]
    more = fit_traits(numbers[twice], [taxa[i] for i in twice])
    assert more.model.evidence(numbers) == pytest.approx(fit.model.evidence(numbers), abs=2e-2)


def test_scores_add_evidence_of_what_is_asked_and_of_size():
    model = TraitModel(["kind:pore", "ornamentation:psilate", "ornamentation:echinate"], 2)
    with_bias = np.array([1.0, 2.0, -4.0], np.float32)
    model.linear.weight.data.zero_()
    model.linear.bias.data[:] = torch.from_numpy(with_bias)
    reader, numbers = TraitReader(model), np.zeros((3, 2))
    texts = ["porate, smooth", "spiny", "of no trait", "porate, smooth, 25-33 µm"]
    assert reader.score(texts, numbers) == pytest.approx(np.array([[3.0], [-4], [0], [3]]).repeat(3, 1))
    sized = reader.score(texts, numbers, np.array([29.0, 90.0, np.nan]))
    assert sized[:3] == pytest.approx(reader.score(texts[:3], numbers))
    assert sized[3, 0] > 4 > 1 > sized[3, 1] and sized[3, 2] == pytest.approx(3)
    assert reader.score([], numbers).shape == (0, 3) and reader.score(texts, numbers[:0]).shape == (4, 0)
    assert reader.score([], numbers, np.ones(3)).shape == (0, 3)
    with pytest.raises(UsageError, match="list of texts"):
        reader.score("porate", numbers)
    with pytest.raises(UsageError, match="one a grain"):
        reader.score(texts, numbers, np.ones(2))


def disk(side, share=0.8):
    """A picture with a disk, `share` of it wide."""
    y, x = np.mgrid[-1 : 1 : side * 1j, -1 : 1 : side * 1j]
    inside = np.hypot(x, y) < share
    light = np.where(inside[..., None], (120, 60, 90), (230, 230, 235))
    return np.uint8(light + np.random.default_rng(0).integers(0, 3, light.shape))


def test_grains_are_as_long_as_they_are_whatever_the_size_of_their_picture():
    crops, scale = [disk(80), disk(160), disk(400)], [0.5, 0.25, 0.1]
    numbers, lengths = TraitReader().read(crops, scale)
    assert numbers.shape == (3, 148)
    assert lengths == pytest.approx([0.8 * 40] * 3, rel=0.06)
    assert np.isnan(TraitReader().read(crops)[1]).all()
    assert TraitReader().read(crops, 0.5)[1] == pytest.approx(lengths / scale * 0.5)
    # Colour says which way it was stained, not which trait it has.
    again = TraitReader().read([crop[..., ::-1].copy() for crop in crops], scale)[0]
    assert np.median(np.abs(again - numbers)) < 0.05
    assert [len(part) for part in TraitReader().read([])] == [0, 0]
    for wrong in (0.0, [1.0, 2.0], -1):
        with pytest.raises(UsageError, match="um_per_px"):
            TraitReader().read(crops, wrong)


def test_the_model_that_ships_finds_the_spiny_grains_of_a_scene():
    samples = files("palyno.data").joinpath("samples")
    truth = json.loads(samples.joinpath("truth.json").read_text(encoding="utf-8"))
    number = next(i["id"] for i in truth["images"] if i["file_name"] == "composed.jpg")
    names = {c["id"]: c["name"] for c in truth["categories"]}
    with Image.open(str(samples.joinpath("composed.jpg"))) as image:
        scene = np.asarray(image.convert("RGB"))
    crops, spiny = [], []
    for grain in truth["annotations"]:
        has = known(names[grain["category_id"]]).get("ornamentation:echinate")
        if grain["image_id"] == number and has is not None:
            x, y, width, height = grain["bbox"]
            beside = 0.15 * max(width, height)
            top, left = (int(max(0, low - beside)) for low in (y, x))
            crops.append(scene[top : int(y + height + beside), left : int(x + width + beside)])
            spiny.append(has)
    reader = TraitReader()
    scores = reader.score(["stachelig", "triporate"], reader.read(crops)[0])
    right = np.array(spiny)
    assert right.sum() == 3 and len(right) > 10
    assert (scores[0][right][:, None] > scores[0][~right]).mean() > 0.75
    # Pores cannot be told from furrows on new taxa, and weigh nothing; the number of apertures does.
    assert np.ptp(reader.model.evidence(reader.read(crops)[0])[:, reader.model.columns.index("kind:pore")]) < 1e-6


def test_weights_are_read_as_they_were_written_and_others_are_refused(tmp_path):
    numbers, taxa = grains()
    model = fit_traits(numbers, taxa).model
    path = save_traits(tmp_path / "t.safetensors", model, name="t", training={"grains": len(taxa)})
    again = TraitReader(path).model
    assert again.columns == model.columns
    assert again.evidence(numbers) == pytest.approx(model.evidence(numbers), abs=0.05)
    model.spread[0] = 0
    with pytest.raises(RejectedModelError, match="spreads above 0"):
        load_traits(save_traits(tmp_path / "s.safetensors", model, name="s", training={}))
    (tmp_path / "x.safetensors").write_bytes(b"no")
    with pytest.raises(RejectedModelError, match="a reading of traits"):
        load_traits(tmp_path / "x.safetensors")
    with pytest.raises(UsageError, match="columns"):
        TraitModel(["kind:wing"])


def test_too_little_to_learn_from_is_told():
    numbers, taxa = grains()
    with pytest.raises(InputError, match="genera"):
        fit_traits(numbers[:24], taxa[:24])
    with pytest.raises(InputError, match="some taxa have"):
        fit_traits(numbers, [f"unknown{t}" for t in taxa])
    with pytest.raises(UsageError, match="expected finite"):
        fit_traits(numbers[:5], taxa)
    with pytest.raises(UsageError, match="folds"):
        TraitSettings(folds=1)
