"""Colours of taxa: different within a run, also for colour-blind eyes, and kept to the name whatever is filtered."""

from __future__ import annotations

import numpy as np
from palyno.data.palette import colours

MANY = [f"Taxon {i}" for i in range(73)]


def named(*taxa):
    return colours([(taxa, None)])


def test_colours_differ_within_a_run_and_keep_to_the_name():
    palette = named(*MANY)
    assert len(set(palette.values())) == 73
    assert named(*reversed(MANY)) == palette
    assert named("unknown")["unknown"] == named(*MANY, "unknown")["unknown"]


def test_a_threshold_takes_taxa_away_and_recolours_none():
    """As the page, which reads low and filters, and a run that reads high must not differ."""
    rng = np.random.default_rng(0)
    taxa, confidence = rng.choice([*MANY, "unknown"], 400), rng.uniform(0, 1, 400).astype(np.float32)
    slides = [slice(0, 100), slice(100, 250), slice(250, 400)]
    whole = colours((taxa[part], confidence[part]) for part in slides)
    assert len(whole) == 74
    for conf in (0.3, 0.9, 0.99):
        kept = [(taxa[part][confidence[part] >= conf], confidence[part][confidence[part] >= conf]) for part in slides]
        palette = colours(reversed(kept))
        assert palette.keys() == set(taxa[confidence >= conf]) and palette.items() <= whole.items()
    assert len(palette) < 8


def test_names_that_are_counted_as_one_have_one_colour():
    palette = named("Poaceae sp.", "Poaceae-type", "Zea mays")
    assert palette["Poaceae sp."] == palette["Poaceae"] != palette["Poaceae-type"]
    assert len(set(palette.values())) == 3
    # The surest of both names is the taxon's: it is before what lies between them.
    rivals = [f"Taxon {i}" for i in range(20)]
    both = colours([(["Poaceae", *rivals], [0.1, *[0.5] * 20]), (["Poaceae sp."], [0.9])])
    assert both["Poaceae"] == named("Poaceae")["Poaceae"]


def test_twenty_taxa_differ_also_for_colour_blind_eyes():
    """Distances in CIELAB after the dichromat simulations of Viénot, Brettel and Mollon (1999)."""
    import cv2

    matrices = {
        "protan": [[0.11238, 0.88762, 0], [0.11238, 0.88762, 0], [0.00401, -0.00401, 1]],
        "deutan": [[0.29275, 0.70725, 0], [0.29275, 0.70725, 0], [-0.02234, 0.02234, 1]],
    }
    palette = np.array(list(named(*MANY[:20]).values())) / 255
    linear = np.where(palette <= 0.04045, palette / 12.92, ((palette + 0.055) / 1.055) ** 2.4)
    for matrix in (np.eye(3), *map(np.array, matrices.values())):
        seen = np.clip(linear @ matrix.T, 0, 1)
        srgb = np.where(seen <= 0.0031308, 12.92 * seen, 1.055 * seen ** (1 / 2.4) - 0.055)
        lab = cv2.cvtColor(srgb[None].astype(np.float32), cv2.COLOR_RGB2LAB)[0]
        apart = np.linalg.norm(lab[:, None] - lab[None], axis=2)[np.triu_indices(20, 1)]
        assert apart.min() > 9
