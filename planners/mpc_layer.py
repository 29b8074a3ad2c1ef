"""Model predictive control as a layer of a network: states in, first controls out, derivatives by everything in between."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from planners.implicit import Implicit
from planners.problem import Problem
from planners.solution import Solution
from planners.solve import Planner, Unrolled, check_support, solve


class MPCLayer(nn.Module):
    """The first control of the plan from each state, differentiable by the state and by all tensors of the problem.

    The layer holds no state. A warm start is a value: hand in the solution that the step before returned. Derivatives reach the
    state, references and everything that dynamics, cost, limits and constraints are made of; none pass through warm starts, as
    the plan that solves a problem does not depend on where its search began.

    Where a plan is not a strict local minimum, its gradient is what ``gradient.invalid`` says. With ``"raise"`` (the default) a
    state without a usable plan is an error as well; with ``"zero"`` and ``"one-step"`` it is returned as it is, so weight a
    loss by ``solution.certificate.optimal``.

    Args:
        problem: what to solve; its dynamics, cost and constraints become submodules, whose parameters are those of the layer. Or
            a function that returns the problem, such as a module that makes it from its parameters, called in every
            :meth:`forward` with the inputs after the state.
        planner: how to solve it.
        gradient: how derivatives come about.

    Raises:
        TypeError: problem is neither a Problem nor a function; ValueError: the planner cannot solve or differentiate it.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> from dynamics import Pendulum
        >>> from planners import DDP, MPCLayer, Problem, QuadraticCost
        >>> cost = QuadraticCost(nn.Parameter(torch.eye(2).double()), 0.1 * torch.eye(1).double())
        >>> layer = MPCLayer(Problem(Pendulum(), cost, 10, control_limits=(-2.0, 2.0)), DDP())
        >>> u, solution = layer(torch.tensor([[0.1, 0.0]], dtype=torch.float64))
        >>> u.sum().backward()
        >>> cost.Q.grad.shape
        torch.Size([2, 2])
    """

    def __init__(
        self,
        problem: Problem | Callable[..., Problem],
        planner: Planner,
        *,
        gradient: Implicit | Unrolled | None = None,
    ):
        super().__init__()
        self.planner, self.gradient = planner, Implicit() if gradient is None else gradient
        self.problem = problem  # registers a factory that is a module
        if isinstance(problem, Problem):
            check_support(problem, planner, self.gradient)
            self.dynamics, self.cost = problem.dynamics, problem.cost
            self.constraints = nn.ModuleList(dict.fromkeys(problem.all_constraints))
            if isinstance(problem.terminal_value, nn.Module):
                self.terminal_value = problem.terminal_value
        elif not callable(problem):
            raise TypeError(f"problem must be a Problem or a function that returns one, got {type(problem).__name__}")

    def forward(
        self,
        x: Tensor,
        *inputs: Any,
        init: Solution | None = None,
        reference: Tensor | None = None,
        t0: int = 0,
        generator: torch.Generator | None = None,
    ) -> tuple[Tensor, Solution]:
        """Plan from states.

        Args:
            x: states ``(*batch, n)``.
            *inputs: what the function that makes the problem is called with.
            init: solution to start the search from, read at the time of ``t0``; derivatives do not pass through it.
            reference: reference from this step on, ``(n,)``, ``(L, n)`` or ``(*batch, L, n)``, for a cost that tracks one.
            t0: step of the first control: the number of steps that a loop has taken.
            generator: source of randomness of planners that need one.

        Returns:
            First controls ``(*batch, m)`` and the solution that they are from.

        Raises:
            TypeError: inputs are given and the problem is fixed, or what makes the problem returns something else.
            SolveError: some state has no usable plan, unless the gradient has another way with invalid plans.
        """
        problem = self._problem(inputs)
        if reference is not None:
            problem = replace(problem, cost=problem.cost.with_reference(reference, start=t0))
        solution = solve(
            problem,
            self.planner,
            x,
            t0=t0,
            init=init.detach() if isinstance(init, Solution) else init,
            gradient=self.gradient,
            generator=generator,
            throw=not isinstance(self.gradient, Implicit) or self.gradient.invalid == "raise",
        )
        return solution.us[..., 0, :], solution

    def _problem(self, inputs: tuple[Any, ...]) -> Problem:
        if isinstance(self.problem, Problem):
            if inputs:
                raise TypeError(
                    f"the layer has a fixed problem and takes the state alone, got {len(inputs)} more inputs; construct it with "
                    "a function that makes the problem from them"
                )
            return self.problem
        problem = self.problem(*inputs)
        if not isinstance(problem, Problem):
            raise TypeError(f"the function that makes the problem must return a Problem, got {type(problem).__name__}")
        return problem

    def extra_repr(self) -> str:
        """Planner and gradient."""
        return f"planner={self.planner!r}, gradient={self.gradient!r}"
