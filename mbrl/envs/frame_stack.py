"""The last observations of many worlds side by side."""

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from gymnasium.spaces import Box
from gymnasium.vector import AutoresetMode, VectorEnv, VectorWrapper
from gymnasium.vector.utils import batch_space


class FrameStack(VectorWrapper):
    """Stacks the last observations of each world of a vector environment; an episode begins with copies of its first one.

    The vector version of gymnasium's ``FrameStackObservation``, which gymnasium does not have, and the same as one such wrapper
    around each world: ``(num_envs, stack_size, *observation)``, the newest last. Worlds that are reset, by themselves or by a
    mask, begin a new stack; ``final_obs`` is the stack that ends with the last observation.

    Args:
        env: a vector environment with one array per observation, in any autoreset mode.
        stack_size: number of observations.

    Raises:
        ValueError: stack_size is below 1, or observations are no arrays of a Box.
    """

    def __init__(self, env: VectorEnv, stack_size: int):
        super().__init__(env)
        if not isinstance(stack_size, int) or stack_size < 1:
            raise ValueError(f"stack_size must be an integer of at least 1, got {stack_size!r}")
        single = env.single_observation_space
        if not isinstance(single, Box):
            raise ValueError(f"only observations of a Box can be stacked, got {single}")
        self.stack_size = stack_size
        self.single_observation_space = batch_space(single, stack_size)
        self.observation_space = batch_space(self.single_observation_space, self.num_envs)
        self._frames = np.zeros((self.num_envs, stack_size, *single.shape), single.dtype)
        self._begins = np.zeros(self.num_envs, dtype=bool)  # worlds that the next step resets

    def reset(
        self, *, seed: int | Sequence[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Begin episodes, in all worlds or those of ``options["reset_mask"]``."""
        mask = (
            None if options is None else copy.copy(options.get("reset_mask"))
        )  # which gymnasium takes out of the options
        y, infos = self.env.reset(seed=seed, options=options)  # type: ignore[arg-type]
        mask = np.ones(self.num_envs, dtype=bool) if mask is None else mask
        self._fill(mask, y)
        self._begins = self._begins & ~mask
        return self._frames.copy(), infos

    def step(self, actions: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        """Step all worlds."""
        y, rewards, terminated, truncated, infos = self.env.step(actions)
        ended = terminated | truncated
        mode = self.env.metadata["autoreset_mode"]
        same_step = mode is AutoresetMode.SAME_STEP and bool(ended.any())
        newest = y
        if same_step:
            newest = y.copy()
            newest[ended] = np.stack(list(infos["final_obs"][ended]))
        self._frames = np.concatenate([self._frames[:, 1:], newest[:, None]], axis=1)
        if same_step:
            for i in np.flatnonzero(ended):
                infos["final_obs"][i] = self._frames[i].copy()
        self._fill(ended if same_step else self._begins, y)
        self._begins = ended if mode is AutoresetMode.NEXT_STEP else np.zeros_like(ended)
        return self._frames.copy(), rewards, terminated, truncated, infos

    def state_dict(self) -> dict[str, Any]:
        """All that decides what the next calls give, see :meth:`mbrl.TaskVectorEnv.state_dict`, with the stacks.

        Raises:
            TypeError: the stacked environment has no ``state_dict``.
        """
        return {
            "env": self._saving.state_dict(),
            "frames": torch.from_numpy(self._frames.copy()),
            "begins": torch.from_numpy(self._begins.copy()),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where another environment was, which was made with the same arguments.

        Args:
            state: what :meth:`state_dict` of that environment gave.

        Raises:
            ValueError: it is of another environment or another number of frames; nothing has happened.
            TypeError: the stacked environment has no ``load_state_dict``.
        """
        missing = {"env", "frames", "begins"} - set(state)
        if missing:
            raise ValueError(f"this is no state of a FrameStack: it lacks {', '.join(sorted(missing))}")
        frames, begins = (state[name].cpu().numpy().copy() for name in ("frames", "begins"))
        if frames.shape[2:] != self._frames.shape[2:] or frames.shape[1] != self.stack_size:
            raise ValueError(
                f"the state is one of stacks {frames.shape[1:]}, this environment is one of {self._frames.shape[1:]}; load it "
                "into one that was made with the same arguments"
            )
        self._saving.load_state_dict(state["env"])
        self._frames, self._begins = frames, begins

    @property
    def _saving(self) -> Any:
        """The stacked environment, if it can be saved."""
        if not hasattr(self.env, "state_dict"):
            raise TypeError(f"{self.env!r} cannot be saved: it has no state_dict; native vector environments have one")
        return self.env

    def _fill(self, worlds: np.ndarray, y: np.ndarray) -> None:
        """Begin the stacks of some worlds with their observations in ``(num_envs, *observation)``."""
        self._frames[worlds] = y[worlds, None]
