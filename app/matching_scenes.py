"""What the matcher is asked in its benchmark: grains whose stain and size are composed, and phrases that find them.

A composed grain is the vector of a real picture, which holds neither colour nor size, beside measures with a drawn
stain and size. A fifth of all combinations of stain, size and ornamentation is kept out of training.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from itertools import combinations

import numpy as np

from ..retrieval.matching.captions import Caption, facts, phrase
from ..retrieval.matching.measures import Measures
from ..retrieval.matching.pairs import Captions, Pairs
from ..retrieval.matching.train import Lessons, LessonSettings, MatcherSettings

__all__ = [
    "COMPOSED",
    "HELD_OUT",
    "UNSEEN",
    "composed",
    "composed_lessons",
    "held_out",
    "trait_queries",
    "triple_queries",
]

UNSEEN = (
    "sida_cerradoensis",
    "mauritia_flexuosa",
    "archontophoenix_cunninghamiana",
    "erythrina_mulungu",
    "paullinia_spicata",
    "ceiba_speciosa",
    "chromolaena_laevigata",
    "guazuma_ulmifolia",
    "solanum_sisymbriifolium",
    "trembleya_phlogiformis",
)
"""Taxa of POLLEN73S, of many forms, that one encoder and its matchers never see."""

HELD_OUT = 0.2
"""Share of the combinations that is kept out of training."""

_TRIPLE = ("size", "colour", "ornamentation")
_TRAITS = ("apertures", "ornamentation", "shape")

COMPOSED = MatcherSettings(text_model="bag", dim=128, image_width=256, noise=0.03, glossary=False)
"""How matchers of composed grains are trained, but for what is compared."""
_ROUNDS = 6


def held_out(said: Mapping[str, str]) -> bool:
    """Whether a combination of stain, size and ornamentation is kept out of training."""
    if not all(field in said for field in _TRIPLE):
        return False
    words = "|".join(said[field] for field in _TRIPLE)
    return hashlib.sha256(words.encode()).digest()[0] < 256 * HELD_OUT


def composed(pairs: Pairs, seed: int, *, copies: int = 1, train: bool = False) -> Pairs:
    """Grains with drawn stains and sizes: their vectors with the measures after them.

    Args:
        pairs: Grains, without measures.
        seed: The same gives the same.
        copies: Drawn for each grain.
        train: Draw no combination that is held out.
    """
    rng = np.random.default_rng(seed)
    taxa = [taxon for taxon in pairs.taxa for _ in range(copies)]
    measures = []
    for taxon in taxa:
        while True:
            drawn = _measures(rng)
            if not (train and held_out(facts(taxon, drawn))):
                break
        measures.append(drawn)
    shown = np.stack([m.vector() for m in measures])
    views = np.repeat(pairs.features, copies, axis=1)
    beside = np.broadcast_to(shown, (len(views), *shown.shape))
    return Pairs(np.concatenate([views, beside], 2).astype(np.float32), tuple(taxa), tuple(measures))


def composed_lessons(pairs: Pairs) -> Lessons:
    """Composed grains with phrases to learn from, none of a combination that is held out."""
    phrases = LessonSettings(fields=(*_TRIPLE, "apertures", "shape"), name=0.0)
    return Lessons([composed(pairs, 100 + i, train=True) for i in range(_ROUNDS)], phrases)


def triple_queries(gallery: Pairs, *, held: bool | None = None) -> Captions:
    """A phrase for each combination of stain, size and ornamentation in a gallery, in any wording.

    Args:
        gallery: Composed grains.
        held: Only those that were held out, or only those that were not.
    """
    return _queries(gallery, _TRIPLE, lambda said: held is None or held_out(said) == held)


def trait_queries(train: Pairs, gallery: Pairs) -> Captions:
    """A phrase for each two or three of apertures, ornamentation and shape that no taxon of `train` has together."""
    found: list[Captions] = []
    for fields in (_TRAITS, *combinations(_TRAITS, 2)):
        known = {tuple(facts(taxon, None, _TRAITS).get(field) for field in fields) for taxon in set(train.taxa)}
        found.append(
            _queries(
                gallery,
                fields,
                lambda said, f=fields, k=known: tuple(said.get(field) for field in f) not in k,  # type: ignore[misc]
            )
        )
    return Captions(tuple(c for one in found for c in one.captions), np.concatenate([one.of for one in found]))


def _queries(gallery: Pairs, fields: tuple[str, ...], wanted: Callable[[Mapping[str, str]], bool]) -> Captions:
    rng = np.random.default_rng(7)
    found: dict[tuple[tuple[str, str], ...], tuple[Caption, int]] = {}
    measures = gallery.measures or (None,) * len(gallery)
    for i, (taxon, measured) in enumerate(zip(gallery.taxa, measures, strict=True)):
        said = facts(taxon, measured, fields)
        if all(field in said for field in fields) and wanted(said):
            found.setdefault(tuple(said.items()), (phrase(said, rng), i))
    return Captions(tuple(c for c, _ in found.values()), np.array([i for _, i in found.values()], np.int64))


def _measures(rng: np.random.Generator) -> Measures:
    """Measures with a drawn stain and size; the outline is round, and not asked for."""
    density = rng.uniform(0.05, 0.9) * rng.dirichlet((0.7, 0.7, 0.7)) * 2
    length = float(np.exp(rng.uniform(np.log(6), np.log(160))))
    red, green, blue = (float(d) for d in density)
    return Measures(100.0, 95.0, (0.02, 0.01, 0.01, 0.01, 0.01), (red, green, blue), length)
