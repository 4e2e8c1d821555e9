"""From a network's numbers to maps of attribution. Tensors in, tensors out; nothing here knows what a detector is.

- `grad_cam`: Selvaraju et al. 2017 (arXiv 1610.02391), equations 1 and 2.
- `eigen_cam`: Muhammad and Yeasin 2020 (arXiv 2008.00299), equations 2 and 3.
- `integrated_gradients`: Sundararajan et al. 2017 (arXiv 1703.01365), equation 1.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import NamedTuple

import torch

from ...errors import UsageError

__all__ = ["Integral", "eigen_cam", "grad_cam", "integrated_gradients"]


def grad_cam(activations: torch.Tensor, gradients: torch.Tensor) -> torch.Tensor:
    """ReLU(sum_k a_k A^k), where a_k is the mean gradient of the score over the positions of channel k.

    Args:
        activations: A layer's output, (C, H, W).
        gradients: Of one score with respect to it, (C, H, W).

    Returns:
        (H, W), at least 0.
    """
    weights = gradients.mean((1, 2))
    return torch.einsum("c,chw->hw", weights, activations).clamp(min=0)


def eigen_cam(activations: torch.Tensor) -> torch.Tensor:
    """The projection A v_1 of every position on the first right singular vector of A, positions x channels.

    No score takes part: it shows what stands out to the layer, whatever the class. The matrix is not centred, as in
    the paper. A singular vector has no sign of its own; here the map's sum is positive.

    Args:
        activations: A layer's output, (C, H, W).

    Returns:
        (H, W).
    """
    matrix = activations.flatten(1).T.cpu().double()
    # The eigenvector of the small channels x channels matrix is the singular vector.
    _, vectors = torch.linalg.eigh(matrix.T @ matrix)
    projection = matrix @ vectors[:, -1]
    return (projection if projection.sum() >= 0 else -projection).reshape(activations.shape[1:]).to(activations)


class Integral(NamedTuple):
    """What `integrated_gradients` gives.

    Attributes:
        values: Attribution of every input, in units of the score.
        difference: f(x) - f(baseline), which the values sum up to but for the error of the integration.
        steps: Intervals of the path that were needed.
    """

    values: torch.Tensor
    difference: float
    steps: int

    @property
    def error(self) -> float:
        """How far the sum of the values is from the difference, as a share of the difference."""
        return abs(float(self.values.cpu().double().sum()) - self.difference) / max(abs(self.difference), 1e-12)


class _Node(NamedTuple):
    """A place on the path: its share of the way, the score, the slope along the way, and the gradient."""

    share: float
    score: float
    slope: float
    gradient: torch.Tensor


def integrated_gradients(
    score: Callable[[torch.Tensor], torch.Tensor],
    x: torch.Tensor,
    baseline: torch.Tensor,
    *,
    tolerance: float = 0.05,
    steps: int = 8,
    most: int = 128,
    batch: int = 1,
) -> Integral:
    """(x - x') times the mean gradient along the straight path from x' to x, by the trapezoidal rule.

    The paper's axiom of completeness says where the rule is not fine enough: over every interval the gradients must sum
    up to the change of the score. The quarter of the intervals that miss it most are halved until, all in all, the
    values miss f(x) - f(x') by no more than the tolerance. A network decides within a small part of the path; equal
    steps would spend most of their work elsewhere.

    Args:
        score: (B, *shape) to (B,), differentiable.
        x: The input, `shape`.
        baseline: What the path starts from, `shape`.
        tolerance: Largest share of f(x) - f(x') that the sum may be off.
        steps: Equal intervals to begin with.
        most: Intervals to end with, whatever the error. The gradient at each of their ends is kept meanwhile.
        batch: Inputs at once.

    Raises:
        UsageError: Shapes that differ, or numbers of steps that cannot be.
    """
    if x.shape != baseline.shape:
        raise UsageError(f"baseline: expected the shape of the input, {tuple(x.shape)}; got {tuple(baseline.shape)}")
    if not 1 <= steps <= most:
        raise UsageError(f"steps: expected from 1 to {most}; got {steps}")
    way = x - baseline
    # Sums over many pixels; Apple's GPUs have no double precision.
    precise = torch.float32 if x.device.type == "mps" else torch.float64

    def visit(shares: list[float]) -> list[_Node]:
        found = []
        for i in range(0, len(shares), batch):
            some = torch.tensor(shares[i : i + batch]).to(x).reshape(-1, *[1] * x.ndim)
            inputs = (baseline + some * way).requires_grad_(True)
            with torch.enable_grad():
                scores = score(inputs)
                (gradients,) = torch.autograd.grad(scores.sum(), inputs)
            slopes = (gradients.to(precise) * way.to(precise)).flatten(1).sum(1)
            rows = zip(shares[i:], scores.tolist(), slopes.tolist(), gradients, strict=False)
            found += [_Node(*row) for row in rows]
        return found

    nodes = visit([i / steps for i in range(steps + 1)])
    difference = nodes[-1].score - nodes[0].score
    while True:
        missed = [b.score - a.score - (b.share - a.share) * (a.slope + b.slope) / 2 for a, b in pairwise(nodes)]
        if abs(sum(missed)) <= tolerance * abs(difference) or len(missed) >= most:
            break
        worst = sorted(range(len(missed)), key=lambda i: -abs(missed[i]))
        halved = worst[: min(max(1, len(missed) // 4), most - len(missed))]
        nodes += visit([(nodes[i].share + nodes[i + 1].share) / 2 for i in halved])
        nodes.sort(key=lambda node: node.share)
    total = torch.zeros_like(x, dtype=precise)
    for a, b in pairwise(nodes):
        total += (b.share - a.share) / 2 * (a.gradient.to(precise) + b.gradient.to(precise))
    return Integral((way.to(precise) * total).to(x.dtype), difference, len(nodes) - 1)
