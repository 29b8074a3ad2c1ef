"""A task as a gymnasium environment."""

from typing import TYPE_CHECKING, Any, overload

import gymnasium
import numpy as np
import torch

from mbrl.envs.stepping import TaskStepper
from mbrl.envs.tabular import TabularEnv
from mbrl.tasks import Task
from mbrl.tasks.worlds import TabularWorld

if TYPE_CHECKING:
    from mbrl.plots.tasks import TaskRenderer


class TaskEnv(gymnasium.Env[np.ndarray, Any]):
    """A gymnasium environment over a task: reward is minus the cost, ``info["state"]`` the full state.

    After a step ``info["cost"]`` is the task's constraint cost of the state and the control that it began with, if it has one.

    Args:
        task: the task.
        render_mode: ``"rgb_array"`` or None.

    Attributes:
        task: the task.
        state: the present state, ``(n,)`` float64.
    """

    metadata: dict[str, Any] = {"render_modes": ["rgb_array"], "render_fps": 25}  # noqa: RUF012 (gymnasium's own form)

    def __init__(self, task: Task, *, render_mode: str | None = None):
        self._stepper = TaskStepper(task)
        self.task = task
        self.render_mode = check_render_mode(render_mode)
        self.metadata = {**self.metadata, "render_fps": round(1.0 / task.dynamics.dt)}
        self.action_space = self._stepper.action_space()
        self.observation_space = self._stepper.observation_space()
        self.state = np.zeros(task.dynamics.state_dim)
        self._step = 0
        self._renderer: TaskRenderer | None = None

    @property
    def dt(self) -> float:
        """Duration of a step [s]."""
        return self.task.dynamics.dt

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Begin an episode; ``options={"state": x}`` begins it at a given state ``(n,)``."""
        super().reset(seed=seed)
        given = (options or {}).get("state")
        x = self._stepper.first_state(self.np_random) if given is None else self._stepper.given_state(given)
        self.state = x.numpy()
        self._step = 0
        return self._stepper.observe(x), {"state": self.state.copy(), "diverged": False}

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """Apply a control, clipped to the limits (or a numbered one, where the task lists them), for dt seconds.

        An episode whose simulation diverges is truncated there: state, observation and reward are NaN and
        ``info["diverged"]`` is true.

        Raises:
            ValueError: the action is not finite, of the wrong shape, or no number of a control.
        """
        u = self._stepper.controls(action)
        step = self._stepper.step(torch.from_numpy(self.state), u, self._step)
        self.state = step.state.numpy()
        self._step += 1
        info = {"state": self.state.copy(), "diverged": bool(step.diverged)}
        if step.cost is not None:
            info["cost"] = float(step.cost)
        y = self._stepper.observe(step.state)
        return y, float(step.reward), bool(step.terminated), bool(step.truncated), info

    def render(self) -> np.ndarray | None:
        """The present state as an image ``(height, width, 3)`` with render_mode ``"rgb_array"``."""
        if self.render_mode is None:
            return None
        if self._renderer is None:
            from mbrl.plots.tasks import TaskRenderer

            self._renderer = TaskRenderer(self.task)
        return self._renderer.frames(self.state[None])[0]

    def close(self) -> None:
        """End the process that draws, if there is one."""
        if self._renderer is not None:
            self._renderer.close()
            self._renderer = None


def check_render_mode(render_mode: str | None) -> str | None:
    """The mode, or a ValueError if environments of tasks do not have it."""
    if render_mode not in (None, "rgb_array"):
        raise ValueError(f"render_mode must be None or 'rgb_array', got {render_mode!r}")
    return render_mode


@overload
def make_env(task: Task, *, render_mode: str | None = None) -> TaskEnv: ...
@overload
def make_env(task: TabularWorld, *, render_mode: str | None = None) -> TabularEnv: ...
def make_env(task: Task | TabularWorld, *, render_mode: str | None = None) -> TaskEnv | TabularEnv:
    """The gymnasium environment of a task; ``gymnasium.make("mbrl/<name>-v0")`` makes those of the library's own tasks.

    Args:
        task: the task, or a world or process in tables.
        render_mode: ``"rgb_array"`` or None; None for tables.
    """
    if isinstance(task, TabularWorld):
        return TabularEnv(task, render_mode=render_mode)
    return TaskEnv(task, render_mode=render_mode)
