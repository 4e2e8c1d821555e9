"""A data set from a recipe: references cut, scenes and tiles written, and what concerns all of them told."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from itertools import chain
from pathlib import Path

from ... import __version__
from ...errors import InputError, UsageError
from ..annotations.coco import write_coco
from ..annotations.yolo import write_config
from ..atomic import write_text
from ..masks import write_masks
from ..references import SPLITS, Reference, choose_unknown, find_references, isolated_grains, split_references
from ..taxa import taxon_of
from .crew import Crew
from .cuts import Shelf, cut_to_file
from .fields import keep_fields
from .recipe import Recipe
from .writer import MadeImage, Writer

__all__ = ["compose_dataset"]

UNKNOWN = "unknown"


def compose_dataset(
    recipe: Recipe,
    out: Path,
    *,
    workers: int = 1,
    masks: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> dict:
    """Writes a data set: `images/SPLIT`, `labels/SPLIT`, `data.yaml`, `annotations/SPLIT.json`, `manifest.json`.

    The same recipe gives the same scenes whatever the number of workers.

    Args:
        recipe: What to make.
        out: New or empty folder.
        workers: Processes.
        masks: Also write `masks/SPLIT.json`, where each grain of a scene shows; nothing else depends on it.
        progress: Called with the number of images done and to do.

    Returns:
        The manifest.

    Raises:
        UsageError: `out` holds files, or the recipe contradicts itself.
        InputError: References or fields are missing.
    """
    if out.exists() and any(out.iterdir()):
        raise UsageError(f"{out}: expected a new or empty folder; it holds files")
    references = _references(recipe)
    if recipe.hardness and not any(r.name in recipe.hardness.pictures for r in references["train"]):
        raise InputError(
            f"hard cases: expected scenes of training pictures of {recipe.reference}; "
            f"{next(iter(recipe.hardness.pictures))} and the other pictures in them are none of those"
        )
    taxa = sorted({r.taxon for r in references["train"]})
    unknown = recipe.unknown or choose_unknown(taxa, recipe.seed)
    held_out = set(chain.from_iterable(unknown.values()))
    missing = sorted(held_out - set(taxa))
    if missing:
        raise UsageError(f"unknown taxa without reference pictures: {', '.join(missing)}")
    if untaught := sorted({r.taxon for r in references["test"]} - set(taxa)):
        raise InputError(
            f"{recipe.test_reference}: expected taxa of {recipe.reference}, got also {', '.join(untaught)}, which "
            "have no class; take their folders out"
        )
    labels = {t: UNKNOWN if t in held_out else taxon_of(t) for t in taxa}
    (out / "parts" / "cuts").mkdir(parents=True)
    try:
        return _compose(recipe, out, references, unknown, labels, workers, masks, progress)
    finally:
        shutil.rmtree(out / "parts")


def _compose(
    recipe: Recipe,
    out: Path,
    references: dict[str, list[Reference]],
    unknown: dict[str, tuple[str, ...]],
    labels: dict[str, str],
    workers: int,
    masks: bool,
    progress: Callable[[int, int], None] | None,
) -> dict:
    """The work itself, with `parts` in the data set's folder for what is only needed meanwhile."""
    cuts = out / "parts" / "cuts"
    with Crew(workers, out / "parts") as crew:
        fields, labelled = keep_fields(recipe, out / "parts" / "fields", crew)
        if labelled:
            labels = labels | {recipe.labelled_class: recipe.labelled_class}
            for split in ("train", "val"):
                for one in labelled.get(split, []):
                    references[split] += isolated_grains(one.open(), one.source, recipe.labelled_class, 40, recipe.seed)
            references["test"] += (
                [r for r in references["val"] if r.taxon == recipe.labelled_class] if references["test"] else []
            )
        classes = [*sorted(set(labels.values()) - {UNKNOWN}), UNKNOWN]

        every = [r for split in SPLITS for r in references[split]]
        refused = [note for note in crew.map(partial(cut_to_file, cuts=cuts), every) if note]
        held_out = set(chain.from_iterable(unknown.values()))
        shelves = {
            split: Shelf(
                [r for r in references[split] if r.taxon not in held_out or r.taxon in unknown[split]],
                labels,
                cuts,
                recipe.hardness if split == "train" else None,
            )
            for split in SPLITS
        }
        for split in SPLITS:
            (out / "images" / split).mkdir(parents=True, exist_ok=True)
            (out / "labels" / split).mkdir(parents=True, exist_ok=True)
        writer = Writer(recipe, out, tuple(classes), shelves, fields, labelled, masks)
        jobs = writer.jobs()
        images: list[MadeImage] = []
        for done, made in enumerate(crew.map(writer, jobs), 1):
            images += made
            if progress:
                progress(done, len(jobs))
    sized = sum(r.native_px is not None for r in every)
    return _finish(recipe, out, classes, unknown, images, refused, sized)


def _references(recipe: Recipe) -> dict[str, list[Reference]]:
    train, val = split_references(find_references(recipe.reference), recipe.val_share, recipe.seed)
    test = find_references(recipe.test_reference) if recipe.test_reference else []
    return {"train": train, "val": val, "test": test}


def _finish(
    recipe: Recipe,
    out: Path,
    classes: list[str],
    unknown: dict,
    images: list[MadeImage],
    refused: list[str],
    sized: int,
) -> dict:
    """Writes what concerns the whole data set; the manifest last, so that its presence means that all is there."""
    images = sorted(images, key=lambda one: (one.split, one.annotation.image))
    by_split = {s: [one for one in images if one.split == s] for s in SPLITS}
    by_split = {split: own for split, own in by_split.items() if own}
    if not by_split:
        raise InputError("nothing was composed: expected at least one split with scenes or labelled fields")
    for split, own in by_split.items():
        write_coco([one.annotation for one in own], out / "annotations" / f"{split}.json", categories=classes)
        if any(one.masks is not None for one in images):
            shown = [(one.annotation.image, one.masks) for one in own if one.masks is not None]
            write_masks(shown, out / "masks" / f"{split}.json", classes)
    write_config(out, by_split, classes)
    manifest = {
        "palyno": __version__,
        "recipe": json.loads(json.dumps(asdict(recipe), default=str)),
        "classes": classes,
        "unknown": unknown,
        "refused": sorted(refused),
        "original_sizes": sized,
        "images": {split: len(own) for split, own in by_split.items()},
        "grains": {split: sum(len(one.annotation) for one in own) for split, own in by_split.items()},
        "scenes": [],
    }
    # The scenes come as text, formatted where they were made: they move in by two levels, at the end.
    head = json.dumps(manifest, ensure_ascii=False, indent=1).removesuffix("[]\n}")
    scenes = ",\n".join("  " + one.told.replace("\n", "\n  ") for one in images)
    text = f"{head}[\n{scenes}\n ]\n}}"
    write_text(out / "manifest.json", text + "\n")
    return json.loads(text)
