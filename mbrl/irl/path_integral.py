r"""Path-integral inverse reinforcement learning (Kalakrishnan et al. 2013): a choice among sampled trajectories.

The demonstrator of :math:`\tau_i` could have done what any of K candidates does, and chose

.. math:: p(\tau_i) = \frac{e^{-J_\theta(\tau_i) / T}}{e^{-J_\theta(\tau_i) / T} + \sum_{k=1}^K e^{-J_\theta(\tau_{ik}) / T}} ,

with the temperature T. The mean of :math:`-\log p(\tau_i)` and a penalty is minimized by L-BFGS; for costs that are linear in
their weights it is convex. No candidate is planned, so that the cost may have any form: the gradient is that of the cost of what
was demonstrated minus the mean of those of all candidates by their probability.

Candidates are rollouts of noisy controls, with the noise of the sampling planners and within the limits,

.. math:: c_i = u_i + \sigma \epsilon_{i0}, \qquad u_{ik} = c_i + \sigma \epsilon_{ik} :

about a center that is as far from the demonstrated controls as they are. Then demonstration and candidates could have changed
places, the density of the noise cancels, and for a demonstrator with :math:`p(u) \propto e^{-J / T}` the choice has just the
probability above, whatever :math:`\sigma` is, where limits do not matter. Candidates about the demonstration itself, as in the
paper, are all farther from each other than from it; the choice then is the easier the more noise there is, and what is learned
of the cost is too small.

A candidate that costs many T more than the demonstration has no probability, and no derivative either; one that is too close
tells little. How close it should be depends on limits, noise and cost, so there are choices of several sizes of noise, from
``std`` downward by factors of 3, and the mean of their log-likelihoods is maximized. Where no candidate has a chance under the
cost that the search begins with, nothing can be learned; a training therefore begins with a cost by which candidates of the
largest noise differ from demonstrations by T. Where a ``planner`` is given, there is another choice in each round, of a plan
under the cost that was learned so far and candidates near it, so that what is cheap elsewhere is noticed. The paper has a
penalty of absolute weights.

Of a demonstrator without noise each demonstration is cheaper than all of its candidates. Where nothing of the cost is known, the
likelihood then grows with its factor and has no maximum; where the search ends is up to the penalty, which chooses a direction
that tells demonstrations and candidates apart clearly, and a factor that means nothing. Weights then get the sum that they had at
first.
"""

from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass, field, replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from dynamics import Trajectory
from mbrl.irl.cost_learner import CostLearner, Demonstrated, LearnedCost, WholeSearch, copied, in_receding_horizon
from mbrl.irl.laplace import scale_is_fixed, with_the_sum_of
from mbrl.tasks import Task
from mbrl.tasks.task_cost import TaskCost
from mbrl.training.checking import check_numbers
from planners import Cost, KnotNoise, Noise, Planner, Problem, SamplingPlanner, WeightedCost, solve
from planners.sampling.space import SearchSpace
from planners.solve import Request

MOST_SEARCHES = 10
"""Times that the minimization begins anew after costs have overflown."""
SMALLER = 3.0
"""By what each size of the noise is smaller than the one before it."""
ROUNDING = 1e3
"""Units of the last digit by which costs that are the same may differ."""


@dataclass(frozen=True, eq=False)
class PathIntegralReport:
    """What the choice among candidates looks like in the end.

    Attributes:
        probabilities: of each demonstration among its candidates ``(N,)``.
        ranks: candidates that are cheaper than each demonstration ``(N,)``.
        candidates: how many each was compared with.
        excluded: candidates that were not finite, of all demonstrations together.
        certain: whether no candidate had a chance already under the cost that the search began with, so that nothing was learned.
        scale_unbounded: whether by the learned terms of a :class:`planners.WeightedCost` each demonstration costs no more than
            any of its candidates, and less than some: the larger the weights, the likelier they are, without end. Weights then
            sum to what they did at first; but where a known part sets the scale, ``l2`` alone holds them. Never of costs of other
            kinds, such as sums: no factor of their own is among what is learned.
    """

    probabilities: Tensor
    ranks: Tensor
    candidates: int
    excluded: int
    certain: bool
    scale_unbounded: bool

    def __str__(self) -> str:
        if self.certain:
            return (
                f"none of the {self.candidates} candidates had a chance under the cost that the search began with, so that "
                "nothing was learned; choose more scales or a smaller std, smaller weights to begin with or a higher temperature"
            )
        if self.scale_unbounded:
            return (
                f"demonstrations are cheaper than all of their {self.candidates} candidates: the likelihood grows without end "
                "with the factor of the weights, which demonstrations without noise do not tell; only their ratios are learned"
            )
        first = float((self.ranks == 0).double().mean())
        return (
            f"{100 * first:.0f} % of the demonstrations are cheaper than all of their {self.candidates} candidates; median "
            f"probability {float(self.probabilities.median()):.2g}, {1 / (self.candidates + 1):.2g} without a cost"
        )


@dataclass(frozen=True)
class PathIntegralIRL(CostLearner):
    """Costs of any form by maximum entropy over sampled trajectories.

    Candidates tell most where they are nearly as good as what was demonstrated. With noise of several sizes some of them are;
    where it is known which size that is, ``scales=1`` with that ``std`` makes more of as many samples.

    Attributes:
        temperature: T of the demonstrator [cost per nat]; it sets the scale of the cost.
        num_samples: candidates about each demonstration, and about each plan.
        noise: how the controls of a candidate depend on each other in time.
        std: standard deviation of the largest noise, in half widths of the control limits.
        scales: number of sizes of the noise, each a third of the one before; controls of which only some values are allowed have
            the largest alone.
        planner: a sampling planner, whose plans under the learned cost are candidates too, with others about them; or none.
        rounds: of planning and learning, where there is a planner.
        l2: weight of half the squared change of the parameters from where they begin.
        max_iterations: steps of L-BFGS in each round.
        tolerance: largest derivative at which a round ends.

    Raises:
        ValueError: a field is out of range.
        TypeError: noise or planner is of another kind.
    """

    shows: ClassVar[str] = "the log-likelihood of demonstrations among sampled trajectories"

    _: KW_ONLY
    temperature: float = 1.0
    num_samples: int = 50
    noise: Noise = field(default_factory=KnotNoise)
    std: float = 0.3
    scales: int = 6
    planner: SamplingPlanner | None = None
    rounds: int = 3
    l2: float = 1e-4
    max_iterations: int = 100
    tolerance: float = 1e-7

    def __post_init__(self):
        super().__post_init__()
        check_numbers(
            self,
            counts=("num_samples", "scales", "rounds", "max_iterations"),
            rates=("temperature", "std", "tolerance"),
            weights=("l2",),
        )
        if not isinstance(self.noise, Noise):
            raise TypeError(f"noise must be WhiteNoise(), ColoredNoise(...) or KnotNoise(...), got {self.noise!r}")
        if self.planner is not None and not isinstance(self.planner, SamplingPlanner):
            raise TypeError(f"planner must be a sampling planner, such as MPPI(), got {type(self.planner).__name__}")

    def learn(
        self,
        problem: Problem | Task,
        cost: Cost,
        demonstrations: Sequence[Trajectory],
        *,
        candidates: Tensor | None = None,
        seed: int = 0,
    ) -> LearnedCost:
        """Learn; see :meth:`CostLearner.learn`.

        A cost with batch axes, such as a :class:`planners.CostMap` of several scenes, has one element for each demonstration.
        ``history`` has the objective after each round, and the ``report`` is a :class:`PathIntegralReport`.

        Args:
            problem: see there; control limits set the scale of the noise.
            cost: see there.
            demonstrations: see there.
            candidates: controls ``(N, K, T, m)`` to compare the demonstrations with, in place of noise about them.
            seed: of the noise.

        Raises:
            ValueError: also where control limits are missing or not finite, and candidates of another shape.
        """
        given = self._demonstrated(problem, cost, demonstrations)
        choice = _Choice(self, given, copied(cost))
        if not all(bool(p.isfinite().all()) for p in choice.parameters):
            raise ValueError("parameters must be finite; a weight of zero stays zero, so begin with positive ones")
        generator = torch.Generator().manual_seed(seed)
        if candidates is None:
            choice.add(choice.around(given.us, generator), choice.scales)
        else:
            choice.add(_checked(candidates, given))
        history, converged, certain = [], False, True
        rounds = 1 if self.planner is None else self.rounds
        for _ in range(rounds):
            if self.planner is not None:
                plans = choice.planned(self.planner, generator)
                choice.add(torch.cat([plans.unsqueeze(1), choice.around(plans, generator)], dim=1))
            certain = certain and choice.value() <= self.tolerance
            converged = choice.minimize() and not certain
            history.append(choice.value())
        unbounded = choice.scale_is_unbounded()
        if unbounded and not certain and not scale_is_fixed(given.problem):
            choice.place(with_the_sum_of(cost, choice.cost))
        return LearnedCost(choice.cost, converged, {"objective": history}, choice.report(certain, unbounded))

    def search(
        self, problem: Problem | Task, cost: Cost, demonstrations: Sequence[Trajectory], *, seed: int = 0
    ) -> WholeSearch:
        """A search at its start, whose noise is that of the seed; all of the learning is one iteration."""
        return WholeSearch(self, problem, cost, demonstrations, seed=seed)

    @property
    def acting(self) -> Planner:
        """The planner, if there is one."""
        return super().acting if self.planner is None else in_receding_horizon(self.planner)

    def first_guess(self, task: Task, cost: TaskCost, demonstrations: Sequence[Trajectory]) -> TaskCost:
        """Weights by which candidates of the largest noise differ from demonstrations by the temperature, in the median."""
        choice = _Choice(self, self._demonstrated(task, cost, demonstrations), cost)
        choice.add(choice.around(choice.given.us, torch.Generator().manual_seed(0)), choice.scales)
        with torch.no_grad():
            costs = choice.costs()
        apart = (costs[:, 1 :: choice.scales] - costs[:, :1]).abs()
        apart = apart[apart.isfinite() & (apart > 0)]
        factor = self.temperature / float(apart.median()) if len(apart) else 1.0
        return TaskCost(task, factor * cost.weights.detach(), terms=cost.terms)

    def _demonstrated(self, problem: Problem | Task, cost: Cost, demonstrations: Sequence[Trajectory]) -> Demonstrated:
        return Demonstrated.of(
            problem,
            cost,
            demonstrations,
            accepted=SamplingPlanner.supports - {"termination"},
            learner="PathIntegralIRL",
            other="make them part of the cost",
            pieces=(self.horizon, self.stride),
        )


class _Choice:
    """Demonstrations, their candidates, and the likelihood of the choice."""

    def __init__(self, settings: PathIntegralIRL, given: Demonstrated, cost: Cost):
        self.settings, self.given, self.cost = settings, given, cost
        self.problem = replace(given.problem, cost=cost)
        self.parameters = [p for p in cost.parameters() if p.requires_grad]
        self.first = [p.detach().clone() for p in self.parameters]
        self.xs, self.us = given.xs.unsqueeze(1), given.us.unsqueeze(1)  # demonstrations first, then candidates
        self.choices: list[Tensor] = []  # numbers of the candidates of each

    def around(self, us: Tensor, generator: torch.Generator) -> Tensor:
        """Noisy controls within the limits, about centers near controls ``(N, T, m)``: ``(N, num_samples, T, m)``."""
        limits = self.problem.control_limits
        finite = limits is not None and all(bool(torch.as_tensor(limit).isfinite().all()) for limit in limits)
        if self.problem.control_values is None and not finite:
            raise ValueError(
                f"PathIntegralIRL needs finite control_limits, which set the scale of its noise, got {limits}; or hand in "
                "candidates="
            )
        x0 = self.given.xs[:, 0]
        space = SearchSpace.of(self.problem, x0, Request(generator=generator), self.settings.noise, generator)
        number = self.settings.num_samples
        which = torch.arange(number, device=us.device) % self.scales  # each size in turn
        size = (self.settings.std * SMALLER ** -which.to(us)).view(-1, 1, 1) * space.half_range.unsqueeze(-3)
        noise = size * (space.draw(self.scales)[..., which, :, :] + space.draw(number))
        steps = noise if space.weights is None else torch.einsum("tk,nskm->nstm", space.weights, noise)
        return space.controls.admissible(us.unsqueeze(1) + steps)

    @property
    def scales(self) -> int:
        """Number of sizes of the noise."""
        settings = self.settings
        return min(settings.scales, settings.num_samples) if self.problem.control_values is None else 1

    def planned(self, planner: SamplingPlanner, generator: torch.Generator) -> Tensor:
        """Controls of plans under the cost so far, ``(N, T, m)``."""
        with torch.no_grad():
            return solve(self.problem, planner, self.given.xs[:, 0], generator=generator, throw=False).us

    def place(self, cost: Cost) -> None:
        """Set the cost."""
        self.cost, self.problem = cost, replace(self.problem, cost=cost)

    def add(self, us: Tensor, choices: int = 1) -> None:
        """Roll candidates ``(N, K, T, m)`` out and keep them, as so many choices in turn."""
        first = self.us.shape[1]
        self.choices += [
            torch.arange(first + i, first + us.shape[1], choices, device=us.device) for i in range(choices)
        ]
        with torch.no_grad():
            xs = self.problem.dynamics.rollout(self.given.xs[:, :1], us)
        self.xs, self.us = torch.cat([self.xs, xs], dim=1), torch.cat([self.us, us], dim=1)

    def costs(self, problem: Problem | None = None) -> Tensor:
        """Costs of demonstrations and candidates ``(N, 1 + K)``; infinite where a rollout is not finite.

        Args:
            problem: whose costs; by default those that are learned.
        """
        finite = self.xs.isfinite().all(-1).all(-1)
        # what is NaN in one would be NaN in the derivatives of all
        xs = torch.where(finite[..., None, None], self.xs, self.given.xs.unsqueeze(1))
        return (problem or self.problem).trajectory_cost(xs, self.us).masked_fill(~finite, float("inf"))

    @torch.no_grad()
    def scale_is_unbounded(self) -> bool:
        """Whether demonstrations are the cheapest by weighted terms, so that more of them is likelier without end."""
        if not isinstance(self.cost, WeightedCost):
            return False
        costs = self.costs(replace(self.problem, cost=self.cost.without_known(), terminal_value=None))
        finite = costs.isfinite()
        room = ROUNDING * torch.finfo(costs.dtype).eps * torch.where(finite, costs, 0.0).abs().amax(-1, keepdim=True)
        more = (costs - costs[:, :1])[:, 1:]
        return bool((more >= -room).all()) and bool((finite[:, 1:] & (more > room)).any())

    def objective(self) -> Tensor:
        """The mean negative log-likelihood, and the penalty."""
        scaled = -self.costs() / self.settings.temperature
        demonstrated = scaled[:, :1]
        log_p = [torch.log_softmax(torch.cat([demonstrated, scaled[:, k]], 1), dim=-1)[:, 0] for k in self.choices]
        change = [(p - first).square().sum() for p, first in zip(self.parameters, self.first, strict=True)]
        return -torch.stack(log_p).mean() + 0.5 * self.settings.l2 * torch.stack(change).sum()

    def value(self) -> float:
        """The objective as a number."""
        with torch.no_grad():
            return float(self.objective())

    def minimize(self) -> bool:
        """Lower the objective; whether its derivatives vanish.

        A line search that leads to where costs overflow is given up, and the next one begins at the best parameters so far.
        """
        settings, left = self.settings, self.settings.max_iterations
        for _ in range(MOST_SEARCHES):
            best, lowest = [p.detach().clone() for p in self.parameters], self.value()
            optimizer = torch.optim.LBFGS(
                self.parameters,
                max_iter=left,
                tolerance_grad=settings.tolerance,
                tolerance_change=0.0,
                line_search_fn="strong_wolfe",
            )

            def closure() -> Any:
                nonlocal best, lowest
                optimizer.zero_grad()  # noqa: B023 (called within the iteration)
                value = self.objective()
                value.backward()
                slopes = [p.grad for p in self.parameters if p.grad is not None]
                if not all(bool(part.isfinite().all()) for part in (value, *slopes)):
                    raise FloatingPointError("the costs of trajectories are not finite")
                if float(value.detach()) < lowest:
                    best, lowest = [p.detach().clone() for p in self.parameters], float(value.detach())
                return value

            try:
                optimizer.step(closure)
                break
            except FloatingPointError:
                with torch.no_grad():
                    for parameter, value in zip(self.parameters, best, strict=True):
                        parameter.copy_(value)
                left -= optimizer.state[self.parameters[0]]["n_iter"]
                if left < 1:
                    break
        for parameter in self.parameters:
            parameter.grad = None
        self.objective().backward()
        slope = max(float(p.grad.abs().amax()) for p in self.parameters if p.grad is not None)
        for parameter in self.parameters:
            parameter.grad = None
        return slope <= 10.0 * settings.tolerance

    def report(self, certain: bool, unbounded: bool) -> PathIntegralReport:
        """What the choice looks like; whether it was certain at first, and its scale unbounded, is handed on."""
        with torch.no_grad():
            costs = self.costs()
        p = torch.softmax(-costs / self.settings.temperature, dim=-1)[:, 0]
        ranks = (costs[:, 1:] < costs[:, :1]).sum(-1)
        excluded = int(costs.isinf().sum())
        return PathIntegralReport(p, ranks, costs.shape[1] - 1, excluded, certain, unbounded)


def _checked(candidates: Tensor, given: Demonstrated) -> Tensor:
    N, T, m = given.us.shape
    us = torch.as_tensor(candidates).to(given.us)
    if us.ndim != 4 or us.shape[1] == 0 or (us.shape[0], *us.shape[2:]) != (N, T, m):
        raise ValueError(f"candidates must have shape ({N}, K, {T}, {m}), K at least 1, got {tuple(us.shape)}")
    return us
