"""Trajectories from any gymnasium environment, with no transition that never happened."""

import abc
from typing import Any

import gymnasium
import numpy as np
import torch

from dynamics import Trajectory
from mbrl.policies.actor import Actor, check_actor
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
        env: an environment whose episodes end, or a vector environment of such with autoreset mode DISABLED, so that no
            transition is made up.
        actor: anything that acts on observations, or on states where ``info["state"]`` has them; None samples the action space.
        episodes: number of episodes.
        dt: duration of a step [s]; the environment's own ``dt`` by default (one in another process cannot be asked).
        seed: of the first reset and of the sampled actions.
        generator: source of the actor's randomness, of its own for each episode; seeded with ``seed`` by default.

    Returns:
        One trajectory per episode with the actions as they went in, clipped to the action space; states come from
        ``info["state"]`` where the environment gives them. An episode in which a number is not finite, or the simulation
        diverges (``info["diverged"]``), ends before that step, with neither ``terminated`` nor ``truncated``.

    Raises:
        ValueError: the vector environment resets by itself, the spaces are no Boxes of one axis, dt is unknown, the actor
            needs states that the environment does not give, or it gave a control that is not finite.
        TypeError: actor is nothing that acts.
    """
    if actor is not None:
        check_actor(actor)
    if episodes < 1:
        raise ValueError(f"episodes must be at least 1, got {episodes}")
    if isinstance(env, gymnasium.vector.VectorEnv):
        recorder: _EnvRecorder = _VectorRecorder(env, actor, dt, seed, generator)
    else:
        recorder = _SingleRecorder(env, actor, dt, seed, generator)
    return recorder.run(episodes)


class _EpisodeLog:
    """One episode while it runs."""

    def __init__(self, observation: np.ndarray, state: np.ndarray | None):
        self.observations, self.states = [observation], [] if state is None else [state]
        self.controls: list[np.ndarray] = []
        self.rewards: list[float] = []
        self.diverged = False

    def add(
        self, control: np.ndarray, reward: float, observation: np.ndarray, state: np.ndarray | None, diverged: bool
    ) -> None:
        """Append a step, unless the simulation diverged in it or it leads to a number that is not finite."""
        numbers = np.concatenate([observation, [reward], [] if state is None else state])
        self.diverged = diverged or not bool(np.isfinite(numbers).all())
        if self.diverged:
            return
        self.controls.append(control)
        self.rewards.append(float(reward))
        self.observations.append(observation)
        if state is not None:
            self.states.append(state)


class _EnvRecorder(abc.ABC):
    """What recording from one environment and from many has in common."""

    def __init__(self, env: Any, actor: Actor | None, dt: float | None, seed: int, generator: torch.Generator | None):
        self.env, self.actor, self.seed = env, actor, seed
        self.generator = generator or torch.Generator().manual_seed(seed)
        self.observation_space, self.action_space = _single_spaces(env)
        _check_boxes(self.observation_space, self.action_space)
        plain = _plain_env(env)
        self.dt = _env_dt(plain) if dt is None else dt
        self.names, self.units = self._labels(plain)
        spec = getattr(env, "spec", None)
        self.name = spec.id if spec is not None else type(env).__name__

    @abc.abstractmethod
    def run(self, episodes: int) -> list[Trajectory]:
        """That many episodes."""

    def _labels(self, plain: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        """Names and units of the task, but of no space that a wrapper has changed."""
        task = getattr(plain, "task", None)
        if not isinstance(task, Task):
            return {}, {}
        observation_space, action_space = _single_spaces(plain)
        changed = set()
        if self.observation_space != observation_space:
            changed.add("observations")
        if self.action_space != action_space:
            changed.add("controls")
        names, units = ({k: v for k, v in labels.items() if k not in changed} for labels in (task.names, task.units))
        return names, units

    def _memory(self, batch: int) -> Any:
        """The actor's memory at the start of episodes, with randomness that no other episode has."""
        if self.actor is None:
            return None
        seed = int(torch.randint(2**62, (), generator=self.generator))
        return self.actor.init(batch, generator=torch.Generator().manual_seed(seed))

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
            actions = u.detach().cpu().numpy()
            if not np.isfinite(actions).all():
                raise ValueError(f"{type(self.actor).__name__} gave a control that is not finite on {self.name}")
        return np.clip(actions, low, high).astype(self.action_space.dtype), memory

    def _trajectory(self, log: _EpisodeLog, terminated: bool, truncated: bool, index: int) -> Trajectory:
        return Trajectory(
            np.stack(log.observations),
            np.array(log.controls).reshape(-1, *self.action_space.shape),
            states=np.stack(log.states) if log.states else None,
            rewards=np.array(log.rewards),
            dt=self.dt,
            terminated=terminated and not log.diverged,
            truncated=truncated and not terminated and not log.diverged,
            source=f"{self.name} episode {index}" + (", diverged" if log.diverged else ""),
            names=self.names,
            units=self.units,
        )


class _SingleRecorder(_EnvRecorder):
    def run(self, episodes: int) -> list[Trajectory]:
        self.action_space.seed(self.seed)
        found = []
        for index in range(episodes):
            y, info = self.env.reset(seed=self.seed if index == 0 else None)
            memory = self._memory(1)
            log = _EpisodeLog(np.array(y), _copy(info.get("state")))
            terminated = truncated = False
            while not (terminated or truncated or log.diverged):
                u, memory = self._controls(np.asarray(y)[None], info, memory)
                y, reward, terminated, truncated, info = self.env.step(u[0])
                log.add(u[0], float(reward), np.array(y), _copy(info.get("state")), bool(info.get("diverged", False)))
            found.append(self._trajectory(log, bool(terminated), bool(truncated), index))
        return found


class _VectorRecorder(_EnvRecorder):
    """Runs episodes in rounds of num_envs, so that short ones are not preferred.

    A world that has ended is reset and goes on, unrecorded, until its round is over: the others cannot be stepped alone.
    """

    def __init__(self, env: Any, actor: Actor | None, dt: float | None, seed: int, generator: torch.Generator | None):
        super().__init__(env, actor, dt, seed, generator)
        mode = env.metadata.get("autoreset_mode")
        if mode != gymnasium.vector.AutoresetMode.DISABLED:
            raise ValueError(
                f"{self.name} has autoreset mode {mode}, which mixes resets into the steps; make it with "
                'vector_kwargs={"autoreset_mode": gymnasium.vector.AutoresetMode.DISABLED}, or where it takes the mode itself, '
                'as mbrl.make_vec_env does, with autoreset_mode="Disabled"'
            )

    def run(self, episodes: int) -> list[Trajectory]:
        self.action_space.seed(self.seed)
        found: list[Trajectory] = []
        while len(found) < episodes:
            y, info = self.env.reset(seed=None if found else self.seed)
            found += self._round(np.asarray(y), info, len(found))
        return found[:episodes]

    def _round(self, y: np.ndarray, info: dict[str, Any], first: int) -> list[Trajectory]:
        memory = self._memory(len(y))
        logs = [_EpisodeLog(y[i].copy(), _row(info.get("state"), i)) for i in range(len(y))]
        done: dict[int, Trajectory] = {}
        while len(done) < len(logs):
            u, memory = self._controls(y, info, memory)
            y, reward, terminated, truncated, info = self.env.step(u)
            diverged = info.get("diverged", np.zeros(len(logs), dtype=bool))
            for i in (i for i in range(len(logs)) if i not in done):
                logs[i].add(u[i], reward[i], y[i].copy(), _row(info.get("state"), i), bool(diverged[i]))
                if terminated[i] or truncated[i] or logs[i].diverged:
                    done[i] = self._trajectory(logs[i], bool(terminated[i]), bool(truncated[i]), first + i)
            ended = terminated | truncated | ~np.isfinite(y).all(axis=1)
            if ended.any() and len(done) < len(logs):
                y, begun = self.env.reset(options={"reset_mask": ended})
                if "state" in info:
                    info["state"] = np.where(ended[:, None], begun["state"], info["state"])
        return [done[i] for i in range(len(logs))]


def _copy(state: Any) -> np.ndarray | None:
    return None if state is None else np.array(state, dtype=np.float64)


def _row(states: Any, i: int) -> np.ndarray | None:
    return None if states is None else np.array(states[i], dtype=np.float64)


def _single_spaces(env: Any) -> tuple[Any, Any]:
    """Observation and action space of one world."""
    if isinstance(env, gymnasium.vector.VectorEnv):
        return env.single_observation_space, env.single_action_space
    return env.observation_space, env.action_space


def _check_boxes(*spaces: Any) -> None:
    for space in spaces:
        if not isinstance(space, gymnasium.spaces.Box) or len(space.shape) != 1:
            raise ValueError(f"need Box spaces of one axis, got {space}; flatten it with a gymnasium wrapper")


def _plain_env(env: Any) -> Any:
    """The environment without its wrappers, the first one of a vector that is made of environments.

    Those in other processes are not asked: an attribute that they do not have would end them.
    """
    envs = getattr(env.unwrapped, "envs", None) if isinstance(env, gymnasium.vector.VectorEnv) else None
    return envs[0].unwrapped if envs else env.unwrapped


def _env_dt(plain: Any) -> float:
    """The duration of a step as the environment itself states it."""
    dt = getattr(plain, "dt", None)
    if not isinstance(dt, (int, float)) or not dt > 0:
        raise ValueError("the environment does not say how long a step takes; pass dt= [s]")
    return float(dt)
