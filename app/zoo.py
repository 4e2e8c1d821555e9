"""The models and backbones there are, with sizes, work, weights and figures: what `palyno models list` shows.

Nothing is built and no torch imported: sizes are in `vision/models/zoo.json`, the rest in the weights' headers.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ..errors import RejectedModelError

# By their names in ultralytics' validator.
_VALIDATION = {"mAP50": "metrics/mAP50(B)", "mAP50-95": "metrics/mAP50-95(B)"}

__all__ = ["FIGURES", "list_backbones", "list_zoo"]

# Of a repository, not of an installed package.
FIGURES = Path(__file__).parents[1] / "docs" / "results" / "detectors.json"

# Of the code: what is trained with it takes the licence of its data, too.
LICENCE = "AGPL-3.0-or-later"
# What ultralytics gives its own networks.
LICENCES = {"ultralytics": "AGPL-3.0"}


def list_zoo() -> list[dict[str, Any]]:
    """A row a model, those that ship first.

    Each has `name`, `kind` (`detector` or `encoder`), `family` (`palyno` or `ultralytics`), `parameters`, `gflops`
    (640 px), both for `counted_for` classes (those of the weights where they ship, else 80) and None where a backbone
    is still to choose; `head`, `options`, `ships`, `bytes` of the weights in half precision (those that ship, else
    those that training would write), `licence`; where weights ship also `file`, `sha256`, `source`, `classes`, `imgsz`,
    and `layout`, the model whose table they have. Figures are of two kinds, each None where there are none:
    `validation`, of the weights that ship, by ultralytics' validator on the images that chose them in training; and
    `short_training`, what the layout reached on composed test scenes when models were compared (docs/detectors.md).
    """
    from ..vision.models.zoo import CLASSES, read_zoo
    from ..vision.weights import shipped_models

    zoo, shipped, measured = read_zoo(), shipped_models(), _measured()
    ships = sorted(shipped, key=lambda n: (shipped[n].kind != "detector", n))
    names = [*ships, *sorted(set(zoo) - set(shipped), key=lambda n: (zoo[n]["family"] != "palyno", n))]
    rows = []
    for name in names:
        row: dict[str, Any] = {"name": name, "kind": "detector", "ships": False, "validation": None}
        row |= {"short_training": measured.get(name), "counted_for": CLASSES}
        row |= zoo.get(
            name, {"family": "palyno", "parameters": None, "gflops": None, "bytes": None, "head": None, "options": {}}
        )
        row["licence"] = LICENCES.get(row["family"], LICENCE)
        if name in shipped:
            row |= {"ships": True, **shipped[name]._asdict()}
            if row["kind"] == "detector":
                row |= _said(shipped[name].file, zoo)
        rows.append(row)
    return rows


def list_backbones() -> list[dict[str, Any]]:
    """A row a backbone of ours, the smallest first; none has weights that ship.

    Each has `name`, by which `--backbone` and timm know it, `kind` (`backbone`), `family`, `parameters`, `gflops` and
    `bytes` as `list_zoo` has them, without a classifier; `strides` of its maps and `channels` of each, `models` whose
    backbone is to choose, `ships` and `licence`.
    """
    from ..vision.models.zoo import read_backbones, read_zoo

    models = [name for name, entry in read_zoo().items() if entry["options"].get("backbone", "") is None]
    about = {"kind": "backbone", "family": "palyno", "ships": False, "licence": LICENCE, "models": models}
    return sorted(
        ({"name": n, **about, **entry} for n, entry in read_backbones().items()), key=lambda r: r["parameters"]
    )


def _said(file: str, zoo: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """What the header of weights that ship says; of a file that is not right, only that."""
    from ..vision import weights
    from ..vision.models.tables import layout_of
    from ..vision.models.zoo import read_weights

    try:
        metadata = weights.read_metadata(weights.LOCK.parent / file)
    except RejectedModelError as error:
        return {"classes": [], "problem": str(error)}
    config = metadata.config
    layout = layout_of(config)
    network = {"parameters": None, "gflops": None} | read_weights().get(metadata.sha256, {})
    said = metadata.training.get("validation") or {}
    return {
        "layout": layout,
        "classes": list(metadata.classes),
        "imgsz": metadata.imgsz,
        "head": config.get("head", "detect"),
        "options": dict(config.get("options", {})),
        "counted_for": len(metadata.classes),
        "validation": {name: said[key] for name, key in _VALIDATION.items() if key in said} or None,
        "family": zoo.get(str(layout), {"family": "palyno"})["family"],
        "parameters": network["parameters"],
        "gflops": network["gflops"],
    }


def _measured() -> dict[str, dict[str, Any]]:
    """Of each model that was compared: means over seeds on composed test scenes, and how many seeds."""
    try:
        models = json.loads(FIGURES.read_text(encoding="utf-8"))["models"]
        return {
            str(name): {"seeds": len(entry["runs"])}
            | {key: figure[0] for key, figure in entry["mean"]["composed"].items() if isinstance(figure, list)}
            for name, entry in models.items()
        }
    except (OSError, ValueError, KeyError, TypeError, AttributeError, IndexError):
        return {}
