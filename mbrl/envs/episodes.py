"""Episodes side by side: what native vector environments have in common, whatever steps their worlds."""

import abc
import json
import operator
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import gymnasium
import numpy as np
import torch
from gymnasium.error import ClosedEnvironmentError, ResetNeeded
from gymnasium.utils import seeding
from gymnasium.vector import AutoresetMode
from gymnasium.vector.utils import batch_space

Info = Mapping[str, np.ndarray]
Worlds = slice | np.ndarray  # which of the worlds: slice(None) for all, else sorted indices


class Transition(NamedTuple):
    """What a step of k worlds led to."""

    observations: np.ndarray  # (k, ny)
    reward: np.ndarray  # (k,)
    terminated: np.ndarray  # (k,) of bool
    truncated: np.ndarray  # (k,) of bool
    info: Info  # (k, ...) each


class EpisodesVectorEnv(gymnasium.vector.VectorEnv[np.ndarray, Any, np.ndarray], abc.ABC):
    """A vector environment whose worlds are stepped as one batch: seeding, autoreset, reset masks and infos.

    What comes out equals what ``gymnasium.vector.SyncVectorEnv`` over as many environments gives, the masks ``_key`` in info
    included, and nothing that was returned changes later. A subclass begins episodes and advances worlds; both are asked
    for k of the worlds, by something that indexes rows, and may answer with views.

    Args:
        num_envs: number of worlds.
        observation_space: of one world.
        action_space: of one world.
        autoreset_mode: a ``gymnasium.vector.AutoresetMode`` or its value: ``"NextStep"`` (the call after an episode's end
            resets the world, ignores its action and returns reward 0), ``"SameStep"`` (the step that ends an episode returns
            the first observation of the next one, the last one in ``info["final_obs"]``) or ``"Disabled"`` (the caller
            resets with ``options={"reset_mask": terminated | truncated}``).

    Raises:
        ValueError: there is no world or no such mode.
    """

    def __init__(
        self,
        num_envs: int,
        observation_space: gymnasium.spaces.Box,
        action_space: gymnasium.Space,
        autoreset_mode: AutoresetMode | str,
    ):
        self.num_envs = checked_worlds(num_envs)
        self.autoreset_mode = _checked_mode(autoreset_mode)
        self.metadata = {**self.metadata, "autoreset_mode": self.autoreset_mode}
        self.single_observation_space: gymnasium.spaces.Box = observation_space
        self.single_action_space = action_space
        self.observation_space = batch_space(observation_space, self.num_envs)
        self.action_space = batch_space(action_space, self.num_envs)
        self._random: list[np.random.Generator | None] = [None] * self.num_envs
        self._seeds: list[int | None] = [None] * self.num_envs
        self._observations = np.zeros((self.num_envs, *observation_space.shape), observation_space.dtype)
        self._elapsed = np.zeros(self.num_envs, dtype=np.int64)  # steps since the episode began
        self._ended = np.zeros(self.num_envs, dtype=bool)  # and not reset yet
        self._began = False
        self._numbers = np.arange(self.num_envs)

    @abc.abstractmethod
    def _begin(self, worlds: Worlds, states: np.ndarray | None) -> tuple[np.ndarray, Info]:
        """Begin an episode in k worlds, at states ``(k, n)`` or where the initial distribution says.

        Returns:
            Observations ``(k, ny)`` and info, ``(k, ...)`` each.
        """

    @abc.abstractmethod
    def _advance(self, worlds: Worlds, actions: Any) -> Transition:
        """Advance k worlds by one step under the actions of all worlds, those of others may be anything.

        Raises:
            ValueError: these are no actions; nothing has happened.
        """

    @property
    @abc.abstractmethod
    def state_dim(self) -> int:
        """Number n of states of one world."""

    @property
    @abc.abstractmethod
    def _of(self) -> str:
        """What the worlds are worlds of: a gymnasium id or the name of a task."""

    @abc.abstractmethod
    def _saved(self) -> dict[str, np.ndarray]:
        """What decides the next steps beside what is kept here, ``(num_envs, ...)`` each; these may be views."""

    @abc.abstractmethod
    def _restore(self, arrays: Mapping[str, np.ndarray]) -> None:
        """Take over what ``_saved`` of such an environment gave, with the same names, shapes and dtypes."""

    @property
    def np_random(self) -> tuple[np.random.Generator, ...]:  # type: ignore[override]
        """The source of random numbers of each world."""
        return tuple(self._source(i) for i in range(self.num_envs))

    @property
    def np_random_seed(self) -> tuple[int | None, ...]:  # type: ignore[override]
        """The seed of each world."""
        return tuple(self._seeds[i] for i, _ in enumerate(self.np_random))

    # Resets

    def reset(
        self, *, seed: int | Sequence[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Begin episodes.

        Args:
            seed: of the first world, the others follow by ones; or one for each world. None goes on with the random numbers
                that a world has.
            options: ``"reset_mask"``, the worlds to reset ``(num_envs,)`` of bool, all by default; ``"state"``, where to
                begin instead of at random, ``(num_envs, n)`` or ``(n,)``.

        Raises:
            ValueError: a shape or the number of seeds does not fit, the mask has no world, a state is not finite, or there are
                other options.
            TypeError: the mask is no array of bool.
            gymnasium.error.ResetNeeded: the first reset is not one of all worlds.
        """
        self._check_open()
        options = options or {}
        if set(options) - {"reset_mask", "state"}:
            raise ValueError(f"options of reset are 'reset_mask' and 'state', got {sorted(options)}")
        worlds = _which(self._checked_mask(options.get("reset_mask")))
        states = self._checked_states(options.get("state"))
        seeds = self._checked_seeds(seed)
        for i in self._numbers[worlds].tolist():
            if seeds[i] is not None:
                self._random[i], self._seeds[i] = seeding.np_random(seeds[i])
        info: dict[str, Any] = {}
        self._begin_in(worlds, info, states)
        self._began = True
        return self._observations.copy(), info

    def _begin_in(self, worlds: Worlds, info: dict[str, Any], states: np.ndarray | None = None) -> None:
        self._observations[worlds], news = self._begin(worlds, None if states is None else states[worlds])
        self._elapsed[worlds], self._ended[worlds] = 0, False
        self._add(info, worlds, news)

    def _source(self, world: int) -> np.random.Generator:
        """The random numbers of a world, seeded by chance if nobody has."""
        source = self._random[world]
        if source is None:
            source, self._seeds[world] = seeding.np_random()
            self._random[world] = source
        return source

    # Steps

    def step(self, actions: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        """Advance all worlds by one step, under one action for each.

        Raises:
            ValueError: an action is none of the action space, for instance not finite, or there are not as many as worlds.
            gymnasium.error.ResetNeeded: a world has ended and nobody has reset it, or none has begun.
        """
        self._check_running()
        begins = self._ended  # all False but in mode NEXT_STEP
        goes = _which(~begins)
        info: dict[str, Any] = {}
        reward, terminated, truncated = np.zeros(self.num_envs), *np.zeros((2, self.num_envs), dtype=bool)
        if not begins.all():
            step = self._advance(goes, actions)
            self._elapsed[goes] += 1
            self._observations[goes], reward[goes] = step.observations, step.reward
            terminated[goes], truncated[goes] = step.terminated, step.truncated
            self._ended = terminated | truncated
            if self.autoreset_mode is AutoresetMode.SAME_STEP and self._ended.any():
                self._finish(step.info, info)
            else:
                self._add(info, goes, step.info)
        if begins.any():
            self._begin_in(_which(begins), info)
        return self._observations.copy(), reward, terminated, truncated, info

    def _finish(self, news: Info, info: dict[str, Any]) -> None:
        """Move what the ended worlds say to the final info, and begin their next episodes; in mode SAME_STEP all have gone."""
        ended = self._ended.copy()
        final_obs = np.full(self.num_envs, None, dtype=object)
        for i in np.flatnonzero(ended):
            final_obs[i] = self._observations[i].copy()
        final_info: dict[str, Any] = {}
        self._add(final_info, _which(ended), {key: rows[ended] for key, rows in news.items()})
        info.update(final_obs=final_obs, _final_obs=ended, final_info=final_info, _final_info=ended.copy())
        if not ended.all():
            self._add(info, np.flatnonzero(~ended), {key: rows[~ended] for key, rows in news.items()})
        self._begin_in(_which(ended), info)

    def _add(self, info: dict[str, Any], worlds: Worlds, news: Info) -> None:
        """Add what some worlds say to the info of all, with masks of who says something."""
        for key, rows in news.items():
            if isinstance(worlds, slice):
                info[key], info[f"_{key}"] = np.array(rows), np.ones(self.num_envs, dtype=bool)
                continue
            if key not in info:
                info[key] = np.zeros((self.num_envs, *rows.shape[1:]), rows.dtype)
                info[f"_{key}"] = np.zeros(self.num_envs, dtype=bool)
            info[key][worlds], info[f"_{key}"][worlds] = rows, True

    # Saving

    def state_dict(self) -> dict[str, Any]:
        """All that decides what the next calls give, as tensors, numbers, texts and None: the worlds go on from it to the bit.

        Where worlds and their constraint solvers are, how long their episodes have lasted, which have ended, and their random
        numbers. Those of ``action_space.sample`` are the caller's, and what the environment was made with is not in it.
        """
        self._check_open()
        return {
            "environment": self._of,
            "num_envs": self.num_envs,
            "autoreset_mode": self.autoreset_mode.value,
            "began": self._began,
            "seeds": [None if seed is None else str(seed) for seed in self._seeds],  # one by chance has 128 bits
            "random": [None if source is None else json.dumps(source.bit_generator.state) for source in self._random],
            "worlds": {name: torch.from_numpy(array.copy()) for name, array in self._arrays().items()},
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where another environment was, which was made with the same arguments.

        Args:
            state: what :meth:`state_dict` of that environment gave.

        Raises:
            ValueError: it is of another environment, number of worlds or autoreset mode; nothing has happened.
        """
        self._check_open()
        worlds = self._checked_state(state)
        self._began = state["began"]
        self._seeds = [None if seed is None else int(seed) for seed in state["seeds"]]
        self._random = [None if text is None else _source_from(text) for text in state["random"]]
        for name, array in self._own_arrays().items():
            array[...] = worlds.pop(name)
        self._restore(worlds)

    def _own_arrays(self) -> dict[str, np.ndarray]:
        return {"observations": self._observations, "elapsed": self._elapsed, "ended": self._ended}

    def _arrays(self) -> dict[str, np.ndarray]:
        return {**self._own_arrays(), **self._saved()}

    def _checked_state(self, state: Mapping[str, Any]) -> dict[str, np.ndarray]:
        """The arrays of a state that fits."""
        missing = {"environment", "num_envs", "autoreset_mode", "began", "seeds", "random", "worlds"} - set(state)
        if missing:
            raise ValueError(f"this is no state of a vector environment: it lacks {', '.join(sorted(missing))}")
        for name, what, own in (
            ("environment", "", self._of),
            ("num_envs", "num_envs=", self.num_envs),
            ("autoreset_mode", "autoreset mode ", self.autoreset_mode.value),
        ):
            if state[name] != own:
                raise ValueError(
                    f"the state is one of {what}{state[name]}, this environment is one of {what}{own}; load it into one that "
                    "was made with the same arguments"
                )
        arrays, worlds = self._arrays(), {name: value.cpu().numpy() for name, value in state["worlds"].items()}
        came, own = ({name: (a.shape, str(a.dtype)) for name, a in found.items()} for found in (worlds, arrays))
        if came != own:
            raise ValueError(
                f"the state is one of a {self._of} that was made with other arguments: it has {came}, this environment {own}"
            )
        return worlds

    # Checks

    def _check_open(self) -> None:
        if self.closed:
            raise ClosedEnvironmentError(f"{self!r} is closed; make a new one")

    def _check_running(self) -> None:
        self._check_open()
        if not self._began:
            raise ResetNeeded("call reset before step")
        if self.autoreset_mode is AutoresetMode.DISABLED and self._ended.any():
            raise ResetNeeded(
                f"worlds {np.flatnonzero(self._ended).tolist()} have ended; with autoreset mode DISABLED reset them by "
                'reset(options={"reset_mask": terminated | truncated})'
            )

    def _checked_mask(self, mask: Any) -> np.ndarray:
        if mask is None:
            return np.ones(self.num_envs, dtype=bool)
        if not isinstance(mask, np.ndarray) or mask.dtype != np.bool_:
            came = f"an array of {mask.dtype}" if isinstance(mask, np.ndarray) else type(mask).__name__
            raise TypeError(f"options['reset_mask'] must be a numpy array of bool, got {came}")
        if mask.shape != (self.num_envs,) or not mask.any():
            raise ValueError(
                f"options['reset_mask'] must have shape ({self.num_envs},) and at least one world, got {mask!r}"
            )
        if not (self._began or mask.all()):
            raise ResetNeeded("the first reset is one of all worlds; call reset without a reset_mask")
        return mask

    def _checked_states(self, states: Any) -> np.ndarray | None:
        if states is None:
            return None
        n, x = self.state_dim, np.array(states, dtype=np.float64)
        if x.shape not in {(n,), (self.num_envs, n)}:
            raise ValueError(f"options['state'] must have shape ({n},) or ({self.num_envs}, {n}), got {x.shape}")
        if not np.isfinite(x).all():
            raise ValueError(f"options['state'] is not finite: {states!r}")
        return np.broadcast_to(x, (self.num_envs, n))

    def _checked_seeds(self, seed: int | Sequence[int | None] | None) -> list[int | None]:
        if seed is None:
            return [None] * self.num_envs
        if not isinstance(seed, Sequence | np.ndarray):
            return [operator.index(seed) + i for i in range(self.num_envs)]
        seeds = [None if value is None else operator.index(value) for value in seed]
        if len(seeds) != self.num_envs:
            raise ValueError(f"seed must be a number or one for each of {self.num_envs} worlds, got {len(seeds)}")
        return seeds


def _source_from(text: str) -> np.random.Generator:
    """The random numbers whose state was written as JSON."""
    source = np.random.Generator(np.random.PCG64(0))
    source.bit_generator.state = json.loads(text)
    return source


def _which(mask: np.ndarray) -> Worlds:
    """The worlds of a mask."""
    return slice(None) if mask.all() else np.flatnonzero(mask)


def checked_worlds(num_envs: int) -> int:
    """The number of worlds, or a ValueError if there is none."""
    worlds = operator.index(num_envs)
    if worlds < 1:
        raise ValueError(f"num_envs must be at least 1, got {worlds}")
    return worlds


def _checked_mode(mode: AutoresetMode | str) -> AutoresetMode:
    try:
        return AutoresetMode(mode)
    except ValueError:
        known = ", ".join(repr(known.value) for known in AutoresetMode)
        raise ValueError(
            f"autoreset_mode must be a gymnasium.vector.AutoresetMode or one of {known}, got {mode!r}"
        ) from None
