"""One verb for all planners: :func:`solve`."""

import abc
import inspect
import math
import numbers
from collections.abc import Callable
from dataclasses import dataclass, replace
from time import perf_counter
from typing import ClassVar

import torch
from torch import Tensor

from planners.deadline import Deadline
from planners.implicit import Implicit, with_derivatives
from planners.problem import Problem
from planners.solution import Solution, SolveError


@dataclass(frozen=True)
class Unrolled:
    """Differentiate the solution by backpropagating through the planner's own computation."""


@dataclass(frozen=True)
class Planner(abc.ABC):
    """A planner: a frozen configuration without state.

    Class attributes:
        supports: the features of a problem (:meth:`Problem.features`) that the planner honors.
        gradients: the values of ``gradient`` that :func:`solve` accepts beside None.
    """

    supports: ClassVar[frozenset[str]] = frozenset()
    gradients: ClassVar[tuple[type, ...]] = ()

    def check(self, problem: Problem) -> None:  # noqa: B027 (most planners have nothing to add)
        """Raise ValueError if the problem cannot be solved by this planner for a reason beyond ``supports``."""

    def differentiated(self, solution: Solution, x0: Tensor, gradient: Implicit, request: "Request") -> Solution:
        """The solution with derivatives by the optimality conditions; ``x0`` as it was handed to :func:`solve`."""
        return with_derivatives(solution, x0, gradient)

    @abc.abstractmethod
    def plan(self, problem: Problem, x0: Tensor, request: "Request") -> Solution:
        """Solve from initial states ``(*batch, n)``; called by :func:`solve` after all checks."""


@dataclass(frozen=True, eq=False)
class Request:
    """What comes with a solve beside the problem and x0.

    Attributes:
        t0: step of the first control.
        time: absolute time of x0 [s].
        previous_control: control before the first step, ``(*batch, m)``, or None.
        init: a previous solution to start from, or None.
        generator: source of randomness, or None for a fresh one with seed 0.
        out_of_time: true once the solve should end; checked between iterations.
        share: how much of the next iteration there is time for, at most 1.
    """

    t0: int = 0
    time: float = 0.0
    previous_control: Tensor | None = None
    init: Solution | None = None
    generator: torch.Generator | None = None
    out_of_time: Callable[[], bool] = lambda: False
    share: Callable[[], float] = lambda: 1.0


def solve(
    problem: Problem,
    planner: Planner,
    x0: Tensor,
    *,
    t0: int = 0,
    time: float | None = None,
    previous_control: Tensor | None = None,
    init: Solution | None = None,
    gradient: Unrolled | Implicit | None = None,
    generator: torch.Generator | None = None,
    throw: bool = True,
    out_of_time: Callable[[], bool] | None = None,
) -> Solution:
    """Plan from initial states.

    Args:
        problem: what to solve.
        planner: how to solve it.
        x0: initial states ``(*batch, n)``, one problem each; the solve runs in their dtype.
        t0: step of the first control.
        time: absolute time of x0 [s], at which a previous solution is read; ``t0 * dt`` by default. A loop that plans at
            another rate than the model's steps passes its own.
        previous_control: control before the first step ``(*batch, m)``, from which rate limits count.
        init: a previous solution to start from, read as a function of absolute time.
        gradient: None returns tensors without a graph; ``Implicit()`` differentiates the optimality conditions of the solution,
            ``Unrolled()`` the computation.
        generator: source of randomness of sampling planners; a fresh one with seed 0 by default, so equal calls agree.
        throw: raise if a problem has no usable plan.
        out_of_time: asked between iterations; the solve ends with the best plan so far once it is true.

    Returns:
        The solution; its status is per batch element.

    Raises:
        ValueError: shapes do not fit, or the planner cannot honor a field of the problem (the message names those that can).
        TypeError: problem is not a Problem, planner not a planner, or another argument of another kind.
        SolveError: some problem has no usable plan and ``throw`` is set; the error carries the solution.
    """
    check_support(problem, planner, gradient)
    dynamics = problem.dynamics
    if not isinstance(x0, Tensor) or not x0.is_floating_point() or x0.ndim < 1 or x0.shape[-1] != dynamics.state_dim:
        came = f"{tuple(x0.shape)} of {x0.dtype}" if isinstance(x0, Tensor) else type(x0).__name__
        raise ValueError(f"x0 must be a floating-point tensor of shape (*batch, {dynamics.state_dim}), got {came}")
    _check_kind("previous_control", previous_control, Tensor, "torch.tensor([...])")
    _check_kind("init", init, Solution, "what solve returned before")
    _check_kind("generator", generator, torch.Generator, "torch.Generator().manual_seed(0)")
    if previous_control is not None and previous_control.shape[-1:] != (dynamics.control_dim,):
        raise ValueError(
            f"previous_control must have shape (*batch, {dynamics.control_dim}), got {tuple(previous_control.shape)}"
        )
    if previous_control is not None and not bool(previous_control.isfinite().all()):
        raise ValueError(f"previous_control must be finite, got {previous_control.tolist()}")
    if problem.horizon != math.inf:
        window = problem.cost.window(t0, int(problem.horizon))
        problem = problem if window is problem.cost else replace(problem, cost=window)
    time = t0 * dynamics.dt if time is None else time
    if not (isinstance(time, numbers.Real) and math.isfinite(time)):
        raise ValueError(f"time must be a finite number of seconds, got {time}")
    request = Request(t0, time, previous_control, init, generator, out_of_time or (lambda: False))
    if isinstance(out_of_time, Deadline):
        request = replace(request, share=out_of_time.share)
    start = perf_counter()
    with torch.set_grad_enabled(isinstance(gradient, Unrolled)):
        solution = replace(planner.plan(problem, x0, request), time=time)
    solution.stats["seconds"] = perf_counter() - start
    if throw and not bool(solution.usable.all()):
        raise SolveError(solution)
    if isinstance(gradient, Implicit):
        solution = planner.differentiated(solution, x0, gradient, request)
        solution.stats["seconds"] = perf_counter() - start
    return solution


def check_support(problem: Problem, planner: Planner, gradient: Unrolled | Implicit | None = None) -> None:
    """Raise TypeError for another kind of object, ValueError unless the planner honors every field and the kind of gradient."""
    if not isinstance(problem, Problem):
        raise TypeError(f"problem must be a Problem, got {type(problem).__name__}; a task has one: task.problem()")
    if not isinstance(planner, Planner):
        raise TypeError(f"planner must be a planner such as LQR(), got {planner!r}")
    unsupported = problem.features() - planner.supports
    if unsupported:
        able = sorted(p.__name__ for p in _planners(Planner) if problem.features() <= p.supports)
        everything = ", ".join(sorted(problem.features()))
        raise ValueError(
            f"{type(planner).__name__} cannot honor: {', '.join(sorted(unsupported))}; "
            f"{'use ' + ' or '.join(able) if able else f'no planner here honors all of {everything}'}"
        )
    if gradient is not None and not isinstance(gradient, planner.gradients):
        accepted = ", ".join(kind.__name__ + "()" for kind in planner.gradients) or "no gradient"
        raise ValueError(f"{type(planner).__name__} offers {accepted}, got gradient={gradient!r}")
    planner.check(problem)
    if isinstance(gradient, Implicit):
        gradient.check(problem)


def _check_kind(name: str, value: object, kind: type, example: str) -> None:
    if value is not None and not isinstance(value, kind):
        raise TypeError(f"{name} must be a {kind.__name__}, such as {example}, got {type(value).__name__}")


def _planners(base: type[Planner]) -> list[type[Planner]]:
    """The planners of this package; those of users, and of tests, are theirs to recommend."""
    ours = [kind for kind in base.__subclasses__() if kind.__module__.partition(".")[0] == __package__]
    return [kind for kind in ours if not inspect.isabstract(kind)] + [p for kind in ours for p in _planners(kind)]
