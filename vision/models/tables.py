"""Which models there are, and their configurations: plain dictionaries that hold all a network is built from."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

import yaml

from ...errors import UnknownModelError, UsageError

__all__ = ["HEADS", "PEERS", "configure", "layout_of", "model_names"]

# What can follow a body, see `palyno.vision.models.heads`.
HEADS = ("detect", "one2one", "rtdetr")

# Tables of ultralytics' own, by name of the model: file, scale. See `palyno.vision.models.peers`.
PEERS = {
    **{f"yolov8{scale}": ("v8/yolov8.yaml", scale) for scale in "nsmlx"},
    **{f"yolo11{scale}": ("11/yolo11.yaml", scale) for scale in "nsmlx"},
    **{f"yolo12{scale}": ("12/yolo12.yaml", scale) for scale in "nsmlx"},
    **{f"yolo26{scale}": ("26/yolo26.yaml", scale) for scale in "nsmlx"},
    **{f"rtdetr-{scale}": (f"rt-detr/rtdetr-{scale}.yaml", scale) for scale in "lx"},
}

_FOLDER = Path(__file__).parent
_KEYS = {"name", "options", "nc", "names", "channels", "naming_loss", "nwd"}
_LOSSES = ("naming_loss", "nwd")
_OWN_KEYS = {"scale", "scales", "layers", "outputs"}


def _whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def _scale(value: Any) -> bool:
    numbers = value[:3] if isinstance(value, list | tuple) else ()
    return len(numbers) == 3 and all(isinstance(n, int | float) and 0 < n < math.inf for n in numbers)


def _texts(value: Any) -> bool:
    return isinstance(value, list | tuple) and all(isinstance(text, str) for text in value)


# What a file's author may have written otherwise, by key. Scales are as `rows.Scale`.
_FORMS: dict[str, tuple[Callable[[Any], bool], str]] = {
    "nc": (_whole, "a whole number from 1"),
    "channels": (_whole, "a whole number from 1"),
    "reg_max": (_whole, "a whole number from 1"),
    "names": (_texts, "a list of names, one a class in order"),
    "options": (lambda value: isinstance(value, Mapping), "values by name"),
    "scale": (lambda value: isinstance(value, str), "the name of one of scales"),
    "scales": (
        lambda value: isinstance(value, Mapping) and all(map(_scale, value.values())),
        "[depth, width, largest number of channels], each above 0, by name",
    ),
    "layers": (lambda value: isinstance(value, list | tuple), "a list of rows [name, sources, block, {arguments}]"),
    "outputs": (lambda value: _texts(value) and len(value) == 3, "the names of three rows, of strides 8, 16 and 32"),
}


def model_names() -> list[str]:
    """The names that `build` takes, such as `hieraedge-n`, or `yolo12n` for a table of ultralytics' own."""
    return sorted({*_models(), *PEERS})


def configure(
    name_or_config: str | Path | Mapping[str, Any],
    *,
    classes: int | Sequence[str] | None = None,
    channels: int | None = None,
    **options: str | float | None,
) -> dict[str, Any]:
    """The full configuration of a network.

    Args:
        name_or_config: A name from `model_names()`, a YAML file or an earlier configuration.
        classes: Number of classes, or their names in order; None, or the number that the configuration has, keeps
            its names.
        channels: Channels of the image; None keeps what the configuration says, else 3.
        **options: Values for the table's options, or for `head`, `naming_loss` and `nwd`; None keeps the table's.

    Returns:
        A new dictionary of plain values, which `configure` takes again and JSON can hold. A table of ours is in it
        whole; of ultralytics' tables the name, as `ultralytics`, because their rows can hold code.

    Raises:
        UnknownModelError: No such name.
        UsageError: An unknown key, option or scale, or no classes.
    """
    config = deepcopy(dict(name_or_config)) if isinstance(name_or_config, Mapping) else _find(str(name_or_config))
    peer = "ultralytics" in config
    known = _KEYS | ({"ultralytics"} if peer else _OWN_KEYS | {"reg_max", "head", "pretrained"})
    if unknown := sorted(set(config) - known):
        raise UsageError(f"configuration: unknown {', '.join(unknown)}; expected some of {', '.join(sorted(known))}")
    if peer and config["ultralytics"] not in PEERS:
        raise UsageError(f"ultralytics: expected one of {', '.join(sorted(PEERS))}; got {config['ultralytics']!r}")
    if not peer and (missing := sorted(_OWN_KEYS - set(config))):
        raise UsageError(f"configuration: {', '.join(missing)} missing")
    config.setdefault("options", {})
    for key, (valid, expected) in _FORMS.items():
        if key in config and not valid(config[key]):
            raise UsageError(f"{key}: expected {expected}; got {config[key]!r}")
    if not peer and config["scale"] not in config["scales"]:
        raise UsageError(f"scale: expected one of {', '.join(config['scales'])}; got {config['scale']!r}")
    for option, value in options.items():
        if value is None:
            continue
        if option in _LOSSES or (option == "head" and not peer):
            config[option] = value
            continue
        if option not in config["options"]:
            there = f"expected one of {', '.join(config['options'])}" if config["options"] else "this model has none"
            raise UsageError(f"unknown option {option!r}; {there}")
        config["options"][option] = value
    if classes is not None and classes != config.get("nc"):
        names = [str(i) for i in range(classes)] if isinstance(classes, int) else [str(name) for name in classes]
        config |= {"nc": len(names), "names": names}
    if not config.get("nc"):
        raise UsageError("classes: expected their number or their names, got none")
    if len(config.setdefault("names", [str(i) for i in range(config["nc"])])) != config["nc"]:
        raise UsageError(f"names: expected {config['nc']}, one a class, got {len(config['names'])}")
    config["channels"] = channels or config.get("channels", 3)
    if not isinstance(config.setdefault("naming_loss", 0.0), int | float) or not 0 <= config["naming_loss"] < math.inf:
        raise UsageError(f"naming_loss: expected a weight of 0 or more, got {config['naming_loss']!r}")
    # None of it is not named: the configuration of ultralytics' own loss is the same with and without the key.
    if not isinstance(config.setdefault("nwd", 0.0), int | float) or not 0 <= config["nwd"] <= 1:
        raise UsageError(f"nwd: expected a share of 0 to 1, got {config['nwd']!r}")
    if not config["nwd"]:
        del config["nwd"]
    if not peer:
        config.setdefault("reg_max", 16)
        if config.setdefault("head", HEADS[0]) not in HEADS:
            raise UsageError(f"head: expected one of {', '.join(HEADS)}; got {config['head']!r}")
    if config.get("head") == "rtdetr" or config.get("ultralytics", "").startswith("rtdetr"):
        for loss in _LOSSES:
            if options.get(loss):
                raise UsageError(f"{loss}: RT-DETR has a loss of its own; leave it out, or choose another head")
        config["naming_loss"] = 0.0
        config.pop("nwd", None)
    return config


def layout_of(config: Mapping[str, Any]) -> str | None:
    """The name whose table and scale a configuration has, and of several the one that tells most of its options.

    None for a table of its own. Weights keep their whole table, and a name can come to stand for another.
    """
    if "ultralytics" in config:
        return str(config["ultralytics"])
    said = {"head": config.get("head", "detect"), **config.get("options", {})}
    matches = []
    for name, (table, chosen) in _models().items():
        own = {**table, "scale": chosen["scale"]}
        if any(own[key] != config.get(key) for key in ("layers", "outputs", "scale")):
            continue
        told = {key: value for key, value in chosen.items() if key != "scale"}
        if all(said.get(key) == value for key, value in told.items()):
            matches.append((-len(told), name))
    return min(matches)[1] if matches else None


def _find(name: str) -> dict[str, Any]:
    path = Path(name)
    if path.suffix in (".yaml", ".yml") and path.is_file():
        return _load(path)
    stem = path.stem if path.suffix in (".yaml", ".yml") else name
    if stem in PEERS:
        return {"name": stem, "ultralytics": stem}
    models = _models()
    if stem not in models:
        raise UnknownModelError(f"no model {name!r}; expected a YAML file or one of {', '.join(model_names())}")
    table, chosen = models[stem]
    config = {"name": stem, "scale": chosen.pop("scale"), **table}
    if "head" in chosen:
        config["head"] = chosen.pop("head")
    return config | {"options": config.get("options", {}) | chosen}


def _models() -> dict[str, tuple[dict[str, Any], dict[str, str]]]:
    """Tables by the names of their models, each with what the name stands for: the scale, and values of options."""
    models: dict[str, tuple[dict[str, Any], dict[str, str]]] = {}
    for path in _FOLDER.glob("*.yaml"):
        table = _load(path)
        models |= {f"{path.stem}-{scale}": (table, {"scale": scale}) for scale in table["scales"]}
        models |= {name: (table, chosen) for name, chosen in table.pop("models", {}).items()}
    return models


def _load(path: Path) -> dict[str, Any]:
    try:
        table = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UsageError(f"{path}: expected a layer table in YAML, got {' '.join(str(error).split())}") from error
    if not isinstance(table, dict):
        raise UsageError(f"{path}: expected a layer table, a mapping with layers and outputs; got {str(table)[:40]!r}")
    return table
