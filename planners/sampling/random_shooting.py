r"""Random shooting: the best of candidates that are drawn from all allowed controls.

.. math:: u^{(k)} = \underline u + (\overline u - \underline u) \, \Phi(\epsilon^{(k)})

with unit noise epsilon and the normal distribution function Phi, so that each knot is uniform between the limits, whatever its
correlation in time; with white and colored noise the knots are the controls.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from planners.sampling.base import Execute, SamplingPlanner
from planners.sampling.incumbent import Incumbent
from planners.sampling.noise import KnotNoise, Noise
from planners.sampling.space import SearchSpace


@dataclass(frozen=True)
class RandomShooting(SamplingPlanner):
    """Random shooting: nothing is learned from one candidate about the next; the baseline that every planner has to beat.

    With white noise most candidates of a long horizon are alike, because their controls average out; knots tell them apart.
    """

    num_samples: int = 500
    max_iterations: int = 1
    noise: Noise = KnotNoise()
    execute: Execute = "best"

    def start(self, plan: Tensor, space: SearchSpace, previous: Any) -> Incumbent:
        """Nothing is known."""
        return Incumbent.unknown(plan)

    def propose(self, belief: Incumbent, space: SearchSpace, iteration: int) -> Tensor:
        """Uniform draws between the limits."""
        share = torch.special.ndtr(space.draw(self.num_samples))
        return space.lower.unsqueeze(-3) + 2.0 * space.half_range.unsqueeze(-3) * share

    def update(self, belief: Incumbent, candidates: Tensor, costs: Tensor) -> Incumbent:
        """Remember the best."""
        return belief.improved(candidates, costs)

    def mean(self, belief: Incumbent) -> Tensor:
        """The best candidate."""
        return belief.knots
