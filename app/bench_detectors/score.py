"""One document of all runs: figures with intervals, and differences between detectors on the same draws of images."""

from __future__ import annotations

import datetime
import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from ... import __version__
from ...data.annotations import LabelledImage
from ...errors import InputError, PalynoError, UsageError
from ...vision.results import SlideResult
from . import SCHEMA
from .variants import VARIANTS, network_of

__all__ = ["FIGURES", "Truth", "score_all"]

FIGURES = (
    "mAP50",
    "mAP50-95",
    "mAP50_multi_label",
    "mAP50-95_multi_label",
    "AP50_any",
    "precision",
    "recall",
    "f1",
    "count_error",
)

# What is asked of a reading beside its threshold. The rest that files keep follows from picture and network (`tile_px`,
# `overlap_px`), is the network's own, from its training (`naming_threshold`, `naming_temperature`), or moves no box
# (`um_per_px`, `vectors`).
ASKED = ("iou", "tile", "overlap", "views")


@dataclass(frozen=True)
class Truth:
    """The true boxes of a set: `NAME=FILE` or `NAME=FILE:GLOB`.

    Attributes:
        name: The set's name.
        file: A COCO file.
        only: Only images whose name matches, or None.
    """

    name: str
    file: Path
    only: str | None = None

    @classmethod
    def parse(cls, text: str) -> Truth:
        """Reads the form above.

        Raises:
            UsageError: It is another.
        """
        name, _, rest = text.partition("=")
        file, _, only = rest.partition(":")
        if not name or not file:
            raise UsageError(f"--truth: expected NAME=FILE or NAME=FILE:GLOB, got {text!r}")
        return cls(name, Path(file), only or None)

    def read(self) -> dict[str, LabelledImage]:
        """The images by name.

        Raises:
            InputError: There is none, or two have one name.
        """
        from ...data.annotations.coco import read_coco

        images: dict[str, LabelledImage] = {}
        for image in read_coco(self.file):
            if images.setdefault(Path(image.image).name, image) is not image:
                raise InputError(f"{self.file}: expected different file names, got {image.image} and another")
        images = {name: image for name, image in images.items() if self.only is None or fnmatch(name, self.only)}
        if not images:
            raise InputError(f"{self.file}: expected images that match {self.only or '*'}, found none")
        return images


def score_all(
    folder: Path,
    truths: Sequence[Truth],
    *,
    ours: str = "hieraedge-n",
    conf: float = 0.25,
    choose: str | None = None,
    number: int = 500,
    seed: int = 0,
    told: Callable[[str], None] = lambda line: None,
) -> dict[str, Any]:
    """Scores every run of a folder.

    Args:
        folder: Folder of the runs.
        truths: The sets' true boxes; images are matched by name.
        ours: The model that others are compared with.
        conf: Threshold of all that is asked of a count.
        choose: A set, on which each run's own threshold is chosen in place of `conf`, see
            `palyno.vision.operating.choose_conf`; its own counts are then too good.
        number: Draws of the bootstrap.
        seed: Of the draws.
        told: Called with a line a run.

    Returns:
        A document: `models` by name, each with `runs` by seed (the recipe, the threshold `conf` where it was chosen,
        and, a set, figures with `[value, low, high]`) and `mean` over seeds (with `sd` between them), `classes`, how
        many it has, and for so many its `parameters` and `gflops`, where its name says what it is; `differences`,
        `ours` less each other, means over seeds on the same draws.

    Raises:
        InputError: There are no runs, or images without true boxes; a run has nothing found on the set to choose on; or
            what is compared was read in different ways, see `ASKED`, or has different classes.
        UsageError: That set is none of the truths.
    """
    from ...vision.intervals import draws
    from ...vision.operating import choose_conf

    if choose not in (None, *(truth.name for truth in truths)):
        raise UsageError(f"choose: expected one of {', '.join(truth.name for truth in truths)}, got {choose!r}")
    chosen: dict[str, float] = {}
    scored: dict[str, dict[str, dict[str, dict[str, np.ndarray]]]] = {}
    recipes: dict[str, dict[str, Any]] = {}
    sets: dict[str, Any] = {}
    alike: dict[str, tuple[Path, SlideResult, tuple[str, ...]]] = {}
    sizes: dict[str, int] = {}
    for asked in sorted(truths, key=lambda truth: truth.name != choose):
        name, truth = asked.name, asked.read()
        true = list(truth.values())
        weights = np.vstack([np.ones((1, len(truth)), int), draws(len(truth), number, seed)])
        grains = sum(map(len, true))
        sets[name] = {
            "images": len(truth),
            "grains": grains,
            "sha256": hashlib.sha256(asked.file.read_bytes()).hexdigest(),
        }
        for run in sorted(path for path in folder.iterdir() if (path / f"{name}.json.gz").is_file()):
            model, _, number_ = run.name.rpartition("-s")
            file = run / f"{name}.json.gz"
            images, classes = _found(file, truth)
            # Of all sets where a threshold is chosen on one: it holds for what was read so.
            one = (file, images[0], classes)
            _check_alike(alike.setdefault("" if choose else name, one), one)
            if name == choose:
                chosen[run.name] = choose_conf(true, images).conf
            if choose and run.name not in chosen:
                raise InputError(f"{run}: expected what was found on {choose}, to choose a threshold; got {name} alone")
            threshold = chosen.get(run.name, conf)
            scored.setdefault(model, {}).setdefault(number_, {})[name] = _scores(
                true, images, classes, weights, threshold
            )
            recipes.setdefault(model, {})[number_], sizes[model] = _recipe(run), len(classes)
            told(f"{run.name} on {name}")
    if not scored:
        raise InputError(
            f"{folder}: expected runs with what was found on {', '.join(t.name for t in truths)}, found none"
        )
    means = {model: {name: _mean(runs, name) for name in sets} for model, runs in scored.items()}
    return {
        "schema": SCHEMA,
        "palyno": __version__,
        "when": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "conf": conf if choose is None else None,
        "chosen_on": choose,
        "draws": number,
        "sets": {truth.name: sets[truth.name] for truth in truths},
        "models": {
            model: {
                "runs": {
                    s: {
                        "recipe": recipes[model][s],
                        **({"conf": chosen[f"{model}-s{s}"]} if choose else {}),
                        **{n: _told(v) for n, v in runs[s].items()},
                    }
                    for s in sorted(runs)
                },
                "mean": {n: _told(v) | {"sd": _spread(runs, n)} for n, v in means[model].items() if v},
                "classes": sizes[model],
                **_size(model, sizes[model], *_of_the_network(next(iter(recipes[model].values())))),
            }
            for model, runs in sorted(scored.items())
        },
        "differences": {
            model: {
                name: _told({key: means[ours][name][key] - values[key] for key in values}, signed=True)
                for name, values in means[model].items()
                if values and means.get(ours, {}).get(name)
            }
            for model in sorted(scored)
            if model != ours and ours in scored
        },
    }


def _found(file: Path, truth: Mapping[str, LabelledImage]) -> tuple[list[SlideResult], tuple[str, ...]]:
    """What a run found on the images of the true boxes, in their order, and the classes."""
    from ...vision.predictions import read_predictions

    results, classes = read_predictions(file)
    found = {Path(result.slide).name: result for result in results}
    if missing := sorted(set(found) ^ set(truth)):
        raise InputError(f"{file}: expected the images of the true boxes, no more and no fewer; {missing[0]} differs")
    return [found[name] for name in truth], classes


def _check_alike(*files: tuple[Path, SlideResult, tuple[str, ...]]) -> None:
    """Refuses two files that were read in different ways, or by detectors of different classes."""
    (a, _, these), (b, _, those) = files
    if alone := sorted(set(these) ^ set(those)):
        raise InputError(
            f"expected detectors of the same classes; {a} has {len(these)}, {b} has {len(those)}, only one {alone[0]}"
        )
    one, other = (_reading(result) for _, result, _ in files)
    if differ := [key for key in one if one[key] != other[key]]:
        told = [
            f"{path} has " + ", ".join(f"{key} {reading[key]}" for key in differ)
            for (path, _, _), reading in zip(files, (one, other), strict=True)
        ]
        raise InputError(f"expected what was read in one way; {', '.join(told)}: read one of them again, as the other")


def _reading(result: SlideResult) -> dict[str, Any]:
    arguments = result.provenance.arguments
    tile, shown = (arguments.get(key) for key in ("tile_px", "imgsz"))
    # `imgsz` is kept as what became of it, which follows the tile; what was asked is how much a tile is scaled.
    scale = round(shown / tile, 2) if tile and shown else None
    return {"conf": result.conf, "scale": scale, **{key: arguments.get(key) for key in ASKED}}


def _scores(
    true: Sequence[LabelledImage],
    seen: Sequence[SlideResult],
    classes: Sequence[str],
    weights: np.ndarray,
    conf: float,
) -> dict[str, np.ndarray]:
    """Figures for every draw; the first is every image once."""
    from ...vision.intervals import counted, mean_precision, ranked
    from ...vision.validate import by_best_class, by_several_classes, without_names

    def means(found: Sequence[LabelledImage]) -> dict[str, np.ndarray]:
        present = [one for one in ranked(true, found, classes) if one.true.any()]
        return mean_precision([one.precision(weights) for one in present], len(weights))

    several = means([by_several_classes(r, classes) for r in seen])
    grains, any_ = (without_names(images) for images in (true, [r.to_annotations() for r in seen]))
    counts = counted(true, [r.above(conf).to_annotations() for r in seen]).figures(weights)
    return {
        **means([by_best_class(r, classes) for r in seen]),
        **{f"{name}_multi_label": values for name, values in several.items()},
        "AP50_any": ranked(grains, any_, ["grain"])[0].precision(weights)[:, 0],
        **counts,
    }


def _mean(runs: Mapping[str, Mapping[str, Any]], name: str) -> dict[str, np.ndarray]:
    own = [sets[name] for sets in runs.values() if name in sets]
    return {key: np.mean([scores[key] for scores in own], axis=0) for key in FIGURES} if own else {}


def _spread(runs: Mapping[str, Mapping[str, Any]], name: str) -> dict[str, float] | None:
    """Standard deviation between seeds; None for one seed."""
    own = [sets[name] for sets in runs.values() if name in sets]
    if len(own) < 2:
        return None
    return {key: round(float(np.std([scores[key][0] for scores in own], ddof=1)), 5) for key in FIGURES}


def _told(scores: Mapping[str, np.ndarray], *, signed: bool = False) -> dict[str, Any]:
    from ...vision.intervals import interval

    told = {}
    for key, values in scores.items():
        bounds = (-np.inf, np.inf) if signed else (0.0, np.inf if key == "count_error" else 1.0)
        reflected = key != "count_error"
        ends = interval(values[0], values[1:], bounds=bounds, reflected=reflected) if len(values) > 1 else ()
        told[key] = [round(float(v), 5) for v in (values[0], *ends)]
    return told


@cache
def _size(model: str, classes: int, *asked: tuple[str, Any]) -> dict[str, Any]:
    """Parameters and work for so many classes; nothing of what has no name in the zoo, or cannot be built here."""
    from ...vision.models.zoo import measure, read_zoo

    if model not in VARIANTS and model not in read_zoo():
        return {}
    name, options = network_of(model)
    try:
        measured = measure(name, classes=classes, **options | dict(asked))
    except PalynoError:
        return {}
    return {key: measured[key] for key in ("parameters", "gflops")}


def _of_the_network(recipe: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """What a recipe says of the network beside its name: options that were given to all, or that a name stood for."""
    asked = {key: recipe.get(key) for key in ("edge", "gate", "backbone", "head")}
    yield from ((key, value) for key, value in (asked | dict(recipe.get("options") or {})).items() if value is not None)


def _recipe(run: Path) -> dict[str, Any]:
    """What of the recipe decides the weights."""
    file = run / "recipe.json"
    recipe = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    left_out: Sequence[str] = ("data", "out", "device", "workers", "cache", "name")
    # Tables and weights by their names: where the files lie says nothing of them.
    files: Sequence[str] = ("model", "weights", "backbone_weights", "teacher")
    return {
        key: Path(value).name.removesuffix(".yaml") if key in files and isinstance(value, str) else value
        for key, value in recipe.items()
        if key not in left_out
    }
