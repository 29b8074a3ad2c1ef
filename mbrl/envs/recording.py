"""Trajectories from any gymnasium environment, with no transition that never happened."""

import abc
from typing import Any

import gymnasium
import numpy as np
import torch

from dynamics import Trajectory
from mbrl.envs.action_spaces import env_actions, listed_task, plain_env, single_spaces
from mbrl.policies.actor import Actor, require_actor
from mbrl.policies.policy import Policy
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
    """Episodes of any gymnasium environment with observations in a Box and actions in a Box or numbered.

    Args:
        env: an environment whose episodes end, or a vector environment of such with autoreset mode DISABLED, so that no
            transition is made up.
        actor: anything that acts on observations, or on states where ``info["state"]`` has them; None samples the action space.
            Where actions are Discrete, its controls ``(batch, 1)`` are their numbers; where they are those of a task that lists
            its controls, see :func:`mbrl.discretized`, they are controls ``(batch, m)``, of which the nearest one is taken.
        episodes: number of episodes.
        dt: duration of a step [s]; the environment's own ``dt`` by default (one in another process cannot be asked).
        seed: of the first reset and of the sampled actions.
        generator: source of the actor's randomness, of its own for each episode; seeded with ``seed`` by default.

    Returns:
        One trajectory per episode with the actions as they went in, clipped to the action space: numbers ``(T, 1)`` where they
        are Discrete, the controls themselves where a task lists them. States come from
        ``info["state"]`` where the environment gives them. An episode in which a number is not finite, or the simulation
        diverges (``info["diverged"]``), ends before that step, with neither ``terminated`` nor ``truncated``.

    Raises:
        ValueError: the vector environment resets by itself, observations are no Box of one axis or actions neither that nor
            Discrete, dt is unknown, a policy sees other columns or may give controls that are no actions, the actor needs states
            that the environment does not give, or it gave a control that is not finite or no number of an action.
        TypeError: actor is nothing that acts.
    """
    if actor is not None:
        require_actor(actor)
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
        self.observation_space, self.action_space = single_spaces(env)
        _check_spaces(self.observation_space, self.action_space)
        plain = plain_env(env)
        self._actions = _actions(env, self.action_space)
        self.dt = _required_duration(env) if dt is None else dt
        self.names, self.units = self._labels(plain)
        spec = getattr(env, "spec", None)
        self.name = spec.id if spec is not None else type(env).__name__
        if isinstance(actor, Policy):
            actor.check_fits(self.observation_space.shape[0], env_actions(env), task=self.name)

    @abc.abstractmethod
    def run(self, episodes: int) -> list[Trajectory]:
        """That many episodes."""

    def _labels(self, plain: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        """Names and units of the task, but of no space that a wrapper has changed."""
        task = getattr(plain, "task", None)
        if not isinstance(task, Task):
            return {}, {}
        observation_space, action_space = single_spaces(plain)
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

    def _act(self, y: np.ndarray, info: dict[str, Any], memory: Any) -> tuple[np.ndarray, np.ndarray, Any]:
        """Actions ``(batch, ...)`` for observations ``(batch, ny)``, their controls ``(batch, m)``, and the memory."""
        if self.actor is None:
            actions = np.stack([self.action_space.sample() for _ in y])
        else:
            if self.actor.acts_on == "state" and "state" not in info:
                raise ValueError(
                    f"{type(self.actor).__name__} acts on the state, which {self.name} does not give in info"
                )
            seen = np.asarray(info["state"] if self.actor.acts_on == "state" else y, dtype=np.float64)
            u, memory = self.actor.act(torch.from_numpy(seen.reshape(len(y), -1)), memory)
            controls, who = u.detach().cpu().numpy(), f"{type(self.actor).__name__} gave a control"
            if not np.isfinite(controls).all():
                raise ValueError(f"{who} that is not finite on {self.name}")
            try:
                actions = self._actions.nearest(controls)
            except ValueError as error:
                raise ValueError(f"{who} that is no action on {self.name}: {error}") from error
        return actions, self._actions.controls(actions), memory

    def _trajectory(self, log: _EpisodeLog, terminated: bool, truncated: bool, index: int) -> Trajectory:
        return Trajectory(
            np.stack(log.observations),
            np.array(log.controls).reshape(-1, self._actions.width),
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
                actions, u, memory = self._act(np.asarray(y)[None], info, memory)
                y, reward, terminated, truncated, info = self.env.step(actions[0])
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
            actions, u, memory = self._act(y, info, memory)
            y, reward, terminated, truncated, info = self.env.step(actions)
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


def _check_spaces(observations: Any, actions: Any) -> None:
    if not _is_vector(observations):
        raise ValueError(
            f"need observations in a Box of one axis, got {observations}; flatten it with a gymnasium wrapper"
        )
    if not (_is_vector(actions) or isinstance(actions, gymnasium.spaces.Discrete)):
        raise ValueError(
            f"need actions in a Box of one axis or Discrete, got {actions}; flatten it with a gymnasium wrapper"
        )


def _is_vector(space: Any) -> bool:
    return isinstance(space, gymnasium.spaces.Box) and len(space.shape) == 1


class _Actions(abc.ABC):
    """How controls ``(batch, m)`` of actors and trajectories become actions ``(batch, ...)`` of a space, and back."""

    width: int  # m

    @abc.abstractmethod
    def nearest(self, controls: np.ndarray) -> np.ndarray:
        """The actions that come nearest to finite controls."""

    @abc.abstractmethod
    def controls(self, actions: np.ndarray) -> np.ndarray:
        """The controls that actions are."""


class _BoxActions(_Actions):
    """Controls within limits."""

    def __init__(self, space: gymnasium.spaces.Box):
        self._space = space
        (self.width,) = space.shape

    def nearest(self, controls: np.ndarray) -> np.ndarray:
        return np.clip(controls, self._space.low, self._space.high).astype(self._space.dtype)

    def controls(self, actions: np.ndarray) -> np.ndarray:
        return np.clip(actions, self._space.low, self._space.high)


class NumberedActions(_Actions):
    """Numbers from the start of a space on, actions ``(batch,)`` and controls ``(batch, 1)``."""

    width = 1

    def __init__(self, space: gymnasium.spaces.Discrete):
        self._space = space

    def nearest(self, controls: np.ndarray) -> np.ndarray:
        """The actions that come nearest to finite controls; ValueError where one is no number of an action."""
        first, last = int(self._space.start), int(self._space.start + self._space.n - 1)
        numbers = np.rint(controls)
        fits = (np.abs(controls - numbers) <= 1e-6) & (numbers >= first) & (numbers <= last)
        if controls.shape[1:] != (1,) or not fits.all():
            raise ValueError(f"expected an integer from {first} to {last}, (batch, 1), got {controls.tolist()}")
        return numbers[:, 0].astype(self._space.dtype)

    def controls(self, actions: np.ndarray) -> np.ndarray:
        """The controls that actions are."""
        return actions[:, None]


class _ListedActions(_Actions):
    """Numbers of the controls of a task."""

    def __init__(self, task: Task, values: torch.Tensor):
        self._task, self._values = task, values.to(torch.float64)
        self.width = values.shape[1]

    def nearest(self, controls: np.ndarray) -> np.ndarray:
        u = torch.from_numpy(controls).to(torch.float64)
        if u.shape[1:] != (self.width,):
            raise ValueError(f"expected controls (batch, {self.width}), got {tuple(u.shape)}")
        return self._task.control_numbers(u).numpy()

    def controls(self, actions: np.ndarray) -> np.ndarray:
        return self._values[torch.from_numpy(actions)].numpy()


def _actions(env: Any, space: Any) -> _Actions:
    """The actions of a space; those of a task that lists its controls, if no wrapper has changed them."""
    if isinstance(space, gymnasium.spaces.Box):
        return _BoxActions(space)
    task = listed_task(env)
    if task is not None and task.control_values is not None:
        return _ListedActions(task, task.control_values)
    return NumberedActions(space)


def step_duration(env: gymnasium.Env | gymnasium.vector.VectorEnv) -> float | None:
    """The duration of a step [s] as an environment, one or many, itself states it; None if it does not."""
    dt = getattr(plain_env(env), "dt", None)
    return float(dt) if isinstance(dt, int | float) and dt > 0 else None


def _required_duration(env: Any) -> float:
    dt = step_duration(env)
    if dt is None:
        raise ValueError("the environment does not say how long a step takes; pass dt= [s]")
    return dt
