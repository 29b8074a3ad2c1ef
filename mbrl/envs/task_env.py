"""A task as a gymnasium environment."""

from typing import TYPE_CHECKING, Any

import gymnasium
import numpy as np
import torch

from mbrl.tasks import Task

if TYPE_CHECKING:
    from mbrl.plots.tasks import TaskRenderer


class TaskEnv(gymnasium.Env[np.ndarray, np.ndarray]):
    """A gymnasium environment over a task: reward is minus the cost, ``info["state"]`` the full state.

    Args:
        task: the task.
        render_mode: ``"rgb_array"`` or None.

    Attributes:
        task: the task.
        state: the present state, ``(n,)`` float64.
    """

    metadata: dict[str, Any] = {"render_modes": ["rgb_array"], "render_fps": 25}  # noqa: RUF012 (gymnasium's own form)

    def __init__(self, task: Task, *, render_mode: str | None = None):
        if render_mode not in (None, "rgb_array"):
            raise ValueError(f"render_mode must be None or 'rgb_array', got {render_mode!r}")
        self.task = task
        self.render_mode = render_mode
        self.metadata = {**self.metadata, "render_fps": round(1.0 / task.dynamics.dt)}
        lower, upper = (limit.numpy().astype(np.float32) for limit in task.limits())
        self.action_space: gymnasium.spaces.Box = gymnasium.spaces.Box(lower, upper, dtype=np.float32)
        sample = task.observe(task.initial_state(1, torch.Generator().manual_seed(0)))
        self.observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (sample.shape[-1],), np.float64)
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
        generator = torch.Generator().manual_seed(int(self.np_random.integers(2**62)))
        state = (options or {}).get("state")
        if state is None:
            self.state = self.task.initial_state(1, generator)[0].numpy()
        else:
            self.state = np.array(state, dtype=np.float64)
            if self.state.shape != (self.task.dynamics.state_dim,):
                raise ValueError(
                    f"options['state'] must have shape ({self.task.dynamics.state_dim},), got {self.state.shape}"
                )
        self._step = 0
        return self._observation(), {"state": self.state.copy()}

    @torch.no_grad()
    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """Apply a control, clipped to the limits, for dt seconds.

        An episode whose simulation diverges is truncated there: state, observation and reward are NaN and
        ``info["diverged"]`` is true.

        Raises:
            ValueError: the action is not finite or of the wrong shape.
        """
        x, u = torch.from_numpy(self.state), torch.as_tensor(action, dtype=torch.float64)
        if u.shape != self.action_space.shape or not bool(u.isfinite().all()):
            raise ValueError(f"an action is {self.action_space.shape[0]} finite numbers, got {action!r}")
        lower, upper = self.task.limits()
        u = torch.minimum(torch.maximum(u, lower), upper)
        x_next = self.task.dynamics(x, u, self._step)
        reward = float(self.task.reward(x, u, x_next, self._step))
        self.state = x_next.numpy()
        self._step += 1
        diverged = not bool(x_next.isfinite().all())
        terminated = not diverged and self.task.termination is not None and bool(self.task.termination(x_next))
        truncated = not terminated and (diverged or self._step >= self.task.episode_steps)
        return self._observation(), reward, terminated, truncated, {"state": self.state.copy(), "diverged": diverged}

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

    @torch.no_grad()
    def _observation(self) -> np.ndarray:
        return self.task.observe(torch.from_numpy(self.state)).numpy()


def make_env(task: Task, *, render_mode: str | None = None) -> TaskEnv:
    """The gymnasium environment of a task; ``gymnasium.make("mbrl/<name>-v0")`` makes those of the library's own tasks.

    Args:
        task: the task.
        render_mode: ``"rgb_array"`` or None.
    """
    return TaskEnv(task, render_mode=render_mode)
