r"""The one loop of all sampling planners.

Candidate control sequences are drawn from a belief, rolled out, scored, and the belief is updated from the scores:

.. math::
    U^{(k)} \sim \pi_i, \qquad J^{(k)} = \mathrm{mean}_p \, J(x_0, U^{(k)}, p), \qquad
    \pi_{i+1} = \mathrm{update}(\pi_i, U, J)

with p the particles of a stochastic model. A planner is its four methods ``start``, ``propose``, ``update`` and ``mean``. A
rollout that is not finite never wins: its cost is infinite, and it is counted.
"""

import abc
from dataclasses import asdict, dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from dynamics import StochasticDynamics
from planners.problem import Problem
from planners.solution import Solution, Status, finished, shifted
from planners.solve import Planner, Request


@dataclass(frozen=True, eq=False)
class Bounds:
    """Finite control limits and what follows from them.

    Attributes:
        lower: lower limit, ``(*batch, T, m)``.
        upper: upper limit, ``(*batch, T, m)``.
    """

    lower: Tensor
    upper: Tensor

    @property
    def half_range(self) -> Tensor:
        """Half the width of the limits, the unit of the planners' standard deviations."""
        return 0.5 * (self.upper - self.lower)

    def clamp(self, us: Tensor) -> Tensor:
        """Control sequences ``(*batch, T, m)`` or candidates ``(*batch, samples, T, m)`` within the limits."""
        if us.ndim == self.lower.ndim:
            return us.clamp(self.lower, self.upper)
        return us.clamp(self.lower.unsqueeze(-3), self.upper.unsqueeze(-3))


@dataclass(frozen=True, eq=False)
class Best:
    """The best candidate so far: controls ``(*batch, T, m)`` and cost ``(*batch,)``."""

    us: Tensor
    cost: Tensor

    def improved(self, candidates: Tensor, costs: Tensor) -> "Best":
        """The better of this and the best of candidates ``(*batch, samples, T, m)`` with costs ``(*batch, samples)``."""
        cost, index = costs.min(dim=-1)
        us = candidates.gather(-3, index[..., None, None, None].expand(*cost.shape, 1, *candidates.shape[-2:])).squeeze(
            -3
        )
        better = cost < self.cost
        return Best(torch.where(better[..., None, None], us, self.us), torch.where(better, cost, self.cost))


@dataclass(frozen=True)
class SamplingPlanner(Planner):
    """Base of the sampling planners; needs finite control limits, which set the scale of the noise.

    Attributes:
        num_samples: candidates per iteration (of the first iteration where a planner lowers their number).
        max_iterations: updates of the belief.
        particles: particles per candidate on stochastic dynamics; None for one per ensemble member.
        particle_noise: whether particles carry aleatoric noise, or only the members' disagreement.
        execute: what to return: ``"best"`` candidate, the belief's ``"mean"``, or ``"auto"``: the mean on stochastic
            (learned) dynamics, whose errors the best candidate exploits, the best otherwise.

    Raises:
        ValueError: a field is out of range.
    """

    supports: ClassVar[frozenset[str]] = frozenset({"control_limits", "discount", "termination", "terminal_value"})

    num_samples: int = 100
    max_iterations: int = 5
    particles: int | None = None
    particle_noise: bool = False
    execute: str = "auto"

    def __post_init__(self):
        for name in ("num_samples", "max_iterations", "particles"):
            value = getattr(self, name)
            if value is not None and not (isinstance(value, int) and value >= 1):
                raise ValueError(f"{name} must be an integer of at least 1, got {value!r}")
        if self.execute not in ("auto", "best", "mean"):
            raise ValueError(f"execute must be 'auto', 'best' or 'mean', got {self.execute!r}")

    @abc.abstractmethod
    def start(self, mean: Tensor, bounds: Bounds, previous: Any, shift: int) -> Any:
        """The first belief about control sequences.

        Args:
            mean: ``(*batch, T, m)``: the shifted previous plan, or the middle of the limits.
            bounds: control limits.
            previous: the belief that ended the previous solve, or None.
            shift: how many steps ago that solve began.
        """

    @abc.abstractmethod
    def propose(self, belief: Any, bounds: Bounds, iteration: int, generator: torch.Generator) -> Tensor:
        """Candidates ``(*batch, samples, T, m)``; the loop clamps them to the limits."""

    @abc.abstractmethod
    def update(self, belief: Any, candidates: Tensor, costs: Tensor) -> Any:
        """The next belief from candidates and their costs ``(*batch, samples)``, infinite where a rollout was not finite."""

    @abc.abstractmethod
    def mean(self, belief: Any) -> Tensor:
        """The belief's mean control sequence, ``(*batch, T, m)``."""

    def check(self, problem: Problem) -> None:
        """Raise ValueError unless the control limits are finite."""
        limits = problem.control_limits
        if limits is None or not all(bool(torch.as_tensor(limit).isfinite().all()) for limit in limits):
            raise ValueError(
                f"{type(self).__name__} needs finite control_limits, which set the scale of its noise, got {limits}"
            )

    def plan(self, problem: Problem, x0: Tensor, request: Request) -> Solution:
        """Run the loop; called through ``solve``."""
        generator = request.generator or torch.Generator(x0.device).manual_seed(0)
        shape = (*x0.shape[:-1], int(problem.horizon), problem.dynamics.control_dim)
        bounds = Bounds(*(_expanded("control_limits", limit, shape) for limit in problem.limits_like(x0)))
        first = _first_plan(bounds, request)
        previous = None if request.init is None else request.init.warm_start
        belief = self.start(first, bounds, previous, request.t0 - (request.init.t0 if request.init else 0))
        best = Best(first, x0.new_full(x0.shape[:-1], float("inf")))
        stats = _Counter()
        for iteration in range(self.max_iterations):
            stats.iterations += 1
            candidates = bounds.clamp(self.propose(belief, bounds, iteration, generator))
            costs = stats.count(self.score(problem, x0, candidates, request.t0, generator))
            best = best.improved(candidates, costs)
            belief = self.update(belief, candidates, costs)
            if request.out_of_time():
                break
        return self._finish(problem, x0, belief, best, bounds, request, stats, generator)

    def score(
        self, problem: Problem, x0: Tensor, candidates: Tensor, t0: int, generator: torch.Generator | None = None
    ) -> Tensor:
        """Cost of candidates ``(*batch, samples, T, m)`` from states ``(*batch, n)``: ``(*batch, samples)``.

        On stochastic dynamics the mean over particles; infinite where any state or cost is not finite.
        """
        dynamics = problem.dynamics
        starts = x0.unsqueeze(-2)
        if isinstance(dynamics, StochasticDynamics):
            xs = dynamics.sample_rollout(
                starts,
                candidates,
                particles=self.particles or dynamics.num_members,
                generator=generator,
                noise=self.particle_noise,
                t0=t0,
            )
            costs = problem.trajectory_cost(xs, candidates.unsqueeze(-3), t0=t0).mean(-1)
        else:
            costs = problem.trajectory_cost(dynamics.rollout(starts, candidates, t0), candidates, t0=t0)
        return costs.to(candidates).masked_fill(~costs.isfinite(), float("inf"))

    def _finish(
        self,
        problem: Problem,
        x0: Tensor,
        belief: Any,
        best: Best,
        bounds: Bounds,
        request: Request,
        stats: "_Counter",
        generator: torch.Generator,
    ) -> Solution:
        us, cost = best.us, best.cost
        if self.execute == "mean" or (self.execute == "auto" and isinstance(problem.dynamics, StochasticDynamics)):
            mean = bounds.clamp(self.mean(belief))
            mean_cost = stats.count(self.score(problem, x0, mean.unsqueeze(-3), request.t0, generator)).squeeze(-1)
            use_mean = mean_cost.isfinite() & best.cost.isfinite()
            us = torch.where(use_mean[..., None, None], mean, us)
            cost = torch.where(use_mean, mean_cost, cost)
        ended = Status.ITERATION_LIMIT if stats.iterations >= self.max_iterations else Status.TIME_LIMIT
        status = torch.full(cost.shape, int(ended), device=cost.device)
        xs = problem.dynamics.rollout(x0, us, request.t0)
        return finished(problem, xs, us, cost, status, t0=request.t0, warm_start=belief, stats=asdict(stats))


@dataclass
class _Counter:
    """Counts iterations and rollouts while a solve runs."""

    iterations: int = 0
    evaluations: int = 0
    nonfinite: int = 0

    def count(self, costs: Tensor) -> Tensor:
        self.evaluations += costs.numel()
        self.nonfinite += int(costs.isinf().sum())
        return costs


def _first_plan(bounds: Bounds, request: Request) -> Tensor:
    """The previous plan shifted to this step, its last control held, or the middle of the limits; ``(*batch, T, m)``."""
    if request.init is None:
        return 0.5 * (bounds.lower + bounds.upper)
    shape = bounds.lower.shape
    us = shifted(request.init.us.to(bounds.lower), request.t0 - request.init.t0, shape[-2])
    return bounds.clamp(_expanded("the controls of init", us, shape))


def _expanded(name: str, value: Tensor, shape: tuple[int, ...]) -> Tensor:
    try:
        return value.expand(shape)
    except RuntimeError:
        raise ValueError(
            f"{name} must broadcast to (*batch, T, m) = {tuple(shape)}, got {tuple(value.shape)}"
        ) from None
