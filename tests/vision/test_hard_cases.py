"""What a detector made of composed grains is read from what was kept of it, and of other scenes nothing is taken."""

from __future__ import annotations

import json

import numpy as np
import pytest
from palyno.data.compose import Sighting
from palyno.errors import InputError
from palyno.vision.hard_cases import read_sightings
from palyno.vision.predictions import write_predictions
from palyno.vision.results import Provenance, SlideResult

CLASSES = ("Mimosa pigra", "Zea mays", "unknown")
GRAINS = [
    ("zea_mays/1.jpg", "zea_mays", "Zea mays", (10, 10, 60, 60)),
    ("zea_mays/2.jpg", "zea_mays", "Zea mays", (100, 10, 160, 60)),
    ("mimosa_pigra/1.jpg", "mimosa_pigra", "Mimosa pigra", (10, 100, 60, 160)),
    ("sida_cerradoensis/1.jpg", "sida_cerradoensis", "unknown", (100, 100, 160, 160)),
]


def manifest(folder, grains=GRAINS):
    """A set with one training scene of these grains, a validation and a test scene of others, and a tile."""

    def scene(split, shift):
        told = [{"source": s, "taxon": t, "label": name, "box": [v + shift for v in box]} for s, t, name, box in grains]
        return {"split": split, "image": "scene_000000.jpg", "grains": told}

    scenes = [scene("test", 400), scene("train", 0), scene("val", 200), {"split": "train", "image": "tile.jpg"}]
    folder.mkdir(exist_ok=True)
    (folder / "manifest.json").write_text(json.dumps({"scenes": scenes}))
    return folder


def found(path, names, *, shift=0, image="scene_000000.jpg", classes=CLASSES):
    """Predictions on one image: a box on each grain with these candidates; None misses the grain."""
    kept = [(np.array(g[3]) + shift + 1, n) for g, n in zip(GRAINS, names, strict=True) if n is not None]
    result = SlideResult(
        image,
        640,
        640,
        np.array([box for box, _ in kept], np.float32),
        np.full(len(kept), 0.9, np.float32),
        tuple(next(iter(n), ("unknown",))[0] for _, n in kept),
        Provenance("m", "a" * 64, "1"),
        candidates=tuple(n for _, n in kept),
        conf=0.05,
    )
    tile = SlideResult("tile.jpg", 640, 640, np.empty((0, 4)), np.empty(0), (), result.provenance, conf=0.05)
    write_predictions(path, [result, tile], classes)
    return path


SURE = [(("Zea mays", 0.9),), (("Mimosa pigra", 0.7), ("Zea mays", 0.2)), None, (("Zea mays", 0.8),)]


def test_a_grain_is_as_certain_as_the_probability_of_its_true_name(tmp_path):
    sightings, sha256 = read_sightings(manifest(tmp_path / "set"), found(tmp_path / "f.gz", SURE))
    assert sha256 == "a" * 64
    assert sightings == [
        Sighting("zea_mays/1.jpg", "zea_mays", 0.9),
        Sighting("zea_mays/2.jpg", "zea_mays", 0.2),  # Misnamed, the right name second.
        Sighting("mimosa_pigra/1.jpg", "mimosa_pigra", 0.0),  # Missed.
        Sighting("sida_cerradoensis/1.jpg", "sida_cerradoensis", 0.0),  # Given a name, though it is unknown.
    ]


def test_what_the_detector_was_not_taught_to_call_so_is_passed_over(tmp_path):
    file = found(tmp_path / "f.gz", SURE, classes=("Zea mays", "Sida cerradoensis", "unknown"))
    sightings, _ = read_sightings(manifest(tmp_path / "set"), file)
    assert {s.taxon for s in sightings} == {"zea_mays"}


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"shift": 200}, r"boxes lie on 0% of test's, 0% of train's, 75% of val's grains"),
        ({"shift": 400}, r"boxes lie on 75% of test's, 0% of train's, 0% of val's grains"),
        ({"shift": 30}, r"0% of train's.*another split or set"),
        ({"image": "scene_000009.jpg"}, r"scene_000009\.jpg is no training image of that set"),
        ({"image": "tile.jpg"}, "no grain of a scene"),
        ({"classes": ("pollen",)}, "knows none of them but pollen"),
        ({"names": [(), (), (), ()]}, "its boxes have no names"),
    ],
)
def test_predictions_of_other_images_and_without_names_are_refused(tmp_path, change, says):
    options = dict(change)
    file = found(tmp_path / "f.gz", options.pop("names", SURE), **options)
    with pytest.raises(InputError, match=says):
        read_sightings(manifest(tmp_path / "set"), file)


@pytest.mark.parametrize("content", [None, "{", "[]", '{"scenes": [{"split": "train"}]}', '{"scenes": [1]}'])
def test_a_folder_that_was_not_composed_is_refused(tmp_path, content):
    if content is not None:
        (tmp_path / "manifest.json").write_text(content)
    with pytest.raises(InputError, match="expected the manifest of a set that `palyno compose` made"):
        read_sightings(tmp_path, found(tmp_path / "f.gz", SURE))
