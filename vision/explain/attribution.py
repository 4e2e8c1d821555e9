"""From a network's numbers to maps of attribution. Tensors in, tensors out; nothing here knows what a detector is.

- `grad_cam`: Selvaraju et al. 2017 (arXiv 1610.02391), equations 1 and 2.
- `eigen_cam`: Muhammad and Yeasin 2020 (arXiv 2008.00299), equations 2 and 3.
- `integrated_gradients`: Sundararajan et al. 2017 (arXiv 1703.01365), equation 1.
"""

from __future__ import annotations

from collections.abc import Callable
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
    matrix = activations.flatten(1).T.double()
    # The eigenvector of the small channels x channels matrix is the singular vector.
    _, vectors = torch.linalg.eigh(matrix.T @ matrix)
    projection = matrix @ vectors[:, -1]
    return (projection if projection.sum() >= 0 else -projection).reshape(activations.shape[1:]).to(activations.dtype)


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
        return abs(float(self.values.double().sum()) - self.difference) / max(abs(self.difference), 1e-12)


def integrated_gradients(
    score: Callable[[torch.Tensor], torch.Tensor],
    x: torch.Tensor,
    baseline: torch.Tensor,
    *,
    tolerance: float = 0.05,
    steps: int = 16,
    most: int = 128,
    batch: int = 1,
) -> Integral:
    """(x - x') times the mean gradient along the straight path from x' to x, by the trapezoidal rule.

    The number of steps doubles, and no step is done twice, until the values sum up to f(x) - f(x') within the
    tolerance, which is the paper's axiom of completeness.

    Args:
        score: (B, *shape) to (B,), differentiable.
        x: The input, `shape`.
        baseline: What the path starts from, `shape`.
        tolerance: Largest share of f(x) - f(x') that the sum may be off.
        steps: Intervals to begin with.
        most: Intervals to end with, whatever the error.
        batch: Inputs at once.

    Raises:
        UsageError: Shapes that differ, or numbers of steps that cannot be.
    """
    if x.shape != baseline.shape:
        raise UsageError(f"baseline: expected the shape of the input, {tuple(x.shape)}; got {tuple(baseline.shape)}")
    if not 1 <= steps <= most:
        raise UsageError(f"steps: expected from 1 to {most}; got {steps}")
    way = x - baseline

    def gradients(places: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Sum of the gradients at shares of the way, and the scores there."""
        total, scores = torch.zeros_like(x, dtype=torch.float64), []
        for some in places.split(batch):
            inputs = baseline + some.to(x).reshape(-1, *[1] * x.ndim) * way
            with torch.enable_grad():
                made = score(inputs.requires_grad_(True))
                (slope,) = torch.autograd.grad(made.sum(), inputs)
            total += slope.sum(0, dtype=torch.float64)
            scores.append(made.detach())
        return total, torch.cat(scores)

    total, ends = gradients(torch.tensor([0.0, 1.0]))
    total, difference = total / 2, float(ends[1].double() - ends[0].double())
    if steps > 1:
        total = total + gradients(torch.arange(1, steps) / steps)[0]
    while True:
        made = Integral((way.double() * total / steps).to(x.dtype), difference, steps)
        if made.error <= tolerance or 2 * steps > most:
            return made
        total = total + gradients((torch.arange(steps) + 0.5) / steps)[0]
        steps *= 2
