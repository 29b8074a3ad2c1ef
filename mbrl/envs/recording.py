"""Trajectories from any gymnasium environment, with no transition that never happened."""

import abc
from typing import Any

import gymnasium
import numpy as np
import torch

from dynamics import Trajectory
from mbrl.policies.actor import Actor
from mbrl.tasks import Task


def record_env(
    env: gymnasium.Env | gymnasium.vector.VectorEnv,
    actor: Actor | None,
    episodes: int,
    *,
    dt: float | None = None,
    seed: int = 0,
    generator: torch.Generator | None = None,
) -> list[Trajectory]:
    """Episodes of any gymnasium environment with Box spaces.

    Args:
        env: an environment, or a vector environment whose autoreset mode is DISABLED, so that no transition is made up.
        actor: anything that acts on observations, or on states where ``info["state"]`` has them; None samples the action space.
        episodes: number of episodes.
        dt: duration of a step [s]; the environment's own ``dt`` or ``task.dynamics.dt`` by default.
        seed: of the first reset and of the sampled actions.
        generator: source of the actor's randomness.

    Returns:
        One trajectory per episode; states come from ``info["state"]`` where the environment gives them.

    Raises:
        ValueError: the vector environment resets by itself, the spaces are no Boxes of one axis, dt is unknown, or the actor
            needs states that the environment does not give.
    """
    if episodes < 1:
        raise ValueError(f"episodes must be at least 1, got {episodes}")
    if isinstance(env, gymnasium.vector.VectorEnv):
        recorder: _EnvRecorder = _VectorRecorder(env, actor, dt, generator)
    else:
        recorder = _SingleRecorder(env, actor, dt, generator)
    return recorder.run(episodes, seed)


class _EpisodeLog:
    """One episode while it runs."""

    def __init__(self, observation: np.ndarray, state: np.ndarray | None):
        self.observations, self.states = [observation], [] if state is None else [state]
        self.controls: list[np.ndarray] = []
        self.rewards: list[float] = []

    def add(self, control: np.ndarray, reward: float, observation: np.ndarray, state: np.ndarray | None) -> None:
        self.controls.append(control)
        self.rewards.append(float(reward))
        self.observations.append(observation)
        if state is not None:
            self.states.append(state)


class _EnvRecorder(abc.ABC):
    """What recording from one environment and from many has in common."""

    def __init__(self, env: Any, actor: Actor | None, dt: float | None, generator: torch.Generator | None):
        self.env, self.actor, self.generator = env, actor, generator
        self.observation_space = getattr(env, "single_observation_space", env.observation_space)
        self.action_space = getattr(env, "single_action_space", env.action_space)
        _check_boxes(self.observation_space, self.action_space)
        self.dt = _env_dt(env) if dt is None else dt
        spec = getattr(env, "spec", None)
        task = _attribute(env, "task")
        self.task = task if isinstance(task, Task) else None
        self.name = spec.id if spec is not None else type(env).__name__

    @abc.abstractmethod
    def run(self, episodes: int, seed: int) -> list[Trajectory]:
        """That many episodes."""

    def _controls(self, y: np.ndarray, info: dict[str, Any], memory: Any) -> tuple[np.ndarray, Any]:
        """Actions ``(batch, m)`` for observations ``(batch, ny)`` within the action space."""
        low, high = self.action_space.low, self.action_space.high
        if self.actor is None:
            actions = np.stack([self.action_space.sample() for _ in y])
        else:
            if self.actor.acts_on == "state" and "state" not in info:
                raise ValueError(
                    f"{type(self.actor).__name__} acts on the state, which {self.name} does not give in info"
                )
            seen = np.asarray(info["state"] if self.actor.acts_on == "state" else y, dtype=np.float64)
            u, memory = self.actor.act(torch.from_numpy(seen.reshape(len(y), -1)), memory)
            actions = u.numpy()
        return np.clip(actions, low, high).astype(self.action_space.dtype), memory

    def _trajectory(self, log: _EpisodeLog, terminated: bool, truncated: bool, index: int) -> Trajectory:
        return Trajectory(
            np.stack(log.observations),
            np.stack(log.controls) if log.controls else np.zeros((0, self.action_space.shape[0])),
            states=np.stack(log.states) if log.states else None,
            rewards=np.array(log.rewards),
            dt=self.dt,
            terminated=terminated,
            truncated=truncated and not terminated,
            source=f"{self.name} episode {index}",
            names=self.task.names if self.task else None,
            units=self.task.units if self.task else None,
        )


class _SingleRecorder(_EnvRecorder):
    def run(self, episodes: int, seed: int) -> list[Trajectory]:
        self.action_space.seed(seed)
        found = []
        for index in range(episodes):
            y, info = self.env.reset(seed=seed if index == 0 else None)
            memory = None if self.actor is None else self.actor.init(1, generator=self.generator)
            log = _EpisodeLog(np.array(y), _copy(info.get("state")))
            terminated = truncated = False
            while not (terminated or truncated):
                u, memory = self._controls(np.asarray(y)[None], info, memory)
                y, reward, terminated, truncated, info = self.env.step(u[0])
                log.add(u[0], float(reward), np.array(y), _copy(info.get("state")))
            found.append(self._trajectory(log, bool(terminated), bool(truncated), index))
        return found


class _VectorRecorder(_EnvRecorder):
    """Runs episodes in rounds of num_envs; a world that has ended is reset only when its round is over."""

    def __init__(self, env: Any, actor: Actor | None, dt: float | None, generator: torch.Generator | None):
        super().__init__(env, actor, dt, generator)
        mode = env.metadata.get("autoreset_mode")
        if mode != gymnasium.vector.AutoresetMode.DISABLED:
            raise ValueError(
                f"{self.name} has autoreset mode {mode}, which mixes resets into the steps; make it with "
                'vector_kwargs={"autoreset_mode": gymnasium.vector.AutoresetMode.DISABLED}'
            )

    def run(self, episodes: int, seed: int) -> list[Trajectory]:
        self.action_space.seed(seed)
        found: list[Trajectory] = []
        reset_seed: int | None = seed
        while len(found) < episodes:
            y, info = self.env.reset(seed=reset_seed)
            found += self._round(np.asarray(y), info, len(found))
            reset_seed = None
        return found[:episodes]

    def _round(self, y: np.ndarray, info: dict[str, Any], first: int) -> list[Trajectory]:
        memory = None if self.actor is None else self.actor.init(len(y), generator=self.generator)
        logs = [_EpisodeLog(y[i].copy(), _row(info.get("state"), i)) for i in range(len(y))]
        done: dict[int, Trajectory] = {}
        while len(done) < len(logs):
            u, memory = self._controls(y, info, memory)
            y, reward, terminated, truncated, info = self.env.step(u)
            for i in (i for i in range(len(logs)) if i not in done):
                logs[i].add(u[i], reward[i], y[i].copy(), _row(info.get("state"), i))
                if terminated[i] or truncated[i]:
                    done[i] = self._trajectory(logs[i], bool(terminated[i]), bool(truncated[i]), first + i)
        return [done[i] for i in range(len(logs))]


def _copy(state: Any) -> np.ndarray | None:
    return None if state is None else np.array(state, dtype=np.float64)


def _row(states: Any, i: int) -> np.ndarray | None:
    return None if states is None else np.array(states[i], dtype=np.float64)


def _check_boxes(*spaces: Any) -> None:
    for space in spaces:
        if not isinstance(space, gymnasium.spaces.Box) or len(space.shape) != 1:
            raise ValueError(f"need Box spaces of one axis, got {space}; flatten it with a gymnasium wrapper")


def _attribute(env: Any, name: str) -> Any:
    """An attribute of an environment, or of the first of a vector environment; None if it has none."""
    try:
        if isinstance(env, gymnasium.vector.VectorEnv):
            return env.get_attr(name)[0]  # type: ignore[attr-defined]
        return getattr(env.unwrapped, name, None)
    except AttributeError:
        return None


def _env_dt(env: Any) -> float:
    """The duration of a step as the environment itself states it."""
    dt = _attribute(env, "dt")
    if not isinstance(dt, (int, float)) or not dt > 0:
        raise ValueError("the environment does not say how long a step takes; pass dt= [s]")
    return float(dt)
