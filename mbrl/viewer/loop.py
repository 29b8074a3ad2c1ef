"""A control loop on a task that can be stopped, pushed and started again: one step in, one state out, as values."""

import time
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from dynamics import Dynamics, MechanicalSystem, MujocoDynamics
from mbrl.policies.actor import Actor
from mbrl.tasks.base import Task


@dataclass(frozen=True, eq=False)
class LoopState:
    """Where a control loop stands.

    Attributes:
        x: state, ``(1, n)``.
        memory: of the actor.
        step: steps taken so far.
        control: given last, ``(m,)``; zero before the first step.
        reward: of the last step.
        total: sum of rewards.
        seconds: how long the actor took for the last step [s].
        ended: why the episode is over: ``"terminated"``, ``"diverged"``, or empty while it goes on.
    """

    x: Tensor
    memory: Any
    step: int
    control: Tensor
    reward: float = 0.0
    total: float = 0.0
    seconds: float = 0.0
    ended: str = ""

    @property
    def solution(self) -> Any:
        """The actor's last plan, where it remembers one."""
        return getattr(self.memory, "solution", None)


def begin(task: Task, actor: Actor, generator: torch.Generator, initial_state: Tensor | None = None) -> LoopState:
    """The state before the first step, drawn from the task unless it is given, ``(n,)``.

    Raises:
        ValueError: the initial state has another shape or is not finite.
    """
    n, m = task.dynamics.state_dim, task.dynamics.control_dim
    x = task.initial_state(1, generator) if initial_state is None else torch.as_tensor(initial_state).unsqueeze(0)
    if x.shape != (1, n) or not bool(x.isfinite().all()):
        raise ValueError(f"initial_state must have shape ({n},) and be finite, got {initial_state}")
    return LoopState(x, actor.init(1, generator=generator), 0, x.new_zeros(m))


@torch.no_grad()
def advance(task: Task, actor: Actor, state: LoopState) -> LoopState:
    """One control step.

    Raises:
        ValueError: the control has another shape or is not finite.
    """
    start = time.perf_counter()
    u, memory = actor.act(
        state.x if actor.acts_on == "state" else task.observe(state.x), state.memory, deterministic=True
    )
    seconds = time.perf_counter() - start
    if u.shape != (1, task.dynamics.control_dim) or not bool(u.isfinite().all()):
        raise ValueError(
            f"{type(actor).__name__} must give finite controls of shape (1, {task.dynamics.control_dim}), got {u.tolist()}"
        )
    lower, upper = (limit.to(state.x) for limit in task.limits())
    u = torch.minimum(torch.maximum(u.to(state.x), lower), upper)
    x = task.dynamics(state.x, u, state.step)
    if not bool(x.isfinite().all()):
        return replace(state, ended="diverged")
    reward = float(task.reward(state.x, u, x, state.step))
    terminated = task.termination is not None and bool(task.termination(x))
    return LoopState(
        x, memory, state.step + 1, u[0], reward, state.total + reward, seconds, "terminated" if terminated else ""
    )


def pushed(dynamics: Dynamics, state: LoopState, strength: float, generator: torch.Generator) -> LoopState:
    """The state with its velocities changed at random, by ``strength`` [m/s, rad/s] on average in each of them.

    A system that does not say which of its states are velocities is pushed in all of them.
    """
    push = torch.zeros_like(state.x)
    where = velocities(dynamics)
    push[:, where] = strength * torch.randn(push[:, where].shape, generator=generator, dtype=push.dtype)
    return replace(state, x=state.x + push)


def velocities(dynamics: Dynamics) -> slice:
    """Which states are velocities; all of them where the system does not say."""
    if isinstance(dynamics, MujocoDynamics):
        return slice(dynamics.model.nq, dynamics.model.nq + dynamics.model.nv)
    return slice(dynamics.state_dim // 2 if isinstance(dynamics, MechanicalSystem) else 0, dynamics.state_dim)
