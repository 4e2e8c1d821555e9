"""Colours of taxa: different within a set, also for colour-blind eyes, and kept to the name."""

from __future__ import annotations

import numpy as np
from palyno.data.palette import colours


def test_colours_differ_within_a_set_and_keep_to_the_name():
    many = [f"Taxon {i}" for i in range(73)]
    palette = colours(many)
    assert len(set(palette.values())) == 73
    assert colours(reversed(many)) == palette
    assert colours(["Betula"])["Betula"] == colours(["Betula"])["Betula"]
    assert colours(["unknown"])["unknown"] == colours([*many, "unknown"])["unknown"]


def test_names_that_are_counted_as_one_have_one_colour():
    palette = colours(["Poaceae sp.", "Poaceae-type", "Zea mays"])
    assert palette["Poaceae sp."] == palette["Poaceae"] != palette["Poaceae-type"]
    assert colours(["Poaceae"]).items() <= palette.items()
    assert len(set(palette.values())) == 3


def test_eight_taxa_differ_also_for_colour_blind_eyes():
    """Distances in CIELAB after the dichromat simulations of Viénot, Brettel and Mollon (1999)."""
    import cv2

    matrices = {
        "protan": [[0.11238, 0.88762, 0], [0.11238, 0.88762, 0], [0.00401, -0.00401, 1]],
        "deutan": [[0.29275, 0.70725, 0], [0.29275, 0.70725, 0], [-0.02234, 0.02234, 1]],
    }
    palette = np.array(list(colours([f"Taxon {i}" for i in range(8)]).values())) / 255
    linear = np.where(palette <= 0.04045, palette / 12.92, ((palette + 0.055) / 1.055) ** 2.4)
    for matrix in (np.eye(3), *map(np.array, matrices.values())):
        seen = np.clip(linear @ matrix.T, 0, 1)
        srgb = np.where(seen <= 0.0031308, 12.92 * seen, 1.055 * seen ** (1 / 2.4) - 0.055)
        lab = cv2.cvtColor(srgb[None].astype(np.float32), cv2.COLOR_RGB2LAB)[0]
        apart = np.linalg.norm(lab[:, None] - lab[None], axis=2)[np.triu_indices(8, 1)]
        assert apart.min() > 9
