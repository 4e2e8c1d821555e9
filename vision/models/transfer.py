"""Starting from a trained detector: what it has learned goes over, class by class where the classes are others."""

from __future__ import annotations

from typing import Any

import torch

__all__ = ["transfer"]


@torch.no_grad()
def transfer(model: Any, taught: Any) -> tuple[str, ...]:
    """Copies a trained network's weights into one of the same layers that may have other classes.

    The last layers of the head have a row a class: it goes to the class of the same name, and a class that the trained
    network does not know keeps its fresh row. Hidden layers of the head that are as wide as there are classes keep what
    both have. With the same classes, in any order, both networks give the same.

    Args:
        model: The network to fill, with `names`.
        taught: The trained network, not fused, with `names`.

    Returns:
        The classes that the trained network knows, in the order of `model.names`.
    """
    rows = {str(name): i for i, name in taught.names.items()}
    known = [(i, rows[str(name)]) for i, name in sorted(model.names.items()) if str(name) in rows]
    ours, theirs = model.state_dict(), taught.state_dict()
    of_classes = _of_classes(model)
    for key, tensor in ours.items():
        other = theirs.get(key)
        if other is None or other.ndim != tensor.ndim:
            continue
        if key in of_classes:
            both = tuple(slice(min(a, b)) for a, b in zip(tensor.shape[1:], other.shape[1:], strict=True))
            for to, came in known:
                tensor[to][both] = other[came][both].to(tensor)
        else:
            both = tuple(slice(min(a, b)) for a, b in zip(tensor.shape, other.shape, strict=True))
            tensor[both] = other[both].to(tensor)
    return tuple(str(model.names[to]) for to, _ in known)


def _of_classes(model: Any) -> set[str]:
    """Names of the tensors that have a row a class."""
    head = model.model[-1]
    if hasattr(head, "dec_score_head"):
        layers = [*head.dec_score_head, head.enc_score_head, head.denoising_class_embed]
    else:
        layers = [branch[-1] for name in ("cv3", "one2one_cv3") for branch in getattr(head, name, None) or ()]
    inside = {id(parameter) for layer in layers for parameter in layer.parameters()}
    return {name for name, parameter in model.named_parameters() if id(parameter) in inside}
