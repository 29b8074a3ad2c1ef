r"""The cross-entropy method (Rubinstein and Kroese 2004; as a planner Chua et al. 2018, PETS, section 5).

A diagonal Gaussian over the knots of control signals is refitted to the E cheapest candidates:

.. math::
    \mu \leftarrow \alpha \mu + (1 - \alpha) \, \mathrm{mean}(\theta_{(1)}, \dots, \theta_{(E)}), \qquad
    \sigma \leftarrow \alpha \sigma + (1 - \alpha) \, \mathrm{std}(\theta_{(1)}, \dots, \theta_{(E)})

Difference from PETS: draws beyond the limits are clipped, not drawn again, and the standard deviation has a floor.
"""

from dataclasses import dataclass

from torch import Tensor

from planners.sampling.gaussian import GaussianBelief, GaussianPlanner
from planners.sampling.space import SearchSpace


@dataclass(frozen=True)
class CEM(GaussianPlanner):
    """Cross-entropy method: refit a Gaussian to the elites, from scratch about the previous plan at every solve."""

    def propose(self, belief: GaussianBelief, space: SearchSpace, iteration: int) -> Tensor:
        """Draws from the Gaussian."""
        return self.around_mean(belief, space, self.num_samples)
