"""Training of the encoders that search takes, from reference pictures: of grains first, then of words for them."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ..errors import InputError, NothingToDoError
from ..retrieval.encoders.image.grains import GrainSet

if TYPE_CHECKING:
    from ..data.grains import CutGrain

__all__ = ["FIELDS", "cut_folder", "fit_words", "train_traits", "train_words"]

_SUFFIXES = (".jpg", ".jpeg", ".png", ".tif", ".tiff", ".bmp")

FIELDS = ("apertures", "ornamentation", "shape", "feature", "unit")
"""What phrases say in training: what can be seen in vectors that hold neither colour nor size."""


def cut_folder(
    folder: str | Path,
    *,
    without: Collection[str] = (),
    on_picture: Callable[[int, int], None] = lambda done, of: None,
    on_skip: Callable[[str, str], None] = lambda file, reason: None,
) -> GrainSet:
    """Cuts the grains out of reference pictures.

    Args:
        folder: One folder a taxon, with pictures of single grains.
        without: Folders that are left out.
        on_picture: Is told how far it is.
        on_skip: Is told of pictures in which no grain stands out.

    Raises:
        NothingToDoError: There are no pictures.
    """
    from ..data.grains import cut_grain
    from ..data.slides import open_slide

    folder = Path(folder)
    files = sorted(
        path
        for taxon in folder.iterdir()
        if taxon.is_dir() and taxon.name not in without
        for path in taxon.iterdir()
        if path.suffix.lower() in _SUFFIXES
    )
    if not files:
        raise NothingToDoError(f"no pictures in {folder}: expected a folder a taxon with {', '.join(_SUFFIXES)}")

    def grains() -> Iterator[tuple[CutGrain, str, str]]:
        for i, path in enumerate(files):
            name = str(path.relative_to(folder))
            try:
                with open_slide(path) as slide:
                    yield cut_grain(slide.read(0, 0, slide.width, slide.height)), path.parent.name, name
            except InputError as error:
                on_skip(name, str(error))
            on_picture(i + 1, len(files))

    return GrainSet.collect(grains())


def train_words(
    grains: GrainSet,
    out: Path,
    *,
    name: str = "grain-words",
    encoder: str | Path = "grain-encoder",
    device: str = "auto",
    text_model: str = "minilm-bag",
    steps: int = 1000,
    batch: int = 146,
    lr: float = 2e-3,
    seed: int = 0,
    views: int = 4,
    rounds: int = 12,
) -> Path:
    """Trains phrases into the space of an encoder of grains.

    Args:
        grains: To learn from.
        out: Folder of the weights.
        name: Their name.
        encoder: Name or file of the encoder of grains.
        device: For that encoder; the towers are small and train on the CPU.
        text_model: Of `palyno.retrieval.matching.texts.TEXT_MODELS`.
        steps: Batches.
        batch: Pairs a batch.
        lr: Peak learning rate.
        seed: Of weights, phrases and batches.
        views: Changed pictures of each grain, beside the one as it is.
        rounds: Phrases of each grain.

    Returns:
        The weights file.
    """
    import torch

    from ..retrieval.encoders.image.encoder import ImageEncoder
    from ..retrieval.encoders.image.evaluate import embed_views

    pictures = ImageEncoder(encoder, device=device)
    found = pictures.encode_canvases(grains.pixels)[None]
    if views:
        pixels = torch.from_numpy(grains.pixels).to(next(pictures.network.parameters()).device)
        changed = embed_views(pictures.network, pixels, int(pictures.about.config["side"]), views).cpu().numpy()
        found = np.concatenate([found, changed])
    return fit_words(
        found,
        grains.taxa,
        out,
        name=name,
        space=pictures.encoder_id,
        text_model=text_model,
        steps=steps,
        batch=batch,
        lr=lr,
        seed=seed,
        rounds=rounds,
    )


def fit_words(
    vectors: np.ndarray,
    taxa: tuple[str, ...],
    out: Path,
    *,
    name: str,
    space: str,
    text_model: str,
    steps: int,
    batch: int,
    lr: float,
    seed: int,
    rounds: int,
) -> Path:
    """The second half of `train_words`, from vectors (views, N, dim) that are there already."""
    from ..retrieval.matching.matcher import save_matcher
    from ..retrieval.matching.pairs import Pairs
    from ..retrieval.matching.train import Lessons, LessonSettings, MatcherSettings, train_matcher

    pairs = Pairs(np.asarray(vectors, np.float32), taxa)
    phrases = LessonSettings(fields=FIELDS, seed=seed)
    settings = MatcherSettings(
        text_model=text_model, dim=pairs.features.shape[2], steps=steps, batch=batch, lr=lr, seed=seed
    )
    lessons = Lessons([pairs] * rounds, phrases)
    training = {
        "settings": settings.plain(),
        "phrases": {**vars(phrases), "fields": list(FIELDS), "rounds": rounds, "different": len(lessons.texts)},
        "grains": len(pairs),
        "views": len(pairs.features),
        "taxa": sorted(set(taxa)),
    }
    matcher = train_matcher(lessons, settings)
    out.mkdir(parents=True, exist_ok=True)
    return save_matcher(out / f"{name}.safetensors", matcher, name=name, space=space, training=training)


def train_traits(grains: GrainSet, out: Path, *, name: str = "grain-traits") -> Path:
    """Fits the reading of traits, in a few seconds on one core; the same grains give the same weights.

    Args:
        grains: To learn from.
        out: Folder of the weights.
        name: Their name.

    Returns:
        The weights file.
    """
    from dataclasses import asdict

    from ..retrieval.matching.evidence import save_traits
    from ..retrieval.matching.evidence_fit import TraitSettings, fit_traits
    from ..retrieval.matching.shapes import describe

    settings = TraitSettings()
    fit = fit_traits(describe(grains.pixels), grains.taxa, settings)
    training = {
        "settings": asdict(settings),
        "grains": len(grains),
        "taxa": sorted(set(grains.taxa)),
        "weight": fit.weight,
        "left_out": {column: {"taxa": fit.taxa[column], "auc": auc} for column, auc in fit.auc.items()},
    }
    out.mkdir(parents=True, exist_ok=True)
    return save_traits(out / f"{name}.safetensors", fit.model, name=name, training=training)
