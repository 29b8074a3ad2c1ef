r"""Model predictive path integral control (Williams et al. 2017, "Information theoretic MPC for model-based RL", algorithm 2).

The plan becomes the mean of noisy copies of it, the cheap ones weighing more:

.. math::
    \theta^{(k)} = \theta + \sigma \epsilon^{(k)}, \qquad
    w_k \propto \exp\left( -\frac{1}{\lambda} \frac{J^{(k)} - \bar J}{s_J} \right), \qquad
    \theta \leftarrow \sum_k w_k \theta^{(k)}

Differences from the paper: scores are standardized by their mean and standard deviation over the finite candidates, so that
lambda depends on neither scale nor offset of the cost (as in DIAL-MPC, Xue et al. 2024); the term that ties the controls to
the previous plan is left to the cost; the previous plan itself is a candidate.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from planners.sampling.base import Execute, SamplingPlanner
from planners.sampling.space import SearchSpace


@dataclass(frozen=True)
class MPPI(SamplingPlanner):
    """Model predictive path integral control; its belief is the plan itself.

    Attributes:
        temperature: lambda, in standard deviations of the candidates' costs; towards 0 the best candidate alone counts.
        std: standard deviation of the noise, in half widths of the control limits.
    """

    num_samples: int = 200
    max_iterations: int = 1
    execute: Execute = "mean"
    temperature: float = 0.1
    std: float = 0.5

    def __post_init__(self):
        super().__post_init__()
        if not (self.temperature > 0 and self.std > 0):
            raise ValueError(f"need temperature > 0 and std > 0, got {self.temperature} and {self.std}")

    def start(self, plan: Tensor, space: SearchSpace, previous: Any) -> Tensor:
        """The first plan."""
        return plan

    def propose(self, belief: Tensor, space: SearchSpace, iteration: int) -> Tensor:
        """Noisy copies of the plan."""
        return space.around(belief, self.std * space.half_range, self.num_samples)

    def update(self, belief: Tensor, candidates: Tensor, costs: Tensor) -> Tensor:
        """The weighted mean; unchanged where no candidate is finite."""
        weights = standardized_weights(costs, self.temperature)
        return torch.where(
            costs.isfinite().any(-1)[..., None, None],
            torch.einsum("...s,...skm->...km", weights, candidates),
            belief,
        )

    def mean(self, belief: Tensor) -> Tensor:
        """The plan."""
        return belief


def standardized_weights(costs: Tensor, temperature: float) -> Tensor:
    """Softmax of minus the standardized costs over the temperature.

    Args:
        costs: ``(*batch, samples)``; infinite ones weigh nothing.
        temperature: in standard deviations of the finite costs.

    Returns:
        ``(*batch, samples)``, with sum 1; equal where all finite costs are equal, zero where none is finite.
    """
    finite = costs.isfinite()
    # Distances from the cheapest as shares of the largest one: a model that is about to diverge must not overflow a square.
    lowest = costs.masked_fill(~finite, torch.inf).amin(-1, keepdim=True).double()
    distance = (costs.double() - lowest).masked_fill(~finite, 0.0).clamp_max(torch.finfo(torch.float64).max)
    distance = distance / distance.amax(-1, keepdim=True).clamp_min(torch.finfo(torch.float64).tiny)
    count = finite.sum(-1, keepdim=True).clamp_min(1)
    mean = distance.sum(-1, keepdim=True) / count
    variance = (distance - mean).masked_fill(~finite, 0.0).square().sum(-1, keepdim=True) / count
    scale = (temperature * variance.sqrt()).clamp_min(torch.finfo(torch.float64).tiny)
    scores = (-distance / scale).masked_fill(~finite, -torch.inf)
    return torch.softmax(scores, dim=-1).nan_to_num(0.0).to(costs)  # NaN where none is finite
