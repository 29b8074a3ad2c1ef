"""Processes in tables as gymnasium environments, one world or many.

What is seen is the state as a one-hot vector, an action is its number, and an episode is truncated after a fixed number of steps:
it ends for no other reason, so that its length tells nothing.
"""

from collections.abc import Mapping
from typing import Any

import gymnasium
import numpy as np
import torch
from gymnasium.vector import AutoresetMode

from mbrl.envs.episodes import EpisodesVectorEnv, Info, Transition, Worlds, checked_worlds
from mbrl.tasks.worlds import TabularWorld, episode_steps, is_world, process, world_name


class TabularStepper:
    """Tables from which states are drawn: of each pair the possible next states and their cumulative probabilities.

    Args:
        world: a process, or a world with one.
        steps: of an episode; the world's by default.

    Attributes:
        steps: of an episode.

    Raises:
        TypeError: it is neither.
        ValueError: it has no rewards.
    """

    def __init__(self, world: TabularWorld, steps: int | None = None):
        if not is_world(world):
            raise TypeError(f"world must be a planners.TabularMDP or a mbrl.GridWorld, got {type(world).__name__}")
        mdp = process(world)
        if mdp.rewards is None:
            raise ValueError(
                f"{world_name(world)} has no rewards to pay in an environment; use mdp.with_rewards(rewards)"
            )
        self.states, self.actions = mdp.states, mdp.actions
        self.steps = episode_steps(world) if steps is None else steps
        P = mdp.transitions.detach().double().cpu()
        most = int((P > 0).sum(-1).max())
        probabilities, successors = P.topk(most, dim=-1)  # the most probable first, impossible ones last
        bounds = probabilities.cumsum(-1)
        bounds[torch.arange(most) >= (probabilities > 0).sum(-1, keepdim=True) - 1] = (
            np.inf
        )  # whatever sums are rounded to
        self._successors, self._bounds = successors.numpy(), bounds.numpy()
        self._first = mdp.start.detach().double().cpu().cumsum(-1).numpy()
        self._first[int(mdp.start.nonzero().max()) :] = np.inf
        rewards = mdp.rewards.detach().double().cpu().numpy()
        self._rewards = rewards.reshape(*rewards.shape, *[1] * (3 - rewards.ndim))

    @property
    def observation_space(self) -> gymnasium.spaces.Box:
        """Of one world."""
        return gymnasium.spaces.Box(0.0, 1.0, (self.states,), np.float32)

    @property
    def action_space(self) -> gymnasium.spaces.Discrete:
        """Of one world."""
        return gymnasium.spaces.Discrete(self.actions)

    def observe(self, states: np.ndarray) -> np.ndarray:
        """One-hot vectors ``(*batch, S)`` of states ``(*batch,)``."""
        return (states[..., None] == np.arange(self.states)).astype(np.float32)

    def first(self, uniform: np.ndarray) -> np.ndarray:
        """First states of numbers that are uniform in [0, 1), ``(*batch,)``."""
        return (self._first <= uniform[..., None]).sum(-1)

    def given(self, states: np.ndarray) -> np.ndarray:
        """The states of ``options["state"]``, numbers ``(*batch, 1)``: ``(*batch,)``.

        Raises:
            ValueError: one is no state.
        """
        numbers = np.asarray(states, dtype=np.float64)
        if numbers.shape[-1:] != (1,) or not bool(((numbers == np.rint(numbers)) & (numbers >= 0)).all()):
            raise ValueError(f"options['state'] must be numbers of states, (1,) for each world, got {states!r}")
        if bool((numbers >= self.states).any()):
            raise ValueError(f"there are states 0 to {self.states - 1}, got {states!r}")
        return numbers[..., 0].astype(np.int64)

    def checked(self, actions: Any, shape: tuple[int, ...], ignored: np.ndarray | None = None) -> np.ndarray:
        """Actions of a shape, of which those of some worlds may be anything.

        Raises:
            ValueError: one is no number of an action, or there are not as many as worlds.
        """
        numbers = np.asarray(actions)
        if ignored is not None and numbers.shape == shape:
            numbers = np.where(ignored, 0, numbers)
        fit = numbers.shape == shape and numbers.dtype.kind in "iu"
        if not (fit and bool(((numbers >= 0) & (numbers < self.actions)).all())):
            each = f" for each of {shape[0]} worlds" if shape else ""
            raise ValueError(f"an action is an integer from 0 to {self.actions - 1}{each}, got {actions!r}")
        return numbers.astype(np.int64)

    def step(self, states: np.ndarray, actions: np.ndarray, uniform: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Next states and rewards ``(*batch,)``, drawn by numbers that are uniform in [0, 1)."""
        which = (self._bounds[states, actions] <= uniform[..., None]).sum(-1)
        after = self._successors[states, actions, which]
        shape = self._rewards.shape
        rewards = self._rewards[states, actions if shape[1] > 1 else 0, after if shape[2] > 1 else 0]
        return after, rewards


class TabularEnv(gymnasium.Env[np.ndarray, Any]):
    """A process in tables as a gymnasium environment; ``info["state"]`` is the number of the state, ``(1,)``.

    Args:
        world: a process, or a world with one.
        render_mode: None.

    Attributes:
        world: what it is an environment of.

    Raises:
        TypeError: it is neither.
        ValueError: it has no rewards, or is to be drawn.
    """

    metadata: dict[str, Any] = {"render_modes": []}  # noqa: RUF012 (gymnasium's own form)
    dt = 1.0

    def __init__(self, world: TabularWorld, *, render_mode: str | None = None):
        self._stepper, self.world, self.render_mode = TabularStepper(world), world, _undrawn(render_mode)
        self.observation_space, self.action_space = self._stepper.observation_space, self._stepper.action_space
        self._state, self._elapsed = np.zeros((), dtype=np.int64), 0

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Begin an episode; ``options={"state": [s]}`` begins it in a given state."""
        super().reset(seed=seed)
        given = (options or {}).get("state")
        drawn = self._stepper.first(np.array(self.np_random.random())) if given is None else self._stepper.given(given)
        self._state, self._elapsed = drawn, 0
        return self._stepper.observe(drawn), self._info()

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """Take an action.

        Raises:
            ValueError: it is no number of one.
        """
        number = self._stepper.checked(action, ())
        self._state, reward = self._stepper.step(self._state, number, np.array(self.np_random.random()))
        self._elapsed += 1
        return (
            self._stepper.observe(self._state),
            float(reward),
            False,
            self._elapsed >= self._stepper.steps,
            self._info(),
        )

    def _info(self) -> dict[str, Any]:
        return {"state": np.array([self._state], dtype=np.float64)}


class TabularVectorEnv(EpisodesVectorEnv):
    """Many worlds of a process in tables as a gymnasium vector environment, stepped as one batch.

    Everything is that of gymnasium's ``SyncVectorEnv`` over as many :class:`TabularEnv`, in every autoreset mode; each world
    draws from its own random numbers.

    Args:
        world: a process, or a world with one.
        num_envs: number of worlds.
        autoreset_mode: see :class:`mbrl.envs.episodes.EpisodesVectorEnv`.
        render_mode: None.

    Attributes:
        world: what it is an environment of.

    Raises:
        TypeError: it is neither, or num_envs is no integer.
        ValueError: it has no rewards or is to be drawn, or num_envs or the mode is wrong.
    """

    metadata: dict[str, Any] = {**TabularEnv.metadata, "autoreset_mode": AutoresetMode.NEXT_STEP}  # noqa: RUF012
    dt = 1.0

    def __init__(
        self,
        world: TabularWorld,
        num_envs: int,
        *,
        autoreset_mode: AutoresetMode | str = AutoresetMode.NEXT_STEP,
        render_mode: str | None = None,
    ):
        number, stepper = checked_worlds(num_envs), TabularStepper(world)
        self._stepper, self.world, self.render_mode = stepper, world, _undrawn(render_mode)
        super().__init__(number, stepper.observation_space, stepper.action_space, autoreset_mode)
        self._states = np.zeros(number, dtype=np.int64)

    @property
    def state_dim(self) -> int:
        """1, the number of the state."""
        return 1

    @property
    def _of(self) -> str:
        return world_name(self.world)

    def _saved(self) -> dict[str, np.ndarray]:
        return {"state": self._states}

    def _restore(self, arrays: Mapping[str, np.ndarray]) -> None:
        self._states = arrays["state"].copy()

    def _uniform(self, worlds: Worlds) -> np.ndarray:
        return np.array([self._source(i).random() for i in self._numbers[worlds].tolist()])

    def _begin(self, worlds: Worlds, states: np.ndarray | None) -> tuple[np.ndarray, Info]:
        if states is None:
            self._states[worlds] = self._stepper.first(self._uniform(worlds))
        else:
            self._states[worlds] = self._stepper.given(states)
        return self._stepper.observe(self._states[worlds]), self._info(worlds)

    def _advance(self, worlds: Worlds, actions: Any) -> Transition:
        ignored = np.ones(self.num_envs, dtype=bool)
        ignored[worlds] = False
        numbers = self._stepper.checked(actions, (self.num_envs,), ignored)[worlds]
        after, rewards = self._stepper.step(self._states[worlds], numbers, self._uniform(worlds))
        self._states[worlds] = after
        truncated = self._elapsed[worlds] + 1 >= self._stepper.steps
        return Transition(
            self._stepper.observe(after), rewards, np.zeros(len(after), dtype=bool), truncated, self._info(worlds)
        )

    def _info(self, worlds: Worlds) -> Info:
        return {"state": self._states[worlds, None].astype(np.float64)}


def _undrawn(render_mode: str | None) -> None:
    if render_mode is not None:
        raise ValueError(f"render_mode must be None, worlds in tables draw no pictures, got {render_mode!r}")
