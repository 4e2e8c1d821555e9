"""Models that `build` takes and our backbones, with size and work: measured into `zoo.json`, read without building any.

    python -m palyno.vision.models.zoo          # measures all again and writes zoo.json

Parameters are those that are trained. Multiplications and additions are PyTorch's own count
(`torch.utils.flop_counter`: convolutions, products of matrices and attention; Fourier transforms and elementwise steps
are counted by no one) of the network as it is used: fused, one RGB image of 640 px, with plain operators. Both for 80
classes, as detectors are compared, and of the weights that ship for their own; a backbone has none, and is measured
without the classifier that timm puts on it.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from .tables import PEERS, configure, model_names

__all__ = [
    "CLASSES",
    "SIDE",
    "ZOO",
    "measure",
    "measure_backbone",
    "measure_weights",
    "read_backbones",
    "read_weights",
    "read_zoo",
]

ZOO = Path(__file__).with_name("zoo.json")
CLASSES, SIDE = 80, 640

# Plain operators: our own are not known to the counter.
_PLAIN = {"PALYNO_DEPTHWISE": "reference", "PALYNO_OMNI": "reference", "PALYNO_SOBEL": "reference"}


def read_zoo() -> dict[str, dict[str, Any]]:
    """What `measure` said of each model when `zoo.json` was written, by name.

    Entries: `family` (`palyno`, or `ultralytics` for its own tables), `parameters`, `gflops`, `bytes` of the weights in
    half precision, `head`, and `options` with the values that the name stands for. Numbers are None where a model is
    one only once its backbone is named.
    """
    return _read("models")


def read_backbones() -> dict[str, dict[str, Any]]:
    """What `measure_backbone` said of each backbone of ours, by the name that `--backbone` and timm know it by.

    Entries: `strides` of its maps, `channels` of each, and `parameters`, `gflops` and `bytes` as in `read_zoo`.
    """
    return _read("backbones")


def read_weights() -> dict[str, dict[str, Any]]:
    """What `measure_weights` said of the detectors that ship, by the hash of their weights: as in `read_zoo`."""
    return _read("weights")


def _read(part: str) -> dict[str, dict[str, Any]]:
    entries: dict[str, dict[str, Any]] = json.loads(ZOO.read_text(encoding="utf-8"))[part]
    return entries


def measure(name: str, *, classes: int = CLASSES, **options: Any) -> dict[str, Any]:
    """Builds a model, or the one of a YAML file, for so many classes, with options of its table, and counts."""
    from .detection import build

    config = configure(name, classes=classes, **options)
    about = {
        "family": "ultralytics" if name in PEERS else "palyno",
        "head": "rtdetr" if name.startswith("rtdetr") else config.get("head", "detect"),
        "options": config["options"],
    }
    if None in config["options"].values():
        return {**about, "parameters": None, "gflops": None, "bytes": None}
    return {**about, **_counted(build(config))}


def measure_backbone(name: str) -> dict[str, Any]:
    """Builds a backbone and counts."""
    from ..blocks.biformer import STRIDES, VARIANTS, BiFormerPyramid

    net = BiFormerPyramid(**VARIANTS[name])
    return {"strides": list(STRIDES), "channels": list(net.dims), **_counted(net)}


def measure_weights(name: str) -> dict[str, Any]:
    """Loads weights that ship and counts, for the classes that they name."""
    from ..weights import find_model, load_weights

    path, shipped = find_model(name)
    return _counted(load_weights(path, shipped=shipped)[0])


def _counted(model: Any) -> dict[str, Any]:
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    parameters = sum(p.numel() for p in model.parameters())
    size = sum(t.numel() * (2 if t.is_floating_point() else t.element_size()) for t in model.state_dict().values())
    network = model.eval()
    # Normalisation that is not folded is elementwise, and not counted.
    network = network.fuse() if hasattr(network, "fuse") else network
    with _plain_operators(), torch.no_grad(), FlopCounterMode(display=False) as counter:
        network(torch.zeros(1, 3, SIDE, SIDE))
    return {"parameters": parameters, "gflops": round(counter.get_total_flops() / 1e9, 2), "bytes": size}


def _plain_operators() -> Any:
    import os
    from unittest.mock import patch

    return patch.dict(os.environ, _PLAIN)


def _main() -> None:
    import sys

    from ...data.atomic import write_text
    from ..blocks.biformer import VARIANTS
    from ..weights import shipped_models

    document: dict[str, Any] = {"classes": CLASSES, "side": SIDE, "counter": "torch.utils.flop_counter"}
    for part, names, count in (("models", model_names(), measure), ("backbones", VARIANTS, measure_backbone)):
        document[part] = {}
        for name in names:
            entry = document[part][name] = count(name)
            print(name, entry["parameters"], entry["gflops"], file=sys.stderr)
    detectors = {name: entry for name, entry in shipped_models().items() if entry.kind == "detector"}
    document["weights"] = {entry.sha256: measure_weights(name) for name, entry in detectors.items()}
    write_text(ZOO, json.dumps(document, indent=1) + "\n")


if __name__ == "__main__":
    _main()
