r"""Predictive sampling (Howell et al. 2022, "Predictive Sampling: Real-time Behaviour Synthesis with MuJoCo").

.. math:: \theta^{(k)} = \theta + \sigma \epsilon^{(k)}, \qquad \theta \leftarrow \arg\min_k J(\theta^{(k)})

over the knots of splines: the plan is the best of the previous one and noisy copies of it. One iteration per step of the loop
is all there is; what improves the plan is replanning.
"""

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from planners.sampling.base import Execute, SamplingPlanner
from planners.sampling.incumbent import Incumbent
from planners.sampling.noise import KnotNoise, Noise
from planners.sampling.space import SearchSpace


@dataclass(frozen=True)
class PredictiveSampling(SamplingPlanner):
    """Predictive sampling: the best of the previous plan and noisy copies of it.

    Attributes:
        std: standard deviation of the noise, in half widths of the control limits.
    """

    num_samples: int = 50
    max_iterations: int = 1
    noise: Noise = KnotNoise()
    execute: Execute = "best"
    std: float = 0.3

    def __post_init__(self):
        super().__post_init__()
        if not self.std > 0:
            raise ValueError(f"std must be positive, got {self.std}")

    def start(self, plan: Tensor, space: SearchSpace, previous: Any) -> Incumbent:
        """The previous plan, of unknown cost."""
        return Incumbent.unknown(plan)

    def propose(self, belief: Incumbent, space: SearchSpace, iteration: int) -> Tensor:
        """Noisy copies of the best plan so far."""
        return space.around(belief.knots, self.std * space.half_range, self.num_samples)

    def update(self, belief: Incumbent, candidates: Tensor, costs: Tensor) -> Incumbent:
        """The best of all."""
        return belief.improved(candidates, costs)

    def mean(self, belief: Incumbent) -> Tensor:
        """The best plan."""
        return belief.knots
