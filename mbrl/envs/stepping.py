"""What an environment does with a task, written once for one world and for many.

Everything here takes any batch axes: none for :class:`mbrl.TaskEnv`, one of worlds for :class:`mbrl.TaskVectorEnv`.
"""

from dataclasses import dataclass
from typing import Any

import gymnasium
import numpy as np
import torch
from torch import Tensor

from mbrl.tasks import Task
from planners.problem import check_shape


@dataclass(frozen=True, eq=False)
class Step:
    """What a step led to: state ``(*batch, n)``, and ``(*batch,)`` each of reward, flags and constraint cost, if there is one."""

    state: Tensor
    reward: Tensor
    terminated: Tensor
    truncated: Tensor
    diverged: Tensor
    cost: Tensor | None = None

    def info(self) -> dict[str, np.ndarray]:
        """What environments say beside observations, rewards and ends."""
        said = {"state": self.state, "diverged": self.diverged}
        return {
            key: value.numpy() for key, value in (said if self.cost is None else {**said, "cost": self.cost}).items()
        }


class TaskStepper:
    """Steps, observations and first states of a task.

    Args:
        task: the task.
        batch: ``()`` for one world, ``(num_envs,)`` for many.

    Raises:
        TypeError: task is none.
    """

    def __init__(self, task: Task, batch: tuple[int, ...] = ()):
        if not isinstance(task, Task):
            raise TypeError(f"task must be a Task, got {task!r}; gymnasium.make and gymnasium.make_vec take ids")
        self.task = task
        self.batch = batch

    def action_space(self) -> gymnasium.spaces.Box | gymnasium.spaces.Discrete:
        """The space of the actions of one world: controls, or numbers of control values where those are listed."""
        if self.task.control_values is not None:
            return gymnasium.spaces.Discrete(len(self.task.control_values))
        lower, upper = (limit.numpy().astype(np.float32) for limit in self.task.limits())
        return gymnasium.spaces.Box(lower, upper, dtype=np.float32)

    def observation_space(self) -> gymnasium.spaces.Box:
        """The space of the observations of one world."""
        worlds = self.batch[0] if self.batch else 1
        sample = self.observe(self.task.initial_state(worlds, torch.Generator().manual_seed(0)))
        return gymnasium.spaces.Box(-np.inf, np.inf, sample.shape[1:], np.float64)

    def first_state(self, random: np.random.Generator) -> Tensor:
        """A draw ``(n,)`` of the initial distribution; the same for one world and for one of many."""
        generator = torch.Generator().manual_seed(int(random.integers(2**62)))
        return self.task.initial_state(1, generator)[0].to(torch.float64)

    def given_state(self, state: Any) -> Tensor:
        """What a caller wants to begin from, ``(*batch, n)``; one state ``(n,)`` is for all worlds.

        Raises:
            ValueError: it has another shape.
        """
        x = torch.tensor(np.asarray(state, dtype=np.float64))  # a copy
        n = self.task.dynamics.state_dim
        if x.shape not in {(n,), (*self.batch, n)}:
            shape = f"({n},)" + (f" or ({self.batch[0]}, {n})" if self.batch else "")
            raise ValueError(f"options['state'] must have shape {shape}, got {tuple(x.shape)}")
        return x.expand(*self.batch, n)

    def controls(self, action: Any, ignored: np.ndarray | None = None) -> Tensor:
        """The control ``(*batch, m)`` of an action, within the limits.

        Args:
            action: controls ``(*batch, m)``, or numbers of control values ``(*batch,)`` where those are listed.
            ignored: worlds whose action may be anything, ``(*batch,)``.

        Raises:
            ValueError: the action is not finite, no number of a control value, or of another shape.
        """
        values = self.task.control_values
        each = f" for each of {self.batch[0]} worlds" if self.batch else ""
        if values is not None:
            numbers = np.asarray(action)
            if ignored is not None and numbers.shape == self.batch:
                numbers = np.where(ignored, 0, numbers)
            if numbers.shape != self.batch or numbers.dtype.kind not in "iu" or not _within(numbers, len(values)):
                raise ValueError(f"an action is an integer from 0 to {len(values) - 1}{each}, got {action!r}")
            return values.to(torch.float64)[torch.from_numpy(numbers.astype(np.int64))]
        u, shape = torch.as_tensor(action, dtype=torch.float64), (*self.batch, self.task.dynamics.control_dim)
        if ignored is not None and u.shape == shape:
            u = u.masked_fill(torch.from_numpy(ignored).unsqueeze(-1), 0.0)
        if u.shape != shape or not bool(u.isfinite().all()):
            raise ValueError(f"an action is {shape[-1]} finite numbers{each}, got {action!r}")
        return self.task.admissible(u)

    @torch.no_grad()
    def step(self, x: Tensor, u: Tensor, t: int | Tensor) -> Step:
        """Apply controls ``(*batch, m)`` to states ``(*batch, n)`` at steps t of the episodes.

        A world that diverges is NaN, with its reward, and truncated; the constraint cost is one of the state before.

        Raises:
            ValueError: a constraint cost is negative or not finite, or has another shape.
        """
        task = self.task
        x_next = task.dynamics(x, u, t)
        reward = check_shape("the stage cost", task.reward(x, u, x_next, t), self.batch)
        diverged = ~x_next.isfinite().all(-1)
        terminated = torch.zeros_like(diverged)
        if task.termination is not None:
            terminated = check_shape("termination", task.termination(x_next), self.batch).bool() & ~diverged
        truncated = ~terminated & (diverged | torch.as_tensor(t + 1 >= task.episode_steps))
        return Step(
            x_next.masked_fill(diverged.unsqueeze(-1), torch.nan),
            reward.masked_fill(diverged, torch.nan),
            terminated,
            truncated,
            diverged,
            self._constraint_cost(x, u),
        )

    def _constraint_cost(self, x: Tensor, u: Tensor) -> Tensor | None:
        if self.task.constraint_cost is None:
            return None
        cost = check_shape("constraint_cost", self.task.constraint_cost(x, u), self.batch).to(torch.float64)
        wrong = ~((cost >= 0) & cost.isfinite()) & x.isfinite().all(
            -1
        )  # worlds that have diverged wait for their reset
        if bool(wrong.any()):
            raise ValueError(
                f"constraint_cost of task {self.task.name} must be finite and not negative, got {cost.tolist()}"
            )
        return cost

    @torch.no_grad()
    def observe(self, x: Tensor) -> np.ndarray:
        """What states ``(*batch, n)`` look like, an array of its own."""
        return np.array(self.task.observe(x).numpy(), dtype=np.float64)


def _within(numbers: np.ndarray, count: int) -> bool:
    return bool(((numbers >= 0) & (numbers < count)).all())
