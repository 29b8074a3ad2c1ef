"""Receding-horizon control: plan, execute the first control, plan again from the state that follows.

State goes in and comes out as a value: :meth:`MPC.step` changes nothing, so equal states and inputs give equal controls.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from planners.problem import Problem
from planners.sampling.base import shifted
from planners.solution import Solution
from planners.solve import Planner, solve


@dataclass(frozen=True, eq=False)
class MPCState:
    """Where a control loop stands.

    Attributes:
        time: steps taken so far.
        solution: the last plan, with ``stats["seconds"]`` it took; None before the first step.
        previous_control: the control given last, ``(*batch, m)``; None before the first step.
        generator: source of randomness; its present state is part of the value.
        fallbacks: steps in which a fallback control was given because there was no usable plan, ``(*batch,)``.
        overruns: steps in which planning took longer than the budget.
    """

    time: int
    solution: Solution | None
    previous_control: Tensor | None
    generator: torch.Generator
    fallbacks: Tensor
    overruns: int


@dataclass(frozen=True, eq=False)
class MPC:
    """Model predictive control with any planner; acts like a policy on the state.

    Attributes:
        problem: what is solved at every step, with a finite horizon.
        planner: how it is solved.
        budget: time to plan one step [s]; iterative planners end at the first iteration that exceeds it. None: no bound.
        clock: returns the present time [s].

    Raises:
        ValueError: the budget is not positive or the planner cannot solve the problem.
    """

    acts_on: ClassVar[str] = "state"

    problem: Problem
    planner: Planner
    budget: float | None = None
    clock: Callable[[], float] = time.perf_counter

    def __post_init__(self):
        if self.budget is not None and not self.budget > 0:
            raise ValueError(f"budget must be a positive number of seconds, got {self.budget}")

    def init(self, x0: Tensor | int | tuple[int, ...] = (), *, generator: torch.Generator | None = None) -> MPCState:
        """The state before the first step.

        Args:
            x0: initial states ``(*batch, n)``, or the batch shape alone.
            generator: source of randomness; seeded with 0 by default.
        """
        if isinstance(x0, Tensor):
            batch, device = x0.shape[:-1], x0.device
        else:
            batch, device = ((x0,) if isinstance(x0, int) else tuple(x0)), torch.device("cpu")
        generator = generator.clone_state() if generator else torch.Generator(device).manual_seed(0)
        return MPCState(0, None, None, generator, torch.zeros(batch, dtype=torch.long, device=device), 0)

    def step(
        self,
        state: MPCState,
        x: Tensor,
        *,
        reference: Tensor | None = None,
        parameters: dict[str, Any] | None = None,
    ) -> tuple[Tensor, MPCState]:
        """One control.

        Args:
            state: from :meth:`init` or the previous step.
            x: present states ``(*batch, n)``.
            reference: what to track from now on, ``(n,)`` or ``(T+1, n)``, for a cost that has a reference.
            parameters: values for the model's physical parameters, for instance as estimated just now.

        Returns:
            Controls ``(*batch, m)``, always finite and within the limits, and the state after the step. Where there is no
            usable plan, the previous plan goes on, with its gains where it has them; before any plan, zero, clamped.
        """
        start = self.clock()
        problem = self._problem(state, reference, parameters)
        generator = state.generator.clone_state()
        solution = solve(
            problem,
            self.planner,
            x,
            t0=state.time,
            previous_control=state.previous_control,
            init=state.solution,
            generator=generator,
            throw=False,
            out_of_time=lambda: self._late(start),
        )
        us = torch.where(solution.usable[..., None, None], solution.us, self._previous_plan(state, solution))
        lower, upper = problem.limits_like(us)
        lower, upper = lower.expand(us.shape)[..., 0, :], upper.expand(us.shape)[..., 0, :]
        u = torch.where(solution.usable.unsqueeze(-1), us[..., 0, :], self._feedback(state, x, us[..., 0, :]))
        u = torch.minimum(torch.maximum(torch.where(u.isfinite(), u, torch.zeros_like(u)), lower), upper)
        solution = replace(solution, us=us)
        fallbacks = state.fallbacks + (~solution.usable).long()
        return u, MPCState(state.time + 1, solution, u, generator, fallbacks, state.overruns + self._late(start))

    def act(self, x: Tensor, memory: MPCState, *, deterministic: bool = True) -> tuple[Tensor, MPCState]:
        """The actor protocol: :meth:`step` at states ``(*batch, n)``; always deterministic given the memory."""
        return self.step(memory, x)

    def _late(self, start: float) -> bool:
        return self.budget is not None and self.clock() - start > self.budget

    def _problem(self, state: MPCState, reference: Tensor | None, parameters: dict[str, Any] | None) -> Problem:
        problem = self.problem
        if reference is not None:
            problem = replace(problem, cost=problem.cost.with_reference(reference, start=state.time))
        if parameters:
            problem = replace(problem, dynamics=problem.dynamics.with_parameters(**parameters))
        return problem

    def _previous_plan(self, state: MPCState, solution: Solution) -> Tensor:
        """The previous plan from this step on, or zeros; ``(*batch, T, m)``."""
        if state.solution is None:
            return torch.zeros_like(solution.us)
        steps = state.time - state.solution.t0
        return shifted(state.solution.us.to(solution.us), steps, solution.us.shape[-2]).expand(solution.us.shape)

    def _feedback(self, state: MPCState, x: Tensor, u: Tensor) -> Tensor:
        """The previous plan's control u corrected by its gains, where it has them and the state is finite."""
        previous = state.solution
        if previous is None or previous.K is None or previous.K.ndim <= previous.us.ndim:
            return u
        k = min(state.time - previous.t0, previous.us.shape[-2] - 1)
        dx = self.problem.dynamics.difference(x, previous.xs[..., k, :].to(x))
        corrected = u + (previous.K[..., k, :, :].to(x) @ dx.unsqueeze(-1)).squeeze(-1)
        return torch.where(corrected.isfinite(), corrected, u)
