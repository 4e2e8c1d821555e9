"""Training scenes from reference grains: a YOLO and a COCO data set with a manifest.

Palynologists own reference pictures of single taxa, not slides with boxes. This makes slides with boxes out of them:
grains of known taxa, grains of taxa that are kept out of the classes (labelled `unknown`), debris that is background,
and, where there are labelled fields, their tiles as they are.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, field
from functools import partial
from itertools import chain
from multiprocessing import get_context
from pathlib import Path

import cv2
import numpy as np

from .. import __version__
from ..errors import InputError, UsageError
from .annotations import LabelledImage
from .annotations.yolo import label_lines
from .atomic import write_text
from .backgrounds import Field, clean_windows, window_of
from .grains import CutGrain, cut_grain
from .masks import GrainMask, packed, write_masks
from .references import (
    SPLITS,
    Reference,
    choose_unknown,
    find_references,
    isolated_grains,
    read_field_splits,
    read_fields,
    read_picture,
    shrink,
    split_references,
)
from .scene import Scene, SceneSettings, compose_scene
from .taxa import taxon_of

__all__ = ["Recipe", "compose_dataset"]

UNKNOWN = "unknown"
_CUT_PX = 256


@dataclass(frozen=True)
class Recipe:
    """Everything that decides what `compose_dataset` writes.

    Attributes:
        reference: Folder with one folder of training pictures a taxon.
        test_reference: The same with pictures that are never trained on; None makes no test split.
        fields: Folders of real fields that backgrounds are taken from where they are clean.
        debris_fields: Folders of real fields with every grain marked; all else in them is background.
        labelled_fields: Folder of labelled fields whose tiles join the data set.
        labelled_class: Class of the boxes in `labelled_fields`.
        field_splits: CSV (`file, split`) that says which labelled field belongs where.
        scenes: Scenes a split.
        tile_repeats: How often each labelled training field is cut into tiles, each time at another scale.
        val_share: Share of each taxon's training pictures that only validation scenes use.
        unknown: Taxa labelled `unknown`, a split each; chosen by `choose_unknown` when None.
        seed: Decides everything random.
        scene: What scenes look like.
    """

    reference: Path
    test_reference: Path | None = None
    fields: tuple[Path, ...] = ()
    debris_fields: tuple[Path, ...] = ()
    labelled_fields: Path | None = None
    labelled_class: str = "Oryza"
    field_splits: Path | None = None
    scenes: dict[str, int] = field(default_factory=lambda: {"train": 4000, "val": 300, "test": 400})
    tile_repeats: int = 2
    val_share: float = 0.08
    unknown: dict[str, tuple[str, ...]] | None = None
    seed: int = 0
    scene: SceneSettings = field(default_factory=SceneSettings)


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
    taxa = sorted({r.taxon for r in references["train"]})
    unknown = recipe.unknown or choose_unknown(taxa, recipe.seed)
    held_out = set(chain.from_iterable(unknown.values()))
    missing = sorted(held_out - set(taxa))
    if missing:
        raise UsageError(f"unknown taxa without reference pictures: {', '.join(missing)}")
    labels = {t: UNKNOWN if t in held_out else taxon_of(t) for t in taxa}
    fields = _fields(recipe)
    labelled = _labelled(recipe)
    if labelled:
        labels[recipe.labelled_class] = recipe.labelled_class
        for split in ("train", "val"):
            for path, one in labelled.get(split, []):
                references[split] += isolated_grains(one, path, recipe.labelled_class, 40, recipe.seed)
        references["test"] += (
            [r for r in references["val"] if r.taxon == recipe.labelled_class] if references["test"] else []
        )
    classes = [*sorted(set(labels.values()) - {UNKNOWN}), UNKNOWN]

    cuts = out / "cuts"
    cuts.mkdir(parents=True)
    every = [r for split in SPLITS for r in references[split]]
    refused = [note for note in _work(partial(_cut_to_file, cuts=cuts), every, workers) if note]
    shelves = {
        split: _Shelf(
            [r for r in references[split] if r.taxon not in held_out or r.taxon in unknown[split]], labels, cuts
        )
        for split in SPLITS
    }
    for split in SPLITS:
        (out / "images" / split).mkdir(parents=True, exist_ok=True)
        (out / "labels" / split).mkdir(parents=True, exist_ok=True)
    writer = _Writer(recipe, out, tuple(classes), shelves, fields, labelled, masks)
    jobs = writer.jobs()
    records: list[dict] = []
    for done, made in enumerate(_work(writer, jobs, workers), 1):
        records += made
        if progress:
            progress(done, len(jobs))
    shutil.rmtree(cuts)
    return _finish(recipe, out, classes, unknown, records, refused)


class _Shelf:
    """The cut grains of one split, drawn taxon by taxon so that rare taxa are as frequent as common ones."""

    def __init__(self, references: Sequence[Reference], labels: dict[str, str], cuts: Path) -> None:
        self.cuts, self.labels = cuts, labels
        self.by_taxon: dict[str, list[Reference]] = {}
        for reference in references:
            if _cut_path(cuts, reference).exists():
                self.by_taxon.setdefault(reference.taxon, []).append(reference)
        self.taxa = sorted(self.by_taxon)

    def pick(self, rng: np.random.Generator) -> tuple[str, str, str, CutGrain, float]:
        taxon = self.taxa[int(rng.integers(len(self.taxa)))]
        reference = self.by_taxon[taxon][int(rng.integers(len(self.by_taxon[taxon])))]
        cut, native = _read_cut(_cut_path(self.cuts, reference))
        return reference.name, self.labels[taxon], taxon, cut, native


def _references(recipe: Recipe) -> dict[str, list[Reference]]:
    train, val = split_references(find_references(recipe.reference), recipe.val_share, recipe.seed)
    test = find_references(recipe.test_reference) if recipe.test_reference else []
    return {"train": train, "val": val, "test": test}


def _labelled(recipe: Recipe) -> dict[str, list[tuple[Path, Field]]]:
    if recipe.labelled_fields is None:
        return {}
    splits = read_field_splits(recipe.field_splits) if recipe.field_splits else {}
    found: dict[str, list[tuple[Path, Field]]] = {}
    for one in read_fields(recipe.labelled_fields, all_marked=False):
        split = splits.get(one.name, "train")
        if split == "background" or not len(one.grains):
            continue
        found.setdefault(split, []).append((recipe.labelled_fields / "images" / one.name, one))
    return found


def _fields(recipe: Recipe) -> list[tuple[Field, list[tuple[int, np.ndarray]]]]:
    """Real fields with their clean windows at several sides; fields of the test split lend no background."""
    splits = read_field_splits(recipe.field_splits) if recipe.field_splits else {}
    usable = []
    sources = [(f, False) for f in recipe.fields] + [(f, True) for f in recipe.debris_fields]
    for folder, all_marked in sources:
        for one in read_fields(folder, all_marked=all_marked):
            if splits.get(one.name) in {"val", "test"} and not all_marked:
                continue
            sides = (480, 640, 900) if all_marked else (96, 160, 320, 640)
            windows = [(side, clean_windows(one, side, side // 4)) for side in sides]
            windows = [(side, corners) for side, corners in windows if len(corners)]
            if windows:
                usable.append((one, windows))
    return usable


def _background(rng: np.random.Generator, fields: list, size: int) -> tuple[np.ndarray | None, str]:
    """A real background, or None for a synthetic one."""
    if not fields or rng.random() < 0.45:
        return None, "synthetic"
    debris = [f for f in fields if f[0].all_marked]
    clean = [f for f in fields if not f[0].all_marked]
    pool = debris if debris and (not clean or rng.random() < 0.4) else clean
    one, windows = pool[int(rng.integers(len(pool)))]
    side, corners = windows[int(rng.integers(len(windows)))]
    x, y = corners[int(rng.integers(len(corners)))]
    return window_of(one, (x, y), side, size), f"{one.name}@{x},{y},{side}"


class _Writer:
    """Makes the images of a data set; called with one job, a scene or the tiles of a field."""

    def __init__(
        self,
        recipe: Recipe,
        out: Path,
        classes: tuple[str, ...],
        shelves: dict,
        fields: list,
        labelled: dict,
        masks: bool,
    ) -> None:
        self.recipe, self.out, self.classes = recipe, out, classes
        self.shelves, self.fields, self.labelled, self.masks = shelves, fields, labelled, masks

    def jobs(self) -> list[tuple[str, str, int, int]]:
        """Kind, split, index and repeat of everything there is to make."""
        scenes = [
            ("scene", split, index, 0)
            for split, shelf in self.shelves.items()
            if shelf.taxa
            for index in range(self.recipe.scenes.get(split, 0))
        ]
        tiles = [
            ("tiles", split, index, repeat)
            for split in SPLITS
            for index in range(len(self.labelled.get(split, ())))
            for repeat in range(self.recipe.tile_repeats if split == "train" else 1)
        ]
        return scenes + tiles

    def __call__(self, job: tuple[str, str, int, int]) -> list[dict]:
        kind, split, index, repeat = job
        return self._scene(split, index) if kind == "scene" else self._tiles(split, index, repeat)

    def _scene(self, split: str, index: int) -> list[dict]:
        recipe = self.recipe
        rng = np.random.default_rng([recipe.seed, SPLITS.index(split), index])
        light, background = _background(rng, self.fields, recipe.scene.size)
        scene = compose_scene(rng, self.shelves[split].pick, light, background, recipe.scene, keep_masks=self.masks)
        annotation = scene_annotation(scene, f"scene_{index:06d}")
        record = self._write(split, scene.picture, annotation, quality=int(rng.integers(70, 97)))
        if self.masks:
            pairs = zip(scene.grains, scene.masks, strict=True)
            record["masks"] = [GrainMask(grain.label, grain.box, packed(mask)) for grain, mask in pairs]
        return [{**record, "background": background, "grains": [asdict(g) for g in scene.grains]}]

    def _tiles(self, split: str, index: int, repeat: int) -> list[dict]:
        """The tiles of a labelled field; from the second repeat on at another scale and offset."""
        recipe, (_, one) = self.recipe, self.labelled[split][index]
        rng = np.random.default_rng([recipe.seed, len(SPLITS), repeat, *one.name.encode()])
        size = recipe.scene.size
        scale = 1.0 if repeat == 0 else float(np.exp(rng.uniform(np.log(0.5), np.log(1.6))))
        picture = one.picture
        if scale != 1.0:
            how = cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
            picture = cv2.resize(picture, None, fx=scale, fy=scale, interpolation=how)
        height, width = picture.shape[:2]
        left, top = rng.integers(0, size // 2, 2).tolist() if repeat else (0, 0)
        records = []
        for y in range(top, max(1, height - size + 1), size):
            for x in range(left, max(1, width - size + 1), size):
                boxes = one.grains * scale - np.array([x, y, x, y], np.float32)
                clipped = boxes.clip(0, size)
                keep = _areas(clipped) > 0.35 * _areas(boxes)
                labels = (recipe.labelled_class,) * int(keep.sum())
                name = f"{Path(one.name).stem}_{repeat}_{x}_{y}.jpg"
                annotation = LabelledImage(name, size, size, clipped[keep], labels)
                record = self._write(split, picture[y : y + size, x : x + size], annotation, quality=92)
                records.append({**record, "background": one.name, "scale": round(scale, 4), "silver": True})
        return records

    def _write(self, split: str, picture: np.ndarray, annotation: LabelledImage, quality: int) -> dict:
        path = self.out / "images" / split / annotation.image
        cv2.imwrite(str(path), picture[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])
        label = self.out / "labels" / split / f"{path.stem}.txt"
        label.write_text(label_lines(annotation, self.classes))
        return {"split": split, "image": annotation.image, "annotation": annotation}


def scene_annotation(scene: Scene, stem: str) -> LabelledImage:
    """The boxes of a scene."""
    size = scene.picture.shape[0]
    boxes = np.array([g.box for g in scene.grains], np.float32).reshape(-1, 4)
    return LabelledImage(f"{stem}.jpg", size, size, boxes, tuple(g.label for g in scene.grains))


def _areas(boxes: np.ndarray) -> np.ndarray:
    return (boxes[:, 2:] - boxes[:, :2]).prod(1)


def _finish(
    recipe: Recipe, out: Path, classes: list[str], unknown: dict, records: list[dict], refused: list[str]
) -> dict:
    """Writes what concerns the whole data set; the manifest last, so that its presence means that all is there."""
    from .annotations.coco import write_coco

    records.sort(key=lambda r: (r["split"], r["image"]))
    splits = [s for s in SPLITS if any(r["split"] == s for r in records)]
    if not splits:
        raise InputError("nothing was composed: expected at least one split with scenes or labelled fields")
    for split in splits:
        write_coco(
            [r["annotation"] for r in records if r["split"] == split],
            out / "annotations" / f"{split}.json",
            categories=classes,
        )
        if any("masks" in r for r in records):
            shown = [(r["image"], r["masks"]) for r in records if r["split"] == split and "masks" in r]
            write_masks(shown, out / "masks" / f"{split}.json", classes)
    lines = [f"path: {out.resolve()}", *(f"{s}: images/{s}" for s in splits), "names:"]
    lines += [f"  {i}: {json.dumps(name, ensure_ascii=False)}" for i, name in enumerate(classes)]
    write_text(out / "data.yaml", "\n".join(lines) + "\n")
    manifest = {
        "palyno": __version__,
        "recipe": json.loads(json.dumps(asdict(recipe), default=str)),
        "classes": classes,
        "unknown": unknown,
        "refused": sorted(refused),
        "images": {s: sum(r["split"] == s for r in records) for s in splits},
        "grains": {s: sum(len(r["annotation"]) for r in records if r["split"] == s) for s in splits},
        "scenes": [{k: v for k, v in r.items() if k not in ("annotation", "masks")} for r in records],
    }
    text = json.dumps(manifest, ensure_ascii=False, indent=1)
    write_text(out / "manifest.json", text + "\n")
    return json.loads(text)


def _cut_path(cuts: Path, reference: Reference) -> Path:
    from hashlib import sha256

    return cuts / f"{sha256(str((reference.path, reference.window)).encode()).hexdigest()[:24]}.npz"


def _cut_to_file(reference: Reference, cuts: Path) -> str:
    """Cuts one reference grain; returns why it could not be cut, or nothing."""
    path = _cut_path(cuts, reference)
    if path.exists():
        return ""
    try:
        picture = read_picture(reference.path)
        if reference.window:
            x1, y1, x2, y2 = reference.window
            picture = picture[y1:y2, x1:x2]
        cut = cut_grain(shrink(picture, _CUT_PX))
    except InputError as error:
        return f"{reference.name}: {error}"
    np.savez(
        path,
        transmission=np.round(cut.transmission * 170).astype(np.uint8),
        mask=np.round(cut.mask * 255).astype(np.uint8),
        native=reference.native_px or max(picture.shape[:2]),
    )
    return ""


def _read_cut(path: Path) -> tuple[CutGrain, float]:
    with np.load(path) as stored:
        transmission = stored["transmission"].astype(np.float32) / 170
        return CutGrain(transmission, stored["mask"].astype(np.float32) / 255), float(stored["native"])


_TASK: Callable | None = None


def _work(task: Callable, items: Sequence, workers: int) -> Iterator:
    """`map(task, items)` on several processes; the task travels to each process once."""
    if workers <= 1:
        yield from map(task, items)
        return
    # A fork would copy OpenCV's thread pool in whatever state it is, and hang.
    context = get_context("spawn")
    with ProcessPoolExecutor(workers, context, initializer=_enter, initargs=(task,)) as pool:
        yield from pool.map(_call, items, chunksize=4)


def _enter(task: Callable) -> None:
    global _TASK
    _TASK = task
    cv2.setNumThreads(1)


def _call(item: object) -> object:
    assert _TASK is not None
    return _TASK(item)
