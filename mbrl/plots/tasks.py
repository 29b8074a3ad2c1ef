"""Tasks in pictures: MuJoCo's where it can draw, otherwise drawings."""

import warnings
from pathlib import Path

import numpy as np
from torch import Tensor

from dynamics import MechanicalSystem, MujocoDynamics, Trajectory
from mbrl.plots.animation import animate
from mbrl.plots.rendering import MujocoRenderer, RenderingUnavailable
from mbrl.plots.video import states_at_frames, write_video
from mbrl.tasks.base import Task

MOST_FRAMES_PER_SECOND = 50.0


class TaskRenderer:
    """Draws states of a task, one call after the other: MuJoCo with the task's first camera, or as :func:`animate` does.

    Warns once where MuJoCo cannot draw. :meth:`close` ends the process that draws; so does losing the object.

    Args:
        task: the task; the scene is its MuJoCo model, or the twin of its plant or system.
        width: of the frames [pixel].
        height: of the frames [pixel].
    """

    def __init__(self, task: Task, *, width: int = 640, height: int = 360):
        self._task, self._size = task, {"width": width, "height": height}
        self._drawn = task.dynamics if task.system is None else task.system
        self._renderer: MujocoRenderer | None = None
        scene = task.dynamics if isinstance(task.dynamics, MujocoDynamics | MechanicalSystem) else task.system
        if isinstance(scene, MechanicalSystem):
            scene = MujocoDynamics(scene.mjcf())
        if isinstance(scene, MujocoDynamics):
            self._renderer = MujocoRenderer(scene.model, camera=0 if scene.model.ncam else -1, **self._size)

    def frames(self, states: np.ndarray | Tensor, fps: float | None = None) -> np.ndarray:
        """Frames ``(frames, height, width, 3)`` of states ``(T+1, n)`` in real time; by default one for each state."""
        dt = self._task.dynamics.dt
        fps = 1.0 / dt if fps is None else fps
        if self._renderer is not None:
            try:
                return self._renderer.frames(states_at_frames(states, dt, fps))
            except RenderingUnavailable as error:
                warnings.warn(f"{error}; drawn by matplotlib instead", stacklevel=3)
                self.close()
        return animate(self._drawn, states, fps=fps, **self._size)

    def close(self) -> None:
        """End the process that draws."""
        if self._renderer is not None:
            self._renderer.close()
            self._renderer = None


def render_task(
    task: Task, states: np.ndarray | Tensor, *, fps: float | None = None, width: int = 640, height: int = 360
) -> np.ndarray:
    """Frames of a motion of a task in real time; drawn by matplotlib, with a warning, where MuJoCo cannot draw.

    Args:
        task: says what the states mean.
        states: ``(T+1, n)``.
        fps: frames per second; by default one for each state.
        width: of the frames [pixel].
        height: of the frames [pixel].

    Returns:
        Frames ``(frames, height, width, 3)`` of uint8.

    Raises:
        ValueError: the states have another shape or are not finite.
    """
    renderer = TaskRenderer(task, width=width, height=height)
    try:
        return renderer.frames(states, fps)
    finally:
        renderer.close()


def write_task_video(
    path: str | Path, task: Task, trajectory: Trajectory, *, width: int = 640, height: int = 360
) -> Path:
    """Write an episode of a task as a video in real time, drawn as by :func:`render_task`.

    Args:
        path: the file, ``*.mp4``.
        task: the task.
        trajectory: an episode with states.
        width: of the frames [pixel].
        height: of the frames [pixel].

    Returns:
        The path.

    Raises:
        ValueError: the trajectory has no states, or the path does not end in ``.mp4``.
    """
    if trajectory.states is None:
        raise ValueError(f"{trajectory!r} has no states to draw; record it with mbrl.record, or record_env on a task")
    fps = min(1.0 / task.dynamics.dt, MOST_FRAMES_PER_SECOND)
    frames = render_task(task, trajectory.states, fps=fps, width=width, height=height)
    return write_video(path, frames, fps)
