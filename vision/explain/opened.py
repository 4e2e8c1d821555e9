"""A detection network opened up: the logit of one class at one place, and the maps of the layers on the way to it."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ...errors import UsageError

if TYPE_CHECKING:
    import torch

__all__ = ["ROLES", "Look", "Opened"]

ROLES = {
    "neck": "the map that the head reads",
    "backbone": "the backbone's map at the same stride",
    "fine": "the backbone's map at stride 8, the finest that the neck is given",
}


@dataclass(frozen=True)
class Look:
    """One image through the network.

    Attributes:
        logits: (B, classes, A), before the sigmoid.
        maps: (B, C, H, W) of the layers that were asked for.
        shapes: Rows and columns of the head's levels, finest first; the A places are theirs, one level after another.
    """

    logits: torch.Tensor
    maps: Mapping[str, torch.Tensor]
    shapes: tuple[tuple[int, int], ...]


class Opened:
    """A private copy of a detector's network, with nothing left to learn, whose layers can be looked at.

    Layers have the names of their rows in our tables, or their numbers in ultralytics' own. Whatever the network,
    `neck`, `backbone` and `fine` stand for layers of one role, see `ROLES`.

    Args:
        model: A network of `build`, ours or a YOLO of ultralytics'.

    Raises:
        UsageError: A network of another runtime, or one without a grid of places to explain.
    """

    def __init__(self, model: Any):
        import torch
        from ultralytics.nn.modules import Detect

        from ..models.graph import Body
        from ..models.heads import OneToOne

        if not isinstance(model, torch.nn.Module):
            raise UsageError("explanations need the network's gradients: load the weights, not an exported file")
        layers = getattr(model, "model", None)
        if layers is None or not isinstance(layers[-1], Detect):
            what = getattr(model, "yaml", {}).get("name") or type(model).__name__
            raise UsageError(
                f"explanations are of the place that a box comes from, and the head of {what} has no grid of places; "
                "explain a model with the head detect or one2one"
            )
        own: Any = copy.deepcopy(model)
        self.model = own.requires_grad_(False).eval()
        self.head = self.model.model[-1]
        # Of a head with two copies, the one that answers.
        self._answers = self.head.one2one if isinstance(self.head, OneToOne) else self.head.one2many
        self.strides = tuple(int(s) for s in self.head.stride.tolist())
        self.body = self.model.model[0] if isinstance(self.model.model[0], Body) else None
        self._roles = _roles_of_rows(self.body) if self.body is not None else _roles_of_numbers(self.model)

    @property
    def device(self) -> torch.device:
        """Where it runs."""
        return next(self.model.parameters()).device

    @property
    def layers(self) -> tuple[str, ...]:
        """Every name that `look` takes."""
        if self.body is not None:
            return tuple(part for parts in self.body.parts.values() for part in parts)
        return tuple(str(i) for i in range(len(self.model.model) - 1))

    def layer(self, name: str, level: int) -> str:
        """The layer that a name or a role means for a place on a level of the head.

        Raises:
            UsageError: There is no such layer.
        """
        if name in ROLES:
            return self._roles["backbone" if name == "fine" else name][0 if name == "fine" else level]
        if name not in self.layers:
            raise UsageError(
                f"layer: expected one of {', '.join(ROLES)}, or of this network's {', '.join(self.layers)}; "
                f"got {name!r}"
            )
        return name

    def look(self, images: torch.Tensor, layers: Iterable[str] = ()) -> Look:
        """Logits, and the maps of some layers, in one graph where gradients are on.

        Args:
            images: (B, 3, H, W) in [0, 1] with sides that are multiples of 32.
            layers: Names of layers.
        """
        names = list(dict.fromkeys(layers))
        if self.body is not None:
            maps = self.body.maps(images, [*names, *self.body.outputs])
            heads = [maps[name] for name in self.body.outputs]
        else:
            made: list[Any] = []
            x: Any = images
            for module in self.model.model[:-1]:
                if module.f != -1:
                    sources = [module.f] if isinstance(module.f, int) else module.f
                    given = [x if i == -1 else made[i] for i in sources]
                    x = given[0] if isinstance(module.f, int) else given
                x = module(x)
                made.append(x)
            maps = {name: made[int(name)] for name in names}
            heads = [made[i] for i in self.head.f]
        logits = self.head.forward_head(heads, **self._answers)["scores"]
        return Look(logits, {name: maps[name] for name in names}, tuple((x.shape[2], x.shape[3]) for x in heads))

    def boxes(self, image: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """What the network finds on one image, before anything is left out.

        Args:
            image: (1, 3, H, W).

        Returns:
            `xyxy` in pixels of the image, (A, 4), and probabilities, (A, classes).
        """
        import torch

        with torch.no_grad():
            rows = self.model(image)[0][0].float().T
        return torch.cat((rows[:, :2] - rows[:, 2:4] / 2, rows[:, :2] + rows[:, 2:4] / 2), 1), rows[:, 4:]

    def edges(self, image: torch.Tensor) -> dict[int, torch.Tensor]:
        """What the edge path answers to one image: over all channels, the root mean square of their magnitudes.

        Args:
            image: (1, 3, H, W).

        Returns:
            (H / stride, W / stride) by stride: that of the map whose edges are taken, then the three that the edge
            path hands on. Nothing where a network has no edge path.
        """
        import torch

        from ..blocks import HEM

        found: dict[int, torch.Tensor] = {}
        if self.body is None:
            return found
        for name, block in self.body.blocks.items():
            if not isinstance(block, HEM) or block.edge == "none":
                continue
            (source,) = self.body.sources[name]
            with torch.no_grad():
                x = self.body.maps(image, [source])[source]
                levels = (block.sobel(x), *block.sobel.pyramid(x))
            for level in levels:
                found[image.shape[2] // level.shape[2]] = level[0].float().square().mean(0).sqrt()
        return found


def _roles_of_rows(body: Any) -> dict[str, tuple[str, ...]]:
    names = {part for parts in body.parts.values() for part in parts}
    levels = [str(n) for n in (3, 4, 5)]
    backbone = tuple(next((name for name in (f"p{n}", f"backbone.p{n}") if name in names), "") for n in levels)
    return {"neck": tuple(body.outputs), "backbone": backbone}


def _roles_of_numbers(model: Any) -> dict[str, tuple[str, ...]]:
    """The neck is what the head reads; the backbone's maps are those that rows of the head part read, and its last."""
    from ..models.peers import backbone_rows

    last = backbone_rows(model.yaml) - 1
    read = {last}
    for module in model.model[last + 1 :]:
        sources = [module.f] if isinstance(module.f, int) else module.f
        read |= {i for i in sources if 0 <= i <= last}
    return {"neck": tuple(str(i) for i in model.model[-1].f), "backbone": tuple(str(i) for i in sorted(read))}
