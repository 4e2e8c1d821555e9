"""How good vectors of grains are: of how many grains is the nearest other one of the same taxon?"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch

from .augment import Augmentation, augment
from .grains import CLEAR
from .network import GrainNet
from .pixels import grey_density, standardise, turn

__all__ = ["embed", "embed_views", "hits_at"]


@torch.inference_mode()
def embed(
    network: GrainNet, pixels: torch.Tensor, side: int, *, turns: int = 8, mirror: bool = True, batch: int = 256
) -> torch.Tensor:
    """Vectors of cut grains, each the mean over its turned and mirrored pictures, as pollen has no up.

    Args:
        network: In evaluation mode.
        pixels: uint8, (N, S, S, 3), see `GrainSet`, on the network's device.
        side: Of the network's input.
        turns: Turns by equal angles; at least 1.
        mirror: Use the mirrored pictures too.
        batch: Grains at once.

    Returns:
        float32, (N, dim), unit length, on the device.
    """
    found = [pixels.new_empty((0, network.dim), dtype=torch.float32)]
    for part in pixels.split(batch):
        grey = grey_density(part.permute(0, 3, 1, 2).float() / CLEAR)
        total: torch.Tensor | float = 0.0
        for mirrored in (False, True)[: 1 + mirror]:
            for i in range(turns):
                seen = standardise(turn(grey, side, 2 * math.pi * i / turns, mirrored))
                total = total + network(seen)
        found.append(torch.nn.functional.normalize(torch.as_tensor(total), dim=1))
    return torch.cat(found)


@torch.inference_mode()
def embed_views(network: GrainNet, pixels: torch.Tensor, side: int, count: int, *, batch: int = 128) -> torch.Tensor:
    """Vectors of changed pictures of cut grains, as in training: float32, (count, N, dim), on the device.

    Args:
        network: In evaluation mode.
        pixels: See `embed`.
        side: Of the network's input.
        count: Pictures of each grain.
        batch: Grains at once.
    """
    views = []
    for view in range(count):
        rng = torch.Generator(pixels.device).manual_seed(view)
        views.append(torch.cat([network(augment(part, side, Augmentation(), rng)) for part in pixels.split(batch)]))
    return torch.stack(views)


def hits_at(
    queries: np.ndarray, gallery: np.ndarray, query_taxa: Sequence[str], gallery_taxa: Sequence[str], k: int = 1
) -> np.ndarray:
    """For each query, whether one of its k nearest in the gallery is of its taxon; the mean is Recall@k.

    Args:
        queries: Unit vectors, (Q, dim).
        gallery: Unit vectors, (G, dim); not holding the queries themselves.
        query_taxa: Of each query.
        gallery_taxa: Of each grain of the gallery.
        k: Neighbours.

    Returns:
        Boolean, (Q,). Ties go to the earlier grain.
    """
    order = np.argsort(-(queries @ gallery.T), axis=1, kind="stable")[:, :k]
    return (np.asarray(gallery_taxa)[order] == np.asarray(query_taxa)[:, None]).any(1)
