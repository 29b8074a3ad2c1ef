r"""The one loop of all sampling planners.

Candidates are drawn from a belief, rolled out, scored, and the belief is updated from the scores:

.. math::
    \theta^{(k)} \sim \pi_i, \qquad J^{(k)} = \rho_p \, J(x_0, u(\theta^{(k)}), p), \qquad
    \pi_{i+1} = \mathrm{update}(\pi_i, \theta, J)

with theta the knots of a control signal u, p the particles of a stochastic model and rho a risk measure. A planner is its four
methods ``start``, ``propose``, ``update`` and ``mean``; knots, limits, proposals, particles and faults are the loop's business.
A rollout that is not finite never wins: its cost is infinite, and it is counted.
"""

import abc
import math
import numbers
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from dynamics import StochasticDynamics
from planners.problem import Problem, check_shape
from planners.risk import Expectation, Risk
from planners.sampling.incumbent import Incumbent
from planners.sampling.noise import Noise, WhiteNoise
from planners.sampling.space import SearchSpace, side_by_side
from planners.solution import Solution, Status, finished
from planners.solve import Planner, Request

FEWEST = 4
"""Candidates that an iteration tries at least, however little time there is."""


Execute = Literal["auto", "best", "mean"]


@dataclass(frozen=True)
class SamplingPlanner(Planner):
    """Base of the sampling planners; needs finite control limits or discrete controls, which set the scale of the noise.

    Discrete controls are the allowed values nearest to what is drawn. The plan that a solve starts from (the previous one, or
    the middle of the limits) is among the candidates of the first iteration.

    Attributes:
        num_samples: candidates per iteration (of the first iteration where a planner lowers their number).
        max_iterations: updates of the belief.
        noise: how the controls of a candidate depend on each other in time: ``WhiteNoise()``, ``ColoredNoise(exponent)`` or
            splines through ``KnotNoise(knots, degree)``.
        risk: what reduces the costs of a candidate over particles or worlds to one: ``Expectation()``, ``CVaR(level)``,
            ``WorstCase()`` or ``EpistemicPenalty(kappa)``.
        proposal: any function u = pi(x) of states ``(*batch, samples, n)``; the controls that it gives along the model are
            candidates of the first iteration.
        num_proposals: how often the proposal is rolled out; more than once makes sense if it draws at random.
        particles: particles per candidate on stochastic dynamics; None for one per ensemble member.
        particle_noise: whether particles carry aleatoric noise, or only the members' disagreement.
        execute: what to return: ``"best"`` candidate, the belief's ``"mean"``, or ``"auto"``: the mean on stochastic
            (learned) dynamics, whose errors the best candidate exploits, the best otherwise.

    Raises:
        ValueError: a field is out of range.
        TypeError: noise, risk or proposal is of another kind.
    """

    supports: ClassVar[frozenset[str]] = frozenset(
        {
            "control_limits",
            "control_values",
            "rate_limits",
            "discount",
            "soft constraints",
            "termination",
            "terminal_value",
        }
    )

    num_samples: int = 100
    max_iterations: int = 5
    noise: Noise = WhiteNoise()
    risk: Risk = Expectation()
    proposal: Callable[[Tensor], Tensor] | None = None
    num_proposals: int = 1
    particles: int | None = None
    particle_noise: bool = False
    execute: Execute = "auto"

    def __post_init__(self):
        for name in ("num_samples", "max_iterations", "num_proposals", "particles"):
            value = getattr(self, name)
            if value is not None and not (is_count(value) and value >= 1):
                raise ValueError(f"{name} must be an integer of at least 1, got {value!r}")
        if self.execute not in ("auto", "best", "mean"):
            raise ValueError(f"execute must be 'auto', 'best' or 'mean', got {self.execute!r}")
        if not isinstance(self.noise, Noise):
            raise TypeError(f"noise must be WhiteNoise(), ColoredNoise(...) or KnotNoise(...), got {self.noise!r}")
        if not isinstance(self.risk, Risk):
            raise TypeError(f"risk must be a risk measure such as Expectation() or CVaR(0.2), got {self.risk!r}")
        if self.proposal is not None and not callable(self.proposal):
            raise TypeError(f"proposal must be a function of states that gives controls, got {self.proposal!r}")

    @abc.abstractmethod
    def start(self, plan: Tensor, space: SearchSpace, previous: Any) -> Any:
        """The first belief about the knots of control signals.

        Args:
            plan: ``(*batch, K, m)``: the previous plan, read at the present knots, or the middle of the limits.
            space: knots and limits.
            previous: the belief that ended the previous solve, or None.
        """

    @abc.abstractmethod
    def propose(self, belief: Any, space: SearchSpace, iteration: int) -> Tensor:
        """Candidates ``(*batch, samples, K, m)``; the loop clamps them to the limits."""

    @abc.abstractmethod
    def update(self, belief: Any, candidates: Tensor, costs: Tensor) -> Any:
        """The next belief from candidates and their costs ``(*batch, samples)``, infinite where a rollout was not finite."""

    @abc.abstractmethod
    def mean(self, belief: Any) -> Tensor:
        """The knots of the belief's mean, ``(*batch, K, m)``."""

    def check(self, problem: Problem) -> None:
        """Raise ValueError unless the scale of the noise is known and the risk measure has something to measure."""
        limits = problem.control_limits
        if problem.control_values is None and not (limits is not None and all(map(_is_finite, limits))):
            raise ValueError(
                f"{type(self).__name__} needs finite control_limits, which set the scale of its noise, got {limits}"
            )
        dynamics = problem.dynamics
        if isinstance(dynamics, StochasticDynamics):
            members = dynamics.num_members
            outcomes = self.particles or members
            if not isinstance(self.risk, Expectation) and (outcomes < 2 or (members < 2 and not self.particle_noise)):
                raise ValueError(
                    f"risk={self.risk} needs outcomes that differ, and {outcomes} particles of {members} members have none: "
                    "raise particles, and set particle_noise=True where there is one member"
                )
            self.risk.check(outcomes, members)
        elif not isinstance(self.risk, Expectation):
            raise ValueError(
                f"risk={self.risk} needs several outcomes of a candidate, and {type(dynamics).__name__} has one: plan on an "
                "ensemble, or on RandomizedWorlds(dynamics, ...)"
            )

    def plan(self, problem: Problem, x0: Tensor, request: Request) -> Solution:
        """Run the loop; called through ``solve``."""
        generator = request.generator or torch.Generator(x0.device).manual_seed(0)
        space = SearchSpace.of(problem, x0, request, self.noise, generator)
        plan = space.middle if request.init is None else space.previous_plan(request.init)
        belief = self.start(plan, space, None if request.init is None else request.init.warm_start)
        best = Incumbent.unknown(plan)
        stats = _Counter()
        for iteration in range(self.max_iterations):
            stats.iterations += 1
            candidates = [self.propose(belief, space, iteration)]
            if iteration == 0:
                candidates += [plan.unsqueeze(-3), *self._proposals(problem, x0, space, request.t0)]
            knots, us = space.allowed(side_by_side(candidates))
            tried = _affordable(us.shape[-3], request.share())
            costs, xs = self.evaluate(problem, x0, us[..., -tried:, :, :], request.t0, generator)
            best = best.improved(knots[..., -tried:, :, :], stats.count(costs), xs)
            costs = torch.nn.functional.pad(costs, (us.shape[-3] - tried, 0), value=float("inf"))
            belief = self.update(belief, knots, costs)
            if request.out_of_time():
                break
        return self._finish(problem, x0, belief, best, space, request, stats)

    def evaluate(
        self, problem: Problem, x0: Tensor, candidates: Tensor, t0: int, generator: torch.Generator | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """Roll candidates out and score them.

        Args:
            problem: what is solved.
            x0: initial states ``(*batch, n)``.
            candidates: controls ``(*batch, samples, T, m)``.
            t0: step of the first control.
            generator: source of the particles' randomness.

        Returns:
            Costs ``(*batch, samples)``, infinite where any state or cost is not finite, and states ``(*batch, samples, T+1, n)``.
            On stochastic dynamics the cost is the risk over particles, and there is no one state sequence: None.
        """
        dynamics = problem.dynamics
        starts = x0.unsqueeze(-2)
        if not isinstance(dynamics, StochasticDynamics):
            xs = dynamics.rollout(starts, candidates, t0)
            return _infinite_unless_finite(problem.trajectory_cost(xs, candidates, t0=t0).to(candidates)), xs
        xs = dynamics.sample_rollout(
            starts,
            candidates,
            particles=self.particles or dynamics.num_members,
            generator=generator,
            noise=self.particle_noise,
            t0=t0,
        )
        outcomes = problem.trajectory_cost(xs, candidates.unsqueeze(-3), t0=t0)
        costs = check_shape("risk", self.risk(outcomes, dynamics.num_members), tuple(outcomes.shape[:-1])).masked_fill(
            ~outcomes.isfinite().all(-1), float("inf")
        )
        return _infinite_unless_finite(costs.to(candidates)), None

    def _proposals(self, problem: Problem, x0: Tensor, space: SearchSpace, t0: int) -> list[Tensor]:
        """The proposal's controls along the model, read at the knots, ``(*batch, num_proposals, K, m)``; none without one.

        Where it is not finite it is replaced by the middle of the limits.
        """
        if self.proposal is None:
            return []
        batch, m = x0.shape[:-1], problem.dynamics.control_dim
        x = x0.unsqueeze(-2).expand(*batch, self.num_proposals, x0.shape[-1])
        lower, upper = space.controls.lower.unsqueeze(-3), space.controls.upper.unsqueeze(-3)
        us = []
        for k in range(lower.shape[-2]):
            u = check_shape("proposal", self.proposal(x), (*batch, self.num_proposals, m)).to(x)
            middle = 0.5 * (lower[..., k, :] + upper[..., k, :])
            us.append(torch.where(u.isfinite(), u.clamp(lower[..., k, :], upper[..., k, :]), middle))
            x = problem.dynamics(x, us[-1], t0 + k)
        return [space.knots_of(torch.stack(us, dim=-2))]

    def _finish(
        self,
        problem: Problem,
        x0: Tensor,
        belief: Any,
        best: Incumbent,
        space: SearchSpace,
        request: Request,
        stats: "_Counter",
    ) -> Solution:
        if self.execute == "mean" or (self.execute == "auto" and isinstance(problem.dynamics, StochasticDynamics)):
            best = self._with_mean(problem, x0, self.mean(belief), best, space, request.t0, stats)
        knots, us = space.allowed(best.knots)
        xs = best.xs
        if xs is None or not bool(
            best.cost.isfinite().all()
        ):  # no candidate's states belong to a plan that never was one
            xs = problem.dynamics.rollout(x0, us, request.t0)
        ended = Status.ITERATION_LIMIT if stats.iterations >= self.max_iterations else Status.TIME_LIMIT
        status = torch.full(best.cost.shape, int(ended), device=x0.device)
        return finished(
            problem,
            xs,
            us,
            best.cost,
            status.masked_fill(space.controls.in_conflict(us), int(Status.LIMITS_IN_CONFLICT)),
            t0=request.t0,
            spline=space.signal(knots),
            warm_start=belief,
            stats=asdict(stats),
        )

    def _with_mean(
        self,
        problem: Problem,
        x0: Tensor,
        mean: Tensor,
        best: Incumbent,
        space: SearchSpace,
        t0: int,
        stats: "_Counter",
    ) -> Incumbent:
        """The belief's mean in place of the best candidate; where it is not finite, the cheapest of some points between them."""
        knots, us = space.allowed(mean)
        costs, xs = self.evaluate(problem, x0, us.unsqueeze(-3), t0, space.generator)
        cost = stats.count(costs).squeeze(-1)
        found = best.cost.isfinite()
        failed = found & ~cost.isfinite()
        chosen = best.where(found & ~failed, knots, cost, None if xs is None else xs.squeeze(-3))
        if not bool(failed.any()):
            return chosen
        share = torch.linspace(0.0, 1.0, 9, dtype=mean.dtype, device=mean.device)[1:-1, None, None]
        knots, us = space.allowed(torch.lerp(knots.unsqueeze(-3), best.knots.unsqueeze(-3), share))
        costs, xs = self.evaluate(problem, x0, us, t0, space.generator)
        return chosen.improved(knots, stats.count(costs).masked_fill(~failed.unsqueeze(-1), math.inf), xs)


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


def _is_finite(limit: float | Tensor) -> bool:
    return math.isfinite(limit) if isinstance(limit, int | float) else bool(torch.as_tensor(limit).isfinite().all())


def is_count(value: Any) -> bool:
    """Whether a value is an integer, numpy's included, and no flag."""
    return isinstance(value, numbers.Integral) and not isinstance(value, bool)


def _affordable(candidates: int, share: float) -> int:
    """How many candidates to try, counted from the last ones, which are the plan itself and what was kept."""
    return min(max(math.floor(share * candidates), FEWEST), candidates)


def _infinite_unless_finite(costs: Tensor) -> Tensor:
    return costs.nan_to_num(nan=math.inf, posinf=math.inf, neginf=math.inf)
