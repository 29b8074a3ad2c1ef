"""Episodes side by side: what every native vector environment has in common, whatever steps its worlds."""

import abc
from collections.abc import Mapping, Sequence
from typing import Any

import gymnasium
import numpy as np
from gymnasium.utils import seeding
from gymnasium.vector import AutoresetMode
from gymnasium.vector.utils import batch_space

Info = Mapping[str, np.ndarray]


class EpisodesVectorEnv(gymnasium.vector.VectorEnv[np.ndarray, np.ndarray, np.ndarray], abc.ABC):
    """A vector environment whose worlds are stepped as one batch: seeding, time limit, autoreset and infos.

    What comes out equals what ``gymnasium.vector.SyncVectorEnv`` over as many environments gives, masks ``_key`` of info
    included; nothing that is returned changes later. A subclass begins episodes and advances worlds.

    Args:
        num_envs: number of worlds.
        observation_space: of one world.
        action_space: of one world.
        autoreset_mode: what happens to a world whose episode has ended: it is reset by the next step, which ignores its action
            and rewards nothing (NEXT_STEP), by the same step, which gives the last observation in ``info["final_obs"]``
            (SAME_STEP), or by ``reset(options={"reset_mask": ended})`` alone (DISABLED).
        max_episode_steps: steps after which an episode is truncated, None for no limit.

    Raises:
        ValueError: a number is not positive, or there is no such mode.
    """

    def __init__(
        self,
        num_envs: int,
        observation_space: gymnasium.spaces.Box,
        action_space: gymnasium.spaces.Box,
        autoreset_mode: AutoresetMode | str,
        max_episode_steps: int | None,
    ):
        self.num_envs = num_envs
        self.autoreset_mode = AutoresetMode(autoreset_mode)
        self.metadata = {"render_modes": [], "autoreset_mode": self.autoreset_mode}
        self.single_observation_space, self.single_action_space = observation_space, action_space
        self.observation_space = batch_space(observation_space, num_envs)
        self.action_space = batch_space(action_space, num_envs)
        self.max_episode_steps = max_episode_steps
        self._randoms: list[np.random.Generator | None] = [None] * num_envs
        self._seeds: list[int | None] = [None] * num_envs
        self._elapsed = np.zeros(num_envs, dtype=np.int64)
        self._begun, self._ended = np.zeros((2, num_envs), dtype=bool)
        self._observations = np.zeros((num_envs, *observation_space.shape), observation_space.dtype)

    @abc.abstractmethod
    def _begin(self, worlds: np.ndarray, randoms: Sequence[np.random.Generator]) -> tuple[np.ndarray, Info]:
        """Begin an episode in some worlds (sorted indices), each with its source of randomness.

        Returns:
            Observations ``(k, ny)`` and info, ``(k, ...)`` each, of these worlds; new arrays or views that are copied.
        """

    @abc.abstractmethod
    def _advance(self, worlds: np.ndarray, actions: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, Info]:
        """Advance some worlds (sorted indices) by one step under actions ``(k, m)``.

        Returns:
            Observations ``(k, ny)``, rewards ``(k,)``, terminated ``(k,)`` and info, ``(k, ...)`` each.
        """

    @property
    def np_random(self) -> tuple[np.random.Generator, ...]:
        """The worlds' sources of randomness."""
        return tuple(self._random(i) for i in range(self.num_envs))

    @property
    def np_random_seed(self) -> tuple[int | None, ...]:
        """The worlds' seeds."""
        return tuple(self._seeds)

    def reset(
        self, *, seed: int | Sequence[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Begin episodes, in all worlds or in those of ``options={"reset_mask": mask}``.

        Args:
            seed: s for the seeds s, s+1, ..., or one (or None) for each world; a world without a seed goes on with its
                own randomness.
            options: ``"reset_mask"``: ``(num_envs,)`` of bool; the other worlds stay where they are.

        Raises:
            ValueError: the mask or the seeds do not fit, or there are other options.
        """
        self._check_open()
        worlds = self._chosen(options or {})
        seeds = [seed + i for i in range(self.num_envs)] if isinstance(seed, int | np.integer) else seed
        if seeds is not None and len(seeds) != self.num_envs:
            raise ValueError(f"need one seed for each of {self.num_envs} worlds, got {len(seeds)}")
        for i in worlds if seeds is not None else ():
            if seeds[i] is not None:
                self._randoms[i], self._seeds[i] = seeding.np_random(seeds[i])
        info: dict[str, Any] = {}
        self._begin_in(worlds, info)
        return self._observations.copy(), info

    def step(self, actions: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        """Advance all worlds by one step; one whose episode has ended does what the autoreset mode says.

        Raises:
            ValueError: the actions are not finite or of the wrong shape.
            gymnasium.error.ResetNeeded: a world has not been reset, or has ended with autoreset mode DISABLED.
        """
        self._check_open()
        actions = np.asarray(actions)
        if actions.shape != self.action_space.shape or not np.isfinite(actions).all():
            raise ValueError(f"need finite actions {self.action_space.shape}, got {_describe(actions)}")
        self._check_begun()
        info: dict[str, Any] = {}
        waiting, going = np.flatnonzero(self._ended), np.flatnonzero(~self._ended)
        reward, (terminated, truncated) = np.zeros(self.num_envs), np.zeros((2, self.num_envs), dtype=bool)
        if len(going):
            chosen = actions if len(going) == self.num_envs else actions[going]
            self._observations[going], reward[going], terminated[going], news = self._advance(going, chosen)
            self._elapsed[going] += 1
            if self.max_episode_steps is not None:
                truncated[going] = self._elapsed[going] >= self.max_episode_steps
            self._ended = terminated | truncated
            same_step = self.autoreset_mode == AutoresetMode.SAME_STEP and self._ended.any()
            if same_step:
                self._finish(going, news, info)
            else:
                self._add(info, going, news)
        if len(waiting):
            self._begin_in(waiting, info)
        return self._observations.copy(), reward, terminated, truncated, info

    def _finish(self, going: np.ndarray, news: Info, info: dict[str, Any]) -> None:
        """Put what the ended worlds saw last into info and begin their next episodes."""
        ended = self._ended.copy()
        final = np.full(self.num_envs, None, dtype=object)
        for i in np.flatnonzero(ended):
            final[i] = self._observations[i].copy()
        last: dict[str, Any] = {}
        self._add(last, going[ended], {key: value[ended] for key, value in news.items()})
        info.update(final_obs=final, _final_obs=ended, final_info=last, _final_info=ended.copy())
        if not ended.all():
            self._add(info, going[~ended], {key: value[~ended] for key, value in news.items()})
        self._begin_in(np.flatnonzero(ended), info)

    def _begin_in(self, worlds: np.ndarray, info: dict[str, Any]) -> None:
        self._observations[worlds], news = self._begin(worlds, [self._random(i) for i in worlds])
        self._elapsed[worlds], self._ended[worlds], self._begun[worlds] = 0, False, True
        self._add(info, worlds, news)

    def _add(self, info: dict[str, Any], worlds: np.ndarray, news: Info) -> None:
        """Add what some worlds have to say to the info of all, with masks of who has said something."""
        for key, rows in news.items():
            if key not in info:
                info[key] = np.zeros((self.num_envs, *rows.shape[1:]), rows.dtype)
                info[f"_{key}"] = np.zeros(self.num_envs, dtype=bool)
            info[key][worlds] = rows
            info[f"_{key}"][worlds] = True

    def _random(self, world: int) -> np.random.Generator:
        random = self._randoms[world]
        if random is None:
            random, self._seeds[world] = seeding.np_random()
            self._randoms[world] = random
        return random

    def _chosen(self, options: dict[str, Any]) -> np.ndarray:
        """The worlds that shall be reset."""
        unknown = set(options) - {"reset_mask"}
        if unknown:
            raise ValueError(f"unknown reset options {sorted(unknown)}; there is 'reset_mask' alone")
        if "reset_mask" not in options:
            return np.arange(self.num_envs)
        mask = np.asarray(options["reset_mask"])
        if mask.shape != (self.num_envs,) or mask.dtype != bool or not mask.any():
            raise ValueError(
                f"options['reset_mask'] must be {self.num_envs} booleans, at least one of them true, got {_describe(mask)}"
            )
        return np.flatnonzero(mask)

    def _check_open(self) -> None:
        if self.closed:
            raise gymnasium.error.ClosedEnvironmentError(f"{self!r} is closed; make a new one")

    def _check_begun(self) -> None:
        if not self._begun.all():
            raise gymnasium.error.ResetNeeded("call reset() before step()")
        if self.autoreset_mode == AutoresetMode.DISABLED and self._ended.any():
            raise gymnasium.error.ResetNeeded(
                f"the episodes of worlds {np.flatnonzero(self._ended).tolist()} have ended; reset them with "
                'options={"reset_mask": terminated | truncated}, or choose another autoreset mode'
            )


def _describe(values: np.ndarray) -> str:
    return f"{values.dtype} {values.shape}" + ("" if values.size > 16 else f": {values.tolist()}")
