"""Where the candidates of a sampling planner live: knots of control signals, within limits."""

from dataclasses import dataclass

import torch
from torch import Tensor

from planners.control_set import ControlSet, expanded
from planners.problem import Problem
from planners.sampling.noise import Noise
from planners.solution import Solution
from planners.solve import Request
from planners.splines import ControlSpline, KnotGrid


@dataclass(frozen=True, eq=False)
class SearchSpace:
    """Knots of the control signals of a batch of plans.

    Time comes first in memory: rollouts read and write one step of all candidates at a time.

    Attributes:
        grid: where the K knots are in time.
        steps: where the T steps of the plan are in time.
        lower: lower limit of the knots, ``(*batch, K, m)``.
        upper: upper limit of the knots, ``(*batch, K, m)``.
        controls: what is allowed at the T steps of the plan.
        noise: how candidates are drawn.
        generator: source of randomness.
        weights: of the knots at each step, ``(T, K)``; None where the knots are the controls of the steps.
    """

    grid: KnotGrid
    steps: KnotGrid
    lower: Tensor
    upper: Tensor
    controls: ControlSet
    noise: Noise
    generator: torch.Generator
    weights: Tensor | None

    @staticmethod
    def of(problem: Problem, x0: Tensor, request: Request, noise: Noise, generator: torch.Generator) -> "SearchSpace":
        """The search space of a problem from initial states ``(*batch, n)``."""
        T, dt = int(problem.horizon), problem.dynamics.dt
        controls = ControlSet.of(problem, x0, T, request.previous_control)
        grid, steps = noise.grid(request.time, dt, T), KnotGrid(request.time, dt, T)
        if noise.is_stepwise:
            lower, upper, weights = controls.lower, controls.upper, None
        else:
            rows = steps.held(grid.times()).to(x0.device)
            lower, upper = controls.lower.index_select(-2, rows), controls.upper.index_select(-2, rows)
            weights = grid.weights(steps.times()).to(x0)
        return SearchSpace(grid, steps, lower, upper, controls, noise, generator, weights)

    @property
    def half_range(self) -> Tensor:
        """Half the width of the limits, the unit of the planners' standard deviations, ``(*batch, K, m)``."""
        return 0.5 * (self.upper - self.lower)

    @property
    def middle(self) -> Tensor:
        """The middle of the limits, ``(*batch, K, m)``."""
        return 0.5 * (self.lower + self.upper)

    def draw(self, samples: int) -> Tensor:
        """Noise of unit variance, ``(*batch, samples, K, m)``."""
        *batch, K, m = self.lower.shape
        return self.noise.draw((K, *batch, samples, m), self.generator, self.lower).movedim(0, -2)

    def around(self, knots: Tensor, std: Tensor, samples: int) -> Tensor:
        """Noisy copies of knots ``(*batch, K, m)``: ``(*batch, samples, K, m)``.

        Args:
            knots: what the noise is about.
            std: standard deviation of the noise, ``(*batch, K, m)`` in the units of the controls.
            samples: number of copies.
        """
        return torch.addcmul(knots.unsqueeze(-3), std.unsqueeze(-3), self.draw(samples))

    def clamp(self, knots: Tensor) -> Tensor:
        """Knots ``(*batch, K, m)`` or ``(*batch, samples, K, m)`` within the limits."""
        if knots.ndim == self.lower.ndim:
            return knots.clamp(self.lower, self.upper)
        return knots.clamp(self.lower.unsqueeze(-3), self.upper.unsqueeze(-3))

    def allowed(self, knots: Tensor) -> tuple[Tensor, Tensor]:
        """Knots ``(..., K, m)`` within the limits, and the allowed controls ``(..., T, m)`` nearest to the signal through them.

        Where the knots are the controls of the steps, and these are continuous, the knots are what is allowed, so that what is
        searched is what is executed.
        """
        if self.weights is None:
            us = self.controls.admissible(knots)
            return (us if self.controls.values is None else self.clamp(knots)), us
        knots = self.clamp(knots)
        return knots, self.controls.admissible(torch.einsum("tk,...km->t...m", self.weights, knots).movedim(0, -2))

    def knots_of(self, us: Tensor) -> Tensor:
        """The knots ``(..., K, m)`` of a signal that is close to controls ``(..., T, m)``: what they are at the knots' times."""
        if self.weights is None:
            return us
        return us.index_select(-2, self.steps.held(self.grid.times()).to(us.device))

    def read(self, spline: ControlSpline) -> Tensor:
        """Another signal at the knots of this space: its knots ``(..., K, m)``."""
        return spline(self.grid.times()).to(self.lower)

    def signal(self, knots: Tensor) -> ControlSpline | None:
        """The signal through knots as a function of time; None where it is no more than the controls of the steps."""
        if self.weights is None and self.controls.values is None:
            return None
        return ControlSpline(knots, self.grid.start, self.grid.interval, self.grid.degree)

    def previous_plan(self, solution: Solution) -> Tensor:
        """A previous plan, of any planner, read at the knots and within the limits: ``(*batch, K, m)``.

        Raises:
            ValueError: it has another number of controls, or another batch.
        """
        if solution.spline is not None:
            plan = self.read(solution.spline)
        else:
            plan = solution.controls_at(self.grid.times()).to(self.lower)
        if plan.shape[-1] != self.lower.shape[-1]:  # one control would broadcast to all
            raise ValueError(f"init has {plan.shape[-1]} controls, the problem {self.lower.shape[-1]}")
        return self.clamp(expanded("the controls of init", plan, tuple(self.lower.shape)))


def side_by_side(candidates: list[Tensor]) -> Tensor:
    """Candidates ``(*batch, ?, K, m)`` joined along their own axis, time staying first in memory."""
    if len(candidates) == 1:
        return candidates[0]
    return torch.cat([part.movedim(-2, 0) for part in candidates], dim=-2).movedim(0, -2)
