"""Recorded episodes of gymnasium ids, drawn: they are lived again by one environment that draws."""

import warnings
from collections.abc import Iterator

import gymnasium
import numpy as np

from dynamics import Trajectory


def drawing_env(env_id: str) -> gymnasium.Env:
    """One environment of an id that gives pictures.

    Raises:
        ValueError: it does not draw pictures.
    """
    with warnings.catch_warnings():  # nobody can change gymnasium's own files
        warnings.filterwarnings("ignore", message="MuJoCo: .* is deprecated")
        plain = gymnasium.make(env_id)
        modes = plain.metadata.get("render_modes", [])
        plain.close()
        if "rgb_array" not in modes:
            raise ValueError(f"{env_id} draws no pictures: its render modes are {modes}, a video needs 'rgb_array'")
        return gymnasium.make(env_id, render_mode="rgb_array")


def replayed_frames(env: gymnasium.Env, trajectory: Trajectory, seed: int) -> Iterator[np.ndarray]:
    """The pictures ``(height, width, 3)`` of an episode, one for each of its ``T + 1`` observations.

    Args:
        env: what draws, see :func:`drawing_env`.
        trajectory: the first episode that an environment like it lived after ``reset(seed=seed)``.
        seed: of that reset.
    """
    space = env.action_space
    env.reset(seed=seed)
    yield _picture(env)
    for control in trajectory.controls:
        numbered = isinstance(space, gymnasium.spaces.Discrete)
        env.step(space.dtype.type(control[0]) if numbered else control.astype(space.dtype))
        yield _picture(env)


def _picture(env: gymnasium.Env) -> np.ndarray:
    return np.asarray(env.render(), dtype=np.uint8)
