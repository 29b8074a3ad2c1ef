"""A task as many environments that are stepped as one batch."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, overload

import numpy as np
import torch
from gymnasium.vector import AutoresetMode

from mbrl.envs.episodes import EpisodesVectorEnv, Info, Transition, Worlds, checked_worlds
from mbrl.envs.stepping import TaskStepper
from mbrl.envs.tabular import TabularVectorEnv
from mbrl.envs.task_env import TaskEnv, check_render_mode
from mbrl.tasks import Task
from mbrl.tasks.worlds import TabularWorld

if TYPE_CHECKING:
    from mbrl.plots.tasks import TaskRenderer


class TaskVectorEnv(EpisodesVectorEnv):
    """Many worlds of a task as a gymnasium vector environment, one call of the dynamics per step.

    Observations, rewards, flags and infos are those of gymnasium's ``SyncVectorEnv`` over as many :class:`TaskEnv`, in every
    autoreset mode. Only the worlds that begin an episode cost work of their own: each draws its first state from its own
    random numbers, so that a world with seed s lives the episodes of ``TaskEnv.reset(seed=s)``. Physical parameters of the
    dynamics may have one value per world.

    Actions are controls ``(num_envs, m)``, clipped to the limits, or, where the task lists its controls, their numbers
    ``(num_envs,)``. An episode whose simulation diverges is truncated there: state, observation and reward are NaN and
    ``info["diverged"]`` is true. ``info["cost"]`` is the task's constraint cost of a step, if it has one.

    Args:
        task: the task.
        num_envs: number of worlds.
        autoreset_mode: see :class:`mbrl.envs.episodes.EpisodesVectorEnv`.
        render_mode: ``"rgb_array"`` or None.

    Attributes:
        task: the task.
        state: the present states, ``(num_envs, n)`` float64; read only.

    Raises:
        ValueError: num_envs, a mode, or the number of worlds of a physical parameter is wrong.
        TypeError: task is none, or num_envs is no integer.
    """

    metadata: dict[str, Any] = {**TaskEnv.metadata, "autoreset_mode": AutoresetMode.NEXT_STEP}  # noqa: RUF012

    def __init__(
        self,
        task: Task,
        num_envs: int,
        *,
        autoreset_mode: AutoresetMode | str = AutoresetMode.NEXT_STEP,
        render_mode: str | None = None,
    ):
        worlds = checked_worlds(num_envs)
        self._stepper = TaskStepper(task, (worlds,))
        _check_parameters(task, worlds)
        self.task = task
        self.render_mode = check_render_mode(render_mode)
        super().__init__(worlds, self._stepper.observation_space(), self._stepper.action_space(), autoreset_mode)
        self.metadata["render_fps"] = round(1.0 / task.dynamics.dt)
        self._x = torch.zeros(worlds, task.dynamics.state_dim, dtype=torch.float64)
        self._renderer: TaskRenderer | None = None

    @property
    def dt(self) -> float:
        """Duration of a step [s]."""
        return self.task.dynamics.dt

    @property
    def state_dim(self) -> int:
        """Number of states of one world."""
        return self.task.dynamics.state_dim

    @property
    def state(self) -> np.ndarray:
        """A copy of the present states, ``(num_envs, n)``."""
        return self._x.numpy().copy()

    @property
    def _of(self) -> str:
        return self.task.name

    def _saved(self) -> dict[str, np.ndarray]:
        return {"state": self._x.numpy()}

    def _restore(self, arrays: Mapping[str, np.ndarray]) -> None:
        self._x = torch.from_numpy(arrays["state"].copy())

    def _begin(self, worlds: Worlds, states: np.ndarray | None) -> tuple[np.ndarray, Info]:
        if states is None:
            x = torch.stack([self._stepper.first_state(self._source(i)) for i in self._numbers[worlds].tolist()])
        else:
            x = torch.from_numpy(states.copy())
        self._x = self._with_rows(worlds, x)
        return self._stepper.observe(self._x)[worlds], {
            "state": x.numpy(),
            "diverged": np.zeros(len(x), dtype=bool),
        }

    def _advance(self, worlds: Worlds, actions: Any) -> Transition:
        # Worlds that do not go on are stepped too, because rows belong to worlds: at the first step, and nobody looks.
        ignored, times = np.ones(self.num_envs, dtype=bool), np.zeros(self.num_envs, dtype=np.int64)
        ignored[worlds], times[worlds] = False, self._elapsed[worlds]
        controls = self._stepper.controls(actions, ignored)
        step = self._stepper.step(self._x, controls, torch.from_numpy(times))
        self._x = self._with_rows(worlds, step.state[worlds])
        return Transition(
            self._stepper.observe(self._x)[worlds],
            step.reward.numpy()[worlds],
            step.terminated.numpy()[worlds],
            step.truncated.numpy()[worlds],
            {key: rows[worlds] for key, rows in step.info().items()},
        )

    def _with_rows(self, worlds: Worlds, x: torch.Tensor) -> torch.Tensor:
        """The present states with other rows in some worlds; a new tensor."""
        states = self._x.clone()
        states[worlds] = x
        return states

    # Pictures

    def render(self) -> tuple[np.ndarray, ...] | None:
        """The present state of each world as an image ``(height, width, 3)`` with render_mode ``"rgb_array"``."""
        if self.render_mode is None:
            return None
        if self._renderer is None:
            from mbrl.plots.tasks import TaskRenderer

            self._renderer = TaskRenderer(self.task)
        return tuple(self._renderer.frames(self._x))

    def close_extras(self, **kwargs: Any) -> None:
        """End the process that draws, if there is one."""
        if self._renderer is not None:
            self._renderer.close()
            self._renderer = None


def _check_parameters(task: Task, worlds: int) -> None:
    """Raise ValueError for parameters of as many worlds as there are not."""
    for name, parameter in task.dynamics.physical_parameters.items():
        shape = getattr(task.dynamics, name).shape
        if shape != parameter.shape and shape[0] != worlds:
            raise ValueError(f"parameter {name!r} has one value for each of {shape[0]} worlds, num_envs is {worlds}")


@overload
def make_vec_env(
    task: Task, num_envs: int, *, autoreset_mode: AutoresetMode | str = ..., render_mode: str | None = None
) -> TaskVectorEnv: ...
@overload
def make_vec_env(
    task: TabularWorld, num_envs: int, *, autoreset_mode: AutoresetMode | str = ..., render_mode: str | None = None
) -> TabularVectorEnv: ...
def make_vec_env(
    task: Task | TabularWorld,
    num_envs: int,
    *,
    autoreset_mode: AutoresetMode | str = AutoresetMode.NEXT_STEP,
    render_mode: str | None = None,
) -> TaskVectorEnv | TabularVectorEnv:
    """Many worlds of a task as one gymnasium vector environment, stepped as one batch.

    ``gymnasium.make_vec("mbrl/<name>-v0", num_envs=8, autoreset_mode="Disabled")`` makes those of the library's own tasks.

    Args:
        task: the task, or a world or process in tables.
        num_envs: number of worlds.
        autoreset_mode: see :class:`TaskVectorEnv`; to collect data for models take ``"Disabled"``.
        render_mode: ``"rgb_array"`` or None; None for tables.
    """
    if isinstance(task, TabularWorld):
        return TabularVectorEnv(task, num_envs, autoreset_mode=autoreset_mode, render_mode=render_mode)
    return TaskVectorEnv(task, num_envs, autoreset_mode=autoreset_mode, render_mode=render_mode)
