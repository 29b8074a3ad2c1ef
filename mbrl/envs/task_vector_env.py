"""A task as many environments that are stepped as one batch."""

import operator
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from gymnasium.error import ResetNeeded
from gymnasium.utils import seeding
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space

from mbrl.envs.stepping import TaskStepper
from mbrl.envs.task_env import TaskEnv, check_render_mode
from mbrl.tasks import Task

if TYPE_CHECKING:
    from mbrl.plots.tasks import TaskRenderer

Infos = dict[str, Any]


class TaskVectorEnv(VectorEnv[np.ndarray, np.ndarray, np.ndarray]):
    """Many worlds of a task as a gymnasium vector environment, one call of the dynamics per step.

    Observations, rewards, flags and infos are those of gymnasium's ``SyncVectorEnv`` over as many :class:`TaskEnv`, in every
    autoreset mode. Only the worlds that begin an episode cost work of their own: each draws its first state from its own
    random numbers, so that a world with seed s lives the episodes of ``TaskEnv.reset(seed=s)``. Physical parameters of the
    dynamics may have one value per world.

    Args:
        task: the task.
        num_envs: number of worlds.
        autoreset_mode: a ``gymnasium.vector.AutoresetMode`` or its value: ``"NextStep"`` (the call after an episode's end
            resets the world, ignores its action and returns reward 0), ``"SameStep"`` (the step that ends an episode returns
            the first observation of the next one, the last one in ``info["final_obs"]``) or ``"Disabled"`` (the caller
            resets with ``options={"reset_mask": terminated | truncated}``).
        render_mode: ``"rgb_array"`` or None.

    Attributes:
        task: the task.
        state: the present states, ``(num_envs, n)`` float64; read only.

    Raises:
        ValueError: num_envs, a mode, or the number of worlds of a physical parameter is wrong.
        TypeError: task is none, or num_envs is no integer.
    """

    metadata: dict[str, Any] = {**TaskEnv.metadata, "autoreset_mode": AutoresetMode.NEXT_STEP}  # noqa: RUF012

    def __init__(
        self,
        task: Task,
        num_envs: int,
        *,
        autoreset_mode: AutoresetMode | str = AutoresetMode.NEXT_STEP,
        render_mode: str | None = None,
    ):
        worlds = operator.index(num_envs)
        self._stepper = TaskStepper(task, (worlds,))
        _check_worlds(task, worlds)
        self.task = task
        self.num_envs = worlds
        self.render_mode = check_render_mode(render_mode)
        self.autoreset_mode = _checked_mode(autoreset_mode)
        self.metadata = {
            **self.metadata,
            "autoreset_mode": self.autoreset_mode,
            "render_fps": round(1.0 / task.dynamics.dt),
        }
        self.single_action_space = self._stepper.action_space()
        self.single_observation_space = self._stepper.observation_space()
        self.action_space = batch_space(self.single_action_space, self.num_envs)
        self.observation_space = batch_space(self.single_observation_space, self.num_envs)
        self._random: list[np.random.Generator | None] = [None] * self.num_envs
        self._seeds: list[int | None] = [None] * self.num_envs
        self._x = torch.zeros(self.num_envs, task.dynamics.state_dim, dtype=torch.float64)
        self._t = torch.zeros(self.num_envs, dtype=torch.long)  # steps since the episode began
        self._ended = np.zeros(self.num_envs, dtype=bool)  # and not reset yet
        self._began = False
        self._renderer: TaskRenderer | None = None

    @property
    def dt(self) -> float:
        """Duration of a step [s]."""
        return self.task.dynamics.dt

    @property
    def state(self) -> np.ndarray:
        """A copy of the present states, ``(num_envs, n)``."""
        return self._x.numpy().copy()

    @property
    def np_random(self) -> tuple[np.random.Generator, ...]:  # type: ignore[override]
        """The source of random numbers of each world."""
        return tuple(self._source(i) for i in range(self.num_envs))

    @property
    def np_random_seed(self) -> tuple[int, ...]:  # type: ignore[override]
        """The seed of each world."""
        for i in range(self.num_envs):
            self._source(i)
        return tuple(seed for seed in self._seeds if seed is not None)

    # Resets

    def reset(
        self, *, seed: int | Sequence[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, Infos]:
        """Begin episodes.

        Args:
            seed: of the first world, the others follow by ones; or one for each world. None goes on with the random numbers
                that a world has.
            options: ``"reset_mask"``, the worlds to reset ``(num_envs,)`` of bool, all by default; ``"state"``, where to
                begin instead of at random, ``(num_envs, n)`` or ``(n,)``.

        Raises:
            ValueError: a shape or the number of seeds does not fit, or the mask has no world.
            TypeError: the mask is no array of bool.
            gymnasium.error.ResetNeeded: the first reset is not one of all worlds.
        """
        options = options or {}
        mask = self._checked_mask(options.get("reset_mask"))
        given = options.get("state")
        states = None if given is None else self._stepper.given_state(given)
        for i, value in enumerate(self._checked_seeds(seed)):
            if value is not None and mask[i]:
                self._random[i], self._seeds[i] = seeding.np_random(value)
        self._begin(mask, states)
        self._began = True
        infos = _masked("state", self._x.numpy(), mask) | _masked("diverged", np.zeros(self.num_envs, bool), mask)
        return self._stepper.observe(self._x), infos

    def _begin(self, mask: np.ndarray, states: torch.Tensor | None = None) -> None:
        """Begin episodes in the worlds of a mask, at given states ``(num_envs, n)`` or at random."""
        worlds = np.flatnonzero(mask).tolist()
        if not worlds:
            return
        drawn = [self._stepper.first_state(self._source(i)) for i in worlds] if states is None else states[worlds]
        self._x = self._x.clone()  # observations and infos of before stay what they are
        self._x[worlds] = torch.stack(list(drawn))
        self._t = self._t.masked_fill(torch.from_numpy(mask), 0)
        self._ended = self._ended & ~mask

    def _source(self, i: int) -> np.random.Generator:
        """The random numbers of a world, seeded by chance if nobody has."""
        source = self._random[i]
        if source is None:
            source, self._seeds[i] = seeding.np_random()
            self._random[i] = source
        return source

    # Steps

    def step(self, actions: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, Infos]:
        """Apply one control per world ``(num_envs, m)``, clipped to the limits, for dt seconds.

        Where the task lists its controls, actions are their numbers, ``(num_envs,)``. An episode whose simulation diverges is
        truncated there: state, observation and reward are NaN and ``info["diverged"]`` is true.

        Raises:
            ValueError: an action is not finite or no number of a control, or there are not as many as worlds.
            gymnasium.error.ResetNeeded: a world has ended and nobody has reset it, or none has begun.
        """
        if not self._began:
            raise ResetNeeded("call reset before step")
        if self.autoreset_mode is AutoresetMode.DISABLED and self._ended.any():
            raise ResetNeeded(
                f"worlds {np.flatnonzero(self._ended).tolist()} have ended; with autoreset mode DISABLED reset them by "
                'reset(options={"reset_mask": terminated | truncated})'
            )
        begun = self._ended  # all False but in mode NEXT_STEP
        u = self._stepper.controls(actions, ignored=begun)
        self._begin(begun)
        step = self._stepper.step(self._x, u, self._t)
        # Worlds that only begin are stepped too, because rows belong to worlds, and it is not counted.
        fresh = torch.from_numpy(begun)
        self._x = torch.where(fresh.unsqueeze(-1), self._x, step.state)
        self._t = torch.where(fresh, 0, self._t + 1)
        reward = step.reward.masked_fill(fresh, 0.0).to(torch.float64).numpy()
        terminated, truncated, diverged = (
            flag.masked_fill(fresh, False).numpy() for flag in (step.terminated, step.truncated, step.diverged)
        )
        self._ended = terminated | truncated
        y, infos = self._stepper.observe(self._x), {}
        if self.autoreset_mode is AutoresetMode.SAME_STEP and self._ended.any():
            infos = self._final_infos(y, diverged)
            self._begin(self._ended)
            y = self._stepper.observe(self._x)
            diverged = np.zeros_like(diverged)
        everyone = np.ones(self.num_envs, dtype=bool)
        infos |= _masked("state", self._x.numpy(), everyone) | _masked("diverged", diverged, everyone)
        return y, reward, terminated, truncated, infos

    def _final_infos(self, y: np.ndarray, diverged: np.ndarray) -> Infos:
        """The last observation and info of the worlds that have ended, in gymnasium's form."""
        ended = self._ended
        last = np.full(self.num_envs, None, dtype=object)
        for i in np.flatnonzero(ended):
            last[i] = y[i].copy()
        info = _masked("state", self._x.numpy(), ended) | _masked("diverged", diverged, ended)
        return {"final_obs": last, "_final_obs": ended.copy(), "final_info": info, "_final_info": ended.copy()}

    # Pictures

    def render(self) -> tuple[np.ndarray, ...] | None:
        """The present state of each world as an image ``(height, width, 3)`` with render_mode ``"rgb_array"``."""
        if self.render_mode is None:
            return None
        if self._renderer is None:
            from mbrl.plots.tasks import TaskRenderer

            self._renderer = TaskRenderer(self.task)
        return tuple(self._renderer.frames(self._x))

    def close_extras(self, **kwargs: Any) -> None:
        """End the process that draws, if there is one."""
        if self._renderer is not None:
            self._renderer.close()
            self._renderer = None

    # Checks

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

    def _checked_seeds(self, seed: int | Sequence[int | None] | None) -> list[int | None]:
        if seed is None:
            return [None] * self.num_envs
        if not isinstance(seed, Sequence | np.ndarray):
            return [operator.index(seed) + i for i in range(self.num_envs)]
        seeds = [None if value is None else operator.index(value) for value in seed]
        if len(seeds) != self.num_envs:
            raise ValueError(f"seed must be a number or one for each of {self.num_envs} worlds, got {len(seeds)}")
        return seeds


def _masked(name: str, values: np.ndarray, mask: np.ndarray) -> Infos:
    """An entry of infos in gymnasium's form: zero where the mask, which is the second entry, is false."""
    shape = (-1,) + (1,) * (values.ndim - 1)
    return {name: np.where(mask.reshape(shape), values, np.zeros_like(values)), f"_{name}": mask.copy()}


def _check_worlds(task: Task, worlds: int) -> None:
    if worlds < 1:
        raise ValueError(f"num_envs must be at least 1, got {worlds}")
    for name, parameter in task.dynamics.physical_parameters.items():
        shape = getattr(task.dynamics, name).shape
        if shape != parameter.shape and shape[0] != worlds:
            raise ValueError(f"parameter {name!r} has one value for each of {shape[0]} worlds, num_envs is {worlds}")


def _checked_mode(mode: AutoresetMode | str) -> AutoresetMode:
    try:
        return AutoresetMode(mode)
    except ValueError:
        known = ", ".join(repr(known.value) for known in AutoresetMode)
        raise ValueError(
            f"autoreset_mode must be a gymnasium.vector.AutoresetMode or one of {known}, got {mode!r}"
        ) from None


def make_vec_env(
    task: Task,
    num_envs: int,
    *,
    autoreset_mode: AutoresetMode | str = AutoresetMode.NEXT_STEP,
    render_mode: str | None = None,
) -> TaskVectorEnv:
    """Many worlds of a task as one gymnasium vector environment, stepped as one batch.

    ``gymnasium.make_vec("mbrl/<name>-v0", num_envs=8, autoreset_mode="Disabled")`` makes those of the library's own tasks.

    Args:
        task: the task.
        num_envs: number of worlds.
        autoreset_mode: see :class:`TaskVectorEnv`; to collect data for models take ``"Disabled"``.
        render_mode: ``"rgb_array"`` or None.
    """
    return TaskVectorEnv(task, num_envs, autoreset_mode=autoreset_mode, render_mode=render_mode)
