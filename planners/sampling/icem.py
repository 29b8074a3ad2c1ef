r"""The improved cross-entropy method (Pinneri et al. 2020, "Sample-efficient cross-entropy method for real-time planning").

What distinguishes it from CEM: noise that is correlated in time with power spectrum :math:`f^{-\beta}` (section 3.1), candidates
kept between iterations and shifted between steps (3.2), fewer candidates in later iterations (3.3), clipping instead of
truncated sampling, and the mean as a candidate of the last iteration (3.4).

Differences from the paper: kept elites are evaluated again, so that a plan never rests on a cost from another step; the mean
is a candidate of the first iteration too, so that no plan is worse than the one it starts from; the standard deviation has a
floor.
"""

from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from planners.sampling.gaussian import GaussianBelief, GaussianPlanner
from planners.sampling.noise import ColoredNoise, Noise
from planners.sampling.space import SearchSpace, side_by_side


@dataclass(frozen=True)
class ICEM(GaussianPlanner):
    """Improved cross-entropy method.

    Attributes:
        noise: colored with exponent 2 by default; 2 and more suit slow systems, 0.25 legged gaits.
        sample_decay: factor by which the number of candidates falls per iteration, down to 2 E.
        kept_elites: share of the elites that stay candidates in the next iteration and the next step.
    """

    noise: Noise = ColoredNoise(2.0)
    sample_decay: float = 1.25
    kept_elites: float = 0.3

    def __post_init__(self):
        super().__post_init__()
        if not self.sample_decay >= 1:
            raise ValueError(f"sample_decay must be at least 1, got {self.sample_decay}")
        if not 0 <= self.kept_elites <= 1:
            raise ValueError(f"kept_elites must be in [0, 1], got {self.kept_elites}")

    def start(self, plan: Tensor, space: SearchSpace, previous: Any) -> GaussianBelief:
        """A wide Gaussian about the first plan, and the elites of the previous solve."""
        belief = super().start(plan, space, previous)
        if not (isinstance(previous, GaussianBelief) and self._num_kept):
            return belief
        return replace(belief, elites=previous.elites_in(space))

    def propose(self, belief: GaussianBelief, space: SearchSpace, iteration: int) -> Tensor:
        """Draws from the Gaussian, the kept elites, and in the last iteration the mean itself."""
        least = min(2 * self.num_elites, self.num_samples)
        proposals = [self.around_mean(belief, space, max(int(self.num_samples / self.sample_decay**iteration), least))]
        if belief.elites is not None:
            proposals.append(belief.elites[..., : self._num_kept, :, :])
        if 0 < iteration == self.max_iterations - 1:  # the loop itself adds the plan to the first iteration
            proposals.append(belief.mean.unsqueeze(-3))
        return side_by_side(proposals)

    @property
    def _num_kept(self) -> int:
        return round(self.kept_elites * self.num_elites)
