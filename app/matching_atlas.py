"""Texts of the Pollen AI Atlas to its pictures, by genus: what the matcher, the traits and the size find.

Neither texts nor taxa were trained on. Pixel sizes are those that the atlas's authors give for their slides
(03_captioning/pixel_config.yaml of github.com/abiricz/pollen-ai-atlas-paper, Apache-2.0). Those of some slides they
judged by the size of the grains, which is what is asked for here: there is a line without these.
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import InputError
from ..retrieval.matching.evidence import TraitReader
from ..retrieval.matching.evidence_fit import TraitFit, fit_traits
from ..retrieval.matching.matcher import Matcher
from ..retrieval.matching.pairs import first_ranks
from ..retrieval.matching.sizes import size_evidence, stated_size
from ..retrieval.matching.train import Lessons, MatcherSettings, train_matcher
from ..retrieval.matching.words import WordsEncoder
from .grain_pictures import GrainPictures

__all__ = ["AtlasTexts", "measure_atlas", "read_texts"]

_DRAWS = 2000
_KINDS = ("line", "description")
_BASELINES = ("in random order", "name only, matcher", "matcher, untrained")
_SIZE, _SURE = ", and size", ", and size where it was not judged by grains"


@dataclass(frozen=True)
class AtlasTexts:
    """What is told of each picture of the atlas.

    Attributes:
        genera: Genus, empty where there is no text.
        lines: A line about the genus.
        descriptions: A few sentences.
        um_per_px: Pixel size, (N,); NaN where not known.
        judged: Boolean, (N,): the pixel size was judged by the size of the grains.
    """

    genera: np.ndarray
    lines: tuple[str, ...]
    descriptions: tuple[str, ...]
    um_per_px: np.ndarray
    judged: np.ndarray

    @property
    def asked(self) -> tuple[str, ...]:
        """The genera that there are texts of."""
        return tuple(dict.fromkeys(str(genus) for genus in self.genera if genus))

    def texts(self, kind: str) -> list[str]:
        """The text of each genus that is asked for."""
        column = self.lines if kind == "line" else self.descriptions
        return [column[int(np.flatnonzero(self.genera == genus)[0])] for genus in self.asked]


def read_texts(path: Path, names: Sequence[str]) -> AtlasTexts:
    """Reads `pairs.csv` for pictures, in their order.

    Raises:
        InputError: It is not such a file, or lacks a picture.
    """
    scale = files(__package__).joinpath("atlas_pixel_sizes.csv").read_text(encoding="utf-8")
    sizes = {row["image"]: row for row in csv.DictReader(scale.splitlines())}
    try:
        with path.open(newline="", encoding="utf-8") as file:
            told = {Path(row["image"]).name: row for row in csv.DictReader(file)}
        rows = [told[Path(str(name)).name] for name in names]
        genera = np.array([row["taxon"] for row in rows])
        lines, descriptions = tuple(row["hint"] for row in rows), tuple(row["anchor"] for row in rows)
    except (OSError, KeyError) as error:
        raise InputError(f"{path}: expected image, taxon, hint and anchor of every picture, got {error}") from error
    known = [sizes.get(Path(str(name)).name) for name in names]
    um_per_px = np.array([float(row["um_per_px"]) if row else np.nan for row in known])
    return AtlasTexts(
        genera, lines, descriptions, um_per_px, np.array([bool(row and row["judged"] == "yes") for row in known])
    )


def measure_atlas(
    train: GrainPictures,
    taxa: Sequence[str],
    lessons: Lessons,
    atlas: GrainPictures,
    texts: AtlasTexts,
    *,
    encoder_id: str,
    seeds: int,
    steps: int,
    on_row: Callable[[str], None],
) -> dict[str, Any]:
    """Reciprocal ranks of the first picture of each genus.

    Args:
        train: What traits are fitted on.
        taxa: Of these.
        lessons: What the matchers learn from.
        atlas: The pictures.
        texts: What is told of them.
        encoder_id: Of the vectors.
        seeds: Trainings of each matcher.
        steps: Batches of each.
        on_row: Is told each result.

    Returns:
        Plain values: by kind of text and what ranks, the reciprocal rank of each genus, the mean over trainings.
    """
    right = np.array([texts.genera == genus for genus in texts.asked])
    fit = fit_traits(train.numbers, taxa)
    length = atlas.shown[:, 0] * atlas.scales * texts.um_per_px
    sure = np.where(texts.judged, np.nan, length)
    trained = [train_matcher(lessons, MatcherSettings(seed=seed, steps=steps)) for seed in range(seeds)]
    fresh = [train_matcher(lessons, MatcherSettings(seed=seed, steps=1, lr=1e-9)) for seed in range(seeds)]
    # The words that ship are for the vectors of the encoder that ships.
    words = shipped if (shipped := WordsEncoder()).encoder_id == encoder_id else None
    names = [f"pollen grain of {genus}" for genus in texts.asked]
    chance = _chance(right)
    rows: dict[str, dict[str, list[list[float]]]] = {}
    for kind in _KINDS:
        asked = texts.texts(kind)
        found = {
            "in random order": [chance],
            "name only, matcher": _matched(trained, names, atlas, right),
            "matcher, untrained": _matched(fresh, asked, atlas, right),
            "matcher": _matched(trained, asked, atlas, right),
        }
        if words is not None:
            found["`grain-words`, as it ships"] = [_reciprocal(words.encode(asked) @ atlas.vectors.T, right)]
        stated = [size_evidence(stated_size(text), length) for text in asked]
        found["size"] = [_reciprocal(np.array(stated), right)]
        for name, reader in (("traits", TraitReader(fit.model)), ("`grain-traits`, as it ships", TraitReader())):
            for and_size, lengths in (("", None), (_SIZE, length), (_SURE, sure)):
                scores = reader.score(asked, atlas.numbers, lengths)
                found[name + and_size] = [_reciprocal(scores, right)]
        rows[kind] = {name: [values.tolist() for values in each] for name, each in found.items()}
        on_row(f"{kind}: { {name: round(float(np.mean(each)), 3) for name, each in found.items()} }")
    return {
        "pictures": len(texts.genera),
        "genera": list(texts.asked),
        "reciprocal_ranks": rows,
        "mrr": {
            kind: {name: _limits(np.mean(each, 0)) for name, each in found.items()} for kind, found in rows.items()
        },
        "against": {
            name: {kind: _against(found, name) for kind, found in rows.items()}
            for name in (f"traits{_SIZE}", f"`grain-traits`, as it ships{_SIZE}")
        },
        "traits": _read(fit),
    }


def _matched(
    matchers: Sequence[Matcher], asked: Sequence[str], atlas: GrainPictures, right: np.ndarray
) -> list[np.ndarray]:
    return [_reciprocal(m.embed_texts(asked) @ m.embed_grains(atlas.vectors).T, right) for m in matchers]


def _reciprocal(scores: np.ndarray, right: np.ndarray) -> np.ndarray:
    return 1 / first_ranks(scores, right)


def _chance(right: np.ndarray) -> np.ndarray:
    """Expected reciprocal ranks in random order."""
    rng = np.random.default_rng(0)
    return np.mean([_reciprocal(rng.random(right.shape), right) for _ in range(_DRAWS)], axis=0)


def _draw(values: np.ndarray) -> np.ndarray:
    rng = np.random.default_rng(0)
    return values[rng.integers(len(values), size=(_DRAWS, len(values)))].mean(1)


def _limits(values: np.ndarray) -> list[float]:
    """Mean over genera and its 95 % bootstrap interval."""
    return [float(values.mean()), *(float(v) for v in np.quantile(_draw(values), (0.025, 0.975)))]


def _against(found: Mapping[str, list[list[float]]], name: str) -> dict[str, Any]:
    """Differences to others, the genera paired, and how many times the best baseline it is."""
    mean = {other: np.mean(each, axis=0) for other, each in found.items()}
    best = max(_BASELINES, key=lambda baseline: mean[baseline].mean())
    differences = {other: _limits(mean[name] - mean[other]) for other in (*_BASELINES, "matcher", "traits", "size")}
    return {"best_baseline": best, "times": float(mean[name].mean() / mean[best].mean()), "differences": differences}


def _read(fit: TraitFit) -> dict[str, Any]:
    return {
        "weight": fit.weight,
        "columns": {name: {"taxa": fit.taxa[name], "auc": auc} for name, auc in fit.auc.items()},
    }
