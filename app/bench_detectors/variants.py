"""Names of what is compared beside the models of `palyno models list`: a model with one part changed or taken out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

__all__ = ["VARIANTS", "chosen", "network_of"]

PARTS = Path(__file__).parent / "parts"

# Options of `palyno train` that a name stands for.
VARIANTS: dict[str, tuple[str, ...]] = {
    "hieraedge-n-plain-loss": ("--model", "hieraedge-n", "--naming-loss", "0"),
    "hieraedge-n-quarter-loss": ("--model", "hieraedge-n", "--naming-loss", "0.25"),
    # What it has anyway but on sets of few classes.
    "hieraedge-n-whole-loss": ("--model", "hieraedge-n", "--naming-loss", "1"),
    "published-without-gate": ("--model", "hieraedge-published-n", "--gate", "none"),
    "biformer-nano-yolo-named": ("--model", "biformer-nano-yolo", "--naming-loss", "1"),
    "yolo11n-named": ("--model", "yolo11n", "--naming-loss", "1"),
    **{f"edges-{edge}": ("--model", "hieraedge-n", "--edge", edge) for edge in ("none", "scharr", "log", "learned")},
    **{f"gate-{gate}": ("--model", "hieraedge-n", "--gate", gate) for gate in ("published", "channel")},
    **{f"kernel-{side}": ("--model", "hieraedge-n", "--option", f"kernel={side}") for side in (7, 13, 21)},
    # On other training scenes, see docs/recipes/compare_detectors.sh.
    "hard-cases": ("--model", "hieraedge-n"),
    "more-scenes": ("--model", "hieraedge-n"),
    "nwd-half": ("--model", "hieraedge-n", "--nwd", "0.5"),
    # Beside the scenes' boxes those of the weights that ship for `hieraedge-s`.
    "teacher-s": ("--model", "hieraedge-n", "--teacher", "hieraedge-s"),
    "light-2": ("--model", "hieraedge-n", "--light", "2"),
    "turned-45": ("--model", "hieraedge-n", "--degrees", "45"),
    "multi-scale": ("--model", "hieraedge-n", "--multi-scale", "0.25"),
    **{table.stem: ("--model", str(table)) for table in sorted(PARTS.glob("*.yaml"))},
}


def chosen(name: str) -> tuple[str, ...]:
    """Options of `palyno train` for a name of `VARIANTS` or a model of `palyno models list`."""
    return VARIANTS.get(name, ("--model", name))


def network_of(name: str) -> tuple[str, dict[str, Any]]:
    """Of what `chosen` gives what decides the network: its model, and options for `build`."""
    words = chosen(name)
    model, options = "", dict[str, Any]()
    for key, value in zip(words[::2], words[1::2], strict=True):
        if key == "--model":
            model = value
        elif key == "--option":
            option, _, value = value.partition("=")
            options[option] = value
        elif key in ("--edge", "--gate"):
            options[key.removeprefix("--")] = value
    return model, options
