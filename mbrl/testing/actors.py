"""The contract of actors."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from mbrl.policies.actor import Actor
from mbrl.tasks.base import Task
from mbrl.testing.contract import require, require_close


def check_actor(actor: Actor, task: Task, *, tolerance: float = 1e-6) -> None:
    """Check everything that :class:`mbrl.Actor` promises, on observations or states of a task.

    Controls of the right shape, finite, in the dtype of what was seen and without gradient, for several batches in single and
    in double precision; a memory that is a value, so that acting twice from the same one gives the same and an old one can be
    gone back to; randomness from the generator of ``init`` alone; deterministic by default; observations left as they are;
    batched equals single where no randomness is involved.

    Args:
        actor: the actor to check.
        task: what it is made for.
        tolerance: of batched against single, times (1 + the largest control); networks in single precision need about 1e-6.

    Raises:
        ContractError: the contract is violated.
    """
    _check_protocol(actor)
    case = _ActorCase(actor, task, tolerance)
    for check in _ACTOR_CHECKS:
        check(case)


_EPISODES, _STEPS = 3, 4


@dataclass(frozen=True, eq=False)
class _ActorCase:
    actor: Actor
    task: Task
    tolerance: float

    @property
    def name(self) -> str:
        return type(self.actor).__name__

    @cached_property
    def seen(self) -> Tensor:
        """What the actor sees in some episodes of its own, ``(steps, episodes, dim)``."""
        x = self.task.initial_state(_EPISODES, torch.Generator().manual_seed(0))
        memory, ys = self.init(_EPISODES), []
        for t in range(_STEPS):
            y = x if self.actor.acts_on == "state" else self.task.observe(x)
            ys.append(y)
            u, memory = self.actor.act(y.clone(), memory)
            self.require_control(u, y)
            x = self.task.dynamics(x, self.task.admissible(u.detach().to(x)), t)
        return torch.stack(ys).detach()

    def init(self, batch: int, seed: int = 0) -> Any:
        return self.actor.init(batch, generator=torch.Generator().manual_seed(seed))

    def controls(self, ys: Tensor, *, seed: int = 0, **options: bool) -> Tensor:
        """``(steps, batch, m)`` for a sequence ``(steps, batch, dim)``."""
        memory, us = self.init(ys.shape[1], seed), []
        for y in ys:
            u, memory = self.actor.act(y.clone(), memory, **options)
            us.append(u)
        return torch.stack(us)

    def require_control(self, u: Any, y: Tensor) -> None:
        shape = (len(y), self.task.dynamics.control_dim)
        require(isinstance(u, Tensor), f"{self.name} must give a tensor, got {type(u).__name__}")
        require(u.shape == shape, f"{self.name} must give controls of shape {shape}, got {tuple(u.shape)}")
        require(
            u.dtype == y.dtype, f"{self.name} must give controls in the dtype of what it sees, {y.dtype}, got {u.dtype}"
        )
        require(bool(u.isfinite().all()), f"{self.name} must give finite controls, got {u.tolist()}")
        require(not u.requires_grad, f"{self.name} must give controls without gradient")


def _check_protocol(actor: Any) -> None:
    name = type(actor).__name__
    for part in ("acts_on", "init", "act"):
        require(not isinstance(actor, type) and hasattr(actor, part), f"{name} must have {part}, see mbrl.Actor")
    seen = ("observation", "state")
    require(actor.acts_on in seen, f"{name} must act on one of {', '.join(seen)}, got {actor.acts_on!r}")


def _check_controls(case: _ActorCase) -> None:
    ys = case.seen
    for dtype in (torch.float64, torch.float32):
        for batch in (1, _EPISODES):
            for deterministic in (True, False):
                memory = case.init(batch)
                for y in ys[:, :batch].to(dtype):
                    given = y.clone()
                    u, memory = case.actor.act(given, memory, deterministic=deterministic)
                    case.require_control(u, y)
                    require(torch.equal(given, y), f"{case.name} must not modify what it sees")


def _check_memory(case: _ActorCase) -> None:
    ys = case.seen
    for deterministic in (True, False):
        memory, memories, us = case.init(_EPISODES), [], []
        for y in ys:
            memories.append(memory)
            u, memory = case.actor.act(y.clone(), memory, deterministic=deterministic)
            us.append(u.clone())
        for t in reversed(range(len(ys))):  # back in time
            again, following = case.actor.act(ys[t].clone(), memories[t], deterministic=deterministic)
            same = torch.equal(again, us[t])
            require(
                same, f"{case.name} must hold no state: acting again from the memory of step {t} gives another control"
            )
            if t + 1 < len(ys):
                next_u, _ = case.actor.act(ys[t + 1].clone(), following, deterministic=deterministic)
                same = torch.equal(next_u, us[t + 1])
                require(
                    same, f"the memory of {case.name} must be a value: the one after step {t} differs the second time"
                )


def _check_randomness(case: _ActorCase) -> None:
    ys = case.seen
    before = torch.get_rng_state()
    for deterministic in (True, False):
        first, second = (case.controls(ys, deterministic=deterministic) for _ in range(2))
        require(torch.equal(first, second), f"{case.name} must give the same controls for equal generators")
    first, second = (case.actor.act(ys[0].clone(), case.actor.init(_EPISODES))[0] for _ in range(2))
    require(torch.equal(first, second), f"{case.name} must give the same controls when no generator is given")
    same = torch.equal(before, torch.get_rng_state())
    require(same, f"{case.name} must draw from the generator it is given, not the global one")
    by_default, told = case.controls(ys), case.controls(ys, deterministic=True)
    require(torch.equal(by_default, told), f"{case.name} must be deterministic by default")


def _check_batch(case: _ActorCase) -> None:
    ys = case.seen
    batch = case.controls(ys)
    if not torch.equal(batch, case.controls(ys, seed=1)):
        return  # random: which numbers an episode gets depends on the batch
    for i in range(_EPISODES):
        sentence = f"{case.name} must do in a batch what it does in each episode alone"
        require_close(case.controls(ys[:, i : i + 1])[:, 0], batch[:, i], case.tolerance, sentence)


_ACTOR_CHECKS: tuple[Callable[[_ActorCase], None], ...] = (
    _check_controls,
    _check_memory,
    _check_randomness,
    _check_batch,
)
