"""What the cross-entropy methods share: a Gaussian over knots that is refitted to the cheapest candidates."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from planners.sampling.base import SamplingPlanner, is_count
from planners.sampling.space import SearchSpace
from planners.splines import ControlSpline, KnotGrid


@dataclass(frozen=True, eq=False)
class GaussianBelief:
    """A diagonal Gaussian over knots, and the cheapest candidates of the last iteration.

    Attributes:
        mean: ``(*batch, K, m)``.
        std: ``(*batch, K, m)``.
        grid: where the knots are in time.
        elites: ``(*batch, E, K, m)``, the best first, or None.
    """

    mean: Tensor
    std: Tensor
    grid: KnotGrid
    elites: Tensor | None = None

    def elites_in(self, space: SearchSpace) -> Tensor | None:
        """The elites read at the knots of another space, or None."""
        if self.elites is None:
            return None
        spline = ControlSpline(self.elites, self.grid.start, self.grid.interval, self.grid.degree)
        *batch, K, m = space.lower.shape
        return space.read(spline).expand(*batch, self.elites.shape[-3], K, m)


@dataclass(frozen=True)
class GaussianPlanner(SamplingPlanner):
    """Base of the cross-entropy methods.

    Attributes:
        num_elites: E, candidates to which the Gaussian is refitted.
        initial_std: standard deviation of the first iteration, in half widths of the control limits.
        minimum_std: floor of the standard deviation, likewise.
        momentum: share of the old mean and standard deviation in the new ones.
    """

    num_elites: int = 10
    initial_std: float = 0.5
    minimum_std: float = 0.02
    momentum: float = 0.1

    def __post_init__(self):
        super().__post_init__()
        if not (is_count(self.num_elites) and 1 <= self.num_elites <= self.num_samples):
            raise ValueError(
                f"num_elites must be an integer in 1..num_samples={self.num_samples}, got {self.num_elites!r}"
            )
        if not (self.initial_std > 0 and self.minimum_std >= 0):
            raise ValueError(
                f"need initial_std > 0 and minimum_std >= 0, got {self.initial_std} and {self.minimum_std}"
            )
        if not 0 <= self.momentum < 1:
            raise ValueError(f"momentum must be in [0, 1), got {self.momentum}")

    def start(self, plan: Tensor, space: SearchSpace, previous: Any) -> GaussianBelief:
        """A wide Gaussian about the first plan."""
        return GaussianBelief(plan, self.initial_std * space.half_range, space.grid)

    def around_mean(self, belief: GaussianBelief, space: SearchSpace, samples: int) -> Tensor:
        """Draws from the Gaussian, ``(*batch, samples, K, m)``."""
        return space.around(belief.mean, torch.maximum(belief.std, self.minimum_std * space.half_range), samples)

    def update(self, belief: GaussianBelief, candidates: Tensor, costs: Tensor) -> GaussianBelief:
        """Refit to the elites with finite cost; unchanged where there is none."""
        costs, index = costs.topk(self.num_elites, dim=-1, largest=False)
        elites = candidates.gather(-3, index[..., None, None].expand(*index.shape, *candidates.shape[-2:]))
        weight = costs.isfinite().to(candidates)[..., None, None]
        count = weight.sum(-3).clamp_min(1.0)
        mean = (weight * elites).sum(-3) / count
        std = ((weight * (elites - mean.unsqueeze(-3)).square()).sum(-3) / count).sqrt()
        found = costs[..., :1, None].isfinite()
        mean = torch.where(found, self.momentum * belief.mean + (1 - self.momentum) * mean, belief.mean)
        std = torch.where(found, self.momentum * belief.std + (1 - self.momentum) * std, belief.std)
        if belief.elites is not None and belief.elites.shape[-3] == elites.shape[-3]:
            elites = torch.where(found.unsqueeze(-1), elites, belief.elites)
        return GaussianBelief(mean, std, belief.grid, elites)

    def mean(self, belief: GaussianBelief) -> Tensor:
        """The mean of the elites, with momentum."""
        return belief.mean
