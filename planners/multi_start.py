r"""Local solvers from many first guesses: the best plan found, and which local minima there are.

A local planner finds the minimum in whose basin its first plan lies. Started from several plans, drawn around one,

.. math:: u^{(0)} = \bar u, \qquad u^{(i)} = \Pi_{\mathcal U}(\bar u + \sigma \, \epsilon^{(i)}), \quad i = 1 \dots S - 1,

with noise :math:`\epsilon` in time and the set :math:`\mathcal U` of controls that are allowed, it finds several. All starts of
all problems are one batch, whose last axis is that of the starts.
"""

import itertools
import math
from collections import Counter
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any

import torch
from torch import Tensor

from planners.control_set import expanded
from planners.problem import Limits, Problem
from planners.sampling.noise import ColoredNoise, Noise
from planners.sampling.space import SearchSpace
from planners.solution import Solution, SolveError, Status, shifted
from planners.solve import Planner, Request, check_support, solve

SHOWN = 8
"""Problems of a batch whose basins are printed."""


@dataclass(frozen=True)
class Basin:
    """A local minimum that some starts have led to; a cost on the way to one where no status is ``converged``.

    Attributes:
        cost: the smallest cost in it.
        starts: how many starts it has.
        statuses: how many of them ended with each status, by name.
    """

    cost: float
    starts: int
    statuses: dict[str, int]


@dataclass(frozen=True, eq=False)
class MultiStart:
    """What many starts have found.

    Attributes:
        best: the cheapest usable plan of each problem; where there is none, the first start's. ``spline`` and ``warm_start`` of
            the planner are left out.
        solutions: of all starts, with batch ``(*batch, starts)``.
        labels: the basin of each start, ``(*batch, starts)``: 0 is that of the best plan, -1 means that the plan is not usable.
    """

    best: Solution
    solutions: Solution
    labels: Tensor

    def basins(self, *element: int) -> list[Basin]:
        """The local minima of one problem of the batch, the best first; its index has one number for each batch axis.

        Raises:
            ValueError: the index has another number of axes.
        """
        if len(element) != self.labels.ndim - 1:
            raise ValueError(
                f"the batch has {self.labels.ndim - 1} axes, got {len(element)} numbers; basins(0) is the first of one axis"
            )
        labels, costs, codes = (v[element] for v in (self.labels, self.solutions.cost, self.solutions.status))
        found = []
        for label in range(int(labels.max()) + 1 if labels.numel() else 0):
            inside = labels == label
            statuses = _counted(codes[inside])
            found.append(Basin(float(costs[inside].min()), int(inside.sum()), statuses))
        return found

    def __str__(self) -> str:
        batch, starts = tuple(self.labels.shape[:-1]), self.labels.shape[-1]
        lines = [f"MultiStart(batch {batch}, {starts} starts): best {self.best}"]
        elements = list(itertools.product(*map(range, batch)))
        for element in elements[:SHOWN]:
            name = f"problem {', '.join(map(str, element))}: " if batch else ""
            basins = self.basins(*element)
            lines.append(f"{name}{len(basins)} basin{'' if len(basins) == 1 else 's'}")
            lines += [f"  cost {b.cost:<12.6g} {b.starts:>4} starts: {_words(b.statuses)}" for b in basins]
            lost = self.labels[element] < 0
            if bool(lost.any()):
                statuses = _counted(self.solutions.status[element][lost])
                lines.append(f"  not usable        {int(lost.sum()):>4} starts: {_words(statuses)}")
        if len(elements) > SHOWN:
            lines.append(f"and {len(elements) - SHOWN} more problems, see basins(...)")
        return "\n".join(lines)

    __repr__ = __str__


def multi_start(
    problem: Problem,
    planner: Planner,
    x0: Tensor,
    *,
    starts: int = 16,
    spread: float = 0.5,
    noise: Noise | None = None,
    controls: Tensor | None = None,
    init: Solution | None = None,
    tolerance: float = 1e-4,
    t0: int = 0,
    time: float | None = None,
    previous_control: Tensor | None = None,
    generator: torch.Generator | None = None,
    throw: bool = True,
) -> MultiStart:
    """Solve problems from several first guesses each, all as one batch.

    Functions of the problem see states ``(*batch, starts, ...)``: functions written for any batch, goals by element and
    parameters by world, whose batch axes come first, go on to work.

    Args:
        problem: what to solve.
        planner: how, one that starts from ``init``.
        x0: initial states ``(*batch, n)``.
        starts: first guesses of each problem. The first is ``init``, or no control; the others are drawn about it.
        spread: standard deviation of the draws, in halves of the range of the control limits; in the units of the controls where
            they have none.
        noise: how the draws vary in time; ``ColoredNoise()`` by default.
        controls: first guesses of your own ``(*batch, starts, T, m)`` (axes before ``starts`` broadcast), instead of draws.
        init: a previous solution to draw about.
        tolerance: costs that differ by less than this share, or its square, belong to one local minimum.
        t0: step of the first control.
        time: absolute time of x0 [s]; ``t0 * dt`` by default.
        previous_control: control before the first step ``(*batch, m)``.
        generator: source of randomness; seeded with 0 by default.
        throw: raise if a problem has no usable plan from any start.

    Raises:
        ValueError: an argument is out of range, shapes do not fit, or the planner cannot honor the problem.
        SolveError: no start of some problem has led to a usable plan and ``throw`` is set; it carries the best solution.
    """
    _check(problem, planner, x0, starts=starts, spread=spread, tolerance=tolerance)
    generator = torch.Generator(x0.device).manual_seed(0) if generator is None else generator
    time = t0 * problem.dynamics.dt if time is None else time
    batch, T = x0.shape[:-1], int(problem.horizon)
    wide = replace(
        problem, control_limits=_for_starts(problem.control_limits), rate_limits=_for_starts(problem.rate_limits)
    )
    if controls is None:
        request = Request(t0, time, previous_control, init, generator)
        us = _drawn(problem, x0, request, starts, spread, ColoredNoise() if noise is None else noise)
    else:
        if not isinstance(controls, Tensor):
            raise TypeError(f"controls must be a tensor (*batch, starts, T, m), got {type(controls).__name__}")
        starts = controls.shape[-3] if controls.ndim >= 3 else 1
        us = expanded("controls", controls.to(x0), (*batch, starts, T, problem.dynamics.control_dim))
    x0s = x0.unsqueeze(-2).expand(*batch, starts, x0.shape[-1])
    xs = problem.dynamics.rollout(x0s, us, t0).detach()
    if init is not None and controls is None:  # in multiple shooting its states count, and need not obey the dynamics
        late = round((time - init.time) / problem.dynamics.dt)
        first = shifted(init.xs.detach().to(xs), late, T + 1).expand_as(xs[..., 0, :, :])
        xs = torch.cat([first.unsqueeze(-3), xs[..., 1:, :, :]], dim=-3)
    unknown = xs.new_zeros((*batch, starts))
    solutions = solve(
        wide,
        planner,
        x0s,
        t0=t0,
        time=time,
        previous_control=None if previous_control is None else previous_control.unsqueeze(-2),
        init=Solution(wide, xs, us, unknown, unknown.long(), t0=t0, time=time),
        generator=generator,
        throw=False,
    )
    costs = solutions.cost.masked_fill(~solutions.usable, math.inf)
    best = replace(_picked(solutions, costs.argmin(-1)), problem=problem)
    if throw and not bool(best.usable.all()):
        raise SolveError(best)
    return MultiStart(best, solutions, _labels(costs, tolerance))


def _check(problem: Problem, planner: Planner, x0: Tensor, *, starts: int, spread: float, tolerance: float) -> None:
    check_support(problem, planner)
    if problem.horizon == math.inf:
        raise ValueError("the first guesses are plans of finite length, got horizon=math.inf")
    n = problem.dynamics.state_dim
    if not isinstance(x0, Tensor) or not x0.is_floating_point() or x0.ndim < 1 or x0.shape[-1] != n:
        came = f"{tuple(x0.shape)} of {x0.dtype}" if isinstance(x0, Tensor) else type(x0).__name__
        raise ValueError(f"x0 must be a floating-point tensor of shape (*batch, {n}), got {came}")
    if not (isinstance(starts, int) and starts >= 1):
        raise ValueError(f"starts must be an integer of at least 1, got {starts!r}")
    for name, value in {"spread": spread, "tolerance": tolerance}.items():
        if not 0 <= value < math.inf:
            raise ValueError(f"{name} must be a number of at least 0, got {value}")


def _drawn(problem: Problem, x0: Tensor, request: Request, starts: int, spread: float, noise: Noise) -> Tensor:
    """First guesses ``(*batch, starts, T, m)``: the plan of init, or no control, and draws about it."""
    generator = request.generator
    space = SearchSpace.of(problem, x0, request, noise, generator)  # type: ignore[arg-type]
    plan = torch.zeros_like(space.lower) if request.init is None else space.previous_plan(request.init)
    half = space.half_range
    std = spread * torch.where(half.isfinite(), half, 1.0)
    knots = torch.cat([plan.unsqueeze(-3), space.around(plan, std, starts - 1)], dim=-3)
    return space.allowed(knots)[1]


def _for_starts(limits: Limits | None) -> Limits | None:
    """Limits ``(*batch, T, m)`` with an axis for the starts before T; those without batch axes as they are."""
    if limits is None:
        return None
    lower, upper = (v.unsqueeze(-3) if isinstance(v, Tensor) and v.ndim > 2 else v for v in limits)
    return lower, upper


def _labels(costs: Tensor, tolerance: float) -> Tensor:
    """The basin of each cost ``(*batch, starts)``, the cheapest being 0; -1 where the cost is infinite.

    Sorted costs belong to one basin as long as each is within the tolerance of the one before it.
    """
    ordered, order = costs.sort(-1)
    below, above = ordered[..., :-1], ordered[..., 1:]
    apart = above - below > tolerance * torch.maximum(below.abs(), above.abs()) + tolerance**2
    first = torch.zeros_like(order[..., :1])
    ordinal = torch.cat([first, apart.long().cumsum(-1)], dim=-1)
    return torch.zeros_like(order).scatter(-1, order, ordinal).masked_fill(costs.isinf(), -1)


def _picked(solutions: Solution, index: Tensor) -> Solution:
    """The solutions of one start of each problem, ``(*batch,)`` of ``(*batch, starts)``."""
    axis = index.ndim

    def picked(value: Any) -> Any:
        if isinstance(value, Tensor):
            where = index.reshape(*index.shape, *[1] * (value.ndim - axis))
            return value.gather(axis, where.expand(*index.shape, 1, *value.shape[axis + 1 :])).squeeze(axis)
        if isinstance(value, tuple):
            return tuple(picked(one) for one in value)
        if isinstance(value, dict):
            return {name: picked(one) for name, one in value.items()}
        if is_dataclass(value) and not isinstance(value, type):
            return replace(value, **{f.name: picked(getattr(value, f.name)) for f in fields(value)})
        return value

    names = ("xs", "us", "cost", "status", "K", "P", "Quu", "violations", "multipliers", "certificate")
    chosen = {name: picked(getattr(solutions, name)) for name in names}
    return replace(solutions, spline=None, warm_start=None, stats=dict(solutions.stats), **chosen)


def _counted(codes: Tensor) -> dict[str, int]:
    counts = Counter(Status(code).name.lower() for code in codes.tolist())
    return dict(sorted(counts.items()))


def _words(statuses: dict[str, int]) -> str:
    return ", ".join(f"{count} {name}" for name, count in statuses.items())
