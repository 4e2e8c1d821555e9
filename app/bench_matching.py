"""Matching of grains and words, measured: the grain encoder beside what needs no grain, and the matcher's choices.

Every figure has its definition in `docs/retrieval.md`. Nothing here is trained on the pictures that are asked about.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from .. import __version__
from ..errors import InputError
from ..retrieval.encoders.image.encoder import ImageEncoder
from ..retrieval.encoders.image.evaluate import hits_at
from ..retrieval.matching.matcher import Matcher
from ..retrieval.matching.pairs import Captions, Pairs, first_ranks
from ..retrieval.matching.ranking import RankingObjective
from ..retrieval.matching.train import Lessons, LessonSettings, train_matcher
from .encoder_training import FIELDS
from .grain_pictures import GrainPictures, gather
from .matching_atlas import AtlasTexts, measure_atlas, read_texts
from .matching_scenes import (
    COMPOSED,
    HELD_OUT,
    UNSEEN,
    composed,
    composed_lessons,
    trait_queries,
    triple_queries,
)

__all__ = ["Material", "bench_matching", "read_material"]

FORMAT = "palyno-bench-matching-2"
_DRAWS = 2000
ROUNDS = 6
_NEW, _NEW_TO_MATCHER = "neither combination nor taxon", "neither, but the taxon by the encoder"

# The first is what the others differ from in one thing.
_CHOICES: dict[str, dict[str, Any]] = {
    "bag of words, ranking objective": {},
    "untrained": {"steps": 1, "lr": 1e-9},
    "InfoNCE": {"objective": "infonce"},
    "SigLIP": {"objective": "siglip"},
    "every other taxon's phrase is wrong": {"wrong": "taxa"},
    "MiniLM": {"text_model": "minilm"},
    "MiniLM and a bag of words": {"text_model": "minilm-bag"},
    "words in runs of up to three, and pairs around a word": {"text_model": "trigram-skip"},
    "words in a row (GRU)": {"text_model": "gru"},
}


@dataclass(frozen=True)
class Material:
    """What is measured with.

    Attributes:
        train: Reference pictures to learn from.
        val: Those to ask about.
        atlas: Pictures of other taxa from elsewhere.
        texts: What is told of the pictures of the atlas.
        encoder_id: Of the vectors.
        views: Vectors of changed pictures of train, (views, N, dim); None for none.
        unseen: The same as `train.vectors`, `val.vectors` and `views`, from an encoder that never saw the taxa
            `UNSEEN`; None leaves that out.
    """

    train: GrainPictures
    val: GrainPictures
    atlas: GrainPictures
    texts: AtlasTexts
    encoder_id: str
    views: np.ndarray | None = None
    unseen: tuple[np.ndarray, np.ndarray, np.ndarray | None] | None = None

    @property
    def lessons(self) -> np.ndarray:
        """(views, N, dim) of train: the pictures as they are, and changed."""
        return _views(self.train.vectors, self.views)


def read_material(
    pictures: str | Path,
    atlas: str | Path,
    *,
    kept: Path | None = None,
    unseen: str | Path | None = None,
    device: str = "auto",
    on_picture: Callable[[int, int], None] = lambda done, of: None,
) -> Material:
    """Reads and encodes the pictures.

    Args:
        pictures: Folder with `train/TAXON/*` and `val/TAXON/*`.
        atlas: Folder with `pairs.csv` and the pictures that it names.
        kept: Folder for what was done, to go on with.
        unseen: Weights of an encoder that was trained without `UNSEEN`.
        device: For the encoders.
        on_picture: Is told how far it is.

    Raises:
        InputError: The folders hold something else.
    """
    encoder = ImageEncoder(device=device)

    def read(folder: str | Path, name: str, by: ImageEncoder) -> GrainPictures:
        return gather(folder, by, None if kept is None else kept / f"{name}.npz", on_picture=on_picture)

    if kept is not None:
        kept.mkdir(parents=True, exist_ok=True)
    found, elsewhere = read(pictures, "pictures", encoder), read(atlas, "atlas", encoder)
    train, val = (np.char.startswith(found.names, f"{part}/") for part in ("train", "val"))
    if not (train.any() and val.any()):
        raise InputError(f"{pictures}: expected train/TAXON and val/TAXON with pictures")
    other = None
    if unseen is not None:
        again = read(pictures, "unseen", ImageEncoder(unseen, device=device))
        other = again.vectors[train], again.vectors[val], None
    texts = read_texts(Path(atlas) / "pairs.csv", [str(name) for name in elsewhere.names])
    return Material(found.select(train), found.select(val), elsewhere, texts, encoder.encoder_id, unseen=other)


def bench_matching(
    material: Material,
    *,
    seeds: int = 3,
    direction_seeds: int = 10,
    steps: int = 600,
    on_row: Callable[[str], None] = lambda line: None,
) -> dict[str, Any]:
    """Measures.

    Args:
        material: See `read_material`.
        seeds: Trainings of each matcher.
        direction_seeds: Trainings with each kind of wrong answers.
        steps: Batches of each.
        on_row: Is told each result.

    Returns:
        A document of plain values.
    """
    began = time.monotonic()
    document: dict[str, Any] = {
        "format": FORMAT,
        "palyno": __version__,
        "encoder_id": material.encoder_id,
        "seeds": seeds,
        "direction_seeds": direction_seeds,
        "steps": steps,
        "unseen_encoder": material.unseen is not None,
        "pictures": {"train": len(material.train.names), "val": len(material.val.names)},
        "encoder": _encoder(material),
    }
    on_row(str(document["encoder"]))
    document["composed"] = _composed(material, seeds, steps, on_row)
    document["directions"] = _directions(material, direction_seeds, steps, on_row)
    train = Pairs(material.lessons, tuple(_taxa(material.train)))
    document["atlas"] = measure_atlas(
        material.train,
        _taxa(material.train),
        Lessons([train] * ROUNDS, LessonSettings(fields=FIELDS)),
        material.atlas,
        material.texts,
        encoder_id=material.encoder_id,
        seeds=seeds,
        steps=steps,
        on_row=on_row,
    )
    document["seconds"] = round(time.monotonic() - began)
    return document


def _encoder(m: Material) -> list[dict[str, Any]]:
    """Recall@1 of val among train, and of what has no picture of a grain in it."""
    a, b = m.train, m.val

    def recall(train: np.ndarray, val: np.ndarray) -> dict[str, Any]:
        hit = hits_at(val, train, _taxa(b), _taxa(a)).astype(float)
        by_taxon = [hit[np.array(_taxa(b)) == taxon].mean() for taxon in sorted(set(_taxa(b)))]
        return {"by_taxon": interval(by_taxon), "grains": float(hit.mean()), "n": len(hit)}

    def near(columns: Callable[[GrainPictures], np.ndarray]) -> dict[str, Any]:
        """By Euclidean distance, each column with the spread 1."""
        x, y = columns(a), columns(b)
        scale = x.std(0) + 1e-6
        x, y = x / scale, y / scale
        # Of unit vectors, twice the cosine is 2 - d^2: here d^2 itself, as hits_at takes products.
        lift = np.concatenate([x, -0.5 * (x**2).sum(1, keepdims=True)], 1)
        return recall(lift, np.concatenate([y, np.ones((len(y), 1))], 1))

    def unit(x: np.ndarray) -> np.ndarray:
        x = x - x.mean(1, keepdims=True)
        return x / (np.linalg.norm(x, axis=1, keepdims=True) + 1e-6)

    rows = [
        {"name": "corners, grey", **near(lambda p: p.corners)},
        {"name": "size of the picture", **near(lambda p: p.sizes)},
        {"name": "corners, grey, and size", **near(lambda p: np.concatenate([p.corners, p.sizes], 1))},
        {"name": "grey pixels, 16 x 16", **recall(unit(a.tiny), unit(b.tiny))},
        {"name": "network as drawn", **recall(a.untrained, b.untrained)},
        {"name": "grain encoder", **recall(a.vectors, b.vectors)},
    ]
    if m.unseen is not None:
        new = np.isin(_taxa(b), UNSEEN)
        hit = hits_at(m.unseen[1], m.unseen[0], _taxa(b), _taxa(a)).astype(float)
        by_taxon = [hit[np.array(_taxa(b)) == taxon].mean() for taxon in UNSEEN]
        told = {"by_taxon": interval(by_taxon), "grains": float(hit[new].mean()), "n": int(new.sum())}
        rows.append({"name": "encoder that never saw these ten taxa", **told})
    return rows


def _composed(m: Material, seeds: int, steps: int, on_row: Callable[[str], None]) -> dict[str, Any]:
    """Words to grains whose stain and size are composed: combinations, taxa and traits that were never trained on."""
    learned, asked_of = m.lessons, m.val.vectors
    if m.unseen is not None:
        learned, asked_of = _views(m.unseen[0], m.unseen[2]), m.unseen[1]
    new_train, new_val = (np.isin(_taxa(p), UNSEEN) for p in (m.train, m.val))
    train = Pairs(learned[:, ~new_train], tuple(np.array(_taxa(m.train))[~new_train]))
    val = Pairs(asked_of[None], tuple(_taxa(m.val)))
    galleries = {
        "seen": composed(val.select(~new_val), 11, copies=3),
        "unseen": composed(val.select(new_val), 12, copies=6),
    }
    asked = {
        "combination trained on": (triple_queries(galleries["seen"], held=False), galleries["seen"]),
        "combination never trained on": (triple_queries(galleries["seen"], held=True), galleries["seen"]),
        # Without an encoder that never saw them, the taxa are new to the matcher alone.
        _NEW if m.unseen is not None else _NEW_TO_MATCHER: (
            triple_queries(galleries["unseen"], held=True),
            galleries["unseen"],
        ),
    }
    traits = trait_queries(train, val)
    plain = composed(val, 13, copies=1)
    if len(traits):
        asked["traits together in no taxon trained on"] = (traits, plain)
    lessons, rows = composed_lessons(train), []
    for name, options in _CHOICES.items():
        found: dict[str, list[np.ndarray]] = {}
        for seed in range(seeds):
            matcher = train_matcher(lessons, replace(COMPOSED, **{"steps": steps, "seed": seed, **options}))
            for split, (queries, gallery) in asked.items():
                found.setdefault(split, []).append(_ranks(matcher, queries, gallery))
        row = {"name": name, **{split: _recalls(ranks) for split, ranks in found.items()}}
        rows.append(row)
        on_row(str(row))
    sizes = {split: {"queries": len(queries), "grains": len(gallery)} for split, (queries, gallery) in asked.items()}
    return {"sizes": sizes, "rows": rows, "held_out_share": HELD_OUT}


def _directions(m: Material, seeds: int, steps: int, on_row: Callable[[str], None]) -> dict[str, Any]:
    """Which negatives favour which direction, in the same trainings otherwise."""
    train, val = (
        Pairs(m.lessons, tuple(_taxa(m.train))),
        Pairs(m.val.vectors[None], tuple(_taxa(m.val))),
    )
    gallery = composed(val, 14, copies=1)
    queries = triple_queries(gallery)
    lessons = composed_lessons(train)
    found: dict[str, dict[str, list[float]]] = {}
    for negatives in ("sentences", "images", "both"):
        for seed in range(seeds):
            objective = RankingObjective(negatives=negatives)
            matcher = train_matcher(lessons, replace(COMPOSED, steps=steps, seed=seed, ranking=objective))
            scores = matcher.embed_texts(queries.texts) @ matcher.embed_grains(gallery.features[0]).T
            right = queries.truth(gallery)[0]
            told = found.setdefault(negatives, {"annotation": [], "search": []})
            told["annotation"].append(float((first_ranks(scores.T, right.T) <= 1).mean()))
            told["search"].append(float((first_ranks(scores, right) <= 1).mean()))
        on_row(f"{negatives}: {found[negatives]}")
    difference = {
        way: student(np.array(found["sentences"][way]) - np.array(found["images"][way]))
        for way in ("annotation", "search")
    }
    return {"phrases": len(queries), "grains": len(gallery), "recall_at_1": found, "sentences_minus_images": difference}


def _views(clean: np.ndarray, changed: np.ndarray | None) -> np.ndarray:
    return clean[None] if changed is None else np.concatenate([clean[None], changed])


def _ranks(matcher: Matcher, queries: Captions, gallery: Pairs) -> np.ndarray:
    scores = matcher.embed_texts(queries.texts) @ matcher.embed_grains(gallery.features[0]).T
    return first_ranks(scores, queries.truth(gallery)[0])


def _recalls(ranks: Sequence[np.ndarray]) -> dict[str, Any]:
    """Recall at 1, 5, 10 and the median rank: means over seeds, the interval over queries."""
    mean = {k: np.mean([r <= k for r in ranks], axis=0) for k in (1, 5, 10)}
    return {
        **{f"recall@{k}": interval(mean[k]) for k in mean},
        "seeds": [float((r <= 5).mean()) for r in ranks],
        "median_rank": float(np.median(np.concatenate(ranks))),
    }


def interval(values: Sequence[float] | np.ndarray) -> list[float]:
    """Mean and its 95 % bootstrap interval."""
    each = np.asarray(values, float)
    rng = np.random.default_rng(0)
    means = each[rng.integers(len(each), size=(_DRAWS, len(each)))].mean(1)
    return [float(each.mean()), *(float(v) for v in np.quantile(means, (0.025, 0.975)))]


def student(values: np.ndarray) -> list[float]:
    """Mean of a few and its 95 % interval by Student's t."""
    from scipy import stats

    half = stats.t.ppf(0.975, len(values) - 1) * values.std(ddof=1) / np.sqrt(len(values))
    return [float(values.mean()), float(values.mean() - half), float(values.mean() + half)]


def _taxa(pictures: GrainPictures) -> list[str]:
    return [str(name).split("/")[-2] for name in pictures.names]
