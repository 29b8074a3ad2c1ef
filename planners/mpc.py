"""Receding-horizon control: plan, execute the first control, plan again from the state that follows.

State goes in and comes out as a value: :meth:`MPC.step` changes nothing, so equal states and inputs give equal controls.
"""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from planners.control_set import ControlSet
from planners.deadline import Deadline
from planners.problem import Problem
from planners.solution import Solution, shifted
from planners.solve import Planner, check_support, solve


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
        problem: what is solved at every step.
        planner: how it is solved.
        budget: time to plan one step [s], None for no bound. An iterative planner ends when it does not leave room for one more
            iteration and the finish, each taken to last as long as the longest iteration so far; one iteration always runs.
            Where the last step has shown that one takes longer than the budget, sampling planners try fewer candidates in it.
        clock: returns the present time [s].

    Raises:
        ValueError: the budget is not positive or the planner cannot solve the problem.
        TypeError: problem is not a Problem, or planner not a planner.
    """

    acts_on: ClassVar[str] = "state"

    problem: Problem
    planner: Planner
    budget: float | None = None
    clock: Callable[[], float] = time.perf_counter

    def __post_init__(self):
        if self.budget is not None and not self.budget > 0:
            raise ValueError(f"budget must be a positive number of seconds, got {self.budget}")
        check_support(self.problem, self.planner)

    def init(self, x0: Tensor | int | tuple[int, ...] = (), *, generator: torch.Generator | None = None) -> MPCState:
        """The state before the first step.

        Args:
            x0: initial states ``(*batch, n)``, or the batch shape alone.
            generator: source of randomness; seeded with 0 by default. Where the states turn out to be on another device,
                one with the same seed there takes its place.
        """
        batch = x0.shape[:-1] if isinstance(x0, Tensor) else (x0,) if isinstance(x0, int) else tuple(x0)
        generator = generator.clone_state() if generator else torch.Generator().manual_seed(0)
        return MPCState(0, None, None, generator, torch.zeros(batch, dtype=torch.long), 0)

    def warm_up(self, x0: Tensor, *, generator: torch.Generator | None = None) -> MPCState:
        """The state before the first step, like :meth:`init`, but with a first plan from states ``(*batch, n)``.

        Takes its time: what is slow the first time is over then, and it is known how long an iteration takes. Step in it with
        the same states, or with those that have come since.
        """
        state = self.init(x0, generator=generator)
        unhurried = self if self.budget is None else replace(self, budget=math.inf)
        for _ in range(2):  # the second time is how long it takes
            _, state = unhurried.step(state, x0)
            state = replace(state, time=0, previous_control=None, fallbacks=torch.zeros_like(state.fallbacks))
        return state

    @torch.no_grad()
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
            reference: what to track from now on, ``(n,)``, by step ``(T+1, n)``, or for each of a batch ``(*batch, T+1, n)``,
                for a cost that has a reference.
            parameters: values for the model's physical parameters, for instance as estimated just now.

        Returns:
            Controls ``(*batch, m)``, always finite and allowed by the problem's limits, rate limits and values, and the state
            after the step. Where there is no usable plan, the previous plan goes on, with its gains where it has them; before
            any plan, zero, or what is allowed nearest to it.
        """
        if not isinstance(state, MPCState):
            raise TypeError(f"state must come from init or the step before, got {type(state).__name__}: step(state, x)")
        start = self.clock()
        deadline = self._deadline(start, state.solution)
        problem = self._problem(state, reference, parameters)
        generator = on_device(state.generator, x.device)
        solution = solve(
            problem,
            self.planner,
            x,
            t0=state.time,
            previous_control=state.previous_control,
            init=state.solution,
            generator=generator,
            throw=False,
            out_of_time=deadline,
        )
        if deadline is not None:
            solution.stats["iteration_seconds"] = deadline.iteration
        fallbacks = state.fallbacks.to(x.device) + (~solution.usable).long()
        solution = self._continued(state, solution)
        allowed = ControlSet.of(problem, x, solution.us.shape[-2], state.previous_control)
        solution = replace(solution, us=allowed.admissible(solution.us))
        u = self._feedback(solution, x)
        u = allowed.first().admissible(torch.where(u.isfinite(), u, 0.0).unsqueeze(-2)).squeeze(-2)
        overruns = state.overruns + (deadline is not None and deadline.was_late())
        return u, MPCState(state.time + 1, solution, u, generator, fallbacks, overruns)

    def act(self, x: Tensor, memory: MPCState, *, deterministic: bool = True) -> tuple[Tensor, MPCState]:
        """The actor protocol: :meth:`step` at states ``(*batch, n)``; always deterministic given the memory."""
        return self.step(memory, x)

    def _deadline(self, start: float, previous: Solution | None) -> Deadline | None:
        if self.budget is None:
            return None
        known = None if previous is None else previous.stats.get("iteration_seconds")
        return Deadline(start, self.budget, self.clock, known)

    def _problem(self, state: MPCState, reference: Tensor | None, parameters: dict[str, Any] | None) -> Problem:
        problem = self.problem
        if reference is not None:
            problem = replace(problem, cost=problem.cost.with_reference(reference, start=state.time))
        if parameters:
            problem = replace(problem, dynamics=problem.dynamics.with_parameters(**parameters))
        return problem

    def _continued(self, state: MPCState, solution: Solution) -> Solution:
        """The solution, but the rest of the previous plan where it is not usable; before any plan, zero."""
        previous, usable, T = state.solution, solution.usable, solution.us.shape[-2]
        if not bool(usable.all()):  # its signal and belief are not what goes on
            solution = replace(solution, spline=None, warm_start=None)
        if previous is None:
            return replace(solution, us=_where(usable, solution.us, torch.zeros_like(solution.us)))
        K, stationary = solution.K, previous.K is not None and previous.K.ndim == previous.us.ndim
        steps = 0 if stationary else state.time - previous.t0  # one gain for all times belongs to its own x and u
        xs = _where(usable, solution.xs, shifted(previous.xs, steps, T + 1))
        us = _where(usable, solution.us, shifted(previous.us, steps, T))
        if K is not None and previous.K is not None:
            K = _where(usable, K, previous.K if stationary else shifted(previous.K, steps, T, dim=-3))
        return replace(solution, xs=xs, us=us, K=K)

    def _feedback(self, solution: Solution, x: Tensor) -> Tensor:
        """The plan's first control, corrected by its gains where x is not the state that the plan expects (a new one does)."""
        u, K = solution.us[..., 0, :], solution.K
        if K is None:
            return u
        K = K if K.ndim == solution.us.ndim else K[..., 0, :, :]
        dx = self.problem.dynamics.difference(x, solution.xs[..., 0, :])
        corrected = u + (K @ dx.unsqueeze(-1)).squeeze(-1)
        return torch.where(corrected.isfinite().all(-1, keepdim=True), corrected, u)


def _where(mask: Tensor, new: Tensor, old: Tensor) -> Tensor:
    """``torch.where`` for a mask ``(*batch,)`` of the leading axes."""
    return torch.where(mask.reshape(*mask.shape, *[1] * (new.ndim - mask.ndim)), new, old.to(new))


def on_device(generator: torch.Generator, device: torch.device) -> torch.Generator:
    """A copy of a generator, or one of the same seed where it has to be on another device."""
    if generator.device.type == device.type:
        return generator.clone_state()
    return torch.Generator(device).manual_seed(generator.initial_seed())
