"""How well anything that acts does on a task: interquartile mean, confidence interval, success rate, video."""

import contextlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from dynamics import Trajectory
from mbrl.envs.making import AnyTask, EnvFactory, checked_id, vector_env
from mbrl.envs.recording import record_env, step_duration
from mbrl.envs.replay import drawing_env, replayed_frames
from mbrl.envs.task_vector_env import TaskVectorEnv
from mbrl.policies.actor import Actor, require_actor
from mbrl.recording import record
from mbrl.tasks.base import Task
from mbrl.tasks.worlds import TabularWorld


@dataclass(frozen=True, eq=False)
class Evaluation:
    """What an evaluation found.

    Attributes:
        returns: sum of rewards of each episode, ``(episodes,)``; minus infinity where the simulation diverged.
        iqm: interquartile mean of the returns (Agarwal et al. 2021), which outliers do not move.
        interval: 95 % percentile bootstrap confidence interval of the IQM; a point for a single episode.
        success_rate: share of successful episodes; None if the task does not define success.
        trajectories: the episodes.
    """

    returns: np.ndarray
    iqm: float
    interval: tuple[float, float]
    success_rate: float | None
    trajectories: list[Trajectory]

    def __str__(self) -> str:
        low, high = self.interval
        success = "" if self.success_rate is None else f", success {100 * self.success_rate:.0f} %"
        return f"return {self.iqm:.4g} (IQM of {len(self.returns)}, 95 % interval {low:.4g} to {high:.4g}){success}"


def evaluate(
    actor: Actor,
    task: AnyTask,
    *,
    episodes: int = 10,
    generator: torch.Generator | None = None,
    video: str | Path | None = None,
    progress: bool | None = False,
) -> Evaluation:
    """Run an actor deterministically and summarize its returns.

    Args:
        actor: anything that acts: a policy, a controller, MPC.
        task: what to run it on: a task, a world or process in tables, a gymnasium id, whose worlds are native where the library
            has them, or a function without arguments that makes a ``gymnasium.Env``. An environment that does not say how long
            a step takes (gymnasium's ``CartPole-v1``) is recorded with steps of 1 s.
        episodes: number of episodes, run as one batch.
        generator: source of initial states and of the actor's randomness; seeded with 0 by default.
        video: file to write the first episode to (mp4), of a gymnasium id as gymnasium draws it.
        progress: show a progress bar, of a task only; None shows it on a terminal.

    Raises:
        ValueError: gymnasium knows no such id, episodes < 1, the actor gave no control that there is, or see
            :func:`mbrl.record` and :func:`mbrl.record_env`.
        TypeError: actor is nothing that acts, or task none of these.
    """
    require_actor(actor)
    generator = generator or torch.Generator().manual_seed(0)
    if isinstance(task, TabularWorld):
        if video is not None:
            raise ValueError(f"worlds in tables draw no pictures, so there is no video {video}")
        return _summary(record(task, actor, episodes, generator=generator, progress=progress), None)
    if isinstance(task, Task):
        trajectories = record(task, actor, episodes, generator=generator, progress=progress)
        if video is not None:
            _write_task_video(video, task, trajectories)
        return _summary(trajectories, task)
    if callable(task) and video is not None:
        raise ValueError(
            f"a video is drawn of tasks and of gymnasium ids, got {task!r}; register it with gymnasium.register"
        )
    return _evaluate_env(actor, task if callable(task) else checked_id(task), episodes, generator, video)


def _evaluate_env(
    actor: Actor, env_id: str | EnvFactory, episodes: int, generator: torch.Generator, video: str | Path | None
) -> Evaluation:
    if episodes < 1:
        raise ValueError(f"episodes must be at least 1, got {episodes}")
    with contextlib.ExitStack() as stack:
        env = stack.enter_context(contextlib.closing(vector_env(env_id, episodes)))
        task = env.task if isinstance(env, TaskVectorEnv) else None
        # Whether it draws is known before the episodes are run.
        drawing = None
        if video is not None and task is None and isinstance(env_id, str):
            drawing = stack.enter_context(contextlib.closing(drawing_env(env_id)))
        dt = step_duration(env) or 1.0
        seed = int(torch.randint(2**31, (), generator=generator))
        trajectories = record_env(env, actor, episodes, dt=dt, seed=seed, generator=generator)
        if video is not None and task is not None:
            _write_task_video(video, task, trajectories)
        elif video is not None and drawing is not None:
            from mbrl.plots import write_video

            fps = drawing.metadata.get("render_fps") or 1.0 / dt
            write_video(video, replayed_frames(drawing, trajectories[0], seed), fps)
    return _summary(trajectories, task)


def _write_task_video(video: str | Path, task: Task, trajectories: list[Trajectory]) -> None:
    from mbrl.plots import write_task_video

    write_task_video(video, task, trajectories[0])


def _summary(trajectories: list[Trajectory], task: Task | None) -> Evaluation:
    returns = np.array([_return(trajectory) for trajectory in trajectories])
    success = None
    if task is not None and task.success is not None:
        finished = [t for t in trajectories if t.states is not None and not _diverged(t)]
        success = sum(bool(task.success(torch.from_numpy(np.array(t.states)))) for t in finished) / len(trajectories)
    low, high = bootstrap_interval(returns).tolist()
    return Evaluation(returns, interquartile_mean(returns), (low, high), success, trajectories)


def _diverged(trajectory: Trajectory) -> bool:
    """Whether a recorded episode ended because its simulation diverged, see :func:`mbrl.record`."""
    return not (trajectory.terminated or trajectory.truncated)


def _return(trajectory: Trajectory) -> float:
    """The sum of rewards; a short sum of costs before a divergence must not look good."""
    if trajectory.rewards is None or _diverged(trajectory):
        return float("-inf")
    return float(trajectory.rewards.sum())


def interquartile_mean(values: np.ndarray) -> float:
    """Mean of the middle half of values ``(N,)``."""
    from scipy.stats import trim_mean

    return float(trim_mean(values, 0.25))


def bootstrap_interval(values: np.ndarray) -> np.ndarray:
    """95 % percentile bootstrap confidence interval of the interquartile mean of values ``(N, ...)``: ``(2, ...)``."""
    from scipy.stats import trim_mean

    resampled = values[np.random.default_rng(0).choice(len(values), (2000, len(values)))]
    # a quantile that is one of the values: between a number and minus infinity there is none
    return np.quantile(trim_mean(resampled, 0.25, axis=1), [0.025, 0.975], axis=0, method="inverted_cdf")
